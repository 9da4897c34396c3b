//! What the tests of this module share: documents with well-formed logs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::ChangeHash;
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::{Append, FIRST_EPOCH};
use etherply_engine::record::Record;

use super::OpenError;

pub fn document(name: &str) -> DocumentId {
    DocumentId::new(name).unwrap()
}

/// Gives out records the way the engine does: in order, chained, and told apart by their content.
#[derive(Debug, Default, Clone)]
pub struct Author {
    ends: HashMap<(DocumentId, u64), (u64, ChainHash)>,
    made: u64,
}

impl Author {
    pub fn append(&mut self, name: &str, count: usize) -> Append {
        self.append_sized(name, FIRST_EPOCH, count, 48)
    }

    pub fn append_sized(&mut self, name: &str, epoch: u64, count: usize, change_bytes: usize) -> Append {
        let document = document(name);
        let start = (0, chain_start(&document, epoch));
        let (seq, chain) = self.ends.entry((document.clone(), epoch)).or_insert(start);
        let records = (0..count).map(|_| {
            self.made += 1;
            *seq += 1;
            let mut hash = [0xff; 32];
            hash[..8].copy_from_slice(&self.made.to_be_bytes());
            *chain = chain_next(chain, *seq, &ChangeHash(hash));
            Record {
                seq: *seq,
                hash: ChangeHash(hash),
                chain: *chain,
                max_op: 10 * *seq,
                time_ms: 1_700_000_000_000,
                pusher: Arc::from("ada"),
                change: Bytes::from(vec![self.made.to_le_bytes()[0]; change_bytes]),
            }
        });
        let records = records.collect();
        Append { document, epoch, records }
    }
}

/// Tries until nobody holds the directory. Tests beside this one start processes, and such a process has this one's
/// descriptors, with the lock, from its fork to its exec.
pub fn unlocked<T>(mut attempt: impl FnMut() -> Result<T, OpenError>) -> Result<T, OpenError> {
    loop {
        match attempt() {
            Err(error) if error.code() == "storage_locked" => std::thread::yield_now(),
            done => return done,
        }
    }
}

/// Every file below a directory, with its bytes, except the lock (which each start writes).
pub fn files(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path != root.join("lock") {
                let bytes = std::fs::read(&path).unwrap();
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

/// The journals of a data directory, oldest first.
pub fn journal_paths(root: &Path) -> Vec<PathBuf> {
    super::scan::all_journals(&root.join("fjall"))
}

/// Puts something else in the place of the row that says where a document stands, in a commit of its own.
pub fn spoil_head(log: &mut super::FjallLog, name: &str) {
    let spoilt = log.write(|writer| {
        let mut rows = writer.begin(0)?;
        writer.set(&mut rows, super::keys::KeyspaceId::Documents, name.as_bytes(), &[1; 22]);
        writer.finish(rows)
    });
    spoilt.unwrap();
}

/// Gives out records whose changes are Automerge's, as clients make them.
#[derive(Default)]
pub struct RealAuthor {
    documents: HashMap<DocumentId, (automerge::AutoCommit, u64, ChainHash)>,
    made: u32,
    epoch: u64,
}

impl RealAuthor {
    pub fn new() -> Self {
        Self::in_epoch(FIRST_EPOCH)
    }

    pub fn in_epoch(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    pub fn append(&mut self, name: &str, count: usize) -> Append {
        self.append_text(name, count, "short")
    }

    /// Changes that each put `text` under a key of their own.
    pub fn append_text(&mut self, name: &str, count: usize, text: &str) -> Append {
        use automerge::transaction::Transactable;
        let document = document(name);
        let (doc, seq, chain) = self.documents.entry(document.clone()).or_insert_with(|| {
            let mut actor = [7; 16];
            actor[..8].copy_from_slice(&xxhash_rust::xxh3::xxh3_64(name.as_bytes()).to_le_bytes());
            let doc = automerge::AutoCommit::new().with_actor(automerge::ActorId::from(actor));
            (doc, 0, chain_start(&document, self.epoch))
        });
        let records = (0..count).map(|_| {
            self.made += 1;
            doc.put(automerge::ROOT, format!("key {}", self.made), text).unwrap();
            let time = automerge::transaction::CommitOptions::default().with_time(0);
            doc.commit_with(time);
            let change = doc.get_last_local_change().unwrap();
            *seq += 1;
            let hash = ChangeHash(change.hash().0);
            *chain = chain_next(chain, *seq, &hash);
            Record {
                seq: *seq,
                hash,
                chain: *chain,
                max_op: change.max_op(),
                time_ms: 1_700_000_000_000,
                pusher: Arc::from("ada"),
                change: Bytes::copy_from_slice(change.raw_bytes()),
            }
        });
        let records = records.collect();
        Append { document, epoch: self.epoch, records }
    }
}
