//! TLS over real sockets: documents by raw frames and by WebSocket, certificates that clients must not take, a new
//! certificate without a restart, and who does not speak TLS, or not to its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Member, PATIENCE, Server, Told, command};
use etherply_client::{Client, ClientError, Next, Tls, Transport};
use etherply_wire::ErrorCode;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Certificates of one root, in a folder.
struct Certificates {
    folder: tempfile::TempDir,
    root: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "a root of this test");
        let root = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), root }
    }

    fn files(&self) -> (PathBuf, PathBuf) {
        (self.folder.path().join("server.pem"), self.folder.path().join("server.key"))
    }

    /// Writes a certificate for a name, in the place of the one before.
    fn issue(&self, name: &str, is_expired: bool) {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        if is_expired {
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2002, 1, 1));
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.root).unwrap();
        let (certificate_file, key_file) = self.files();
        std::fs::write(certificate_file, certificate.pem()).unwrap();
        std::fs::write(key_file, key.serialize_pem()).unwrap();
    }

    /// Trusts this root, and a server of this name.
    fn trusted(&self, name: &str) -> Tls {
        Tls::trusting(self.root.pem().as_bytes(), name).unwrap()
    }

    fn start(&self, data: &Path) -> Server {
        let (certificate, key) = self.files();
        Server::spawn(command(data).arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key))
    }

    /// A bare TLS client that asks for these protocols.
    fn bare(&self, protocols: &[&str]) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }
}

/// A server for `localhost`, and its certificates.
fn server(data: &Path) -> (Server, Certificates) {
    let certificates = Certificates::new();
    certificates.issue("localhost", false);
    (certificates.start(data), certificates)
}

fn socket(server: &Server) -> TcpStream {
    let socket = TcpStream::connect(server.listen).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Why a client does not get in.
fn refused(server: &Server, tls: Tls) -> ClientError {
    match Member::connect_tls(server, true, 9, tls) {
        Ok(_) => panic!("it got in"),
        Err(error) => error,
    }
}

#[test]
fn documents_travel_by_tls_as_they_do_without() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    let tls = certificates.trusted("localhost");
    let (mut streams, mut members) = (Vec::new(), Vec::new());
    for number in 1..=8 {
        let mut member = Member::connect_tls(&server, number % 2 == 0, number, tls.clone()).unwrap();
        // Two of each document, so that with several cores some move to their document's.
        streams.push(member.open(&format!("rooms/{}", (number - 1) / 2)));
        members.push(member);
    }
    for (number, (member, stream)) in members.iter_mut().zip(&streams).enumerate() {
        // Short ones, and one that takes many records and more than a socket takes at once.
        member.put_durably(*stream, &format!("short {number}"), "x");
        member.put_durably(*stream, &format!("long {number}"), &"0123456789".repeat(60_000));
    }
    for (member, stream) in members.iter_mut().zip(&streams) {
        let contents = member.until_keys(*stream, 4);
        assert_eq!(contents.values().filter(|value| value.len() == 600_000).count(), 2);
    }
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert!(server.metric("etherply_handovers_total") > 0.0, "some have moved, with their keys");
    }
    // What is not acked and where it stood outlive a connection here as well.
    members[1].reconnect(&server);
    members[1].put_durably(streams[1], "again", "y");
    assert!(!server.has_panicked());
    server.terminate();
    members[1].until(|told| *told == Told::GoingAway);
    assert!(server.wait().success());
}

#[test]
fn a_client_takes_no_certificate_that_is_not_the_servers() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    for (tls, text) in [
        (certificates.trusted("other.test"), "not for `other.test`"),
        (Certificates::new().trusted("localhost"), "leads to no root"),
    ] {
        let error = refused(&server, tls);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.next(), Next::Stop, "{error}");
    }
    drop(server);
    certificates.issue("localhost", true);
    let server = certificates.start(data.path());
    let error = refused(&server, certificates.trusted("localhost"));
    assert!(error.to_string().contains("has expired"), "{error}");
}

#[test]
fn a_new_certificate_is_served_without_a_restart_and_open_connections_stay() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    let mut member = Member::connect_tls(&server, true, 1, certificates.trusted("localhost")).unwrap();
    let stream = member.open("rooms/1");
    let until_served = |name: &str| {
        let (begun, tls) = (Instant::now(), certificates.trusted(name));
        while let Err(error) = Member::connect_tls(&server, false, 2, tls.clone()) {
            assert!(error.to_string().contains("not for"), "{error}");
            assert!(begun.elapsed() < PATIENCE, "the new certificate is not served");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    // The files are looked at now and then.
    certificates.issue("second.test", false);
    until_served("second.test");
    // Or when the server is told to.
    certificates.issue("third.test", false);
    let pid = rustix::process::Pid::from_raw(server.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until_served("third.test");
    // One that cannot be used changes nothing.
    std::fs::write(certificates.files().0, "no certificate").unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    member.put_durably(stream, "still", "here");
    until_served("third.test");
}

#[test]
fn who_does_not_speak_tls_is_told_to() {
    let data = tempfile::tempdir().unwrap();
    let (server, _certificates) = server(data.path());
    // Raw frames.
    let (mut client, mut raw) = (Client::new(Transport::Tcp, "test", 1), socket(&server));
    client.connect(0).unwrap();
    let (mut out, mut bytes) = (Vec::new(), vec![0; 4_096]);
    client.output(&mut out, 0);
    raw.write_all(&out).unwrap();
    let error = loop {
        let read = raw.read(&mut bytes).unwrap();
        assert!(read > 0, "closed without a word");
        if let Err(error) = client.input(&mut bytes[..read], 0, &mut |_| {}) {
            break error;
        }
    };
    assert_eq!(error.code(), Some(ErrorCode::TlsRequired));
    assert!(error.to_string().contains("TLS only") && error.next() == Next::Stop, "{error}");
    // HTTP.
    let (mut http, mut answer) = (socket(&server), String::new());
    http.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    http.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("wss://"), "{answer}");
    // What is neither.
    let mut other = socket(&server);
    other.write_all(&[0x80; 100]).unwrap();
    assert_eq!(other.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert_eq!(server.metric("etherply_connections_rejected_total{reason=\"plaintext\"}"), 3.0);
}

#[test]
fn a_client_that_wants_tls_is_told_that_there_is_none() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let certificates = Certificates::new();
    let error = refused(&server, certificates.trusted("localhost"));
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}

#[test]
fn a_handshake_that_stands_still_ends() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    let mut hello = Vec::new();
    certificates.bare(&[]).write_tls(&mut hello).unwrap();
    // Nothing, one byte, half of a hello, all of it and then nothing more, and a byte of TLS on the control port.
    let mut waiting: Vec<TcpStream> = (0..4).map(|_| socket(&server)).collect();
    waiting[1].write_all(&hello[..1]).unwrap();
    waiting[2].write_all(&hello[..hello.len() / 2]).unwrap();
    waiting[3].write_all(&hello).unwrap();
    let mut control = TcpStream::connect(server.control).unwrap();
    control.set_read_timeout(Some(PATIENCE)).unwrap();
    control.write_all(&hello[..1]).unwrap();
    waiting.push(control);
    for mut socket in waiting {
        // Ends, whatever was said before; a timeout would be an error.
        match socket.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
    assert!(!server.has_panicked());
}

#[test]
fn what_was_agreed_upon_is_what_is_spoken() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    let upgrade = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".as_slice();
    let magic = &etherply_wire::MAGIC[..];
    for (protocols, says, is_heard) in [
        (&["http/1.1"][..], upgrade, true),
        (&["http/1.1"], magic, false),
        (&["etherply/1"], upgrade, false),
        (&["h2", "http/1.1"], upgrade, true),
        (&[], upgrade, true),
    ] {
        let (mut client, mut socket) = (certificates.bare(protocols), socket(&server));
        let mut stream = rustls::Stream::new(&mut client, &mut socket);
        stream.write_all(says).unwrap();
        let mut answer = Vec::new();
        // Not an upgrade, so it is refused; what was not agreed upon is not even that.
        drop(stream.read_to_end(&mut answer));
        assert_eq!(!answer.is_empty(), is_heard, "{protocols:?}");
    }
    let (mut client, mut socket) = (certificates.bare(&["h2"]), socket(&server));
    let error = rustls::Stream::new(&mut client, &mut socket).write_all(b"x").unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

#[test]
fn the_control_plane_speaks_tls_and_on_its_own_machine_http_as_well() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    assert_eq!(server.get("/health"), (200, "ok\n".to_owned()));
    let mut socket = TcpStream::connect(server.control).unwrap();
    let mut client = certificates.bare(&["http/1.1"]);
    let mut stream = rustls::Stream::new(&mut client, &mut socket);
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
}
