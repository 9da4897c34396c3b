//! What a server does with clients that do not keep to the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use common::{Member, PATIENCE, Server, Told};
use etherply_wire::kinds::{Error, Hello, Kind, Open, Ping, Pong, Push, Refused, Welcome};
use etherply_wire::limits::{FRAME_BYTES_MAX, HELLO_FRAME_BYTES_MAX, PUSH_BYTES_MAX, PUSH_CHANGES_MAX};
use etherply_wire::{ErrorCode, Frame, MAGIC, encode};
use tungstenite::Message;

fn hello() -> Vec<u8> {
    encode(0, &Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent: "raw".to_owned() }, &[])
}

/// A connection that sends whatever bytes a test wants.
struct Raw(TcpStream);

impl Raw {
    fn connect(server: &Server, with_hello: bool) -> Self {
        let stream = TcpStream::connect(server.listen).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut raw = Self(stream);
        raw.send(&MAGIC);
        if with_hello {
            raw.send(&hello());
            assert_eq!(raw.frame().map(|frame| kind_of(&frame)), Some(Kind::Welcome));
        }
        raw
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next frame, `None` at the end of the connection.
    fn frame(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut frame = vec![0; u32::from_le_bytes(length) as usize];
        frame[..4].copy_from_slice(&length);
        self.0.read_exact(&mut frame[4..]).unwrap();
        Some(frame)
    }

    /// Expects an error that ends the connection.
    fn ends_with(mut self, code: ErrorCode) {
        let frame = self.frame().expect("an error frame");
        let frame = Frame::parse(&frame).unwrap().unwrap();
        let error = frame.body::<Error>().unwrap();
        assert_eq!(ErrorCode::from_number(error.code.to_native()), Some(code), "{}", error.message);
        assert_eq!(self.frame(), None, "and then nothing");
    }
}

fn kind_of(frame: &[u8]) -> Kind {
    Frame::parse(frame).unwrap().unwrap().kind().unwrap()
}

#[test]
fn lengths_are_refused_before_anything_is_allocated_for_them() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    for (length, with_hello, code) in [
        (HELLO_FRAME_BYTES_MAX + 1, false, ErrorCode::FrameTooLarge),
        (FRAME_BYTES_MAX + 1, true, ErrorCode::FrameTooLarge),
        (u32::MAX as usize, true, ErrorCode::FrameTooLarge),
        (15, true, ErrorCode::FrameMalformed),
        (0, true, ErrorCode::FrameMalformed),
    ] {
        let mut raw = Raw::connect(&server, with_hello);
        raw.send(&u32::try_from(length).unwrap().to_le_bytes());
        raw.ends_with(code);
    }
    // The longest frame that is allowed is read whole; what is in it is another matter.
    let mut raw = Raw::connect(&server, true);
    let mut frame = vec![0xFF; FRAME_BYTES_MAX];
    frame[..4].copy_from_slice(&u32::try_from(FRAME_BYTES_MAX).unwrap().to_le_bytes());
    raw.send(&frame);
    raw.ends_with(ErrorCode::UnsupportedProtocol);
}

#[test]
fn frames_out_of_place_end_the_connection() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let ping = encode(0, &Ping { nonce: 1 }, &[]);
    let mut raw = Raw::connect(&server, false);
    raw.send(&ping);
    raw.ends_with(ErrorCode::UnexpectedKind);
    let mut raw = Raw::connect(&server, true);
    raw.send(&hello());
    raw.ends_with(ErrorCode::UnexpectedKind);
    let mut raw = Raw::connect(&server, true);
    let frame = encode(
        0,
        &Welcome {
            protocol: 1,
            capabilities: 0,
            session: [0; 16],
            server_time_ms: 0,
            agent: String::new(),
            limits: vec![],
        },
        &[],
    );
    raw.send(&frame);
    raw.ends_with(ErrorCode::UnexpectedKind);
    let mut raw = Raw::connect(&server, false);
    raw.send(&encode(
        0,
        &Hello { protocol_min: 2, protocol_max: 9, capabilities: 0, agent: String::new() },
        &[],
    ));
    raw.ends_with(ErrorCode::UnsupportedProtocol);
}

#[test]
fn frames_may_come_in_any_pieces() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut raw = Raw::connect(&server, true);
    let mut bytes = Vec::new();
    for nonce in 0..200 {
        bytes.extend(encode(0, &Ping { nonce }, &[]));
    }
    for piece in bytes.chunks(7) {
        raw.send(piece);
    }
    for nonce in 0..200 {
        let frame = raw.frame().unwrap();
        let pong = Frame::parse(&frame).unwrap().unwrap().body::<Pong>().unwrap().nonce.to_native();
        assert_eq!(pong, nonce);
    }
}

#[test]
fn a_wrong_request_is_answered_and_ends_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut raw = Raw::connect(&server, true);
    let open = |request, rights, document: &str| {
        let document = document.to_owned();
        encode(0, &Open { request, rights, document, token: None, cursor: None }, &[])
    };
    let push = encode(77, &Push { push: 1, generation: 1, lengths: vec![] }, &[]);
    for (frame, code) in [
        (open(1, 3, ""), ErrorCode::DocumentIdInvalid),
        (open(1, 3, "a\nb"), ErrorCode::DocumentIdInvalid),
        (open(1, 0, "a"), ErrorCode::RightsInvalid),
        (open(1, 1 << 9, "a"), ErrorCode::RightsInvalid),
        (open(0, 3, "a"), ErrorCode::ProtocolViolation),
        (push, ErrorCode::StreamNotOpen),
    ] {
        raw.send(&frame);
        let answer = raw.frame().unwrap();
        let answer = Frame::parse(&answer).unwrap().unwrap();
        let error = answer.body::<Error>().unwrap();
        assert_eq!(ErrorCode::from_number(error.code.to_native()), Some(code), "{}", error.message);
    }
    // The same document twice on one connection.
    raw.send(&open(1, 3, "a"));
    assert_eq!(kind_of(&raw.frame().unwrap()), Kind::Opened);
    raw.send(&open(2, 3, "a"));
    let answer = raw.frame().unwrap();
    let error = Frame::parse(&answer).unwrap().unwrap();
    assert_eq!(error.body::<Error>().unwrap().code.to_native(), ErrorCode::AlreadyOpen as u16);
}

#[test]
fn a_forked_actor_is_told_so() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut one = Member::connect(&server, false, 5);
    let stream = one.open("doc");
    one.put_durably(stream, "k", "one");
    // A clone: the same actor, another first change.
    let mut two = Member::connect(&server, false, 5);
    let stream = two.open("doc");
    two.put(stream, "k", "two");
    let refused = two.until(|told| matches!(told, Told::Refused { .. }));
    assert_eq!(refused, Told::Refused { code: ErrorCode::ActorForked as u16, blocks: true });
}

#[test]
fn more_in_one_read_than_may_be_under_way_is_answered_in_full() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut raw = Raw::connect(&server, true);
    // Answers to these pings are far more than may wait for a connection.
    let pings: Vec<u8> = (0..20_000).flat_map(|nonce| encode(0, &Ping { nonce }, &[])).collect();
    let mut writer = raw.0.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&pings).unwrap());
    for nonce in 0..20_000 {
        let frame = raw.frame().unwrap();
        assert_eq!(Frame::parse(&frame).unwrap().unwrap().body::<Pong>().unwrap().nonce.to_native(), nonce);
    }
    writing.join().unwrap();
}

#[test]
fn a_push_that_could_not_be_sent_on_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut raw = Raw::connect(&server, true);
    let document = "a".to_owned();
    raw.send(&encode(0, &Open { request: 1, rights: 3, document, token: None, cursor: None }, &[]));
    let opened = raw.frame().unwrap();
    let stream = Frame::parse(&opened).unwrap().unwrap().stream();
    for (generation, bytes, code) in
        [(1, PUSH_BYTES_MAX, ErrorCode::ChangeTooLarge), (2, PUSH_BYTES_MAX + 1, ErrorCode::PushInvalid)]
    {
        let push = Push { push: 1, generation, lengths: vec![u32::try_from(bytes).unwrap()] };
        raw.send(&encode(stream, &push, &[&vec![0; bytes]]));
        let answer = raw.frame().unwrap();
        let refused = Frame::parse(&answer).unwrap().unwrap();
        let refused = refused.body::<Refused>().unwrap();
        assert_eq!(ErrorCode::from_number(refused.code.to_native()), Some(code), "{}", refused.message);
    }
    let lengths = vec![0; PUSH_CHANGES_MAX + 1];
    raw.send(&encode(stream, &Push { push: 2, generation: 3, lengths }, &[]));
    raw.ends_with(ErrorCode::ProtocolViolation);
}

#[test]
fn there_is_no_connection_beyond_the_room_for_them() {
    let data = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_etherply");
    // 512 descriptors, of which the server keeps 256 for itself.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -n 512 && exec \"$0\" serve --ready-json --data \"$1\"", program]);
    shell.arg(data.path());
    let server = Server::spawn(&mut shell);
    let mut held: Vec<Raw> = (0..256).map(|_| Raw::connect(&server, true)).collect();
    let mut refused = TcpStream::connect(server.listen).unwrap();
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    // Closed at once, without a word.
    assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)));
    // Those that are here are served, and the log still works.
    held[0].send(&encode(0, &Ping { nonce: 1 }, &[]));
    assert_eq!(kind_of(&held[0].frame().unwrap()), Kind::Pong);
    drop(held.pop());
    let mut member = loop {
        // The place is free again once the server has noticed the end of that connection.
        let mut stream = TcpStream::connect(server.listen).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let asked = stream.write_all(&MAGIC).and_then(|()| stream.write_all(&hello()));
        if asked.is_ok() && matches!(stream.peek(&mut [0]), Ok(1)) {
            break Raw(stream);
        }
    };
    assert_eq!(member.frame().map(|frame| kind_of(&frame)), Some(Kind::Welcome));
}

#[test]
fn a_websocket_of_another_make_is_served() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let (mut socket, _) = tungstenite::connect(format!("ws://{}/", server.listen)).unwrap();
    socket.send(Message::Binary(hello().into())).unwrap();
    let Message::Binary(welcome) = socket.read().unwrap() else { panic!("not binary") };
    assert_eq!(kind_of(&welcome), Kind::Welcome);
    socket.send(Message::Ping(b"are you there".to_vec().into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong(b"are you there".to_vec().into()));
    socket.send(Message::text("hello")).unwrap();
    let Message::Binary(error) = socket.read().unwrap() else { panic!("not binary") };
    assert_eq!(kind_of(&error), Kind::Error);
    let Message::Close(Some(close)) = socket.read().unwrap() else { panic!("not a close") };
    assert_eq!(u16::from(close.code), 1003);
}

#[test]
fn pages_of_other_sites_may_not_connect() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let connect = |origin: &str| {
        use tungstenite::client::IntoClientRequest as _;
        let mut request = format!("ws://{}/", server.listen).into_client_request().unwrap();
        request.headers_mut().insert("Origin", origin.parse().unwrap());
        tungstenite::connect(request)
    };
    for origin in ["http://localhost:5173", "http://127.0.0.1", "http://[::1]:80"] {
        assert!(connect(origin).is_ok(), "{origin}");
    }
    for origin in
        ["https://example.com", "http://localhost.example.com", "null", "http://127.0.0.1.evil.test"]
    {
        let Err(tungstenite::Error::Http(answer)) = connect(origin) else { panic!("{origin}") };
        assert_eq!(answer.status(), 403, "{origin}");
    }
}
