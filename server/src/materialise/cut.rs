//! Cutting a snapshot: the document is built from the snapshot before and the records behind it, saved, loaded
//! again, compared, written and synced; then it is made the document's ([`crate::storage::cover`]).

use std::sync::Arc;

use etherply_engine::change::ChangeHash;
use etherply_engine::document::{Recovery, Summary};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::LogError;
use etherply_engine::snapshot::Snapshot;
use etherply_wire::kinds::Cursor;

use super::memory::{CutMemory, Reserved};
use super::replica::Replica;
use crate::storage::Reader;
use crate::storage::anchor::{AnchorRow, Slot};
use crate::storage::cover::{Cover, CoverError, Pieces};

/// A snapshot that is being cut, in steps. Building a document and saving it are one step each.
#[derive(Debug)]
pub struct Cut {
    document: DocumentId,
    through: Cursor,
    state: State,
    memory: Option<Arc<CutMemory>>,
    /// Behind the state: what it has in memory goes first.
    reserved: Option<Reserved>,
}

#[derive(Debug)]
enum State {
    Begin,
    Apply { before: Option<AnchorRow>, recovery: Box<Recovery>, replica: Box<Replica> },
    Write { before: Option<AnchorRow>, summary: Box<Summary>, replica: Box<Replica> },
    Cover(Box<Cover>),
    Failed,
}

impl Cut {
    /// Of a document up to a place that is durable.
    pub fn new(document: DocumentId, through: Cursor) -> Self {
        Self { document, through, state: State::Begin, memory: None, reserved: None }
    }

    /// The same cut, which waits until there is room for it.
    #[must_use]
    pub fn within(mut self, memory: &Arc<CutMemory>) -> Self {
        self.memory = Some(Arc::clone(memory));
        self
    }

    /// Whether there is room for the document, and for the copy that is loaded to compare.
    fn has_room(&mut self) -> bool {
        let Some(memory) = self.memory.as_ref().filter(|_| self.reserved.is_none()) else { return true };
        self.reserved = memory.reserve(2 * Replica::bytes_of(self.through.seq));
        self.reserved.is_some()
    }

    /// Goes on; `None` until the snapshot is the document's. The records that it covers go after that: see
    /// [`Cover::resume`].
    ///
    /// # Errors
    /// What the log says, what Automerge cannot digest, or that the file cannot be written. Nothing is changed
    /// then.
    pub fn step(&mut self, reader: &Reader, pieces: &mut impl Pieces) -> Result<Option<Snapshot>, LogError> {
        if !self.has_room() {
            return Ok(None);
        }
        self.state = match std::mem::replace(&mut self.state, State::Failed) {
            State::Begin => self.begin(reader)?,
            State::Apply { before, mut recovery, replica } => {
                let records = recovery.records(reader)?;
                if records.is_empty() {
                    let summary = recovery.step(reader)?.and_then(|recovered| recovered.document.summary());
                    let summary = summary.filter(|summary| summary.cursor == self.through);
                    let summary = summary.ok_or_else(|| self.failed("another history stands there"))?;
                    State::Write { before, summary: Box::new(summary), replica }
                } else {
                    let replica =
                        replica.apply(&records).map_err(|poison| self.failed(&poison.to_string()))?;
                    if let Some(reserved) = &mut self.reserved {
                        reserved.set(2 * replica.bytes());
                    }
                    State::Apply { before, recovery, replica: Box::new(replica) }
                }
            }
            State::Write { before, summary, replica } => {
                let written = self.write(reader, before, *summary, &replica)?;
                // Before it is said to be done; what it covers goes without the document.
                drop(replica);
                (self.memory, self.reserved) = (None, None);
                written
            }
            State::Cover(mut cover) => {
                return match cover.step(reader, pieces) {
                    Ok(_) => Ok(Some(cover.snapshot())),
                    Err(CoverError::Log(error)) => Err(error),
                    Err(error @ CoverError::Superseded(_)) => Err(self.failed(&error.to_string())),
                };
            }
            State::Failed => return Err(self.failed("it failed before")),
        };
        Ok(None)
    }

    fn begin(&self, reader: &Reader) -> Result<State, LogError> {
        let Cursor { epoch, seq, .. } = self.through;
        let recovery = Box::new(Recovery::through(self.document.clone(), seq));
        let (before, replica) = match reader.snapshot(&self.document, epoch)? {
            Some((anchor, bytes)) => {
                let Snapshot { cursor, covered_bytes, .. } = anchor.anchor.snapshot;
                if cursor.seq >= seq {
                    return Err(self.failed("a newer one is there"));
                }
                let replica = Replica::from_saved(self.document.clone(), cursor, covered_bytes, &bytes)
                    .map_err(|poison| self.failed(&poison.to_string()))?;
                (Some(anchor), replica)
            }
            None => (None, Replica::new(self.document.clone(), epoch)),
        };
        Ok(State::Apply { before, recovery, replica: Box::new(replica) })
    }

    fn write(
        &self,
        reader: &Reader,
        before: Option<AnchorRow>,
        summary: Summary,
        replica: &Replica,
    ) -> Result<State, LogError> {
        // What Automerge made of the changes has to be what their headers say.
        let mut heads: Vec<ChangeHash> = replica.heads().into_iter().map(|hash| ChangeHash(hash.0)).collect();
        heads.sort_unstable();
        if !heads.iter().eq(summary.heads()) {
            return Err(self.failed("its heads are not those of the log"));
        }
        let saved = replica.save_verified().map_err(|poison| self.failed(&poison.to_string()))?;
        let slot = before.as_ref().map_or(Slot::A, |before| before.slot.other());
        let place = (summary.cursor, summary.log_bytes());
        let written = reader.snapshots().write(&self.document, slot, place, &saved)?;
        Ok(State::Cover(Box::new(Cover::new(self.document.clone(), summary, written, before))))
    }

    fn failed(&self, what: &str) -> LogError {
        LogError::Unavailable { why: format!("no snapshot of {}: {what}", self.document) }
    }
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
