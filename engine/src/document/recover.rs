//! Rebuilds a document's state from its stored records, and proves on the way that they are whole.

use super::{ActorState, Anchor, Document, GENESIS_ACTOR};
use crate::chain::chain_next;
use crate::change::{Change, ChangeLimits, parse_header};
use crate::ids::{ChainHash, DocumentId};
use crate::log::{FIRST_EPOCH, LogError, LogReader};
use crate::record::Record;
use crate::snapshot::Snapshot;

/// Bytes of changes that are read from the log in one step.
pub const RECOVERY_STEP_BYTES_MAX: usize = 256 * 1024;

/// A document as it was read from the log.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The document.
    pub document: Document,
    /// Its snapshot, if it has one.
    pub snapshot: Option<Snapshot>,
}

/// Reads a document from the log, step by step, so that a large one does not hold up other readers.
///
/// It begins with what a snapshot covers, if there is one, and reads only the records behind it. Every record is
/// checked against its own checksum (by the log), against its place, against the hash of its change, and against
/// the chain. The first that does not fit makes the document damaged.
#[derive(Debug)]
pub struct Recovery {
    id: DocumentId,
    through_seq: u64,
    begun: Option<(Document, Option<Snapshot>)>,
}

impl Recovery {
    /// Of a document's current epoch.
    pub fn new(id: DocumentId) -> Self {
        Self::through(id, u64::MAX)
    }

    /// Of a document's current epoch, up to a position.
    pub fn through(id: DocumentId, through_seq: u64) -> Self {
        Self { id, through_seq, begun: None }
    }

    /// Reads on; `None` until all is read.
    ///
    /// # Errors
    /// What the log says, or [`LogError::Damaged`] at the first record that does not fit.
    pub fn step(&mut self, log: &impl LogReader) -> Result<Option<Recovered>, LogError> {
        if !self.records(log)?.is_empty() {
            return Ok(None);
        }
        Ok(self.begun.take().map(|(document, snapshot)| Recovered { document, snapshot }))
    }

    /// Reads the next records, and proves them; none when all are read, which is when [`Recovery::step`] gives the
    /// document.
    ///
    /// # Errors
    /// See [`Recovery::step`].
    pub fn records(&mut self, log: &impl LogReader) -> Result<Vec<Record>, LogError> {
        let (document, snapshot) = match self.begun.take() {
            Some(begun) => begun,
            None => self.begin(log)?,
        };
        let (document, snapshot) = self.begun.insert((document, snapshot));
        let (epoch, after_seq) = (document.admitted.epoch, document.admitted.seq);
        debug_assert!(snapshot.is_none_or(|snapshot| snapshot.cursor.seq <= after_seq));
        let records = log.read(&self.id, epoch, after_seq, self.through_seq, RECOVERY_STEP_BYTES_MAX)?;
        for record in &records {
            document.replay(record)?;
        }
        let cursor = document.admitted;
        document.commit(cursor);
        Ok(records)
    }

    fn begin(&self, log: &impl LogReader) -> Result<(Document, Option<Snapshot>), LogError> {
        let epoch = log.epoch(&self.id)?.filter(|_| !planted!(EpochIgnored)).unwrap_or(FIRST_EPOCH);
        let past = log.past(&self.id)?;
        let Some(anchor) = log.anchor(&self.id, epoch)? else {
            return Ok((Document::new(self.id.clone(), epoch).with_past(past), None));
        };
        let Anchor { snapshot, summary } = anchor;
        let cursor = summary.cursor;
        if cursor != snapshot.cursor || cursor.epoch != epoch || cursor.seq > self.through_seq {
            let what = "its snapshot is of another place than its log begins with";
            return Err(LogError::damaged(&self.id, cursor.seq, what));
        }
        Ok((Document::from_summary(self.id.clone(), summary).with_past(past), Some(snapshot)))
    }
}

/// Reads a document from the log at once; one that was never stored is empty.
///
/// # Errors
/// See [`Recovery::step`].
pub fn recover(log: &impl LogReader, id: &DocumentId) -> Result<Document, LogError> {
    let mut recovery = Recovery::new(id.clone());
    loop {
        if let Some(recovered) = recovery.step(log)? {
            return Ok(recovered.document);
        }
    }
}

impl Document {
    fn replay(&mut self, record: &Record) -> Result<(), LogError> {
        let seq = self.admitted.seq + 1;
        let damaged = |what: String| LogError::damaged(&self.id, seq, what);
        if record.seq != seq {
            return Err(damaged(format!("the record here says that it stands at {}", record.seq)));
        }
        let change = parse_header(&record.change, &ChangeLimits::DEFAULT)
            .map_err(|error| damaged(error.to_string()))?;
        if change.hash != record.hash {
            return Err(damaged("the change's hash is not the one in its record".to_owned()));
        }
        let chain = chain_next(&ChainHash(self.admitted.chain), seq, &change.hash);
        if chain != record.chain {
            return Err(damaged("the chain is broken: a record before this one was replaced".to_owned()));
        }
        if change.actor == GENESIS_ACTOR {
            self.genesis = Some((change.hash, record.change.clone()));
        }
        let owner = match self.clock.get(change.actor) {
            Some(before) => before.owner,
            None => self.owners.of_first(change.actor, &record.pusher),
        };
        let state =
            ActorState { seq: change.seq, hash: change.hash, position: seq, max_op: record.max_op, owner };
        self.advance(change.actor_id(), state, change.deps.iter(), chain);
        let (limits, max_op) = (ChangeLimits::DEFAULT, self.max_op);
        match Change::parsed_before(change, &limits) {
            Ok(change) => self.ops.add(&change, max_op),
            // Admission took it once, by whatever rules it had.
            Err(_) => self.ops.forget(max_op),
        }
        self.log_bytes += record.change.len() as u64;
        Ok(())
    }
}
