//! What the server counts. Names are stable; `docs/metrics.md` lists them.

use std::sync::Arc;

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::storage::StorageStats;

/// Bounds of the latency buckets, in milliseconds.
const LATENCY_BUCKETS_MS: [f64; 15] =
    [0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 35.0, 50.0, 100.0, 250.0, 1_000.0];

/// All metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open connections.
    pub connections: IntGauge,
    /// Those of them whose sockets take no more for now.
    pub blocked: IntGauge,
    /// Connections accepted, by transport once it is known.
    pub accepted: IntCounter,
    /// Connections that could not be taken, by reason.
    pub rejected: IntCounterVec,
    /// Connections that ended with an error of theirs, by code.
    pub failed: IntCounterVec,
    /// Panics, by what they ended: a connection, a document's streams, a document's members on one core.
    pub panics: IntCounterVec,
    /// Connections that moved to the core of the document that they opened.
    pub handovers: IntCounter,
    /// Changes made durable.
    pub operations: IntCounter,
    /// Bytes of pushes made durable.
    pub pushed_bytes: IntCounter,
    /// Pushes refused, by code.
    pub refused: IntCounterVec,
    /// Tokens refused, and opens without one where one is asked for, by how.
    pub tokens_refused: IntCounterVec,
    /// Documents opened, by the way a member is brought up to date.
    pub opened: IntCounterVec,
    /// Backups of the running server, by how they ended.
    pub backups: IntCounterVec,
    /// Snapshots: cut, not cut, or found unreadable.
    pub snapshots: IntCounterVec,
    /// Changes frames handed to sockets.
    pub deliveries: IntCounter,
    /// Calls that hand bytes to a socket.
    pub sends: IntCounter,
    /// Bytes handed to sockets.
    pub sent_bytes: IntCounter,
    /// Frames read from sockets.
    pub frames: IntCounter,
    /// From the receipt of a push to handing it to a member's socket, made durable in between.
    pub sync_latency_ms: Histogram,
    /// Documents in memory, by core.
    pub documents: IntGaugeVec,
    /// Changes applied to replicas.
    pub materialiser_applied: IntCounter,
    /// Replicas built.
    pub materialiser_opened: IntCounter,
    /// Replicas saved and loaded again.
    pub materialiser_verified: IntCounter,
    /// What went wrong with replicas, by kind.
    pub materialiser_failures: IntCounterVec,
    /// Changes that wait for a materialiser.
    pub materialiser_lag_records: IntGauge,
    /// For how long the oldest of them does.
    pub materialiser_lag_seconds: Gauge,
    /// Replicas in memory.
    pub materialiser_documents: IntGauge,
    /// Bytes that they take, estimated.
    pub materialiser_bytes: IntGauge,
    /// Times that a document began anew without changes that broke it.
    pub quarantined_documents: IntCounter,
    /// Changes that were taken out of documents.
    pub quarantined_changes: IntCounter,
    storage: Option<Arc<StorageStats>>,
    documents_deleted: IntGauge,
    fsyncs: IntGauge,
    commits: IntGauge,
    commit_failures: IntGauge,
    storage_failed: IntGauge,
    storage_recoveries: IntGauge,
    scrub: [IntGauge; 4],
    commit_queue_bytes: IntGauge,
}

impl Metrics {
    /// A registry with everything in it. An error is a mistake in this file: two metrics of one name.
    pub fn new(storage: Option<Arc<StorageStats>>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(format!("etherply_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(format!("etherply_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let labelled = |name: &str, help: &str, label: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(format!("etherply_{name}"), help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let latency = HistogramOpts::new(
            "etherply_sync_latency_ms",
            "Milliseconds from the receipt of a push to handing it, durable, to a member's socket",
        );
        let sync_latency_ms = Histogram::with_opts(latency.buckets(LATENCY_BUCKETS_MS.to_vec()))?;
        registry.register(Box::new(sync_latency_ms.clone()))?;
        let documents =
            IntGaugeVec::new(Opts::new("etherply_documents_open", "Documents in memory"), &["core"])?;
        registry.register(Box::new(documents.clone()))?;
        let materialiser_lag_seconds = Gauge::new(
            "etherply_materialiser_lag_seconds",
            "For how long the oldest change waits for a materialiser",
        )?;
        registry.register(Box::new(materialiser_lag_seconds.clone()))?;
        Ok(Self {
            connections: gauge("connections_active", "Open connections")?,
            blocked: gauge("connections_blocked", "Open connections whose sockets take no more for now")?,
            accepted: counter("connections_accepted_total", "Connections accepted")?,
            rejected: labelled("connections_rejected_total", "Connections not taken", "reason")?,
            failed: labelled("connections_failed_total", "Connections ended for an error", "code")?,
            panics: labelled("panics_total", "Panics, by what they ended", "ended")?,
            handovers: counter("handovers_total", "Connections that moved to their document's core")?,
            operations: counter("operations_total", "Changes made durable")?,
            pushed_bytes: counter("pushed_bytes_total", "Bytes of pushes made durable")?,
            refused: labelled("pushes_refused_total", "Pushes refused", "code")?,
            tokens_refused: labelled(
                "tokens_refused_total",
                "Opens and renewals refused for their token",
                "how",
            )?,
            opened: labelled("opens_total", "Documents opened by members", "resume")?,
            backups: labelled("backups_total", "Backups of the running server", "outcome")?,
            snapshots: labelled("snapshots_total", "Snapshots of documents", "outcome")?,
            deliveries: counter("deliveries_total", "Changes frames handed to sockets")?,
            sends: counter("sends_total", "Calls that hand bytes to a socket")?,
            sent_bytes: counter("sent_bytes_total", "Bytes handed to sockets")?,
            frames: counter("frames_received_total", "Frames read from sockets")?,
            materialiser_applied: counter("materialiser_applied_total", "Changes applied to replicas")?,
            materialiser_opened: counter("materialiser_opened_total", "Replicas built")?,
            materialiser_verified: counter("materialiser_verified_total", "Replicas saved and loaded again")?,
            materialiser_failures: labelled(
                "materialiser_failures_total",
                "What went wrong with replicas",
                "kind",
            )?,
            materialiser_lag_records: gauge("materialiser_lag", "Changes that wait for a materialiser")?,
            materialiser_lag_seconds,
            materialiser_documents: gauge("materialiser_documents", "Replicas in memory")?,
            materialiser_bytes: gauge("materialiser_bytes", "Bytes that replicas take, estimated")?,
            quarantined_documents: counter(
                "quarantined_documents_total",
                "Times that a document began anew without changes that broke it",
            )?,
            quarantined_changes: counter(
                "quarantined_changes_total",
                "Changes that were taken out of documents",
            )?,
            documents_deleted: gauge("documents_deleted_total", "Documents deleted")?,
            fsyncs: gauge("fsyncs_total", "Syncs that commits waited for")?,
            commits: gauge("commits_total", "Commits made durable")?,
            commit_failures: gauge("commit_failures_total", "Commits that failed")?,
            storage_failed: gauge("storage_failed", "1 while storage takes no writes")?,
            scrub: [
                gauge("scrub_documents_total", "Documents that the scrub has read")?,
                gauge("scrub_bytes_total", "Bytes of changes that the scrub has read")?,
                gauge("scrub_damaged_total", "Damaged documents that the scrub has found")?,
                gauge("scrub_cycles_total", "Times that the scrub has been through all documents")?,
            ],
            storage_recoveries: gauge("storage_recoveries_total", "Times the log was opened again")?,
            commit_queue_bytes: gauge("commit_queue_bytes", "Bytes of changes that wait for a commit")?,
            sync_latency_ms,
            documents,
            storage,
            registry,
        })
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        use std::sync::atomic::Ordering::Relaxed;
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        if let Some(storage) = &self.storage {
            set(&self.documents_deleted, storage.deleted.load(Relaxed));
            set(&self.fsyncs, storage.fsyncs.load(Relaxed));
            set(&self.commits, storage.commits.load(Relaxed));
            set(&self.commit_failures, storage.commits_failed.load(Relaxed));
            set(&self.storage_failed, storage.failed.load(Relaxed));
            set(&self.storage_recoveries, storage.recoveries.load(Relaxed));
            let [documents, bytes, damaged, cycles] = &self.scrub;
            set(documents, storage.scrub_documents.load(Relaxed));
            set(bytes, storage.scrub_bytes.load(Relaxed));
            set(damaged, storage.scrub_damaged.load(Relaxed));
            set(cycles, storage.scrub_cycles.load(Relaxed));
            set(&self.commit_queue_bytes, storage.queued_bytes.load(Relaxed));
        }
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_dashboards_rely_on_are_there() {
        let metrics = Metrics::new(None).unwrap();
        metrics.sync_latency_ms.observe(1.0);
        let text = metrics.render().unwrap();
        for name in [
            "etherply_connections_active",
            "etherply_operations_total",
            "etherply_sync_latency_ms_bucket",
            "etherply_documents_deleted_total",
            "etherply_fsyncs_total",
            "etherply_sends_total",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
