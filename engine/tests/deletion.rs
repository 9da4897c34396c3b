//! Deleting a document: who is told when, what waits for it, and what happens if it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Host, MEMBER, Told, Writer, document, peer};
use etherply_engine::log::{Deleted, LogError};
use etherply_engine::shard::{DELETIONS_WAITING_MAX, Input};
use etherply_wire::ErrorCode;

const DELETED: u16 = ErrorCode::DocumentDeleted as u16;

fn delete(host: &mut Host, token: u64) {
    host.turn(Input::Delete { document: document(), token });
}

fn is_closed(told: &[Told]) -> bool {
    matches!(told, [Told::Close(close)] if close.code == DELETED)
}

#[test]
fn all_who_have_it_open_are_told_and_nobody_gets_it_again() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    let mut writer = Writer::new(1);
    let changes = writer.puts(3);
    host.acked(peer(1), 1, &changes[..2]);
    delete(&mut host, 7);
    assert_eq!(host.deletions, [(7, Ok(Deleted::Now))]);
    assert!(is_closed(&host.take(peer(1))) && is_closed(&host.take(peer(2))));
    assert!(!host.has_stream(peer(1)) && !host.has_stream(peer(2)));
    assert_eq!(host.shard.documents(), 0, "it holds no memory");
    // A returning client, with its cursor or without, is refused, so it has no stream to push by.
    for cursor in [None, Some(etherply_wire::kinds::Cursor { epoch: 1, seq: 2, chain: [1; 32] })] {
        host.open(peer(3), MEMBER, cursor);
        let told = host.take(peer(3));
        assert!(matches!(&told[..], [Told::Error(error)] if error.code == DELETED), "{told:?}");
        assert_eq!(host.shard.documents(), 0);
    }
    delete(&mut host, 8);
    assert_eq!(host.deletions[1], (8, Ok(Deleted::Before)));
}

#[test]
fn nobody_is_told_before_the_tombstone_is_durable_and_what_comes_meanwhile_waits() {
    let mut host = Host::default();
    host.join(1);
    host.hold_commits = true;
    host.hold_tombstones = true;
    let mut writer = Writer::new(1);
    let changes = writer.puts(3);
    host.push(peer(1), 1, 1, &changes[..1]);
    delete(&mut host, 7);
    assert!(host.tombstones.is_empty(), "a push is on its way to the disk");
    host.push(peer(1), 2, 1, &changes[1..2]);
    host.open(peer(2), MEMBER, None);
    host.commit();
    host.take(peer(1)).remove(0).ack();
    assert_eq!(host.tombstones.len(), 1);
    host.push(peer(1), 3, 1, &changes[2..]);
    assert!(host.take(peer(1)).is_empty() && host.take(peer(2)).is_empty() && host.commits.is_empty());
    host.bury();
    assert!(is_closed(&host.take(peer(1))));
    assert!(matches!(&host.take(peer(2))[..], [Told::Error(error)] if error.code == DELETED));
    assert_eq!(host.in_flight[&peer(1)], 0, "what waited is settled");
    assert_eq!(host.deletions, [(7, Ok(Deleted::Now))]);
}

#[test]
fn what_waited_goes_on_if_the_tombstone_is_not_stored() {
    let mut host = Host::default();
    host.join(1);
    host.hold_tombstones = true;
    let mut writer = Writer::new(1);
    let changes = writer.puts(2);
    host.acked(peer(1), 1, &changes[..1]);
    delete(&mut host, 7);
    host.push(peer(1), 2, 1, &changes[1..]);
    host.open(peer(2), MEMBER, None);
    let why = LogError::Unavailable { why: "the queue is full".to_owned() };
    host.tombstones.clear();
    host.turn(Input::Deleted { document: document(), result: Err(why.clone()) });
    assert_eq!(host.deletions, [(7, Err(why))]);
    assert_eq!(host.take(peer(1)).remove(0).ack().positions, [2]);
    host.take(peer(2)).remove(0).opened();
    assert_eq!(host.gather_changes(peer(2)), changes);
    delete(&mut host, 8);
    host.bury();
    assert_eq!(host.deletions[1], (8, Ok(Deleted::Now)));
}

#[test]
fn a_document_that_was_never_stored_cannot_be_deleted_and_can_be_begun() {
    let mut host = Host::default();
    delete(&mut host, 7);
    assert_eq!(host.deletions, [(7, Ok(Deleted::Absent))]);
    host.join(1);
    delete(&mut host, 8);
    assert_eq!(host.deletions[1], (8, Ok(Deleted::Absent)));
    let mut writer = Writer::new(1);
    host.acked(peer(1), 1, &writer.puts(1));
    delete(&mut host, 9);
    assert_eq!(host.deletions[2], (9, Ok(Deleted::Now)));
}

#[test]
fn requests_for_one_document_share_a_tombstone_and_are_bounded() {
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    host.acked(peer(1), 1, &writer.puts(1));
    host.hold_tombstones = true;
    let most = DELETIONS_WAITING_MAX as u64;
    for token in 1..=most {
        delete(&mut host, token);
    }
    assert!(host.deletions.is_empty());
    delete(&mut host, most + 1);
    assert!(
        matches!(&host.deletions[..], [(token, Err(LogError::Unavailable { .. }))] if *token == most + 1)
    );
    assert_eq!(host.tombstones.len(), 1);
    host.bury();
    assert_eq!(host.deletions.len(), DELETIONS_WAITING_MAX + 1);
    assert!(host.deletions[1..].iter().all(|(_, result)| *result == Ok(Deleted::Now)));
}

#[test]
fn a_failed_commit_answers_and_afterwards_nothing_is_deleted() {
    let mut host = Host::default();
    host.join(1);
    host.hold_commits = true;
    let mut writer = Writer::new(1);
    host.push(peer(1), 1, 1, &writer.puts(1));
    delete(&mut host, 7);
    host.fail_commit();
    delete(&mut host, 8);
    let failed = |result: &Result<Deleted, LogError>| matches!(result, Err(LogError::Unavailable { .. }));
    assert_eq!(host.deletions.len(), 2);
    assert!(host.deletions.iter().all(|(_, result)| failed(result)) && host.tombstones.is_empty());
    assert!(host.has_stream(peer(1)), "reading goes on");
    host.open(peer(2), MEMBER, None);
    host.take(peer(2)).remove(0).opened();
}

#[test]
fn a_panic_meanwhile_does_not_bring_it_back() {
    use etherply_engine::faults::Faults;
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    host.acked(peer(1), 1, &writer.puts(1));
    host.hold_tombstones = true;
    delete(&mut host, 7);
    host.shard.set_faults(Faults::new("rooms".to_owned(), 1));
    let handle = host.handle(peer(1));
    host.turn(Input::PresenceSet { peer: peer(1), handle, ttl_ms: 60_000, state: b"here" });
    host.shard.set_faults(Faults::none());
    assert!(!host.has_stream(peer(1)), "the panic ended it");
    host.take(peer(1));
    host.open(peer(1), MEMBER, None);
    assert!(host.take(peer(1)).is_empty(), "it waits for the tombstone");
    host.bury();
    assert_eq!(host.deletions, [(7, Ok(Deleted::Now))]);
    assert!(matches!(&host.take(peer(1))[..], [Told::Error(error)] if error.code == DELETED));
}
