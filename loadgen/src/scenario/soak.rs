//! `soak`: edits go on for a long time while connections come and go. Memory and descriptors of the server
//! have to stay flat.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::args::{SoakArgs, check};
use crate::live::Live;
use crate::net::sync::SyncSession;
use crate::net::{Command, Fleet};
use crate::plan::{Plan, Sampling};
use crate::procfs;
use crate::report::{Claim, Report};
use crate::scenario::claims;
use crate::scenario::conclude::{conclude, judge};
use crate::scenario::edits::micros;
use crate::scenario::host::Host;
use crate::scenario::run::{Before, Crowd};
use crate::scenario::setup::{Times, raise_descriptors};
use crate::schedule::Shape;
use crate::sections::{Sample, Soak};
use crate::stats::{level, read};
use crate::trend::Trend;

/// Shortest time between two samples, and how many there are at most.
const EVERY_MIN: Duration = Duration::from_millis(500);
const SAMPLES_MAX: u32 = 600;
/// By what share of its mean the server's memory may grow over the last two thirds, or by how many bytes if
/// that is more: memtables fill up to their limits, and empty again.
const MEMORY_GROWTH_SHARE: f64 = 0.1;
const MEMORY_GROWTH_BYTES: f64 = 16.0 * 1_048_576.0;
/// The same for descriptors: connections that are away at the moment make them move.
const DESCRIPTORS_GROWTH_SHARE: f64 = 0.02;
const DESCRIPTORS_GROWTH: f64 = 8.0;
/// Edits of a document after which its window of recent changes and its tail are full (1,024 changes and
/// 128 KiB, see docs/limits.md), and edits after which memtables (16 MiB) were flushed three times: the
/// allocator keeps what the first cycles took. Before, memory has to grow.
const EDITS_TO_FILL_A_DOCUMENT: u64 = 1_100;
const EDITS_TO_CYCLE_MEMTABLES: u64 = 200_000;
/// Time after the churn for everybody to be back.
const BACK_LIMIT: Duration = Duration::from_secs(60);
/// One in so many documents is built and compared; of all others the heads are.
const SAMPLED_ONE_IN: u32 = 10;

/// Runs `soak`.
pub fn soak(args: &SoakArgs, live: &Live) -> Result<Report> {
    check(args.documents, args.members, args.members, args.value_bytes)?;
    if !(0.0..=100.0).contains(&args.churn) {
        bail!("between 0 and 100 percent of the connections are cut a second");
    }
    let mut host = Host::start(&args.common, live)?;
    let plan = plan_of(args, &host)?;
    raise_descriptors(plan.connections())?;
    let crowd = Crowd::gather(Fleet::start::<SyncSession>(plan.clone(), None)?, host.server(), live)?;
    let gauges = crowd.fleet.gauges.clone();
    let churn_per_s = f64::from(plan.connections()) * args.churn / 100.0;

    let before = Before::read(host.server());
    crowd.fleet.begin()?;
    crowd.fleet.command(&Command::Churn { per_s: churn_per_s })?;
    let samples = watch(&crowd, &host, live);
    crowd.fleet.command(&Command::Churn { per_s: 0.0 })?;
    crowd.edit(live);
    let all_back = crowd.all_back("waiting for everybody to be back", BACK_LIMIT, live);
    crowd.drain(live);
    let generator = before.generator()?;
    live.stage("waiting for the server's background work");
    let figures = before.figures(host.server(), crowd.received());
    let mut measured = crowd.finish(figures, generator)?;
    measured.connections.failed = measured.connections.failed.max(read(&gauges.failed));

    let settings = host.settings(&args.common, &plan, Times { warmup_s: 0.0, duration_s: args.duration });
    let mut report = conclude("soak", &mut host, &plan, measured, settings, live)?;
    let memory_is_judged = is_filled(&plan);
    let section = section_of(churn_per_s, read(&gauges.cut), samples, memory_is_judged);
    if host.is_local() && !memory_is_judged {
        report.notes.push(NOT_JUDGED.to_owned());
    }
    let mut claims = vec![claims::connections(&report), back(&report, &section, args.churn, all_back)];
    claims.extend(flat(&section));
    claims.extend([
        claims::edits(&report, plan.scheduled()),
        claims::stored(&report, host.is_local()),
        claims::deliveries(&report),
        claims::converged(&report),
    ]);
    report.sections.highlight = Some(highlight(args, &section));
    report.sections.soak = Some(section);
    judge(&mut report, claims, &args.common, host, live);
    Ok(report)
}

fn plan_of(args: &SoakArgs, host: &Host) -> Result<Plan> {
    let (documents, writers) = (args.documents, args.members);
    let length_us = micros(args.duration)?;
    let shape = Shape { documents, writers, rate: args.rate, length_us, seed: args.common.seed };
    let sampling = Sampling { one_in: SAMPLED_ONE_IN, members: 1 };
    Ok(Plan { reconnects: true, sampling, ..host.plan(&args.common, args.value_bytes, shape) })
}

/// Reads the server's meters again and again until the last edit is made.
fn watch(crowd: &Crowd, host: &Host, live: &Live) -> Vec<Sample> {
    let length = Duration::from_micros(crowd.fleet.plan.shape.length_us);
    let every = (length / SAMPLES_MAX).max(EVERY_MIN);
    let (begun, gauges) = (Instant::now(), &crowd.fleet.gauges);
    let (mut samples, mut next) = (Vec::new(), Duration::ZERO);
    live.wait("edits go on, connections come and go", gauges, length, || {
        let at = begun.elapsed();
        if at >= next {
            next += every;
            let read = host.server().and_then(|server| sample(server.pid(), at, level(&gauges.connected)));
            samples.extend(read);
        }
        false
    });
    samples
}

fn sample(pid: u32, at: Duration, connected: u64) -> Option<Sample> {
    Some(Sample {
        at_s: at.as_secs_f64(),
        rss_bytes: procfs::rss_bytes(pid).ok()?,
        anonymous_bytes: procfs::anonymous_bytes(pid).ok()?,
        descriptors: procfs::descriptors(pid).ok()?,
        threads: procfs::threads(pid).ok()?,
        connected,
    })
}

const NOT_JUDGED: &str = "memory is not judged: in the first third of so short a run, documents and memtables do \
                          not fill up to their limits; take fewer documents, more edits, or more time";

/// Whether what has to fill up has done so in the first third.
fn is_filled(plan: &Plan) -> bool {
    let least = (u64::from(plan.documents) * EDITS_TO_FILL_A_DOCUMENT).max(EDITS_TO_CYCLE_MEMTABLES);
    plan.scheduled() / 3 >= least
}

fn section_of(churn_per_s: f64, cut: u64, samples: Vec<Sample>, memory_is_judged: bool) -> Soak {
    let memory = (MEMORY_GROWTH_SHARE, MEMORY_GROWTH_BYTES);
    let descriptors = (DESCRIPTORS_GROWTH_SHARE, DESCRIPTORS_GROWTH);
    let trend = |value: fn(&Sample) -> u64, (share, least): (f64, f64)| {
        let points: Vec<(f64, f64)> = samples.iter().map(|s| (s.at_s, value(s) as f64)).collect();
        Trend::of(&points, share, least)
    };
    Soak {
        churn_per_s,
        cut,
        memory_is_judged,
        rss: trend(|sample| sample.rss_bytes, memory),
        anonymous: trend(|sample| sample.anonymous_bytes, memory),
        descriptors: trend(|sample| sample.descriptors, descriptors),
        threads: trend(|sample| sample.threads, descriptors),
        samples,
    }
}

/// Connections were cut as often as they were to be, and everybody came back.
fn back(report: &Report, section: &Soak, churn: f64, all_back: bool) -> Claim {
    // What is on its way back when its turn comes is passed over.
    let least = section.churn_per_s * report.settings.duration_s * 0.5;
    Claim::new(
        format!("{churn} % of the connections were cut each second, and all came back"),
        format!(
            "{} cut in {} s, {} failed, {} retried",
            section.cut, report.settings.duration_s, report.connections.failed, report.connections.retried
        ),
        all_back && report.connections.failed == 0 && section.cut as f64 >= least.floor(),
    )
}

/// What has to be flat, as far as the server can be looked into.
fn flat(section: &Soak) -> Vec<Claim> {
    let claim = |name: &str, trend: &Option<Trend>, unit: &str, divisor: f64| {
        trend.map(|trend| {
            let show = |value: f64| value / divisor;
            Claim::new(
                format!(
                    "{name} grow by at most {:.1}{unit} over the last two thirds",
                    show(trend.growth_max)
                ),
                format!("{:+.1}{unit} at a mean of {:.1}{unit}", show(trend.growth), show(trend.mean)),
                trend.is_flat(),
            )
        })
    };
    let claims = [
        claim("the server's resident bytes", &section.rss, " MiB", 1_048_576.0),
        claim("its anonymous bytes", &section.anonymous, " MiB", 1_048_576.0),
        claim("its descriptors", &section.descriptors, "", 1.0),
        claim("its threads", &section.threads, "", 1.0),
    ];
    let skipped = if section.memory_is_judged { 0 } else { 2 };
    claims.into_iter().skip(skipped).flatten().collect()
}

fn highlight(args: &SoakArgs, section: &Soak) -> String {
    let mut text = format!("{:.0} s, {} connections cut", args.duration, section.cut);
    if let Some(rss) = section.rss {
        text.push_str(&format!(
            ", resident {:.0} MiB {:+.1} MiB",
            rss.mean / 1_048_576.0,
            rss.growth / 1_048_576.0
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(growth_bytes_per_s: u64, descriptors_per_s: u64) -> Vec<Sample> {
        let sample = |second: u64| Sample {
            at_s: second as f64,
            rss_bytes: (50 << 20) + growth_bytes_per_s * second,
            anonymous_bytes: 40 << 20,
            descriptors: 2_000 + descriptors_per_s * second,
            threads: 12,
            connected: 1_950,
        };
        (0..300).map(sample).collect()
    }

    #[test]
    fn growth_beyond_its_bound_fails_by_name() {
        let failed = |samples| {
            let claims = flat(&section_of(20.0, 6_000, samples, true));
            assert_eq!(claims.len(), 4);
            claims.into_iter().filter(|claim| !claim.passed).map(|claim| claim.claim).collect::<Vec<_>>()
        };
        assert!(failed(samples(0, 0)).is_empty());
        // Over 199 s, 16 MiB are 84 kB a second.
        assert!(failed(samples(80_000, 0)).is_empty());
        assert!(failed(samples(90_000, 0))[0].starts_with("the server's resident bytes"));
        assert!(failed(samples(0, 1))[0].starts_with("its descriptors"));
        assert!(flat(&section_of(1.0, 1, Vec::new(), true)).is_empty(), "a server elsewhere");
        assert_eq!(flat(&section_of(20.0, 6_000, samples(90_000, 0), false)).len(), 2, "still filling up");
    }

    #[test]
    fn memory_is_judged_once_documents_and_memtables_are_full() {
        let with = |documents, rate, seconds: u64| {
            let plan = crate::plan::tests::plan(documents, 1, 1);
            let shape = Shape { documents, rate, length_us: seconds * 1_000_000, ..plan.shape };
            is_filled(&Plan { shape, ..plan })
        };
        assert!(with(1, 1_000, 600) && !with(1, 1_000, 599), "the memtables");
        assert!(with(200, 1_000, 660) && !with(200, 1_000, 659), "the documents");
        assert!(with(100, 500, 1_800), "the default");
    }
}
