//! The disk: a [`MemoryLog`] behind commits that take their time, fail, or are lost in a crash.

use std::collections::{BTreeMap, VecDeque};

use etherply_engine::document::{Anchor, Recovery};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, Log, LogError, LogReader, MemoryLog};
use etherply_engine::record::Record;
use etherply_engine::snapshot::{Chunk, Snapshot, SnapshotRequest};
use etherply_wire::kinds::Cursor;

use crate::rng::Rng;
use crate::server::SnapshotRead;

/// Appends on their way, with the core that waits for them.
#[derive(Debug)]
pub struct Waiting {
    /// The core.
    pub core: u16,
    /// Its batch.
    pub batch: u64,
    /// How often the core had heard that the log was opened again.
    pub era: u64,
    /// What is to be stored.
    pub appends: Vec<Append>,
}

/// What is stored, and what is about to be.
#[derive(Debug, Default)]
pub struct Disk {
    /// What is durable.
    pub log: MemoryLog,
    /// Commits in their order.
    pub queue: VecDeque<Waiting>,
    /// A commit is going on.
    pub busy: bool,
    /// Snapshots, with the bytes that were written of each.
    pub snapshots: BTreeMap<DocumentId, (Snapshot, Vec<u8>)>,
    /// Commits fail from now on, until the log is opened again.
    pub poisoned: bool,
    /// How often it was opened again in one life of the server.
    pub era: u64,
    /// Of a failed commit nobody knows whether it is on disk: decided when it is opened again.
    limbo: Vec<Append>,
}

impl Disk {
    /// Durable records of a document.
    pub fn records(&self, document: &DocumentId) -> &[Record] {
        self.log.records(document)
    }

    /// Carries out the commits at the head of the queue as one group. Returns who is to be told, and whether what
    /// they gave was stored.
    pub fn commit(&mut self, rng: &mut Rng) -> Vec<(u16, u64, bool)> {
        let group = rng.range(1, 8).min(self.queue.len() as u64);
        let mut told = Vec::new();
        for waiting in (0..group).filter_map(|_| self.queue.pop_front()).collect::<Vec<_>>() {
            let stored = !self.poisoned && waiting.era == self.era;
            if self.poisoned {
                self.limbo.extend(waiting.appends);
            } else if stored {
                self.log.commit(&waiting.appends).expect("a log in memory does not fail");
            }
            told.push((waiting.core, waiting.batch, stored));
        }
        told
    }

    /// The log is opened again in the same life of the server. Documents of which nobody knows whether their last
    /// changes are stored.
    pub fn reopen(&mut self, rng: &mut Rng) -> Vec<DocumentId> {
        let documents = self.limbo.iter().map(|append| append.document.clone()).collect();
        self.settle_limbo(rng);
        self.poisoned = false;
        self.era += 1;
        documents
    }

    /// A failed commit may turn out to be there, but never without what came before it.
    fn settle_limbo(&mut self, rng: &mut Rng) {
        let survives = rng.index(self.limbo.len() + 1);
        for append in std::mem::take(&mut self.limbo).into_iter().take(survives) {
            self.log.commit(&[append]).expect("a log in memory does not fail");
        }
    }

    /// Writes a snapshot of a document's changes up to a place, and anchors the log in it as if it were shorter by
    /// a factor.
    pub fn cut(
        &mut self,
        document: &DocumentId,
        through: Cursor,
        density: u64,
    ) -> Result<Snapshot, LogError> {
        let mut recovery = Recovery::through(document.clone(), through.seq);
        let recovered = loop {
            if let Some(recovered) = recovery.step(&self.log)? {
                break recovered;
            }
        };
        let summary = recovered.document.summary().filter(|summary| summary.cursor == through);
        let Some(summary) = summary else {
            return Err(LogError::Unavailable { why: "another history stands there".to_owned() });
        };
        let records = self.log.records(document).iter().take_while(|record| record.seq <= through.seq);
        let bytes: Vec<u8> = records.flat_map(|record| record.change.to_vec()).collect();
        let total_bytes = bytes.len() as u64;
        let before = recovered.snapshot.as_ref();
        let dense = Snapshot::new(through, total_bytes / density, summary.log_bytes(), before);
        let snapshot = Snapshot { total_bytes, ..dense };
        self.snapshots.insert(document.clone(), (snapshot, bytes));
        self.log.cover(document, Anchor { snapshot, summary });
        Ok(snapshot)
    }

    /// Reads a piece of a snapshot, in chunks of this size, if it is still the one that is asked for.
    pub fn read_snapshot(&self, handle: u32, request: &SnapshotRequest, chunk_bytes: usize) -> SnapshotRead {
        let Some((snapshot, bytes)) = self.snapshots.get(&request.document) else {
            return SnapshotRead::Failed;
        };
        if *snapshot != request.snapshot {
            return SnapshotRead::Replaced(*snapshot);
        }
        let mut offset = usize::try_from(request.offset).unwrap_or(usize::MAX);
        let (mut chunks, mut read) = (Vec::new(), 0);
        while offset < bytes.len() && read < request.bytes_max {
            let part = &bytes[offset..bytes.len().min(offset + chunk_bytes)];
            chunks.push(Chunk::new(handle, snapshot, offset as u64, part));
            offset += part.len();
            read += part.len();
        }
        SnapshotRead::Chunks(chunks)
    }

    /// Power is gone: what was under way is on disk or not, the rest is lost.
    pub fn crash(&mut self, rng: &mut Rng) {
        if self.busy && !self.poisoned && rng.chance(50) {
            self.commit(rng);
        }
        self.settle_limbo(rng);
        self.queue.clear();
        self.busy = false;
        self.poisoned = false;
        self.era = 0;
    }

    /// An operator puts an older copy of some documents back.
    pub fn restore(&mut self, document: &DocumentId, through_seq: u64) {
        let mut log = MemoryLog::new();
        let mut documents: Vec<DocumentId> = self.log.documents().cloned().collect();
        documents.sort();
        for other in documents {
            let records = self.log.records(&other).iter();
            let kept = |record: &&Record| other != *document || record.seq <= through_seq;
            let records: Vec<Record> = records.filter(kept).cloned().collect();
            let epoch = self.log.epoch(&other).ok().flatten().unwrap_or(etherply_engine::log::FIRST_EPOCH);
            if records.is_empty() {
                continue;
            }
            let anchor = self.log.anchor(&other, epoch).ok().flatten();
            let append = Append { document: other.clone(), epoch, records };
            log.commit(&[append]).expect("a log in memory does not fail");
            // The older copy has the snapshot that it had then: none, if the last one is younger.
            match anchor.filter(|anchor| other != *document || anchor.summary.cursor.seq <= through_seq) {
                Some(anchor) => log.cover(&other, anchor),
                None => drop(self.snapshots.remove(&other)),
            }
        }
        self.log = log;
    }
}
