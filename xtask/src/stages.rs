//! What `cargo xtask test` does, in order: cheap stages first, so that what fails most fails soonest.
//!
//! A stage that needs something longer than CI has time for runs a sample of it here; the whole has a verb of
//! its own. Budgets are those of a machine with two cores that has nothing built yet; CONTRIBUTING.md shows
//! the same table. A stage over its budget is marked, not failed: how long something takes says nothing
//! about whether it is right.

use crate::chaos::Chaos;
use crate::suite::{Stage, Work};
use crate::{fuzz, instructions, interop, sdk, sim, system, tidy};

/// Seconds for which CI runs each fuzz target; a release runs `cargo xtask fuzz --seconds` with far more.
const FUZZ_SAMPLE_SECONDS: u32 = 10;

/// What the stage `release` has built. By its path: `cargo run -p` would build it once more, with the features
/// of its own dependencies alone.
const LOADGEN: &str = "target/release/etherply-loadgen";

/// The whole is `etherply-loadgen prove`, which measures for 30 s.
const PROVE_SAMPLE: &[&str] =
    &["prove", "--duration", "5", "--warmup", "2", "--ignore-times", "--out", "target/prove-sample"];

/// The stages.
pub const STAGES: &[Stage] = &[
    Stage { name: "system", budget_minutes: 1, work: Work::Task(system::ensure) },
    Stage { name: "tidy", budget_minutes: 1, work: Work::Task(tidy::run) },
    Stage { name: "format", budget_minutes: 1, work: Work::Cargo(&["fmt", "--all", "--check"], &[]) },
    Stage {
        name: "lint",
        budget_minutes: 8,
        work: Work::Cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[]),
    },
    Stage { name: "test", budget_minutes: 15, work: Work::Tests(&["test", "--workspace", "--no-fail-fast"]) },
    // The first run on a machine downloads a browser.
    Stage {
        name: "interop",
        budget_minutes: 6,
        work: Work::PreparedTests(interop::prepare, &["test", "--workspace", "--test", "interop"]),
    },
    Stage { name: "sdk", budget_minutes: 8, work: Work::Counted(sdk::test) },
    Stage {
        name: "docs",
        budget_minutes: 4,
        work: Work::Cargo(&["doc", "--no-deps", "--workspace"], &[("RUSTDOCFLAGS", "-D warnings")]),
    },
    Stage {
        name: "fuzz",
        budget_minutes: 8,
        work: Work::Task(|root| fuzz::run(root, FUZZ_SAMPLE_SECONDS, None)),
    },
    Stage {
        name: "release",
        budget_minutes: 15,
        work: Work::Cargo(&["build", "--release", "--workspace", "--bins"], &[]),
    },
    Stage { name: "instructions", budget_minutes: 2, work: Work::Task(instructions::check) },
    Stage { name: "sim", budget_minutes: 5, work: Work::Task(sim::sample) },
    Stage { name: "chaos", budget_minutes: 8, work: Work::Task(|root| Chaos::sample().run(root)) },
    Stage { name: "prove", budget_minutes: 2, work: Work::Program(LOADGEN, PROVE_SAMPLE) },
];
