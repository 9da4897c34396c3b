//! `edits` and `prove`: members edit at a fixed rate; afterwards everything is compared with everything.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::args::{EditsArgs, ProveArgs, check};
use crate::live::Live;
use crate::net::sync::SyncSession;
use crate::plan::{Plan, Target, TransportChoice};
use crate::report::{Claim, Report, Settings};
use crate::scenario::claims;
use crate::scenario::conclude::{conclude, judge};
use crate::scenario::host::Host;
use crate::scenario::run::run;
use crate::scenario::setup::{self, Times, raise_descriptors};
use crate::schedule::Shape;
use crate::verify;

/// What an idle connection may cost the server, in bytes of resident memory.
const IDLE_CONNECTION_BYTES_MAX: u64 = 4 * 1024;
/// The same by TLS: a session's keys and buffers come on top.
const IDLE_TLS_CONNECTION_BYTES_MAX: u64 = 12 * 1024;
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

/// Seconds of the command line in microseconds.
pub fn micros(seconds: f64) -> Result<u64> {
    let length = Duration::try_from_secs_f64(seconds).context("a duration is a number of seconds")?;
    Ok(u64::try_from(length.as_micros())?)
}

/// The plan of a run against a target.
pub fn plan_of(args: &EditsArgs, target: Target, transport: TransportChoice) -> Result<Plan> {
    let writers = args.writers.unwrap_or(args.members);
    check(args.documents, args.members, writers, args.value_bytes)?;
    let (warmup_us, duration_us) = (micros(args.warmup)?, micros(args.duration)?);
    let shape = Shape {
        documents: args.documents,
        writers,
        rate: args.rate,
        length_us: warmup_us.saturating_add(duration_us),
        seed: args.common.seed,
    };
    let plan = setup::plan(&args.common, target, transport, args.value_bytes, shape);
    Ok(Plan { members: args.members, warmup_us, ..plan })
}

/// What was asked for, for the report.
pub fn settings_of(args: &EditsArgs, plan: &Plan, filesystem: Option<String>) -> Settings {
    let times = Times { warmup_s: args.warmup, duration_s: args.duration };
    setup::settings(&args.common, plan, times, filesystem)
}

fn scenario(name: &str, args: EditsArgs, live: &Live) -> Result<Report> {
    let mut host = Host::start(&args.common, live)?;
    let plan = plan_of(&args, host.target.clone(), host.transport)?;
    raise_descriptors(plan.connections())?;
    let measured = run::<SyncSession>(plan.clone(), host.server(), live)?;
    let settings = settings_of(&args, &plan, host.filesystem());
    let mut report = conclude(name, &mut host, &plan, measured, settings, live)?;
    let claims = claims(&report, plan.scheduled(), host.is_local());
    judge(&mut report, claims, &args.common, host, live);
    Ok(report)
}

fn claims(report: &Report, scheduled: u64, on_disk: bool) -> Vec<Claim> {
    let mut claims = vec![
        claims::connections(report),
        claims::edits(report, scheduled),
        claims::stored(report, on_disk),
        claims::deliveries(report),
        claims::converged(report),
    ];
    if report.scenario == "prove" {
        let delivery_us = &report.delivery_us;
        let measured = format!("{:.2} ms", delivery_us.p99 as f64 / 1_000.0);
        let is_fast = delivery_us.count > 0 && delivery_us.p99 < DELIVERY_P99_US_MAX;
        claims.insert(0, Claim::about_time("p99 delivery < 50 ms", measured, is_fast));
        if let Some(bytes) = report.server.idle_bytes_per_connection {
            let measured = format!("{:.2} KiB", bytes as f64 / 1_024.0);
            let bytes_max =
                if report.settings.tls { IDLE_TLS_CONNECTION_BYTES_MAX } else { IDLE_CONNECTION_BYTES_MAX };
            let claim = format!(
                "an idle connection with its document open costs at most {} KiB of the server's memory",
                bytes_max / 1_024
            );
            claims.push(Claim::new(claim, measured, bytes <= bytes_max));
        }
    }
    claims
}

/// Runs the hidden comparison.
pub fn verify_command(export: &Path, ledger: &Path, samples: Option<&Path>) -> Result<()> {
    // With samples, those documents are built that a member has a copy of.
    let findings = verify::verify(export, ledger, samples, |_| samples.is_none())?;
    println!("{}", serde_json::to_string(&findings)?);
    Ok(())
}
