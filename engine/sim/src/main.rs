//! Runs seeds of the simulator: `etherply-sim --seeds 2000`, `etherply-sim --seed 17 --verbose`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;

/// Runs the engine against a simulated world, one for each seed.
#[derive(Debug, Parser)]
#[command(name = "etherply-sim")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every event.
    #[arg(long)]
    verbose: bool,
    /// Go on after a seed has failed.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (start, seeds) = arguments.seed.map_or((arguments.start, arguments.seeds), |seed| (seed, 1));
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let (mut failed, mut simulated_us) = (0, 0);
    for (done, seed) in (start..start.saturating_add(seeds)).enumerate() {
        match etherply_sim::run(seed, arguments.verbose) {
            Ok(report) => {
                simulated_us += report.simulated_us;
                let sums = [
                    ("events", report.events),
                    ("changes", report.changes),
                    ("acks", report.acks),
                    ("deliveries", report.deliveries),
                ];
                for (what, count) in
                    sums.into_iter().map(|(what, n)| (what.to_owned(), n)).chain(report.counts.clone())
                {
                    *counts.entry(what).or_insert(0) += count;
                }
                if seeds == 1 {
                    println!("trace {:016x}", report.trace_hash);
                }
            }
            Err(failure) => {
                failed += 1;
                println!("FAILED: {failure}");
                println!("  replay: cargo run -p etherply-sim -- --seed {seed}");
                if !arguments.keep_going {
                    return ExitCode::FAILURE;
                }
            }
        }
        if (done + 1) % 100 == 0 {
            println!("{} of {seeds} seeds, {failed} failed", done + 1);
        }
    }
    println!("{seeds} seeds from {start}: {failed} failed, {} s simulated", simulated_us / 1_000_000);
    for (what, count) in counts {
        println!("  {count:>9}  {what}");
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
