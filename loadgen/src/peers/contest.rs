//! `compare`: every server by turns under the same schedule, each searched for the rate at which it fails.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::args::{Common, CompareArgs, EditsArgs};
use crate::live::Live;
use crate::net::floor::FloorSession;
use crate::net::sync::SyncSession;
use crate::outcome::{Frame, report_frame};
use crate::peers::automerge_repo::AutomergeRepo;
use crate::peers::hocuspocus::Hocuspocus;
use crate::peers::mqtt::Mqtt;
use crate::peers::nats::Nats;
use crate::peers::search::Search;
use crate::peers::servers::Tools;
use crate::peers::session::PeerSession;
use crate::peers::yjs::Yjs;
use crate::peers::{Peer, plot, table, witness};
use crate::plan::{Plan, TransportChoice};
use crate::report::{Claim, Report, Verdict};
use crate::scenario::claims;
use crate::scenario::edits::{plan_of, settings_of};
use crate::scenario::run::{Measured, run};
use crate::scenario::setup::{Workspace, loopback, raise_descriptors};
use crate::scenario::tally::Tally;
use crate::server::Server;

/// A rate holds if 99 of 100 deliveries come within this time, and none is lost.
pub const DELIVERY_P99_US_MAX: u64 = 50_000;
/// Rates between which a limit is searched; the fixed ones are rungs as well.
const LADDER: &[u64] = &[
    50, 100, 200, 300, 500, 700, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000,
    10_000, 12_000, 14_000, 16_000, 18_000, 20_000, 24_000, 28_000, 32_000,
];

/// One server at one rate.
#[derive(Debug, Serialize)]
pub struct Probe {
    pub peer: Peer,
    pub round: u32,
    pub rate: u64,
    pub holds: bool,
    /// Values that later ones took the place of before they were delivered.
    pub covered: u64,
    /// Messages that the protocol, or the run, does not have.
    pub unexpected: u64,
    /// What was measured, or why nothing was.
    pub report: Option<Report>,
    pub failure: Option<String>,
}

/// One server over all rounds.
#[derive(Debug, Serialize)]
pub struct Standing {
    pub peer: Peer,
    pub version: String,
    /// The highest rate that held, round by round; 0 where none did.
    pub highest: Vec<u64>,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Contest {
    pub date: String,
    pub revision: String,
    pub command: String,
    pub machine: crate::procfs::Machine,
    pub settings: CompareArgs,
    pub standings: Vec<Standing>,
    pub probes: Vec<Probe>,
}

/// Runs `compare`. Tells whether every server could be measured.
pub fn compare(args: &CompareArgs, live: &Live) -> Result<bool> {
    let args = &if args.sample { args.clone().sampled() } else { args.clone() };
    let tools = Tools(args.tools.clone());
    let missing: Vec<&str> =
        args.peers.iter().filter(|&&peer| !tools.has(peer)).map(|peer| peer.name()).collect();
    if !missing.is_empty() && !args.sample {
        bail!(
            "not installed: {}. `cargo xtask compare` installs them, or leave them out with --peers",
            missing.join(", ")
        );
    }
    if !missing.is_empty() {
        live.say(&format!("not installed, and left out of this sample: {}", missing.join(", ")));
    }
    let peers: Vec<Peer> = args.peers.iter().copied().filter(|&peer| tools.has(peer)).collect();
    raise_descriptors(args.documents.saturating_mul(args.members))?;
    let Frame { machine, revision, date, command } = report_frame();
    let out = match &args.out {
        Some(out) => out.clone(),
        None => PathBuf::from("results/compare").join(&date),
    };
    std::fs::create_dir_all(out.join("raw")).with_context(|| format!("{} cannot be made", out.display()))?;
    let mut standings = Vec::new();
    for &peer in &peers {
        let (_, common) = edits_args(args, peer, 0);
        let version = tools.version(peer, &common, &Workspace::new(&common)?)?;
        standings.push(Standing { peer, version, highest: Vec::new() });
    }
    let mut contest =
        Contest { date, revision, command, machine, settings: args.clone(), standings, probes: Vec::new() };
    for number in 1..=args.rounds {
        round(number, &mut contest, &tools, &out, live)?;
        // After each round, so that an interrupted night is not lost.
        keep(&contest, &out)?;
    }
    live.end();
    println!("{}", table::summary(&contest));
    println!("kept in {}", out.display());
    let measured =
        |peer: Peer| contest.probes.iter().any(|probe| probe.peer == peer && probe.report.is_some());
    let holds = |peer: Peer| contest.probes.iter().any(|probe| probe.peer == peer && probe.holds);
    // A sample has to hold, the contest only to be held.
    Ok(peers.iter().all(|&peer| measured(peer) && (!args.sample || holds(peer))))
}

/// One round: every server's search goes one step, then everybody's the next.
fn round(number: u32, contest: &mut Contest, tools: &Tools, out: &Path, live: &Live) -> Result<()> {
    let args = contest.settings.clone();
    let ladder = if args.rates.is_empty() { LADDER } else { args.rates.as_slice() };
    let mut searches: Vec<(Peer, Search)> =
        contest.standings.iter().map(|standing| (standing.peer, Search::new(ladder, &args.fixed))).collect();
    loop {
        let mut is_done = true;
        for (peer, search) in &mut searches {
            let Some(rate) = search.next() else { continue };
            is_done = false;
            live.say(&format!("round {number}: {} at {rate} edits/s", peer.name()));
            let probe = probe(*peer, rate, number, &args, tools, live)?;
            live.say(&table::line(&probe));
            search.tried(rate, probe.holds);
            let file = out.join("raw").join(format!("{}-{number}-{rate}.json", peer.name()));
            std::fs::write(file, serde_json::to_string_pretty(&probe)? + "\n")?;
            contest.probes.push(probe);
        }
        if is_done {
            break;
        }
    }
    for (standing, (_, search)) in contest.standings.iter_mut().zip(&searches) {
        standing.highest.push(search.highest());
    }
    Ok(())
}

fn keep(contest: &Contest, out: &Path) -> Result<()> {
    std::fs::write(out.join("README.md"), table::readme(contest))?;
    std::fs::write(out.join("latency.svg"), plot::latency_svg(contest))?;
    std::fs::write(out.join("command.txt"), format!("{}\n", contest.command))?;
    Ok(())
}

/// A server is started, everybody connects, the schedule is run, the server is ended. That one cannot be measured
/// is a result; that the probe cannot be made is an error.
fn probe(peer: Peer, rate: u64, round: u32, args: &CompareArgs, tools: &Tools, live: &Live) -> Result<Probe> {
    let (edits, common) = edits_args(args, peer, rate);
    let workspace = Workspace::new(&common)?;
    let server = tools.start(peer, &args.server_cpus, &common, &workspace)?;
    let plan = plan_of(&edits, loopback(server.listen), edits.common.transport)?;
    let plan = Plan { sampling: witness::sampling(&plan), ..plan };
    let measured = measure(peer, plan.clone(), &server, live);
    server.kill()?;
    let mut probe =
        Probe { peer, round, rate, holds: false, covered: 0, unexpected: 0, report: None, failure: None };
    match measured {
        Err(error) => probe.failure = Some(format!("{error:#}")),
        Ok(measured) => {
            (probe.covered, probe.unexpected) = (measured.stats.covered, measured.stats.unexpected);
            let tally = Tally::of(&measured.members, &plan).settle();
            let witnessed = witness::claim(peer, &measured.members);
            let settings = settings_of(&edits, &plan, workspace.filesystem());
            let mut report = measured.report(peer.name(), edits.common.transport, settings, tally);
            let mut claims = judge(peer, &report, plan.scheduled());
            claims.extend(witnessed);
            // A sample asks whether everybody's edits arrive, on machines that may be busy.
            report.verdict = Verdict::of(claims, args.sample);
            // The plot shows p99 at each rate; whole curves would be most of the recorded bytes.
            report.curves = crate::report::Curves::default();
            probe.holds = report.verdict.passed;
            probe.report = Some(report);
        }
    }
    Ok(probe)
}

fn measure(peer: Peer, plan: Plan, server: &Server, live: &Live) -> Result<Measured> {
    let server = Some(server);
    match peer {
        Peer::Etherply | Peer::EtherplyTcp => run::<SyncSession>(plan, server, live),
        Peer::YSweet => run::<PeerSession<Yjs<true>>>(plan, server, live),
        Peer::YWebsocket => run::<PeerSession<Yjs<false>>>(plan, server, live),
        Peer::Hocuspocus => run::<PeerSession<Hocuspocus>>(plan, server, live),
        Peer::AutomergeRepo => run::<PeerSession<AutomergeRepo>>(plan, server, live),
        Peer::MqttQos0 => run::<PeerSession<Mqtt<0>>>(plan, server, live),
        Peer::MqttQos1 => run::<PeerSession<Mqtt<1>>>(plan, server, live),
        Peer::Nats => run::<PeerSession<Nats>>(plan, server, live),
        Peer::Floor => run::<FloorSession>(plan, server, live),
    }
}

fn judge(peer: Peer, report: &Report, scheduled: u64) -> Vec<Claim> {
    let delivery_us = &report.delivery_us;
    let is_fast = delivery_us.count > 0 && delivery_us.p99 < DELIVERY_P99_US_MAX;
    let measured = format!("{:.2} ms", delivery_us.p99 as f64 / 1_000.0);
    // Of a server that acks nothing, an edit counts as acked once it is sent.
    let edits = match (peer.acks(), claims::edits(report, scheduled)) {
        (true, claim) => claim,
        (false, claim) => {
            let measured = format!("{} sent of {scheduled}", report.edits.sent);
            Claim::new("every scheduled edit was sent", measured, claim.passed)
        }
    };
    vec![
        Claim::about_time("p99 delivery < 50 ms", measured, is_fast),
        claims::connections(report),
        edits,
        claims::deliveries(report),
    ]
}

fn edits_args(args: &CompareArgs, peer: Peer, rate: u64) -> (EditsArgs, Common) {
    let transport = match peer {
        Peer::EtherplyTcp | Peer::Floor => TransportChoice::Tcp,
        _ => TransportChoice::Ws,
    };
    let common = Common {
        url: None,
        tls: false,
        ca: None,
        server: args.server.clone(),
        server_cores: None,
        data: args.data.clone(),
        executors: None,
        transport,
        seed: args.seed,
        json: false,
        ignore_times: false,
        out: None,
    };
    let edits = EditsArgs {
        common: common.clone(),
        documents: args.documents,
        members: args.members,
        writers: None,
        rate,
        value_bytes: args.value_bytes,
        duration: args.duration,
        warmup: args.warmup,
    };
    (edits, common)
}
