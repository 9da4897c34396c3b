//! `crash`: the server is killed at random moments while pushes are in flight; a fresh client then has to
//! find every acked change, before any old client comes back and could bring a lost one along.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::args::{CrashArgs, EndChoice, check};
use crate::fresh;
use crate::ledger::Ledger;
use crate::live::Live;
use crate::net::sync::SyncSession;
use crate::net::{Command, Fleet, Outcome};
use crate::plan::{Plan, Target};
use crate::power::{Dropped, Power};
use crate::preload::{self, Clock, Library};
use crate::procfs;
use crate::random::Random;
use crate::report::{Claim, Connections, GeneratorFigures, Kill, Report, ServerFigures, Verdict};
use crate::scenario::compare::{Part, converged, verify_apart, write_samples};
use crate::scenario::run::{Measured, merge};
use crate::scenario::setup::{self, Times, Workspace, any_port, raise_descriptors, server_program, text_of};
use crate::scenario::tally::Tally;
use crate::schedule::Shape;
use crate::server::{Program, Server, run_to_end};
use crate::stats::{level, read};
use crate::verify::{Findings, verify, write_copy, write_index};

/// A kill comes at a random time within this span after everybody is back, in milliseconds.
const KILL_MS: std::ops::Range<u64> = 100..600;
/// Automerge builds one in so many documents after each kill, another part each time, and all at the end: it
/// takes 40 µs a change, and there are hundreds of thousands.
const BUILDS_ONE_IN: usize = 8;
/// Time for all connections to notice that the server is gone, or to be back.
const TURN_LIMIT: Duration = Duration::from_secs(60);
/// Time after the last kill for everything to be acked and delivered.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

/// Runs `crash`.
pub fn crash(args: &CrashArgs, live: &Live) -> Result<Report> {
    if args.common.url.is_some() {
        bail!("`crash` kills the server that it started itself: it takes no --url");
    }
    check(args.documents, args.members, args.members, args.value_bytes)?;
    let workspace = Workspace::new(&args.common)?;
    let mut taken = Taken::prepare(args, &workspace)?;
    let mut program = server_program(&args.common, &workspace, any_port())?;
    program.environment = taken.environment()?;
    let server = Server::start(&program)?;
    let plan = plan_of(args, workspace.target(server.listen)?);
    raise_descriptors(plan.connections())?;
    let names = plan.clone();
    let ledger = Ledger::create(&workspace.path("ledger"), move |document| names.document_name(document))?;
    let fleet = Fleet::start::<SyncSession>(plan, ledger.entries())?;
    let mut program = server_program(&args.common, &workspace, server.listen)?;
    program.environment = taken.environment()?;
    taken.random = Random::new(args.common.seed.wrapping_add(1));
    let mut run = Run {
        live,
        workspace,
        program,
        server: Some(server),
        by: args.by,
        taken,
        fleet,
        ledger,
        kills: Vec::new(),
        faults: Vec::new(),
        damaged: Vec::new(),
    };
    run.begin()?;
    let mut random = Random::new(args.common.seed);
    for number in 1..=args.kills {
        let after_ms = KILL_MS.start + random.below(KILL_MS.end - KILL_MS.start);
        run.kill(number, args.kills, after_ms)?;
    }
    run.finish(args)
}

fn plan_of(args: &CrashArgs, target: Target) -> Plan {
    let (documents, writers) = (args.documents, args.members);
    let shape = Shape { documents, writers, rate: 0, length_us: 0, seed: args.common.seed };
    let plan = setup::plan(&args.common, target, args.common.transport, args.value_bytes, shape);
    Plan { pipeline: args.pipeline, reconnects: true, ..plan }
}

struct Run<'l> {
    live: &'l Live,
    workspace: Workspace,
    /// How the server is started again: on the port that it had.
    program: Program,
    /// `None` while it is down.
    server: Option<Server>,
    by: EndChoice,
    taken: Taken,
    fleet: Fleet,
    ledger: Ledger,
    kills: Vec<Kill>,
    faults: Vec<String>,
    /// What `etherply verify` said of the data directory where it was not whole.
    damaged: Vec<String>,
}

impl Run<'_> {
    fn begin(&mut self) -> Result<()> {
        self.fleet.command(&Command::Connect)?;
        self.all_connected("connecting")?;
        self.fleet.command(&Command::Open)?;
        self.all_open("opening documents")?;
        self.fleet.command(&Command::Run { start_us: 0 })?;
        self.fleet.command(&Command::Pipeline { on: true })
    }

    fn all_connected(&self, what: &str) -> Result<()> {
        let (gauges, asked) = (&self.fleet.gauges, u64::from(self.fleet.plan.connections()));
        let all = self.live.wait(what, gauges, TURN_LIMIT, || level(&gauges.connected) >= asked);
        if all { Ok(()) } else { bail!("{} of {asked} connections came about", level(&gauges.connected)) }
    }

    fn all_open(&self, what: &str) -> Result<()> {
        let (gauges, asked) = (&self.fleet.gauges, u64::from(self.fleet.plan.connections()));
        let all = self.live.wait(what, gauges, TURN_LIMIT, || level(&gauges.opened) >= asked);
        if all {
            Ok(())
        } else {
            bail!("{} of {asked} members have their document open", level(&gauges.opened))
        }
    }

    fn kill(&mut self, number: u32, of: u32, after_ms: u64) -> Result<()> {
        let gauges = self.fleet.gauges.clone();
        let what = format!("kill {number} of {of} in {after_ms} ms");
        self.live.wait(&what, &gauges, Duration::from_millis(after_ms / 2), || false);
        self.taken.clock_jumps()?;
        self.live.wait(&what, &gauges, Duration::from_millis(after_ms - after_ms / 2), || false);
        self.fleet.hold(true);
        let pushes_in_flight = level(&gauges.in_flight);
        let server = self.server.take().context("the server is down already")?;
        match self.by {
            EndChoice::Kill | EndChoice::Power => server.kill()?,
            EndChoice::Term => drop(server.stop()?),
        }
        let gone =
            self.live.wait("the server is dead", &gauges, TURN_LIMIT, || level(&gauges.connected) == 0);
        if !gone {
            bail!("{} connections live on though the server is dead", level(&gauges.connected));
        }
        self.taken.power_cut()?;
        self.look_at_what_is_left(number);
        let acked = self.ledger.sync()?;
        self.live.stage("starting the server again");
        let server = Server::start(&self.program).context("the server did not come back")?;
        let ready_ms = u64::try_from(server.ready_after.as_millis())?;
        self.server = Some(server);
        self.live.stage("reading everything as a fresh client");
        let findings = self.fresh_look(number)?;
        let missing = findings.acked_missing;
        let kill = Kill { after_ms, pushes_in_flight, ready_ms, acked, missing };
        self.live.say(&format!(
            "kill {number} of {of}: after {after_ms} ms with {pushes_in_flight} pushes in flight; ready again in \
             {ready_ms} ms; {missing} of {acked} acked changes missing, {} stored that were not acked",
            findings.unacked
        ));
        self.kills.push(kill);
        self.faults.extend(findings.faults);
        self.fleet.hold(false);
        self.all_connected("old clients come back")?;
        self.all_open("old clients resume")
    }

    /// Nothing may be damaged in what a server leaves that was ended, before the next one mends anything.
    fn look_at_what_is_left(&mut self, number: u32) {
        self.live.stage("proving what is left on disk");
        let proven = proven(&self.program, &self.workspace);
        self.damaged.extend(proven.err().map(|error| format!("after kill {number}: {error:#}")));
    }

    /// What a client without any copy is given, against the ledger. No old client is there yet.
    fn fresh_look(&self, number: u32) -> Result<Findings> {
        let folder = self.workspace.folder(&format!("fresh-{number}"))?;
        let plan = &self.fleet.plan;
        let names: Vec<String> = (0..plan.documents).map(|document| plan.document_name(document)).collect();
        let mut copies = Vec::new();
        for (number, (name, bytes)) in fresh::read(&plan.target, &names)?.into_iter().enumerate() {
            copies.push(write_copy(&folder, number, name, &[], &bytes)?);
        }
        write_index(&folder, &copies)?;
        let turn = self.kills.len() % BUILDS_ONE_IN;
        let builds = |index: usize| index % BUILDS_ONE_IN == turn;
        let findings = verify(&folder, &self.workspace.path("ledger"), None, builds)?;
        if findings.acked_missing == 0 {
            std::fs::remove_dir_all(&folder)?;
        }
        Ok(findings)
    }

    fn finish(mut self, args: &CrashArgs) -> Result<Report> {
        let server = self.server.take().context("the server is down")?;
        let Run { live, workspace, program, fleet, ledger, kills, mut faults, mut damaged, taken, .. } = self;
        let gauges = fleet.gauges.clone();
        fleet.command(&Command::Pipeline { on: false })?;
        let all_acked = || read(&gauges.acked) >= read(&gauges.sent);
        live.wait("waiting for the last acks", &gauges, DRAIN_LIMIT, all_acked);
        let others = u64::from(fleet.plan.members - 1);
        let arrived = || read(&gauges.received) >= read(&gauges.acked) * others;
        live.wait("waiting for the last deliveries", &gauges, DRAIN_LIMIT, arrived);
        ledger.sync()?;
        let asked = u64::from(fleet.plan.connections());
        let connections = Connections {
            asked,
            established: level(&gauges.connected),
            failed: read(&gauges.failed),
            retried: read(&gauges.retried),
            lost: read(&gauges.lost),
        };
        let (plan, refused) = (fleet.plan.clone(), read(&gauges.refused));
        let Outcome { stats, members, .. } = merge(fleet.finish()?)?;
        ledger.end()?;
        let tally = Tally::of(&members, &plan).settle();
        let figures =
            ServerFigures { rss_peak_bytes: procfs::rss_peak_bytes(server.pid()).ok(), ..Default::default() };
        server.stop()?;

        live.stage("comparing what is stored with what was acked and with what members have");
        let (export, samples) = (workspace.path("export"), workspace.folder("samples")?);
        let data = text_of(&workspace.path("data"))?;
        let arguments = ["export".into(), "--data".into(), data, "--out".into(), text_of(&export)?];
        run_to_end(&program.binary, &arguments)?;
        damaged.extend(proven(&program, &workspace).err().map(|error| format!("in the end: {error:#}")));
        let part = Part { plan: &plan, members: &members, acked: &[] };
        write_samples(&samples, &[part])?;
        let findings = verify_apart(&export, &workspace.path("ledger"), &samples)?;

        let converged = converged(&findings, &plan, &tally);
        let generator = GeneratorFigures { cpu_s: procfs::cpu_s(std::process::id())? };
        let measured =
            Measured { connections, server: figures, generator, stats, members, acked: Vec::new(), refused };
        let settings = setup::settings(&args.common, &plan, Times::default(), workspace.filesystem());
        let mut report = measured.report("crash", args.common.transport, settings, tally);
        report.documents.converged = Some(converged);
        report.edits.lost = kills.iter().map(|kill| kill.missing).sum::<u64>() + findings.acked_missing;
        faults.extend(findings.faults);
        report.notes.extend(faults);
        report.notes.extend(taken.notes());
        report.kills = kills;
        report.sections.highlight = Some(format!(
            "ended {} times, {} of {} acked changes missing",
            report.kills.len(),
            report.edits.lost,
            report.edits.acked
        ));
        let mut claims = claims(&report);
        claims.extend(taken.claims());
        let looks = report.kills.len() + 1;
        claims.push(Claim::new(
            "`etherply verify` finds the data directory whole after each end",
            format!("{} of {looks} times", looks - damaged.len()),
            damaged.is_empty(),
        ));
        report.notes.extend(damaged);
        report.verdict = Verdict::of(claims, args.common.ignore_times);
        if !report.verdict.passed {
            live.say(&format!("the server's data is kept in {}", short(&workspace.keep())));
        }
        Ok(report)
    }
}

/// Reads and proves the whole data directory of a server that is down.
fn proven(program: &Program, workspace: &Workspace) -> Result<()> {
    let data = text_of(&workspace.path("data"))?;
    run_to_end(&program.binary, &["verify".into(), "--data".into(), data]).map(drop)
}

/// What is taken from the server besides its life.
struct Taken {
    power: Option<Power>,
    clock: Option<Clock>,
    libraries: Vec<PathBuf>,
    random: Random,
    dropped: Dropped,
    jumps: u64,
}

impl Taken {
    fn prepare(args: &CrashArgs, workspace: &Workspace) -> Result<Self> {
        let folder = workspace.folder("preload")?;
        let mut taken = Self {
            power: None,
            clock: None,
            libraries: Vec::new(),
            random: Random::new(args.common.seed),
            dropped: Dropped::default(),
            jumps: 0,
        };
        if args.by == EndChoice::Power {
            taken.libraries.push(preload::build(Library::Power, &folder)?);
            taken.power = Some(Power::new(workspace.path("data"), workspace.path("platter"))?);
        }
        if args.clock_jumps {
            taken.libraries.push(preload::build(Library::Clock, &folder)?);
            taken.clock = Some(Clock::new(&folder)?);
        }
        Ok(taken)
    }

    fn environment(&self) -> Result<Vec<(String, OsString)>> {
        let mut all: Vec<_> = preload::environment(&self.libraries).into_iter().collect();
        all.extend(self.power.iter().flat_map(Power::environment));
        all.extend(self.clock.as_ref().map(Clock::environment));
        Ok(all)
    }

    fn clock_jumps(&mut self) -> Result<()> {
        if let Some(clock) = &self.clock {
            clock.jump(&mut self.random)?;
            self.jumps += 1;
        }
        Ok(())
    }

    fn power_cut(&mut self) -> Result<()> {
        if let Some(power) = &mut self.power {
            let dropped = power.cut(&mut self.random).context("the power cannot be cut")?;
            self.dropped.bytes += dropped.bytes;
            self.dropped.names += dropped.names;
        }
        Ok(())
    }

    fn notes(&self) -> Option<String> {
        (self.jumps > 0)
            .then(|| format!("the server's wall clock was set somewhere else {} times", self.jumps))
    }

    /// A power cut that takes nothing away shows nothing.
    fn claims(&self) -> Option<Claim> {
        let Dropped { bytes, names } = self.dropped;
        let said = format!("{bytes} bytes and {names} names");
        self.power.as_ref().map(|_| Claim::new("the power cuts dropped what was not synced", said, bytes > 0))
    }
}

fn short(path: &Path) -> String {
    path.display().to_string()
}

fn claims(report: &Report) -> Vec<Claim> {
    let Report { edits, deliveries, documents, kills, .. } = report;
    let mut in_flight: Vec<u64> = kills.iter().map(|kill| kill.pushes_in_flight).collect();
    in_flight.sort_unstable();
    let median = in_flight.get(in_flight.len() / 2).copied().unwrap_or(0);
    let ready_ms = kills.iter().map(|kill| kill.ready_ms).max().unwrap_or(0);
    let converged = documents.converged.unwrap_or(0);
    vec![
        Claim::new(
            "pushes were in flight at every kill",
            format!(
                "{} to {}, median {median}",
                in_flight.first().unwrap_or(&0),
                in_flight.last().unwrap_or(&0)
            ),
            in_flight.first().is_none_or(|&fewest| fewest > 0),
        ),
        Claim::new(
            format!("no acked change is missing after the server was ended {} times", kills.len()),
            format!("{} missing of {}", edits.lost, edits.acked),
            edits.lost == 0,
        ),
        Claim::about_time("ready again within 5 s", format!("{ready_ms} ms at most"), ready_ms < 5_000),
        Claim::new(
            "every edit was acked in the end",
            format!("{} of {}", edits.acked, edits.sent),
            edits.acked == edits.sent,
        ),
        Claim::new(
            "no delivery lost, none doubled",
            format!("{} lost, {} doubled of {}", deliveries.lost, deliveries.duplicated, deliveries.expected),
            deliveries.lost == 0 && deliveries.duplicated == 0,
        ),
        Claim::new(
            "every document converged: equal heads and content",
            format!("{converged} of {}", documents.total),
            converged == documents.total,
        ),
    ]
}
