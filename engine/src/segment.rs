//! Segments: what a document's log looks like to those who are sent it.
//!
//! One push becomes one segment, and a segment is one encoded frame, the same for every member. The newest
//! ones are kept as the document's *tail*; what is older is read back from the log.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use etherply_wire::kinds::{Changes, Cursor};

use crate::outgoing::Outgoing;
use crate::peer::StreamNumber;

/// Most bytes of segments that a document's tail keeps in memory.
pub const TAIL_BYTES_MAX: usize = 128 * 1024;

/// A run of changes of one writer, encoded.
#[derive(Debug, Clone)]
pub struct Segment {
    /// It begins after this position.
    pub after_seq: u64,
    /// The cursor of a member that has it.
    pub cursor: Cursor,
    /// The stream that pushed it and therefore does not get it; `None` for records read back from the log.
    pub writer: Option<StreamNumber>,
    /// When the server took the push, on the monotonic clock.
    pub received_us: u64,
    /// Bytes of its changes.
    pub changes_bytes: usize,
    /// The frame.
    pub frame: Outgoing,
}

impl Segment {
    /// Encodes changes, given as their lengths and their concatenated bytes.
    pub fn new(
        handle: u32,
        after_seq: u64,
        cursor: Cursor,
        lengths: Vec<u32>,
        changes: &[&[u8]],
        writer: Option<StreamNumber>,
        received_us: u64,
    ) -> Self {
        let message = Changes { after_seq, cursor, lengths };
        let changes_bytes = changes.iter().map(|change| change.len()).sum();
        let frame = Outgoing::new(handle, &message, changes);
        Self { after_seq, cursor, writer, received_us, changes_bytes, frame }
    }

    /// The changes' bytes, shared with the frame; `bytes` is the sum of their lengths.
    pub fn changes(&self, bytes: usize) -> Bytes {
        self.frame.tail(bytes)
    }
}

/// The newest segments of a document, contiguous, within [`TAIL_BYTES_MAX`].
#[derive(Debug, Clone)]
pub struct Tail {
    segments: VecDeque<Arc<Segment>>,
    bytes: usize,
    end: Cursor,
}

impl Tail {
    /// An empty tail that ends at `end`.
    pub fn new(end: Cursor) -> Self {
        Self { segments: VecDeque::new(), bytes: 0, end }
    }

    /// The cursor behind the newest segment.
    pub fn end(&self) -> Cursor {
        self.end
    }

    /// The position after which the tail begins.
    pub fn start_seq(&self) -> u64 {
        self.segments.front().map_or(self.end.seq, |segment| segment.after_seq)
    }

    /// Adds the next segment and lets the oldest ones go; the newest always stays.
    pub fn push(&mut self, segment: Arc<Segment>) {
        debug_assert_eq!(segment.after_seq, self.end.seq, "segments are contiguous");
        self.end = segment.cursor;
        self.bytes += segment.frame.len();
        self.segments.push_back(segment);
        while self.bytes > TAIL_BYTES_MAX && self.segments.len() > 1 {
            if let Some(oldest) = self.segments.pop_front() {
                self.bytes -= oldest.frame.len();
            }
        }
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets all segments go; the end stays where it is.
    pub fn clear(&mut self) {
        self.segments = VecDeque::new();
        self.bytes = 0;
    }

    /// The segments from `seq` on. `None` if `seq` lies before the tail or within a segment: then the log
    /// has to be asked.
    pub fn after(&self, seq: u64) -> Option<impl Iterator<Item = &Arc<Segment>>> {
        let index = self.segments.partition_point(|segment| segment.after_seq < seq);
        let starts_here = match self.segments.get(index) {
            Some(segment) => segment.after_seq == seq,
            None => seq == self.end.seq,
        };
        starts_here.then(|| self.segments.range(index..))
    }

    /// The first boundary between segments at or after `seq`, to which a member is brought from the log.
    pub fn boundary_from(&self, seq: u64) -> u64 {
        let index = self.segments.partition_point(|segment| segment.after_seq < seq);
        self.segments.get(index).map_or(self.end.seq, |segment| segment.after_seq)
    }

    /// The chain at a position, if it is a boundary between segments that are here.
    pub fn cursor_at(&self, seq: u64) -> Option<Cursor> {
        if seq == self.end.seq {
            return Some(self.end);
        }
        let index = self.segments.partition_point(|segment| segment.cursor.seq < seq);
        self.segments.get(index).map(|segment| segment.cursor).filter(|cursor| cursor.seq == seq)
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(seq: u64) -> Cursor {
        Cursor { epoch: 1, seq, chain: [u8::try_from(seq % 251).unwrap(); 32] }
    }

    fn segment(after: u64, through: u64, bytes: usize) -> Arc<Segment> {
        let lengths = vec![u32::try_from(bytes).unwrap()];
        Arc::new(Segment::new(1, after, cursor(through), lengths, &[&vec![0; bytes]], None, 0))
    }

    #[test]
    fn a_tail_is_read_from_boundaries_only() {
        let mut tail = Tail::new(cursor(10));
        assert_eq!(tail.after(10).unwrap().count(), 0);
        assert!(tail.after(9).is_none() && tail.after(11).is_none());
        tail.push(segment(10, 13, 5));
        tail.push(segment(13, 14, 5));
        assert_eq!(tail.after(10).unwrap().count(), 2);
        assert!(tail.after(11).is_none());
        assert_eq!(tail.after(13).unwrap().count(), 1);
        assert_eq!(tail.after(14).unwrap().count(), 0);
        assert_eq!((tail.boundary_from(3), tail.boundary_from(11), tail.boundary_from(14)), (10, 13, 14));
        assert_eq!(tail.cursor_at(13), Some(cursor(13)));
        assert_eq!(tail.cursor_at(12), None);
        assert_eq!(tail.cursor_at(14), Some(cursor(14)));
        assert_eq!((tail.start_seq(), tail.end().seq), (10, 14));
    }

    #[test]
    fn a_cleared_tail_begins_at_its_end() {
        let mut tail = Tail::new(cursor(10));
        tail.push(segment(10, 13, 5));
        assert!(tail.bytes() > 5);
        tail.clear();
        assert_eq!((tail.bytes(), tail.start_seq(), tail.end()), (0, 13, cursor(13)));
        assert!(tail.after(10).is_none() && tail.boundary_from(10) == 13);
        tail.push(segment(13, 14, 5));
        assert_eq!(tail.after(13).unwrap().count(), 1);
    }

    #[test]
    fn the_oldest_segments_go_at_the_limit() {
        let overhead = segment(0, 1, 0).frame.len() + 2; // a longer frame has a longer WebSocket header
        let half = TAIL_BYTES_MAX / 2 - overhead;
        let mut tail = Tail::new(cursor(0));
        tail.push(segment(0, 1, half));
        tail.push(segment(1, 2, half));
        assert_eq!(tail.start_seq(), 0, "exactly at or below the limit");
        tail.push(segment(2, 3, 1));
        assert_eq!(tail.start_seq(), 1);
        tail.push(segment(3, 4, TAIL_BYTES_MAX + 1));
        assert_eq!((tail.start_seq(), tail.end().seq), (3, 4), "the newest stays whatever its size");
    }
}
