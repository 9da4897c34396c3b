//! Documents between members of a real server, over restarts and crashes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Member, Server, Told};
use etherply_wire::ErrorCode;
use etherply_wire::kinds::resume;

#[test]
fn members_on_both_transports_and_on_any_core_converge() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut members: Vec<Member> = (0..6).map(|n| Member::connect(&server, n % 2 == 1, n)).collect();
    // Many documents, so that every core is the home of some.
    let names: Vec<String> = (0..8).map(|n| format!("rooms/{n}")).collect();
    let streams: Vec<Vec<_>> =
        members.iter_mut().map(|member| names.iter().map(|name| member.open(name)).collect()).collect();
    for round in 0..5 {
        for (n, member) in members.iter_mut().enumerate() {
            for &stream in &streams[n] {
                member.put(stream, &format!("{n}/{round}"), "x");
            }
        }
    }
    let keys = members.len() * 5;
    for room in 0..names.len() {
        let mut heads = Vec::new();
        for (member, rooms) in members.iter_mut().zip(&streams) {
            let stream = rooms[room];
            member.until_keys(stream, keys);
            heads.push(member.documents.get_mut(&stream).unwrap().doc().get_heads());
        }
        assert!(heads.windows(2).all(|pair| pair[0] == pair[1]), "{heads:?}");
    }
    for member in &members {
        let doubled = |told: &&Told| matches!(told, Told::Changes { duplicates: 1.., .. });
        assert_eq!(member.told.iter().find(doubled), None);
    }
    assert_eq!(server.metric("etherply_connections_active"), 6.0);
    assert_eq!(server.metric("etherply_operations_total"), 6.0 * 5.0 * 8.0);
    assert!(server.metric("etherply_fsyncs_total") >= 1.0);
}

#[test]
fn what_was_acked_survives_kill_and_a_member_resumes_from_its_cursor() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut writer = Member::connect(&server, false, 1);
    let stream = writer.open("notes");
    let mut reader = Member::connect(&server, true, 2);
    let read = reader.open("notes");
    for n in 0..20 {
        writer.put_durably(stream, &format!("k{n}"), "v");
    }
    reader.until_keys(read, 20);
    server.kill();

    let server = Server::start(data.path());
    let mut fresh = Member::connect(&server, false, 3);
    let fresh_stream = fresh.open("notes");
    assert_eq!(fresh.until_keys(fresh_stream, 20).len(), 20);
    // The old ones go on where they were: nothing is sent twice.
    writer.reconnect(&server);
    let opened = writer.until(|told| matches!(told, Told::Opened { .. }));
    assert!(matches!(opened, Told::Opened { resume: resume::CURSOR, .. }), "{opened:?}");
    reader.reconnect(&server);
    reader.until(|told| matches!(told, Told::Opened { .. }));
    reader.told.clear();
    writer.put_durably(stream, "after", "v");
    reader.until_keys(read, 21);
    let counts: usize = reader
        .told
        .iter()
        .map(|told| match told {
            Told::Changes { count, duplicates } => {
                assert_eq!(*duplicates, 0);
                *count
            }
            _ => 0,
        })
        .sum();
    assert_eq!(counts, 1);
}

#[test]
fn members_bring_back_what_a_server_with_an_empty_directory_lacks() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut ada = Member::connect(&server, false, 1);
    let mut ben = Member::connect(&server, true, 2);
    let (a, b) = (ada.open("notes"), ben.open("notes"));
    ada.put_durably(a, "ada", "1");
    ben.put_durably(b, "ben", "2");
    ada.until_keys(a, 2);
    ben.until_keys(b, 2);
    server.kill();

    let elsewhere = tempfile::tempdir().unwrap();
    let server = Server::start(elsewhere.path());
    ada.reconnect(&server);
    let opened = ada.until(|told| matches!(told, Told::Opened { .. }));
    assert!(matches!(opened, Told::Opened { resume: resume::RECONCILE, .. }), "{opened:?}");
    ada.until(|told| matches!(told, Told::Acked { .. }));
    let mut fresh = Member::connect(&server, false, 3);
    let stream = fresh.open("notes");
    assert_eq!(fresh.until_keys(stream, 2).len(), 2);
    // The other one comes with a cursor of the old log as well, and both go on.
    ben.reconnect(&server);
    ben.put(b, "ben", "3");
    ben.until(|told| matches!(told, Told::Acked { added: 1, .. }));
    while fresh.contents(stream)["ben"] != "3" {
        fresh.receive();
    }
}

#[test]
fn presence_and_broadcast_reach_the_others() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut ada = Member::connect(&server, false, 1);
    let a = ada.open("room");
    ada.client.set_presence(a, b"here", 60_000).unwrap();
    ada.send();
    let mut ben = Member::connect(&server, true, 2);
    let b = ben.open("room");
    let joined = ben.until(|told| matches!(told, Told::Presence { .. }));
    assert_eq!(joined, Told::Presence { full: true, members: 1 });
    // Who joins later is told of it with the table; nobody is told of its own state alone.
    let mut eve = Member::connect(&server, false, 3);
    eve.open("room");
    eve.until(|told| *told == Told::Presence { full: true, members: 1 });
    ben.client.set_presence(b, b"too", 60_000).unwrap();
    ben.send();
    assert_eq!(
        ada.until(|told| matches!(told, Told::Presence { .. })),
        Told::Presence { full: false, members: 1 },
        "the first that it hears: it was not told of itself"
    );
    ben.client.ping(1).unwrap();
    ben.until(|told| *told == Told::Pong(1));
    assert!(!ben.told.iter().any(|told| matches!(told, Told::Presence { .. })), "{:?}", ben.told);
    ben.client.broadcast(b, "wave", b"hello").unwrap();
    ben.send();
    let heard = ada.until(|told| matches!(told, Told::Broadcast(..)));
    assert_eq!(heard, Told::Broadcast("wave".to_owned(), b"hello".to_vec()));
    drop(ada);
    assert_eq!(ben.until(|told| matches!(told, Told::PresenceLeft(_))), Told::PresenceLeft(1));
}

#[test]
fn a_long_history_reaches_a_new_member_piece_by_piece() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut writer = Member::connect(&server, false, 1);
    let stream = writer.open("long");
    let value = "x".repeat(2_000);
    // More than the tail in memory holds, and more than one piece.
    for n in 0..300 {
        writer.put(stream, &format!("k{n}"), &value);
    }
    for _ in 0..300 {
        writer.until(|told| matches!(told, Told::Acked { .. }));
    }
    for websocket in [false, true] {
        let mut late = Member::connect(&server, websocket, 2 + u8::from(websocket));
        let stream = late.open("long");
        assert_eq!(late.until_keys(stream, 300).len(), 300);
    }
}

#[test]
fn a_document_has_the_size_that_the_operator_allows() {
    let data = tempfile::tempdir().unwrap();
    let bytes_max = 1024 * 1024;
    let mut command = common::command(data.path());
    command.args(["--document-bytes-max", &bytes_max.to_string()]);
    let server = Server::spawn(&mut command);
    let mut member = Member::connect(&server, false, 1);
    let stream = member.open("notes");
    member.put_durably(stream, "large", &"x".repeat(900_000));
    member.put(stream, "too large", &"x".repeat(200_000));
    let refused = member.until(|told| matches!(told, Told::Refused { .. }));
    assert_eq!(refused, Told::Refused { code: ErrorCode::DocumentTooLarge as u16, blocks: true });
    // The document is there for everybody, and others are written.
    let mut other = Member::connect(&server, true, 2);
    let copy = other.open("notes");
    assert_eq!(other.until_keys(copy, 1).len(), 1);
    other.put_durably(copy, "small", "v");
    let stream = other.open("others");
    other.put_durably(stream, "large", &"x".repeat(900_000));
    assert!(!server.has_panicked());
}
