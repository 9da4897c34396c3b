//! The limits fit each other: what is within every limit of its parts fits into a frame.

use etherply_wire::kinds::*;
use etherply_wire::limits::*;
use etherply_wire::{HEADER_BYTES, encode};

const CURSOR: Cursor = Cursor { epoch: u64::MAX, seq: u64::MAX, chain: [0xFF; 32] };

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn clock(entries: usize) -> Vec<ClockEntry> {
    let entry = ClockEntry { actor: vec![0xFF; ACTOR_BYTES_MAX], seq: u64::MAX, hash: [0xFF; 32] };
    vec![entry; entries]
}

#[test]
fn the_largest_hello_is_within_the_limit_before_hello() {
    let agent = text(AGENT_BYTES_MAX);
    let hello = Hello { protocol_min: 1, protocol_max: 1, capabilities: u64::MAX, agent };
    assert!(encode(0, &hello, &[]).len() <= HELLO_FRAME_BYTES_MAX);
}

#[test]
fn the_largest_open_and_renew_fit_a_frame() {
    let token = text(TOKEN_BYTES_MAX);
    let document = text(DOCUMENT_ID_BYTES_MAX);
    let open = Open { request: 1, rights: 1, document, token: Some(token.clone()), cursor: Some(CURSOR) };
    assert!(encode(0, &open, &[]).len() <= FRAME_BYTES_MAX);
    assert!(encode(0, &Renew { request: 1, token }, &[]).len() <= FRAME_BYTES_MAX);
}

#[test]
fn the_largest_push_and_its_answers_fit_a_frame() {
    const { assert!(CHANGE_BYTES_MAX <= PUSH_BYTES_MAX && PUSH_BYTES_MAX <= PUSH_BYTES_IN_FLIGHT_MAX) };
    let changes = vec![0; PUSH_BYTES_MAX];
    let lengths = vec![u32::MAX; PUSH_CHANGES_MAX];
    let push = Push { push: 1, generation: 1, lengths };
    assert!(encode(1, &push, &[&changes]).len() <= FRAME_BYTES_MAX);
    let positions = vec![u64::MAX; PUSH_CHANGES_MAX];
    let ack = Ack { push: 1, after_seq: 1, cursor: CURSOR, positions };
    assert!(encode(1, &ack, &[]).len() <= FRAME_BYTES_MAX);
    let refused = Refused {
        push: 1,
        generation: 1,
        index: 1,
        code: 1,
        retry_after_ms: 1,
        clock_complete: false,
        // Beyond the limit of a whole clock it names the actors of the push: one a change, at most.
        clock: clock(REFUSED_CLOCK_ENTRIES_MAX.max(PUSH_CHANGES_MAX)),
        message: text(MESSAGE_BYTES_MAX),
    };
    // With the genesis, which is a change, behind it.
    let genesis = vec![0; CHANGE_BYTES_MAX];
    assert!(encode(1, &refused, &[&genesis]).len() <= FRAME_BYTES_MAX);
}

#[test]
fn the_largest_reconcile_and_snapshot_piece_fit_a_frame() {
    let reconcile = Reconcile { cursor: CURSOR, more: true, clock: clock(RECONCILE_ENTRIES_MAX) };
    assert!(encode(1, &reconcile, &[]).len() <= FRAME_BYTES_MAX);
    let snapshot = Snapshot { cursor: CURSOR, total_bytes: u64::MAX, offset: u64::MAX };
    assert!(encode(1, &snapshot, &[&vec![0; SNAPSHOT_CHUNK_BYTES_MAX]]).len() <= FRAME_BYTES_MAX);
    // A change that nobody may split fits what brings it to the others.
    let changes = Changes { after_seq: 1, cursor: CURSOR, lengths: vec![u32::MAX] };
    assert!(encode(1, &changes, &[&vec![0; CHANGE_BYTES_MAX]]).len() <= FRAME_BYTES_MAX);
}

#[test]
fn the_largest_presence_and_broadcast_fit_a_frame() {
    let bare_bytes = |entries: usize| {
        let entry = PresenceEntry { member: [1; 16], state: Vec::new() };
        encode(1, &PresenceUpdate { version: 1, full: true, entries: vec![entry; entries] }, &[]).len()
    };
    let everybody = bare_bytes(PRESENCE_MEMBERS_MAX);
    assert!(everybody + PRESENCE_FRAME_BYTES_MAX + PRESENCE_BYTES_MAX <= FRAME_BYTES_MAX);
    let leave = PresenceLeave { version: 1, members: vec![[1; 16]; PRESENCE_MEMBERS_MAX] };
    assert!(encode(1, &leave, &[]).len() <= FRAME_BYTES_MAX);
    let topic = text(BROADCAST_TOPIC_BYTES_MAX);
    let broadcast = Broadcast { index: 1, member: [1; 16], topic };
    let bytes = encode(1, &broadcast, &[&vec![0; BROADCAST_BYTES_MAX]]).len();
    const { assert!(BROADCAST_RING_BYTES_MAX <= FRAME_BYTES_MAX) };
    assert!(bytes <= BROADCAST_RING_BYTES_MAX);
}

#[test]
fn every_limit_that_is_announced_is_named_once() {
    let announced = announced(30_000);
    let mut numbers: Vec<u16> = announced.iter().map(|(limit, _)| *limit as u16).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=12).collect::<Vec<u16>>());
    assert!(announced.iter().all(|(_, value)| *value > 0));
    assert!(announced.contains(&(Limit::FrameBytes, FRAME_BYTES_MAX as u64)));
    assert!(announced.contains(&(Limit::IdleMs, 30_000)));
}

#[test]
fn a_frame_of_exactly_the_largest_size_can_be_written() {
    for bytes in [FRAME_BYTES_MAX - 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1] {
        let body_bytes = size_of::<ArchivedPresenceSet>();
        let tail = vec![0; bytes - HEADER_BYTES - body_bytes];
        let frame = encode(1, &PresenceSet { ttl_ms: 1 }, &[&tail]);
        assert_eq!(frame.len(), bytes);
        let length = etherply_wire::frame_length(&frame, FRAME_BYTES_MAX);
        assert_eq!(length.is_ok(), bytes <= FRAME_BYTES_MAX);
    }
}
