//! Many seeds on several threads, what they came to, and what to do with one that fails.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use etherply_sim::{Failure, Report, Scenario, run_scenario, shrink};

/// Every so many'th seed is run twice, and both runs have to be the same in every byte.
const REPLAYED_ONE_IN: u64 = 50;
/// How often is said how far it has come.
const PROGRESS: Duration = Duration::from_secs(10);

/// What is to be run.
pub struct Plan {
    /// The first seed.
    pub start: u64,
    /// How many.
    pub seeds: u64,
    /// For how long instead.
    pub minutes: Option<u64>,
    /// What is left out.
    pub narrowed: Scenario,
    /// Print every event.
    pub verbose: bool,
    /// Go on after a failure.
    pub keep_going: bool,
    /// Look for a smaller failure.
    pub shrinks: bool,
    /// Threads.
    pub threads: usize,
}

/// What came of it.
#[derive(Default)]
pub struct Tally {
    /// Seeds that were run.
    pub run: u64,
    /// Seeds that failed.
    pub failed: u64,
    /// The lowest seed that failed.
    #[allow(dead_code, reason = "of the two programs that have this module, only `planted.rs` asks")]
    pub first: Option<Failure>,
    simulated_us: u64,
    counts: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, report: Report) {
        self.run += 1;
        self.simulated_us += report.simulated_us;
        let sums = [
            ("events", report.events),
            ("changes", report.changes),
            ("acks", report.acks),
            ("deliveries", report.deliveries),
        ];
        let sums = sums.into_iter().map(|(what, n)| (what.to_owned(), n));
        for (what, count) in sums.chain(report.counts) {
            *self.counts.entry(what).or_insert(0) += count;
        }
    }
}

/// Runs seeds, and says what came of them.
#[allow(dead_code, reason = "of the two programs that have this module, only `main.rs` asks")]
pub fn seeds(plan: &Plan) -> Tally {
    let begun = Instant::now();
    let (tally, _) = run(plan, &|tally, failure| told(plan, tally, failure));
    let took_s = begun.elapsed().as_secs_f64();
    println!(
        "{} seeds from {}: {} failed; {} s simulated in {took_s:.0} s; every {REPLAYED_ONE_IN}th was run twice, with \
         the same trace",
        tally.run,
        plan.start,
        tally.failed,
        tally.simulated_us / 1_000_000,
    );
    for (what, count) in &tally.counts {
        println!("  {count:>9}  {what}");
    }
    tally
}

/// Says that a seed failed, how to see it again, and in which smaller world it fails too.
fn told(plan: &Plan, _: &Tally, failure: &Failure) {
    println!("FAILED: {failure}");
    let scenario = Scenario { seed: failure.seed, ..plan.narrowed.clone() };
    println!("  replay: {}", command(&scenario));
    if plan.shrinks && !plan.verbose {
        let (small, failed) = shrink(&scenario, failure);
        if small != scenario {
            println!("  smaller, with {} events instead of {}: {failed}", failed.events, failure.events);
            println!("  replay: {} --verbose", command(&small));
        }
    }
}

fn command(scenario: &Scenario) -> String {
    let with = scenario.to_string();
    let with = if with.is_empty() { String::new() } else { format!(" --with {with}") };
    format!("cargo xtask sim --seed {}{with}", scenario.seed)
}

/// Runs seeds; each failure is passed on as it comes.
pub fn run(plan: &Plan, on_failure: &(dyn Fn(&Tally, &Failure) + Sync)) -> (Tally, Duration) {
    let begun = Instant::now();
    let deadline = plan.minutes.map(|minutes| begun + Duration::from_secs(60 * minutes));
    let (next, stop) = (AtomicU64::new(plan.start), AtomicBool::new(false));
    let (tally, spoken) = (Mutex::new(Tally::default()), Mutex::new(begun));
    let is_over = |seed: u64| match deadline {
        Some(deadline) => Instant::now() >= deadline,
        None => seed - plan.start >= plan.seeds,
    };
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if is_over(seed) {
                return;
            }
            let result = run_once(plan, seed);
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(report) => {
                    if plan.seeds == 1 && plan.minutes.is_none() {
                        println!("trace {:016x}", report.trace_hash);
                    }
                    tally.add(report);
                }
                Err(failure) => {
                    tally.run += 1;
                    tally.failed += 1;
                    stop.fetch_or(!plan.keep_going, Ordering::Relaxed);
                    on_failure(&tally, &failure);
                    if tally.first.as_ref().is_none_or(|first| failure.seed < first.seed) {
                        tally.first = Some(failure);
                    }
                }
            }
            let mut spoken = spoken.lock().unwrap_or_else(PoisonError::into_inner);
            if spoken.elapsed() >= PROGRESS {
                *spoken = Instant::now();
                println!("{} seeds, {} failed", tally.run, tally.failed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..plan.threads {
            scope.spawn(work);
        }
    });
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    (tally, begun.elapsed())
}

fn run_once(plan: &Plan, seed: u64) -> Result<Report, Failure> {
    let scenario = Scenario { seed, ..plan.narrowed.clone() };
    let report = run_scenario(&scenario, plan.verbose)?;
    if seed.is_multiple_of(REPLAYED_ONE_IN) && !plan.verbose {
        let again = run_scenario(&scenario, false)?;
        if again != report {
            let what = format!("it does not replay: {:016x}, {:016x}", report.trace_hash, again.trace_hash);
            return Err(Failure { seed, now_us: report.simulated_us, events: report.events, what });
        }
    }
    Ok(report)
}
