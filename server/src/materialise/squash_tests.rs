use std::sync::Arc;

use automerge::marks::Mark;
use etherply_engine::document::recover;
use etherply_engine::log::FIRST_EPOCH;
use etherply_engine::log::Log as _;

use super::super::testing::{cut, document, history, open, store};
use super::*;
use crate::storage::{Listeners, spawn_committer};

/// A document with something of everything.
fn rich() -> Automerge {
    let mut doc = AutoCommit::new();
    doc.put(&ROOT, "text", "a string").unwrap();
    doc.put(&ROOT, "counter", ScalarValue::counter(5)).unwrap();
    doc.increment(&ROOT, "counter", 7).unwrap();
    doc.put(&ROOT, "bytes", vec![1_u8, 2, 3]).unwrap();
    doc.put(&ROOT, "time", ScalarValue::Timestamp(1_700_000_000)).unwrap();
    doc.put(&ROOT, "nothing", ()).unwrap();
    doc.put(&ROOT, "gone", 1).unwrap();
    doc.delete(&ROOT, "gone").unwrap();
    doc.put(&ROOT, "half", 1.5).unwrap();
    let list = doc.put_object(&ROOT, "list", ObjType::List).unwrap();
    for n in 0..20 {
        doc.insert(&list, 0, n).unwrap();
    }
    doc.delete(&list, 3).unwrap();
    let inner = doc.insert_object(&list, 2, ObjType::Map).unwrap();
    doc.put(&inner, "deep", true).unwrap();
    let text = doc.put_object(&ROOT, "rich", ObjType::Text).unwrap();
    doc.splice_text(&text, 0, 0, "Grüße, 世界 and 👋 everybody").unwrap();
    doc.splice_text(&text, 0, 2, "").unwrap();
    let bold = Mark::new("bold".to_owned(), ScalarValue::Boolean(true), 3, 8);
    doc.mark(&text, bold, ExpandMark::After).unwrap();
    let block = doc.split_block(&text, 10).unwrap();
    doc.put(&block, "type", "paragraph").unwrap();
    // Two that nobody merged yet.
    let mut other = doc.fork();
    other.put(&ROOT, "text", "another string").unwrap();
    doc.put(&ROOT, "text", "a third").unwrap();
    doc.merge(&mut other).unwrap();
    let mut nested = doc.put_object(&ROOT, "nested", ObjType::Map).unwrap();
    for _ in 0..2_000 {
        nested = doc.put_object(&nested, "in", ObjType::Map).unwrap();
    }
    doc.document().clone()
}

fn rebuilt(changes: &[Vec<u8>]) -> Automerge {
    let mut doc = Automerge::new();
    let read = changes.iter().map(|bytes| automerge::Change::from_bytes(bytes.clone()).unwrap());
    doc.apply_changes(read).unwrap();
    doc
}

#[test]
fn what_a_document_says_comes_along_and_nothing_else() {
    let before = rich();
    let changes = fresh_changes(&before, &[9; 16]).unwrap();
    let after = rebuilt(&changes);
    let (_, text) = after.get(&ROOT, "rich").unwrap().unwrap();
    let (_, text_before) = before.get(&ROOT, "rich").unwrap().unwrap();
    assert_eq!(after.marks(&text).unwrap().len(), 1);
    assert!(after.spans(&text).unwrap().eq(before.spans(&text_before).unwrap()));
    assert_eq!(after.get_all(&ROOT, "text").unwrap().len(), 1, "what lost is gone");
    assert_eq!(before.get_all(&ROOT, "text").unwrap().len(), 2);
    assert!(matches!(after.get(&ROOT, "counter").unwrap().unwrap().0, Value::Scalar(value)
        if matches!(&*value, ScalarValue::Counter(counter) if i64::from(counter) == 12)));
    for bytes in &changes {
        parse(bytes, &ChangeLimits::DEFAULT).unwrap();
    }
    assert_eq!(fresh_changes(&Automerge::new(), &[9; 16]).unwrap(), Vec::<Vec<u8>>::new());
}

#[test]
fn changes_of_a_squashed_document_end_at_their_limits() {
    let mut doc = AutoCommit::new();
    let text = doc.put_object(&ROOT, "text", ObjType::Text).unwrap();
    doc.splice_text(&text, 0, 0, &"x".repeat(3 * SQUASH_OPS_PER_CHANGE)).unwrap();
    for n in 0..8 {
        doc.put(&ROOT, format!("large {n}"), vec![n; SQUASH_BYTES_PER_CHANGE / 2]).unwrap();
    }
    let changes = fresh_changes(doc.document(), &[9; 16]).unwrap();
    assert!((7..=9).contains(&changes.len()), "{}", changes.len());
    for bytes in &changes {
        let ops = parse(bytes, &ChangeLimits::DEFAULT).unwrap().ops();
        assert!(ops <= 2 * SQUASH_OPS_PER_CHANGE as u64, "{ops}");
    }
}

#[test]
fn a_squashed_document_goes_on_in_a_new_epoch_and_old_copies_begin_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (automerge, records) = history(3_000);
    let mut log = store(directory.path(), &records);
    // Whether a snapshot covers some of it, or not.
    cut(&mut log, &records[1_999]).unwrap();
    let (reader, stats) = (log.reader().clone(), Arc::clone(log.stats()));
    let (committer, thread) = spawn_committer(log, stats, Listeners::default(), || {}).unwrap();
    let squashed = squash(&reader, &committer, &document(), ([9; 16], 7)).unwrap().unwrap();
    assert_eq!((squashed.epoch, squashed.changes_before), (FIRST_EPOCH + 1, 3_000));
    assert!(squashed.changes < 5, "{squashed:?}");
    drop((committer, reader));
    thread.join();
    let mut log = open(directory.path());
    let recovered = recover(log.reader(), &document()).unwrap();
    assert_eq!((recovered.committed().epoch, recovered.committed().seq), (squashed.epoch, squashed.changes));
    assert!(recovered.resets(FIRST_EPOCH) && !recovered.resets(squashed.epoch));
    let mut opening = Opening::new(document());
    let replica = loop {
        if let Some(replica) = opening.step(log.reader()).unwrap() {
            break replica;
        }
    };
    assert_eq!(replica.automerge().hydrate(None), automerge.hydrate(None));
    // It goes on, and nothing of the old epoch is in the way: not even its snapshot.
    let records = log.reader().read(&document(), squashed.epoch, 0, u64::MAX, usize::MAX).unwrap();
    let mut next = replica.automerge().clone();
    let mut transaction = next.transaction();
    transaction.put(ROOT, "after", 1).unwrap();
    transaction.commit();
    let change = next.get_last_local_change().unwrap();
    let hash = ChangeHash(change.hash().0);
    let seq = squashed.changes + 1;
    let record = Record {
        seq,
        hash,
        chain: chain_next(&records.last().unwrap().chain, seq, &hash),
        max_op: change.max_op(),
        time_ms: 0,
        pusher: "".into(),
        change: bytes::Bytes::copy_from_slice(change.raw_bytes()),
    };
    log.commit(&[Append { document: document(), epoch: squashed.epoch, records: vec![record] }]).unwrap();
    assert_eq!(recover(log.reader(), &document()).unwrap().committed().seq, seq);
}

#[test]
fn a_running_server_squashes_when_the_home_is_ready_and_one_at_a_time() {
    use crate::materialise::{Materialisers, Quarantine, Settings, Tables};
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = history(500);
    let log = store(directory.path(), &records);
    let reader = log.reader().clone();
    let settings = Settings { threads: 1, bytes_max: 1 << 30, lag_records_max: u64::MAX };
    let tables = Tables::new(settings, &Arc::default(), &(Arc::new(|| {}) as _));
    let stats = Arc::clone(log.stats());
    let (committer, thread) = spawn_committer(log, stats, Listeners::default(), || {}).unwrap();
    let metrics = Arc::new(crate::metrics::Metrics::new(None).unwrap());
    let (told, homes) = flume::unbounded();
    let tell_home = Arc::new(move |document| told.send(document).unwrap());
    let quarantine = Quarantine::new(directory.path());
    let running =
        Materialisers::start(tables, settings, &reader, committer, quarantine, &metrics, tell_home).unwrap();
    let rebuilds = running.rebuilds();
    let (send, squashed) = flume::unbounded();
    let answer = || {
        let send = send.clone();
        Box::new(move |outcome| send.send(outcome).unwrap())
    };
    rebuilds.squash(document(), answer());
    assert_eq!(homes.recv().unwrap(), document());
    // Nothing happens before the home is ready.
    assert_eq!(reader.epoch(&document()).unwrap(), Some(FIRST_EPOCH));
    rebuilds.squash(document(), answer());
    assert!(squashed.recv().unwrap().unwrap_err().to_string().contains("already"));
    let (send, rebuilt) = flume::unbounded();
    rebuilds.rebuild(document(), Box::new(move |outcome| send.send(outcome).unwrap()));
    let done = squashed.recv().unwrap().unwrap().unwrap();
    assert_eq!((done.changes_before, reader.epoch(&document()).unwrap()), (500, Some(done.epoch)));
    assert_eq!(rebuilt.recv().unwrap(), Ok(()));
    drop(rebuilds);
    running.join();
    drop(reader);
    thread.join();
}

#[test]
fn a_block_of_a_text_that_is_nested_too_deep_is_an_error() {
    let mut doc = AutoCommit::new();
    let text = doc.put_object(&ROOT, "text", ObjType::Text).unwrap();
    let mut object = doc.split_block(&text, 0).unwrap();
    for _ in 0..20_000 {
        object = doc.put_object(&object, "in", ObjType::Map).unwrap();
    }
    let error = fresh_changes(doc.document(), &[9; 16]).unwrap_err();
    assert!(error.contains("nested deeper than"), "{error}");
}
