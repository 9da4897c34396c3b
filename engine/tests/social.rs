//! Presence and broadcasts, and documents that nobody has open.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Host, MEMBER, Told, Writer, peer, session};
use etherply_engine::access::Grant;
use etherply_engine::change::ChangeLimits;
use etherply_engine::feed::QUANTUM_BYTES;
use etherply_engine::ids::DocumentId;
use etherply_engine::peer::Peer;
use etherply_engine::placement::shard_of;
use etherply_engine::presence::PRESENCE_TABLE_BYTES_MAX;
use etherply_engine::shard::{Effect, IDLE_DOCUMENT_US, IDLE_DOCUMENTS_MAX, Input, OpenRequest, Shard};
use etherply_wire::limits::{
    BROADCAST_BYTES_MAX, BROADCAST_RING_MAX, BROADCAST_TOPIC_BYTES_MAX, PRESENCE_BYTES_MAX,
    PRESENCE_FRAME_BYTES_MAX, PRESENCE_MEMBERS_MAX, PRESENCE_TTL_MS_MAX, PRESENCE_TTL_MS_MIN,
};
use etherply_wire::{ErrorCode, Rights};

fn set(host: &mut Host, id: u64, ttl_ms: u32, state: &[u8]) {
    let handle = host.handle(peer(id));
    host.turn(Input::PresenceSet { peer: peer(id), handle, ttl_ms, state });
}

fn broadcast(host: &mut Host, id: u64, topic: &str, payload: &[u8]) {
    let handle = host.handle(peer(id));
    host.turn(Input::Broadcast { peer: peer(id), handle, topic, payload });
}

/// Follows what a member is told.
#[derive(Default)]
struct View(BTreeMap<[u8; 16], Vec<u8>>);

impl View {
    fn follow(&mut self, host: &mut Host, id: u64) -> usize {
        let told = host.gather(peer(id));
        let frames = told.len();
        for told in told {
            match told {
                Told::PresenceUpdate(update) => {
                    if update.full {
                        self.0.clear();
                    }
                    self.0.extend(update.entries.into_iter().map(|entry| (entry.member, entry.state)));
                }
                Told::PresenceLeave(leave) => self.0.retain(|member, _| !leave.members.contains(member)),
                other => panic!("{other:?}"),
            }
        }
        frames
    }

    fn members(&self) -> Vec<&[u8]> {
        self.0.values().map(Vec::as_slice).collect()
    }
}

fn error(host: &mut Host, id: u64) -> Option<ErrorCode> {
    match host.take(peer(id)).pop() {
        Some(Told::Error(error)) => ErrorCode::from_number(error.code),
        None => None,
        Some(other) => panic!("{other:?}"),
    }
}

#[test]
fn presence_ends_when_it_is_not_set_again() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    let mut view = View::default();
    set(&mut host, 1, 5_000, b"here");
    view.follow(&mut host, 2);
    assert_eq!(view.members(), [b"here"]);
    host.wait_us(4_999_999);
    assert_eq!(view.follow(&mut host, 2), 0);
    set(&mut host, 1, 5_000, b"still");
    host.wait_us(4_999_999);
    view.follow(&mut host, 2);
    assert_eq!(view.members(), [b"still"]);
    host.wait_us(1);
    view.follow(&mut host, 2);
    assert!(view.members().is_empty());
}

#[test]
fn times_to_live_are_kept_within_their_limits() {
    for (asked_ms, ms) in [
        (0, PRESENCE_TTL_MS_MIN),
        (PRESENCE_TTL_MS_MIN, PRESENCE_TTL_MS_MIN),
        (PRESENCE_TTL_MS_MIN + 1, PRESENCE_TTL_MS_MIN + 1),
        (PRESENCE_TTL_MS_MAX - 1, PRESENCE_TTL_MS_MAX - 1),
        (PRESENCE_TTL_MS_MAX, PRESENCE_TTL_MS_MAX),
        (u32::MAX, PRESENCE_TTL_MS_MAX),
    ] {
        let mut host = Host::default();
        host.join(1);
        host.join(2);
        let mut view = View::default();
        set(&mut host, 1, asked_ms, b"x");
        host.wait_us(u64::from(ms) * 1_000 - 1);
        view.follow(&mut host, 2);
        assert_eq!(view.members().len(), 1, "{asked_ms}");
        host.wait_us(1);
        view.follow(&mut host, 2);
        assert_eq!(view.members().len(), 0, "{asked_ms}");
    }
}

#[test]
fn presence_ends_with_leaving_closing_and_losing_the_connection() {
    let mut host = Host::default();
    for id in 1..=4 {
        host.join(id);
    }
    for id in 1..=3 {
        set(&mut host, id, PRESENCE_TTL_MS_MAX, &[id as u8]);
    }
    let mut view = View::default();
    view.follow(&mut host, 4);
    assert_eq!(view.members(), [[1], [2], [3]]);
    let handle = host.handle(peer(1));
    host.turn(Input::PresenceLeave { peer: peer(1), handle });
    host.close(peer(2));
    host.turn(Input::Disconnected { peer: peer(3) });
    view.follow(&mut host, 4);
    assert!(view.members().is_empty());
}

#[test]
fn a_slow_member_gets_the_latest_state_and_a_late_one_the_table() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    let mut slow = View::default();
    for n in 0..100 {
        set(&mut host, 1, PRESENCE_TTL_MS_MAX, &[n]);
    }
    assert_eq!(slow.follow(&mut host, 2), 1, "one frame for a hundred states");
    assert_eq!(slow.members(), [[99]]);
    host.join(3);
    let mut late = View::default();
    late.follow(&mut host, 3);
    assert_eq!(late.0, slow.0);
    assert!(late.0.contains_key(&session(peer(1))));
}

#[test]
fn presence_has_limits_and_needs_the_right() {
    let mut host = Host::default();
    host.join(1);
    for (bytes, expected) in [
        (PRESENCE_BYTES_MAX - 1, None),
        (PRESENCE_BYTES_MAX, None),
        (PRESENCE_BYTES_MAX + 1, Some(ErrorCode::PresenceTooLarge)),
    ] {
        set(&mut host, 1, 1_000, &vec![1; bytes]);
        assert_eq!(error(&mut host, 1), expected, "{bytes} bytes");
    }
    host.open(peer(2), Rights::READ, None);
    host.take(peer(2));
    set(&mut host, 2, 1_000, b"x");
    assert_eq!(error(&mut host, 2), Some(ErrorCode::PresenceForbidden));
    broadcast(&mut host, 2, "t", b"x");
    assert_eq!(error(&mut host, 2), Some(ErrorCode::PresenceForbidden));
    assert!(host.gather(peer(2)).is_empty(), "nor is it told who is here");
}

#[test]
fn a_full_table_takes_no_further_member_and_is_sent_in_pieces() {
    let mut host = Host::default();
    let handle = host.join(1);
    // On another core, so that no feed here has to look at each of them ten thousand times.
    let distant = |id| Peer { core: 1, id };
    let max = PRESENCE_MEMBERS_MAX as u64;
    let set_distant = |host: &mut Host, id: u64| {
        let peer = distant(id);
        host.turn(Input::PresenceSet { peer, handle, ttl_ms: PRESENCE_TTL_MS_MAX, state: &[0; 64] });
        match host.take(peer).pop() {
            Some(Told::Error(error)) => ErrorCode::from_number(error.code),
            _ => None,
        }
    };
    for id in 1..=max + 1 {
        host.open(distant(id), Rights::PRESENCE, None);
        let expected = (id > max).then_some(ErrorCode::PresenceFull);
        assert_eq!(set_distant(&mut host, id), expected, "member {id}");
    }
    let mut view = View::default();
    let frames = view.follow(&mut host, 1);
    assert_eq!(view.0.len(), PRESENCE_MEMBERS_MAX);
    assert!(frames >= PRESENCE_MEMBERS_MAX * 64 / PRESENCE_FRAME_BYTES_MAX, "{frames} frames");
    assert_eq!(set_distant(&mut host, 1), None, "who is in it may go on");
    host.turn(Input::Close { peer: distant(2), handle });
    assert_eq!(set_distant(&mut host, max + 1), None, "there is room again");
}

#[test]
fn broadcasts_reach_the_others_in_order_and_a_slow_member_is_told_of_a_gap() {
    let mut host = Host::default();
    for id in 1..=3 {
        host.join(id);
    }
    broadcast(&mut host, 1, "t", b"one");
    broadcast(&mut host, 2, "t", b"two");
    let indexes = |told: Vec<Told>| -> Vec<u64> {
        told.into_iter()
            .map(|told| match told {
                Told::Broadcast(broadcast) => broadcast.index,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(indexes(host.gather(peer(3))), [1, 2]);
    assert_eq!(indexes(host.gather(peer(1))), [2], "not its own");
    for _ in 0..BROADCAST_RING_MAX + 5 {
        broadcast(&mut host, 2, "t", b"x");
    }
    let mut told = host.gather(peer(3));
    match told.remove(0) {
        Told::BroadcastGap(gap) => assert_eq!((gap.first, gap.last), (3, 7)),
        other => panic!("{other:?}"),
    }
    assert_eq!(indexes(told), (8..8 + BROADCAST_RING_MAX as u64).collect::<Vec<_>>());
    host.join(4);
    assert!(host.gather(peer(4)).is_empty(), "only those who are here get it");
}

#[test]
fn broadcasts_have_limits() {
    let mut host = Host::default();
    host.join(1);
    let topic = |bytes: usize| "t".repeat(bytes);
    for (topic_bytes, bytes, expected) in [
        (BROADCAST_TOPIC_BYTES_MAX - 1, BROADCAST_BYTES_MAX - 1, None),
        (BROADCAST_TOPIC_BYTES_MAX, BROADCAST_BYTES_MAX, None),
        (BROADCAST_TOPIC_BYTES_MAX + 1, 0, Some(ErrorCode::BroadcastTooLarge)),
        (0, BROADCAST_BYTES_MAX + 1, Some(ErrorCode::BroadcastTooLarge)),
    ] {
        broadcast(&mut host, 1, &topic(topic_bytes), &vec![1; bytes]);
        assert_eq!(error(&mut host, 1), expected, "{topic_bytes} and {bytes} bytes");
    }
}

#[test]
fn a_turn_of_broadcasts_ends_at_its_budget() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    for _ in 0..3 {
        broadcast(&mut host, 1, "t", b"x");
    }
    for more in [true, true, false] {
        let (told, again, _) = host.gather_turn(peer(2), 1);
        assert_eq!((told.len(), again), (1, more));
    }
}

#[test]
fn documents_that_nobody_has_open_are_let_go_and_read_anew() {
    let mut host = Host::default();
    host.join(1);
    let change = Writer::new(1).put("a", 1);
    host.acked(peer(1), 1, std::slice::from_ref(&change));
    host.wait_us(2 * IDLE_DOCUMENT_US);
    assert_eq!(host.shard.documents(), 1, "somebody has it open");
    host.close(peer(1));
    host.wait_us(IDLE_DOCUMENT_US - 1);
    assert_eq!(host.shard.documents(), 1);
    host.join(2);
    host.wait_us(1);
    assert_eq!(host.shard.documents(), 1, "it was opened again");
    host.close(peer(2));
    host.wait_us(IDLE_DOCUMENT_US);
    assert_eq!(host.shard.documents(), 0);
    host.join(3);
    assert_eq!(host.gather_changes(peer(3)), [change]);
}

#[test]
fn a_document_with_changes_on_their_way_to_the_disk_stays() {
    let mut host = Host::default();
    host.join(1);
    host.hold_commits = true;
    let change = Writer::new(1).put("a", 1);
    host.push(peer(1), 1, 1, std::slice::from_ref(&change));
    host.turn(Input::Disconnected { peer: peer(1) });
    host.wait_us(2 * IDLE_DOCUMENT_US);
    assert_eq!(host.shard.documents(), 1);
    host.commit();
    host.join(2);
    assert_eq!(host.gather_changes(peer(2)), [change]);
    host.close(peer(2));
    host.wait_us(IDLE_DOCUMENT_US);
    assert_eq!(host.shard.documents(), 0);
}

#[test]
fn more_idle_documents_than_the_limit_are_let_go_at_once() {
    let mut host = Host::default();
    for n in 0..=IDLE_DOCUMENTS_MAX {
        let document = DocumentId::new(&format!("rooms/{n}")).unwrap();
        let request = OpenRequest {
            peer: peer(1),
            session: [1; 16],
            request: 1,
            document,
            rights: MEMBER,
            grant: Grant::anonymous(),
            cursor: None,
        };
        host.turn(Input::Open(request));
        host.turn(Input::Close { peer: peer(1), handle: host.handle(peer(1)) });
        if n + 1 >= IDLE_DOCUMENTS_MAX {
            host.wait_us(1);
            assert_eq!(host.shard.documents(), IDLE_DOCUMENTS_MAX);
        }
    }
}

#[test]
fn handles_name_their_shard_and_are_never_shared() {
    const SHARDS: u16 = 5;
    let mut handles = BTreeSet::new();
    let mut shards: Vec<Shard> = (0..SHARDS).map(|n| Shard::new(n, SHARDS, ChangeLimits::DEFAULT)).collect();
    for n in 0..500 {
        let document = DocumentId::new(&format!("rooms/{n}")).unwrap();
        let home = shard_of(&document, SHARDS);
        let request = OpenRequest {
            peer: Peer { core: 0, id: n },
            session: [1; 16],
            request: 1,
            document,
            rights: MEMBER,
            grant: Grant::anonymous(),
            cursor: None,
        };
        let mut effects = Vec::new();
        shards[usize::from(home)].step(Input::Open(request), Default::default(), &mut effects);
        let Some(Effect::Load { handle, .. }) = effects.pop() else { panic!("{effects:?}") };
        assert_ne!(handle, 0);
        assert_eq!(Shard::home_of(handle, SHARDS), home);
        assert!(handles.insert(handle), "{handle} twice");
    }
}

#[test]
fn a_state_that_only_goes_on_is_not_told_again() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    let mut view = View::default();
    set(&mut host, 1, 5_000, b"here");
    assert_eq!(view.follow(&mut host, 2), 1);
    for _ in 0..3 {
        host.wait_us(4_000_000);
        set(&mut host, 1, 5_000, b"here");
        assert_eq!(view.follow(&mut host, 2), 0);
    }
    host.wait_us(4_999_999);
    assert_eq!(view.members(), [b"here"], "it was renewed all the same");
    set(&mut host, 1, 5_000, b"new");
    view.follow(&mut host, 2);
    assert_eq!(view.members(), [b"new"]);
}

#[test]
fn nobody_is_told_of_itself_alone() {
    let mut host = Host::default();
    for id in 1..=3 {
        host.join(id);
    }
    set(&mut host, 1, 60_000, b"a");
    assert_eq!(host.woken.iter().filter(|(who, _)| *who == peer(1)).count(), 0, "nor woken for it");
    let mut views = [View::default(), View::default(), View::default()];
    for id in [2, 3] {
        assert_eq!(views[id as usize - 1].follow(&mut host, id), 1);
    }
    set(&mut host, 2, 60_000, b"b");
    assert_eq!(views[0].follow(&mut host, 1), 1, "not its own before, which others were sent");
    assert!(views[0].0.contains_key(&session(peer(2))));
    assert_eq!(views[1].follow(&mut host, 2), 0);
    assert_eq!(views[2].follow(&mut host, 3), 1);
    set(&mut host, 1, 60_000, b"a2");
    assert_eq!(views[0].follow(&mut host, 1), 0);
    // When others change as well, the frame is shared, and may hold its own state.
    set(&mut host, 3, 60_000, b"c");
    for id in 1..=3 {
        views[id as usize - 1].follow(&mut host, id);
    }
    let leaving = host.handle(peer(1));
    host.turn(Input::PresenceLeave { peer: peer(1), handle: leaving });
    assert_eq!(views[0].follow(&mut host, 1), 0);
    for id in [2, 3] {
        assert_eq!(views[id as usize - 1].follow(&mut host, id), 1);
        assert!(!views[id as usize - 1].0.contains_key(&session(peer(1))));
    }
}

#[test]
fn the_states_of_a_document_have_a_limit_together() {
    let mut host = Host::default();
    let handle = host.join(1);
    let distant = |id| Peer { core: 1, id };
    let each = PRESENCE_BYTES_MAX + 16;
    let fits = PRESENCE_TABLE_BYTES_MAX / each;
    let set_distant = |host: &mut Host, id: u64, bytes: usize| {
        let (peer, state) = (distant(id), vec![1; bytes]);
        host.turn(Input::PresenceSet { peer, handle, ttl_ms: PRESENCE_TTL_MS_MAX, state: &state });
        match host.take(peer).pop() {
            Some(Told::Error(error)) => ErrorCode::from_number(error.code),
            _ => None,
        }
    };
    for id in 0..=fits as u64 + 1 {
        host.open(distant(id), Rights::PRESENCE, None);
        host.take(distant(id));
    }
    for id in 0..fits as u64 {
        assert_eq!(set_distant(&mut host, id, PRESENCE_BYTES_MAX), None);
    }
    let left = PRESENCE_TABLE_BYTES_MAX - fits * each;
    let last = fits as u64;
    assert_eq!(set_distant(&mut host, last, left - 16 + 1), Some(ErrorCode::PresenceFull));
    assert_eq!(set_distant(&mut host, last, left - 16 - 1), None);
    assert_eq!(set_distant(&mut host, last, left - 16), None, "its own state makes room for itself");
    assert_eq!(set_distant(&mut host, last + 1, 0), Some(ErrorCode::PresenceFull));
    assert_eq!(set_distant(&mut host, 0, 10), None);
    assert_eq!(set_distant(&mut host, last + 1, 0), None, "there is room again");
}

#[test]
fn a_long_table_is_sent_in_turns_beside_changes() {
    let mut host = Host::default();
    let handle = host.join(1);
    let distant = |id| Peer { core: 1, id };
    const MEMBERS: u64 = 200;
    for id in 1..=MEMBERS {
        host.open(distant(id), Rights::PRESENCE, None);
        let state = vec![id as u8; PRESENCE_BYTES_MAX];
        let peer = distant(id);
        host.turn(Input::PresenceSet { peer, handle, ttl_ms: PRESENCE_TTL_MS_MAX, state: &state });
    }
    host.join(2);
    let changes = Writer::new(1).puts(30);
    for change in &changes {
        host.acked(peer(1), 1, std::slice::from_ref(change));
    }
    let (mut table, mut got, mut turns, mut fulls) = (BTreeMap::new(), Vec::new(), 0, 0);
    loop {
        let (told, more, _) = host.gather_turn(peer(2), QUANTUM_BYTES);
        turns += 1;
        let mut bytes = 0;
        for told in told {
            match told {
                Told::PresenceUpdate(update) => {
                    fulls += usize::from(update.full);
                    bytes += update.entries.iter().map(|entry| entry.state.len()).sum::<usize>();
                    table.extend(update.entries.into_iter().map(|entry| (entry.member, entry.state)));
                }
                Told::PresenceLeave(leave) => leave.members.iter().for_each(|gone| drop(table.remove(gone))),
                Told::Changes(_, carried) => got.extend(carried),
                other => panic!("{other:?}"),
            }
        }
        assert!(bytes <= QUANTUM_BYTES, "{bytes} bytes in one turn");
        if turns == 1 {
            assert_eq!(got, changes, "they do not wait for the table");
        }
        if turns == 5 {
            // Somebody that was told of leaves, and somebody that was not: neither may stay.
            for id in [1, MEMBERS] {
                host.turn(Input::Close { peer: distant(id), handle });
            }
        }
        if !more {
            break;
        }
    }
    assert!(turns > 10 && fulls == 1, "{turns} turns");
    assert_eq!(table.len() as u64, MEMBERS - 2);
    assert!(!table.contains_key(&session(distant(1))) && !table.contains_key(&session(distant(MEMBERS))));
}
