//! The hashes of a document's latest changes, so that the log is rarely asked where a change stands, and what
//! they depend on, so that it can be told whether one follows another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::change::ChangeHash;
use crate::log::Found;

/// Durable changes that the window holds; older ones are looked up in the log. Changes that wait for the
/// disk are always held, because the log does not have them yet.
pub(super) const WINDOW_CHANGES_MAX: usize = 1_024;

#[derive(Debug, Clone)]
struct Entry {
    found: Found,
    deps: Box<[ChangeHash]>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    by_hash: BTreeMap<ChangeHash, Entry>,
    in_order: VecDeque<(u64, ChangeHash)>,
}

impl Window {
    pub(super) fn get(&self, hash: &ChangeHash) -> Option<Found> {
        self.by_hash.get(hash).map(|entry| entry.found)
    }

    pub(super) fn push(&mut self, hash: ChangeHash, found: Found, deps: Box<[ChangeHash]>) {
        self.by_hash.insert(hash, Entry { found, deps });
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
                let starts_at = self.in_order.front().map_or(u64::MAX, |(seq, _)| *seq);
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
            self.by_hash.remove(&hash);
        }
    }

    /// Lets the oldest durable changes go.
    pub(super) fn trim(&mut self, committed_seq: u64) {
        while self.in_order.len() > WINDOW_CHANGES_MAX {
            match self.in_order.front() {
                Some(&(seq, hash)) if seq <= committed_seq => {
                    self.by_hash.remove(&hash);
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
