//! What a running server tells of what happens: each kind of event, whose it is, and who may read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use common::{Member, PATIENCE, Server, Told, command};
use etherply_client::OpenOptions;
use etherply_server::events::{EVENT_READERS_MAX, Event};
use etherply_wire::Rights;
use serde_json::Value;

/// Somebody who reads events.
struct Reader(BufReader<TcpStream>);

/// Asks for events: the status, and what comes.
fn ask(server: &Server, key: &str) -> (u16, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(server.control).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Of the older version, whose answers are not in chunks.
    write!(stream, "GET /v1/events HTTP/1.0\r\nAuthorization: Bearer {key}\r\n\r\n").unwrap();
    let mut answer = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(answer.read_line(&mut head).unwrap() > 0, "{head}");
    }
    (head.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

impl Reader {
    fn new(server: &Server, data: &Path) -> Self {
        let key = std::fs::read_to_string(data.join("operator.key")).unwrap();
        let (status, answer) = ask(server, &key);
        assert_eq!(status, 200);
        Self(answer)
    }

    /// The next event of this kind; others are passed over.
    fn next(&mut self, kind: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the server tells no more");
            let event: Value = serde_json::from_str(&line).unwrap();
            assert!(event["at_ms"].as_u64().unwrap() > 1_700_000_000_000);
            assert_ne!(event["kind"], "missed", "{event}");
            if event["kind"] == kind {
                return event;
            }
        }
    }
}

fn counted(server: &Server, kind: &str) -> f64 {
    server.metric(&format!("etherply_events_total{{kind=\"{kind}\"}}"))
}

#[test]
fn connections_and_documents_are_told_of() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    // What nobody reads is not made.
    let before = Member::connect(&server, false, 1);
    assert_eq!((counted(&server, "connected"), server.metric("etherply_event_readers")), (0.0, 0.0));
    let mut reader = Reader::new(&server, data.path());
    let mut connections = BTreeSet::new();
    for (number, websocket) in [(2, false), (3, true)] {
        let mut member = Member::connect(&server, websocket, number);
        let connected = reader.next("connected");
        assert_eq!((connected["address"].as_str(), connected["subject"].as_str()), (Some("127.0.0.1"), None));
        let stream = member.open(&format!("rooms/{number}"));
        member.put_durably(stream, "a", "1");
        let created = reader.next("created");
        assert_eq!(created["document"], format!("rooms/{number}"));
        assert_eq!(created["connection"], connected["connection"], "also after a move to another core");
        // Until the last one is told of, however they were put together.
        let (mut pushes, mut changes) = (0, 0);
        for key in ["b", "c"] {
            member.put_durably(stream, key, "1");
        }
        while changes < 3 {
            let updated = reader.next("updated");
            assert_eq!(updated["document"], format!("rooms/{number}"));
            pushes += updated["pushes"].as_u64().unwrap();
            changes += updated["changes"].as_u64().unwrap();
            assert_eq!(updated["last_seq"], changes);
        }
        assert_eq!((pushes, changes), (3, 3));
        drop(member);
        let disconnected = reader.next("disconnected");
        assert_eq!(disconnected["connection"], connected["connection"]);
        assert!(disconnected["code"].is_null());
        assert!(connections.insert(connected["connection"].as_str().unwrap().to_owned()));
    }
    drop(before);
    assert!(!connections.contains(reader.next("disconnected")["connection"].as_str().unwrap()));
    assert_eq!((counted(&server, "connected"), counted(&server, "created")), (2.0, 2.0));
    assert_eq!(server.metric("etherply_events_dropped_total"), 0.0);
    assert!(!server.has_panicked());
}

#[test]
fn refusals_are_told_with_whose_they_are() {
    let (data, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let etherply = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_etherply")).args(args).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    etherply(&["keys", "generate", "--out", keys.path().to_str().unwrap()]);
    let key = keys.path().join("main.private.pem");
    let token = etherply(&[
        "token",
        "--key",
        key.to_str().unwrap(),
        "--subject",
        "ada",
        "--ttl",
        "1h",
        "--read",
        "rooms/*",
    ]);
    let server = Server::spawn(command(data.path()).arg("--keys").arg(keys.path()));
    let mut reader = Reader::new(&server, data.path());
    let mut ada = Member::connect(&server, false, 1);
    let ask = |document: &str, token: &str| OpenOptions {
        document: document.to_owned(),
        rights: Rights::READ,
        token: Some(token.to_owned()),
        cursor: None,
    };
    let stream = ada.begin_open(ask("rooms/1", &token));
    ada.until(|told| matches!(told, Told::Opened { .. }));
    ada.put(stream, "k", "v");
    ada.until(|told| matches!(told, Told::Refused { .. }));
    let refused = reader.next("refused");
    assert_eq!((refused["code"].as_str(), refused["subject"].as_str()), (Some("read_only"), Some("ada")));
    assert_eq!(refused["document"], "rooms/1");
    ada.begin_open(ask("other", &token));
    ada.until(|told| matches!(told, Told::OpenFailed(..)));
    let forbidden = reader.next("refused");
    assert_eq!(
        (forbidden["code"].as_str(), forbidden["document"].as_str()),
        (Some("forbidden"), Some("other"))
    );
    assert_eq!(forbidden["connection"], refused["connection"]);
    drop(ada);
    assert_eq!(reader.next("disconnected")["subject"], "ada");
    // So many that it ends the connection.
    let mut eve = Member::connect(&server, true, 2);
    for _ in 0..16 {
        eve.begin_open(ask("rooms/1", "forged"));
    }
    assert_eq!(eve.until_error(), etherply_wire::ErrorCode::TokenInvalid as u16);
    for _ in 0..16 {
        assert_eq!(reader.next("refused")["code"], "token_invalid");
    }
    drop(eve);
    let disconnected = reader.next("disconnected");
    assert_eq!(
        (disconnected["code"].as_str(), disconnected["subject"].as_str()),
        (Some("token_invalid"), None)
    );
}

#[test]
fn a_document_that_begins_anew_is_told_of() {
    let data = tempfile::tempdir().unwrap();
    let mut asked = command(data.path());
    asked.env("ETHERPLY_POISON", "this is poison").env("RUST_BACKTRACE", "0");
    let server = Server::spawn(asked.stderr(std::process::Stdio::null()));
    let mut reader = Reader::new(&server, data.path());
    let mut member = Member::connect(&server, false, 1);
    let stream = member.open("notes");
    member.put_durably(stream, "k", "v");
    member.put_durably(stream, "p", "this is poison");
    let quarantined = reader.next("quarantined");
    assert_eq!((quarantined["document"].as_str(), quarantined["changes"].as_u64()), (Some("notes"), Some(1)));
}

#[test]
fn events_are_for_operators_and_for_so_many() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    for key in ["", "wrong", &"0".repeat(32)] {
        let (status, mut answer) = ask(&server, key);
        let mut text = String::new();
        answer.read_to_string(&mut text).unwrap();
        assert!(status == 401 && text.contains("Authorization"), "{status} {text}");
    }
    let mut readers: Vec<Reader> =
        (0..EVENT_READERS_MAX).map(|_| Reader::new(&server, data.path())).collect();
    assert_eq!(server.metric("etherply_event_readers"), EVENT_READERS_MAX as f64);
    let key = std::fs::read_to_string(data.path().join("operator.key")).unwrap();
    assert_eq!(ask(&server, &key).0, 503);
    // All get the same.
    let mut member = Member::connect(&server, false, 1);
    let connections: BTreeSet<String> =
        readers.iter_mut().map(|reader| reader.next("connected")["connection"].to_string()).collect();
    assert_eq!((connections.len(), counted(&server, "connected")), (1, 1.0));
    let stream = member.open("notes");
    member.put_durably(stream, "k", "v");
    // One goes, and makes room.
    drop(readers.pop());
    while ask(&server, &key).0 != 200 {
        std::thread::yield_now();
    }
    assert!(Event::KINDS.contains(&"created") && readers[0].next("created")["document"] == "notes");
    assert!(!server.has_panicked());
}
