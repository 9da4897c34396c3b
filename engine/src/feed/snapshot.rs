//! A feed's snapshot on its way to members: read in pieces, encoded once, shared by all who are sent it.

use std::collections::{BTreeMap, VecDeque};

use etherply_wire::kinds::Cursor;

use crate::ids::DocumentId;
use crate::snapshot::{Chunk, SNAPSHOT_READ_BYTES_MAX, Snapshot, SnapshotRequest};

/// Most bytes of snapshots that a core keeps for all members that are being sent one. Beyond, a feed keeps
/// what was read last, and a chunk is read at a time.
pub const FEEDS_SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most bytes of one document's snapshot that a core keeps for members that are at different places in it.
pub const FEED_SNAPSHOT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How far a member has been sent a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sending {
    /// Which one; `None` before the first chunk.
    pub(super) cursor: Option<Cursor>,
    pub(super) offset: u64,
}

#[derive(Debug, Default)]
pub(super) struct SnapshotFeed {
    pub(super) latest: Option<Snapshot>,
    chunks: BTreeMap<u64, Chunk>,
    /// Offsets of the chunks, in the order in which they were read.
    order: VecDeque<u64>,
    bytes: usize,
    is_reading: bool,
    /// Members that are being sent it.
    members: usize,
}

impl SnapshotFeed {
    pub(super) fn new(latest: Option<Snapshot>) -> Self {
        Self { latest, ..Self::default() }
    }

    /// Bytes of the chunks that are here.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A newer snapshot takes this one's place; members begin anew. Whether it is newer: a core may hear of the
    /// same one twice, from the document's home and from a read that came too late for the one before.
    pub(super) fn replace(&mut self, newer: Snapshot) -> bool {
        if self.latest.is_some_and(|latest| latest.cursor.seq >= newer.cursor.seq) {
            return false;
        }
        self.drop_chunks();
        self.is_reading = false;
        self.latest = Some(newer);
        true
    }

    /// What was asked for cannot be read: it may be asked for again.
    pub(super) fn failed(&mut self, snapshot: &Snapshot) {
        self.is_reading &= self.latest.as_ref() != Some(snapshot);
    }

    pub(super) fn joined(&mut self) {
        self.members += 1;
    }

    /// A member has it, or is gone. Nobody else is known to want it: then it is read again when needed.
    pub(super) fn left(&mut self) {
        self.members = self.members.saturating_sub(1);
        if self.members == 0 {
            self.drop_chunks();
        }
    }

    fn drop_chunks(&mut self) {
        self.chunks = BTreeMap::new();
        self.order = VecDeque::new();
        self.bytes = 0;
    }

    pub(super) fn chunk(&self, offset: u64) -> Option<&Chunk> {
        self.chunks.get(&offset)
    }

    /// What to read next for a member, unless something is being read already.
    pub(super) fn request(
        &mut self,
        document: &DocumentId,
        offset: u64,
        is_short: bool,
    ) -> Option<SnapshotRequest> {
        let snapshot = self.latest.filter(|_| !self.is_reading)?;
        self.is_reading = true;
        let bytes_max = if is_short { 1 } else { SNAPSHOT_READ_BYTES_MAX };
        Some(SnapshotRequest { document: document.clone(), snapshot, offset, bytes_max })
    }

    /// Takes what was read; false if it is of a snapshot that has been replaced meanwhile. `others_bytes` are
    /// held by the core's other feeds.
    pub(super) fn fill(
        &mut self,
        snapshot: &Snapshot,
        chunks: Vec<Chunk>,
        others_bytes: usize,
        total_bytes_max: usize,
    ) -> bool {
        if self.latest.as_ref() != Some(snapshot) {
            return false;
        }
        self.is_reading = false;
        let mut fresh = 0;
        for chunk in chunks {
            if self.members > 0 && chunk.end > chunk.offset && !self.chunks.contains_key(&chunk.offset) {
                self.bytes += chunk.frame.len();
                self.order.push_back(chunk.offset);
                self.chunks.insert(chunk.offset, chunk);
                fresh += 1;
            }
        }
        let is_over =
            |bytes: usize| bytes > FEED_SNAPSHOT_BYTES_MAX || others_bytes + bytes > total_bytes_max;
        while is_over(self.bytes) && self.order.len() > fresh {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.chunks.remove(&oldest).map_or(0, |chunk| chunk.frame.len());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(seq: u64) -> Snapshot {
        let cursor = Cursor { epoch: 1, seq, chain: [0; 32] };
        Snapshot { cursor, total_bytes: u64::MAX, covered_bytes: u64::MAX, log_after_seq: 0 }
    }

    fn chunks(from: u64, count: u64) -> Vec<Chunk> {
        let bytes = vec![0; 65_536];
        (from..from + count).map(|n| Chunk::new(1, &snapshot(1), n * 65_536, &bytes)).collect()
    }

    fn feed() -> (SnapshotFeed, usize) {
        let mut feed = SnapshotFeed::new(Some(snapshot(1)));
        feed.joined();
        assert!(feed.fill(&snapshot(1), chunks(0, 1), 0, usize::MAX));
        let each = feed.bytes();
        (feed, each)
    }

    #[test]
    fn what_was_read_last_stays_within_the_limits() {
        let (mut feed, each) = feed();
        let fits = FEED_SNAPSHOT_BYTES_MAX / each;
        feed.fill(&snapshot(1), chunks(1, fits as u64 - 1), 0, usize::MAX);
        assert_eq!(feed.bytes(), fits * each);
        assert!(feed.chunk(0).is_some());
        feed.fill(&snapshot(1), chunks(fits as u64, 1), 0, usize::MAX);
        assert_eq!(feed.bytes(), fits * each);
        assert!(feed.chunk(0).is_none() && feed.chunk(65_536).is_some());
        // The core's other feeds hold so much that only the last piece has room, and it stays even so.
        feed.fill(&snapshot(1), chunks(100, 2), 10 * each, 12 * each);
        assert_eq!(feed.bytes(), 2 * each);
        feed.fill(&snapshot(1), chunks(200, 1), 10 * each, 10 * each);
        assert_eq!(feed.bytes(), each);
    }

    #[test]
    fn one_piece_is_read_at_a_time_and_only_of_the_latest() {
        let (mut feed, _) = feed();
        let document = DocumentId::new("d").unwrap();
        let request = feed.request(&document, 65_536, false).unwrap();
        assert_eq!((request.offset, request.bytes_max), (65_536, SNAPSHOT_READ_BYTES_MAX));
        assert_eq!(feed.request(&document, 0, false), None);
        assert!(!feed.replace(snapshot(1)), "the same");
        assert!(feed.replace(snapshot(2)) && !feed.replace(snapshot(1)), "the one before");
        assert_eq!(feed.bytes(), 0);
        assert!(!feed.fill(&snapshot(1), chunks(1, 1), 0, usize::MAX), "of the one before");
        assert_eq!(feed.request(&document, 0, true).map(|request| request.bytes_max), Some(1));
        feed.left();
        assert!(feed.fill(&snapshot(2), chunks(0, 1), 0, usize::MAX));
        assert_eq!(feed.bytes(), 0, "nobody wants it any more");
    }
}
