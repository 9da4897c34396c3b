//! Snapshots: who is sent one, in pieces beside everything else, and what happens when it changes or is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod common;

use automerge::{AutoCommit, Change};
use common::{Host, MEMBER, Told, Writer, document, peer};
use etherply_engine::log::LogError;
use etherply_engine::log::LogReader;
use etherply_engine::shard::{Budget, Input};
use etherply_wire::kinds::{Cursor, resume};
use etherply_wire::{ErrorCode, Rights};

const AFTER_BYTES: u64 = 5_000;

/// A document of a writer, with so many changes of about a hundred bytes, of which snapshots are cut.
fn written(changes: usize) -> (Host, Writer, Vec<Vec<u8>>) {
    let budget = Budget { snapshot_after_bytes: AFTER_BYTES, ..Budget::default() };
    let mut host = Host::default().with_budget(budget);
    host.join(1);
    let mut writer = Writer::new(1);
    let changes = writer.puts(changes);
    for change in &changes {
        host.acked(peer(1), 1, std::slice::from_ref(change));
    }
    (host, writer, changes)
}

fn open(host: &mut Host, id: u64, cursor: Option<Cursor>) -> u8 {
    host.open(peer(id), MEMBER, cursor);
    host.take(peer(id)).remove(0).opened().resume
}

/// What a member was sent, put together as a client does.
#[derive(Default)]
struct Copy {
    partial: Vec<u8>,
    doc: AutoCommit,
    seq: u64,
    snapshots: usize,
    chunks: usize,
}

impl Copy {
    fn take(&mut self, told: Vec<Told>) {
        for told in told {
            match told {
                Told::Snapshot(piece, bytes) => {
                    assert!(piece.cursor.seq > self.seq, "changes of the snapshot came before it");
                    if piece.offset == 0 {
                        self.partial.clear();
                    }
                    assert_eq!(piece.offset, self.partial.len() as u64, "pieces come in order");
                    self.partial.extend(bytes);
                    self.chunks += 1;
                    if self.partial.len() as u64 == piece.total_bytes {
                        self.doc.load_incremental(&self.partial).unwrap();
                        self.partial.clear();
                        self.seq = piece.cursor.seq;
                        self.snapshots += 1;
                    }
                }
                Told::Changes(changes, carried) => {
                    assert_eq!(changes.after_seq, self.seq, "ranges are contiguous");
                    let read = carried.into_iter().map(|bytes| Change::from_bytes(bytes).unwrap());
                    self.doc.apply_changes(read).unwrap();
                    self.seq = changes.cursor.seq;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn follow(&mut self, host: &mut Host, id: u64) {
        let told = host.gather(peer(id));
        self.take(told);
    }
}

#[test]
fn a_new_member_gets_the_snapshot_and_the_tail_behind_it() {
    let (mut host, mut writer, changes) = written(100);
    let (snapshot, bytes) = host.snapshots[&document()].clone();
    assert!(snapshot.cursor.seq < 100, "some are behind it");
    assert_eq!(bytes, changes[..snapshot.cursor.seq as usize].concat());
    assert_eq!(open(&mut host, 2, None), resume::SNAPSHOT);
    let mut copy = Copy::default();
    copy.follow(&mut host, 2);
    assert_eq!((copy.seq, copy.snapshots), (100, 1));
    assert!(copy.chunks > 3);
    assert_eq!(copy.doc.get_heads(), writer.doc.get_heads());
    host.acked(peer(1), 1, &[writer.put("live", 1)]);
    copy.follow(&mut host, 2);
    assert_eq!((copy.seq, copy.doc.get_heads()), (101, writer.doc.get_heads()));
}

#[test]
fn snapshots_are_cut_when_the_tail_outgrows_them() {
    let (host, ..) = written(100);
    let first = AFTER_BYTES / 100;
    assert!(host.snapshots[&document()].0.cursor.seq >= first / 2);
    let (mut host, mut writer, _) = written(0);
    let mut cut_at = Vec::new();
    let mut bytes = 0;
    for change in writer.puts(600) {
        bytes += change.len() as u64;
        let before = host.snapshots.get(&document()).map(|(snapshot, _)| *snapshot);
        host.acked(peer(1), 1, &[change]);
        let after = host.snapshots.get(&document()).map(|(snapshot, _)| *snapshot);
        if before != after {
            let covered = before.map_or(0, |before| before.covered_bytes);
            assert!(bytes - covered > AFTER_BYTES.max(covered / 4));
            cut_at.push(bytes);
        }
    }
    assert!(cut_at.len() > 5 && cut_at.len() < 15, "{cut_at:?}");
}

#[test]
fn who_is_nearly_up_to_date_gets_the_log() {
    let (mut host, _, changes) = written(100);
    let covered = host.snapshots[&document()].0.cursor.seq;
    let cursor = |host: &Host, seq: u64| {
        let chain = host.log.records(&document())[seq as usize - 1].chain.0;
        Cursor { epoch: 1, seq, chain }
    };
    for (id, seq, how) in [
        (2, covered / 5, resume::SNAPSHOT),
        (3, covered / 4, resume::CURSOR),
        (4, covered, resume::CURSOR),
        (5, 100, resume::CURSOR),
    ] {
        let at = cursor(&host, seq);
        assert_eq!(open(&mut host, id, Some(at)), how, "from {seq} of {covered}");
        if how == resume::CURSOR {
            assert_eq!(host.gather_changes(peer(id)), changes[seq as usize..]);
        }
    }
    // Who may not read gets neither.
    host.open(peer(6), Rights::PRESENCE, None);
    assert_eq!(host.take(peer(6)).remove(0).opened().resume, resume::START);
    assert!(host.gather(peer(6)).is_empty());
}

#[test]
fn a_snapshot_is_sent_in_turns_and_shared() {
    let (mut host, ..) = written(200);
    for id in 2..5 {
        assert_eq!(open(&mut host, id, None), resume::SNAPSHOT);
        let (told, more, read) = host.gather_turn(peer(id), 2_000);
        assert!(told.is_empty() && !more && read.is_none(), "it waits for the piece");
    }
    assert_eq!(host.asked_snapshots.len(), 1, "one read serves all");
    let (handle, request) = host.asked_snapshots.pop_front().unwrap();
    host.woken.clear();
    host.read_snapshot(handle, &request);
    assert_eq!(host.woken, [2, 3, 4].map(|id| (peer(id), handle)));
    let held = host.feeds.snapshot_bytes();
    assert!(held > 0);
    for id in 2..5 {
        // A frame more than the budget at the most.
        let (told, more, _) = host.gather_turn(peer(id), 2_000);
        assert!((1..=2).contains(&told.len()) && more, "{}", told.len());
        let mut copy = Copy::default();
        copy.take(told);
        copy.follow(&mut host, id);
        assert_eq!(copy.seq, 200);
    }
    assert_eq!(host.feeds.snapshot_bytes(), 0, "nobody is being sent it any more");
}

#[test]
fn a_member_that_leaves_in_the_middle_lets_go_of_its_part() {
    let (mut host, ..) = written(200);
    open(&mut host, 2, None);
    host.gather_turn(peer(2), 1);
    let (handle, request) = host.asked_snapshots.pop_front().unwrap();
    host.read_snapshot(handle, &request);
    host.gather_turn(peer(2), 1);
    assert!(host.feeds.snapshot_bytes() > 0);
    host.close(peer(2));
    assert_eq!(host.feeds.snapshot_bytes(), 0);
    // The answer to a read may come when nobody waits for it any more.
    open(&mut host, 3, None);
    host.gather_turn(peer(3), 1);
    let (handle, request) = host.asked_snapshots.pop_front().unwrap();
    host.close(peer(3));
    host.read_snapshot(handle, &request);
    assert_eq!(host.feeds.snapshot_bytes(), 0);
    host.take(peer(3));
    open(&mut host, 3, None);
    let mut copy = Copy::default();
    copy.follow(&mut host, 3);
    assert_eq!(copy.seq, 200);
}

#[test]
fn a_newer_snapshot_takes_the_place_of_one_that_is_being_sent() {
    let (mut host, mut writer, _) = written(200);
    open(&mut host, 2, None);
    host.gather_turn(peer(2), 1);
    let (handle, request) = host.asked_snapshots.pop_front().unwrap();
    host.read_snapshot(handle, &request);
    let mut copy = Copy::default();
    for _ in 0..3 {
        let (told, more, _) = host.gather_turn(peer(2), 1);
        assert!(more && told.len() == 1);
        copy.take(told);
    }
    let before = host.snapshots[&document()].0;
    let mut seq = 200;
    while host.snapshots[&document()].0 == before {
        host.acked(peer(1), 1, &[writer.put("more", seq)]);
        seq += 1;
    }
    copy.follow(&mut host, 2);
    assert_eq!((copy.seq, copy.snapshots), (seq as u64, 1));
    assert_eq!(copy.doc.get_heads(), writer.doc.get_heads());
}

#[test]
fn a_lost_snapshot_is_told_to_those_who_need_it_and_to_nobody_else() {
    let (mut host, mut writer, _) = written(200);
    // Without room for more than a chunk.
    host.feeds = std::mem::take(&mut host.feeds).with_limits(usize::MAX, 0);
    let handle = host.handle(peer(1));
    open(&mut host, 2, None);
    let mut copy = Copy::default();
    for chunks in 0..3 {
        let (told, more, _) = host.gather_turn(peer(2), usize::MAX);
        copy.take(told);
        assert_eq!((copy.chunks, more), (chunks, false));
        if chunks == 2 {
            host.snapshots.clear();
            host.hold_cuts = true;
        }
        let (handle, request) = host.asked_snapshots.pop_front().unwrap();
        host.read_snapshot(handle, &request);
    }
    // What the snapshot held is nowhere else: never a part of a document as if it were whole.
    assert_eq!(host.take(peer(2)).remove(0).close().code, ErrorCode::DocumentDamaged as u16);
    assert_eq!((copy.seq, copy.snapshots), (0, 0));
    // Whoever has it goes on.
    host.acked(peer(1), 1, &[writer.put("next", 1)]);
    assert_eq!(host.handle(peer(1)), handle);
    // The next one hears it as well.
    assert_eq!(open(&mut host, 3, None), resume::SNAPSHOT);
    assert!(host.gather_turn(peer(3), usize::MAX).0.is_empty());
    let (handle, request) = host.asked_snapshots.pop_front().unwrap();
    host.read_snapshot(handle, &request);
    assert_eq!(host.take(peer(3)).remove(0).close().code, ErrorCode::DocumentDamaged as u16);
}

#[test]
fn a_cut_that_fails_is_tried_again_when_the_log_has_grown() {
    let budget = Budget { snapshot_after_bytes: AFTER_BYTES, ..Budget::default() };
    let mut host = Host::default().with_budget(budget);
    host.hold_cuts = true;
    host.join(1);
    let mut writer = Writer::new(1);
    let mut tries = Vec::new();
    let mut bytes = 0;
    for change in writer.puts(300) {
        bytes += change.len() as u64;
        host.acked(peer(1), 1, &[change]);
        if let Some((handle, ..)) = host.cuts.pop_front() {
            tries.push(bytes);
            let why = "the disk is full".to_owned();
            host.turn(Input::SnapshotCut { handle, result: Err(LogError::Unavailable { why }) });
        }
    }
    assert!(tries.len() > 2 && tries.windows(2).all(|pair| pair[1] - pair[0] >= AFTER_BYTES), "{tries:?}");
    assert_eq!(open(&mut host, 2, None), resume::START);
    assert_eq!(host.gather_changes(peer(2)).len(), 300);
}

/// The host after a restart, with the log and the snapshots that it has.
fn restarted(host: &Host) -> Host {
    let budget = Budget { snapshot_after_bytes: u64::MAX, ..Budget::default() };
    let mut again = Host::new(host.log.clone()).with_budget(budget);
    again.snapshots = host.snapshots.clone();
    again
}

#[test]
fn what_was_written_while_a_snapshot_was_cut_is_covered_by_the_next_one_at_once() {
    let (mut host, mut writer, _) = written(0);
    host.hold_cuts = true;
    // All that is ever written comes during the first cut.
    for change in writer.puts(400) {
        host.acked(peer(1), 1, &[change]);
    }
    assert_eq!(host.cuts.len(), 1, "one at a time");
    while !host.cuts.is_empty() {
        host.cut();
    }
    let snapshot = host.snapshots[&document()].0;
    let behind = host.log.records(&document()).iter().skip(snapshot.cursor.seq as usize);
    let bytes: usize = behind.map(|record| record.change.len()).sum();
    assert!(bytes as u64 <= AFTER_BYTES.max(snapshot.total_bytes / 4), "{bytes} behind {snapshot:?}");
}

#[test]
fn a_document_is_opened_from_its_snapshot_and_the_records_behind_it() {
    let (host, mut writer, changes) = written(200);
    let snapshot = host.snapshots[&document()].0;
    assert!(snapshot.log_after_seq > 0);
    let mut again = restarted(&host);
    // Not one record of those that are covered: here they would not even parse.
    again.join(1);
    assert_eq!(again.end(), host.end());
    // A push that builds on what is in the snapshot needs no look at the log.
    let next = writer.put("next", 1);
    assert_eq!(again.acked(peer(1), 1, &[next]).cursor.seq, 201);
    assert_eq!(again.finds, 0);
    // A push of what is in the snapshot is a duplicate, at its old position.
    let ack = again.acked(peer(1), 2, &changes[3..5]);
    assert_eq!((ack.positions, again.finds), (vec![4, 5], 1));
    // An actor that was cloned before is found out.
    let mut fork = Writer::new(1);
    fork.put("another", 7);
    let forked = fork.puts(3).pop().unwrap();
    again.push(peer(1), 1, 3, &[forked]);
    assert_eq!(again.take(peer(1)).remove(0).refused().0, ErrorCode::ActorForked);
    assert_eq!(open(&mut again, 2, None), resume::SNAPSHOT);
    let mut copy = Copy::default();
    copy.follow(&mut again, 2);
    assert_eq!((copy.seq, copy.doc.get_heads()), (201, writer.doc.get_heads()));
}

#[test]
fn a_snapshot_of_another_place_than_its_log_is_damage() {
    let (host, ..) = written(200);
    let anchor = host.log.anchor(&document(), 1).unwrap().unwrap();
    for seq in [anchor.summary.cursor.seq - 1, 201] {
        let mut again = restarted(&host);
        let mut other = anchor.clone();
        other.snapshot.cursor.seq = seq;
        again.log.cover(&document(), other);
        again.open(peer(2), MEMBER, None);
        assert_eq!(again.take(peer(2)).remove(0).error().code, ErrorCode::DocumentDamaged as u16);
    }
}

#[test]
fn a_member_for_which_the_log_is_gone_on_the_way_gets_the_snapshot() {
    let (host, mut writer, changes) = written(100);
    // Right after a start there is no tail in memory: it is sent the log, and that goes meanwhile.
    let mut again = restarted(&host);
    let at = again.snapshots[&document()].0.log_after_seq + 1;
    let chain = again.log.records(&document())[at as usize - 1].chain.0;
    assert_eq!(open(&mut again, 2, Some(Cursor { epoch: 1, seq: at, chain })), resume::CURSOR);
    let mut copy = Copy { seq: at, ..Copy::default() };
    let has = changes[..at as usize].iter().map(|change| Change::from_bytes(change.clone()).unwrap());
    copy.doc.apply_changes(has).unwrap();
    let read = again.gather_turn(peer(2), 1).2.unwrap();
    assert_eq!(read.after_seq, at);
    again.cuts.push_back((again.handle(peer(2)), document(), again.end()));
    let (_, newer) = again.cut_unheard();
    assert!(newer.log_after_seq > at);
    assert!(again.fill(peer(2), &read), "it goes on with the snapshot");
    copy.follow(&mut again, 2);
    assert_eq!((copy.seq, copy.snapshots), (100, 1));
    assert_eq!(copy.doc.get_heads(), writer.doc.get_heads());
}

#[test]
fn a_core_that_hears_late_of_a_newer_snapshot_learns_of_it_from_the_read() {
    let (mut host, mut writer, _) = written(100);
    open(&mut host, 2, None);
    host.gather_turn(peer(2), 1);
    let (handle, request) = host.asked_snapshots.pop_front().unwrap();
    host.hold_cuts = true;
    let mut seq = 100;
    while host.cuts.is_empty() {
        host.acked(peer(1), 1, &[writer.put("more", seq)]);
        seq += 1;
    }
    // Its home's word of the newer one is on its way.
    let (home, snapshot) = host.cut_unheard();
    host.read_snapshot(handle, &request);
    let mut copy = Copy::default();
    copy.follow(&mut host, 2);
    assert_eq!((copy.seq, copy.snapshots), (seq as u64, 1));
    // Once more, or an older one, changes nothing.
    host.turn(Input::SnapshotCut { handle: home, result: Ok(snapshot) });
    host.turn(Input::SnapshotCut { handle: home, result: Ok(request.snapshot) });
    copy.follow(&mut host, 2);
    assert_eq!((copy.seq, copy.snapshots), (seq as u64, 1));
}

#[test]
fn a_core_that_learns_of_a_newer_snapshot_by_one_member_s_read_wakes_those_who_wait_for_the_older_one() {
    let (host, ..) = written(100);
    let mut again = restarted(&host);
    let at = again.snapshots[&document()].0.log_after_seq + 1;
    let chain = again.log.records(&document())[at as usize - 1].chain.0;
    assert_eq!(open(&mut again, 3, Some(Cursor { epoch: 1, seq: at, chain })), resume::CURSOR);
    open(&mut again, 2, None);
    // The one waits for a piece of the snapshot, which is being read, the other for a piece of the log.
    again.gather_turn(peer(2), 1);
    let (handle, request) = again.asked_snapshots.pop_front().unwrap();
    let read = again.gather_turn(peer(3), 1).2.unwrap();
    again.cuts.push_back((again.handle(peer(2)), document(), again.end()));
    again.cut_unheard();
    again.woken.clear();
    assert!(again.fill(peer(3), &read), "it goes on with the newer snapshot");
    assert!(again.woken.iter().any(|(woken, _)| *woken == peer(2)), "{:?}", again.woken);
    // The answer about the older one comes too late to wake anybody.
    again.read_snapshot(handle, &request);
    let mut copy = Copy::default();
    copy.follow(&mut again, 2);
    assert_eq!((copy.seq, copy.snapshots), (100, 1));
}

#[test]
fn a_member_of_another_log_gets_the_snapshot_and_what_it_lacks_behind_it() {
    let (mut host, mut writer, _) = written(200);
    let foreign = Cursor { epoch: 1, seq: 150, chain: [9; 32] };
    assert_eq!(open_foreign(&mut host, 2, foreign), resume::RECONCILE);
    let handle = host.handle(peer(2));
    // It says that it has nothing of what the server has.
    host.turn(Input::Reconcile { peer: peer(2), handle, more: false, clock: Vec::new() });
    let mut copy = Copy::default();
    copy.follow(&mut host, 2);
    assert_eq!((copy.seq, copy.snapshots), (200, 1));
    assert_eq!(copy.doc.get_heads(), writer.doc.get_heads());
}

/// Opens with a cursor of another log; the server's clock comes with the answer.
fn open_foreign(host: &mut Host, id: u64, cursor: Cursor) -> u8 {
    host.open(peer(id), MEMBER, Some(cursor));
    host.take(peer(id)).remove(0).opened().resume
}

#[test]
fn own_pushes_during_a_snapshot_are_acked_and_not_left_out() {
    let (mut host, mut writer, _) = written(200);
    open(&mut host, 2, None);
    host.gather_turn(peer(2), 1);
    let mut own = Writer::new(2);
    let ack = host.acked(peer(2), 1, &[own.put("own", 1)]);
    host.acked(peer(1), 1, &[writer.put("other", 1)]);
    let mut copy = Copy { seq: 0, ..Copy::default() };
    let told = host.gather(peer(2));
    // The log may carry the own change again; the cursor never leaps over somebody else's.
    let (snapshots, rest): (Vec<_>, Vec<_>) =
        told.into_iter().partition(|told| matches!(told, Told::Snapshot(..)));
    copy.take(snapshots);
    for told in rest {
        let (changes, carried) = told.changes();
        if changes.after_seq == ack.cursor.seq && copy.seq == ack.after_seq {
            copy.seq = ack.cursor.seq;
        }
        copy.take(vec![Told::Changes(changes, carried)]);
    }
    assert_eq!(copy.seq, 202);
}
