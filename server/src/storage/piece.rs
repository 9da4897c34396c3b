//! Pieces: bounded sets of rows that the commit thread stores between ordinary commits.
//!
//! Everything that is not a push goes this way: the anchor of a snapshot, index rows in the place of records
//! that it covers, the rows of a new epoch, what is left of an old one. Each piece is a commit of its own, with
//! commit row, sync and ledger entry like any other, and small enough that no push waits long behind it. What
//! takes many pieces is whole after any of them: whoever makes them orders them so.
//!
//! A piece is stored only if the document still is what its maker saw, so that nothing is done twice or to
//! another epoch.

use etherply_engine::ids::DocumentId;
use etherply_engine::log::LogError;

use super::keys::{Head, KeyspaceId};
use super::log::Writer;

/// Most rows of a piece.
pub const PIECE_ROWS_MAX: usize = 512;
/// Most bytes of a piece's values, unless a single row has more.
pub const PIECE_BYTES_MAX: usize = 256 * 1024;

/// What has to stand at a document's name for a piece to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// This epoch, however far its log goes, of a document that is not deleted.
    Epoch(u64),
    /// Exactly this.
    Head(Head),
    /// Whatever it is.
    Anything,
}

impl Expect {
    pub(super) fn is_met(&self, head: Option<&Head>) -> bool {
        match self {
            Self::Epoch(epoch) => head.is_some_and(|head| head.epoch == *epoch && !head.is_deleted()),
            Self::Head(expected) => head == Some(expected),
            Self::Anything => true,
        }
    }
}

/// One row: what it becomes, or that it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it stands. Heads have a place of their own: [`Piece::head`].
    pub keyspace: KeyspaceId,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value, `None` to remove it.
    pub value: Option<Vec<u8>>,
}

impl Row {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// Rows of one document to be stored together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The document.
    pub document: DocumentId,
    /// What has to stand there.
    pub expect: Expect,
    /// The rows.
    pub rows: Vec<Row>,
    /// What stands at the document's name from then on, `None` if that stays as it is.
    pub head: Option<Head>,
}

impl Piece {
    /// A piece without rows.
    pub fn new(document: DocumentId, expect: Expect) -> Self {
        Self { document, expect, rows: Vec::new(), head: None }
    }

    /// Whether it has as many rows or bytes as a piece should have.
    pub fn is_full(&self) -> bool {
        self.rows.len() >= PIECE_ROWS_MAX
            || self.rows.iter().map(Row::bytes).sum::<usize>() >= PIECE_BYTES_MAX
    }

    /// Adds a row.
    pub fn set(&mut self, keyspace: KeyspaceId, key: Vec<u8>, value: Vec<u8>) {
        self.rows.push(Row { keyspace, key, value: Some(value) });
    }

    /// Removes a row.
    pub fn remove(&mut self, keyspace: KeyspaceId, key: Vec<u8>) {
        self.rows.push(Row { keyspace, key, value: None });
    }
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is durable.
    Durable,
    /// Something else stood there; nothing was stored.
    Superseded,
}

/// Stores pieces, beside the appends of [`etherply_engine::log::Log`].
pub trait StorePiece {
    /// Stores a piece, and returns when it will survive a power loss.
    ///
    /// # Errors
    /// As `Log::commit`: afterwards nothing is stored any more.
    fn store(&mut self, piece: &Piece) -> Result<Stored, LogError>;
}

impl Writer {
    pub(super) fn write_piece(&mut self, piece: &Piece) -> Result<Stored, LogError> {
        let mut rows = self.begin(piece.rows.len())?;
        for Row { keyspace, key, value } in &piece.rows {
            match value {
                Some(value) => self.set(&mut rows, *keyspace, key, value),
                None => self.remove(&mut rows, *keyspace, key),
            }
        }
        if let Some(head) = piece.head {
            self.add_head(&mut rows, &piece.document, head);
        }
        self.finish(rows)?;
        Ok(Stored::Durable)
    }
}

#[cfg(test)]
#[path = "piece_tests.rs"]
mod tests;
