//! Rebuilds a document's state from its stored records, and proves on the way that they are whole.

use super::{ActorState, Document, GENESIS_ACTOR};
use crate::chain::chain_next;
use crate::change::{ChangeLimits, parse_header};
use crate::ids::{ChainHash, DocumentId};
use crate::log::{FIRST_EPOCH, LogError, LogReader};
use crate::record::Record;

/// Bytes of changes that are read from the log at once.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// Reads a document from the log; one that was never stored is empty.
///
/// Every record is checked against its own checksum (by the log), against its place, against the hash of its
/// change, and against the chain. The first that does not fit makes the document damaged.
pub fn recover(log: &impl LogReader, id: &DocumentId) -> Result<Document, LogError> {
    let epoch = log.epoch(id)?.unwrap_or(FIRST_EPOCH);
    let mut document = Document::new(id.clone(), epoch);
    loop {
        let records = log.read(id, epoch, document.admitted.seq, u64::MAX, READ_BYTES_MAX)?;
        if records.is_empty() {
            return Ok(document);
        }
        for record in &records {
            document.replay(record)?;
        }
        let cursor = document.admitted;
        document.commit(cursor);
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
        Ok(())
    }
}
