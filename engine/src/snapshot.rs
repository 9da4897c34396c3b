//! Snapshots: a document up to a position of its log as one run of bytes in Automerge's format.
//!
//! The engine decides when one is cut and who is sent it; where its bytes come from, and how they are kept, is
//! the driver's. Once one is safely kept it takes the place of the records that it covers, but for the latest
//! of them, which stay for members that lack no more than those.

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
    /// Changes up to this position are in the snapshot only; those behind it are in the log as well.
    pub log_after_seq: u64,
}

impl Snapshot {
    /// A snapshot that takes the place of `before`, and of as many records as members would not be sent anyway:
    /// the latest are kept that are estimated to have four fifths of its own bytes.
    pub fn new(cursor: Cursor, total_bytes: u64, covered_bytes: u64, before: Option<&Self>) -> Self {
        let kept = (4 * u128::from(total_bytes)).saturating_mul(u128::from(cursor.seq));
        let kept = kept.div_ceil(5 * u128::from(covered_bytes.max(1)));
        let log_after_seq = cursor.seq.saturating_sub(u64::try_from(kept).unwrap_or(u64::MAX));
        let log_after_seq = log_after_seq.max(before.map_or(0, |before| before.log_after_seq));
        Self { cursor, total_bytes, covered_bytes, log_after_seq }
    }

    /// Whether a member that has everything up to `seq` is sent it, rather than the records in between: if those
    /// are gone, or it has at most a quarter more bytes than they are estimated to have. It is shared by all
    /// who are sent it, while records are read, checked and encoded for each.
    pub fn serves(&self, seq: u64) -> bool {
        if seq < self.log_after_seq {
            return true;
        }
        let Some(missing) = self.cursor.seq.checked_sub(seq).filter(|missing| *missing > 0) else {
            return false;
        };
        let records_bytes =
            u128::from(self.covered_bytes) * u128::from(missing) / u128::from(self.cursor.seq);
        4 * u128::from(self.total_bytes) <= 5 * records_bytes
    }
}

/// Whether a document with so many bytes of changes should get a new snapshot: when behind the last one stand a
/// quarter of its own bytes and a sixteenth of what it covers. The first bounds what a new member is sent from
/// the log; the second, what all cutting together costs, because each one builds the whole document: each
/// change takes part in about seventeen cuts, however long the document becomes.
pub fn is_due(log_bytes: u64, last: Option<&Snapshot>, after_bytes: u64) -> bool {
    let (covered, total) = last.map_or((0, 0), |last| (last.covered_bytes, last.total_bytes));
    let behind = log_bytes.saturating_sub(covered);
    behind > after_bytes.max(total / 4).max(covered / 16) && log_bytes <= SNAPSHOT_COVERED_BYTES_MAX
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
        Snapshot::new(Cursor { epoch: 1, seq, chain: [0; 32] }, total_bytes, covered_bytes, None)
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
    fn the_records_that_go_are_those_that_nobody_would_be_sent() {
        for (seq, total, covered) in [
            (1_000, 50_000, 50_000),
            (1_000, 500, 50_000),
            (7, 3, 1_000),
            (250_000, 1 << 20, 25 << 20),
            (1, 1, 1),
        ] {
            let snapshot = snapshot(seq, total, covered);
            let gone = snapshot.log_after_seq;
            assert!(gone == 0 || snapshot.serves(gone - 1), "{snapshot:?}");
            assert!(!snapshot.serves(gone + 1), "{snapshot:?}");
        }
        // A longer snapshot does not bring back what went for the one before.
        let first = snapshot(1_000, 500, 50_000);
        assert_eq!(first.log_after_seq, 992);
        let next = Snapshot::new(Cursor { seq: 1_100, ..first.cursor }, 40_000, 55_000, Some(&first));
        assert_eq!(next.log_after_seq, 992);
        assert!(next.serves(991) && !next.serves(992));
    }

    #[test]
    fn a_snapshot_is_due_when_the_tail_outgrows_it() {
        let min = SNAPSHOT_AFTER_BYTES_MIN;
        assert!(!is_due(min - 1, None, min) && !is_due(min, None, min) && is_due(min + 1, None, min));
        let last = snapshot(1, 40 * min, 40 * min);
        assert!(!is_due(50 * min - 1, Some(&last), min) && !is_due(50 * min, Some(&last), min));
        assert!(is_due(50 * min + 1, Some(&last), min));
        // One that Automerge has made short.
        let dense = snapshot(1, min, 160 * min);
        assert!(!is_due(170 * min, Some(&dense), min) && is_due(170 * min + 1, Some(&dense), min));
        let max = SNAPSHOT_COVERED_BYTES_MAX;
        assert!(is_due(max - 1, None, min) && is_due(max, None, min) && !is_due(max + 1, None, min));
    }
}
