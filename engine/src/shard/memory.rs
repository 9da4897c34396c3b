//! What a shard holds in memory and could read back from the log: tails and windows, under one budget.

use super::Shard;
use super::hosted::{Hosted, State};
use crate::segment::Tail;
use crate::snapshot::SNAPSHOT_AFTER_BYTES_MIN;

/// Most bytes of tails and windows that a shard holds for all of its documents. Beyond, the documents that were
/// written least recently let go of theirs.
pub const SHARD_CACHE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What a shard may hold, and when it has snapshots cut. Tests and simulations take less than the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// See [`SHARD_CACHE_BYTES_MAX`].
    pub cache_bytes_max: usize,
    /// See [`SNAPSHOT_AFTER_BYTES_MIN`].
    pub snapshot_after_bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { cache_bytes_max: SHARD_CACHE_BYTES_MAX, snapshot_after_bytes: SNAPSHOT_AFTER_BYTES_MIN }
    }
}

impl Hosted {
    fn cache_bytes(&self) -> usize {
        let window = self.document().map_or(0, |document| document.window_bytes());
        self.tail.as_ref().map_or(0, Tail::bytes) + window
    }
}

impl Shard {
    /// The same shard with another budget.
    #[must_use]
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Bytes of tails and windows in memory, about.
    pub fn cache_bytes(&self) -> usize {
        self.recency.bytes()
    }

    /// How many documents hold these. One may hold more than the budget by itself.
    pub fn cache_documents(&self) -> usize {
        self.recency.holders()
    }

    /// A document was read or written: it counts as the latest, and others make room for what it holds.
    pub(super) fn used(&mut self, handle: u32) {
        let Some(hosted) = self.hosted.get(&handle) else { return };
        self.recency.used(handle, hosted.cache_bytes());
        while let Some(oldest) = self.recency.pop_beyond(self.budget.cache_bytes_max) {
            self.let_go(oldest);
        }
    }

    /// A document lets go of what can be read back; altogether, if nobody has it open.
    fn let_go(&mut self, handle: u32) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        if hosted.is_unused() && hosted.is_settled() {
            self.forget(handle);
            return;
        }
        if let Some(tail) = &mut hosted.tail {
            tail.clear();
        }
        if let State::Ready(document) = &mut hosted.state {
            document.shrink_window();
        }
    }
}
