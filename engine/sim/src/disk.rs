//! The disk: a [`MemoryLog`] behind commits that take their time, fail, or are lost in a crash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::{ChangeHash, ChangeLimits, parse_header};
use etherply_engine::document::{Anchor, GENESIS_ACTOR, Recovery};
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::{Append, Deleted, Found, Log, LogError, LogReader, MemoryLog, Past};
use etherply_engine::record::Record;
use etherply_engine::snapshot::{Chunk, Snapshot, SnapshotRequest};
use etherply_wire::kinds::Cursor;

use crate::edits::Edit;
use crate::rng::Rng;
use crate::server::SnapshotRead;

/// What a document lost when it began anew: the change that broke it, if there was one, and all that went.
pub type Anew = (Option<Edit>, Vec<ChangeHash>);

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
    /// When the last document begins anew of which this was asked.
    pub inspected_us: u64,
    /// Commits fail for want of room: nothing of them is on disk.
    pub is_full: bool,
    /// Records of which a bit has flipped: position, and which bit.
    flipped: BTreeMap<DocumentId, (u64, u64)>,
    /// Records of epochs that are over: members may still be told of them.
    former: BTreeMap<(DocumentId, u64), Vec<Record>>,
}

/// The log as it can be read: what a flipped bit has hit does not decode.
impl LogReader for Disk {
    fn epoch(&self, document: &DocumentId) -> Result<Option<u64>, LogError> {
        self.log.epoch(document)
    }

    fn read(
        &self,
        document: &DocumentId,
        epoch: u64,
        after_seq: u64,
        through_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        let mut records = self.log.read(document, epoch, after_seq, through_seq, bytes_max)?;
        let Some(&(seq, bit)) = self.flipped.get(document) else { return Ok(records) };
        let Some(at) = records.iter().position(|record| record.seq == seq) else { return Ok(records) };
        let mut stored = records[at].encode(document, epoch);
        let bit = bit % (stored.len() as u64 * 8);
        stored[(bit / 8) as usize] ^= 1 << (bit % 8);
        let error = Record::decode(&Bytes::from(stored), document, epoch).expect_err("a bit has flipped");
        if at == 0 {
            return Err(LogError::Damaged { document: document.clone(), seq, what: error.to_string() });
        }
        records.truncate(at);
        Ok(records)
    }

    fn past(&self, document: &DocumentId) -> Result<Past, LogError> {
        self.log.past(document)
    }

    fn find(&self, document: &DocumentId, epoch: u64, hash: &ChangeHash) -> Result<Option<Found>, LogError> {
        self.log.find(document, epoch, hash)
    }

    fn anchor(&self, document: &DocumentId, epoch: u64) -> Result<Option<Anchor>, LogError> {
        self.log.anchor(document, epoch)
    }

    fn chain_at(&self, document: &DocumentId, epoch: u64, seq: u64) -> Result<Option<ChainHash>, LogError> {
        self.log.chain_at(document, epoch, seq)
    }
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
            let is_tried = waiting.era == self.era && !(self.poisoned && self.is_full);
            let stored = is_tried && !self.poisoned;
            if stored {
                self.log.commit(&waiting.appends).expect("a log in memory does not fail");
            } else if is_tried {
                self.limbo.extend(waiting.appends);
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
        (self.poisoned, self.is_full) = (false, false);
        self.era += 1;
        documents
    }

    /// The epoch of a document.
    pub fn epoch_of(&self, document: &DocumentId) -> u64 {
        self.log.epoch(document).ok().flatten().unwrap_or(etherply_engine::log::FIRST_EPOCH)
    }

    /// Durable records of an epoch of a document, also of one that is over.
    pub fn records_of(&self, document: &DocumentId, epoch: u64) -> &[Record] {
        match self.former.get(&(document.clone(), epoch)) {
            Some(records) => records,
            None => self.log.records(document),
        }
    }

    /// Whether there is such a record in any epoch of a document.
    pub fn was_stored(&self, document: &DocumentId, is_it: impl Fn(&Record) -> bool) -> bool {
        let former = self.former.range((document.clone(), 0)..=(document.clone(), u64::MAX));
        self.log.records(document).iter().chain(former.flat_map(|(_, records)| records)).any(is_it)
    }

    /// Whether a change is, or was, in any epoch of a document.
    pub fn has(&self, document: &DocumentId, hash: [u8; 32]) -> bool {
        let found = self.log.find(document, self.epoch_of(document), &ChangeHash(hash));
        found.is_ok_and(|found| found.is_some()) || self.was_stored(document, |record| record.hash.0 == hash)
    }

    /// A bit of a stored record flips.
    pub fn flip(&mut self, document: &DocumentId, rng: &mut Rng) -> bool {
        let Some(record) = rng.pick(self.log.records(document)) else { return false };
        self.flipped.insert(document.clone(), (record.seq, rng.next()));
        true
    }

    /// An operator puts back what flipped.
    pub fn mend(&mut self) {
        self.flipped.clear();
    }

    /// Stores a document's tombstone.
    pub fn delete(&mut self, document: &DocumentId) -> Result<Deleted, LogError> {
        if self.poisoned {
            return Err(LogError::Unavailable { why: "the disk failed".to_owned() });
        }
        let epoch = self.epoch_of(document);
        let records = self.log.records(document).to_vec();
        let deleted = self.log.delete(document);
        if deleted == Deleted::Now {
            self.former.insert((document.clone(), epoch), records);
            self.snapshots.remove(document);
            self.flipped.remove(document);
        }
        Ok(deleted)
    }

    /// Whether a tombstone stands there.
    pub fn is_deleted(&self, document: &DocumentId) -> bool {
        self.log.epoch(document).is_err()
    }

    /// Lets a document begin anew without one of its changes and all that depend on it. The changes that went.
    pub fn begin_anew(&mut self, document: &DocumentId, rng: &mut Rng) -> Result<Anew, LogError> {
        if self.poisoned {
            return Err(LogError::Unavailable { why: "the disk failed".to_owned() });
        }
        let old = self.log.records(document).to_vec();
        let (epoch, mut past) = (self.epoch_of(document) + 1, self.log.past(document)?);
        let is_genesis = |record: &Record| {
            parse_header(&record.change, &ChangeLimits::DEFAULT).is_ok_and(|c| c.actor == GENESIS_ACTOR)
        };
        // Initial content belongs to nobody, and is small and plain: none was ever found that breaks a document.
        let culprit = rng.pick(&old).filter(|record| !is_genesis(record)).map(|record| record.hash);
        let Some(culprit) = culprit else { return Ok((None, Vec::new())) };
        let mut edit = None;
        let mut gone = BTreeSet::from([culprit]);
        let mut chain = chain_start(document, epoch);
        let mut records: Vec<Record> = Vec::new();
        for record in &old {
            let header = parse_header(&record.change, &ChangeLimits::DEFAULT).expect("it was admitted");
            if record.hash == culprit {
                edit = Some(Edit { hash: culprit.0, bytes: record.change.to_vec() });
                past.excluded.push(header.actor_id());
            }
            if record.hash == culprit || header.deps.iter().any(|dep| gone.contains(&dep)) {
                gone.insert(record.hash);
                continue;
            }
            let seq = records.len() as u64 + 1;
            chain = chain_next(&chain, seq, &record.hash);
            records.push(Record { seq, chain, ..record.clone() });
        }
        past.reset_epoch = epoch;
        self.log.reset(&Append { document: document.clone(), epoch, records }, past);
        self.former.insert((document.clone(), epoch - 1), old);
        self.snapshots.remove(document);
        self.flipped.remove(document);
        Ok((edit, gone.into_iter().collect()))
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
            if let Some(recovered) = recovery.step(self)? {
                break recovered;
            }
        };
        let summary = recovered.document.summary().filter(|summary| summary.cursor == through);
        let Some(summary) = summary else {
            return Err(LogError::Unavailable { why: "another history stands there".to_owned() });
        };
        let records = self.log.records(document).iter().take_while(|record| record.seq <= through.seq);
        let bytes = records.map(|record| &record.change[..]).collect::<Vec<_>>().concat();
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

    /// Power is gone. What was under way is on disk up to some commit, each of them whole or not at all; the rest
    /// was never synced, and is lost.
    pub fn crash(&mut self, rng: &mut Rng) {
        if self.busy && !self.poisoned && rng.chance(50) {
            let survive = rng.range(1, 8).min(self.queue.len() as u64);
            let era = self.era;
            for waiting in self.queue.drain(..survive as usize).filter(|waiting| waiting.era == era) {
                self.log.commit(&waiting.appends).expect("a log in memory does not fail");
            }
        }
        self.settle_limbo(rng);
        self.queue.clear();
        self.busy = false;
        (self.poisoned, self.is_full) = (false, false);
        self.era = 0;
    }

    /// An operator puts an older copy of a document back.
    pub fn restore(&mut self, document: &DocumentId, through_seq: u64) {
        let records = self.log.records(document).iter();
        let records: Vec<Record> = records.filter(|record| record.seq <= through_seq).cloned().collect();
        if self.is_deleted(document) || self.log.records(document).is_empty() {
            return;
        }
        let epoch = self.epoch_of(document);
        let past = self.log.past(document).unwrap_or_default();
        let anchor = self.log.anchor(document, epoch).ok().flatten();
        self.log.reset(&Append { document: document.clone(), epoch, records }, past);
        self.flipped.remove(document);
        // The older copy has the snapshot that it had then: none, if the last one is younger.
        match anchor.filter(|anchor| anchor.summary.cursor.seq <= through_seq) {
            Some(anchor) => self.log.cover(document, anchor),
            None => drop(self.snapshots.remove(document)),
        }
    }
}
