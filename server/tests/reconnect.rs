//! Clients that lose their connection to a real server: what it tells them to do, and what they carry over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use automerge::transaction::Transactable as _;
use common::{Member, Server, Told};
use etherply_client::{Backoff, Next};
use etherply_server::data_plane::limits::{RETRY_AFTER_STOP_MS, RETRY_JITTER_MS};

#[test]
fn a_server_that_stops_says_when_to_come_back() {
    let data = tempfile::tempdir().unwrap();
    for websocket in [false, true] {
        let server = Server::start(data.path());
        let mut member = Member::connect(&server, websocket, 1);
        member.open("notes");
        server.terminate();
        member.until(|told| *told == Told::GoingAway);
        let asked = Next::Reconnect { after_ms: RETRY_AFTER_STOP_MS, jitter_ms: RETRY_JITTER_MS };
        let next = member.client.disconnected();
        assert_eq!(next, asked);
        let mut backoff = Backoff::default();
        let longest = u64::from(RETRY_AFTER_STOP_MS + RETRY_JITTER_MS);
        assert_eq!(backoff.wait_ms(next, 0, u64::MAX), Some(longest));
        assert!(server.wait().success());
    }
}

#[test]
fn presence_and_unacked_pushes_come_back_with_the_connection() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut ada = Member::connect(&server, true, 1);
    let room = ada.open("room");
    let mut eve = Member::connect(&server, false, 3);
    eve.open("room");
    ada.client.set_presence(room, b"here", 60_000).unwrap();
    ada.send();
    eve.until(|told| matches!(told, Told::Presence { members: 1, .. }));
    server.kill();
    // Nobody hears this, and nothing of it is lost.
    let document = ada.documents.get_mut(&room).unwrap();
    document.doc().put(automerge::ROOT, "k", "v").unwrap();
    document.push(&mut ada.client, 7).unwrap();

    let server = Server::start(data.path());
    let mut ben = Member::connect(&server, false, 2);
    let seen = ben.open("room");
    ada.reconnect(&server);
    ada.until(|told| matches!(told, Told::Acked { tag: 7, added: 1 }));
    let is_there = |told: &Told| matches!(told, Told::Presence { members: 1, .. });
    ben.until(is_there);
    assert_eq!(ben.until_keys(seen, 1)["k"], "v");
}
