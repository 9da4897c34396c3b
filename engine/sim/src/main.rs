//! Runs seeds of the simulator: `cargo xtask sim --seeds 2000`, `cargo xtask sim --seed 17 --verbose`.

mod run;

use std::process::ExitCode;

use clap::Parser;
use etherply_sim::Scenario;

use crate::run::{Plan, Tally};

/// Runs the engine and the client against a simulated world, one for each seed.
#[derive(Debug, Parser)]
#[command(name = "etherply-sim")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, value_name = "N", default_value_t = 200)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Go on with further seeds for so many minutes, however many that are.
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave something out of each world, as a shrunk failure says: `members=3,documents=1,no-cuts`.
    #[arg(long = "with", value_name = "LIST", default_value = "")]
    narrowed: Scenario,
    /// Print every event.
    #[arg(long)]
    verbose: bool,
    /// Go on after a seed has failed.
    #[arg(long)]
    keep_going: bool,
    /// Do not look for a smaller world in which a failure happens too.
    #[arg(long)]
    no_shrink: bool,
    /// Threads; as many as the machine has processors if it is not given.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What a world's panic says is part of its failure; the hook would print it once more for each thread.
    std::panic::set_hook(Box::new(|_| {}));
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
    let plan = Plan {
        start: arguments.seed.unwrap_or(arguments.start),
        seeds: arguments.seed.map_or(arguments.seeds, |_| 1),
        minutes: arguments.minutes,
        narrowed: arguments.narrowed,
        verbose: arguments.verbose,
        keep_going: arguments.keep_going,
        shrinks: !arguments.no_shrink,
        threads: threads.unwrap_or(1).max(1),
    };
    let Tally { failed, .. } = run::seeds(&plan);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
