//! From what a scenario measured to its report and verdict.

use anyhow::Result;

use crate::args::Common;
use crate::live::Live;
use crate::plan::Plan;
use crate::report::{Claim, Report, Settings, Verdict};
use crate::scenario::compare::{Part, compare, converged};
use crate::scenario::host::Host;
use crate::scenario::run::Measured;
use crate::scenario::tally::Tally;
use crate::verify::Findings;

impl Measured {
    /// The documents of this fleet, for the comparison.
    pub fn part<'m>(&'m self, plan: &'m Plan) -> Part<'m> {
        Part { plan, members: &self.members, acked: &self.acked }
    }
}

/// Compares one fleet's documents with what is stored, and reports.
pub fn conclude(
    scenario: &str,
    host: &mut Host,
    plan: &Plan,
    measured: Measured,
    settings: Settings,
    live: &Live,
) -> Result<Report> {
    live.stage("comparing what is stored with what was acked and with what members have");
    let findings = compare(host, &[measured.part(plan)])?;
    Ok(report_of(scenario, host, plan, measured, settings, &findings))
}

/// The report of a fleet whose documents were compared.
pub fn report_of(
    scenario: &str,
    host: &Host,
    plan: &Plan,
    measured: Measured,
    settings: Settings,
    findings: &Findings,
) -> Report {
    let tally = Tally::of(&measured.members, plan).settle();
    let converged = converged(findings, plan, &tally);
    let mut report = measured.report(scenario, host.transport, settings, tally);
    report.documents.converged = Some(converged);
    report.edits.lost = findings.acked_missing;
    report.notes.extend(findings.faults.iter().cloned());
    report.notes.extend(elsewhere(host));
    report
}

/// What a reader has to know of a run against a server elsewhere.
pub fn elsewhere(host: &Host) -> Option<String> {
    let note = "the server runs elsewhere: fresh clients read what it has, its disk was not looked at";
    (!host.is_local()).then(|| note.to_owned())
}

/// Judges a report by its claims. What a failed one was judged by is kept.
pub fn judge(report: &mut Report, claims: Vec<Claim>, common: &Common, host: Host, live: &Live) {
    report.verdict = Verdict::of(claims, common.ignore_times);
    if !report.verdict.passed {
        live.say(&format!("the data of this run is kept in {}", host.workspace.keep().display()));
    }
}
