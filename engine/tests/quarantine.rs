//! A document that begins anew without a change that broke it: who is told what, and who may write on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Host, MEMBER, Told, Writer, actor, document, peer};
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::ActorId;
use etherply_engine::document::recover;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, MemoryLog, Past};
use etherply_engine::record::Record;
use etherply_engine::shard::{Effect, Input};
use etherply_wire::ErrorCode;
use etherply_wire::kinds::{Cursor, resume};

/// Gives the document an epoch with the records that `keep` says.
fn begin_anew(log: &mut MemoryLog, epoch: u64, past: Past, keep: impl Fn(&Record) -> bool) {
    let mut chain = chain_start(&document(), epoch);
    let kept = log.records(&document()).iter().filter(|record| keep(record)).cloned();
    let records = kept.zip(1..).map(|(record, seq)| {
        chain = chain_next(&chain, seq, &record.hash);
        Record { seq, chain, ..record }
    });
    let records = records.collect();
    log.reset(&Append { document: document(), epoch, records }, past);
}

fn without(id: u64) -> Past {
    Past { reset_epoch: 2, excluded: vec![ActorId::from_slice(&actor(id)).unwrap()] }
}

fn closed(host: &mut Host, id: u64) -> Option<ErrorCode> {
    host.take(peer(id)).into_iter().find_map(|told| match told {
        Told::Close(close) => ErrorCode::from_number(close.code),
        _ => None,
    })
}

fn reopen(host: &mut Host, id: u64, cursor: Option<Cursor>) -> u8 {
    host.open(peer(id), MEMBER, cursor);
    host.take(peer(id)).remove(0).opened().resume
}

fn quarantine(host: &mut Host) {
    host.turn(Input::Quarantine { document: document() });
}

#[test]
fn members_lose_their_streams_and_come_back_to_a_new_document() {
    let mut host = Host::default();
    let (mut good, mut bad) = (Writer::new(1), Writer::new(2));
    host.join(1);
    host.join(2);
    let kept = good.puts(3);
    host.acked(peer(1), 1, &kept);
    host.acked(peer(2), 1, &bad.puts(2));
    let before = host.end();

    host.hold_questions = true;
    quarantine(&mut host);
    for id in [1, 2] {
        assert_eq!(closed(&mut host, id), Some(ErrorCode::DocumentReset));
    }
    assert!(matches!(host.questions.front(), Some(Effect::Rebuild { .. })), "{:?}", host.questions);
    begin_anew(&mut host.log, 2, without(2), |record| record.seq <= 3);
    host.open(peer(1), MEMBER, Some(before));
    assert!(host.take(peer(1)).is_empty(), "it waits until the document is there again");
    host.hold_questions = false;
    host.answer();

    let opened = host.take(peer(1)).remove(0).opened();
    assert_eq!((opened.resume, opened.cursor.epoch, opened.cursor.seq), (resume::RESET, 2, 3));
    assert_eq!(host.gather_changes(peer(1)), kept);
    assert_eq!(host.acked(peer(1), 1, &good.puts(1)).cursor.seq, 4);

    assert_eq!(reopen(&mut host, 2, Some(before)), resume::RESET);
    host.gather(peer(2));
    assert_eq!(host.refusal(peer(2), 1, &bad.puts(1)).0, ErrorCode::ActorExcluded);
    let (code, ..) = host.refusal(peer(2), 2, &Writer::new(2).puts(1));
    assert_eq!(code, ErrorCode::ActorExcluded, "nor can it bring what was taken out");
    let mut afresh = Writer::new(3);
    host.acked(peer(2), 3, &afresh.puts(1));
    assert_eq!(recover(&host.log, &document()).unwrap().committed(), host.end());
}

#[test]
fn a_document_is_rebuilt_only_when_nothing_is_on_its_way_to_the_disk() {
    let mut host = Host::default();
    let mut writer = Writer::new(1);
    host.join(1);
    host.hold_commits = true;
    host.hold_questions = true;
    host.push(peer(1), 1, 1, &writer.puts(2));
    host.push_open(peer(1), 2, 1, &writer.puts(1));
    quarantine(&mut host);
    assert!(host.questions.is_empty(), "{:?}", host.questions);
    host.commit();
    assert!(matches!(host.questions.front(), Some(Effect::Rebuild { .. })));
    assert_eq!(host.end().seq, 2, "what was admitted and not on its way never gets there");
    assert!(host.commits.is_empty());
    assert_eq!(host.in_flight[&peer(1)], 0);
    assert!(host.take(peer(1)).iter().all(|told| !matches!(told, Told::Ack(_))));
}

#[test]
fn a_document_that_nobody_has_open_is_rebuilt_as_well() {
    let mut host = Host::default();
    host.hold_questions = true;
    quarantine(&mut host);
    quarantine(&mut host);
    assert!(matches!(host.questions.pop_front(), Some(Effect::Rebuild { .. })));
    host.hold_questions = false;
    // The answer for the first is for nobody, the second's is taken.
    host.answer();
    host.join(1);
    assert!(host.questions.is_empty());
}

#[test]
fn which_copies_are_thrown_away_is_known_by_their_epoch() {
    let mut log = MemoryLog::new();
    begin_anew(&mut log, 3, Past { reset_epoch: 2, excluded: Vec::new() }, |_| true);
    let mut host = Host::new(log);
    let at = |epoch| Some(Cursor { epoch, seq: 7, chain: [0; 32] });
    for (id, cursor, how) in [
        (1, at(1), resume::RESET),
        (2, at(2), resume::RECONCILE),
        (3, at(3), resume::RECONCILE),
        (4, at(4), resume::RECONCILE),
        (5, None, resume::START),
    ] {
        assert_eq!(reopen(&mut host, id, cursor), how, "{cursor:?}");
    }
}

#[test]
fn other_documents_do_not_notice() {
    let mut host = Host::default();
    let other = DocumentId::new("rooms/2").unwrap();
    host.join(1);
    host.open_in(other, peer(2), MEMBER, None);
    host.take(peer(2));
    quarantine(&mut host);
    assert_eq!(closed(&mut host, 1), Some(ErrorCode::DocumentReset));
    assert!(host.has_stream(peer(2)));
    host.acked(peer(2), 1, &Writer::new(2).puts(1));
}
