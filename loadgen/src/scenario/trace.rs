//! `trace`: recorded editing sessions through the server, keystroke by keystroke. At the end every member, and
//! a client that holds nothing, has the text with which the recording ends, and the same heads.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::args::TraceArgs;
use crate::fresh;
use crate::live::Live;
use crate::random::Random;
use crate::report::{Claim, Connections, Report, Settings};
use crate::scenario::claims;
use crate::scenario::conclude::judge;
use crate::scenario::host::Host;
use crate::scenario::run::{Before, Measured};
use crate::scenario::setup::{executors, raise_descriptors, run_number};
use crate::scenario::tally::Tally;
use crate::sections::Trace;
use crate::stats::{Gauges, Percentiles, Stats, level, read};
use crate::trace::changes::{Edits, text_of};
use crate::trace::file::Recording;
use crate::trace::history;
use crate::trace::member::{Document, Member};
use crate::trace::replay::{Ended, Orders, Replayed, replay};

/// What all recordings together brought.
struct Sums {
    stats: Stats,
    connections: Connections,
    tally: Tally,
    refused: u64,
    documents: u64,
    converged: u64,
    members: u64,
    /// Members with the text of the recording's end.
    right: u64,
    traces: Vec<Trace>,
    /// Each recording's changes and the names of its documents, if their history is to be looked at.
    replayed: Vec<(Arc<Edits>, Vec<String>)>,
    /// Whether `etherply verify` found the data directory whole.
    verified: bool,
    faults: Vec<String>,
}

/// Runs `trace`.
pub fn trace(args: &TraceArgs, live: &Live) -> Result<Report> {
    if args.documents == 0 {
        bail!("a run needs at least one document");
    }
    if args.speed == Some(0) {
        bail!("--speed is a number of edits a second, from 1 on");
    }
    if (args.kills > 0 || args.history > 0) && args.common.url.is_some() {
        bail!("--kills and --history need a server that this program starts: leave --url out");
    }
    // What cannot be read is said before a server is started.
    for file in &args.files {
        members_of(args, file, &Recording::read(file)?)?;
    }
    let mut host = Host::start(&args.common, live)?;
    let before = Before::read(host.server());
    let mut sums = Sums::new()?;
    for (number, file) in args.files.iter().enumerate() {
        one(args, number, file, &mut host, live, &mut sums).with_context(|| name_of(file))?;
    }
    let generator = before.generator()?;
    live.stage("waiting for the server's background work");
    let server = before.figures(host.server(), sums.tally.deliveries.received);
    let settings = settings_of(args, &sums, &host);
    if args.history > 0 {
        sums.look_back(args, &mut host, live)?;
    }
    let Sums {
        stats,
        connections,
        tally,
        refused,
        documents,
        converged,
        members,
        right,
        traces,
        verified,
        faults,
        ..
    } = sums;
    let wanted = traces.iter().map(|trace| trace.changes * u64::from(trace.documents)).sum();
    let (outcomes, acked) = (Vec::new(), Vec::new());
    let measured = Measured { connections, server, generator, stats, members: outcomes, acked, refused };
    let mut report = measured.report("trace", host.transport, settings, tally);
    report.documents.total = documents;
    report.documents.converged = Some(converged);
    report.sections.highlight = Some(highlight(&traces));
    report.sections.traces = traces;
    report.notes.extend(faults);
    let kills: u32 = report.sections.traces.iter().map(|trace| trace.kills).sum();
    let ready_ms_max = report.sections.traces.iter().map(|trace| trace.ready_ms_max).max().unwrap_or(0);
    let mut claims = vec![
        claims::connections(&report),
        claims::edits(&report, wanted),
        claims::stored(&report, false),
        claims::deliveries(&report),
        Claim::new(
            "every member has the text of the recording's end",
            format!("{right} of {members}"),
            right == members,
        ),
        claims::converged(&report),
    ];
    if args.kills > 0 {
        let wanted = u64::from(args.kills) * args.files.len() as u64;
        claims.push(Claim::new(
            "the server was killed as often as asked",
            format!("{kills} of {wanted}"),
            u64::from(kills) == wanted,
        ));
        let is_soon = ready_ms_max < 5_000;
        claims.push(Claim::about_time(
            "ready again within 5 s",
            format!("{ready_ms_max} ms at most"),
            is_soon,
        ));
    }
    if args.history > 0 {
        let sum = |of: fn(&Trace) -> u64| report.sections.traces.iter().map(of).sum::<u64>();
        let (right, all) = (sum(|trace| trace.history_right), sum(|trace| trace.history_positions));
        claims.push(Claim::new(
            "the history is the recording's at every position that was looked at",
            format!("{right} of {all}"),
            right == all,
        ));
        let said = if verified { "whole" } else { "not whole" };
        claims.push(Claim::new("`etherply verify` finds the data directory whole", said, verified));
    }
    judge(&mut report, claims, &args.common, host, live);
    Ok(report)
}

/// Replays one recording and compares what everybody has.
fn one(
    args: &TraceArgs,
    number: usize,
    file: &Path,
    host: &mut Host,
    live: &Live,
    sums: &mut Sums,
) -> Result<()> {
    let name = name_of(file);
    let recording = Recording::read(file)?.first(args.first.unwrap_or(usize::MAX));
    let orders = Orders {
        target: host.target.clone(),
        transport: host.transport,
        members: members_of(args, file, &recording)?,
        threads: executors(&args.common).min(args.documents as usize),
        seed: run_number(),
        reconnects: args.kills > 0,
    };
    let connections = u64::from(orders.members) * u64::from(args.documents);
    raise_descriptors(u32::try_from(connections).context("more connections than can be counted")?)?;
    let (begun, transactions) = (Instant::now(), recording.transactions.len());
    let edits = Edits::make(&recording, orders.seed, |done| {
        live.stage(&format!("{name}: making changes, {done} of {transactions}"));
    })?;
    let (made_in, edits) = (begun.elapsed(), Arc::new(edits));
    let document = |document: u32| {
        let name = format!("trace-{:016x}/{number}/{document:06}", orders.seed);
        Document::new(name, edits.clone(), args.speed)
    };
    let documents = (0..args.documents).map(document).collect();
    let total = edits.made.len() as u64 * u64::from(args.documents);
    let mut kills = Kills::new(args.kills, args.common.seed ^ number as u64, total);
    let replayed = replay(documents, &orders, live, |gauges| kills.look(gauges, host, live))?;
    live.stage(&format!("{name}: comparing what members and a fresh client have"));
    sums.add(&replayed, connections);
    sums.compare(&replayed, &edits, &orders)?;
    let changes = edits.made.len() as u64;
    if args.history > 0 {
        let names = replayed.documents.iter().map(|ended| ended.document.name.clone());
        sums.replayed.push((edits.clone(), names.collect()));
    }
    let edits_made = read(&replayed.gauges.acked);
    let trace = Trace {
        file: name,
        agents: edits.agents,
        transactions: transactions as u64,
        changes,
        change_bytes: edits.made.iter().map(|made| made.bytes.len() as u64).sum(),
        documents: args.documents,
        members_per_document: orders.members,
        kills: kills.done,
        ready_ms_max: u64::try_from(kills.ready_after_max.as_millis())?,
        history_positions: u64::from(args.history) * u64::from(args.documents),
        history_right: 0,
        made_in_s: made_in.as_secs_f64(),
        replayed_in_s: replayed.took.as_secs_f64(),
        edits_per_s: edits_made as f64 / replayed.took.as_secs_f64().max(1e-6),
        delivery_us: Percentiles::of(&replayed.stats.delivery),
        ack_us: Percentiles::of(&replayed.stats.ack),
        sent_bytes: replayed.sent_bytes,
        received_bytes: replayed.received_bytes,
    };
    live.say(&format!("{}: {:.0} edits/s over {:.1} s", trace.file, trace.edits_per_s, trace.replayed_in_s));
    sums.traces.push(trace);
    sums.stats.merge(&replayed.stats)
}

/// When the server is killed during a recording.
struct Kills {
    /// Numbers of acked edits, the last one first.
    at: Vec<u64>,
    done: u32,
    ready_after_max: Duration,
}

impl Kills {
    /// So many kills, each somewhere in its share of `total` edits.
    fn new(kills: u32, seed: u64, total: u64) -> Self {
        let mut random = Random::new(seed);
        let share = total / u64::from(kills.max(1));
        let at = (0..u64::from(kills)).rev().map(|kill| kill * share + random.below(share)).collect();
        Self { at, done: 0, ready_after_max: Duration::ZERO }
    }

    /// Kills the server, and starts it again, if that is due; whether that was the last time.
    fn look(&mut self, gauges: &Gauges, host: &mut Host, live: &Live) -> Result<bool> {
        let acked = read(&gauges.acked);
        if self.at.pop_if(|at| *at <= acked).is_none() {
            return Ok(self.at.is_empty());
        }
        let in_flight = read(&gauges.sent).saturating_sub(acked);
        let ready_after = host.restart(true)?;
        self.ready_after_max = self.ready_after_max.max(ready_after);
        self.done += 1;
        live.say(&format!(
            "kill {}: {acked} edits acked, {in_flight} in flight; ready again in {} ms",
            self.done,
            ready_after.as_millis()
        ));
        Ok(self.at.is_empty())
    }
}

impl Sums {
    fn new() -> Result<Self> {
        Ok(Self {
            stats: Stats::new()?,
            connections: Connections::default(),
            tally: Tally::default(),
            refused: 0,
            documents: 0,
            converged: 0,
            members: 0,
            right: 0,
            traces: Vec::new(),
            replayed: Vec::new(),
            verified: false,
            faults: Vec::new(),
        })
    }

    fn add(&mut self, replayed: &Replayed, asked: u64) {
        let gauges = &replayed.gauges;
        let established = level(&gauges.connected);
        self.connections.asked += asked;
        self.connections.established += established;
        self.connections.failed += asked.saturating_sub(established);
        self.connections.lost += read(&gauges.lost);
        self.refused += read(&gauges.refused);
        self.documents += replayed.documents.len() as u64;
        for Ended { members, .. } in &replayed.documents {
            let others = members.len() as u64 - 1;
            let acked: u64 = members.iter().map(Member::acked).sum();
            let received: u64 = members.iter().map(Member::received).sum();
            let made: u64 = members.iter().map(Member::made).sum();
            let (edits, deliveries) = (&mut self.tally.edits, &mut self.tally.deliveries);
            edits.sent += made;
            edits.acked += acked;
            deliveries.expected += acked * others;
            deliveries.received += received;
            deliveries.lost += (acked * others).saturating_sub(received);
            deliveries.duplicated += members.iter().map(|member| member.duplicated).sum::<u64>();
        }
    }

    /// Builds every member's document, and what a fresh client is sent. Members that came by the same changes
    /// in the same order have the same document; it is built once.
    fn compare(&mut self, replayed: &Replayed, edits: &Edits, orders: &Orders) -> Result<()> {
        let mut built: HashMap<&[u32], bool> = HashMap::new();
        let names: Vec<String> = replayed.documents.iter().map(|ended| ended.document.name.clone()).collect();
        let is_right = |text: &str, heads: &[[u8; 32]]| text == edits.end && heads == edits.heads;
        let mut right = HashSet::new();
        for Ended { document, members } in &replayed.documents {
            let mut all_right = true;
            for member in members {
                let has_right = match built.get(member.order.as_slice()) {
                    Some(&has_right) => has_right,
                    None => {
                        let has_right = match edits.build(member.order.iter().copied()) {
                            Ok((text, heads)) => is_right(&text, &heads),
                            Err(error) => {
                                self.fault(format!("{}: a member's document: {error:#}", document.name));
                                false
                            }
                        };
                        built.insert(&member.order, has_right);
                        has_right
                    }
                };
                self.members += 1;
                self.right += u64::from(has_right);
                all_right &= has_right;
            }
            if all_right {
                right.insert(document.name.clone());
            } else {
                self.fault(format!("{}: a member has another text or other heads", document.name));
            }
        }
        let read = fresh::read(&orders.target, &names)?;
        for ((name, bytes), Ended { members, .. }) in read.into_iter().zip(&replayed.documents) {
            let is_whole = match text_of(&bytes) {
                Ok((text, heads)) => is_right(&text, &heads),
                Err(error) => {
                    self.fault(format!("{name}: what a fresh client read: {error:#}"));
                    false
                }
            };
            if !is_whole {
                let acked = members.iter().flat_map(Member::acked_changes).copied();
                self.tally.edits.lost += edits.missing(&bytes, acked);
                self.fault(format!("{name}: a fresh client reads another text or other heads"));
            }
            self.converged += u64::from(is_whole && right.contains(&name));
        }
        Ok(())
    }

    /// Compares the stored history of every document with its recording.
    fn look_back(&mut self, args: &TraceArgs, host: &mut Host, live: &Live) -> Result<()> {
        host.stop()?;
        live.stage("verifying the data directory");
        self.verified =
            host.ask(&["verify"]).map(drop).map_err(|error| self.fault(format!("{error:#}"))).is_ok();
        for (index, (edits, names)) in std::mem::take(&mut self.replayed).into_iter().enumerate() {
            let mut all = 0;
            for name in names {
                live.stage(&format!("{name}: comparing its history with the recording"));
                match history::check(host, &name, &edits, args.history, args.common.seed) {
                    Ok(right) => all += u64::from(right),
                    Err(error) => self.fault(format!("{name}: its history: {error:#}")),
                }
            }
            if let Some(trace) = self.traces.get_mut(index) {
                trace.history_right = all;
            }
        }
        Ok(())
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

/// Most faults that are named.
const FAULTS_MAX: usize = 20;

/// Members of each of a recording's documents: those asked for, or its agents and one that reads.
fn members_of(args: &TraceArgs, file: &Path, recording: &Recording) -> Result<u32> {
    let members = args.members.unwrap_or(recording.agents + 1);
    if members < recording.agents {
        bail!("{} has {} agents: --members {members} are too few", name_of(file), recording.agents);
    }
    Ok(members)
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn settings_of(args: &TraceArgs, sums: &Sums, host: &Host) -> Settings {
    let most = |of: fn(&Trace) -> u32| sums.traces.iter().map(of).max().unwrap_or(0);
    Settings {
        documents: args.documents,
        members_per_document: most(|trace| trace.members_per_document),
        writers_per_document: most(|trace| trace.agents),
        rate: args.speed.unwrap_or(0),
        duration_s: sums.traces.iter().map(|trace| trace.replayed_in_s).sum(),
        seed: args.common.seed,
        server_cores: args.common.server_cores,
        server_realtime: host.realtime(),
        generator_executors: executors(&args.common),
        tls: host.target.tls.is_some(),
        data_filesystem: host.filesystem(),
        ..Settings::default()
    }
}

fn highlight(traces: &[Trace]) -> String {
    let one = |trace: &Trace| format!("{} {:.0} edits/s", trace.file, trace.edits_per_s);
    traces.iter().map(one).collect::<Vec<_>>().join(", ")
}
