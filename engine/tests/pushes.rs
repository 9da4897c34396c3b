//! Pushes: generations, the order of answers, duplicates, pushes that wait for the log, commits that fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Host, Told, Writer, actor, altered, empty, hash, peer};
use etherply_engine::document::GENESIS_ACTOR;
use etherply_engine::shard::Input;
use etherply_wire::ErrorCode;

/// More changes than a document's window holds.
const BEYOND_WINDOW: usize = 1_024 + 8;

/// A document with more changes than its window holds, pushed in groups.
fn long(host: &mut Host, writer: &mut Writer) -> Vec<Vec<u8>> {
    let changes = writer.puts(BEYOND_WINDOW);
    for (push, group) in (1..).zip(changes.chunks(100)) {
        host.push(peer(1), push, 1, group);
        host.take(peer(1)).remove(0).ack();
    }
    changes
}

#[test]
fn after_a_refusal_the_rest_of_the_generation_is_passed_over_and_settled() {
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    let changes = writer.puts(4);
    host.push(peer(1), 1, 1, &changes[..1]);
    host.push(peer(1), 2, 1, &changes[2..3]);
    host.push(peer(1), 3, 1, &changes[1..2]);
    let told = host.take(peer(1));
    assert_eq!(told.len(), 2, "the third is not answered");
    let (code, refused, _) = told[1].clone().refused();
    assert_eq!((code, refused.push, refused.generation, refused.index), (ErrorCode::SequenceGap, 2, 1, 0));
    assert!(refused.clock_complete);
    assert_eq!(refused.clock.len(), 1);
    assert_eq!((refused.clock[0].seq, refused.clock[0].hash), (1, hash(&changes[0])));
    assert_eq!(host.in_flight[&peer(1)], 0, "all are settled");
    host.push(peer(1), 4, 2, &changes[1..]);
    assert_eq!(host.take(peer(1)).remove(0).ack().positions, [2, 3, 4]);
    host.push(peer(1), 5, 1, &changes[..1]);
    assert!(host.take(peer(1)).is_empty(), "the first generation stays refused");
    assert_eq!(host.in_flight[&peer(1)], 0);
}

#[test]
fn answers_come_in_the_order_of_the_pushes() {
    let mut host = Host::default();
    host.join(1);
    host.hold_commits = true;
    let mut writer = Writer::new(1);
    let changes = writer.puts(3);
    host.push(peer(1), 1, 1, &changes[..1]);
    host.push(peer(1), 2, 1, &changes[..1]);
    host.push(peer(1), 3, 1, &changes[2..]);
    assert!(host.take(peer(1)).is_empty(), "nothing is durable");
    assert!(host.in_flight[&peer(1)] > 0);
    host.commit();
    let told = host.take(peer(1));
    assert!(matches!(&told[..], [Told::Ack(a), Told::Ack(b), Told::Refused(r, _)]
        if (a.push, b.push, r.push) == (1, 2, 3) && a.positions == b.positions));
    assert_eq!(host.in_flight[&peer(1)], 0);
}

#[test]
fn a_refusal_tells_of_nothing_that_is_not_durable() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    host.hold_commits = true;
    let genesis = |value| {
        let mut author = Writer::new(0);
        author.doc.set_actor(automerge::ActorId::from(&GENESIS_ACTOR[..]));
        author.put("title", value)
    };
    host.push(peer(1), 1, 1, &[genesis(1)]);
    host.push(peer(2), 1, 1, &[genesis(2)]);
    assert!(host.take(peer(2)).is_empty(), "the first genesis is not durable");
    host.commit();
    let (code, refused, tail) = host.take(peer(2)).remove(0).refused();
    assert_eq!((code, tail), (ErrorCode::GenesisConflict, genesis(1)));
    assert_eq!(refused.clock[0].hash, hash(&genesis(1)));
}

#[test]
fn a_clock_tells_of_nothing_that_is_not_durable() {
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    host.acked(peer(1), 1, &[writer.put("a", 1)]);
    host.hold_commits = true;
    let pending = writer.put("a", 2);
    host.push(peer(1), 2, 1, std::slice::from_ref(&pending));
    let foreign = etherply_wire::kinds::Cursor { epoch: 9, seq: 4, chain: [1; 32] };
    host.open(peer(2), common::MEMBER, Some(foreign));
    assert_eq!(host.take(peer(2)).len(), 1, "only `Opened`");
    host.open(peer(3), common::MEMBER, Some(foreign));
    host.take(peer(3));
    host.commit();
    for id in [2, 3] {
        match host.take(peer(id)).remove(0) {
            Told::Reconcile(part) => assert_eq!(part.clock[0].hash, hash(&pending)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_clock_that_waited_is_told_without_what_was_taken_back() {
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    let durable = writer.put("a", 1);
    host.acked(peer(1), 1, std::slice::from_ref(&durable));
    host.hold_commits = true;
    host.push(peer(1), 2, 1, &[writer.put("a", 2)]);
    let foreign = etherply_wire::kinds::Cursor { epoch: 9, seq: 4, chain: [1; 32] };
    host.open(peer(2), common::MEMBER, Some(foreign));
    host.take(peer(2));
    host.fail_commit();
    match host.take(peer(2)).remove(0) {
        Told::Reconcile(part) => assert_eq!(part.clock[0].hash, hash(&durable)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn duplicates_are_acked_with_their_positions() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    let mut writer = Writer::new(1);
    let changes = writer.puts(4);
    host.acked(peer(1), 1, &changes[..3]);
    let ack = host.acked(peer(2), 1, &[changes[1].clone(), changes[0].clone(), changes[3].clone()]);
    assert_eq!(ack.positions, [2, 1, 4]);
    assert_eq!((ack.after_seq, ack.cursor.seq), (3, 4), "only the new one stands in the range");
    let ack = host.acked(peer(2), 1, &changes);
    assert_eq!((ack.positions, ack.after_seq, ack.cursor.seq), (vec![1, 2, 3, 4], 4, 4));
    let within = writer.put("b", 1);
    let ack = host.acked(peer(1), 1, &[within.clone(), within]);
    assert_eq!(ack.positions, [5, 5], "twice in one push");
}

#[test]
fn a_duplicate_of_a_change_that_is_not_durable_waits_for_it() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    host.hold_commits = true;
    let change = Writer::new(1).put("a", 1);
    host.push(peer(1), 1, 1, std::slice::from_ref(&change));
    host.push(peer(2), 1, 1, std::slice::from_ref(&change));
    assert_eq!(host.commits.len(), 1, "it is stored once");
    assert!(host.take(peer(2)).is_empty());
    host.commit();
    assert_eq!(host.take(peer(2)).remove(0).ack().positions, [1]);
}

#[test]
fn what_is_older_than_the_window_is_looked_up() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    let mut writer = Writer::new(1);
    let changes = long(&mut host, &mut writer);
    assert_eq!(host.finds, 0);
    // A duplicate, and a dependency, both older than the window; behind them a push that must wait its turn.
    let mut late = Writer::new(2);
    late.apply(&changes[..2]);
    let edit = late.put("late", 1);
    host.hold_questions = true;
    host.push(peer(2), 1, 1, &[changes[1].clone(), edit.clone()]);
    host.push(peer(2), 2, 1, &[late.put("late", 2)]);
    assert_eq!((host.questions.len(), host.take(peer(2)).len()), (1, 0));
    host.answer();
    let told = host.take(peer(2));
    let seq = BEYOND_WINDOW as u64 + 1;
    assert_eq!(told[0].clone().ack().positions, [2, seq]);
    assert_eq!(told[1].clone().ack().positions, [seq + 1]);
    host.hold_questions = false;
    // A fork of the actor's old change: only the log can tell.
    let fork = altered(&changes[1], |change| change.time = 99);
    let (code, ..) = host.refusal(peer(2), 2, &[fork]);
    assert_eq!(code, ErrorCode::ActorForked);
    let unknown = empty(&actor(9), 1, 1, &[[5; 32]]);
    let (code, ..) = host.refusal(peer(2), 3, &[unknown]);
    assert_eq!(code, ErrorCode::MissingDependencies);
}

#[test]
fn every_question_to_the_log_brings_a_push_closer_to_its_end() {
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    let changes = writer.puts(2);
    let fork = altered(&changes[0], |change| change.time = 99);
    // The fork shows only behind changes of the same push: what is asked must not depend on the state before.
    let (code, refused, _) = host.refusal(peer(1), 1, &[changes[0].clone(), changes[1].clone(), fork]);
    assert_eq!((code, refused.index), (ErrorCode::ActorForked, 2));
    // A change before the one that it depends on, both in one push.
    let mut other = Writer::new(2);
    other.apply(&changes[..1]);
    let after = other.put("b", 1);
    let (code, ..) = host.refusal(peer(1), 2, &[after, changes[0].clone()]);
    assert_eq!(code, ErrorCode::MissingDependencies);
    assert!(host.finds <= 3, "{} questions", host.finds);
}

#[test]
fn an_answer_for_a_stream_that_was_closed_is_not_taken_for_the_next() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    let mut writer = Writer::new(1);
    let changes = long(&mut host, &mut writer);
    host.hold_questions = true;
    host.push(peer(2), 1, 1, &changes[..1]);
    host.close(peer(2));
    host.open(peer(2), common::MEMBER, None);
    host.take(peer(2));
    host.push(peer(2), 2, 1, &changes[1..2]);
    host.answer();
    assert!(host.take(peer(2)).is_empty(), "this was the first stream's");
    assert_eq!(host.questions.len(), 1, "nothing is asked twice");
    host.answer();
    assert_eq!(host.take(peer(2)).remove(0).ack().positions, [2]);
    assert_eq!(host.in_flight[&peer(2)], 0);
}

#[test]
fn a_failed_commit_takes_back_everything_that_is_not_durable() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    let mut writer = Writer::new(1);
    let changes = writer.puts(6);
    host.acked(peer(1), 1, &changes[..1]);
    let before = format!("{:?}", host.end());
    host.hold_commits = true;
    host.push(peer(1), 2, 1, &changes[1..2]);
    host.push(peer(1), 3, 1, &changes[2..3]);
    host.push(peer(2), 1, 1, &[changes[1].clone()]);
    host.push_open(peer(1), 4, 1, &changes[3..4]);
    host.fail_commit();
    for id in [1, 2] {
        let told = host.take(peer(id));
        assert_eq!(told.len(), 1, "one refusal speaks for the generation: {told:?}");
        let (code, refused, _) = told[0].clone().refused();
        assert_eq!(code, ErrorCode::StorageUnavailable);
        assert_eq!((refused.push, refused.generation), (if id == 1 { 2 } else { 1 }, 1));
        assert!(refused.retry_after_ms > 0 && refused.message.contains("no space left"));
        assert_eq!(host.in_flight[&peer(id)], 0);
    }
    host.commits.clear();
    let (code, ..) = host.refusal(peer(1), 2, &changes[1..2]);
    assert_eq!(code, ErrorCode::StorageUnavailable, "nothing more is taken");
    assert!(host.commits.is_empty());
    assert_eq!(format!("{:?}", host.end()), before);
    assert!(host.shard.is_settled());
    host.join(3);
    assert_eq!(host.gather_changes(peer(3)), changes[..1], "reads go on");
}

#[test]
fn a_push_that_waits_for_a_failing_disk_is_refused_though_a_later_one_was_already() {
    let mut host = Host::default();
    host.join(1);
    host.hold_commits = true;
    let mut writer = Writer::new(1);
    let changes = writer.puts(3);
    host.push(peer(1), 1, 1, &changes[..1]);
    host.push(peer(1), 2, 1, &changes[2..]);
    host.push(peer(1), 3, 2, &changes[1..2]);
    host.fail_commit();
    let refused: Vec<(u64, u32)> = host
        .take(peer(1))
        .into_iter()
        .map(|told| {
            let (code, refused, _) = told.refused();
            assert_eq!(code, ErrorCode::StorageUnavailable);
            (refused.push, refused.generation)
        })
        .collect();
    assert_eq!(refused, [(1, 1), (3, 2)]);
    assert_eq!(host.in_flight[&peer(1)], 0);
}

#[test]
fn a_push_whose_connection_is_gone_is_stored_and_relayed_but_not_acked() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    host.hold_commits = true;
    let change = Writer::new(1).put("a", 1);
    host.push(peer(1), 1, 1, std::slice::from_ref(&change));
    host.turn(Input::Disconnected { peer: peer(1) });
    host.commit();
    assert!(host.take(peer(1)).is_empty());
    assert_eq!(host.gather_changes(peer(2)), [change]);
}

#[test]
fn crossing_closes_are_answered_once() {
    let mut host = Host::default();
    let handle = host.join(1);
    host.close(peer(1));
    assert!(matches!(&host.take(peer(1))[..], [Told::Close(close)] if close.code == 0));
    host.turn(Input::Close { peer: peer(1), handle });
    assert!(host.take(peer(1)).is_empty(), "it would end the stream that is opened next");
}
