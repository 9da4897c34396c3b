//! What a run ends with: one object of a fixed shape, for machines and, shortened, for people.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::procfs::Machine;
use crate::sections::Sections;
use crate::stats::Percentiles;

/// Connections of the generator.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Connections {
    pub asked: u64,
    pub established: u64,
    pub failed: u64,
    /// Attempts that were repeated.
    pub retried: u64,
    /// Connections that ended though nobody wanted it.
    pub lost: u64,
}

/// Edits, warm-up included.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Edits {
    pub sent: u64,
    pub acked: u64,
    /// Acked edits that are not where they have to be.
    pub lost: u64,
    pub refused: u64,
}

/// Changes that members received, warm-up included.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Deliveries {
    /// Acked edits times the members that did not make them.
    pub expected: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
}

/// Documents, and those whose members, and whose server, ended with the same heads and content.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Documents {
    pub total: u64,
    /// `None` where there is nothing that could converge.
    pub converged: Option<u64>,
}

/// The server under test. `None` where nobody can know: a server on another machine, a missing metric.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServerFigures {
    /// CPU time from the first edit until its background work had caught up, in seconds.
    pub cpu_s: Option<f64>,
    /// The same for one delivery, in microseconds.
    pub cpu_us_per_delivery: Option<f64>,
    pub rss_peak_bytes: Option<u64>,
    /// Memory that a connection costs that said hello and opened its document.
    pub idle_bytes_per_connection: Option<u64>,
    /// Memory that a connection costs that only said hello.
    pub hello_bytes_per_connection: Option<u64>,
    pub fsyncs: Option<u64>,
    pub sends: Option<u64>,
    /// Sends of the server for one delivery; acks are sends as well.
    pub sends_per_delivery: Option<f64>,
}

/// The generator itself.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GeneratorFigures {
    /// CPU time from the first edit to the last delivery, in seconds.
    pub cpu_s: f64,
}

/// What was asked for.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Settings {
    pub documents: u32,
    pub members_per_document: u32,
    pub writers_per_document: u32,
    /// Edits a second; 0 where acks set the pace.
    pub rate: u64,
    pub value_bytes: usize,
    pub warmup_s: f64,
    pub duration_s: f64,
    pub seed: u64,
    pub server_cores: Option<usize>,
    /// Which of the server's threads had a real-time scheduling class, where that is known.
    pub server_realtime: Option<String>,
    pub generator_executors: usize,
    /// Whether connections were secured by TLS.
    pub tls: bool,
    /// The file system of the server's data: an fsync on tmpfs costs nothing and proves nothing.
    pub data_filesystem: Option<String>,
}

/// One server that was killed and came back.
#[derive(Debug, Clone, Serialize)]
pub struct Kill {
    /// After how long of undisturbed pushing, in milliseconds.
    pub after_ms: u64,
    /// Pushes that were sent and not acked at that moment.
    pub pushes_in_flight: u64,
    /// From its new start until it was ready, in milliseconds.
    pub ready_ms: u64,
    /// Acked changes that a fresh client had to find.
    pub acked: u64,
    /// Those that it did not find.
    pub missing: u64,
}

/// One thing that has to hold.
#[derive(Debug, Clone, Serialize)]
pub struct Claim {
    pub claim: String,
    pub measured: String,
    pub passed: bool,
    /// It says how long something takes.
    #[serde(skip)]
    pub is_about_time: bool,
}

impl Claim {
    /// A claim with what was found.
    pub fn new(claim: impl Into<String>, measured: impl Into<String>, passed: bool) -> Self {
        Self { claim: claim.into(), measured: measured.into(), passed, is_about_time: false }
    }

    /// A claim about how long something takes.
    pub fn about_time(claim: impl Into<String>, measured: impl Into<String>, passed: bool) -> Self {
        Self { is_about_time: true, ..Self::new(claim, measured, passed) }
    }
}

/// Whether everything holds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    pub passed: bool,
    pub claims: Vec<Claim>,
}

impl Verdict {
    /// Passed if every claim is; those about time are only shown with `ignore_times`.
    pub fn of(claims: Vec<Claim>, ignore_times: bool) -> Self {
        let holds = |claim: &Claim| claim.passed || (ignore_times && claim.is_about_time);
        Self { passed: claims.iter().all(holds), claims }
    }
}

/// A point of a latency curve: the percentile and the microseconds within which it lies.
pub type Point = (f64, u64);

/// The curves that the plot shows.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Curves {
    pub delivery_us: Vec<Point>,
    pub ack_us: Vec<Point>,
    pub send_lag_us: Vec<Point>,
    /// Those of single scenarios, at most three.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<Curve>,
}

/// A curve with its name.
#[derive(Debug, Clone, Serialize)]
pub struct Curve {
    pub name: String,
    pub points: Vec<Point>,
}

impl Curve {
    /// The curve of a histogram.
    pub fn of(name: &str, histogram: &Histogram<u64>) -> Self {
        Self { name: name.to_owned(), points: curve(histogram) }
    }
}

/// A whole report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub scenario: String,
    pub transport: String,
    pub connections: Connections,
    pub edits: Edits,
    pub deliveries: Deliveries,
    /// From when an edit was due to when a member had it.
    pub delivery_us: Percentiles,
    /// From when an edit was due to its ack.
    pub ack_us: Percentiles,
    /// From when an edit was due to when its push was handed to the socket.
    pub send_lag_us: Percentiles,
    pub documents: Documents,
    pub server: ServerFigures,
    pub generator: GeneratorFigures,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kills: Vec<Kill>,
    #[serde(flatten)]
    pub sections: Sections,
    pub settings: Settings,
    pub machine: Machine,
    /// The source's revision, with `-dirty` where it was changed since.
    pub revision: String,
    /// The day of the run, UTC.
    pub date: String,
    pub command: String,
    /// What the generator noticed, the first few.
    pub notes: Vec<String>,
    pub curves: Curves,
    pub verdict: Verdict,
}

/// The percentiles at which a curve is drawn: ten steps between each two nines.
pub fn curve(histogram: &Histogram<u64>) -> Vec<Point> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let nines = (0..=50).map(|step| 1.0 - 10f64.powf(-f64::from(step) / 10.0));
    let resolved = |&quantile: &f64| (1.0 - quantile) * histogram.len() as f64 >= 1.0;
    let points = nines.filter(resolved);
    points.map(|quantile| (quantile * 100.0, histogram.value_at_quantile(quantile))).collect()
}

impl Report {
    /// The report as one object.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// What a person wants to know first.
    pub fn summary(&self) -> String {
        let ms = |us: u64| format!("{:.2}", us as f64 / 1_000.0);
        let row = |name: &str, p: &Percentiles| {
            let cells = [p.p50, p.p90, p.p99, p.p999, p.max].map(ms);
            let [p50, p90, p99, p999, max] = &cells;
            format!("  {name:<22}{p50:>9}{p90:>9}{p99:>9}{p999:>9}{max:>9}\n")
        };
        let known = |value: Option<f64>, unit: &str| match value {
            Some(value) => format!("{value:.2}{unit}"),
            None => "not known".to_owned(),
        };
        let mut text = format!(
            "\n{} ({}): {} of {} connections, {} edits acked of {}, {} of {} deliveries\n\n",
            self.scenario,
            self.transport,
            self.connections.established,
            self.connections.asked,
            self.edits.acked,
            self.edits.sent,
            self.deliveries.received,
            self.deliveries.expected,
        );
        text.push_str("  milliseconds                p50      p90      p99    p99.9      max\n");
        text.push_str(&row("delivery", &self.delivery_us));
        text.push_str(&row("ack", &self.ack_us));
        text.push_str(&row("send lag", &self.send_lag_us));
        let sections = self.sections.summary();
        if !sections.is_empty() {
            text.push_str(&format!("\n{}", sections.trim_end_matches('\n')));
            text.push('\n');
        }
        let server = &self.server;
        let megabytes = server.rss_peak_bytes.map(|bytes| bytes as f64 / 1_048_576.0);
        let kilobytes = |bytes: Option<u64>| known(bytes.map(|bytes| bytes as f64 / 1_024.0), " KiB");
        text.push_str(&format!(
            "\n  server: CPU {}, {} a delivery, {} sends a delivery, fsyncs {}\n",
            known(server.cpu_s, " s"),
            known(server.cpu_us_per_delivery, " µs"),
            known(server.sends_per_delivery, ""),
            server.fsyncs.map_or("not known".to_owned(), |fsyncs| fsyncs.to_string()),
        ));
        text.push_str(&format!(
            "  memory: peak {}; an idle connection {} after hello, {} with its document open\n",
            known(megabytes, " MiB"),
            kilobytes(server.hello_bytes_per_connection),
            kilobytes(server.idle_bytes_per_connection),
        ));
        text.push_str(&format!("  generator: CPU {:.2} s\n\n", self.generator.cpu_s));
        for note in &self.notes {
            text.push_str(&format!("  note: {note}\n"));
        }
        for Claim { claim, measured, passed, .. } in &self.verdict.claims {
            let mark = if *passed { "✓" } else { "✗" };
            text.push_str(&format!("  {mark} {claim}: {measured}\n"));
        }
        text.push_str(if self.verdict.passed { "\n  passed\n" } else { "\n  FAILED\n" });
        text
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn report() -> Report {
        Report {
            scenario: "prove".into(),
            transport: "mixed".into(),
            connections: Connections::default(),
            edits: Edits::default(),
            deliveries: Deliveries::default(),
            delivery_us: Percentiles::default(),
            ack_us: Percentiles::default(),
            send_lag_us: Percentiles::default(),
            documents: Documents { total: 3, converged: Some(3) },
            server: ServerFigures::default(),
            generator: GeneratorFigures::default(),
            kills: Vec::new(),
            sections: Sections::default(),
            settings: Settings::default(),
            machine: Machine::here(),
            revision: "abc".into(),
            date: "2026-01-02".into(),
            command: "etherply-loadgen prove".into(),
            notes: Vec::new(),
            curves: Curves::default(),
            verdict: Verdict::of(vec![Claim::new("p99 delivery < 50 ms", "1 ms", true)], false),
        }
    }

    #[test]
    fn the_published_shape_is_kept() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json().unwrap()).unwrap();
        let fields = [
            ("", "scenario transport connections edits deliveries delivery_us ack_us send_lag_us documents"),
            ("", "server generator machine revision command verdict"),
            ("connections", "asked established failed"),
            ("edits", "sent acked lost"),
            ("deliveries", "expected received lost duplicated"),
            ("delivery_us", "p50 p90 p99 p999 max"),
            ("ack_us", "p50 p90 p99 p999 max"),
            ("send_lag_us", "p50 p90 p99 p999 max"),
            ("documents", "total converged"),
            ("server", "cpu_s rss_peak_bytes idle_bytes_per_connection fsyncs"),
            ("generator", "cpu_s"),
            ("verdict", "passed claims"),
        ];
        for (object, names) in fields {
            let object = if object.is_empty() { &json } else { &json[object] };
            for name in names.split(' ') {
                assert!(object.get(name).is_some(), "{name} is missing");
            }
        }
        let claim = &json["verdict"]["claims"][0];
        assert!(claim["claim"].is_string() && claim["measured"].is_string() && claim["passed"].is_boolean());
    }

    #[test]
    fn one_claim_that_fails_fails_the_run() {
        let claim = |passed| Claim::new("c", "m", passed);
        assert!(Verdict::of(vec![claim(true), claim(true)], false).passed);
        assert!(!Verdict::of(vec![claim(true), claim(false)], true).passed);
        let late = || Claim::about_time("c", "m", false);
        assert!(!Verdict::of(vec![claim(true), late()], false).passed);
        assert!(Verdict::of(vec![claim(true), late()], true).passed);
        assert!(!Verdict::of(vec![claim(false), late()], true).passed);
    }

    #[test]
    fn a_curve_ends_where_there_are_no_more_values() {
        let mut histogram = Histogram::new(3).unwrap();
        assert!(curve(&histogram).is_empty());
        (1..=1_000).for_each(|value| histogram.record(value).unwrap());
        let points = curve(&histogram);
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        assert!(points.last().unwrap().0 <= 99.9 + 1e-6, "{points:?}");
    }
}
