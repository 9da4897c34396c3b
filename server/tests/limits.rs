//! What clients may take of the real server: at each limit, one below and one beyond.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use common::{Member, PATIENCE, Server, command};
use etherply_wire::kinds::{GoingAway, Hello, Ping};
use etherply_wire::{ErrorCode, FLAG_SKIPPABLE, Frame, HEADER_BYTES, MAGIC, encode};

/// Nobody of this machine is trusted; limits not named are off.
const STRICT: [&str; 12] = [
    "--trusted-networks=192.0.2.0/24",
    "--accept-rate=0",
    "--client-rate=0",
    "--client-bandwidth=0",
    "--address-rate=0",
    "--address-bandwidth=0",
    "--document-rate=0",
    "--document-bandwidth=0",
    "--connections-per-address=1000",
    "--pending-connections=1000",
    "--cores=1",
    "--materialisers=0",
];

/// A server of which clients may take this much.
fn strict(data: &Path, setting: &str) -> Server {
    let (name, _) = setting.split_once('=').unwrap();
    let others = STRICT.iter().filter(|other| other.split('=').next() != Some(name));
    Server::spawn(command(data).args(others).arg(setting))
}

fn rejected(server: &Server, reason: &str) -> f64 {
    server.metric(&format!("etherply_connections_rejected_total{{reason=\"{reason}\"}}"))
}

fn held(server: &Server, bucket: &str) -> f64 {
    server.metric(&format!("etherply_reads_held_total{{bucket=\"{bucket}\"}}"))
}

fn connect(server: &Server) -> TcpStream {
    let socket = TcpStream::connect(server.listen).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Everything that the server says until it closes.
fn read_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    match socket.read_to_end(&mut said) {
        Ok(_) => said,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => said,
        Err(error) => panic!("the server does not close it: {error}"),
    }
}

fn hello() -> Vec<u8> {
    let hello = Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent: "test".to_owned() };
    encode(0, &hello, &[])
}

/// Frames as they come, until so many are there.
fn read_frames(socket: &mut TcpStream, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while frames.len() < count {
        let mut length = [0; 4];
        socket.read_exact(&mut length).unwrap();
        let mut frame = length.to_vec();
        frame.resize(u32::from_le_bytes(length) as usize, 0);
        socket.read_exact(&mut frame[4..]).unwrap();
        frames.push(frame);
    }
    frames
}

#[test]
fn an_address_has_so_many_connections() {
    let data = tempfile::tempdir().unwrap();
    let server = strict(data.path(), "--connections-per-address=3");
    let mut members: Vec<Member> = (1..=3).map(|n| Member::connect(&server, n == 2, n)).collect();
    assert_eq!(rejected(&server, "address_connections"), 0.0);
    assert!(read_to_end(&mut connect(&server)).is_empty());
    assert_eq!(rejected(&server, "address_connections"), 1.0);
    drop(members.pop());
    while server.metric("etherply_connections_active") > 2.0 {}
    members.push(Member::connect(&server, false, 4));
}

#[test]
fn so_many_have_not_said_hello() {
    let data = tempfile::tempdir().unwrap();
    let server = strict(data.path(), "--pending-connections=2");
    // Those that have said hello do not count.
    let _members: Vec<Member> = (1..=3).map(|n| Member::connect(&server, false, n)).collect();
    let (mut first, _second) = (connect(&server), connect(&server));
    while server.metric("etherply_connections_pending") < 2.0 {}
    assert!(read_to_end(&mut connect(&server)).is_empty());
    assert_eq!(rejected(&server, "pending"), 1.0);
    first.write_all(&[&MAGIC[..], &hello()].concat()).unwrap();
    read_frames(&mut first, 1);
    drop(Member::connect(&server, true, 9));
}

#[test]
fn whoever_comes_when_too_many_do_is_told_when_to_come_back() {
    let data = tempfile::tempdir().unwrap();
    // It holds four.
    let server = strict(data.path(), "--accept-rate=1");
    let _members: Vec<Member> = (1..=4).map(|n| Member::connect(&server, n % 2 == 0, n)).collect();
    let mut raw = connect(&server);
    raw.write_all(&[&MAGIC[..], &hello()].concat()).unwrap();
    let told = read_frames(&mut raw, 1);
    assert!(read_to_end(&mut raw).is_empty());
    let told = Frame::parse(&told[0]).unwrap().unwrap();
    let told = told.body::<GoingAway>().unwrap();
    assert_eq!(told.code.to_native(), ErrorCode::Overloaded as u16);
    assert!((1..=1_000).contains(&told.retry_after_ms.to_native()) && told.retry_jitter_ms.to_native() > 0);
    let first = told.retry_after_ms.to_native();

    let (mut browser, _) = tungstenite::connect(format!("ws://{}/", server.listen)).unwrap();
    let told = browser.read().unwrap().into_data();
    let told = Frame::parse(&told).unwrap().unwrap();
    let told = told.body::<GoingAway>().unwrap();
    assert_eq!(told.code.to_native(), ErrorCode::Overloaded as u16);
    assert!(told.retry_after_ms.to_native() > first / 2, "a later place than the first");
    match browser.read().unwrap() {
        tungstenite::Message::Close(Some(frame)) => {
            assert_eq!(u16::from(frame.code), ErrorCode::Overloaded.close_code());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rejected(&server, "rate"), 2.0);
}

/// Asks many questions at once, all of which are answered; the socket.
fn ask(server: &Server, questions: u64) -> TcpStream {
    let mut socket = connect(server);
    let mut bytes = [&MAGIC[..], &hello()].concat();
    for nonce in 0..questions {
        bytes.extend_from_slice(&encode(0, &Ping { nonce }, &[]));
    }
    socket.write_all(&bytes).unwrap();
    let answers = read_frames(&mut socket, usize::try_from(questions).unwrap() + 1);
    assert_eq!(answers.len() as u64, questions + 1);
    socket
}

#[test]
fn a_connection_that_asks_too_much_is_read_from_later_and_answered_all_the_same() {
    let data = tempfile::tempdir().unwrap();
    // Each holds 400 operations, the hello among them.
    let server = strict(data.path(), "--client-rate=100");
    let mut within = ask(&server, 398);
    assert_eq!(held(&server, "client"), 0.0);
    // Still within what it holds, whatever came meanwhile.
    within.write_all(&encode(0, &Ping { nonce: 7 }, &[])).unwrap();
    read_frames(&mut within, 1);
    assert_eq!(held(&server, "client"), 0.0);
    let mut beyond = ask(&server, 500);
    assert!(held(&server, "client") >= 1.0);
    // It is held back, and answered in the end; others are not.
    beyond.write_all(&encode(0, &Ping { nonce: 8 }, &[])).unwrap();
    let mut other = Member::connect(&server, true, 3);
    let stream = other.open("notes");
    other.put_durably(stream, "k", "v");
    read_frames(&mut beyond, 1);
    assert!(!server.has_panicked());
}

#[test]
fn bytes_count_as_well() {
    let data = tempfile::tempdir().unwrap();
    let server = strict(data.path(), "--client-bandwidth=10000");
    let question = encode(0, &Ping { nonce: 1 }, &[]).len() as u64;
    drop(ask(&server, 20_000 / question));
    assert_eq!(held(&server, "client"), 0.0);
    drop(ask(&server, 50_000 / question));
    assert!(held(&server, "client") >= 1.0);
}

#[test]
fn connections_of_an_address_share_what_it_may_take() {
    let data = tempfile::tempdir().unwrap();
    let server = strict(data.path(), "--address-rate=100");
    let _one = ask(&server, 300);
    assert_eq!((held(&server, "address"), held(&server, "client")), (0.0, 0.0));
    let _other = ask(&server, 400);
    assert!(held(&server, "address") >= 1.0);
}

#[test]
fn a_document_takes_changes_at_its_rate_whoever_pushes_them() {
    let data = tempfile::tempdir().unwrap();
    let server = strict(data.path(), "--document-rate=5");
    let mut members: Vec<Member> = (1..=2).map(|n| Member::connect(&server, n == 1, n)).collect();
    let streams: Vec<_> = members.iter_mut().map(|member| member.open("notes")).collect();
    let elsewhere = members[0].open("elsewhere");
    for n in 0..14 {
        for (member, stream) in members.iter_mut().zip(&streams) {
            member.put_durably(*stream, &format!("k{n}"), "v");
        }
    }
    assert!(held(&server, "document") >= 1.0);
    // Nothing was refused.
    assert_eq!(members[0].client.unacked(streams[0]).count(), 0);
    members[0].put_durably(elsewhere, "k", "v");
    assert_eq!(members[1].until_keys(streams[1], 14).len(), 14);
}

#[test]
fn those_of_trusted_networks_are_exempt() {
    let data = tempfile::tempdir().unwrap();
    let mut asked = command(data.path());
    let server = Server::spawn(asked.args([
        "--client-rate=1",
        "--address-rate=1",
        "--document-rate=1",
        "--accept-rate=1",
        "--connections-per-address=1",
        "--pending-connections=1",
    ]));
    let _sockets: Vec<_> = (0..8).map(|_| ask(&server, 1_000)).collect();
    assert_eq!(held(&server, "client") + held(&server, "address") + rejected(&server, "rate"), 0.0);
}

/// A frame of an unknown kind that may be skipped, of so many bytes.
fn skippable(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; bytes];
    frame[..4].copy_from_slice(&u32::try_from(bytes).unwrap().to_le_bytes());
    (frame[4], frame[5]) = (1, FLAG_SKIPPABLE);
    frame[6..8].copy_from_slice(&60_000_u16.to_le_bytes());
    frame
}

#[test]
fn frames_are_short_until_a_token_was_shown() {
    const MAX: usize = etherply_server::data_plane::limits::UNAUTHENTICATED_FRAME_BYTES_MAX;
    let data = tempfile::tempdir().unwrap();
    let keys = data.path().join("keys");
    let mut generate = Command::new(env!("CARGO_BIN_EXE_etherply"));
    assert!(generate.args(["keys", "generate", "--out"]).arg(&keys).output().unwrap().status.success());
    let mut asked = command(&data.path().join("data"));
    let server = Server::spawn(asked.arg("--keys").arg(&keys));
    for (bytes, is_taken) in [(MAX - 1, true), (MAX, true), (MAX + 1, false), (HEADER_BYTES, true)] {
        let mut socket = connect(&server);
        socket.write_all(&[&MAGIC[..], &hello(), &skippable(bytes)].concat()).unwrap();
        socket.write_all(&encode(0, &Ping { nonce: 7 }, &[])).unwrap();
        let answers = read_frames(&mut socket, 2);
        let kind = Frame::parse(&answers[1]).unwrap().unwrap().kind().unwrap();
        assert_eq!(kind == etherply_wire::Kind::Pong, is_taken, "{bytes}: {kind:?}");
    }
    // Without keys there is nobody to tell apart.
    let open = Server::start(&data.path().join("open"));
    let mut socket = connect(&open);
    socket.write_all(&[&MAGIC[..], &hello(), &skippable(MAX + 1)].concat()).unwrap();
    socket.write_all(&encode(0, &Ping { nonce: 7 }, &[])).unwrap();
    let answers = read_frames(&mut socket, 2);
    assert_eq!(Frame::parse(&answers[1]).unwrap().unwrap().kind(), Some(etherply_wire::Kind::Pong));
}

#[test]
fn a_frame_that_came_in_parts_leaves_nothing_behind_that_has_to_arrive() {
    use etherply_server::data_plane::limits::{FRAME_BYTES_PER_S_MIN, READ_BYTES};
    let data = tempfile::tempdir().unwrap();
    let server = strict(data.path(), "--frame-timeout=1");
    let mut socket = ask(&server, 1);
    // So that the memory in which the parts are put together is kept, when there is nothing in it any more.
    let frame = skippable(READ_BYTES / 2 + 1_000);
    let (first, rest) = frame.split_at(READ_BYTES / 2);
    socket.write_all(first).unwrap();
    // The server's only core has come by the first part then.
    drop(ask(&server, 1));
    socket.write_all(&[rest, &encode(0, &Ping { nonce: 1 }, &[])].concat()).unwrap();
    read_frames(&mut socket, 1);
    // Another frame, of which as much is there as that memory has and more, has more time, and that passes.
    let mut slow = ask(&server, 1);
    let there = READ_BYTES + 3 * FRAME_BYTES_PER_S_MIN;
    slow.write_all(&skippable(2 * there)[..there]).unwrap();
    assert!(!read_to_end(&mut slow).is_empty());
    socket.write_all(&encode(0, &Ping { nonce: 2 }, &[])).unwrap();
    let answers = read_frames(&mut socket, 1);
    assert_eq!(Frame::parse(&answers[0]).unwrap().unwrap().kind(), Some(etherply_wire::Kind::Pong));
}

/// A header of the PROXY protocol: a connection of this address to somewhere.
fn proxied(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend_from_slice(&source);
    header.extend_from_slice(&[192, 0, 2, 1, 0xc0, 0, 0x10, 0x54]);
    header
}

#[test]
fn a_load_balancer_says_whose_a_connection_is() {
    let data = tempfile::tempdir().unwrap();
    let mut asked = command(data.path());
    let server = Server::spawn(asked.args(["--proxy-protocol", "--connections-per-address=1"]));
    let greet = |header: &[u8]| {
        let mut socket = connect(&server);
        socket.write_all(&[header, &MAGIC, &hello()].concat()).unwrap();
        socket
    };
    let mut first = greet(&proxied([198, 51, 100, 1]));
    read_frames(&mut first, 1);
    assert!(read_to_end(&mut greet(&proxied([198, 51, 100, 1]))).is_empty());
    assert_eq!(rejected(&server, "address_connections"), 1.0);
    read_frames(&mut greet(&proxied([198, 51, 100, 2])), 1);
    // The balancer's own, and clients that are trusted themselves.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let exempt =
        [local.to_vec(), proxied([127, 0, 0, 9]), proxied([127, 0, 0, 9])].map(|header| greet(&header));
    for mut socket in exempt {
        read_frames(&mut socket, 1);
    }
    // In pieces, as a network may bring it.
    let mut pieces = connect(&server);
    pieces.set_nodelay(true).unwrap();
    for byte in [&proxied([198, 51, 100, 3])[..], &MAGIC, &hello()].concat() {
        pieces.write_all(&[byte]).unwrap();
    }
    read_frames(&mut pieces, 1);
    assert_eq!(rejected(&server, "proxy"), 0.0);
    for wrong in [&b""[..], b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n", &proxied([1; 4])[..12]] {
        assert!(read_to_end(&mut greet(wrong)).is_empty());
    }
    assert_eq!(rejected(&server, "proxy"), 3.0);
    assert!(!server.has_panicked());
}

#[test]
fn whoever_is_not_trusted_cannot_say_whose_a_connection_is() {
    let data = tempfile::tempdir().unwrap();
    let mut asked = command(data.path());
    let server = Server::spawn(asked.args(STRICT).arg("--proxy-protocol"));
    drop(Member::connect(&server, false, 1));
    let mut claims = connect(&server);
    claims.write_all(&[&proxied([192, 0, 2, 9])[..], &MAGIC, &hello()].concat()).unwrap();
    // Not a word of the protocol: at the most, what HTTP says to what it does not understand.
    assert!(!read_to_end(&mut claims).starts_with(&MAGIC));
    assert_eq!(rejected(&server, "proxy"), 0.0);
}
