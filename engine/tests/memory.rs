//! What is held in memory for many documents: within one budget, least recently written first, and never
//! anything that could not be read back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod common;

use common::{Host, MEMBER, Writer, peer, session};
use etherply_engine::access::Grant;
use etherply_engine::ids::DocumentId;
use etherply_engine::shard::{Budget, Input, OpenRequest};
use etherply_wire::Rights;
use etherply_wire::kinds::Cursor;

const DOCUMENTS: u64 = 4;
const CHANGES: usize = 100;

fn name(n: u64) -> DocumentId {
    DocumentId::new(&format!("rooms/{n}")).unwrap()
}

fn open(host: &mut Host, id: u64, n: u64, cursor: Option<Cursor>) {
    let (peer, document) = (peer(id), name(n));
    let (grant, rights) = (Grant::anonymous(), MEMBER);
    let request = OpenRequest { peer, session: session(peer), request: 1, document, rights, grant, cursor };
    host.turn(Input::Open(request));
    host.take(peer);
}

/// Documents 1 to 4, each with a writer of the same number, written in this order.
fn host(cache_bytes_max: usize) -> (Host, Vec<Vec<Vec<u8>>>) {
    let mut host = Host::default().with_budget(Budget { cache_bytes_max, ..Budget::default() });
    let mut written = Vec::new();
    for n in 1..=DOCUMENTS {
        open(&mut host, n, n, None);
        let changes = Writer::new(n).puts(CHANGES);
        for change in &changes {
            host.acked(peer(n), 1, std::slice::from_ref(change));
        }
        written.push(changes);
    }
    (host, written)
}

/// Whether a document's home knows a position of its latest segments without asking the log.
fn knows_its_tail(host: &mut Host, n: u64) -> bool {
    let records = host.log.records(&name(n));
    let at = &records[records.len() - 2];
    let cursor = Cursor { epoch: 1, seq: at.seq, chain: at.chain.0 };
    host.hold_questions = true;
    open(host, 100 + n, n, Some(cursor));
    let knows = host.questions.is_empty();
    while !host.questions.is_empty() {
        host.answer();
    }
    host.hold_questions = false;
    host.take(peer(100 + n));
    assert_eq!(host.gather_changes(peer(100 + n)).len(), 1);
    host.close(peer(100 + n));
    host.take(peer(100 + n));
    knows
}

#[test]
fn documents_written_least_recently_let_go_of_their_tails_beyond_the_budget() {
    let all = host(usize::MAX).0.shard.cache_bytes();
    for (budget, first_knows) in [(all + 1, true), (all, true), (all - 1, false)] {
        let (mut host, written) = host(budget);
        assert!(host.shard.cache_bytes() <= budget);
        assert_eq!(knows_its_tail(&mut host, 1), first_knows, "budget {budget} of {all}");
        for n in 2..=DOCUMENTS {
            assert!(knows_its_tail(&mut host, n), "only as much as has to go");
        }
        // What is gone is read back, and old changes are found in the log.
        for n in 1..=DOCUMENTS {
            open(&mut host, 200 + n, n, None);
            assert_eq!(host.gather_changes(peer(200 + n)), written[n as usize - 1]);
            let again = host.acked(peer(n), 1, &written[n as usize - 1][3..5]);
            assert_eq!(again.positions, [4, 5]);
        }
    }
}

#[test]
fn a_document_that_is_written_again_is_the_latest() {
    let (mut host, written) = host(usize::MAX);
    let all = host.shard.cache_bytes();
    let mut host_of_all = std::mem::take(&mut host);
    let mut writer = Writer::new(1);
    writer.apply(&written[0]);
    host_of_all.acked(peer(1), 1, &[writer.put("again", 1)]);
    host_of_all = host_of_all.with_budget(Budget { cache_bytes_max: all - 1, ..Budget::default() });
    host_of_all.acked(peer(1), 1, &[writer.put("again", 2)]);
    assert!(knows_its_tail(&mut host_of_all, 1) && !knows_its_tail(&mut host_of_all, 2));
}

#[test]
fn documents_that_nobody_has_open_go_altogether() {
    let (mut host, written) = host(usize::MAX);
    let all = host.shard.cache_bytes();
    host.close(peer(1));
    host.close(peer(3));
    assert_eq!(host.shard.documents(), DOCUMENTS as usize);
    // Less than the first three have to go: the first and the third do, the second only shrinks.
    host = host.with_budget(Budget { cache_bytes_max: all / 3, ..Budget::default() });
    let mut writer = Writer::new(4);
    writer.apply(&written[3]);
    host.take(peer(4));
    host.acked(peer(4), 1, &[writer.put("more", 1)]);
    assert!(host.shard.cache_bytes() <= all / 3);
    assert_eq!(host.shard.documents(), DOCUMENTS as usize - 2);
    open(&mut host, 9, 1, None);
    assert_eq!(host.gather_changes(peer(9)), written[0]);
}

#[test]
fn feeds_let_go_of_tails_beyond_their_limit_and_members_get_the_log() {
    let (whole, _) = host(usize::MAX);
    let all = whole.feeds.tail_bytes();
    for (limit, is_cut) in [(all + 1, false), (all, false), (all - 1, true)] {
        let mut host = Host::default();
        host.feeds = std::mem::take(&mut host.feeds).with_limits(limit, 0);
        // Readers that have seen nothing when everything is written.
        for n in 1..=DOCUMENTS {
            open(&mut host, 10 + n, n, None);
            assert!(host.gather(peer(10 + n)).is_empty());
        }
        let mut written = Vec::new();
        for n in 1..=DOCUMENTS {
            open(&mut host, n, n, None);
            let changes = Writer::new(n).puts(CHANGES);
            for change in &changes {
                host.acked(peer(n), 1, std::slice::from_ref(change));
            }
            written.push(changes);
        }
        assert!(host.feeds.tail_bytes() <= limit);
        let (told, _, read) = host.gather_turn(peer(11), usize::MAX);
        assert_eq!(read.is_some(), is_cut, "limit {limit} of {all}");
        assert_eq!(told.len(), if is_cut { 0 } else { CHANGES });
        if let Some(read) = read {
            host.fill(peer(11), &read);
            assert_eq!(host.gather_changes(peer(11)), written[0]);
        }
        assert_eq!(host.gather_changes(peer(12)), written[1], "the others' tails are whole");
    }
}

#[test]
fn a_tail_that_was_cut_goes_on_from_its_end() {
    // Room for nothing but what was written last.
    let (mut host, written) = host(1);
    let mut writer = Writer::new(1);
    writer.apply(&written[0]);
    host.feeds = std::mem::take(&mut host.feeds).with_limits(1, 0);
    let live = writer.put("live", 1);
    open(&mut host, 9, 1, None);
    host.acked(peer(1), 1, std::slice::from_ref(&live));
    let got = host.gather_changes(peer(9));
    assert_eq!(got, [&written[0][..], &[live]].concat());
    // A member that may not read is not in the way of anything.
    host.open(peer(50), Rights::PRESENCE, None);
    assert!(host.gather(peer(50)).is_empty());
}
