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
    /// Those that have not said hello, of networks that are not trusted.
    pub pending: IntGauge,
    /// Times that a connection was not read from for a while, by whose bucket was empty.
    pub held: IntCounterVec,
    /// Those of them whose sockets take no more for now.
    pub blocked: IntGauge,
    /// Connections accepted.
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
    /// Fetches of keys from a URL, by how they ended.
    pub keys_fetches: IntCounterVec,
    /// When keys were fetched last, in seconds since 1970.
    pub keys_fetched: IntGauge,
    /// Events handed to readers, by kind.
    pub events: IntCounterVec,
    /// Events that there was no room for.
    pub events_dropped: IntCounter,
    /// Who reads events.
    pub event_readers: IntGauge,
    /// Documents opened, by the way a member is brought up to date.
    pub opened: IntCounterVec,
    /// Backups of the running server, by how they ended.
    pub backups: IntCounterVec,
    /// Snapshots: cut, not cut, or found unreadable.
    pub snapshots: IntCounterVec,
    /// Snapshots that were asked for and are not cut yet.
    pub snapshots_due: IntGauge,
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
    /// Times that commits were held back for a materialiser.
    pub materialiser_holds: IntCounter,
    /// For how long the oldest of them does.
    pub materialiser_lag_seconds: Gauge,
    /// Replicas in memory.
    pub materialiser_documents: IntGauge,
    /// Bytes that they take, estimated.
    pub materialiser_bytes: IntGauge,
    /// Groups of changes that were verified before they were stored, by outcome.
    pub verifications: IntCounterVec,
    /// Times that a document began anew without changes that broke it.
    pub quarantined_documents: IntCounter,
    /// Changes that were taken out of documents.
    pub quarantined_changes: IntCounter,
    storage: Option<Arc<StorageStats>>,
    documents_deleted: IntCounter,
    fsyncs: IntCounter,
    commits: IntCounter,
    commit_failures: IntCounter,
    storage_failed: IntGauge,
    storage_recoveries: IntCounter,
    scrub: [IntCounter; 4],
    retired_rows: IntCounter,
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
            pending: gauge("connections_pending", "Connections that have not said hello yet")?,
            held: labelled(
                "reads_held_total",
                "Times that a connection was not read from for a while",
                "bucket",
            )?,
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
            keys_fetches: labelled("keys_fetches_total", "Fetches of keys from a URL", "outcome")?,
            keys_fetched: gauge(
                "keys_fetched_timestamp_seconds",
                "When keys were fetched from a URL last, in seconds since 1970",
            )?,
            events: labelled("events_total", "Events handed to readers", "kind")?,
            events_dropped: counter("events_dropped_total", "Events that there was no room for")?,
            event_readers: gauge("event_readers", "Connections that read events")?,
            opened: labelled("opens_total", "Documents opened by members", "resume")?,
            backups: labelled("backups_total", "Backups of the running server", "outcome")?,
            snapshots: labelled("snapshots_total", "Snapshots of documents", "outcome")?,
            snapshots_due: gauge("snapshots_due", "Snapshots that are asked for and not cut yet")?,
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
            materialiser_lag_records: gauge(
                "materialiser_lag_records",
                "Changes that wait for a materialiser",
            )?,
            materialiser_holds: counter(
                "materialiser_holds_total",
                "Times that commits were held back for a materialiser",
            )?,
            materialiser_lag_seconds,
            materialiser_documents: gauge("materialiser_documents", "Replicas in memory")?,
            materialiser_bytes: gauge("materialiser_bytes", "Bytes that replicas take, estimated")?,
            verifications: labelled(
                "verifications_total",
                "Groups of changes that were verified before they were stored",
                "outcome",
            )?,
            quarantined_documents: counter(
                "quarantined_documents_total",
                "Times that a document began anew without changes that broke it",
            )?,
            quarantined_changes: counter(
                "quarantined_changes_total",
                "Changes that were taken out of documents",
            )?,
            documents_deleted: counter("documents_deleted_total", "Documents deleted")?,
            fsyncs: counter("fsyncs_total", "Syncs that commits waited for")?,
            commits: counter("commits_total", "Commits made durable")?,
            commit_failures: counter("commit_failures_total", "Commits that failed")?,
            storage_failed: gauge("storage_failed", "1 while storage takes no writes")?,
            retired_rows: counter(
                "retired_rows_total",
                "Rows removed of epochs that documents have left behind",
            )?,
            scrub: [
                counter("scrub_documents_total", "Documents that the scrub has read")?,
                counter("scrub_bytes_total", "Bytes of changes that the scrub has read")?,
                counter("scrub_damaged_total", "Damaged documents that the scrub has found")?,
                counter("scrub_cycles_total", "Times that the scrub has been through all documents")?,
            ],
            storage_recoveries: counter("storage_recoveries_total", "Times the log was opened again")?,
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
        // The threads count by themselves. One thread renders.
        let raise = |counter: &IntCounter, value: u64| counter.inc_by(value.saturating_sub(counter.get()));
        if let Some(storage) = &self.storage {
            raise(&self.documents_deleted, storage.deleted.load(Relaxed));
            raise(&self.fsyncs, storage.fsyncs.load(Relaxed));
            raise(&self.commits, storage.commits.load(Relaxed));
            raise(&self.commit_failures, storage.commits_failed.load(Relaxed));
            raise(&self.storage_recoveries, storage.recoveries.load(Relaxed));
            let [documents, bytes, damaged, cycles] = &self.scrub;
            raise(documents, storage.scrub_documents.load(Relaxed));
            raise(bytes, storage.scrub_bytes.load(Relaxed));
            raise(damaged, storage.scrub_damaged.load(Relaxed));
            raise(cycles, storage.scrub_cycles.load(Relaxed));
            raise(&self.retired_rows, storage.retired_rows.load(Relaxed));
            set(&self.storage_failed, storage.failed.load(Relaxed));
            set(&self.commit_queue_bytes, storage.queued_bytes.load(Relaxed));
        }
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Names and kinds, as `/metrics` says them.
    fn said(metrics: &Metrics) -> BTreeMap<String, String> {
        let text = metrics.render().unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types
            .map(|line| line.split_once(' ').unwrap())
            .map(|(name, kind)| (name.into(), kind.into()))
            .collect()
    }

    #[test]
    fn every_metric_is_documented_with_its_kind_and_nothing_else_is() {
        let metrics = Metrics::new(None).unwrap();
        // What has labels is said once there is one.
        let labelled = [
            &metrics.rejected,
            &metrics.held,
            &metrics.failed,
            &metrics.panics,
            &metrics.refused,
            &metrics.tokens_refused,
            &metrics.keys_fetches,
            &metrics.events,
            &metrics.opened,
            &metrics.backups,
            &metrics.snapshots,
            &metrics.materialiser_failures,
            &metrics.verifications,
        ];
        labelled.iter().for_each(|counters| counters.with_label_values(&["any"]).inc());
        metrics.documents.with_label_values(&["0"]).set(1);
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
        let mut documented = BTreeMap::new();
        for row in page.lines().filter(|line| line.starts_with("| `etherply_")) {
            let mut columns = row.split('|').skip(1);
            let (names, kind) = (columns.next().unwrap(), columns.next().unwrap().trim());
            for name in names.split('`').skip(1).step_by(2) {
                let name = name.split('{').next().unwrap();
                documented.insert(name.to_owned(), kind.to_owned());
            }
        }
        assert_eq!(said(&metrics), documented);
    }

    #[test]
    fn what_the_storage_threads_count_only_grows() {
        let stats = Arc::new(StorageStats::default());
        let metrics = Metrics::new(Some(Arc::clone(&stats))).unwrap();
        for commits in [0, 3, 3, 5] {
            stats.commits.store(commits, std::sync::atomic::Ordering::Relaxed);
            assert!(metrics.render().unwrap().contains(&format!("\netherply_commits_total {commits}\n")));
        }
    }
}
