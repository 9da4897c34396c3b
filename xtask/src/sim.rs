//! The simulator, and what it finds of faults that are planted in the engine.

use std::path::Path;

use anyhow::Context as _;

use crate::process;

/// Seeds of a run in CI.
const SAMPLE_SEEDS: &str = "2000";
/// Most seeds that CI gives a planted fault; a survivor fails the stage.
const PLANTED_SAMPLE_SEEDS: &str = "1000";

/// Runs seeds of the simulator with these arguments of `etherply-sim`.
pub fn run(root: &Path, arguments: &[String]) -> anyhow::Result<()> {
    let build = ["build", "--release", "--workspace", "--bin", "etherply-sim"];
    process::run(process::cargo(root).args(build)).context("the simulator does not build")?;
    process::run(process::command(root, root.join("target/release/etherply-sim")).args(arguments))
}

/// Plants each fault in turn. The program with them is another one, built with a feature that nothing else turns on.
pub fn planted(root: &Path, arguments: &[String]) -> anyhow::Result<()> {
    let build = ["build", "--release", "--workspace", "--bin", "etherply-sim-planted"];
    process::run(process::cargo(root).args(build).args(["--features", "etherply-sim/planted"]))
        .context("the simulator with planted faults does not build")?;
    process::run(process::command(root, root.join("target/release/etherply-sim-planted")).args(arguments))
}

/// What CI runs of both.
pub fn sample(root: &Path) -> anyhow::Result<()> {
    let of = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
    run(root, &of("--seeds", SAMPLE_SEEDS))?;
    planted(root, &of("--seeds", PLANTED_SAMPLE_SEEDS))
}
