//! Fuzzing: finds or installs cargo-fuzz, gives each target its seeds, runs it for a while.
//!
//! cargo-fuzz needs compiler flags that only nightly takes; `RUSTC_BOOTSTRAP` lets the workspace's own
//! compiler take them, so that what is fuzzed is what is shipped.

mod seeds;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::process;

/// Where cargo-fuzz is installed if the machine has none.
const TOOLS: &str = "target/tools";
/// Longest time for one input, libFuzzer's finest step: an input that takes this long is found, a slower one
/// than its neighbours is not.
const INPUT_SECONDS_MAX: u32 = 1;
/// Most memory that one input may ask for at once, in MiB.
const INPUT_MALLOC_MIB_MAX: u32 = 64;
/// Most memory of a fuzzing process, the address sanitizer's own included, in MiB.
const PROCESS_MIB_MAX: u32 = 2_048;

/// Builds all targets and runs each, or only `target`, for `seconds`.
pub fn run(root: &Path, seconds: u32, target: Option<&str>) -> anyhow::Result<()> {
    let all = targets(root)?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| target.is_none_or(|target| *name == target)).collect();
    if chosen.is_empty() {
        bail!("there is no such fuzz target; the targets are {}", all.join(", "));
    }
    let program = cargo_fuzz(root)?;
    let fuzz = || fuzz_command(root, &program);
    process::run(fuzz().arg("build")).context("the fuzz targets do not build")?;
    let mut failed = Vec::new();
    for name in chosen {
        let corpus = seeds::corpus(root, name)?;
        let regressions = root.join("fuzz/regressions").join(name);
        let mut command = fuzz();
        command.arg("run").arg(name).args([corpus, regressions]).arg("--").args([
            format!("-max_total_time={seconds}"),
            format!("-timeout={INPUT_SECONDS_MAX}"),
            format!("-malloc_limit_mb={INPUT_MALLOC_MIB_MAX}"),
            format!("-rss_limit_mb={PROCESS_MIB_MAX}"),
            "-print_final_stats=1".to_owned(),
        ]);
        if let Err(error) = process::run(&mut command) {
            println!("error: {error:#}");
            failed.push(name.as_str());
        }
    }
    if !failed.is_empty() {
        bail!(
            "inputs were found that break {}: they lie in fuzz/artifacts; move each to \
             fuzz/regressions/TARGET, where the tests replay it, and fix the cause",
            failed.join(", ")
        );
    }
    Ok(())
}

/// The names of the targets, in order.
fn targets(root: &Path) -> anyhow::Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).context("cannot list fuzz/fuzz_targets")? {
        let path = entry?.path();
        if let (Some("rs"), Some(stem)) =
            (path.extension().and_then(|e| e.to_str()), path.file_stem().and_then(|s| s.to_str()))
        {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn fuzz_command(root: &Path, program: &Path) -> Command {
    let mut command = process::command(root, program);
    command.arg("fuzz").env("RUSTC_BOOTSTRAP", "1");
    // Set for the outer cargo's build, in the way of the inner one's.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
    command
}

/// cargo-fuzz: the one on the path, the one installed earlier, or a fresh one.
fn cargo_fuzz(root: &Path) -> anyhow::Result<PathBuf> {
    if let Some(found) = process::find("cargo-fuzz") {
        return Ok(found);
    }
    let ours = root.join(TOOLS).join("bin/cargo-fuzz");
    if !ours.is_file() {
        let arguments = ["install", "cargo-fuzz", "--locked", "--root", TOOLS];
        process::run(process::cargo(root).args(arguments))
            .context("cargo-fuzz cannot be installed; `cargo install cargo-fuzz --locked` says more")?;
    }
    Ok(ours)
}
