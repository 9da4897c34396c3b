//! How connections end: by a close frame, by half, by a reset, or not at all from the other side.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use etherply_wire::kinds::{Ack, Kind, Open, Pong};
use etherply_wire::{Frame, MAGIC, encode};
use socket2::{Domain, SockRef, Socket, Type};

use crate::common::exchange::Exchange;
use crate::common::{Member, PATIENCE, Server};
use crate::raw::{BINARY, CLOSE, CONTINUATION, Got, PING, Raw, close_payload, frame, hello, question};

const CONNECTIONS: &str = "etherply_connections_active";
/// Each has more than 100 bytes.
const UNREAD_ANSWERS: usize = 2_000;

fn server() -> (tempfile::TempDir, Server) {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    (data, server)
}

/// A raw TCP connection, with the magic sent.
fn tcp(server: &Server) -> TcpStream {
    let mut socket = TcpStream::connect(server.listen).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(&MAGIC).unwrap();
    socket
}

/// The next frame of a raw TCP connection, `None` at its end.
fn tcp_frame(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length).ok()?;
    let mut frame = vec![0; u32::from_le_bytes(length) as usize];
    frame[..4].copy_from_slice(&length);
    socket.read_exact(&mut frame[4..]).unwrap();
    Some(frame)
}

fn tcp_kind(socket: &mut TcpStream) -> Option<Kind> {
    tcp_frame(socket).map(|frame| Frame::parse(&frame).unwrap().unwrap().kind().unwrap())
}

/// Waits until the server has this many connections. It must come to that by itself.
fn until_connections(server: &Server, count: f64) {
    while server.metric(CONNECTIONS) != count {
        std::thread::yield_now();
    }
}

/// A document on a WebSocket: its stream.
fn open(raw: &mut Raw, exchange: &Exchange) -> u32 {
    raw.send(&frame(true, 0, BINARY, &exchange.open));
    let (_, opened) = raw.next_frame().unwrap();
    let opened = Frame::parse(&opened).unwrap().unwrap();
    assert_eq!(opened.kind(), Some(Kind::Opened));
    opened.stream()
}

#[test]
fn a_tcp_client_that_closes_its_half_after_a_push_gets_its_ack() {
    let (_data, server) = server();
    for round in 0..20 {
        let exchange = Exchange::new(&format!("half/{round}"), 1);
        let mut socket = tcp(&server);
        socket.write_all(&exchange.hello).unwrap();
        assert_eq!(tcp_kind(&mut socket), Some(Kind::Welcome));
        if round % 2 == 1 {
            // It stays on the core of this document: in some rounds its ack comes from another one.
            socket.write_all(&Exchange::new(&format!("first/{round}"), 1).open).unwrap();
            assert_eq!(tcp_kind(&mut socket), Some(Kind::Opened));
        }
        socket.write_all(&exchange.open).unwrap();
        let opened = tcp_frame(&mut socket).unwrap();
        let stream = Frame::parse(&opened).unwrap().unwrap().stream();
        socket.write_all(&exchange.push(stream)).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let ack = tcp_frame(&mut socket).expect("the ack");
        let ack = Frame::parse(&ack).unwrap().unwrap();
        assert_eq!(ack.body::<Ack>().unwrap().push.to_native(), 1);
        assert_eq!(tcp_frame(&mut socket), None, "and then the end");
        // What was acked is there.
        let mut reader = Member::connect(&server, false, 2);
        let stream = reader.open(&format!("half/{round}"));
        assert_eq!(reader.until_keys(stream, 2)["count"], "seven");
    }
    until_connections(&server, 0.0);
}

#[test]
fn everything_said_before_half_an_end_is_answered() {
    let (_data, server) = server();
    let exchange = Exchange::new("doc", 1);
    // All at once, and the end behind it.
    let mut socket = tcp(&server);
    socket.write_all(&[exchange.hello.clone(), exchange.open.clone(), question(1)].concat()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut kinds: Vec<Kind> = std::iter::from_fn(|| tcp_kind(&mut socket)).collect();
    // The document has to be read from the disk: its answer may come last.
    kinds.sort_unstable_by_key(|kind| *kind as u16);
    let mut expected = [Kind::Welcome, Kind::Opened, Kind::Pong];
    expected.sort_unstable_by_key(|kind| *kind as u16);
    assert_eq!(kinds, expected);

    // Far more answers than may wait for a connection, and none is read before the end.
    let mut socket = tcp(&server);
    let questions: Vec<u8> = hello().into_iter().chain((0..20_000).flat_map(question)).collect();
    let mut writer = socket.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        writer.write_all(&questions).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(tcp_kind(&mut socket), Some(Kind::Welcome));
    for nonce in 0..20_000 {
        let frame = tcp_frame(&mut socket).unwrap();
        assert_eq!(Frame::parse(&frame).unwrap().unwrap().body::<Pong>().unwrap().nonce.to_native(), nonce);
    }
    writing.join().unwrap();
    assert_eq!(tcp_frame(&mut socket), None);

    // A refusal is heard by whoever does not wait for it to close.
    let mut socket = TcpStream::connect(server.listen).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(socket, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    let mut socket = tcp(&server);
    socket.write_all(&question(1)).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(tcp_kind(&mut socket), Some(Kind::Error));
    assert_eq!(tcp_kind(&mut socket), None);
    until_connections(&server, 0.0);
}

#[test]
fn a_websocket_that_closes_after_a_push_gets_its_ack_first() {
    let (_data, server) = server();
    // RFC 6455, 5.5.1: a close frame answers the client's, when what is being said has been said.
    for (round, with_close, half) in [(0, true, false), (1, true, true), (2, false, true)] {
        let exchange = Exchange::new(&format!("doc/{round}"), 1);
        let mut raw = Raw::greeted(&server);
        let stream = open(&mut raw, &exchange);
        let mut sent = frame(true, 0, BINARY, &exchange.push(stream));
        if with_close {
            sent.extend(frame(true, 0, CLOSE, &close_payload(4321, b"so long")));
        }
        raw.send(&sent);
        if half {
            raw.socket.shutdown(Shutdown::Write).unwrap();
        }
        assert_eq!(raw.get(), Got::Frame(Kind::Ack), "{round}");
        if with_close {
            assert_eq!(raw.get(), Got::Close { code: 4321, says_why: false }, "{round}");
        }
        assert_eq!(raw.get(), Got::End, "{round}");
    }
    until_connections(&server, 0.0);
}

#[test]
fn a_reset_in_the_middle_of_anything_ends_one_connection() {
    let (_data, server) = server();
    let mut witness = Raw::greeted(&server);
    let binary = frame(true, 0, BINARY, &question(1));
    let exchange = Exchange::new("doc", 1);
    let begun = frame(false, 0, BINARY, b"a fragment");
    let more = frame(false, 0, CONTINUATION, b"more");
    for bytes in [
        binary[..1].to_vec(),
        binary[..5].to_vec(),
        binary[..binary.len() - 1].to_vec(),
        begun.clone(),
        [&begun, &more[..9]].concat(),
        frame(true, 0, CLOSE, &close_payload(1000, b""))[..7].to_vec(),
        frame(true, 0, BINARY, &exchange.open),
        Vec::new(),
    ] {
        let mut raw = Raw::greeted(&server);
        until_connections(&server, 2.0);
        raw.send(&bytes);
        // Closing discards what is under way and sends a reset.
        SockRef::from(&raw.socket).set_linger(Some(Duration::ZERO)).unwrap();
        drop(raw);
        until_connections(&server, 1.0);
    }
    for bytes in [&b"GET / HT"[..], &MAGIC[..5], b"\x16\x03\x01"] {
        let mut socket = TcpStream::connect(server.listen).unwrap();
        socket.write_all(bytes).unwrap();
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
        drop(socket);
        until_connections(&server, 1.0);
    }
    witness.send(&frame(true, 0, BINARY, &question(7)));
    assert_eq!(witness.get(), Got::Answer(7));
    assert!(!server.has_panicked());
}

#[test]
fn who_never_answers_a_close_is_not_waited_for() {
    let (_data, server) = server();
    let broken = frame(true, 7, PING, b"");
    // One that closes nothing, one that goes on talking, one that does not even read.
    let mut silent = Raw::greeted(&server);
    silent.send(&broken);
    assert_eq!(silent.get(), Got::Close { code: 1002, says_why: true });
    assert_eq!(silent.get(), Got::End);
    let mut deaf = Raw::greeted(&server);
    deaf.send(&broken);
    let mut talking = Raw::greeted(&server);
    talking.send(&broken);
    while server.metric(CONNECTIONS) > 0.0 {
        // Discarded; once the server has closed, these are errors that `send` passes over.
        talking.send(&frame(true, 0, PING, b"are you there"));
    }
    drop((silent, deaf));
}

#[test]
fn answers_that_nobody_reads_are_not_waited_for() {
    let (_data, server) = server();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // With the server's own buffer, less than the answers; and they are fewer than stop it from reading.
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    socket.connect(&server.listen.into()).unwrap();
    let mut socket = TcpStream::from(socket);
    let refused = Open { request: 1, rights: 0, document: "doc".to_owned(), token: None, cursor: None };
    let refused = encode(0, &refused, &[]).repeat(UNREAD_ANSWERS);
    socket.write_all(&[&MAGIC[..], &hello(), &refused].concat()).unwrap();
    until_connections(&server, 1.0);
    socket.shutdown(Shutdown::Write).unwrap();
    until_connections(&server, 0.0);
    // They were there: what fits the buffers can be read, and no end behind it.
    let mut answers = Vec::new();
    let end = socket.read_to_end(&mut answers);
    assert!(!answers.is_empty() && answers.len() < UNREAD_ANSWERS * 100, "{} bytes, {end:?}", answers.len());
}

#[test]
fn a_server_that_stops_says_so_and_closes() {
    let (_data, server) = server();
    let mut raw = Raw::greeted(&server);
    server.terminate();
    assert_eq!(raw.get(), Got::Frame(Kind::GoingAway));
    assert_eq!(raw.get(), Got::Close { code: 1001, says_why: true });
    assert_eq!(raw.get(), Got::End);
    assert!(server.wait().success());
}

#[test]
fn nothing_is_answered_behind_a_close() {
    let (_data, server) = server();
    let mut raw = Raw::greeted(&server);
    let exchange = Exchange::new("doc", 1);
    let stream = open(&mut raw, &exchange);
    let behind = [
        frame(true, 0, CLOSE, &close_payload(1001, b"")),
        frame(true, 0, BINARY, &exchange.push(stream)),
        frame(true, 0, PING, b"x"),
        frame(true, 0, CLOSE, &close_payload(4000, b"again")),
        // What would be an error anywhere else.
        vec![0xFF; 300],
    ];
    raw.send(&behind.concat());
    assert_eq!(raw.get(), Got::Close { code: 1001, says_why: false });
    assert_eq!(raw.get(), Got::End);
    // The push did not count.
    let mut reader = Raw::greeted(&server);
    reader.send(&frame(true, 0, BINARY, &exchange.open));
    let (_, opened) = reader.next_frame().unwrap();
    let opened = Frame::parse(&opened).unwrap().unwrap();
    assert_eq!(opened.body::<etherply_wire::kinds::Opened>().unwrap().cursor.seq.to_native(), 0);
}
