//! Covering: a snapshot that is on disk becomes the document's, and the records that it covers go.
//!
//! First its anchor is stored, which is the step that counts: from then on the document begins with it. Then index
//! rows take the place of the records, from the first position on, in pieces, so that a stop at any time leaves
//! index rows up to some position and records behind it. Records up to the anchor that are still there harm
//! nobody: whoever reads the document begins behind it, and the next covering goes on where this one stopped.
//! Last, the file of the snapshot before is removed.

use etherply_engine::document::{Anchor, Summary};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{LogError, LogReader as _};
use etherply_engine::snapshot::Snapshot;

use super::anchor::AnchorRow;
use super::index::{IndexRow, LogRow};
use super::keys::{KeyspaceId, anchor_key, change_key};
use super::log::FjallLog;
use super::piece::{Expect, PIECE_ROWS_MAX, Piece, StorePiece, Stored};
use super::reader::Reader;
use super::snapshot::Written;
use super::thread::Committer;

/// Stores pieces, wherever the commit thread is.
pub trait Pieces {
    /// See [`Committer::store`].
    ///
    /// # Errors
    /// What the log says.
    fn store(&mut self, piece: Piece) -> Result<Stored, LogError>;
}

impl Pieces for Committer {
    fn store(&mut self, piece: Piece) -> Result<Stored, LogError> {
        Self::store(self, piece)
    }
}

impl Pieces for FjallLog {
    fn store(&mut self, piece: Piece) -> Result<Stored, LogError> {
        StorePiece::store(self, &piece)
    }
}

/// A covering on its way, in bounded steps.
#[derive(Debug)]
pub struct Cover {
    document: DocumentId,
    anchor: AnchorRow,
    before: Option<AnchorRow>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Anchor,
    /// Index rows stand up to here.
    Rows {
        through_seq: u64,
    },
}

/// Why the document did not take the snapshot.
#[derive(Debug, thiserror::Error)]
pub enum CoverError {
    /// What the log says.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The document began anew meanwhile, or was removed: its snapshot is of no use.
    #[error("document {0} began anew meanwhile")]
    Superseded(DocumentId),
}

impl Cover {
    /// Anchors a document in a snapshot that is on disk, in the place of the one that it has.
    pub fn new(document: DocumentId, summary: Summary, written: Written, before: Option<AnchorRow>) -> Self {
        let Written { slot, total_bytes, checksum } = written;
        let last = before.as_ref().map(|before| &before.anchor.snapshot);
        let snapshot = Snapshot::new(summary.cursor, total_bytes, summary.log_bytes(), last);
        let anchor = AnchorRow { anchor: Anchor { snapshot, summary }, slot, checksum };
        Self { document, anchor, before, state: State::Anchor }
    }

    /// Goes on with a covering that was interrupted, `None` if there is nothing to go on with.
    ///
    /// # Errors
    /// What the log says.
    pub fn resume(reader: &Reader, document: &DocumentId) -> Result<Option<Self>, LogError> {
        let Some(epoch) = reader.epoch(document)? else { return Ok(None) };
        let Some(anchor) = reader.anchor_row(document, epoch)? else { return Ok(None) };
        let gone = anchor.anchor.snapshot.log_after_seq;
        let is_done = gone == 0 || reader.is_covered(document, epoch, gone)?;
        let state = State::Rows { through_seq: 0 };
        let document = document.clone();
        Ok((!is_done).then_some(Self { document, before: None, anchor, state }))
    }

    /// The snapshot.
    pub fn snapshot(&self) -> Snapshot {
        self.anchor.anchor.snapshot
    }

    /// Goes on by one piece; whether it is done. After the first one the snapshot is the document's.
    ///
    /// # Errors
    /// [`CoverError`].
    pub fn step(&mut self, reader: &Reader, pieces: &mut impl Pieces) -> Result<bool, CoverError> {
        let epoch = self.anchor.anchor.snapshot.cursor.epoch;
        let gone = self.anchor.anchor.snapshot.log_after_seq;
        let mut piece = Piece::new(self.document.clone(), Expect::Epoch(epoch));
        let next = match self.state {
            State::Anchor => {
                let row = self.anchor.encode(&self.document);
                piece.set(KeyspaceId::Meta, anchor_key(&self.document, epoch), row);
                State::Rows { through_seq: 0 }
            }
            State::Rows { through_seq } => {
                let after = match through_seq {
                    0 => reader.covered_through(&self.document, epoch, gone)?,
                    through_seq => through_seq,
                };
                let rows = reader.rows(&self.document, epoch, after, gone, PIECE_ROWS_MAX)?;
                let mut through_seq = after;
                for row in rows {
                    if piece.is_full() {
                        break;
                    }
                    through_seq += 1;
                    if let LogRow::Record(record) = row {
                        let row = IndexRow::of(&record)
                            .map_err(|what| LogError::damaged(&self.document, record.seq, what))?;
                        let key = change_key(&self.document, epoch, record.seq);
                        piece.set(KeyspaceId::Changes, key, row.encode(&self.document, epoch));
                    }
                }
                State::Rows { through_seq }
            }
        };
        if !piece.rows.is_empty() && pieces.store(piece)? == Stored::Superseded {
            return Err(CoverError::Superseded(self.document.clone()));
        }
        if self.state == State::Anchor
            && let Some(before) = self.before.take()
        {
            reader.snapshots().remove(&self.document, before.slot);
        }
        self.state = next;
        Ok(matches!(next, State::Rows { through_seq } if through_seq >= gone))
    }
}

impl Reader {
    /// The last position up to which index rows stand in the place of records, `gone` at the most.
    fn covered_through(&self, document: &DocumentId, epoch: u64, gone: u64) -> Result<u64, LogError> {
        // They begin at the first position and have no gaps.
        let (mut covered, mut not) = (0, gone.saturating_add(1));
        while covered + 1 < not {
            let middle = covered + (not - covered) / 2;
            match self.is_covered(document, epoch, middle)? {
                true => covered = middle,
                false => not = middle,
            }
        }
        Ok(covered)
    }

    fn is_covered(&self, document: &DocumentId, epoch: u64, seq: u64) -> Result<bool, LogError> {
        let rows = self.rows(document, epoch, seq - 1, seq, 1)?;
        Ok(matches!(rows.first(), Some(LogRow::Covered(_))))
    }
}
