//! `fanout`: one document with many members and a few writers; what a delivery costs, and, with `--beside`,
//! whether other documents feel it.

use std::time::Instant;

use anyhow::Result;

use crate::args::{FanoutArgs, check};
use crate::live::Live;
use crate::net::sync::SyncSession;
use crate::net::{Fleet, START_DELAY};
use crate::plan::{Plan, Sampling};
use crate::report::Report;
use crate::scenario::beside::{self, Beside};
use crate::scenario::claims;
use crate::scenario::compare::compare;
use crate::scenario::conclude::{judge, report_of};
use crate::scenario::edits::micros;
use crate::scenario::host::Host;
use crate::scenario::run::{Before, Crowd};
use crate::scenario::setup::{Times, raise_descriptors};
use crate::schedule::{Rhythm, Shape};
use crate::sections::ms;

/// Members whose whole document is built and compared; of all others the heads are.
const SAMPLES: u32 = 10;

/// Runs `fanout`.
pub fn fanout(args: &FanoutArgs, live: &Live) -> Result<Report> {
    check(1, args.members, args.writers, args.value_bytes)?;
    let phases = beside::phases(&args.beside, args.warmup, args.duration)?;
    let mut host = Host::start(&args.common, live)?;
    let plan = plan_of(args, &host, beside::rhythm(phases))?;
    raise_descriptors(plan.connections().saturating_add(args.beside.documents.saturating_mul(10)))?;

    let crowd = Crowd::gather(Fleet::start::<SyncSession>(plan.clone(), None)?, host.server(), live)?;
    let beside = phases.map(|phases| Beside::gather(&args.beside, &args.common, phases, &plan, live));
    let beside = beside.transpose()?;
    let before = Before::read(host.server());
    let start = Instant::now() + START_DELAY;
    crowd.fleet.begin_at(start)?;
    beside.as_ref().map_or(Ok(()), |beside| beside.begin_at(start))?;
    crowd.edit(live);
    crowd.drain(live);
    if let Some(beside) = &beside {
        beside.drain(live);
    }
    let generator = before.generator()?;
    live.stage("waiting for the server's background work");
    let received = crowd.received() + beside.as_ref().map_or(0, Beside::received);
    let figures = before.figures(host.server(), received);
    let measured = crowd.finish(figures, generator)?;
    let beside = beside.map(Beside::finish).transpose()?;

    live.stage("comparing what is stored with what was acked and with what members have");
    let mut parts = vec![measured.part(&plan)];
    parts.extend(beside.as_ref().map(|beside| beside.measured.part(&beside.plan)));
    let findings = compare(&mut host, &parts)?;
    drop(parts);
    let settings =
        host.settings(&args.common, &plan, Times { warmup_s: args.warmup, duration_s: args.duration });
    let mut report = report_of("fanout", &host, &plan, measured, settings, &findings);
    let mut claims = vec![
        claims::connections(&report),
        claims::edits(&report, plan.scheduled()),
        claims::stored(&report, host.is_local()),
        claims::deliveries(&report),
        claims::converged(&report),
    ];
    let load = format!("one document with {} members", args.members);
    if let Some(beside) = beside {
        claims.extend(beside.report(&findings, &load, &mut report));
    }
    report.sections.highlight = Some(highlight(&report));
    judge(&mut report, claims, &args.common, host, live);
    Ok(report)
}

fn plan_of(args: &FanoutArgs, host: &Host, rhythm: Rhythm) -> Result<Plan> {
    let (warmup_us, duration_us) = (micros(args.warmup)?, micros(args.duration)?);
    let shape = Shape {
        documents: 1,
        writers: args.writers,
        rate: args.rate,
        length_us: warmup_us.saturating_add(duration_us),
        seed: args.common.seed,
    };
    let sampling = Sampling { one_in: 1, members: SAMPLES };
    let plan = host.plan(&args.common, args.value_bytes, shape);
    Ok(Plan { members: args.members, warmup_us, rhythm, sampling, ..plan })
}

fn highlight(report: &Report) -> String {
    let mut text = format!("{} members of one document", report.settings.members_per_document);
    if let Some(cpu_us) = report.server.cpu_us_per_delivery {
        text.push_str(&format!(", {cpu_us:.1} µs CPU a delivery"));
    }
    if let Some(beside) = &report.sections.beside {
        let (idle, active) = (ms(beside.idle_us.p99), ms(beside.active_us.p99));
        text.push_str(&format!("; others' p99 {idle} ms without, {active} ms beside it"));
    }
    text
}
