//! Other documents beside a load that goes on and off: whether one document's load is felt by the others.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::args::{BesideArgs, Common};
use crate::live::Live;
use crate::net::Fleet;
use crate::net::sync::SyncSession;
use crate::plan::{Plan, Sampling};
use crate::report::{Claim, Curve, GeneratorFigures, Report, ServerFigures};
use crate::scenario::compare::converged;
use crate::scenario::edits::micros;
use crate::scenario::run::{Crowd, Measured};
use crate::scenario::setup::run_number;
use crate::scenario::tally::Tally;
use crate::schedule::{Phases, Rhythm, Shape};
use crate::sections::{self, ms};
use crate::stats::Percentiles;
use crate::verify::Findings;

/// Members of each of these documents.
const MEMBERS: u32 = 10;
/// How far the load may raise their p99.
const P99_RATIO_MAX: f64 = 1.5;
/// What is due so soon after a change of phase does not count.
const SETTLE_US_MAX: u64 = 1_000_000;
/// Deliveries that each phase needs for a p99 that says something.
const DELIVERIES_MIN: u64 = 1_000;

/// The phases of a run, if it has documents beside. The duration has to hold both phases.
pub fn phases(args: &BesideArgs, warmup: f64, duration: f64) -> Result<Option<Phases>> {
    if args.documents == 0 {
        return Ok(None);
    }
    let span_us = micros(args.phase)?;
    if span_us == 0 || micros(duration)? < span_us.saturating_mul(2) {
        bail!(
            "with --beside, --duration has to be at least twice --phase: one phase without the load, one with it"
        );
    }
    let settle_us = (span_us / 5).min(SETTLE_US_MAX);
    Ok(Some(Phases { begin_us: micros(warmup)?, span_us, settle_us }))
}

/// The rhythm of the load itself.
pub fn rhythm(phases: Option<Phases>) -> Rhythm {
    phases.map_or(Rhythm::Steady, Rhythm::Pulsing)
}

/// The documents beside, with everybody connected.
pub struct Beside {
    crowd: Crowd,
    args: BesideArgs,
}

impl Beside {
    /// Connects everybody and opens the documents, for as long as `main` lasts.
    pub fn gather(
        args: &BesideArgs,
        common: &Common,
        phases: Phases,
        main: &Plan,
        live: &Live,
    ) -> Result<Self> {
        let documents = args.documents;
        let shape = Shape {
            documents,
            writers: MEMBERS,
            rate: args.rate,
            length_us: main.shape.length_us,
            seed: common.seed.wrapping_add(1),
        };
        let plan = Plan {
            documents,
            members: MEMBERS,
            writers: MEMBERS,
            value_bytes: 48,
            shape,
            run: run_number(),
            reconnects: false,
            rhythm: Rhythm::Watching(phases),
            sampling: Sampling::default(),
            ..main.clone()
        };
        let crowd = Crowd::gather(Fleet::start::<SyncSession>(plan, None)?, None, live)?;
        Ok(Self { crowd, args: args.clone() })
    }

    /// Begins the edits at this time.
    pub fn begin_at(&self, start: Instant) -> Result<()> {
        self.crowd.fleet.begin_at(start)
    }

    /// Waits for the last edit and the last delivery.
    pub fn drain(&self, live: &Live) {
        self.crowd.edit(live);
        self.crowd.drain(live);
    }

    /// Changes that members received.
    pub fn received(&self) -> u64 {
        self.crowd.received()
    }

    /// Ends it.
    pub fn finish(self) -> Result<Done> {
        let plan = (*self.crowd.fleet.plan).clone();
        let measured = self.crowd.finish(ServerFigures::default(), GeneratorFigures::default())?;
        Ok(Done { args: self.args, plan, measured })
    }
}

/// What the documents beside ended with.
pub struct Done {
    args: BesideArgs,
    pub plan: Plan,
    pub measured: Measured,
}

impl Done {
    /// Puts what was measured into a report. Returns what has to hold.
    pub fn report(self, findings: &Findings, load: &str, report: &mut Report) -> Vec<Claim> {
        let Self { args, plan, measured } = self;
        let tally = Tally::of(&measured.members, &plan).settle();
        let (idle_us, active_us) =
            (Percentiles::of(&measured.stats.idle), Percentiles::of(&measured.stats.active));
        report.curves.more.push(Curve::of("beside, load off", &measured.stats.idle));
        report.curves.more.push(Curve::of("beside, load on", &measured.stats.active));
        report.notes.extend(measured.stats.failures.iter().cloned());
        let p99_ratio = ratio(&idle_us, &active_us);
        let converged = converged(findings, &plan, &tally);
        let scheduled = plan.scheduled();
        let deliveries = tally.deliveries;
        let connections = &measured.connections;
        let is_whole = connections.established == connections.asked
            && connections.lost == 0
            && tally.edits.acked == scheduled
            && deliveries.lost == 0
            && deliveries.duplicated == 0
            && converged == u64::from(plan.documents);
        let measured = p99_ratio.map_or("too few deliveries to tell".to_owned(), |ratio| {
            format!("{ratio:.2} times: {} ms with it, {} ms without", ms(active_us.p99), ms(idle_us.p99))
        });
        let claims = vec![
            Claim::new(
                "the documents beside are whole: nothing lost or doubled, all converged",
                format!(
                    "{} edits acked of {scheduled}, {} lost, {} doubled, {converged} of {} converged",
                    tally.edits.acked, deliveries.lost, deliveries.duplicated, plan.documents
                ),
                is_whole,
            ),
            Claim::about_time(
                format!("{load} raises other documents' p99 by at most half"),
                measured,
                p99_ratio.is_some_and(|ratio| ratio <= P99_RATIO_MAX),
            ),
        ];
        report.sections.beside = Some(sections::Beside {
            documents: plan.documents,
            members_per_document: plan.members,
            rate: args.rate,
            phase_s: args.phase,
            edits_acked: tally.edits.acked,
            deliveries,
            converged,
            idle_us,
            active_us,
            p99_ratio,
        });
        claims
    }
}

/// How many times as long the p99 of the active spans is; `None` where there are too few deliveries to tell.
pub fn ratio(idle: &Percentiles, active: &Percentiles) -> Option<f64> {
    let is_enough = idle.count.min(active.count) >= DELIVERIES_MIN;
    is_enough.then(|| active.p99 as f64 / idle.p99.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(documents: u32, phase: f64) -> BesideArgs {
        BesideArgs { documents, rate: 100, phase }
    }

    #[test]
    fn phases_fit_into_the_run_or_are_refused() {
        assert_eq!(phases(&args(0, 5.0), 1.0, 1.0).unwrap(), None);
        let found = phases(&args(5, 2.0), 1.0, 4.0).unwrap();
        let expected = Phases { begin_us: 1_000_000, span_us: 2_000_000, settle_us: 400_000 };
        assert_eq!(found, Some(expected));
        assert_eq!(phases(&args(5, 60.0), 1.0, 120.0).unwrap().unwrap().settle_us, SETTLE_US_MAX);
        assert!(phases(&args(5, 2.0), 1.0, 3.9).is_err() && phases(&args(5, 0.0), 1.0, 3.9).is_err());
    }

    #[test]
    fn a_ratio_needs_enough_deliveries_of_both() {
        let percentiles = |p99, count| Percentiles { p99, count, ..Percentiles::default() };
        assert_eq!(ratio(&percentiles(1_000, 999), &percentiles(1_500, 1_000)), None);
        assert_eq!(ratio(&percentiles(1_000, 1_000), &percentiles(1_500, 1_000)), Some(1.5));
    }
}
