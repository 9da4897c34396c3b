//! What single scenarios add to a report.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::report::Deliveries;
use crate::stats::Percentiles;
use crate::trend::Trend;

/// All of them; a scenario fills its own.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sections {
    /// What the run showed, in a few words, for the table of runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highlight: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<Presence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deaf: Option<Deaf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm: Option<Storm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak: Option<Soak>,
    /// One for each recording.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<Trace>,
}

/// Other documents, measured with the load off and on by turns.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Beside {
    pub documents: u32,
    pub members_per_document: u32,
    /// Edits a second, over all of them.
    pub rate: u64,
    /// Seconds of each idle and each active span.
    pub phase_s: f64,
    pub edits_acked: u64,
    pub deliveries: Deliveries,
    pub converged: u64,
    /// Their deliveries while the load was off.
    pub idle_us: Percentiles,
    /// Their deliveries while it was on.
    pub active_us: Percentiles,
    /// p99 while it was on over p99 while it was off.
    pub p99_ratio: Option<f64>,
}

/// Presence.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Presence {
    pub updates_per_member_s: f64,
    pub state_bytes: usize,
    /// States that members set, their first ones included.
    pub states_set: u64,
    /// States that others saw, each counted for each of them.
    pub states_seen: u64,
    /// States set times the members that could see them.
    pub states_expected: u64,
    /// Those that nobody was sent, because a newer one was there.
    pub conflated: u64,
    /// States that came after a newer one of the same member.
    pub stale: u64,
    /// Pairs of members; after the last update, one of each has to see the other's latest state.
    pub pairs: u64,
    pub pairs_without_latest: u64,
    /// Members whose connection was cut.
    pub cut: u64,
    /// Leaves that the members who stayed had to see, and those that they did not.
    pub leaves: u64,
    pub leaves_missing: u64,
    /// From the cut to a leave that a member saw.
    pub leave_us: Percentiles,
    /// Pairs of which one did not see the other's latest state after everybody was back.
    pub pairs_without_latest_after_return: u64,
}

/// Members that never read, who come and go by turns.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Deaf {
    pub deaf: u64,
    /// How often they came.
    pub turns: u32,
    /// Seconds without them, and then with them.
    pub phase_s: f64,
    /// Fewest of them that were connected at the end of a turn.
    pub connected_min: u64,
    /// Fewest connections that took no more when measuring began in a turn, and at its end.
    pub blocked_at_first_min: Option<u64>,
    pub blocked_at_last_min: Option<u64>,
    /// Deliveries to the others without them.
    pub idle_us: Percentiles,
    /// Deliveries to the others with them.
    pub active_us: Percentiles,
    /// p99 with them over p99 without them.
    pub p99_ratio: Option<f64>,
    /// Most resident memory of the server before they first came, and while they were there.
    pub rss_before_bytes: Option<u64>,
    pub rss_with_bytes: Option<u64>,
    /// By how much it may grow.
    pub rss_growth_bytes_max: u64,
    /// Those of them that were woken at the end, and those of these that ended with the others' heads.
    pub woken: u64,
    pub woken_converged: u64,
}

/// Cold joins.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Join {
    /// Edits of the document's history.
    pub edits: u64,
    /// Their bytes.
    pub history_bytes: u64,
    pub joins: u64,
    /// Different copies that joiners were given.
    pub copies: u64,
    /// From when a join was due, TCP and hello included.
    pub first_byte_us: Percentiles,
    pub last_byte_us: Percentiles,
    /// The same and the time that Automerge takes for such a copy, on the idle machine.
    pub loaded_us: Percentiles,
    /// That time, of the first copy.
    pub load_us: u64,
}

/// First, middle and last of many.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Spread {
    pub first: u64,
    pub p50: u64,
    pub p99: u64,
    pub last: u64,
    pub count: u64,
}

impl Spread {
    /// The spread of a histogram, counted from a later moment.
    pub fn of(histogram: &Histogram<u64>, later: u64) -> Self {
        let at = |value: u64| value.saturating_sub(later);
        Self {
            first: at(histogram.min()),
            p50: at(histogram.value_at_quantile(0.5)),
            p99: at(histogram.value_at_quantile(0.99)),
            last: at(histogram.max()),
            count: histogram.len(),
        }
    }
}

/// A reconnect storm.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Storm {
    /// How connections were cut.
    pub cut: String,
    /// From the cut until the server was ready again.
    pub down_ms: Option<u64>,
    /// Of that, from its new start.
    pub restart_ms: Option<u64>,
    /// Edits made from the cut until everybody was back in sync.
    pub edits_meanwhile: u64,
    /// From when the server could be reached again until it welcomed a client.
    pub reconnected_us: Spread,
    /// The same until a client was back in sync.
    pub in_sync_us: Spread,
}

/// What was read off the server at one time of a soak.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Sample {
    /// Seconds since edits began.
    pub at_s: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// The part of it that is not backed by files.
    pub anonymous_bytes: u64,
    pub descriptors: u64,
    pub threads: u64,
    /// Members that are connected.
    pub connected: u64,
}

/// A soak.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Soak {
    /// Connections cut a second.
    pub churn_per_s: f64,
    /// Connections that were cut.
    pub cut: u64,
    /// Whether documents and memtables were full after the first third, so that memory has to be flat.
    pub memory_is_judged: bool,
    pub rss: Option<Trend>,
    pub anonymous: Option<Trend>,
    pub descriptors: Option<Trend>,
    pub threads: Option<Trend>,
    pub samples: Vec<Sample>,
}

/// One recording that was replayed.
#[derive(Debug, Clone, Serialize)]
pub struct Trace {
    /// The file's name.
    pub file: String,
    pub agents: u32,
    pub transactions: u64,
    /// Changes of one document: one a transaction, and the one that makes the text.
    pub changes: u64,
    /// Bytes of these changes.
    pub change_bytes: u64,
    pub documents: u32,
    pub members_per_document: u32,
    /// How often the server was killed meanwhile, and the longest time from a new start until it was ready.
    pub kills: u32,
    pub ready_ms_max: u64,
    /// Positions of the history, over all documents, that were compared with the recording, and those that
    /// are right.
    pub history_positions: u64,
    pub history_right: u64,
    /// Time that Automerge took for the edits, before the replay, in seconds.
    pub made_in_s: f64,
    /// From the first push until everything was acked and delivered, in seconds.
    pub replayed_in_s: f64,
    /// Acked edits a second, over all documents.
    pub edits_per_s: f64,
    /// From when an edit was due, or, without a speed, handed to its connection, to when a member had it.
    pub delivery_us: Percentiles,
    /// From then to its ack.
    pub ack_us: Percentiles,
    /// Bytes that members sent, and received.
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

impl Sections {
    /// What they tell a person.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let sections = [
            self.beside.as_ref().map(Beside::summary),
            self.presence.as_ref().map(Presence::summary),
            self.deaf.as_ref().map(Deaf::summary),
            self.join.as_ref().map(Join::summary),
            self.storm.as_ref().map(Storm::summary),
            self.soak.as_ref().map(Soak::summary),
        ];
        let traces = self.traces.iter().map(Trace::summary);
        for line in sections.into_iter().flatten().chain(traces) {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

/// Microseconds as milliseconds.
pub fn ms(us: u64) -> String {
    format!("{:.2}", us as f64 / 1_000.0)
}

/// A line of percentiles under the summary's header.
fn row(name: &str, p: &Percentiles) -> String {
    let [p50, p90, p99, p999, max] = [p.p50, p.p90, p.p99, p.p999, p.max].map(ms);
    format!("  {name:<22}{p50:>9}{p90:>9}{p99:>9}{p999:>9}{max:>9}\n")
}

impl Deaf {
    /// By how much the server's memory grew with them.
    pub fn rss_growth_bytes(&self) -> Option<u64> {
        Some(self.rss_with_bytes?.saturating_sub(self.rss_before_bytes?))
    }

    fn summary(&self) -> String {
        let known = |value: Option<u64>| value.map_or("not known".to_owned(), |value| value.to_string());
        let mib = |bytes: Option<u64>| {
            bytes.map_or("not known".to_owned(), |bytes| format!("{:.1} MiB", bytes as f64 / 1_048_576.0))
        };
        format!(
            "  deaf: {} members that never read, {} times; blocked at least {} when measuring began, {} at the end; \
             milliseconds as above\n{}{}  resident memory: at most {} before, {} with them\n",
            self.deaf,
            self.turns,
            known(self.blocked_at_first_min),
            known(self.blocked_at_last_min),
            row("without them", &self.idle_us),
            row("with them", &self.active_us),
            mib(self.rss_before_bytes),
            mib(self.rss_with_bytes)
        )
    }
}

impl Beside {
    fn summary(&self) -> String {
        format!(
            "  beside: {} documents of {} members, {} edits/s; milliseconds as above\n{}{}",
            self.documents,
            self.members_per_document,
            self.rate,
            row("beside, load off", &self.idle_us),
            row("beside, load on", &self.active_us)
        )
    }
}

impl Presence {
    fn summary(&self) -> String {
        format!(
            "  presence: {} states set, {} of {} seen, {} conflated; leaves seen after {} to {} ms\n",
            self.states_set,
            self.states_seen,
            self.states_expected,
            self.conflated,
            ms(self.leave_us.p50),
            ms(self.leave_us.max)
        )
    }
}

impl Join {
    fn summary(&self) -> String {
        format!(
            "  join: {} joins of {} edits in {:.2} MB; milliseconds as above\n{}{}{}",
            self.joins,
            self.edits,
            self.history_bytes as f64 / 1e6,
            row("first byte", &self.first_byte_us),
            row("last byte", &self.last_byte_us),
            row("loaded, equal heads", &self.loaded_us)
        )
    }
}

impl Storm {
    fn summary(&self) -> String {
        let row = |name: &str, spread: &Spread| {
            format!(
                "  {name:<22}{:>9}{:>9}{:>9}{:>9}\n",
                ms(spread.first),
                ms(spread.p50),
                ms(spread.p99),
                ms(spread.last)
            )
        };
        let down = match (self.down_ms, self.restart_ms) {
            (Some(down), Some(restart)) => {
                format!("; the server was away for {down} ms, {restart} ms of them to start")
            }
            _ => String::new(),
        };
        format!(
            "  storm by {}: {} edits meanwhile{down}\n  milliseconds              first      p50      p99     last\n{}{}",
            self.cut,
            self.edits_meanwhile,
            row("connected again", &self.reconnected_us),
            row("in sync again", &self.in_sync_us)
        )
    }
}

impl Soak {
    fn summary(&self) -> String {
        let megabytes = |trend: &Option<Trend>| {
            trend.map_or("not known".to_owned(), |trend| {
                let mib = |bytes: f64| bytes / 1_048_576.0;
                format!("{:.1} MiB, {:+.1} MiB/h", mib(trend.mean), mib(trend.growth_per_hour))
            })
        };
        let count = |trend: &Option<Trend>| {
            trend.map_or("not known".to_owned(), |trend| {
                format!("{:.1}, {:+.1}/h", trend.mean, trend.growth_per_hour)
            })
        };
        format!(
            "  soak, means and slopes of the last two thirds: resident {}; anonymous {}; descriptors {}; threads {}\n",
            megabytes(&self.rss),
            megabytes(&self.anonymous),
            count(&self.descriptors),
            count(&self.threads)
        )
    }
}

impl Trace {
    fn summary(&self) -> String {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
        format!(
            "  {}: {} changes in {}, {} agents; {} documents of {} members: {:.0} edits/s over {:.1} s\n    \
             delivery p50 {} p99 {} ms, ack p50 {} p99 {} ms; {} sent, {} received; {} kills\n",
            self.file,
            self.changes,
            mib(self.change_bytes),
            self.agents,
            self.documents,
            self.members_per_document,
            self.edits_per_s,
            self.replayed_in_s,
            ms(self.delivery_us.p50),
            ms(self.delivery_us.p99),
            ms(self.ack_us.p50),
            ms(self.ack_us.p99),
            mib(self.sent_bytes),
            mib(self.received_bytes),
            self.kills
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_counts_from_the_later_moment() {
        let mut histogram = Histogram::new(3).unwrap();
        assert_eq!(Spread::of(&histogram, 0).count, 0);
        (10..=1_009).for_each(|value| histogram.record(value).unwrap());
        let spread = Spread::of(&histogram, 100);
        assert_eq!((spread.first, spread.count), (0, 1_000), "before the moment counts as at it");
        assert!((409..=411).contains(&spread.p50) && (899..=901).contains(&spread.p99), "{spread:?}");
        assert!((909..=910).contains(&spread.last), "{spread:?}");
    }

    #[test]
    fn only_what_a_scenario_fills_is_in_its_report() {
        let sections = Sections { storm: Some(Storm::default()), ..Sections::default() };
        let json = serde_json::to_value(&sections).unwrap();
        assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), ["storm"]);
        assert!(sections.summary().contains("in sync again"));
    }
}
