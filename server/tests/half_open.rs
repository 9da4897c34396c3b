//! Peers that are gone, or as good as gone, without a word: no end of the stream, no reset.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use common::{Member, PATIENCE, Server, Told, command};
use etherply_wire::kinds::{Hello, Ping};
use etherply_wire::{MAGIC, encode};
use socket2::{SockFilter, SockRef};

const ACTIVE: &str = "etherply_connections_active";
const ENDED: &str = "etherply_connections_failed_total{code=\"idle_timeout\"}";

/// A server whose clients have to say something every two seconds.
fn impatient(data: &Path) -> Server {
    Server::spawn(command(data).args(["--idle-timeout", "2"]))
}

/// Takes a socket's network away: its kernel drops every packet that comes for it before TCP sees it, so nothing
/// is acknowledged, and nothing resets. (A classic BPF program of one instruction: return 0, take no bytes.)
fn cut_off(socket: &TcpStream) {
    const BPF_RET: u16 = 0x06;
    SockRef::from(socket).attach_filter(&[SockFilter::new(BPF_RET, 0, 0, 0)]).unwrap();
}

/// Waits until the server has this many connections, asking it all the time: whoever asks has none of them.
fn until_active(server: &Server, connections: f64) {
    let begun = Instant::now();
    while server.metric(ACTIVE) > connections {
        assert!(begun.elapsed() < PATIENCE, "the server keeps connections of peers that are gone");
    }
}

#[test]
fn a_peer_without_a_network_is_noticed_and_its_presence_ends() {
    let data = tempfile::tempdir().unwrap();
    let server = impatient(data.path());
    for (n, is_websocket) in [(0, false), (1, true)] {
        let document = format!("room/{n}");
        let mut gone = Member::connect(&server, is_websocket, 1);
        let stream = gone.open(&document);
        gone.client.set_presence(stream, b"here", 60_000).unwrap();
        gone.send();
        gone.put_durably(stream, "k", "v");
        let mut witness = Member::connect(&server, is_websocket, 2);
        let watched = witness.open(&document);
        witness.until(|told| matches!(told, Told::Presence { members: 1, .. }));

        cut_off(gone.socket());
        // There is something on its way to it that never arrives, and that it never acknowledges.
        witness.put_durably(watched, "to whom", "nobody");
        assert_eq!(witness.until(|told| matches!(told, Told::PresenceLeft(_))), Told::PresenceLeft(1));
        until_active(&server, 1.0);
        assert_eq!(server.metric(ENDED), f64::from(n + 1));
        drop(witness);
        until_active(&server, 0.0);
    }
}

#[test]
fn a_peer_that_neither_reads_nor_is_read_from_ends_as_well() {
    let data = tempfile::tempdir().unwrap();
    let server = impatient(data.path());
    let mut socket = TcpStream::connect(server.listen).unwrap();
    let hello = Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent: "deaf".to_owned() };
    socket.write_all(&MAGIC).unwrap();
    socket.write_all(&encode(0, &hello, &[])).unwrap();
    // It asks, and takes no answer, until the server reads no further questions: from then on there is nothing
    // that it could be heard by.
    socket.set_nonblocking(true).unwrap();
    let questions = encode(0, &Ping { nonce: 7 }, &[]).repeat(1_000);
    let (mut sent, mut is_full) = (0_usize, false);
    while !(is_full && server.metric("etherply_connections_blocked") == 1.0) {
        match socket.write(&questions[sent % questions.len()..]) {
            Ok(bytes) => (sent, is_full) = (sent + bytes, false),
            Err(error) if error.kind() == ErrorKind::WouldBlock => is_full = true,
            Err(error) => panic!("the server ended it early: {error}"),
        }
    }
    until_active(&server, 0.0);
    assert_eq!(server.metric(ENDED), 1.0);
}

#[test]
fn members_that_have_nothing_to_say_stay_by_their_pings() {
    let data = tempfile::tempdir().unwrap();
    let server = impatient(data.path());
    let mut members: Vec<(Member, _)> = [(1, false), (2, true)]
        .map(|(number, is_websocket)| {
            let mut member = Member::connect(&server, is_websocket, number);
            let stream = member.open("notes");
            (member, stream)
        })
        .into();
    for (member, stream) in &mut members {
        // It holds for twice the timeout, in which nothing else is said.
        member.client.set_presence(*stream, b"here", 4_000).unwrap();
        member.send();
    }
    std::thread::scope(|scope| {
        for (member, _) in &mut members {
            scope.spawn(|| {
                member.until(|told| matches!(told, Told::Presence { .. }));
                member.until(|told| matches!(told, Told::PresenceLeft(_)));
            });
        }
    });
    assert_eq!(server.metric(ACTIVE), 2.0);
    assert_eq!(server.metric(ENDED), 0.0);
}
