//! Cursors, the tail, the log behind it, and reconciling.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod common;

use common::{Host, MEMBER, Told, Writer, actor, clock, document, peer};
use etherply_engine::feed::FILL_BYTES_MAX;
use etherply_engine::ids::ChainHash;
use etherply_engine::log::{Append, Log, MemoryLog};
use etherply_engine::segment::TAIL_BYTES_MAX;
use etherply_engine::shard::{Budget, Input};
use etherply_wire::kinds::{ClockEntry, Cursor, resume};
use etherply_wire::limits::{ACTOR_BYTES_MAX, CLOCK_ENTRIES_MAX};
use etherply_wire::{ErrorCode, Rights};

/// A document with so many changes, each its own push, and its writer, who left.
fn written(changes: usize) -> (Host, Writer, Vec<Vec<u8>>) {
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    let changes = writer.puts(changes);
    for change in &changes {
        host.acked(peer(1), 1, std::slice::from_ref(change));
    }
    (host, writer, changes)
}

/// The cursor behind a position.
fn cursor(host: &Host, seq: u64) -> Cursor {
    let chain = match seq {
        0 => etherply_engine::chain::chain_start(&document(), 1),
        _ => host.log.records(&document())[usize::try_from(seq).unwrap() - 1].chain,
    };
    Cursor { epoch: 1, seq, chain: chain.0 }
}

fn opens(host: &mut Host, id: u64, cursor: Option<Cursor>) -> u8 {
    host.open(peer(id), MEMBER, cursor);
    let opened = host.take(peer(id)).remove(0).opened();
    assert_eq!(opened.cursor, host.end());
    opened.resume
}

#[test]
fn a_cursor_that_fits_gets_what_lies_after_it() {
    let (mut host, _, changes) = written(6);
    for (id, seq) in [(2, 0), (3, 1), (4, 5), (5, 6)] {
        let at = cursor(&host, seq);
        let how = if seq == 0 { resume::START } else { resume::CURSOR };
        assert_eq!(opens(&mut host, id, Some(at)), how);
        assert_eq!(host.gather_changes(peer(id)), changes[usize::try_from(seq).unwrap()..]);
        assert!(host.gather(peer(id)).is_empty());
    }
    assert_eq!(opens(&mut host, 6, None), resume::START);
    assert_eq!(host.gather_changes(peer(6)), changes);
}

#[test]
fn a_cursor_is_checked_against_the_log_where_the_tail_does_not_reach() {
    let (host, _, changes) = written(6);
    let mut host = Host::new(host.log);
    let at = cursor(&host, 3);
    assert_eq!(opens(&mut host, 2, Some(at)), resume::CURSOR);
    assert_eq!(host.gather_changes(peer(2)), changes[3..]);
    let wrong = Cursor { chain: [9; 32], ..at };
    assert_eq!(opens(&mut host, 3, Some(wrong)), resume::RECONCILE);
}

#[test]
fn a_cursor_within_a_segment_is_brought_to_its_end_from_the_log() {
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    let changes = writer.puts(5);
    host.acked(peer(1), 1, &changes[..4]);
    host.acked(peer(1), 1, &changes[4..]);
    let at = cursor(&host, 2);
    assert_eq!(opens(&mut host, 2, Some(at)), resume::CURSOR);
    let told: Vec<_> = host.gather(peer(2)).into_iter().map(Told::changes).collect();
    let ranges: Vec<_> = told.iter().map(|(frame, _)| (frame.after_seq, frame.cursor.seq)).collect();
    assert_eq!(ranges, [(2, 4), (4, 5)]);
    assert_eq!(told.iter().flat_map(|(_, carried)| carried.clone()).collect::<Vec<_>>(), changes[2..]);
    assert_eq!(told[0].0.cursor, cursor(&host, 4));
}

#[test]
fn a_cursor_of_another_log_has_to_reconcile_before_it_gets_anything() {
    let (mut host, mut writer, _) = written(4);
    let fits = cursor(&host, 4);
    let foreign = [
        Cursor { epoch: 2, ..fits },
        Cursor { epoch: 0, seq: 0, chain: [0; 32] },
        Cursor { seq: 5, ..fits },
        Cursor { chain: [1; 32], ..fits },
        Cursor { seq: 2, ..fits },
        Cursor { seq: 0, ..fits },
    ];
    for (id, at) in (2..).zip(foreign) {
        host.open(peer(id), MEMBER, Some(at));
        let told = host.take(peer(id));
        assert_eq!(told[0].clone().opened().resume, resume::RECONCILE, "{at:?}");
        assert!(matches!(&told[1..], [Told::Reconcile(part)] if !part.more && part.clock.len() == 1));
        assert!(host.gather(peer(id)).is_empty(), "not before it said what it has");
    }
    host.acked(peer(1), 1, &[writer.put("b", 1)]);
    assert!(host.gather(peer(2)).is_empty());
}

#[test]
fn after_a_reconcile_a_member_gets_what_it_lacks_and_nothing_else() {
    let (mut host, mut writer, changes) = written(6);
    let mut second = Writer::new(2);
    second.apply(&changes);
    let theirs = second.puts(3);
    host.join(2);
    host.acked(peer(2), 1, &theirs);
    // A copy with half of the first actor's changes, none of the second's, and one of its own.
    let mut copy = Writer::new(3);
    copy.apply(&changes[..3]);
    let own = copy.put("own", 1);
    host.open(peer(3), MEMBER, Some(Cursor { epoch: 7, seq: 3, chain: [0; 32] }));
    host.take(peer(3));
    host.reconcile(peer(3), clock(&mut copy.doc));
    let told: Vec<_> = host.gather(peer(3)).into_iter().map(Told::changes).collect();
    assert_eq!((told[0].0.after_seq, told[0].0.cursor), (0, host.end()), "the range is whole");
    let carried: Vec<_> = told.into_iter().flat_map(|(_, carried)| carried).collect();
    assert_eq!(carried, [&changes[3..], &theirs[..]].concat());
    assert_eq!(host.acked(peer(3), 1, &[own]).positions, [10]);
    let live = writer.put("live", 1);
    host.acked(peer(1), 1, std::slice::from_ref(&live));
    assert_eq!(host.gather_changes(peer(3)), [live]);
}

#[test]
fn a_copy_with_a_forked_actor_is_told_so() {
    let (mut host, _, changes) = written(4);
    let foreign = Some(Cursor { epoch: 7, seq: 3, chain: [0; 32] });
    // The fork is the actor's last change here, or lies before it.
    for (id, count) in [(2, 3), (3, 2)] {
        let mut copy = Writer::new(1);
        copy.apply(&changes[..count]);
        copy.put("fork", 1);
        host.open(peer(id), MEMBER, foreign);
        host.take(peer(id));
        let handle = host.handle(peer(id));
        host.reconcile(peer(id), clock(&mut copy.doc));
        match host.take(peer(id)).remove(0) {
            Told::Close(close) => assert_eq!(close.code, ErrorCode::ActorForked as u16),
            other => panic!("{other:?}"),
        }
        // The stream is gone: it can be opened anew on the same connection.
        host.open(peer(id), MEMBER, None);
        assert_eq!(host.handle(peer(id)), handle);
        assert_eq!(host.gather_changes(peer(id)), changes);
    }
}

#[test]
fn clocks_are_taken_in_parts_and_one_at_a_time() {
    let (mut host, _, changes) = written(3);
    let mut copy = Writer::new(2);
    copy.apply(&changes[..1]);
    host.open(peer(2), MEMBER, Some(Cursor { epoch: 7, seq: 3, chain: [0; 32] }));
    host.take(peer(2));
    let handle = host.handle(peer(2));
    let entries = clock(&mut copy.doc);
    host.turn(Input::Reconcile { peer: peer(2), handle, more: true, clock: entries });
    assert!(host.gather(peer(2)).is_empty(), "more follows");
    host.hold_questions = true;
    host.reconcile(peer(2), Vec::new());
    assert_eq!(host.questions.len(), 1);
    host.reconcile(peer(2), Vec::new());
    match host.take(peer(2)).remove(0) {
        Told::Close(close) => assert_eq!(close.code, ErrorCode::ProtocolViolation as u16),
        other => panic!("{other:?}"),
    }
    // The answer for the stream that ended is not taken for the next one.
    host.open(peer(2), MEMBER, Some(Cursor { epoch: 7, seq: 3, chain: [0; 32] }));
    host.take(peer(2));
    host.turn(Input::Reconcile { peer: peer(2), handle, more: true, clock: Vec::new() });
    host.answer();
    assert!(host.gather(peer(2)).is_empty());
    host.reconcile(peer(2), Vec::new());
    assert_eq!(host.gather_changes(peer(2)), changes);
}

/// The code that a stream was ended with.
fn closed_with(host: &mut Host, id: u64) -> u16 {
    match host.take(peer(id)).pop() {
        Some(Told::Close(close)) => close.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_clock_that_nobody_asked_for_ends_the_stream() {
    let (mut host, mut writer, changes) = written(5);
    let violation = ErrorCode::ProtocolViolation as u16;
    for at in [None, Some(cursor(&host, 3))] {
        host.open(peer(2), MEMBER, at);
        host.take(peer(2));
        host.reconcile(peer(2), Vec::new());
        assert_eq!(closed_with(&mut host, 2), violation);
    }
    // Nor is a second one taken after the first was answered.
    host.open(peer(2), MEMBER, Some(Cursor { epoch: 7, seq: 3, chain: [0; 32] }));
    host.take(peer(2));
    host.reconcile(peer(2), clock(&mut writer.doc));
    assert!(host.take(peer(2)).is_empty());
    host.reconcile(peer(2), clock(&mut writer.doc));
    assert_eq!(closed_with(&mut host, 2), violation);
    host.open(peer(2), MEMBER, None);
    assert_eq!(host.gather_changes(peer(2)), changes);
}

#[test]
fn a_clock_names_each_actor_once_and_has_a_limit() {
    let (mut host, ..) = written(1);
    let foreign = Some(Cursor { epoch: 7, seq: 3, chain: [0; 32] });
    let entry = |n: u64| ClockEntry { actor: actor(n).to_vec(), seq: 1, hash: [0; 32] };
    let nobody = ClockEntry { actor: Vec::new(), ..entry(1) };
    let long = ClockEntry { actor: vec![1; ACTOR_BYTES_MAX + 1], ..entry(1) };
    for (first, second) in [
        (vec![entry(9), entry(9)], vec![]),
        (vec![entry(9)], vec![entry(9)]),
        (vec![nobody], vec![]),
        (vec![long], vec![]),
    ] {
        host.open(peer(2), MEMBER, foreign);
        host.take(peer(2));
        let handle = host.handle(peer(2));
        host.turn(Input::Reconcile { peer: peer(2), handle, more: true, clock: first });
        if !second.is_empty() {
            assert!(host.take(peer(2)).is_empty());
            host.reconcile(peer(2), second);
        }
        assert_eq!(closed_with(&mut host, 2), ErrorCode::ProtocolViolation as u16);
    }
    for (entries, is_taken) in [(-1, true), (0, true), (1, false)] {
        host.open(peer(2), MEMBER, foreign);
        host.take(peer(2));
        let count = (CLOCK_ENTRIES_MAX as i64 + entries) as u64;
        host.reconcile(peer(2), (2..count + 2).map(entry).collect());
        if is_taken {
            assert!(host.take(peer(2)).is_empty());
            assert_eq!(host.gather_changes(peer(2)).len(), 1);
            host.close(peer(2));
            host.take(peer(2));
        } else {
            assert_eq!(closed_with(&mut host, 2), ErrorCode::ProtocolViolation as u16);
        }
    }
}

#[test]
fn a_writer_does_not_get_its_own_changes() {
    let (mut host, _, changes) = written(2);
    host.join(2);
    assert_eq!(host.gather_changes(peer(2)), changes);
    let mut second = Writer::new(2);
    second.apply(&changes);
    let own = second.puts(2);
    let ack = host.acked(peer(2), 1, &own);
    assert!(host.gather(peer(2)).is_empty());
    let mut third = Writer::new(3);
    let other = third.puts(1);
    host.join(3);
    host.acked(peer(3), 1, &other);
    let (frame, carried) = host.gather(peer(2)).remove(0).changes();
    assert_eq!((frame.after_seq, carried), (ack.cursor.seq, other));
}

#[test]
fn a_lone_writer_is_never_sent_its_own_changes_from_the_log() {
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    for n in 0..8 {
        let change = large(&mut writer, n, TAIL_BYTES_MAX / 4);
        host.acked(peer(1), 1, &[change]);
    }
    host.join(2);
    let other = Writer::new(2).put("b", 1);
    host.acked(peer(2), 1, std::slice::from_ref(&other));
    assert_eq!(host.gather_changes(peer(1)), [other]);
}

/// A change that puts about so many bytes.
fn large(writer: &mut Writer, n: usize, bytes: usize) -> Vec<u8> {
    use automerge::transaction::Transactable;
    let noise: Vec<u8> = (0..bytes).map(|at| u8::try_from((at * 31 + n * 7) % 251).unwrap()).collect();
    writer.doc.put(automerge::ROOT, "large", automerge::ScalarValue::Bytes(noise)).unwrap();
    writer.commit()
}

#[test]
fn a_stream_opened_again_on_its_connection_gets_what_the_first_one_pushed() {
    let mut host = Host::default();
    host.join(1);
    host.hold_commits = true;
    let mut writer = Writer::new(1);
    let changes = writer.puts(2);
    host.push(peer(1), 1, 1, &changes[..1]);
    host.commit();
    host.push(peer(1), 2, 1, &changes[1..]);
    host.close(peer(1));
    host.take(peer(1));
    host.open(peer(1), MEMBER, None);
    host.take(peer(1));
    host.commit();
    assert!(host.take(peer(1)).is_empty(), "the ack was the first stream's");
    assert_eq!(host.gather_changes(peer(1)), changes);
    assert_eq!(host.in_flight[&peer(1)], 0);
}

#[test]
fn a_slow_member_falls_out_of_the_tail_and_catches_up_from_the_log() {
    // Without a snapshot that takes the log's place.
    let mut host =
        Host::default().with_budget(Budget { snapshot_after_bytes: u64::MAX, ..Budget::default() });
    host.join(1);
    host.join(2);
    let mut writer = Writer::new(1);
    let mut changes = Vec::new();
    for n in 0..12 {
        let change = large(&mut writer, n, TAIL_BYTES_MAX / 4);
        host.acked(peer(1), 1, std::slice::from_ref(&change));
        changes.push(change);
    }
    let (told, more, read) = host.gather_turn(peer(2), usize::MAX);
    let read = read.unwrap();
    assert!(told.is_empty() && !more, "the beginning is not in memory");
    assert_eq!((read.after_seq, read.bytes_max), (0, FILL_BYTES_MAX));
    assert!(read.through_seq < 12, "the end comes from the tail");
    assert_eq!(host.gather_turn(peer(2), usize::MAX).2, None, "it is asked once");
    // Live changes go on meanwhile, and the tail with them.
    let live = large(&mut writer, 99, TAIL_BYTES_MAX);
    host.acked(peer(1), 1, std::slice::from_ref(&live));
    changes.push(live);
    assert!(!host.fill(peer(2), &read), "the live change woke it");
    let (told, more, next) = host.gather_turn(peer(2), 1);
    assert_eq!((told.len(), more, next), (1, true, None), "a piece at a time");
    let mut got: Vec<_> = told.into_iter().flat_map(|told| told.changes().1).collect();
    got.extend(host.gather_changes(peer(2)));
    assert_eq!(got, changes);
}

#[test]
fn a_turn_ends_at_its_budget_and_the_next_goes_on() {
    let (mut host, _, changes) = written(0);
    assert!(changes.is_empty());
    host.join(2);
    assert!(host.gather(peer(2)).is_empty());
    let mut writer = Writer::new(1);
    let changes = writer.puts(5);
    for change in &changes {
        host.acked(peer(1), 1, std::slice::from_ref(change));
    }
    assert_eq!(host.woken, [(peer(2), host.handle(peer(2)))], "woken once until it was looked at");
    for change in &changes[..4] {
        let (told, more, _) = host.gather_turn(peer(2), 1);
        assert!(more);
        assert_eq!(
            told.into_iter().flat_map(|told| told.changes().1).collect::<Vec<_>>(),
            std::slice::from_ref(change)
        );
    }
    assert_eq!(host.gather_changes(peer(2)), changes[4..]);
}

#[test]
fn without_the_right_to_read_nothing_is_sent() {
    let (mut host, mut writer, _) = written(3);
    host.open(peer(2), Rights::WRITE.with(Rights::PRESENCE), None);
    host.take(peer(2));
    host.acked(peer(1), 1, &[writer.put("b", 1)]);
    assert!(host.gather(peer(2)).is_empty());
    assert_eq!(host.acked(peer(2), 1, &[Writer::new(2).put("c", 1)]).positions, [5]);
}

#[test]
fn a_document_is_opened_once_on_a_connection() {
    let (mut host, ..) = written(1);
    host.open(peer(1), MEMBER, None);
    match host.take(peer(1)).remove(0) {
        Told::Error(error) => assert_eq!(error.code, ErrorCode::AlreadyOpen as u16),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_damaged_log_is_never_served_as_if_whole() {
    let (host, ..) = written(3);
    let records = host.log.records(&document()).to_vec();
    let damage: [fn(&mut Vec<etherply_engine::record::Record>); 4] = [
        |records| {
            records.remove(1);
        },
        |records| records.swap(0, 1),
        |records| records[1].chain = ChainHash([0; 32]),
        |records| records[1].change = records[2].change.clone(),
    ];
    for damage in damage {
        let mut records = records.clone();
        damage(&mut records);
        let mut log = MemoryLog::new();
        log.commit(&[Append { document: document(), epoch: 1, records }]).unwrap();
        let mut host = Host::new(log);
        host.open(peer(2), MEMBER, None);
        match host.take(peer(2)).remove(0) {
            Told::Error(error) => assert_eq!(error.code, ErrorCode::DocumentDamaged as u16),
            other => panic!("{other:?}"),
        }
        assert_eq!(host.shard.documents(), 0, "the next open tries anew");
    }
}
