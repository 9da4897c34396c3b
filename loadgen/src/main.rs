//! EtherPly's load generator: scenarios that a server has to stand, with reports that can be repeated.
//!
//! An ordinary thread drives each scenario. Connections live on executors (`net/`), one thread each;
//! `plan` and `schedule` say beforehand who does what and when; `follow` and `writer` make and follow genuine
//! changes without documents; `verify` builds the documents at the end.

mod args;
mod blocking;
mod cleanup;
mod follow;
mod fresh;
mod ledger;
mod live;
mod net;
mod outcome;
mod peers;
mod plan;
mod plot;
mod power;
mod preload;
mod procfs;
mod random;
mod relay;
mod report;
mod scenario;
mod schedule;
mod sections;
mod secure;
mod server;
mod stats;
mod timeline;
mod trace;
mod trend;
mod verify;
mod writer;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::args::{Cli, Common, Scenario};
use crate::live::Live;
use crate::report::Report;

/// The claim does not hold.
const EXIT_CLAIM_FAILED: u8 = 1;
/// It could not be tried.
const EXIT_NOT_TRIED: u8 = 2;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_CLAIM_FAILED),
        Err(error) => {
            eprintln!("etherply-loadgen: {error:#}");
            ExitCode::from(EXIT_NOT_TRIED)
        }
    }
}

fn run(scenario: Scenario) -> Result<bool> {
    let live = Live::new();
    // The relay handles signals itself.
    if !matches!(scenario, Scenario::FloorRelay { .. }) {
        cleanup::watch()?;
    }
    match scenario {
        Scenario::Edits(args) => {
            let common = args.common.clone();
            finish(&scenario::edits::edits(args, &live)?, &common, &live, false)
        }
        Scenario::Prove(args) => {
            let common = args.common.clone();
            finish(&scenario::edits::prove(args, &live)?, &common, &live, true)
        }
        Scenario::Crash(args) => finish(&scenario::crash::crash(&args, &live)?, &args.common, &live, false),
        Scenario::Fanout(args) => {
            finish(&scenario::fanout::fanout(&args, &live)?, &args.common, &live, false)
        }
        Scenario::Deaf(args) => finish(&scenario::deaf::deaf(&args, &live)?, &args.common, &live, false),
        Scenario::Presence(args) => {
            finish(&scenario::presence::presence(&args, &live)?, &args.common, &live, false)
        }
        Scenario::Join(args) => finish(&scenario::join::join(&args, &live)?, &args.common, &live, false),
        Scenario::Storm(args) => finish(&scenario::storm::storm(&args, &live)?, &args.common, &live, false),
        Scenario::Soak(args) => finish(&scenario::soak::soak(&args, &live)?, &args.common, &live, false),
        Scenario::Floor(args) => {
            let common = args.common.clone();
            finish(&scenario::floor::floor(args, &live)?, &common, &live, false)
        }
        Scenario::Trace(args) => finish(&scenario::trace::trace(&args, &live)?, &args.common, &live, false),
        Scenario::Compare(args) => peers::contest::compare(&args, &live),
        Scenario::Results { dir } => {
            let runs = outcome::write_table(&dir)?;
            println!("{runs} runs listed in {}", dir.join("README.md").display());
            Ok(true)
        }
        Scenario::Verify { export, ledger, samples } => {
            scenario::edits::verify_command(&export, &ledger, samples.as_deref())?;
            Ok(true)
        }
        Scenario::FloorRelay { listen, threads } => {
            relay::serve(listen, threads)?;
            Ok(true)
        }
    }
}

/// Shows and keeps a report; tells whether its claims hold.
fn finish(report: &Report, common: &Common, live: &Live, keeps: bool) -> Result<bool> {
    live.end();
    eprint!("{}", report.summary());
    let folder = match &common.out {
        Some(folder) => Some(folder.clone()),
        None if keeps => outcome::default_folder(report),
        None => None,
    };
    if let Some(folder) = folder {
        outcome::keep(report, &folder)?;
        eprintln!("  kept in {}", folder.display());
    }
    if common.json {
        println!("{}", report.to_json()?);
    }
    Ok(report.verdict.passed)
}
