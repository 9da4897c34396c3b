use std::path::Path;
use std::sync::Arc;

use automerge::transaction::Transactable;
use automerge::{ActorId, Automerge, ROOT, ReadDoc};
use bytes::Bytes;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::ChangeHash;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, FIRST_EPOCH, Log};
use etherply_engine::record::Record;

use super::replica::{Opening, OpeningError, Replica};
use crate::storage::{self, FjallLog};

fn document() -> DocumentId {
    DocumentId::new("notes").unwrap()
}

/// A document and its changes, as the log has them.
fn history(edits: u64) -> (Automerge, Vec<Record>) {
    let mut automerge = Automerge::new().with_actor(ActorId::from(vec![7; 16]));
    for edit in 0..edits {
        let mut transaction = automerge.transaction();
        transaction.put(ROOT, format!("key {}", edit % 50), i64::try_from(edit).unwrap()).unwrap();
        transaction.commit();
    }
    let mut chain = chain_start(&document(), FIRST_EPOCH);
    let records = automerge.get_changes(&[]).into_iter().zip(1..).map(|(change, seq)| {
        let hash = ChangeHash(change.hash().0);
        chain = chain_next(&chain, seq, &hash);
        let (max_op, pusher) = (change.max_op(), Arc::from(""));
        let change = Bytes::copy_from_slice(change.raw_bytes());
        Record { seq, hash, chain, max_op, time_ms: 0, pusher, change }
    });
    let records = records.collect();
    (automerge, records)
}

fn store(path: &Path, records: &[Record]) -> FjallLog {
    let mut log = storage::open(path).unwrap();
    let append = Append { document: document(), epoch: FIRST_EPOCH, records: records.to_vec() };
    log.commit(&[append]).unwrap();
    log
}

fn open(log: &FjallLog, mut opening: Opening) -> (Result<Replica, OpeningError>, usize) {
    for steps in 1..10_000 {
        match opening.step(log.reader()) {
            Ok(None) => {}
            Ok(Some(replica)) => return (Ok(replica), steps),
            Err(error) => return (Err(error), steps),
        }
    }
    panic!("it does not end");
}

fn cut(log: &FjallLog, last: &Record) {
    let through = etherply_wire::kinds::Cursor { epoch: FIRST_EPOCH, seq: last.seq, chain: last.chain.0 };
    let mut cut = log.reader().snapshots().cut(document(), through);
    while cut.step(log.reader()).unwrap().is_none() {}
}

#[test]
fn a_replica_is_what_the_log_says() {
    let directory = tempfile::tempdir().unwrap();
    let (automerge, records) = history(5_000);
    let log = store(directory.path(), &records);
    let (replica, steps) = open(&log, Opening::new(document()));
    let replica = replica.unwrap();
    assert!(steps > 3, "{steps} steps: a long log is read in pieces");
    assert_eq!(replica.heads(), automerge.get_heads());
    assert_eq!((replica.cursor().seq, replica.cursor().chain), (5_000, records[4_999].chain.0));
    let loaded = Automerge::load(&replica.save_verified().unwrap()).unwrap();
    assert_eq!(loaded.hydrate(None), automerge.hydrate(None));
    let (half, _) = open(&log, Opening::through(document(), 2_500));
    assert_eq!(half.unwrap().automerge().stats().num_changes, 2_500);
}

#[test]
fn a_document_that_nobody_wrote_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let log = storage::open(directory.path()).unwrap();
    let replica = open(&log, Opening::new(document())).0.unwrap();
    assert!(replica.automerge().is_empty());
    assert_eq!((replica.cursor().epoch, replica.cursor().seq), (FIRST_EPOCH, 0));
}

#[test]
fn a_snapshot_saves_reading_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (automerge, records) = history(5_000);
    let log = store(directory.path(), &records);
    cut(&log, &records[3_999]);
    let replica = open(&log, Opening::new(document())).0.unwrap();
    assert_eq!(replica.heads(), automerge.get_heads());
    assert_eq!(replica.cursor().seq, 5_000);
    // One that lies beyond what is wanted is of no use.
    let replica = open(&log, Opening::through(document(), 3_000)).0.unwrap();
    assert_eq!(replica.automerge().stats().num_changes, 3_000);
}

#[test]
fn a_damaged_snapshot_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let (automerge, records) = history(2_000);
    let log = store(directory.path(), &records);
    cut(&log, &records[1_999]);
    for entry in std::fs::read_dir(directory.path().join("snapshots")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() - 100;
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let replica = open(&log, Opening::new(document())).0.unwrap();
    assert_eq!(replica.heads(), automerge.get_heads());
}

#[test]
fn what_automerge_keeps_back_without_a_word_is_poison() {
    let (_, records) = history(10);
    let without_first = Replica::new(document(), FIRST_EPOCH).apply(&records[1..]);
    assert_eq!((without_first.unwrap_err().first_seq), 2);
    // In order by position, but the third was replaced by a copy of the first.
    let mut doubled = records.clone();
    doubled[2].change = records[0].change.clone();
    let poison = Replica::new(document(), FIRST_EPOCH).apply(&doubled).unwrap_err();
    assert!(poison.what.contains("of 10 changes"), "{poison}");
}

#[test]
fn bytes_that_are_no_change_are_named_by_their_position() {
    let (_, mut records) = history(10);
    records[6].change = Bytes::from_static(b"no change");
    let poison = Replica::new(document(), FIRST_EPOCH).apply(&records).unwrap_err();
    assert_eq!((poison.first_seq, poison.last_seq), (7, 7));
    let saved = Replica::from_saved(document(), Replica::new(document(), 1).cursor(), b"no document");
    assert_eq!(saved.unwrap_err().action, "load");
}
