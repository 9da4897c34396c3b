//! Which of several things were used least recently, and what they hold together.

use std::collections::{BTreeMap, BTreeSet};

/// Bytes held under numbers, in the order of their last use.
#[derive(Debug, Default)]
pub(crate) struct Recency {
    /// What each holds, and when it was used last.
    held: BTreeMap<u32, (usize, u64)>,
    order: BTreeSet<(u64, u32)>,
    uses: u64,
    bytes: usize,
}

impl Recency {
    /// What all hold together.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of them hold anything.
    pub(crate) fn holders(&self) -> usize {
        self.held.len()
    }

    /// Something was used just now, and holds so many bytes.
    pub(crate) fn used(&mut self, number: u32, bytes: usize) {
        self.forget(number);
        if bytes > 0 {
            self.uses += 1;
            self.held.insert(number, (bytes, self.uses));
            self.order.insert((self.uses, number));
            self.bytes += bytes;
        }
    }

    /// It holds nothing any more.
    pub(crate) fn forget(&mut self, number: u32) {
        if let Some((bytes, used)) = self.held.remove(&number) {
            self.order.remove(&(used, number));
            self.bytes -= bytes;
        }
    }

    /// Takes out what was used least recently, if all hold more than `bytes_max`. What was used last stays.
    pub(crate) fn pop_beyond(&mut self, bytes_max: usize) -> Option<u32> {
        if self.bytes <= bytes_max || self.order.len() < 2 {
            return None;
        }
        let (_, number) = self.order.first().copied()?;
        self.forget(number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first_and_only_beyond_the_limit() {
        let mut recency = Recency::default();
        for number in 1..=3 {
            recency.used(number, 10);
        }
        recency.used(1, 12);
        assert_eq!((recency.bytes(), recency.holders()), (32, 3));
        assert_eq!(recency.pop_beyond(33), None);
        assert_eq!(recency.pop_beyond(32), None);
        assert_eq!(recency.pop_beyond(31), Some(2));
        assert_eq!(recency.bytes(), 22);
        assert_eq!(recency.pop_beyond(0), Some(3));
        assert_eq!(recency.pop_beyond(0), None, "what was used last stays");
        recency.forget(1);
        assert_eq!((recency.bytes(), recency.pop_beyond(0)), (0, None));
    }
}
