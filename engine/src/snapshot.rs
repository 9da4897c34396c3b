//! Snapshots: a document's log up to a position as one run of bytes in Automerge's format.
//!
//! The engine decides when one is cut and who is sent it; where its bytes come from, and how they are kept, is
//! the driver's. A snapshot is a cache: the records that it covers stay in the log, and whoever cannot be sent
//! it is sent those.

use etherply_wire::kinds::{self, Cursor};

use crate::ids::DocumentId;
use crate::outgoing::Outgoing;

/// Least bytes of changes behind a document's last snapshot, or its beginning, for which a new one is cut. A
/// shorter log stands in the document's tail, or is read nearly as fast.
pub const SNAPSHOT_AFTER_BYTES_MIN: u64 = 128 * 1024;
/// Most bytes of changes of a document of which a snapshot is cut: members put it together in memory.
pub const SNAPSHOT_COVERED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Most bytes of a snapshot that are read for a feed at once.
pub const SNAPSHOT_READ_BYTES_MAX: usize = 1024 * 1024;

/// What is known of a document's snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The place behind the last change that it covers.
    pub cursor: Cursor,
    /// Its own bytes.
    pub total_bytes: u64,
    /// Bytes of the changes that it covers.
    pub covered_bytes: u64,
}

impl Snapshot {
    /// Whether a member that has everything up to `seq` should be sent it, rather than the records in between:
    /// if it has at most a quarter more bytes than those are estimated to have. It is shared by all who are
    /// sent it, while records are read, checked and encoded for each.
    pub fn serves(&self, seq: u64) -> bool {
        let Some(missing) = self.cursor.seq.checked_sub(seq).filter(|missing| *missing > 0) else {
            return false;
        };
        let records_bytes =
            u128::from(self.covered_bytes) * u128::from(missing) / u128::from(self.cursor.seq);
        4 * u128::from(self.total_bytes) <= 5 * records_bytes
    }
}

/// Whether a document with so many bytes of changes should get a new snapshot: when a quarter of its own bytes
/// stand behind the last one. So a new member is sent a fifth of a long document from the log at the most, and
/// all cutting together writes each byte five times, to a file that nobody syncs.
pub fn is_due(log_bytes: u64, last: Option<&Snapshot>, after_bytes: u64) -> bool {
    let (covered, total) = last.map_or((0, 0), |last| (last.covered_bytes, last.total_bytes));
    let behind = log_bytes.saturating_sub(covered);
    behind > after_bytes.max(total / 4) && log_bytes <= SNAPSHOT_COVERED_BYTES_MAX
}

/// A piece of a snapshot that a feed needs before it can send more of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The document.
    pub document: DocumentId,
    /// Its snapshot: another one is no answer.
    pub snapshot: Snapshot,
    /// Read from here ...
    pub offset: u64,
    /// ... about so many bytes, at least one chunk.
    pub bytes_max: usize,
}

/// A piece of a snapshot, encoded for every member.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Where it begins.
    pub offset: u64,
    /// Where it ends.
    pub end: u64,
    /// The frame.
    pub frame: Outgoing,
}

impl Chunk {
    /// Encodes a piece, of at most [`etherply_wire::limits::SNAPSHOT_CHUNK_BYTES_MAX`] bytes.
    pub fn new(handle: u32, snapshot: &Snapshot, offset: u64, bytes: &[u8]) -> Self {
        let message = kinds::Snapshot { cursor: snapshot.cursor, total_bytes: snapshot.total_bytes, offset };
        let frame = Outgoing::new(handle, &message, &[bytes]);
        Self { offset, end: offset + bytes.len() as u64, frame }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(seq: u64, total_bytes: u64, covered_bytes: u64) -> Snapshot {
        Snapshot { cursor: Cursor { epoch: 1, seq, chain: [0; 32] }, total_bytes, covered_bytes }
    }

    #[test]
    fn a_member_gets_a_snapshot_if_the_records_are_not_clearly_shorter() {
        let plain = snapshot(1_000, 50_000, 50_000);
        assert!(plain.serves(0) && plain.serves(200));
        assert!(!plain.serves(201) && !plain.serves(999) && !plain.serves(1_000) && !plain.serves(2_000));
        let dense = snapshot(1_000, 500, 50_000);
        assert!(dense.serves(992) && !dense.serves(993));
        let huge = snapshot(u64::MAX, u64::MAX, u64::MAX);
        assert!(huge.serves(0) && !huge.serves(u64::MAX));
    }

    #[test]
    fn a_snapshot_is_due_when_the_tail_outgrows_it() {
        let min = SNAPSHOT_AFTER_BYTES_MIN;
        assert!(!is_due(min - 1, None, min) && !is_due(min, None, min) && is_due(min + 1, None, min));
        let last = snapshot(1, 40 * min, 40 * min);
        assert!(!is_due(50 * min - 1, Some(&last), min) && !is_due(50 * min, Some(&last), min));
        assert!(is_due(50 * min + 1, Some(&last), min));
        let max = SNAPSHOT_COVERED_BYTES_MAX;
        assert!(is_due(max - 1, None, min) && is_due(max, None, min) && !is_due(max + 1, None, min));
    }
}
