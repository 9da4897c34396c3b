//! `trace`: recorded editing sessions through the server, keystroke by keystroke. At the end every member, and
//! a client that holds nothing, has the text with which the recording ends, and the same heads.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::args::TraceArgs;
use crate::fresh;
use crate::live::Live;
use crate::report::{Claim, Connections, Report, Settings};
use crate::scenario::claims;
use crate::scenario::conclude::judge;
use crate::scenario::host::Host;
use crate::scenario::run::{Before, Measured};
use crate::scenario::setup::{executors, raise_descriptors, run_number};
use crate::scenario::tally::Tally;
use crate::sections::Trace;
use crate::stats::{Percentiles, Stats, level, read};
use crate::trace::changes::{Edits, text_of};
use crate::trace::file::Recording;
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
    // What cannot be read is said before a server is started.
    for file in &args.files {
        members_of(args, file, &Recording::read(file)?)?;
    }
    let host = Host::start(&args.common, live)?;
    let before = Before::read(host.server());
    let mut sums = Sums::new()?;
    for (number, file) in args.files.iter().enumerate() {
        one(args, number, file, &host, live, &mut sums).with_context(|| name_of(file))?;
    }
    let generator = before.generator()?;
    live.stage("waiting for the server's background work");
    let server = before.figures(host.server(), sums.tally.deliveries.received);
    let settings = settings_of(args, &sums, &host);
    let Sums { stats, connections, tally, refused, documents, converged, members, right, traces, faults } =
        sums;
    let wanted = traces.iter().map(|trace| trace.changes * u64::from(trace.documents)).sum();
    let (outcomes, acked) = (Vec::new(), Vec::new());
    let measured = Measured { connections, server, generator, stats, members: outcomes, acked, refused };
    let mut report = measured.report("trace", host.transport, settings, tally);
    report.documents.total = documents;
    report.documents.converged = Some(converged);
    report.sections.highlight = Some(highlight(&traces));
    report.sections.traces = traces;
    report.notes.extend(faults);
    let claims = vec![
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
    judge(&mut report, claims, &args.common, host, live);
    Ok(report)
}

/// Replays one recording and compares what everybody has.
fn one(
    args: &TraceArgs,
    number: usize,
    file: &Path,
    host: &Host,
    live: &Live,
    sums: &mut Sums,
) -> Result<()> {
    let name = name_of(file);
    let recording = Recording::read(file)?;
    let orders = Orders {
        target: host.target.clone(),
        transport: host.transport,
        members: members_of(args, file, &recording)?,
        threads: executors(&args.common).min(args.documents as usize),
        seed: run_number(),
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
    let replayed = replay(documents, &orders, live)?;
    live.stage(&format!("{name}: comparing what members and a fresh client have"));
    sums.add(&replayed, connections);
    sums.compare(&replayed, &edits, &orders)?;
    let changes = edits.made.len() as u64;
    let edits_made = read(&replayed.gauges.acked);
    let trace = Trace {
        file: name,
        agents: edits.agents,
        transactions: transactions as u64,
        changes,
        change_bytes: edits.made.iter().map(|made| made.bytes.len() as u64).sum(),
        documents: args.documents,
        members_per_document: orders.members,
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
        let read = fresh::read(orders.target.address, &names)?;
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
        generator_executors: executors(&args.common),
        data_filesystem: host.filesystem(),
        ..Settings::default()
    }
}

fn highlight(traces: &[Trace]) -> String {
    let one = |trace: &Trace| format!("{} {:.0} edits/s", trace.file, trace.edits_per_s);
    traces.iter().map(one).collect::<Vec<_>>().join(", ")
}
