//! What is counted while a run goes on: histograms of each executor, and the figures that all share for the
//! progress line.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Three significant digits, as wide as it takes.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

/// What one executor measured, in microseconds.
#[derive(Debug)]
pub struct Stats {
    /// From when an edit was due to when a member had it.
    pub delivery: Histogram<u64>,
    /// From when an edit was due to its ack.
    pub ack: Histogram<u64>,
    /// From when an edit was due to when its push was handed to the socket.
    pub lag: Histogram<u64>,
    /// `delivery`, of what was due while the load beside was off.
    pub idle: Histogram<u64>,
    /// `delivery`, of what was due while it was on.
    pub active: Histogram<u64>,
    /// From when a join was due to the first bytes of its document.
    pub first_byte: Histogram<u64>,
    /// From the fleet's moment (connections were cut) to a member's new connection, which the server welcomed.
    pub reconnected: Histogram<u64>,
    /// From the fleet's moment to its effect on a member: back in sync, or another's leave seen.
    pub since_moment: Histogram<u64>,
    /// Reasons of connections and documents that failed; the first few.
    pub failures: Vec<String>,
    /// Changes of those received that came without their value, which a later one had taken the place of.
    pub covered: u64,
    /// Messages of a peer's server that its protocol, or this run, does not have.
    pub unexpected: u64,
}

/// Most reasons that are kept: the first tell enough.
const FAILURES_MAX: usize = 20;

impl Stats {
    /// Nothing measured yet.
    pub fn new() -> Result<Self> {
        Ok(Self {
            delivery: histogram()?,
            ack: histogram()?,
            lag: histogram()?,
            idle: histogram()?,
            active: histogram()?,
            first_byte: histogram()?,
            reconnected: histogram()?,
            since_moment: histogram()?,
            failures: Vec::new(),
            covered: 0,
            unexpected: 0,
        })
    }

    /// Keeps a reason.
    pub fn fail(&mut self, reason: String) {
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(reason);
        }
    }

    /// Adds what another executor measured.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.delivery.add(&other.delivery)?;
        self.ack.add(&other.ack)?;
        self.lag.add(&other.lag)?;
        self.idle.add(&other.idle)?;
        self.active.add(&other.active)?;
        self.first_byte.add(&other.first_byte)?;
        self.reconnected.add(&other.reconnected)?;
        self.since_moment.add(&other.since_moment)?;
        self.covered += other.covered;
        self.unexpected += other.unexpected;
        other.failures.iter().for_each(|reason| self.fail(reason.clone()));
        Ok(())
    }
}

/// Percentiles of a histogram in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
    /// Values measured.
    pub count: u64,
}

impl Percentiles {
    /// The percentiles of a histogram; all 0 if it is empty.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
            count: histogram.len(),
        }
    }
}

/// Figures that every executor adds to.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Connections on which the server said welcome, now.
    pub connected: AtomicI64,
    /// Connections that could not be established.
    pub failed: AtomicU64,
    /// Attempts to connect that were repeated.
    pub retried: AtomicU64,
    /// Connections that ended though nobody wanted it.
    pub lost: AtomicU64,
    /// Documents that are open, counted by member.
    pub opened: AtomicI64,
    /// Members that have everything which the server had when they opened their document, and whose own
    /// edits from before are acked; joins that have their whole document.
    pub in_sync: AtomicI64,
    /// How often a member was back in sync since the fleet's moment.
    pub resynced: AtomicU64,
    /// Connections that the scenario cut.
    pub cut: AtomicU64,
    /// Edits made.
    pub sent: AtomicU64,
    /// Edits acked.
    pub acked: AtomicU64,
    /// Pushes sent and not acked.
    pub in_flight: AtomicI64,
    /// Changes that members received, each counted once.
    pub received: AtomicU64,
    /// Pushes that the server refused.
    pub refused: AtomicU64,
}

/// Adds one.
pub fn count(gauge: &AtomicU64) {
    gauge.fetch_add(1, Ordering::Relaxed);
}

/// Moves a level.
pub fn shift(gauge: &AtomicI64, by: i64) {
    gauge.fetch_add(by, Ordering::Relaxed);
}

/// Reads a counter.
pub fn read(gauge: &AtomicU64) -> u64 {
    gauge.load(Ordering::Relaxed)
}

/// Reads a level; 0 where it is passing through below.
pub fn level(gauge: &AtomicI64) -> u64 {
    u64::try_from(gauge.load(Ordering::Relaxed)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_known_values() {
        let mut stats = Stats::new().unwrap();
        assert_eq!(Percentiles::of(&stats.delivery), Percentiles::default());
        for value in 1..=1_000 {
            stats.delivery.record(value).unwrap();
        }
        let mut all = Stats::new().unwrap();
        all.merge(&stats).unwrap();
        all.delivery.record(90_000).unwrap();
        let found = Percentiles::of(&all.delivery);
        assert_eq!((found.p50, found.p90, found.p99, found.count), (501, 901, 991, 1_001));
        // Three significant digits: 90,000 lies in a bucket of 64.
        assert!((1_000..1_001).contains(&found.p999) && (90_000..90_064).contains(&found.max), "{found:?}");
    }
}
