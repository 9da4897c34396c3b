//! What the tests of this module share: a log of genuine changes, and its snapshots.

use std::path::Path;
use std::sync::Arc;

use automerge::transaction::Transactable;
use automerge::{ActorId, Automerge, ROOT};
use bytes::Bytes;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::ChangeHash;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, FIRST_EPOCH, Log, LogError};
use etherply_engine::record::Record;
use etherply_engine::snapshot::Snapshot;
use etherply_wire::kinds::Cursor;

use super::cut::Cut;
use crate::storage::{self, FjallLog};

pub fn document() -> DocumentId {
    DocumentId::new("notes").unwrap()
}

/// A document and its changes, as the log has them.
pub fn history(edits: u64) -> (Automerge, Vec<Record>) {
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

pub fn store(path: &Path, records: &[Record]) -> FjallLog {
    let mut log = storage::open(path).unwrap();
    let append = Append { document: document(), epoch: FIRST_EPOCH, records: records.to_vec() };
    log.commit(&[append]).unwrap();
    log
}

/// Opens a directory that nobody holds. Tests beside this one start processes, and such a process has this one's
/// descriptors, with the lock, from its fork to its exec.
pub fn open(path: &Path) -> FjallLog {
    loop {
        match storage::open(path) {
            Err(error) if error.code() == "storage_locked" => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// The place behind a record.
pub fn behind(record: &Record) -> Cursor {
    Cursor { epoch: FIRST_EPOCH, seq: record.seq, chain: record.chain.0 }
}

/// Cuts a snapshot up to a record, and makes it the document's.
pub fn cut(log: &mut FjallLog, last: &Record) -> Result<Snapshot, LogError> {
    let (mut cut, reader) = (Cut::new(document(), behind(last)), log.reader().clone());
    loop {
        if let Some(snapshot) = cut.step(&reader, log)? {
            return Ok(snapshot);
        }
    }
}
