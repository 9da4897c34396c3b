//! Runs stages, all of them, and sums up: a table of what each took, and a last line that counts.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::process;

/// Tells the load generator and tests that every program of the workspace was just built, together. One built by
/// itself would be built once more, with its dependencies: they would have other features.
pub const BUILT: (&str, &str) = ("ETHERPLY_BUILT", "1");

/// One thing that must hold.
pub struct Stage {
    /// Its name, for `--stage` and the table.
    pub name: &'static str,
    /// What it may take on CI's machine with nothing built yet, in minutes.
    pub budget_minutes: u32,
    /// How it is done.
    pub work: Work,
}

/// How a stage is done.
pub enum Work {
    /// Code of this program.
    Task(fn(&Path) -> anyhow::Result<()>),
    /// Cargo with these arguments and environment.
    Cargo(&'static [&'static str], &'static [(&'static str, &'static str)]),
    /// A program of the workspace, by its path, with these arguments.
    Program(&'static str, &'static [&'static str]),
    /// Cargo with these arguments, which print how many tests passed and failed.
    Tests(&'static [&'static str]),
    /// Code of this program that counts the tests which it runs.
    Counted(fn(&Path) -> anyhow::Result<Count>),
    /// Cargo's tests, behind code of this program that provides what they need.
    PreparedTests(fn(&Path) -> anyhow::Result<()>, &'static [&'static str]),
}

/// How many checks passed and failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Those that passed.
    pub passed: u64,
    /// Those that failed.
    pub failed: u64,
}

struct Outcome<'s> {
    stage: &'s Stage,
    count: Count,
    took: Duration,
}

/// Prints the stages.
pub fn list(stages: &[Stage]) {
    for stage in stages {
        println!("{:<10} {:>3} min", stage.name, stage.budget_minutes);
    }
}

/// Runs the stages whose names are `wanted`, or all, each whatever became of those before it. Whether all
/// passed.
pub fn run(root: &Path, stages: &[Stage], wanted: &[String]) -> anyhow::Result<bool> {
    if let Some(unknown) = wanted.iter().find(|name| !stages.iter().any(|stage| stage.name == **name)) {
        let names: Vec<&str> = stages.iter().map(|stage| stage.name).collect();
        bail!("there is no stage {unknown}; the stages are {}", names.join(", "));
    }
    let chosen =
        stages.iter().filter(|stage| wanted.is_empty() || wanted.iter().any(|name| name == stage.name));
    let mut outcomes = Vec::new();
    for stage in chosen {
        println!("\n== {} ==", stage.name);
        let start = Instant::now();
        let count = perform(root, &stage.work).unwrap_or_else(|error| {
            println!("error: {error:#}");
            Count { passed: 0, failed: 1 }
        });
        outcomes.push(Outcome { stage, count, took: start.elapsed() });
    }
    let total = summary(&outcomes);
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.failed == 0)
}

fn perform(root: &Path, work: &Work) -> anyhow::Result<Count> {
    match work {
        Work::Task(task) => task(root)?,
        Work::Counted(task) => return task(root),
        Work::Cargo(arguments, environment) => {
            process::run(process::cargo(root).args(*arguments).envs(environment.iter().copied()))?;
        }
        Work::PreparedTests(prepare, arguments) => {
            prepare(root)?;
            return perform(root, &Work::Tests(arguments));
        }
        Work::Program(path, arguments) => {
            process::run(process::command(root, root.join(path)).args(*arguments).env(BUILT.0, BUILT.1))?;
        }
        Work::Tests(arguments) => {
            let mut count = Count::default();
            let mut cargo = process::cargo(root);
            let passed = process::run_watched(cargo.args(*arguments).env(BUILT.0, BUILT.1), |line| {
                if let Some(more) = tests_counted(line) {
                    count.passed += more.passed;
                    count.failed += more.failed;
                }
            })?;
            // Something that did not build, or a test program that died: nobody counted it.
            count.failed = count.failed.max(u64::from(!passed));
            return Ok(count);
        }
    }
    Ok(Count { passed: 1, failed: 0 })
}

/// Reads `test result: ok. 36 passed; 0 failed; ...`.
fn tests_counted(line: &str) -> Option<Count> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |name: &str| {
        let part = counts.split("; ").find_map(|part| part.strip_suffix(name))?;
        part.trim().parse().ok()
    };
    Some(Count { passed: number("passed")?, failed: number("failed")? })
}

fn summary(outcomes: &[Outcome<'_>]) -> Count {
    println!("\n{:<10} {:>8} {:>8} {:>9} {:>9}", "stage", "passed", "failed", "took", "budget");
    let mut total = Count::default();
    for Outcome { stage, count, took } in outcomes {
        let budget = Duration::from_secs(u64::from(stage.budget_minutes) * 60);
        let mark = if *took > budget { "  over budget" } else { "" };
        println!(
            "{:<10} {:>8} {:>8} {:>7} s {:>5} min{mark}",
            stage.name,
            count.passed,
            count.failed,
            took.as_secs(),
            stage.budget_minutes,
        );
        total.passed += count.passed;
        total.failed += count.failed;
    }
    total
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn test_results_are_counted() {
        let line = "test result: FAILED. 35 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.16s";
        assert_eq!(tests_counted(line), Some(Count { passed: 35, failed: 2 }));
        assert_eq!(tests_counted("test a ... ok"), None);
        assert_eq!(tests_counted("test result: ok. several passed"), None);
    }

    #[test]
    fn a_failed_stage_fails_the_run_and_stops_none() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        fn fails(_: &Path) -> anyhow::Result<()> {
            bail!("on purpose")
        }
        fn passes(_: &Path) -> anyhow::Result<()> {
            RUNS.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        let stage = |name, task| Stage { name, budget_minutes: 1, work: Work::Task(task) };
        let stages = [stage("first", fails), stage("second", passes)];
        let root = Path::new(".");
        assert!(!run(root, &stages, &[]).unwrap());
        assert_eq!(RUNS.load(Ordering::Relaxed), 1);
        assert!(run(root, &stages, &["second".to_owned()]).unwrap());
        assert_eq!(RUNS.load(Ordering::Relaxed), 2);
        assert!(run(root, &stages, &["third".to_owned()]).is_err());
    }

    #[test]
    fn the_stages_have_names_of_their_own() {
        let mut names: Vec<&str> = crate::stages::STAGES.iter().map(|stage| stage.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
