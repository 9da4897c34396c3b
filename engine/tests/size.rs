//! How many bytes of changes a document may have: at the edge, on the way to the disk, after a restart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Host, Told, Writer, peer};
use etherply_engine::change::ChangeLimits;
use etherply_engine::shard::{Input, Shard};
use etherply_wire::ErrorCode;

fn bytes(changes: &[Vec<u8>]) -> u64 {
    changes.iter().map(|change| change.len() as u64).sum()
}

/// A host in which documents may have so many bytes.
fn bounded(mut host: Host, bytes_max: u64) -> Host {
    host.shard = Shard::new(0, 1, ChangeLimits::DEFAULT).with_document_bytes_max(bytes_max);
    host
}

#[test]
fn a_document_takes_changes_up_to_its_size_and_not_a_byte_more() {
    let mut writer = Writer::new(1);
    let changes = writer.puts(4);
    let all = bytes(&changes);
    for (bytes_max, is_taken) in [(all - 1, false), (all, true), (all + 1, true)] {
        let mut host = bounded(Host::default(), bytes_max);
        host.join(1);
        host.acked(peer(1), 1, &changes[..2]);
        if is_taken {
            assert_eq!(host.acked(peer(1), 1, &changes[2..]).positions, [3, 4]);
            continue;
        }
        let (code, refused, _) = host.refusal(peer(1), 1, &changes[2..]);
        assert_eq!((code, refused.index, refused.retry_after_ms), (ErrorCode::DocumentTooLarge, 1, 0));
        assert!(refused.message.contains(&format!("{bytes_max} bytes")), "{}", refused.message);
        // A push is taken whole or not at all; a smaller one still fits, and what is there already is acked.
        assert_eq!(host.end().seq, 2);
        assert_eq!(host.acked(peer(1), 2, &changes[2..3]).positions, [3]);
        assert_eq!(host.acked(peer(1), 2, &changes[..3]).positions, [1, 2, 3]);
    }
}

#[test]
fn what_is_on_its_way_to_the_disk_counts_until_it_is_taken_back() {
    let mut writer = Writer::new(1);
    let changes = writer.puts(3);
    let mut host = bounded(Host::default(), bytes(&changes[..2]));
    host.join(1);
    host.hold_commits = true;
    host.push(peer(1), 1, 1, &changes[..1]);
    host.push(peer(1), 2, 1, &changes[1..2]);
    host.push(peer(1), 3, 1, &changes[2..]);
    host.commit();
    host.commit();
    let told = host.take(peer(1));
    let Told::Refused(refused, _) = &told[2] else { panic!("{told:?}") };
    assert_eq!(refused.code, ErrorCode::DocumentTooLarge as u16);
    assert_eq!(host.in_flight[&peer(1)], 0);

    // Of a commit that failed nothing counts, wherever its batch was.
    let mut host = bounded(Host::default(), bytes(&changes));
    host.join(1);
    host.hold_commits = true;
    host.push(peer(1), 1, 1, &changes[..2]);
    host.push(peer(1), 2, 1, &changes[2..]);
    host.fail_commit();
    let log = std::mem::take(&mut host.log);
    let mut host = bounded(Host::new(log), bytes(&changes));
    host.join(1);
    assert_eq!(host.acked(peer(1), 1, &changes).positions, [1, 2, 3]);
}

#[test]
fn a_document_that_was_read_from_the_log_has_the_size_that_it_had() {
    let mut writer = Writer::new(1);
    let changes = writer.puts(3);
    let mut host = Host::default();
    host.join(1);
    host.acked(peer(1), 1, &changes[..2]);
    let log = std::mem::take(&mut host.log);
    let mut host = bounded(Host::new(log), bytes(&changes) - 1);
    host.join(1);
    assert_eq!(host.refusal(peer(1), 1, &changes[2..]).0, ErrorCode::DocumentTooLarge);
    // A lower setting makes it read-only, and no more than that.
    let log = std::mem::take(&mut host.log);
    let mut host = bounded(Host::new(log), 1);
    let handle = host.join(2);
    assert_eq!(host.gather_changes(peer(2)), changes[..2]);
    assert_eq!(host.refusal(peer(2), 1, &changes[2..]).0, ErrorCode::DocumentTooLarge);
    assert_eq!(host.acked(peer(2), 2, &changes[..2]).positions, [1, 2]);
    host.turn(Input::PresenceSet { peer: peer(2), handle, ttl_ms: 60_000, state: b"here" });
    assert!(host.has_stream(peer(2)));
}
