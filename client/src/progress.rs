//! How far a member has come in a document's log: its resume cursor, and what it wrote itself further ahead.
//!
//! While it follows the log's end, a member is not sent the changes that it pushed on this connection: their ack
//! names the range in which they stand, and may arrive before changes of others that come earlier in the log. One
//! that has fallen behind is sent the log as it is, own changes included.

use etherply_wire::kinds::Cursor;

/// Most ranges of own changes ahead of the cursor, 64 bytes each. A member that has so many was sent acks
/// only and none of the changes of others between them.
pub const OWN_RANGES_MAX: usize = 65_536;

/// Why a range does not fit what the member has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Positions were left out.
    #[error("the server left out the changes after position {have}: the next frame begins after {after_seq}")]
    Gap {
        /// Position up to which the member has everything.
        have: u64,
        /// Where the frame begins.
        after_seq: u64,
    },
    /// The range is of another epoch than the stream.
    #[error("the document's epoch became {epoch} without the stream being opened anew")]
    Epoch {
        /// The new epoch.
        epoch: u64,
    },
    /// Too many own changes were acked without those of others that stand before them.
    #[error("{OWN_RANGES_MAX} acks came without the changes that stand before them")]
    TooFarAhead,
    /// The range ends before it begins, or holds more changes than positions.
    #[error("a range of positions from {after_seq} to {through} cannot hold {changes} changes")]
    Malformed {
        /// Where the frame begins.
        after_seq: u64,
        /// Where it ends.
        through: u64,
        /// Changes that it carries.
        changes: u64,
    },
}

/// A range of the member's own changes that lies ahead of its cursor.
#[derive(Debug, Clone, Copy)]
struct Own {
    after_seq: u64,
    cursor: Cursor,
}

/// The part of a document's log that a member has.
///
/// Invariant: `own` is sorted, and its first range begins beyond the cursor.
#[derive(Debug, Clone)]
pub struct Progress {
    cursor: Cursor,
    own: Vec<Own>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::at(Cursor { epoch: 0, seq: 0, chain: [0; 32] })
    }
}

impl Progress {
    /// A member that has everything up to `cursor`.
    pub fn at(cursor: Cursor) -> Self {
        Self { cursor, own: Vec::new() }
    }

    /// Where the member resumes; `None` before it has anything.
    pub fn resume(&self) -> Option<Cursor> {
        (self.cursor.seq > 0).then_some(self.cursor)
    }

    /// What is to be stored beside a copy: where it resumes, or at position 0 only the epoch that it is of, which own
    /// changes in it may be of even so. `None` before there was any.
    pub fn stored(&self) -> Option<Cursor> {
        (self.cursor.epoch > 0).then_some(self.cursor)
    }

    /// The last position up to which nothing is missing.
    pub fn seq(&self) -> u64 {
        self.cursor.seq
    }

    /// The epoch of the log that this is about.
    pub fn epoch(&self) -> u64 {
        self.cursor.epoch
    }

    /// Begins anew before the first position of an epoch.
    pub fn restart(&mut self, epoch: u64) {
        *self = Self::at(Cursor { epoch, seq: 0, chain: [0; 32] });
    }

    /// Forgets own changes ahead of the cursor: on another connection the server sends them like any other.
    pub fn disconnected(&mut self) {
        self.own = Vec::new();
    }

    /// A snapshot was received that covers everything up to `cursor`.
    pub fn snapshot(&mut self, cursor: Cursor) {
        if cursor.epoch != self.cursor.epoch {
            *self = Self::at(cursor);
        } else if cursor.seq > self.cursor.seq {
            self.advance(cursor);
        }
    }

    /// Others' changes were received for the range after `after_seq`. Tells how many of them stand at
    /// positions that this connection delivered before.
    pub fn changes(&mut self, after_seq: u64, cursor: Cursor, changes: u64) -> Result<u64, RangeError> {
        let positions = self.check(after_seq, cursor, changes)?;
        if after_seq > self.cursor.seq {
            return Err(RangeError::Gap { have: self.cursor.seq, after_seq });
        }
        let covered = self.covered(after_seq, cursor.seq);
        if cursor.seq > self.cursor.seq {
            self.advance(cursor);
        }
        Ok(changes.saturating_sub(positions - covered))
    }

    /// A push was acked that added the range after `after_seq`; an empty range adds nothing.
    pub fn ack(&mut self, after_seq: u64, cursor: Cursor) -> Result<(), RangeError> {
        if cursor.seq == after_seq {
            return Ok(());
        }
        self.check(after_seq, cursor, 0)?;
        if cursor.seq <= self.cursor.seq {
            return Ok(());
        }
        if after_seq <= self.cursor.seq {
            self.advance(cursor);
            return Ok(());
        }
        let at = self.own.partition_point(|own| own.after_seq < after_seq);
        let before = at.checked_sub(1).and_then(|before| self.own.get_mut(before));
        if let Some(before) = before.filter(|own| own.cursor.seq == after_seq) {
            before.cursor = cursor;
        } else if self.own.len() < OWN_RANGES_MAX {
            self.own.insert(at, Own { after_seq, cursor });
        } else {
            return Err(RangeError::TooFarAhead);
        }
        Ok(())
    }

    fn check(&self, after_seq: u64, cursor: Cursor, changes: u64) -> Result<u64, RangeError> {
        if cursor.epoch != self.cursor.epoch {
            return Err(RangeError::Epoch { epoch: cursor.epoch });
        }
        let malformed = RangeError::Malformed { after_seq, through: cursor.seq, changes };
        cursor.seq.checked_sub(after_seq).filter(|&positions| changes <= positions).ok_or(malformed)
    }

    /// How many positions of the range the member has.
    fn covered(&self, after_seq: u64, through: u64) -> u64 {
        let overlap = |after: u64, end: u64| end.min(through).saturating_sub(after.max(after_seq));
        let own = self.own.iter().map(|own| overlap(own.after_seq, own.cursor.seq));
        overlap(0, self.cursor.seq) + own.sum::<u64>()
    }

    /// Moves the cursor, and on over own ranges that it now touches.
    fn advance(&mut self, cursor: Cursor) {
        self.cursor = cursor;
        let mut reached = 0;
        for own in &self.own {
            if own.after_seq > self.cursor.seq {
                break;
            }
            if own.cursor.seq > self.cursor.seq {
                self.cursor = own.cursor;
            }
            reached += 1;
        }
        self.own.drain(..reached);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursor(seq: u64) -> Cursor {
        Cursor { epoch: 1, seq, chain: [u8::try_from(seq % 256).unwrap(); 32] }
    }

    fn at(seq: u64) -> Progress {
        Progress::at(cursor(seq))
    }

    #[test]
    fn own_changes_ahead_wait_for_those_before_them() {
        let mut progress = at(0);
        progress.ack(2, cursor(3)).unwrap();
        progress.ack(3, cursor(5)).unwrap();
        assert_eq!(progress.seq(), 0);
        assert_eq!(progress.changes(0, cursor(1), 1), Ok(0));
        assert_eq!(progress.seq(), 1);
        assert_eq!(progress.changes(1, cursor(2), 1), Ok(0));
        assert_eq!(progress.resume(), Some(cursor(5)));
    }

    #[test]
    fn a_range_over_own_changes_carries_only_the_others() {
        let mut progress = at(0);
        progress.ack(1, cursor(2)).unwrap();
        assert_eq!(progress.clone().changes(0, cursor(3), 2), Ok(0));
        assert_eq!(progress.changes(0, cursor(3), 3), Ok(1), "one of them was this member's own");
        assert_eq!(progress.seq(), 3);
    }

    #[test]
    fn what_is_left_out_or_sent_again_is_noticed() {
        let mut progress = at(4);
        assert_eq!(progress.changes(5, cursor(6), 1), Err(RangeError::Gap { have: 4, after_seq: 5 }));
        assert_eq!(progress.changes(2, cursor(4), 2), Ok(2));
        assert_eq!(progress.changes(3, cursor(5), 2), Ok(1));
        assert_eq!(progress.seq(), 5);
        let malformed = RangeError::Malformed { after_seq: 5, through: 6, changes: 2 };
        assert_eq!(progress.changes(5, cursor(6), 2), Err(malformed));
        let other = Cursor { epoch: 2, ..cursor(6) };
        assert_eq!(progress.changes(5, other, 1), Err(RangeError::Epoch { epoch: 2 }));
    }

    #[test]
    fn ranges_ahead_are_bounded() {
        let mut progress = at(0);
        let apart = |index: usize| 2 * index as u64 + 1;
        for index in 0..OWN_RANGES_MAX {
            progress.ack(apart(index), cursor(apart(index) + 1)).unwrap();
        }
        let next = apart(OWN_RANGES_MAX);
        assert_eq!(progress.ack(next, cursor(next + 1)), Err(RangeError::TooFarAhead));
        progress.ack(next - 1, cursor(next)).unwrap();
    }

    #[test]
    fn an_ack_that_added_nothing_moves_nothing() {
        let mut progress = at(0);
        progress.ack(9, cursor(9)).unwrap();
        assert_eq!(progress.changes(0, cursor(9), 9), Ok(0));
    }

    proptest! {
        /// A log of which some positions are the member's own: acks come at any time after the push, changes
        /// in order. Nothing is ever a gap or a duplicate, and the member ends at the log's end.
        #[test]
        fn every_interleaving_of_acks_and_changes_reaches_the_end(
            own in proptest::collection::vec(any::<bool>(), 1..40),
            acks_first in proptest::collection::vec(any::<bool>(), 40),
            joined in any::<bool>(),
        ) {
            let mut progress = at(0);
            let mut late = Vec::new();
            for (index, &own) in own.iter().enumerate() {
                let seq = index as u64 + 1;
                if own && acks_first[index] {
                    progress.ack(seq - 1, cursor(seq)).unwrap();
                } else if own {
                    late.push(seq);
                }
            }
            for (index, &is_own) in own.iter().enumerate() {
                let seq = index as u64 + 1;
                if is_own {
                    // The server puts the ack before the changes that follow it.
                    if late.contains(&seq) {
                        progress.ack(seq - 1, cursor(seq)).unwrap();
                    }
                } else if !joined || index % 2 == 0 {
                    prop_assert_eq!(progress.changes(seq - 1, cursor(seq), 1).unwrap(), 0);
                } else {
                    // A range may reach back over own changes, never over what others' changes it brings anew.
                    let back = u64::from(own[index - 1]);
                    prop_assert_eq!(progress.changes(seq - 1 - back, cursor(seq), 1).unwrap(), 0);
                }
            }
            prop_assert_eq!(progress.seq(), own.len() as u64);
            prop_assert!(progress.own.is_empty());
            prop_assert_eq!(progress.resume(), Some(cursor(own.len() as u64)));
        }
    }
}
