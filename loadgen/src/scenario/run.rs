//! A run of scheduled edits: connect, open, edit, wait for the last delivery. What it means is the scenario's.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::live::Live;
use crate::net::{Command, Fleet, MemberOutcome, Outcome, Session};
use crate::outcome::{Frame, report_frame};
use crate::plan::{Plan, TransportChoice};
use crate::procfs;
use crate::report::{
    Connections, Curves, Documents, Edits, GeneratorFigures, Report, ServerFigures, Settings, Verdict, curve,
};
use crate::scenario::tally::Tally;
use crate::sections::Sections;
use crate::server::{Metrics, Server};
use crate::stats::{Percentiles, Stats, level, read};

/// Time for all connections.
const CONNECT_LIMIT: Duration = Duration::from_secs(120);
/// Time for all documents to be opened.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// Time after the last edit in which acks and deliveries may still come.
const STRAGGLERS_LIMIT: Duration = Duration::from_secs(15);
/// Time for the server's background work after the last delivery.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// Time without work before memory is read.
const IDLE: Duration = Duration::from_millis(1_000);

/// What a run brought.
pub struct Measured {
    pub connections: Connections,
    pub server: ServerFigures,
    pub generator: GeneratorFigures,
    pub stats: Stats,
    pub members: Vec<MemberOutcome>,
    pub acked: Vec<(u32, [u8; 32])>,
    pub refused: u64,
}

/// Runs the plan's schedule. `server` is the process under test, where it runs here.
pub fn run<S: Session>(plan: Plan, server: Option<&Server>, live: &Live) -> Result<Measured> {
    let crowd = Crowd::gather(Fleet::start::<S>(plan, None)?, server, live)?;
    let before = Before::read(server);
    crowd.fleet.begin()?;
    crowd.edit(live);
    crowd.drain(live);
    let generator = before.generator()?;
    live.stage("waiting for the server's background work");
    let figures = before.figures(server, crowd.received());
    crowd.finish(figures, generator)
}

/// A fleet that is connected and has its documents open.
pub struct Crowd {
    pub fleet: Fleet,
    asked: u64,
    established: u64,
    hello_bytes_each: Option<u64>,
    open_bytes_each: Option<u64>,
}

impl Crowd {
    /// Connects everybody and opens everybody's document. Where the server runs here, what that costs it is
    /// measured: other connections must not come or go meanwhile.
    pub fn gather(fleet: Fleet, server: Option<&Server>, live: &Live) -> Result<Self> {
        let (gauges, asked) = (fleet.gauges.clone(), u64::from(fleet.plan.connections()));
        let rss = || server.and_then(|server| procfs::rss_bytes(server.pid()).ok());
        let rest = || {
            if server.is_some() {
                std::thread::sleep(IDLE);
            }
        };
        let base = rss();
        fleet.command(&Command::Connect)?;
        let all = || level(&gauges.connected) + read(&gauges.failed) >= asked;
        live.wait("connecting", &gauges, CONNECT_LIMIT, all);
        rest();
        let after_hello = rss();
        let established = level(&gauges.connected);
        if established == 0 {
            let reason = merge(fleet.finish()?)?.stats.failures.into_iter().next().unwrap_or_default();
            bail!("not one of {asked} connections came about: {reason}");
        }
        fleet.command(&Command::Open)?;
        live.wait("opening documents", &gauges, OPEN_LIMIT, || level(&gauges.opened) >= established);
        rest();
        let after_open = rss();
        let each = |after: Option<u64>| Some(after?.saturating_sub(base?) / established.max(1));
        Ok(Self {
            fleet,
            asked,
            established,
            hello_bytes_each: each(after_hello),
            open_bytes_each: each(after_open),
        })
    }

    /// Waits until the schedule, which has begun, is done.
    pub fn edit(&self, live: &Live) {
        let length = Duration::from_micros(self.fleet.plan.shape.length_us) + STRAGGLERS_LIMIT;
        live.wait("editing", &self.fleet.gauges, length, || self.fleet.is_schedule_done());
    }

    /// Waits until everything is acked and delivered.
    pub fn drain(&self, live: &Live) {
        let gauges = &self.fleet.gauges;
        let others = u64::from(self.fleet.plan.members.saturating_sub(1));
        let arrived = || {
            read(&gauges.acked) >= read(&gauges.sent)
                && read(&gauges.received) >= read(&gauges.acked) * others
        };
        live.wait("waiting for the last deliveries", gauges, STRAGGLERS_LIMIT, arrived);
    }

    /// Waits until everybody is connected again and has the document open.
    pub fn all_back(&self, what: &str, limit: Duration, live: &Live) -> bool {
        let gauges = &self.fleet.gauges;
        let back =
            || level(&gauges.connected) >= self.established && level(&gauges.opened) >= self.established;
        live.wait(what, gauges, limit, back)
    }

    /// Changes, or states, that members received so far.
    pub fn received(&self) -> u64 {
        read(&self.fleet.gauges.received)
    }

    /// Ends the fleet, with what was read off the meters.
    pub fn finish(self, mut server: ServerFigures, generator: GeneratorFigures) -> Result<Measured> {
        let Self { fleet, asked, established, hello_bytes_each, open_bytes_each } = self;
        server.hello_bytes_per_connection = hello_bytes_each;
        server.idle_bytes_per_connection = open_bytes_each;
        let gauges = fleet.gauges.clone();
        let connections = Connections {
            asked,
            established,
            failed: asked.saturating_sub(established),
            retried: read(&gauges.retried),
            lost: read(&gauges.lost),
        };
        let refused = read(&gauges.refused);
        let Outcome { stats, members, acked } = merge(fleet.finish()?)?;
        Ok(Measured { connections, server, generator, stats, members, acked, refused })
    }
}

impl Measured {
    /// A report of all this, still without its verdict.
    pub fn report(
        self,
        scenario: &str,
        transport: TransportChoice,
        settings: Settings,
        tally: Tally,
    ) -> Report {
        let Frame { machine, revision, date, command } = report_frame();
        let total = u64::from(settings.documents);
        let Stats { delivery, ack, lag, failures, .. } = self.stats;
        Report {
            scenario: scenario.to_owned(),
            transport: transport.name().to_owned(),
            connections: self.connections,
            edits: Edits { refused: self.refused, ..tally.edits },
            deliveries: tally.deliveries,
            delivery_us: Percentiles::of(&delivery),
            ack_us: Percentiles::of(&ack),
            send_lag_us: Percentiles::of(&lag),
            documents: Documents { total, converged: None },
            server: self.server,
            generator: self.generator,
            kills: Vec::new(),
            settings,
            machine,
            revision,
            date,
            command,
            notes: failures,
            curves: Curves {
                delivery_us: curve(&delivery),
                ack_us: curve(&ack),
                send_lag_us: curve(&lag),
                more: Vec::new(),
            },
            sections: Sections::default(),
            verdict: Verdict::default(),
        }
    }
}

/// Puts the executors' outcomes together.
pub fn merge(outcomes: Vec<Outcome>) -> Result<Outcome> {
    let mut all = Outcome { stats: Stats::new()?, members: Vec::new(), acked: Vec::new() };
    for outcome in outcomes {
        all.stats.merge(&outcome.stats)?;
        all.members.extend(outcome.members);
        all.acked.extend(outcome.acked);
    }
    Ok(all)
}

/// What stood on the meters before the first edit.
pub struct Before {
    metrics: Metrics,
    server_cpu_s: f64,
    generator_cpu_s: f64,
}

impl Before {
    /// Reads them.
    pub fn read(server: Option<&Server>) -> Self {
        Self {
            metrics: server.map(Server::metrics).unwrap_or_default(),
            server_cpu_s: server.map_or(0.0, Server::cpu_s),
            generator_cpu_s: procfs::cpu_s(std::process::id()).unwrap_or(0.0),
        }
    }

    /// What the generator used since.
    pub fn generator(&self) -> Result<GeneratorFigures> {
        Ok(GeneratorFigures { cpu_s: procfs::cpu_s(std::process::id())? - self.generator_cpu_s })
    }

    /// What the server used since, by the time that its background work has caught up.
    pub fn figures(&self, server: Option<&Server>, deliveries: u64) -> ServerFigures {
        let Some(server) = server else { return ServerFigures::default() };
        // Sends are read before the wait: keep-alive frames of the time after are no part of the deliveries.
        let metrics = server.metrics();
        let cpu_s = server.settle(SETTLE_LIMIT) - self.server_cpu_s;
        let sends = metrics.growth(&self.metrics, "etherply_sends_total");
        let each = |value: f64| (deliveries > 0).then(|| value / deliveries as f64);
        ServerFigures {
            cpu_s: Some(cpu_s),
            cpu_us_per_delivery: each(cpu_s * 1e6),
            rss_peak_bytes: procfs::rss_peak_bytes(server.pid()).ok(),
            idle_bytes_per_connection: None,
            hello_bytes_per_connection: None,
            fsyncs: metrics.growth(&self.metrics, "etherply_fsyncs_total"),
            sends,
            sends_per_delivery: sends.and_then(|sends| each(sends as f64)),
        }
    }
}
