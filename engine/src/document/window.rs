//! The hashes of a document's latest changes, so that the log is rarely asked where a change stands.

use std::collections::{BTreeMap, VecDeque};

use crate::change::ChangeHash;
use crate::log::Found;

/// Durable changes that the window holds; older ones are looked up in the log. Changes that wait for the
/// disk are always held, because the log does not have them yet.
pub(super) const WINDOW_CHANGES_MAX: usize = 1_024;

#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    by_hash: BTreeMap<ChangeHash, Found>,
    in_order: VecDeque<(u64, ChangeHash)>,
}

impl Window {
    pub(super) fn get(&self, hash: &ChangeHash) -> Option<Found> {
        self.by_hash.get(hash).copied()
    }

    pub(super) fn push(&mut self, hash: ChangeHash, found: Found) {
        self.by_hash.insert(hash, found);
        self.in_order.push_back((found.seq, hash));
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
            window.push(hash(n), Found { seq: n, max_op: n });
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
}
