//! Plants faults in the engine, one after the other, and counts the seeds until the simulator finds each: `cargo
//! xtask sim --planted`. A fault that survives means that a checker is missing.

mod run;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use etherply_engine::planted::{FAULTS, Fault, plant};
use etherply_sim::Scenario;

use crate::run::Plan;

/// Plants each fault of the list, and says how many seeds it took to find it.
#[derive(Debug, Parser)]
#[command(name = "etherply-sim-planted")]
struct Arguments {
    /// Most seeds for one fault.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Plant this one alone.
    #[arg(long, value_name = "NAME")]
    fault: Option<String>,
    /// Threads; as many as the machine has processors if it is not given.
    #[arg(long)]
    threads: Option<usize>,
    /// List the faults, and plant none.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    std::panic::set_hook(Box::new(|_| {}));
    let named = |name: &str| arguments.fault.as_deref().is_none_or(|wanted| wanted == name);
    let chosen: Vec<_> = FAULTS.iter().filter(|(_, name, _)| named(name)).collect();
    if arguments.list || chosen.is_empty() {
        FAULTS.iter().for_each(|(_, name, what)| println!("{name:<26}{what}"));
        return if arguments.list { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
    let plan = Plan {
        start: arguments.start,
        seeds: arguments.seeds,
        minutes: None,
        narrowed: Scenario::default(),
        verbose: false,
        keep_going: false,
        shrinks: false,
        threads: threads.unwrap_or(1).max(1),
    };
    println!("{:<26} {:>6} {:>8}  found by", "fault", "seeds", "took");
    let survivors = chosen.iter().filter(|(fault, name, _)| !finds(&plan, *fault, name)).count();
    println!("{} faults planted, {survivors} survived {} seeds", chosen.len(), arguments.seeds);
    if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether a planted fault is found.
fn finds(plan: &Plan, fault: Fault, name: &str) -> bool {
    plant(Some(fault));
    let (tally, took) = run::run(plan, &|_, _| {});
    plant(None);
    let took = Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    match tally.first {
        Some(failure) => {
            let what: String = failure.what.lines().next().unwrap_or_default().chars().take(90).collect();
            println!("{name:<26} {:>6} {took:>8.1?}  {what}", failure.seed - plan.start + 1);
            true
        }
        None => {
            println!("{name:<26} {:>6} {took:>8.1?}  SURVIVED", "");
            false
        }
    }
}
