//! Rebuilds a document's state from its stored records, and proves on the way that they are whole.

use super::{ActorState, Document, GENESIS_ACTOR};
use crate::chain::chain_next;
use crate::change::{ChangeLimits, parse_header};
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
    /// Its snapshot, if one is stored and the log agrees with it.
    pub snapshot: Option<Snapshot>,
}

/// Reads a document from the log, step by step, so that a large one does not hold up other readers.
///
/// Every record is checked against its own checksum (by the log), against its place, against the hash of its
/// change, and against the chain. The first that does not fit makes the document damaged.
#[derive(Debug)]
pub struct Recovery {
    id: DocumentId,
    document: Option<Document>,
    /// A snapshot that may be the document's, and whether the log was seen to go through its cursor.
    snapshot: Option<(Snapshot, bool)>,
}

impl Recovery {
    /// Of a document that has this snapshot, or none. The log decides whether the snapshot belongs to it: after
    /// a data directory was rolled back, another history may stand at its position.
    pub fn new(id: DocumentId, snapshot: Option<Snapshot>) -> Self {
        Self { id, document: None, snapshot: snapshot.map(|snapshot| (snapshot, false)) }
    }

    /// Reads on; `None` until all is read.
    ///
    /// # Errors
    /// What the log says, or [`LogError::Damaged`] at the first record that does not fit.
    pub fn step(&mut self, log: &impl LogReader) -> Result<Option<Recovered>, LogError> {
        let mut document = match self.document.take() {
            Some(document) => document,
            None => Document::new(self.id.clone(), log.epoch(&self.id)?.unwrap_or(FIRST_EPOCH))
                .with_past(log.past(&self.id)?),
        };
        let (epoch, after_seq) = (document.admitted.epoch, document.admitted.seq);
        let records = log.read(&self.id, epoch, after_seq, u64::MAX, RECOVERY_STEP_BYTES_MAX)?;
        if records.is_empty() {
            let snapshot = self.snapshot.filter(|(_, is_confirmed)| *is_confirmed);
            return Ok(Some(Recovered { document, snapshot: snapshot.map(|(snapshot, _)| snapshot) }));
        }
        for record in &records {
            document.replay(record)?;
            if let Some((snapshot, is_confirmed)) = &mut self.snapshot {
                *is_confirmed |= document.admitted == snapshot.cursor;
            }
        }
        let cursor = document.admitted;
        document.commit(cursor);
        self.document = Some(document);
        Ok(None)
    }
}

/// Reads a document from the log at once; one that was never stored is empty.
///
/// # Errors
/// See [`Recovery::step`].
pub fn recover(log: &impl LogReader, id: &DocumentId) -> Result<Document, LogError> {
    let mut recovery = Recovery::new(id.clone(), None);
    loop {
        if let Some(recovered) = recovery.step(log)? {
            return Ok(recovered.document);
        }
    }
}

impl Document {
    fn replay(&mut self, record: &Record) -> Result<(), LogError> {
        let seq = self.admitted.seq + 1;
        let damaged = |what: String| LogError::Damaged { document: self.id.clone(), seq, what };
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
        let state = ActorState { seq: change.seq, hash: change.hash, position: seq, max_op: record.max_op };
        self.advance(change.actor_id(), state, change.deps.iter(), chain);
        self.log_bytes += record.change.len() as u64;
        Ok(())
    }
}
