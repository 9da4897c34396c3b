//! A document begins anew: its records are stored under another epoch, beside the ones of now, and then one
//! commit makes that epoch the document's. Nobody ever reads a part of it.
//!
//! The records may be more than one commit should hold, so they are *staged* in as many commits as it takes: a
//! reader looks only at the epoch that the document's head names. Staged records of a server that stopped half way
//! belong to no epoch, and the next attempt takes one of which nothing is stored ([`super::Reader::free_epoch`]).
//! The records of the epoch before stay where they are until [`super::retire`] removes them; nobody reads them either.

use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, LogError, Past};

use super::keys::{Head, KeyspaceId, Retired, encode_past, past_key, retired_key};
use super::log::Writer;
use super::piece::{Expect, Piece};
use crate::clock::now_ms;

/// The step into a new epoch.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The document.
    pub document: DocumentId,
    /// The epoch and position at which it stood when the new records were made.
    pub from: (u64, u64),
    /// The last records of the new epoch; none if it has none.
    pub append: Append,
    /// What the epochs before leave behind.
    pub past: Past,
}

/// A log that can let a document begin anew.
pub trait Epochs {
    /// Stores records of an epoch that is not the document's yet.
    ///
    /// # Errors
    /// See [`etherply_engine::log::Log::commit`]. The document has no head, or stands in that epoch or behind it:
    /// then nothing is stored, and the log goes on.
    fn stage(&mut self, append: &Append) -> Result<(), LogError>;

    /// Stores the last records of an epoch and makes it the document's.
    ///
    /// # Errors
    /// As [`Epochs::stage`]; nor does the document stand where it did any more.
    fn turn(&mut self, turn: &Turn) -> Result<(), LogError>;
}

impl Epochs for Writer {
    fn stage(&mut self, append: &Append) -> Result<(), LogError> {
        let head = self.standing(&append.document)?;
        if head.epoch >= append.epoch || append.records.is_empty() {
            return Err(refused(&append.document, "its epoch is not a later one"));
        }
        self.guarded(|writer| {
            let mut rows = writer.begin(append.records.len())?;
            for record in &append.records {
                writer.add_record(&mut rows, &append.document, append.epoch, record);
            }
            writer.finish(rows)
        })
    }

    fn turn(&mut self, turn: &Turn) -> Result<(), LogError> {
        let Turn { document, from, append, past } = turn;
        let head = self.standing(document)?;
        if (head.epoch, head.last_seq) != *from || append.epoch <= head.epoch {
            return Err(refused(document, "it went on meanwhile"));
        }
        let last_seq = append.records.last().map_or(0, |record| record.seq);
        self.guarded(|writer| {
            let mut rows = writer.begin(append.records.len() + 2)?;
            for record in &append.records {
                writer.add_record(&mut rows, document, append.epoch, record);
            }
            writer.add_head(&mut rows, document, Head { epoch: append.epoch, last_seq, ..head });
            writer.add_past(&mut rows, document, past);
            let (first_epoch, last_epoch, time_ms) = (head.epoch, append.epoch - 1, now_ms());
            let retired = Retired { document: document.clone(), first_epoch, last_epoch, time_ms };
            let key = retired_key(document, first_epoch);
            writer.set(&mut rows, KeyspaceId::Meta, &key, &retired.encode());
            writer.finish(rows)
        })
    }
}

impl Writer {
    fn standing(&self, document: &DocumentId) -> Result<Head, LogError> {
        match self.head(document)? {
            Some(head) if head.is_deleted() => Err(LogError::Deleted { document: document.clone() }),
            Some(head) => Ok(head),
            None => Err(refused(document, "nothing is stored of it")),
        }
    }

    /// Sets what the epochs before a document's current one left behind; of a document that is not there yet as well.
    pub(super) fn restore_past(
        &mut self,
        document: &DocumentId,
        epoch: u64,
        past: &Past,
    ) -> Result<(), LogError> {
        let head = self.head(document)?.unwrap_or(Head { epoch, last_seq: 0, flags: 0 });
        let mut piece = Piece::new(document.clone(), Expect::Anything);
        let key = past_key(document);
        let value = encode_past(&key, past);
        piece.set(KeyspaceId::Documents, key, value);
        piece.head = Some(head);
        self.store(&piece).map(drop)
    }
}

fn refused(document: &DocumentId, what: &str) -> LogError {
    LogError::Unavailable { why: format!("{document} cannot begin anew: {what}") }
}

#[cfg(test)]
#[path = "epoch_tests.rs"]
mod tests;
