//! `edits` and `prove`: members edit at a fixed rate; afterwards everything is compared with everything.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::args::{EditsArgs, ProveArgs, check, parse_url};
use crate::fresh;
use crate::live::Live;
use crate::net::MemberOutcome;
use crate::net::sync::SyncSession;
use crate::plan::{Plan, Target, TransportChoice};
use crate::report::{Claim, Report, Settings, Verdict};
use crate::scenario::run::run;
use crate::scenario::setup::{
    Workspace, any_port, executors, loopback, raise_descriptors, run_number, server_program, text_of,
};
use crate::scenario::tally::Tally;
use crate::schedule::{Schedule, Shape};
use crate::server::{Server, run_to_end};
use crate::verify::{self, Findings, ledger_line, write_copy, write_index};

/// What an idle connection may cost the server, in bytes of resident memory.
const IDLE_CONNECTION_BYTES_MAX: u64 = 4 * 1024;
/// The promise that `prove` holds the server to.
const DELIVERY_P99_US_MAX: u64 = 50_000;

/// Runs `edits`.
pub fn edits(args: EditsArgs, live: &Live) -> Result<Report> {
    scenario("edits", args, live)
}

/// Runs `prove`.
pub fn prove(args: ProveArgs, live: &Live) -> Result<Report> {
    scenario("prove", args.edits(), live)
}

/// The plan of a run against a target.
pub fn plan_of(args: &EditsArgs, target: Target, transport: TransportChoice) -> Result<Plan> {
    let writers = args.writers.unwrap_or(args.members);
    check(args.documents, args.members, writers, args.value_bytes)?;
    let us = |seconds: f64| {
        let length = Duration::try_from_secs_f64(seconds).context("a duration is a number of seconds")?;
        Ok::<_, anyhow::Error>(u64::try_from(length.as_micros())?)
    };
    let (warmup_us, duration_us) = (us(args.warmup)?, us(args.duration)?);
    let shape = Shape {
        documents: args.documents,
        writers,
        rate: args.rate,
        length_us: warmup_us.saturating_add(duration_us),
        seed: args.common.seed,
    };
    Ok(Plan {
        target,
        transport,
        documents: args.documents,
        members: args.members,
        writers,
        value_bytes: args.value_bytes,
        shape,
        warmup_us,
        executors: executors(&args.common),
        run: run_number(),
        pipeline: 0,
        reconnects: false,
    })
}

/// What was asked for, for the report.
pub fn settings_of(args: &EditsArgs, plan: &Plan, filesystem: Option<String>) -> Settings {
    Settings {
        documents: plan.documents,
        members_per_document: plan.members,
        writers_per_document: plan.writers,
        rate: args.rate,
        value_bytes: args.value_bytes,
        warmup_s: args.warmup,
        duration_s: args.duration,
        seed: args.common.seed,
        server_cores: args.common.server_cores,
        generator_executors: plan.executors,
        data_filesystem: filesystem,
    }
}

fn scenario(name: &str, args: EditsArgs, live: &Live) -> Result<Report> {
    let workspace = Workspace::new(&args.common)?;
    let (server, target, transport) = match &args.common.url {
        Some(url) => {
            let (target, transport) = parse_url(url)?;
            (None, target, transport)
        }
        None => {
            let program = server_program(&args.common, &workspace, any_port())?;
            live.stage("starting the server");
            let server = Server::start(&program)?;
            let target = loopback(server.listen);
            (Some((server, program)), target, args.common.transport)
        }
    };
    let plan = plan_of(&args, target, transport)?;
    raise_descriptors(plan.connections())?;
    let process = server.as_ref().map(|(server, _)| server);
    let measured = run::<SyncSession>(plan.clone(), process, live)?;

    live.stage("comparing what is stored with what was acked and with what members have");
    let samples = workspace.folder("samples")?;
    let ledger = workspace.path("ledger");
    let tally = Tally::of(&measured.members, &plan).settle();
    write_samples(&samples, &measured.members, &plan)?;
    write_ledger(&ledger, &measured.acked, &plan)?;
    let export = workspace.path("export");
    let on_disk = server.is_some();
    match server {
        Some((server, program)) => {
            server.stop()?;
            let data = text_of(&workspace.path("data"))?;
            let arguments = ["export".into(), "--data".into(), data, "--out".into(), text_of(&export)?];
            run_to_end(&program.binary, &arguments)?;
        }
        None => reread(&export, &plan)?,
    }
    let findings = verify_apart(&export, &ledger, &samples)?;
    let filesystem = workspace.filesystem().filter(|_| on_disk);
    let settings = settings_of(&args, &plan, filesystem);
    let converged = converged(&findings, &tally);
    let mut report = measured.report(name, transport, settings, tally);
    report.documents.converged = Some(converged);
    report.edits.lost = findings.acked_missing;
    report.notes.extend(findings.faults);
    if !on_disk {
        let note = "the server runs elsewhere: fresh clients read what it has, its disk was not looked at";
        report.notes.push(note.into());
    }
    let claims = claims(&report, Schedule::len(&plan.shape), on_disk);
    report.verdict = Verdict::of(claims, args.common.ignore_times);
    if !report.verdict.passed {
        live.say(&format!("what was compared is kept in {}", workspace.keep().display()));
    }
    Ok(report)
}

/// The comparison runs in a process of its own, which has nothing but the files.
pub fn verify_apart(export: &Path, ledger: &Path, samples: &Path) -> Result<Findings> {
    let mut arguments = vec!["verify".to_owned()];
    for (name, path) in [("--export", export), ("--ledger", ledger), ("--samples", samples)] {
        arguments.extend([name.to_owned(), text_of(path)?]);
    }
    let found = run_to_end(&std::env::current_exe()?, &arguments)?;
    serde_json::from_str(&found).context("the comparison said something that cannot be read")
}

/// The copies of the members that are sampled, one in each document.
pub fn write_samples(folder: &Path, members: &[MemberOutcome], plan: &Plan) -> Result<()> {
    let mut copies = Vec::new();
    for (number, member) in members.iter().enumerate() {
        if let Some(bytes) = &member.sample {
            let name = plan.document_name(member.document);
            copies.push(write_copy(folder, number, name, &member.heads, bytes)?);
        }
    }
    write_index(folder, &copies)
}

fn write_ledger(path: &Path, acked: &[(u32, [u8; 32])], plan: &Plan) -> Result<()> {
    let line = |(document, hash): &(u32, [u8; 32])| ledger_line(&plan.document_name(*document), hash);
    Ok(std::fs::write(path, acked.iter().map(line).collect::<String>())?)
}

/// What a server that runs elsewhere has, as a client without any copy is given it.
fn reread(export: &Path, plan: &Plan) -> Result<()> {
    std::fs::create_dir_all(export)?;
    let names: Vec<String> = (0..plan.documents).map(|document| plan.document_name(document)).collect();
    let mut copies = Vec::new();
    for (number, (name, bytes)) in fresh::read(plan.target.address, &names)?.into_iter().enumerate() {
        copies.push(write_copy(export, number, name, &[], &bytes)?);
    }
    write_index(export, &copies)
}

/// How many documents converged: all members have equal heads, and the sampled one the server's content.
pub fn converged(findings: &Findings, tally: &Tally) -> u64 {
    let number = |name: &String| name.rsplit_once('/').and_then(|(_, number)| number.parse::<u32>().ok());
    let equal = |name: &&String| number(name).is_some_and(|number| tally.equal.contains(&number));
    findings.converged.iter().filter(equal).count() as u64
}

fn claims(report: &Report, scheduled: u64, on_disk: bool) -> Vec<Claim> {
    let Report { connections, edits, deliveries, documents, delivery_us, .. } = report;
    let asked = connections.asked;
    let converged = documents.converged.unwrap_or(0);
    let place = if on_disk { "on disk" } else { "found by fresh clients" };
    let mut claims = vec![
        Claim::new(
            format!("{asked} of {asked} connections established, none lost"),
            format!("{} established, {} lost", connections.established, connections.lost),
            connections.established == asked && connections.lost == 0,
        ),
        Claim::new(
            "every scheduled edit was made and acked",
            format!("{} made, {} acked of {scheduled}", edits.sent, edits.acked),
            edits.sent == scheduled && edits.acked == scheduled,
        ),
        Claim::new(
            format!("every acked change is {place}"),
            format!("{} missing of {}", edits.lost, edits.acked),
            edits.lost == 0,
        ),
        Claim::new(
            "no delivery lost, none doubled",
            format!("{} lost, {} doubled of {}", deliveries.lost, deliveries.duplicated, deliveries.expected),
            deliveries.lost == 0 && deliveries.duplicated == 0 && deliveries.received == deliveries.expected,
        ),
        Claim::new(
            "every document converged: equal heads and content",
            format!("{converged} of {}", documents.total),
            converged == documents.total,
        ),
    ];
    if report.scenario == "prove" {
        let measured = format!("{:.2} ms", delivery_us.p99 as f64 / 1_000.0);
        let is_fast = delivery_us.count > 0 && delivery_us.p99 < DELIVERY_P99_US_MAX;
        claims.insert(0, Claim::about_time("p99 delivery < 50 ms", measured, is_fast));
        if let Some(bytes) = report.server.idle_bytes_per_connection {
            let measured = format!("{:.2} KiB", bytes as f64 / 1_024.0);
            let claim =
                "an idle connection with its document open costs at most 4 KiB of the server's memory";
            claims.push(Claim::new(claim, measured, bytes <= IDLE_CONNECTION_BYTES_MAX));
        }
    }
    claims
}

/// Runs the hidden comparison.
pub fn verify_command(export: &Path, ledger: &Path, samples: Option<&Path>) -> Result<()> {
    let findings = verify::verify(export, ledger, samples, |_| true)?;
    println!("{}", serde_json::to_string(&findings)?);
    Ok(())
}
