//! `deaf`: members that never read share documents with others who do. They come and go by turns, so that one
//! run shows both; at the end some of them wake up and have to catch up.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::args::{DeafArgs, check};
use crate::live::Live;
use crate::net::sync::SyncSession;
use crate::net::{Command, Fleet, MemberOutcome, START_DELAY};
use crate::plan::{Plan, Sampling};
use crate::report::{Claim, Curve, Report};
use crate::scenario::beside::ratio;
use crate::scenario::claims;
use crate::scenario::conclude::{conclude, judge};
use crate::scenario::edits::micros;
use crate::scenario::host::Host;
use crate::scenario::run::{Before, Crowd};
use crate::scenario::setup::{Times, raise_descriptors};
use crate::scenario::turns::{Seen, Turns, turns_us};
use crate::schedule::{Phases, Rhythm, Shape};
use crate::sections::{self, ms};
use crate::stats::Percentiles;

/// How far those who never read may raise the others' p99.
const P99_RATIO_MAX: f64 = 2.0;
/// What the server may hold for each of them, besides the frame that went over the quantum: limits of the same
/// names in docs/limits.md.
const QUANTUM_BYTES: u64 = 64 * 1024;
const CONTROL_BYTES_MAX: u64 = 256 * 1024;
/// What a frame has besides the value.
const FRAME_OVERHEAD_BYTES: u64 = 1024;
/// By how much the server's memory may grow meanwhile for what is written: a memtable.
const LOG_BYTES: u64 = 16 * 1024 * 1024;
/// What documents take that the server builds in the background is as much as Automerge makes it, a multiple of their
/// bytes where values are large; it has a limit of its own, and members that never read do not change it.
const NO_DOCUMENTS_IN_MEMORY: [&str; 2] = ["--materialisers", "0"];
/// Of each phase, the share in which nothing is counted: connections come about, and their sockets fill up.
const SETTLE_SHARE: f64 = 0.4;
/// How many of them wake up at the end, at least, if there are as many.
const WOKEN_MIN: u32 = 20;
/// Time for those who woke up to have everything, and how often they are looked at.
const WOKEN_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs `deaf`.
pub fn deaf(args: &DeafArgs, live: &Live) -> Result<Report> {
    let phases = phases(args.turns, args.phase, args.warmup)?;
    check(args.documents, args.members, args.members, args.value_bytes)?;
    if args.deaf == 0 || !args.deaf.is_multiple_of(args.documents) {
        bail!("--deaf members are spread evenly over --documents: take a multiple of {}", args.documents);
    }
    let mut host = Host::start_with(&args.common, live, &NO_DOCUMENTS_IN_MEMORY)?;
    let plan = plan_of(args, &host, phases);
    raise_descriptors(plan.connections().saturating_add(args.deaf))?;

    let crowd = Crowd::gather(Fleet::start::<SyncSession>(plan.clone(), None)?, host.server(), live)?;
    let before = Before::read(host.server());
    let start = Instant::now() + START_DELAY;
    crowd.fleet.begin_at(start)?;
    let mut turns =
        Turns { start, phases, crowd: &crowd, server: host.server(), live, seen: Seen::default() };
    let deaf = turns.all(args.turns, &deaf_plan(args, &plan))?;
    let seen = turns.seen;
    let one_in = woken_one_in(args.deaf);
    deaf.command(&Command::Wake { one_in })?;
    crowd.edit(live);
    crowd.drain(live);
    let generator = before.generator()?;
    live.stage("waiting for the server's background work");
    let figures = before.figures(host.server(), crowd.received());
    let measured = crowd.finish(figures, generator)?;
    let (woken, woken_converged) = caught_up(&deaf, one_in, &measured.members, live)?;
    let faults = deaf.finish()?.into_iter().flat_map(|outcome| outcome.stats.failures);

    let (idle_us, active_us) =
        (Percentiles::of(&measured.stats.idle), Percentiles::of(&measured.stats.active));
    let curves = vec![
        Curve::of("without them", &measured.stats.idle),
        Curve::of("with members that never read", &measured.stats.active),
    ];
    let section = sections::Deaf {
        deaf: u64::from(args.deaf),
        turns: args.turns,
        phase_s: args.phase,
        connected_min: seen.connected_min,
        blocked_at_first_min: seen.blocked_at_first_min,
        blocked_at_last_min: seen.blocked_at_last_min,
        p99_ratio: ratio(&idle_us, &active_us),
        idle_us,
        active_us,
        rss_before_bytes: seen.rss_before_bytes,
        rss_with_bytes: seen.rss_with_bytes,
        rss_growth_bytes_max: growth_bytes_max(args.deaf, args.value_bytes),
        woken,
        woken_converged,
    };
    let settings = host.settings(
        &args.common,
        &plan,
        Times { warmup_s: args.warmup, duration_s: args.phase * 2.0 * f64::from(args.turns) },
    );
    let mut report = conclude("deaf", &mut host, &plan, measured, settings, live)?;
    report.notes.extend(faults);
    report.curves.more = curves;
    let mut claims = vec![
        claims::connections(&report),
        claims::edits(&report, plan.scheduled()),
        claims::stored(&report, host.is_local()),
        claims::deliveries(&report),
        claims::converged(&report),
    ];
    claims.extend(claims_of(&section));
    report.sections.highlight = Some(highlight(&section));
    report.sections.deaf = Some(section);
    judge(&mut report, claims, &args.common, host, live);
    Ok(report)
}

/// When they are there: by turns without and with them.
fn phases(turns: u32, phase: f64, warmup: f64) -> Result<Phases> {
    let span_us = micros(phase)?;
    if span_us == 0 || turns == 0 {
        bail!("--turns is at least 1, and --phase longer than 0");
    }
    Ok(Phases { begin_us: micros(warmup)?, span_us, settle_us: micros(phase * SETTLE_SHARE)? })
}

fn plan_of(args: &DeafArgs, host: &Host, phases: Phases) -> Plan {
    let (documents, writers) = (args.documents, args.members);
    // Edits go on while some of them wake up; what is due then is not counted.
    let length_us = turns_us(&phases, args.turns).saturating_add(phases.settle_us);
    let shape = Shape { documents, writers, rate: args.rate, length_us, seed: args.common.seed };
    let plan = host.plan(&args.common, args.value_bytes, shape);
    Plan { warmup_us: phases.begin_us, rhythm: Rhythm::Watching(phases), ..plan }
}

/// The same documents, with those who never read as their members.
fn deaf_plan(args: &DeafArgs, plan: &Plan) -> Plan {
    Plan {
        members: args.deaf / plan.documents.max(1),
        rhythm: Rhythm::Steady,
        sampling: Sampling { one_in: 1, members: 0 },
        ..plan.clone()
    }
}

/// What the server may grow by for members that never read.
fn growth_bytes_max(deaf: u32, value_bytes: usize) -> u64 {
    let each = QUANTUM_BYTES + CONTROL_BYTES_MAX + value_bytes as u64 + FRAME_OVERHEAD_BYTES;
    u64::from(deaf) * each + LOG_BYTES
}

/// One in how many connections wakes up. An odd number, so that executors and transports all have some.
fn woken_one_in(deaf: u32) -> u32 {
    ((deaf / WOKEN_MIN).max(1) - 1) | 1
}

/// Waits until those who woke up have the heads of the others. How many woke up, and how many of them have.
fn caught_up(deaf: &Fleet, one_in: u32, others: &[MemberOutcome], live: &Live) -> Result<(u64, u64)> {
    let (mut found, mut looked) = (Ok((0, 0)), None::<Instant>);
    live.wait("waiting for those who woke up", &deaf.gauges, WOKEN_LIMIT, || {
        if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            let woken = |members: Vec<MemberOutcome>| compare(&members, deaf.plan.members, one_in, others);
            found = deaf.look().map(woken);
            looked = Some(Instant::now());
        }
        found.as_ref().map_or(true, |(woken, converged)| woken == converged)
    });
    found
}

/// Counts those who woke up, and those of them that have the heads which all others of their document have.
fn compare(
    members: &[MemberOutcome],
    per_document: u32,
    one_in: u32,
    others: &[MemberOutcome],
) -> (u64, u64) {
    let heads: HashMap<u32, _> = others.iter().map(|other| (other.document, &other.heads)).collect();
    let is_woken = |member: &&MemberOutcome| {
        (member.document * per_document + member.member).is_multiple_of(one_in.max(1))
    };
    let has_all =
        |member: &MemberOutcome| heads.get(&member.document).is_some_and(|heads| **heads == member.heads);
    let woken = members.iter().filter(is_woken);
    woken.fold((0, 0), |(woken, converged), member| (woken + 1, converged + u64::from(has_all(member))))
}

fn claims_of(section: &sections::Deaf) -> Vec<Claim> {
    let sections::Deaf { deaf, idle_us, active_us, .. } = section;
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
    let p99 = section.p99_ratio.map_or("too few deliveries to tell".to_owned(), |ratio| {
        format!("{ratio:.2} times: {} ms with them, {} ms without", ms(active_us.p99), ms(idle_us.p99))
    });
    let mut claims = vec![
        Claim::new(
            format!("{deaf} members that never read are kept"),
            format!("{} connected at the end of each turn", section.connected_min),
            section.connected_min == *deaf,
        ),
        Claim::about_time(
            format!("{deaf} members that never read at most double the others' p99"),
            p99,
            section.p99_ratio.is_some_and(|ratio| ratio <= P99_RATIO_MAX),
        ),
        Claim::new(
            "those of them that wake up converge: heads equal to the others'",
            format!("{} of {}", section.woken_converged, section.woken),
            section.woken > 0 && section.woken_converged == section.woken,
        ),
    ];
    // Of a server elsewhere, nobody knows.
    claims.extend(section.blocked_at_last_min.map(|blocked| {
        let measured = format!("{blocked} at the end of each turn");
        Claim::new("their sockets are full, every one", measured, blocked >= *deaf)
    }));
    claims.extend(section.rss_growth_bytes().map(|growth| {
        Claim::new(
            format!(
                "they cost at most {} of the server's memory: a quantum and the answers of each, and a memtable",
                mib(section.rss_growth_bytes_max)
            ),
            format!("{}, {:.1} KiB each", mib(growth), growth as f64 / (*deaf).max(1) as f64 / 1_024.0),
            growth <= section.rss_growth_bytes_max,
        )
    }));
    claims
}

fn highlight(section: &sections::Deaf) -> String {
    let sections::Deaf { deaf, idle_us, active_us, .. } = section;
    let mut text = format!(
        "{deaf} members that never read: the others' p99 {} ms without, {} ms with them",
        ms(idle_us.p99),
        ms(active_us.p99)
    );
    if let Some(growth) = section.rss_growth_bytes() {
        text.push_str(&format!(
            "; {:.1} KiB of memory each",
            growth as f64 / (*deaf).max(1) as f64 / 1_024.0
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a limit of a file as it is documented, which a test of the wire holds against the code.
    fn documented(file: &str, name: &str) -> u64 {
        let limits = include_str!("../../../docs/limits.md");
        let (_, limits) = limits.split_once(&format!("In `{file}`")).unwrap();
        let row = limits.lines().find_map(|line| line.strip_prefix(&format!("| `{name}` | `"))).unwrap();
        let value = row.split('`').next().unwrap();
        value.split(" * ").map(|factor| factor.parse::<u64>().unwrap()).product()
    }

    #[test]
    fn the_bound_is_the_documented_one() {
        assert_eq!(QUANTUM_BYTES, documented("engine/src/feed/mod.rs", "QUANTUM_BYTES"));
        assert_eq!(CONTROL_BYTES_MAX, documented("server/src/data_plane/limits.rs", "CONTROL_BYTES_MAX"));
        let each = growth_bytes_max(3, 100) - growth_bytes_max(2, 100);
        assert_eq!(each, (64 + 256 + 1) * 1024 + 100);
        assert_eq!(growth_bytes_max(0, 100), 16 << 20);
    }

    #[test]
    fn enough_wake_up_on_every_executor_and_transport() {
        for deaf in [1, 10, 20, 30, 40, 100, 1_000, 1_040, 10_000] {
            let plan = crate::plan::tests::plan(1, deaf, 2);
            let one_in = woken_one_in(deaf);
            let woken: Vec<u32> = (0..deaf).filter(|number| number.is_multiple_of(one_in)).collect();
            assert!(woken.len() >= deaf.min(WOKEN_MIN) as usize, "{deaf}: {}", woken.len());
            assert!(woken.len() <= 2 * WOKEN_MIN as usize, "{deaf}: {}", woken.len());
            let kinds: std::collections::HashSet<_> =
                woken.iter().map(|&number| (number % 2, plan.is_websocket(number))).collect();
            assert!(deaf < 10 || kinds.len() == 4, "{deaf}: {kinds:?}");
        }
    }

    #[test]
    fn what_wakes_up_has_to_have_the_heads_of_its_own_document() {
        let member = |document, member, head: u8| MemberOutcome {
            document,
            member,
            heads: vec![[head; 32]],
            ..MemberOutcome::default()
        };
        let others = [member(0, 0, 1), member(0, 1, 1), member(1, 0, 2)];
        // Of connections 0 to 5, three a document, 0 and 3 wake up.
        let mut deaf: Vec<_> = (0..6).map(|number| member(number / 3, number % 3, 9)).collect();
        assert_eq!(compare(&deaf, 3, 3, &others), (2, 0));
        (deaf[0], deaf[3]) = (member(0, 0, 1), member(1, 0, 1));
        assert_eq!(compare(&deaf, 3, 3, &others), (2, 1), "the heads of another document");
        deaf[3] = member(1, 0, 2);
        assert_eq!(compare(&deaf, 3, 3, &others), (2, 2));
        assert_eq!(compare(&deaf, 3, 1, &others), (6, 2));
    }

    #[test]
    fn each_claim_fails_by_itself() {
        let p99 = |p99| Percentiles { p99, count: 1_000, ..Percentiles::default() };
        let good = || sections::Deaf {
            deaf: 100,
            connected_min: 100,
            blocked_at_last_min: Some(100),
            idle_us: p99(1_000),
            active_us: p99(2_000),
            p99_ratio: Some(2.0),
            rss_before_bytes: Some(1_000),
            rss_with_bytes: Some(3_000),
            rss_growth_bytes_max: 2_000,
            woken: 20,
            woken_converged: 20,
            ..sections::Deaf::default()
        };
        let failed =
            |section: sections::Deaf| claims_of(&section).iter().filter(|claim| !claim.passed).count();
        assert_eq!((failed(good()), claims_of(&good()).len()), (0, 5));
        assert_eq!(failed(sections::Deaf { connected_min: 99, ..good() }), 1);
        assert_eq!(failed(sections::Deaf { blocked_at_last_min: Some(99), ..good() }), 1);
        assert_eq!(failed(sections::Deaf { p99_ratio: Some(2.01), ..good() }), 1);
        assert_eq!(failed(sections::Deaf { p99_ratio: None, ..good() }), 1);
        assert_eq!(failed(sections::Deaf { rss_with_bytes: Some(3_001), ..good() }), 1);
        assert_eq!(failed(sections::Deaf { woken_converged: 19, ..good() }), 1);
        assert_eq!(failed(sections::Deaf { woken: 0, woken_converged: 0, ..good() }), 1);
        let elsewhere = sections::Deaf { rss_with_bytes: None, blocked_at_last_min: None, ..good() };
        assert_eq!((failed(elsewhere), good().rss_growth_bytes()), (0, Some(2_000)));
    }

    #[test]
    fn phases_hold_every_turn_and_the_time_to_wake_up_is_not_counted() {
        let found = phases(2, 5.0, 1.0).unwrap();
        assert_eq!((found.begin_us, found.span_us, found.settle_us), (1_000_000, 5_000_000, 2_000_000));
        let end_us = turns_us(&found, 2);
        assert_eq!(end_us, 21_000_000);
        assert!(found.counted(end_us - 1).is_some() && found.counted(end_us + 1_999_999).is_none());
        assert!(phases(0, 5.0, 1.0).is_err() && phases(2, 0.0, 1.0).is_err());
        assert!(phases(2, -1.0, 1.0).is_err() && phases(2, 5.0, f64::NAN).is_err());
    }
}
