//! Memory of documents that are built to cut snapshots of them: one budget with the replicas, and given back to the
//! system when a large one is done.
//!
//! A document in memory takes a hundred times the bytes of its snapshot, and cuts take turns on one thread. So a cut
//! begins only while those under way leave room for it, or if there is none; and what cuts take, replicas have to
//! leave to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A cut that took so many bytes of memory, estimated, gives back to the system what the allocator keeps of it.
pub const GIVE_BACK_BYTES: u64 = 8 * 1024 * 1024;

/// What all cuts take together, estimated.
#[derive(Debug)]
pub struct CutMemory {
    bytes: AtomicU64,
    bytes_max: u64,
}

impl CutMemory {
    /// Nothing yet, of `bytes_max` at the most; a document that alone takes more is cut alone.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicU64::new(0), bytes_max })
    }

    /// Bytes that cuts under way take.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Room for a document of so many bytes, if there is: as long as what is returned lives.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reserved> {
        let fits = |taken: u64| {
            let together = taken.saturating_add(bytes);
            (taken == 0 || together <= self.bytes_max).then_some(together)
        };
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Reserved { memory: Arc::clone(self), bytes, largest: bytes })
    }
}

/// Room for a cut under way.
#[derive(Debug)]
pub struct Reserved {
    memory: Arc<CutMemory>,
    bytes: u64,
    largest: u64,
}

impl Reserved {
    /// It turned out to be so many bytes.
    pub fn set(&mut self, bytes: u64) {
        self.memory.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.memory.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        (self.bytes, self.largest) = (bytes, self.largest.max(bytes));
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.memory.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.largest >= GIVE_BACK_BYTES {
            give_back();
        }
    }
}

/// Gives the system the memory that was let go and that the allocator keeps for later: after a document of a quarter of
/// a million changes that is hundreds of MB, in pieces between others that live on.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches nothing but the allocator's own free memory, under its locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_together_stay_within_the_budget_and_one_alone_may_exceed_it() {
        let memory = CutMemory::new(100);
        for (bytes, more, fits) in [(99, 1, true), (99, 2, false), (100, 0, true), (100, 1, false)] {
            let first = memory.reserve(bytes).unwrap();
            assert_eq!(memory.reserve(more).is_some(), fits, "{bytes} and {more}");
            drop(first);
            assert_eq!(memory.bytes(), 0);
        }
        let mut alone = memory.reserve(u64::MAX).unwrap();
        assert!(memory.reserve(1).is_none());
        alone.set(60);
        let other = memory.reserve(40).unwrap();
        assert!(memory.reserve(1).is_none());
        drop(alone);
        assert_eq!(memory.bytes(), 40);
        drop(other);
    }
}
