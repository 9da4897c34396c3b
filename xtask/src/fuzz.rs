//! Fuzzing: builds the targets, gives each its seeds, runs each for a while, as many at a time as there are
//! processors.
//!
//! What a fuzzer needs of the compiler are flags that only nightly takes; `RUSTC_BOOTSTRAP` lets the workspace's own
//! compiler take them, so that what is fuzzed is what is shipped. They are those of cargo-fuzz, for which `fuzz/` is
//! laid out and which nobody has to install.

mod seeds;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, bail};

use crate::process;

/// Counters at every branch and compared values for the fuzzer, and the address sanitizer.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
    --cfg fuzzing -Zsanitizer=address -Ccodegen-units=1";
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
    let triple = build(root)?;
    let mut commands = Vec::new();
    for name in chosen {
        commands.push((name, target_command(root, &triple, name, seconds)?));
    }
    let processors = thread::available_parallelism().map_or(1, Into::into).min(commands.len());
    let (waiting, failed) = (Mutex::new(commands.into_iter()), Mutex::new(Vec::new()));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((name, mut command)) = next() {
            if !fuzz(name, &mut command) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(name.as_str());
            }
        }
    };
    thread::scope(|scope| (0..processors).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!(
            "inputs were found that break {}: they lie in fuzz/artifacts; move each to \
             fuzz/regressions/TARGET, where the tests replay it, and fix the cause",
            failed.join(", ")
        );
    }
    Ok(())
}

/// Builds all targets, and says for which machine.
fn build(root: &Path) -> anyhow::Result<String> {
    let version = process::output(process::command(root, "rustc").arg("-vV")).unwrap_or_default();
    let triple = version.lines().find_map(|line| line.strip_prefix("host: "));
    let triple = triple.context("rustc does not say for which machine it compiles")?.to_owned();
    // Named although it is this one: flags are for the targets then, and not for build scripts.
    let arguments =
        ["build", "--release", "--bins", "--manifest-path", "fuzz/Cargo.toml", "--target", &triple];
    let mut cargo = process::cargo(root);
    cargo.args(arguments).env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", FLAGS).env_remove("CARGO_TARGET_DIR");
    process::run(&mut cargo).context("the fuzz targets do not build")?;
    Ok(triple)
}

/// Runs one target, with its seeds and what was kept of earlier runs.
fn target_command(root: &Path, triple: &str, name: &str, seconds: u32) -> anyhow::Result<Command> {
    let (corpus, regressions) = (seeds::corpus(root, name)?, root.join("fuzz/regressions").join(name));
    let artifacts = root.join("fuzz/artifacts").join(name);
    fs::create_dir_all(&artifacts).context("cannot create the folder for what breaks a target")?;
    let program = root.join("fuzz/target").join(triple).join("release").join(name);
    let mut command = process::command(root, program);
    command.args([corpus, regressions]).env("ASAN_OPTIONS", "detect_odr_violation=0").args([
        format!("-artifact_prefix={}/", artifacts.display()),
        format!("-max_total_time={seconds}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        format!("-malloc_limit_mb={INPUT_MALLOC_MIB_MAX}"),
        format!("-rss_limit_mb={PROCESS_MIB_MAX}"),
        "-verbosity=0".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    Ok(command)
}

/// Runs one target to its end and prints what it says; whether it found nothing.
fn fuzz(name: &str, command: &mut Command) -> bool {
    println!("-- {name} begins");
    match command.output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            println!("-- {name}: {}\n{}", output.status, String::from_utf8_lossy(&said).trim_end());
            output.status.success()
        }
        Err(error) => {
            println!("-- {name} cannot be started: {error}");
            false
        }
    }
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
