//! Changes that are held against their document before they are stored: what waits, what is taken back, who is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Host, MEMBER, Told, Writer, document, hash, peer};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::MemoryLog;
use etherply_engine::shard::{Input, Unverified};
use etherply_wire::ErrorCode;

fn host() -> Host {
    let mut host = Host::new(MemoryLog::new()).with_verification();
    host.join(1);
    host.join(2);
    host
}

fn breaks(index: usize) -> Result<(), Unverified> {
    Err(Unverified::Breaks { index, what: "it panicked".to_owned() })
}

/// All groups are sound, until nothing waits.
fn verify_all(host: &mut Host) {
    while !host.verifications.is_empty() {
        host.verify(Ok(()));
        host.flush();
    }
}

fn pushes(told: &[Told]) -> Vec<(&'static str, u64)> {
    let named = |told: &Told| match told {
        Told::Ack(ack) => ("acked", ack.push),
        Told::Refused(refused, _) => ("refused", refused.push),
        other => panic!("{other:?}"),
    };
    told.iter().map(named).collect()
}

#[test]
fn nothing_is_stored_acked_or_relayed_before_it_is_verified() {
    let mut host = host();
    let changes = Writer::new(1).puts(2);
    host.push(peer(1), 1, 1, &changes);
    assert_eq!(host.end().seq, 0, "it is not stored");
    assert!(host.take(peer(1)).is_empty() && host.gather(peer(2)).is_empty());
    let (_, _, after, records) = host.verifications.front().unwrap();
    assert_eq!((after.seq, records.len(), records[1].hash.0), (0, 2, hash(&changes[1])));
    assert!(!host.shard.is_settled());
    host.verify(Ok(()));
    assert_eq!(host.take(peer(1)).remove(0).ack().positions, [1, 2]);
    assert_eq!(host.gather_changes(peer(2)), changes);
    assert!(host.shard.is_settled() && host.in_flight[&peer(1)] == 0);
}

#[test]
fn what_comes_meanwhile_waits_until_the_group_is_durable_and_goes_together() {
    let mut host = host();
    let (one, two) = (Writer::new(1).puts(3), Writer::new(2).puts(1));
    host.push(peer(1), 1, 1, &one[..1]);
    host.push(peer(1), 2, 1, &one[1..2]);
    host.push(peer(2), 1, 1, &two);
    host.push(peer(1), 3, 1, &one[2..]);
    assert_eq!(host.verifications.len(), 1, "one group of a document at a time");
    host.hold_commits = true;
    host.verify(Ok(()));
    host.flush();
    assert!(host.verifications.is_empty(), "the first group is not durable");
    host.commit();
    host.flush();
    let (_, _, after, records) = host.verifications.front().unwrap();
    assert_eq!((*after, records.len()), (host.end(), 3), "all that waited");
    host.hold_commits = false;
    verify_all(&mut host);
    assert_eq!(pushes(&host.take(peer(1))), [("acked", 1), ("acked", 2), ("acked", 3)]);
    assert_eq!(pushes(&host.take(peer(2))), [("acked", 1)]);
    assert_eq!(host.end().seq, 4);
}

#[test]
fn a_change_that_breaks_the_document_is_refused_and_what_others_pushed_is_stored() {
    let mut host = host();
    let (one, mut two) = (Writer::new(1).puts(4), Writer::new(2));
    // One turn: two pushes of the first member, one of the second between them.
    host.push_open(peer(1), 1, 1, &one[..1]);
    host.push_open(peer(1), 2, 1, &one[1..3]);
    let other = two.puts(1);
    host.push_open(peer(2), 1, 1, &other);
    host.push_open(peer(1), 3, 1, &one[3..]);
    host.flush();
    // The second change of the second push.
    host.verify(breaks(2));
    host.flush();
    verify_all(&mut host);
    let told = host.take(peer(1));
    assert_eq!(pushes(&told), [("acked", 1), ("refused", 2)], "the rest of its generation is passed over");
    let (code, refused, _) = told[1].clone().refused();
    assert_eq!((code, refused.index, refused.retry_after_ms), (ErrorCode::ChangeUnusable, 1, 0));
    assert_eq!((refused.clock.len(), refused.clock[0].seq, refused.clock[0].hash), (1, 1, hash(&one[0])));
    assert_eq!(pushes(&host.take(peer(2))), [("acked", 1)]);
    assert_eq!((host.in_flight[&peer(1)], host.in_flight[&peer(2)], host.end().seq), (0, 0, 2));
    let stored: Vec<_> = host.log.records(&document()).iter().map(|record| record.change.to_vec()).collect();
    assert_eq!(stored, [one[0].clone(), other[0].clone()]);
    // It goes on from there.
    host.push(peer(1), 4, 2, &one[1..2]);
    verify_all(&mut host);
    assert_eq!(pushes(&host.take(peer(1))), [("acked", 4)]);
}

#[test]
fn a_refusal_tells_of_nothing_that_may_be_taken_back() {
    let mut host = host();
    let (one, two) = (Writer::new(1).puts(1), Writer::new(2).puts(2));
    host.push_open(peer(1), 1, 1, &one);
    host.push_open(peer(2), 1, 1, &two[1..]);
    host.push_open(peer(2), 2, 1, &two[..1]);
    host.flush();
    assert!(host.take(peer(2)).is_empty(), "it waits");
    host.verify(breaks(0));
    assert_eq!(pushes(&host.take(peer(1))), [("refused", 1)]);
    let told = host.take(peer(2));
    let (code, refused, _) = told[0].clone().refused();
    assert_eq!((told.len(), code, refused.clock.len()), (1, ErrorCode::SequenceGap, 0));
    assert!(host.shard.is_settled() && host.in_flight.values().all(|bytes| *bytes == 0));
}

#[test]
fn a_clock_tells_of_nothing_that_may_be_taken_back() {
    let mut host = host();
    host.push(peer(1), 1, 1, &Writer::new(1).puts(1));
    let foreign = etherply_wire::kinds::Cursor { epoch: 1, seq: 9, chain: [1; 32] };
    host.open(peer(3), MEMBER, Some(foreign));
    let told = host.take(peer(3));
    assert!(matches!(&told[..], [Told::Opened(_)]), "its clock waits: {told:?}");
    host.verify(breaks(0));
    let told = host.take(peer(3));
    assert!(matches!(&told[..], [Told::Reconcile(clock)] if clock.clock.is_empty()), "{told:?}");
}

#[test]
fn what_cannot_be_verified_now_is_refused_for_later() {
    for (unverified, code, retry_ms) in [
        (Unverified::Unavailable { why: "x".to_owned() }, ErrorCode::StorageUnavailable, 5_000),
        (Unverified::TooLarge { what: "x".to_owned() }, ErrorCode::DocumentTooLarge, 0),
    ] {
        let mut host = host();
        host.push(peer(1), 1, 1, &Writer::new(1).puts(1));
        host.verify(Err(unverified));
        let (told, refused, _) = host.take(peer(1)).remove(0).refused();
        assert_eq!((told, refused.retry_after_ms, host.end().seq), (code, retry_ms, 0));
    }
}

#[test]
fn members_and_storage_that_end_meanwhile_leave_nothing_behind() {
    let changes = Writer::new(1).puts(2);
    // Its author leaves: the change is stored if it is sound, and gone if not.
    for (result, stored) in [(Ok(()), 1), (breaks(0), 0)] {
        let mut host = host();
        host.push(peer(1), 1, 1, &changes[..1]);
        host.push(peer(1), 2, 1, &changes[1..]);
        host.close(peer(1));
        host.verify(result);
        assert_eq!((host.end().seq, host.in_flight[&peer(1)]), (stored, 0));
        assert!(host.shard.is_settled());
    }
    // Storage fails: everything is taken back, what waited as well, and late answers meet nobody.
    let mut host = host();
    host.hold_commits = true;
    host.push(peer(1), 1, 1, &changes[..1]);
    host.verify(Ok(()));
    host.push(peer(1), 2, 1, &changes[1..]);
    host.fail_commit();
    host.flush();
    assert_eq!(pushes(&host.take(peer(1))), [("refused", 1)]);
    assert!(host.verifications.is_empty() && host.shard.is_settled() && host.in_flight[&peer(1)] == 0);
    // A group is asked about while another document's commit fails: its answer meets nobody.
    host.step(Input::StorageRecovered { documents: &[] });
    let other = DocumentId::new("rooms/2").unwrap();
    host.open_in(other, peer(4), MEMBER, None);
    host.push(peer(4), 1, 1, &Writer::new(4).puts(1));
    host.verify(Ok(()));
    host.push(peer(1), 1, 2, &changes);
    host.fail_commit();
    assert_eq!(pushes(&host.take(peer(1))), [("refused", 1)]);
    host.verify(Ok(()));
    assert!(host.commits.is_empty() && host.shard.is_settled() && host.in_flight[&peer(1)] == 0);
    host.step(Input::StorageRecovered { documents: &[] });
    // The document begins anew: the stream ends, and what was being verified is settled.
    host.push(peer(1), 1, 3, &changes);
    host.turn(Input::Quarantine { document: document() });
    assert_eq!(host.in_flight[&peer(1)], 0);
    host.verify(Ok(()));
    assert!(host.commits.is_empty() && host.shard.is_settled());
}
