//! What the storage threads count, for metrics: plain atomics that anybody may read at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of a [`LatencyHistogram`].
pub const LATENCY_BUCKETS: usize = 24;

/// Counts of durations in buckets whose bounds double: bucket `i` counts what took less than `2^i` µs and
/// not less than the bucket before; the last one also counts all that took longer (4 s and more).
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    buckets: [AtomicU64; LATENCY_BUCKETS],
    sum_us: AtomicU64,
}

impl LatencyHistogram {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bits = (u64::BITS - us.leading_zeros()) as usize;
        if let Some(bucket) = self.buckets.get(bits.min(LATENCY_BUCKETS - 1)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Each bucket's exclusive upper bound in µs and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(i, count)| (1 << i, count.load(Ordering::Relaxed)))
    }

    /// Sum of all durations in µs.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of the storage threads.
        #[derive(Debug, Default)]
        pub struct StorageStats {
            $($(#[$doc])* pub $name: AtomicU64,)*
            /// How long commits took, from the first write to the ledger's entry.
            pub commit_us: LatencyHistogram,
        }
    };
}

counters! {
    /// Commits that are durable.
    commits,
    /// Commits that failed, those refused after a failure included.
    commits_failed,
    /// Gauge: 1 while nothing is written because a write or a sync failed.
    failed,
    /// How often the log was opened again after a failure.
    recoveries,
    /// Syncs of the journal that commits waited for.
    fsyncs,
    /// Commits that waited because flushes or compactions were behind.
    stalls,
    /// Jobs whose appends were committed.
    jobs,
    /// Records committed.
    records,
    /// Bytes of records committed, as stored.
    record_bytes,
    /// Documents deleted.
    deleted,
    /// Rows of deleted documents removed.
    purged_rows,
    /// Rows of epochs that documents have left behind, removed.
    retired_rows,
    /// Gauge: jobs that wait for a commit.
    queued_jobs,
    /// Gauge: bytes of changes that wait for a commit.
    queued_bytes,
    /// Questions answered by the reader thread.
    reads,
    /// Questions whose code panicked.
    reads_panicked,
    /// Documents that the scrub has proven, or found damaged.
    scrub_documents,
    /// Bytes of changes that it has read.
    scrub_bytes,
    /// Damaged documents that it has found, each as often as it came by.
    scrub_damaged,
    /// How often it has been through all documents.
    scrub_cycles,
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_above_them() {
        let histogram = LatencyHistogram::default();
        for us in [0, 1, 2, 3, 127, 128, u64::from(u32::MAX)] {
            histogram.record(Duration::from_micros(us));
        }
        let counted: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(1, 1), (2, 1), (4, 2), (128, 1), (256, 1), (1 << 23, 1)]);
        assert_eq!(histogram.sum_us(), 261 + u64::from(u32::MAX));
    }
}
