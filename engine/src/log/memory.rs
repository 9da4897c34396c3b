//! A log in memory, for tests and the simulator: what a real log promises, without a disk.

use std::collections::{HashMap, HashSet};

use super::{Append, Deleted, Found, Log, LogError, LogReader, Past};
use crate::chain::chain_start;
use crate::change::ChangeHash;
use crate::document::Anchor;
use crate::ids::{ChainHash, DocumentId};
use crate::record::Record;

#[derive(Debug, Default, Clone)]
struct Stored {
    epoch: u64,
    past: Past,
    records: Vec<Record>,
    by_hash: HashMap<ChangeHash, Found>,
    anchor: Option<Anchor>,
}

/// Records by document; nothing survives the process.
#[derive(Debug, Default, Clone)]
pub struct MemoryLog {
    documents: HashMap<DocumentId, Stored>,
    tombstones: HashSet<DocumentId>,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every document that has records.
    pub fn documents(&self) -> impl Iterator<Item = &DocumentId> {
        self.documents.keys()
    }

    /// Anchors a document in a snapshot: what that holds alone can no longer be read.
    pub fn cover(&mut self, document: &DocumentId, anchor: Anchor) {
        if let Some(stored) = self.documents.get_mut(document) {
            stored.anchor = Some(anchor);
        }
    }

    /// All records of a document, in order, also those that a snapshot covers.
    pub fn records(&self, document: &DocumentId) -> &[Record] {
        self.documents.get(document).map_or(&[], |stored| stored.records.as_slice())
    }
}

impl MemoryLog {
    /// Deletes a document for good.
    pub fn delete(&mut self, document: &DocumentId) -> Deleted {
        if self.tombstones.contains(document) {
            return Deleted::Before;
        }
        if self.documents.remove(document).is_none() {
            return Deleted::Absent;
        }
        self.tombstones.insert(document.clone());
        Deleted::Now
    }

    /// Begins a document anew: an epoch with these records in the place of all there are.
    pub fn reset(&mut self, append: &Append, past: Past) {
        let document = append.document.clone();
        self.documents.insert(document, Stored { past, ..Stored::default() });
        self.store(append);
    }

    fn store(&mut self, append: &Append) {
        let stored = self.documents.entry(append.document.clone()).or_default();
        stored.epoch = append.epoch;
        for record in &append.records {
            stored.by_hash.insert(record.hash, Found { seq: record.seq, max_op: record.max_op });
            stored.records.push(record.clone());
        }
    }
}

impl Log for MemoryLog {
    fn commit(&mut self, appends: &[Append]) -> Result<(), LogError> {
        for append in appends {
            self.store(append);
        }
        Ok(())
    }
}

impl LogReader for MemoryLog {
    fn epoch(&self, document: &DocumentId) -> Result<Option<u64>, LogError> {
        if self.tombstones.contains(document) {
            return Err(LogError::Deleted { document: document.clone() });
        }
        Ok(self.documents.get(document).map(|stored| stored.epoch))
    }

    fn read(
        &self,
        document: &DocumentId,
        epoch: u64,
        after_seq: u64,
        through_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        let Some(stored) = self.documents.get(document).filter(|stored| stored.epoch == epoch) else {
            return Ok(Vec::new());
        };
        let gone = stored.anchor.as_ref().map_or(0, |anchor| anchor.snapshot.log_after_seq);
        if after_seq < gone && after_seq < through_seq {
            return Err(LogError::Covered { document: document.clone(), seq: after_seq + 1 });
        }
        let mut bytes = 0;
        let mut records = Vec::new();
        for record in stored.records.iter().filter(|r| r.seq > after_seq && r.seq <= through_seq) {
            bytes += record.change.len();
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            records.push(record.clone());
        }
        Ok(records)
    }

    fn past(&self, document: &DocumentId) -> Result<Past, LogError> {
        Ok(self.documents.get(document).map(|stored| stored.past.clone()).unwrap_or_default())
    }

    fn find(&self, document: &DocumentId, epoch: u64, hash: &ChangeHash) -> Result<Option<Found>, LogError> {
        let stored = self.documents.get(document).filter(|stored| stored.epoch == epoch);
        Ok(stored.and_then(|stored| stored.by_hash.get(hash).copied()))
    }

    fn anchor(&self, document: &DocumentId, epoch: u64) -> Result<Option<Anchor>, LogError> {
        let stored = self.documents.get(document).filter(|stored| stored.epoch == epoch);
        Ok(stored.and_then(|stored| stored.anchor.clone()))
    }

    fn chain_at(&self, document: &DocumentId, epoch: u64, seq: u64) -> Result<Option<ChainHash>, LogError> {
        if seq == 0 {
            return Ok(Some(chain_start(document, epoch)));
        }
        let stored = self.documents.get(document).filter(|stored| stored.epoch == epoch);
        let record = stored.and_then(|stored| stored.records.iter().find(|record| record.seq == seq));
        Ok(record.map(|record| record.chain))
    }
}
