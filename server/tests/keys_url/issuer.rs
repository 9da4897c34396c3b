//! An issuer of tokens: keys, tokens made with them, and an HTTP server on loopback that publishes what a test says.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// A key that is published.
pub struct Key {
    folder: tempfile::TempDir,
    pub id: String,
    pub jwk: Value,
}

impl Key {
    pub fn new(id: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().to_str().unwrap();
        assert!(etherply(&["keys", "generate", "--name", id, "--out", out]).0);
        let pem = std::fs::read_to_string(folder.path().join(format!("{id}.pem"))).unwrap();
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        // An Ed25519 key stands at the end of what is around it.
        let der = BASE64_STANDARD.decode(der).unwrap();
        let x = BASE64_URL_SAFE_NO_PAD.encode(&der[der.len() - 32..]);
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": id, "x": x });
        Self { folder, id: id.to_owned(), jwk }
    }

    /// A folder with the key as files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A token of somebody who may write everywhere.
    pub fn token(&self, subject: &str) -> String {
        let key = self.folder.path().join(format!("{}.private.pem", self.id));
        let (done, said) = etherply(&[
            "token",
            "--key",
            key.to_str().unwrap(),
            "--subject",
            subject,
            "--ttl",
            "1h",
            "--write",
            "*",
        ]);
        assert!(done);
        said.trim().to_owned()
    }
}

fn etherply(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_etherply")).args(args).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

/// A token that names a key which nobody has.
pub fn forged(token: &str, id: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.encode(json!({ "alg": "EdDSA", "kid": id }).to_string());
    format!("{header}.{}", token.split_once('.').unwrap().1)
}

pub fn set(keys: &[&Key]) -> String {
    json!({ "keys": keys.iter().map(|key| &key.jwk).collect::<Vec<_>>() }).to_string()
}

/// A whole answer with a set.
pub fn answer(set: &str) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", set.len());
    [head.as_bytes(), set.as_bytes()].concat()
}

/// The server. It answers for as long as the test runs.
pub struct Issuer {
    pub address: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    pub fn start(tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (says, counts, tls) = (Arc::clone(&answer), Arc::clone(&asked), tls.map(Arc::new));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                counts.fetch_add(1, Ordering::SeqCst);
                let bytes = says.lock().unwrap().clone();
                match &tls {
                    None => serve(stream, &bytes),
                    Some(config) => {
                        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                        serve(StreamOwned::new(connection, stream), &bytes);
                    }
                }
            }
        });
        Self { address, answer, asked }
    }

    /// Answers with these bytes from now on.
    pub fn says(&self, bytes: impl Into<Vec<u8>>) {
        *self.answer.lock().unwrap() = bytes.into();
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn url(&self) -> String {
        format!("http://{}/jwks", self.address)
    }
}

/// One request. A client that does not take the answer has its reasons.
fn serve(stream: impl Read + Write, answer: &[u8]) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
        line.clear();
    }
    let _ = stream.get_mut().write_all(answer).and_then(|()| stream.get_mut().flush());
}
