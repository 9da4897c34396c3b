//! `join`: clients without a copy join a document with a long history, at a fixed rate. What the server takes
//! is told apart from what a client then does to build the document.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use automerge::AutoCommit;
use hdrhistogram::Histogram;

use crate::args::{JoinArgs, check};
use crate::live::Live;
use crate::net::join::JoinSession;
use crate::net::{Fleet, Joined, MemberOutcome, Outcome, START_DELAY};
use crate::plan::Plan;
use crate::report::{Claim, Connections, Curve, Deliveries, Edits, Report, Settings};
use crate::scenario::beside::{self, Beside};
use crate::scenario::claims;
use crate::scenario::compare::{Part, compare, converged};
use crate::scenario::conclude::{elsewhere, judge};
use crate::scenario::edits::micros;
use crate::scenario::history::{self, History};
use crate::scenario::host::Host;
use crate::scenario::run::{Before, Measured, merge};
use crate::scenario::setup::{Times, raise_descriptors};
use crate::scenario::tally::Tally;
use crate::schedule::{Rhythm, Shape};
use crate::sections;
use crate::stats::{Percentiles, level, read};

/// Time after the last join was due for the slowest to have its document.
const STRAGGLERS_LIMIT: Duration = Duration::from_secs(60);

/// Runs `join`.
pub fn join(args: &JoinArgs, live: &Live) -> Result<Report> {
    check(1, 1, 1, args.value_bytes)?;
    if args.edits == 0 || args.rate == 0 {
        bail!("a history has at least one edit, and there is at least one join a second");
    }
    let phases = beside::phases(&args.beside, args.warmup, args.duration)?;
    let mut host = Host::start(&args.common, live)?;
    let plan = plan_of(args, &host, beside::rhythm(phases))?;
    raise_descriptors(plan.connections().saturating_add(args.beside.documents.saturating_mul(10)))?;
    live.stage("making the history");
    let history = history::make(&plan, args.edits)?;

    let (joined, incoming) = flume::unbounded();
    let (end, ended) = flume::bounded::<()>(1);
    let collector = collect(incoming, ended)?;
    let fleet = Fleet::start_joiners::<JoinSession>(plan.clone(), joined)?;
    let beside = phases.map(|phases| Beside::gather(&args.beside, &args.common, phases, &plan, live));
    let beside = beside.transpose()?;
    let before = Before::read(host.server());
    let start = Instant::now() + START_DELAY;
    fleet.begin_at(start)?;
    beside.as_ref().map_or(Ok(()), |beside| beside.begin_at(start))?;
    let gauges = fleet.gauges.clone();
    let scheduled = plan.scheduled();
    let limit = Duration::from_micros(plan.shape.length_us) + STRAGGLERS_LIMIT;
    let ended = || level(&gauges.in_sync) + read(&gauges.failed) + read(&gauges.lost) >= scheduled;
    live.wait("joining", &gauges, limit, || fleet.is_schedule_done() && ended());
    if let Some(beside) = &beside {
        beside.drain(live);
    }
    let generator = before.generator()?;
    let received = read(&gauges.received) + beside.as_ref().map_or(0, Beside::received);
    let server = before.figures(host.server(), received);
    let connections = Connections {
        asked: scheduled,
        established: level(&gauges.in_sync),
        failed: read(&gauges.failed),
        retried: read(&gauges.retried),
        lost: read(&gauges.lost),
    };
    let Outcome { stats, .. } = merge(fleet.finish()?)?;
    let beside = beside.map(Beside::finish).transpose()?;
    let measured = Measured {
        connections,
        server,
        generator,
        stats,
        members: Vec::new(),
        acked: history.changes.iter().map(|hash| (0, *hash)).collect(),
        refused: 0,
    };

    live.stage("building the documents that were joined");
    drop(end);
    let copies = collector.join().map_err(|_| anyhow!("the collector panicked"))?;
    let built = build(&copies, &history)?;
    live.stage("comparing what is stored with what was acked and with what joiners have");
    let sample = copies.into_iter().next().map(|copy| copy.bytes);
    let members = [MemberOutcome { heads: history.heads.clone(), sample, ..MemberOutcome::default() }];
    let mut parts = vec![Part { plan: &plan, members: &members, acked: &measured.acked }];
    parts.extend(beside.as_ref().map(|beside| beside.measured.part(&beside.plan)));
    let findings = compare(&mut host, &parts)?;
    drop(parts);

    let tally = tally(args, &built, scheduled);
    let is_stored = converged(&findings, &plan, &tally);
    let section = section_of(args, &history, &measured, &built);
    let loaded = Curve::of("loaded", &built.loaded_us);
    let first = Curve::of("first byte", &measured.stats.first_byte);
    let mut report = measured.report("join", host.transport, settings_of(args, &plan, &host), tally);
    report.documents.converged = Some(is_stored);
    report.edits.lost = findings.acked_missing;
    report.notes.extend(findings.faults.iter().cloned());
    report.notes.extend(elsewhere(&host));
    report.sections.highlight = Some(format!(
        "{} edits: first byte {}, last {}, loaded {} ms at the median",
        args.edits,
        sections::ms(section.first_byte_us.p50),
        sections::ms(section.last_byte_us.p50),
        sections::ms(section.loaded_us.p50)
    ));
    report.sections.join = Some(section);
    report.curves.more = if beside.is_some() { vec![first] } else { vec![first, loaded] };
    let mut claims = claims_of(&report, &built, host.is_local());
    let load = format!("cold joins of {:.1} MB", history.bytes as f64 / 1e6);
    if let Some(beside) = beside {
        claims.extend(beside.report(&findings, &load, &mut report));
    }
    judge(&mut report, claims, &args.common, host, live);
    Ok(report)
}

fn plan_of(args: &JoinArgs, host: &Host, rhythm: Rhythm) -> Result<Plan> {
    let (warmup_us, duration_us) = (micros(args.warmup)?, micros(args.duration)?);
    let length_us = warmup_us.saturating_add(duration_us);
    let shape = Shape { documents: 1, writers: 1, rate: args.rate, length_us, seed: args.common.seed };
    let plan = Plan { warmup_us, rhythm, ..host.plan(&args.common, args.value_bytes, shape) };
    // A connection for each join.
    let members = u32::try_from(plan.scheduled()).context("more joins than can be counted")?.max(1);
    Ok(Plan { members, ..plan })
}

fn settings_of(args: &JoinArgs, plan: &Plan, host: &Host) -> Settings {
    let times = Times { warmup_s: args.warmup, duration_s: args.duration };
    Settings { writers_per_document: 0, ..host.settings(&args.common, plan, times) }
}

/// Joiners that were given the same bytes.
#[derive(Debug)]
struct Given {
    bytes: Vec<u8>,
    /// From when each of these joins was due to its last byte; `None` in the warm-up.
    took_us: Vec<Option<u64>>,
}

/// Gathers what joiners were given, equal copies once, until the other end of `ended` is gone. A thread of its
/// own: the connections must not wait.
fn collect(incoming: flume::Receiver<Joined>, ended: flume::Receiver<()>) -> Result<JoinHandle<Vec<Given>>> {
    let run = move || {
        let mut copies: Vec<Given> = Vec::new();
        let mut add =
            |Joined { took_us, bytes }: Joined| match copies.iter_mut().find(|copy| copy.bytes == bytes) {
                Some(copy) => copy.took_us.push(took_us),
                None => copies.push(Given { bytes, took_us: vec![took_us] }),
            };
        // The executors keep their senders longer than they send.
        while let Some(joined) =
            flume::Selector::new().recv(&incoming, Result::ok).recv(&ended, |_| None).wait()
        {
            add(joined);
        }
        incoming.drain().for_each(add);
        copies
    };
    Ok(std::thread::Builder::new().name("copies".into()).spawn(run)?)
}

/// What Automerge made of the copies.
struct Built {
    copies: u64,
    /// Joins whose document has the heads of the history.
    equal: u64,
    /// Changes that all joiners have together.
    changes: u64,
    load_us: u64,
    loaded_us: Histogram<u64>,
}

/// Loads each different copy once, on the idle machine, and takes its time for each join that was given it.
fn build(copies: &[Given], history: &History) -> Result<Built> {
    let mut built = Built {
        copies: copies.len() as u64,
        equal: 0,
        changes: 0,
        load_us: 0,
        loaded_us: Histogram::new(3)?,
    };
    for copy in copies {
        let begun = Instant::now();
        let mut document = AutoCommit::load(&copy.bytes).context("Automerge cannot load what was sent")?;
        let mut heads: Vec<[u8; 32]> = document.get_heads().iter().map(|head| head.0).collect();
        let load_us = u64::try_from(begun.elapsed().as_micros())?;
        heads.sort_unstable();
        if built.load_us == 0 {
            built.load_us = load_us;
        }
        let joins = copy.took_us.len() as u64;
        built.changes += document.get_changes(&[]).len() as u64 * joins;
        if heads == history.heads {
            built.equal += joins;
        }
        for took_us in copy.took_us.iter().flatten() {
            built.loaded_us.record(took_us + load_us)?;
        }
    }
    Ok(built)
}

fn tally(args: &JoinArgs, built: &Built, scheduled: u64) -> Tally {
    let edits = u64::from(args.edits);
    let expected = edits * scheduled;
    let lost = expected.saturating_sub(built.changes);
    let deliveries = Deliveries { expected, received: built.changes, lost, duplicated: 0 };
    let equal = if built.equal == scheduled { [0].into() } else { Default::default() };
    Tally { edits: Edits { sent: edits, acked: edits, lost: 0, refused: 0 }, deliveries, equal }
}

fn section_of(args: &JoinArgs, history: &History, measured: &Measured, built: &Built) -> sections::Join {
    sections::Join {
        edits: u64::from(args.edits),
        history_bytes: history.bytes,
        joins: measured.connections.established,
        copies: built.copies,
        first_byte_us: Percentiles::of(&measured.stats.first_byte),
        last_byte_us: Percentiles::of(&measured.stats.delivery),
        loaded_us: Percentiles::of(&built.loaded_us),
        load_us: built.load_us,
    }
}

fn claims_of(report: &Report, built: &Built, on_disk: bool) -> Vec<Claim> {
    let asked = report.connections.asked;
    vec![
        Claim::new(
            format!("{asked} of {asked} clients were given the whole document"),
            format!("{}", report.connections.established),
            report.connections.established == asked && report.connections.lost == 0,
        ),
        Claim::new(
            "each has the heads of the history when Automerge has loaded it",
            format!("{} of {asked}", built.equal),
            built.equal == asked,
        ),
        claims::stored(report, on_disk),
        claims::converged(report),
    ]
}
