//! The hashes of a document's latest changes, so that the log is rarely asked where a change stands, and what
//! they depend on, so that it can be told whether one follows another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::change::ChangeHash;
use crate::log::Found;

/// Durable changes that the window holds; older ones are looked up in the log. Changes that wait for the
/// disk are always held, because the log does not have them yet.
pub(super) const WINDOW_CHANGES_MAX: usize = 1_024;
/// Durable changes that the window keeps when memory is short.
pub(super) const WINDOW_CHANGES_MIN: usize = 64;
/// What an entry takes besides its dependencies: two hashes, positions, and the maps' share.
const ENTRY_BYTES: usize = 160;

#[derive(Debug, Clone)]
struct Entry {
    found: Found,
    deps: Box<[ChangeHash]>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    by_hash: BTreeMap<ChangeHash, Entry>,
    in_order: VecDeque<(u64, ChangeHash)>,
    bytes: usize,
    /// Changes up to this position never were here: a snapshot covers them.
    after_seq: u64,
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + size_of_val(&*self.deps)
    }
}

impl Window {
    /// A window of a document of which a snapshot covers everything up to a position.
    pub(super) fn behind(after_seq: u64) -> Self {
        Self { after_seq, ..Self::default() }
    }

    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether every change behind this position is here.
    pub(super) fn reaches_back_to(&self, seq: u64) -> bool {
        let first = self.in_order.front().map_or(self.after_seq + 1, |(first, _)| *first);
        first <= seq + 1
    }

    pub(super) fn get(&self, hash: &ChangeHash) -> Option<Found> {
        self.by_hash.get(hash).map(|entry| entry.found)
    }

    pub(super) fn push(&mut self, hash: ChangeHash, found: Found, deps: Box<[ChangeHash]>) {
        let entry = Entry { found, deps };
        self.bytes += entry.bytes();
        self.by_hash.insert(hash, entry);
        self.in_order.push_back((found.seq, hash));
    }

    /// Whether one of `deps` is the change `ancestor`, which stands at `position`, or follows it. A change that
    /// follows another stands behind it in the log, so the search never goes further back than `position`; if
    /// it leaves the window before that, nobody can tell, and the answer is yes.
    pub(super) fn may_follow(
        &self,
        deps: impl Iterator<Item = ChangeHash>,
        ancestor: &ChangeHash,
        position: u64,
    ) -> bool {
        let mut to_visit: Vec<ChangeHash> = deps.collect();
        let mut visited = BTreeSet::new();
        while let Some(hash) = to_visit.pop() {
            if hash == *ancestor {
                return true;
            }
            let Some(entry) = self.by_hash.get(&hash) else {
                let starts_at = self.in_order.front().map_or(self.after_seq + 1, |(seq, _)| *seq);
                if position < starts_at {
                    return true;
                }
                continue;
            };
            if entry.found.seq > position && visited.insert(hash) {
                to_visit.extend(entry.deps.iter());
            }
        }
        false
    }

    /// Forgets the newest change.
    pub(super) fn pop(&mut self) {
        if let Some((_, hash)) = self.in_order.pop_back() {
            self.remove(&hash);
        }
    }

    fn remove(&mut self, hash: &ChangeHash) {
        if let Some(entry) = self.by_hash.remove(hash) {
            self.bytes -= entry.bytes();
        }
    }

    /// Lets the oldest durable changes go.
    pub(super) fn trim(&mut self, committed_seq: u64) {
        self.trim_to(WINDOW_CHANGES_MAX, committed_seq);
    }

    /// Lets the oldest durable changes go until so many are left.
    pub(super) fn trim_to(&mut self, changes: usize, committed_seq: u64) {
        while self.in_order.len() > changes {
            match self.in_order.front() {
                Some(&(seq, hash)) if seq <= committed_seq => {
                    self.remove(&hash);
                    self.in_order.pop_front();
                }
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> ChangeHash {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        ChangeHash(bytes)
    }

    #[test]
    fn only_durable_changes_leave_the_window() {
        let mut window = Window::default();
        let max = WINDOW_CHANGES_MAX as u64;
        for n in 1..=max + 2 {
            window.push(hash(n), Found { seq: n, max_op: n }, Box::default());
        }
        window.trim(0);
        assert!(window.get(&hash(1)).is_some(), "nothing is durable");
        window.trim(1);
        assert!(window.get(&hash(1)).is_none() && window.get(&hash(2)).is_some());
        window.trim(max + 2);
        assert!(window.get(&hash(2)).is_none() && window.get(&hash(3)).is_some());
        window.pop();
        assert!(window.get(&hash(max + 2)).is_none() && window.get(&hash(max + 1)).is_some());
    }

    #[test]
    fn a_window_shrinks_to_its_least_and_knows_its_size() {
        let mut window = Window::default();
        let max = WINDOW_CHANGES_MAX as u64;
        for n in 1..=max {
            let deps = [hash(n - 1)].into_iter().collect();
            window.push(hash(n), Found { seq: n, max_op: n }, deps);
        }
        let each = ENTRY_BYTES + 32;
        assert_eq!(window.bytes(), WINDOW_CHANGES_MAX * each);
        assert!(window.reaches_back_to(0));
        window.trim_to(WINDOW_CHANGES_MIN, 10);
        assert_eq!(window.bytes(), (WINDOW_CHANGES_MAX - 10) * each, "the others are not durable");
        assert!(window.reaches_back_to(10) && !window.reaches_back_to(9));
        window.trim_to(WINDOW_CHANGES_MIN, max);
        assert_eq!(window.bytes(), WINDOW_CHANGES_MIN * each);
        window.trim_to(WINDOW_CHANGES_MIN, max);
        assert_eq!(window.bytes(), WINDOW_CHANGES_MIN * each, "and no further");
    }

    #[test]
    fn a_change_follows_its_ancestors_and_nothing_else() {
        // 1 ← 2 ← 4, 1 ← 3, and 5 stands alone.
        let mut window = Window::default();
        for (n, deps) in [(1, vec![]), (2, vec![1]), (3, vec![1]), (4, vec![2]), (5, vec![])] {
            let deps = deps.into_iter().map(hash).collect();
            window.push(hash(n), Found { seq: n, max_op: n }, deps);
        }
        let follows = |deps: &[u64], ancestor: u64| {
            window.may_follow(deps.iter().map(|n| hash(*n)), &hash(ancestor), ancestor)
        };
        assert!(follows(&[1], 1) && follows(&[4], 1) && follows(&[4], 2) && follows(&[5, 3], 1));
        assert!(!follows(&[4], 3) && !follows(&[5], 1) && !follows(&[], 1) && !follows(&[9], 1));
        // Change 9 is older than the window: it may follow one that is older still.
        assert!(window.may_follow([hash(9)].into_iter(), &hash(8), 0));
    }
}
