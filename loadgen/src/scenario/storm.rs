//! `storm`: everybody is cut off at once, some go on editing, and everybody comes back: how long until all
//! are in sync again.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::args::{CutChoice, StormArgs, check};
use crate::live::Live;
use crate::net::sync::SyncSession;
use crate::net::{Command, Cut, Fleet, START_DELAY};
use crate::plan::Plan;
use crate::report::{Claim, Curve, Report};
use crate::scenario::claims;
use crate::scenario::conclude::{conclude, judge};
use crate::scenario::edits::micros;
use crate::scenario::host::Host;
use crate::scenario::run::{Before, Crowd};
use crate::scenario::setup::{Times, raise_descriptors};
use crate::schedule::Shape;
use crate::sections::{self, Spread, ms};
use crate::stats::{level, read};

/// Time from when the server can be reached again within which the last client has to be in sync.
const LAST_IN_SYNC_US_MAX: u64 = 10_000_000;
/// Time after which the storm is given up.
const STORM_LIMIT: Duration = Duration::from_secs(90);

/// Runs `storm`.
pub fn storm(args: &StormArgs, live: &Live) -> Result<Report> {
    check(args.documents, args.members, args.members, args.value_bytes)?;
    if args.common.url.is_some() && args.cut != CutChoice::Reset {
        bail!("a server that runs elsewhere cannot be killed or restarted from here: use --cut reset");
    }
    let mut host = Host::start(&args.common, live)?;
    let plan = plan_of(args, &host)?;
    raise_descriptors(plan.connections())?;
    let crowd = Crowd::gather(Fleet::start::<SyncSession>(plan.clone(), None)?, host.server(), live)?;
    let gauges = crowd.fleet.gauges.clone();
    let everybody = level(&gauges.opened);

    let (mut before, mut received_before) = (Before::read(host.server()), 0);
    crowd.fleet.begin()?;
    let calm = START_DELAY + Duration::from_micros(micros(args.warmup)?);
    live.wait("editing before the storm", &gauges, calm, || false);
    let lost_before = read(&gauges.lost);
    let (sent_before, cut_at) = (read(&gauges.sent), Instant::now());
    crowd.fleet.mark();
    let restart = cut_all(args.cut, &mut host, &crowd, live)?;
    let down = restart.map(|_| cut_at.elapsed());
    if restart.is_some() {
        // The meters of a new process begin anew.
        (before, received_before) = (Before::read(host.server()), crowd.received());
    }
    let in_sync = || read(&gauges.resynced) >= everybody && level(&gauges.in_sync) >= everybody;
    let all = live.wait("everybody comes back", &gauges, STORM_LIMIT, in_sync);
    let edits_meanwhile = read(&gauges.sent) - sent_before;
    let lost_by_storm = if restart.is_some() { everybody } else { 0 };
    let lost_later = (read(&gauges.lost) - lost_before).saturating_sub(lost_by_storm);

    crowd.edit(live);
    crowd.drain(live);
    let generator = before.generator()?;
    live.stage("waiting for the server's background work");
    let figures = before.figures(host.server(), crowd.received() - received_before);
    let mut measured = crowd.finish(figures, generator)?;
    measured.connections.failed = measured.connections.failed.max(read(&gauges.failed));
    measured.connections.lost = lost_before + lost_later;

    let down_us = down.map_or(Ok(0), |down| u64::try_from(down.as_micros()))?;
    let milliseconds = |time: Option<Duration>| time.and_then(|time| u64::try_from(time.as_millis()).ok());
    let section = sections::Storm {
        cut: args.cut.name().to_owned(),
        down_ms: milliseconds(down),
        restart_ms: milliseconds(restart),
        edits_meanwhile,
        reconnected_us: Spread::of(&measured.stats.reconnected, down_us),
        in_sync_us: Spread::of(&measured.stats.since_moment, down_us),
    };
    let curves = vec![
        Curve::of("connected again", &measured.stats.reconnected),
        Curve::of("in sync again", &measured.stats.since_moment),
    ];
    let settings =
        host.settings(&args.common, &plan, Times { warmup_s: args.warmup, duration_s: args.duration });
    let mut report = conclude("storm", &mut host, &plan, measured, settings, live)?;
    report.curves.more = curves;
    let last_ms = ms(section.in_sync_us.last);
    report.sections.highlight = Some(format!(
        "{everybody} clients cut by {}: all in sync again {last_ms} ms after the server could be reached",
        args.cut.name()
    ));
    report.sections.storm = Some(section);
    let claims = claims_of(&report, everybody, all, plan.scheduled(), host.is_local());
    judge(&mut report, claims, &args.common, host, live);
    Ok(report)
}

/// Cuts everybody off. From the server's new start until it was ready, where it is a new one.
fn cut_all(cut: CutChoice, host: &mut Host, crowd: &Crowd, live: &Live) -> Result<Option<Duration>> {
    live.stage("cutting everybody off");
    match cut {
        CutChoice::Kill => host.restart(true).map(Some),
        CutChoice::Restart => host.restart(false).map(Some),
        CutChoice::Reset => {
            crowd.fleet.command(&Command::Cut { how: Cut::Reset, one_in: 1 })?;
            Ok(None)
        }
    }
}

fn plan_of(args: &StormArgs, host: &Host) -> Result<Plan> {
    let (warmup_us, duration_us) = (micros(args.warmup)?, micros(args.duration)?);
    let (documents, writers) = (args.documents, args.members);
    let length_us = warmup_us.saturating_add(duration_us);
    let shape = Shape { documents, writers, rate: args.rate, length_us, seed: args.common.seed };
    Ok(Plan { reconnects: true, ..host.plan(&args.common, args.value_bytes, shape) })
}

fn claims_of(report: &Report, everybody: u64, all: bool, scheduled: u64, on_disk: bool) -> Vec<Claim> {
    let asked = report.connections.asked;
    let storm = report.sections.storm.clone().unwrap_or_default();
    let (failed, back) = (report.connections.failed, storm.in_sync_us.count);
    vec![
        Claim::new(
            format!("{asked} of {asked} clients come back in sync, none fails"),
            format!("{back} in sync, {failed} failed"),
            all && everybody == asked && failed == 0,
        ),
        Claim::about_time(
            "the last client is in sync at most 10 s after the server could be reached again",
            format!("{} ms", ms(storm.in_sync_us.last)),
            all && storm.in_sync_us.last <= LAST_IN_SYNC_US_MAX,
        ),
        Claim::new(
            "edits were made while everybody was away",
            storm.edits_meanwhile.to_string(),
            storm.edits_meanwhile > 0,
        ),
        claims::edits(report, scheduled),
        claims::stored(report, on_disk),
        claims::deliveries(report),
        claims::converged(report),
    ]
}
