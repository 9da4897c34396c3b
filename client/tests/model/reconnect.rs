//! What a client carries from one connection to the next, and when it tries again.

use etherply_client::limits::OPEN_RETRY_MS;
use etherply_client::{Next, StreamState};
use etherply_wire::encode_into;
use etherply_wire::kinds::{Error, GoingAway};

use super::*;

/// Bytes of one script's exchange, both ways, up to which it is cut; below what the whole script takes.
const CUTS: usize = 1_400;

/// Two members; the first one's connection ends after exactly `cut` bytes in both directions together.
fn cut_after(cut: usize) -> bool {
    let mut world = World::new(2);
    world.connect(1);
    (0..3).for_each(|key| world.members[1].edit(key));
    (0..4).for_each(|_| world.exchange(1, usize::MAX));
    world.peer.commit(&mut world.queue, 10, &mut world.conns);
    let stream = world.members[0].document.stream();
    world.members[0].client.set_presence(stream, b"here", 60_000).unwrap();
    world.connect(0);
    let (mut left, mut idle) = (cut, 0);
    while left > 0 && idle < 3 {
        let moved = world.carry(0, left);
        left -= moved;
        idle = if moved == 0 { idle + 1 } else { 0 };
        if world.members[0].tags < 4 {
            world.members[0].edit(9);
        }
        world.peer.commit(&mut world.queue, 2, &mut world.conns);
        if let Some(conn) = world.conns[0].as_mut() {
            world.peer.relay(conn, 2);
        }
    }
    world.cut(0);
    while world.members[0].tags < 5 {
        world.members[0].edit(10);
    }
    world.heal();
    world.check();
    let here = |set: &Option<(u32, Vec<u8>)>| set.as_ref().is_some_and(|(_, state)| state == b"here");
    assert!(world.peer.presence.last().is_some_and(here), "presence is set on the last connection");
    left == 0
}

#[test]
fn a_connection_may_end_at_any_byte() {
    let reached = (0..CUTS).filter(|&cut| cut_after(cut)).count();
    // Otherwise the script was shorter than the cuts, and the last of them cut nothing.
    assert_eq!(reached, CUTS);
}

#[test]
fn a_push_whose_ack_was_lost_is_acked_again_and_adds_nothing() {
    let mut world = World::new(1);
    world.connect(0);
    world.members[0].edit(1);
    (0..3).for_each(|_| world.exchange(0, usize::MAX));
    world.peer.commit(&mut world.queue, 1, &mut world.conns);
    assert_eq!((world.peer.len(), world.members[0].acked), (1, 0));
    world.cut(0);
    let stream = world.members[0].document.stream();
    assert_eq!(world.members[0].client.unacked(stream).count(), 1);
    world.heal();
    assert_eq!((world.peer.len(), world.members[0].acked), (1, 1));
    world.check();
}

#[test]
fn a_cut_between_a_refusal_and_what_follows_sends_everything_again_in_order() {
    for code in [ErrorCode::Overloaded, ErrorCode::StorageUnavailable, ErrorCode::SequenceGap] {
        let mut world = World::new(2);
        world.connect(0);
        (0..3).for_each(|key| world.members[0].edit(key));
        (0..2).for_each(|_| world.exchange(0, usize::MAX));
        world.peer.refuse_next = Some(code);
        world.members[0].edit(4);
        world.exchange(0, usize::MAX);
        world.cut(0);
        world.peer.crash(&mut world.queue);
        world.heal();
        world.check();
    }
}

#[test]
fn another_epoch_of_the_document_is_reconciled() {
    for kept in 0..=6 {
        let mut world = World::new(3);
        for _ in 0..2 {
            (0..3).for_each(|index| world.members[index].edit(3));
        }
        world.heal();
        (0..3).for_each(|index| world.cut(index));
        world.peer.restore(kept);
        world.peer.epoch += 1;
        world.members[1].edit(5);
        world.heal();
        world.check();
        let cursor = world.members[2].client.cursor(world.members[2].document.stream()).unwrap();
        assert_eq!(cursor.epoch, 2);
    }
}

#[test]
fn presence_is_set_again_for_what_is_left_of_its_time() {
    let mut world = World::new(1);
    let stream = world.members[0].document.stream();
    let client = &mut world.members[0].client;
    client.set_presence(stream, b"early", 30_000).unwrap();
    client.set_presence(stream, b"latest", 30_000).unwrap();
    let talk = |world: &mut World| {
        world.connect(0);
        (0..4).for_each(|_| world.exchange(0, usize::MAX));
    };
    talk(&mut world);
    let latest = |ttl_ms: u32| Some((ttl_ms, b"latest".to_vec()));
    assert_eq!(world.peer.presence, [latest(30_000)]);
    for (after_ms, left_ms) in [(10_000, 20_000), (19_999, 1_000), (999, 1_000)] {
        world.cut(0);
        world.now_ms += after_ms;
        talk(&mut world);
        assert_eq!(world.peer.presence.pop(), Some(latest(left_ms)), "{after_ms} ms later");
    }
    world.cut(0);
    world.now_ms += 1_000;
    world.peer.presence.clear();
    talk(&mut world);
    assert_eq!(world.peer.presence, [], "its time is over");

    let client = &mut world.members[0].client;
    client.set_presence(stream, b"here", 30_000).unwrap();
    client.leave_presence(stream).unwrap();
    talk(&mut world);
    world.cut(0);
    talk(&mut world);
    assert_eq!(world.peer.presence, [None], "who left stays away");
}

#[test]
fn presence_is_told_to_a_server_that_asks_for_the_clock_first() {
    let mut world = World::new(1);
    let stream = world.members[0].document.stream();
    world.members[0].edit(1);
    world.heal();
    world.cut(0);
    world.peer.restore(0);
    world.members[0].client.set_presence(stream, b"here", 5_000).unwrap();
    world.heal();
    world.check();
    assert_eq!(world.peer.presence, [Some((5_000, b"here".to_vec()))]);
}

#[test]
fn an_open_that_is_refused_for_a_while_is_tried_again_in_time_and_one_for_good_is_not() {
    for (code, opens) in [(ErrorCode::Overloaded, true), (ErrorCode::Forbidden, false)] {
        let mut world = World::new(1);
        world.peer.refuse_opens = Some(code);
        world.connect(0);
        let stream = world.members[0].document.stream();
        let mut retried = None;
        for _ in 0..4 {
            let member = &mut world.members[0];
            member.send(0);
            let conn = world.conns[0].as_mut().unwrap();
            world.peer.receive(conn, 0, &std::mem::take(&mut member.to_server), &mut world.queue);
            let mut down = std::mem::take(&mut conn.output);
            let on = &mut |event: Event<'_>| {
                if let Event::OpenFailed { retries, .. } = event {
                    retried = Some(retries);
                }
            };
            member.client.input(&mut down, 0, on).unwrap();
        }
        assert_eq!(retried, Some(opens));
        world.peer.refuse_opens = None;
        for (now_ms, is_open) in [(OPEN_RETRY_MS - 1, false), (2 * OPEN_RETRY_MS, opens)] {
            world.now_ms = now_ms;
            world.members[0].client.tick(now_ms);
            (0..3).for_each(|_| world.exchange(0, usize::MAX));
            assert_eq!(world.members[0].client.state(stream) == Some(StreamState::Open), is_open);
        }
    }
}

/// What the server says at the end of a connection, and what the client makes of it.
#[test]
fn the_servers_last_words_decide_what_comes_next() {
    let going = |code: ErrorCode| GoingAway {
        code: code as u16,
        retry_after_ms: 700,
        retry_jitter_ms: 3_000,
        message: String::new(),
    };
    let error = |code: u16, retry_after_ms| Error {
        request: 0,
        code,
        kind: 0,
        retry_after_ms,
        message: String::new(),
    };
    let (busy, bad) = (ErrorCode::TooManyConnections as u16, ErrorCode::UnsupportedProtocol as u16);
    for (goodbye, fault, expected) in [
        (None, None, Next::RECONNECT),
        (Some(ErrorCode::ShuttingDown), None, Next::Reconnect { after_ms: 700, jitter_ms: 3_000 }),
        (None, Some((busy, 900)), Next::Reconnect { after_ms: 900, jitter_ms: 0 }),
        (
            Some(ErrorCode::ShuttingDown),
            Some((busy, 900)),
            Next::Reconnect { after_ms: 900, jitter_ms: 3_000 },
        ),
        (None, Some((bad, 900)), Next::Stop),
        (Some(ErrorCode::ShuttingDown), Some((bad, 0)), Next::Stop),
        (None, Some((9_999, 5)), Next::Reconnect { after_ms: 5, jitter_ms: 0 }),
    ] {
        let mut world = World::new(1);
        world.connect(0);
        (0..3).for_each(|_| world.exchange(0, usize::MAX));
        let conn = world.conns[0].as_mut().unwrap();
        if let Some(code) = goodbye {
            conn.send(|out| encode_into(out, 0, &going(code), &[]));
        }
        if let Some((code, retry_after_ms)) = fault {
            conn.send(|out| encode_into(out, 0, &error(code, retry_after_ms), &[]));
        }
        let client = &mut world.members[0].client;
        let ended = client.input(&mut conn.output, 0, &mut |_| {});
        assert_eq!(ended.is_err(), fault.is_some());
        assert_eq!(client.disconnected(), expected);
        assert_eq!(client.disconnected(), expected, "asking twice changes nothing");
        client.connect(0).unwrap();
        assert_eq!(client.disconnected(), Next::RECONNECT, "another connection, other words");
    }
}
