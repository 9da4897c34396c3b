//! `cargo xtask instructions`: how many instructions a step of the data path takes, by valgrind, and whether it is within
//! its limit. Unlike time, that is the same on a busy machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::process;
use crate::system::{self, Need};

const NEEDS: &[Need] = &[Need { program: "valgrind", package: "valgrind", why: "counts instructions" }];
const PROGRAM: &str = "target/release/etherply-instructions";
/// Where the limits are.
const LIMITS: &str = "benches/instructions.txt";
/// Steps in the shorter and in the longer run; what they differ by has nothing of the program's start in it.
const STEPS: [u64; 2] = [100, 600];

/// Counts, shows, and fails where a step takes more than its limit or far less.
pub fn run(root: &Path) -> anyhow::Result<()> {
    system::provide(root, NEEDS)?;
    let binary = ["build", "--release", "-p", "etherply-benches", "--bins"];
    process::run(process::cargo(root).args(binary))?;
    check(root)
}

/// The same with what the stage `release` has built.
pub fn check(root: &Path) -> anyhow::Result<()> {
    system::provide(root, NEEDS)?;
    let text = fs::read_to_string(root.join(LIMITS)).with_context(|| format!("cannot read {LIMITS}"))?;
    let mut wrong = Vec::new();
    for (step, limit) in limits(&text)? {
        let [few, many] = [count(root, step, STEPS[0])?, count(root, step, STEPS[1])?];
        let each = many.saturating_sub(few) / (STEPS[1] - STEPS[0]);
        println!("{step:<10} {each:>9} instructions, at most {limit}");
        if each > limit {
            wrong.push(format!("{step} takes {each} instructions, {limit} are allowed"));
        } else if each < limit - limit / 10 {
            wrong.push(format!("{step} takes only {each} instructions: lower its limit of {limit}"));
        }
    }
    if !wrong.is_empty() {
        bail!("{}; the limits are in {LIMITS}", wrong.join("; "));
    }
    Ok(())
}

fn limits(text: &str) -> anyhow::Result<BTreeMap<&str, u64>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let limit = |line: &'_ str| -> anyhow::Result<(usize, u64)> {
        let at = line.find(' ').with_context(|| format!("{LIMITS} has a line without a number: {line}"))?;
        let number = line.get(at..).unwrap_or_default().trim().replace('_', "");
        Ok((at, number.parse().with_context(|| format!("{LIMITS} has a line without a number: {line}"))?))
    };
    lines.map(|line| limit(line).map(|(at, limit)| (line.get(..at).unwrap_or_default(), limit))).collect()
}

/// Instructions of a whole run.
fn count(root: &Path, step: &str, times: u64) -> anyhow::Result<u64> {
    let mut valgrind = process::command(root, "valgrind");
    valgrind.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    valgrind.arg(root.join(PROGRAM)).args([step, &times.to_string()]).current_dir(root.join("target"));
    let done = valgrind.output().context("valgrind does not start")?;
    let said = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        bail!("{step} failed under valgrind:\n{said}");
    }
    total(&said).with_context(|| format!("valgrind did not say how many instructions {step} took:\n{said}"))
}

/// What stands behind "I refs:".
fn total(said: &str) -> Option<u64> {
    let refs = said.lines().find_map(|line| Some(line.split_once("refs:")?.1))?;
    refs.trim().replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_counts_are_read() {
        let read = limits("# A\n\nencode 1_200\nadmit      3000\n").unwrap();
        assert_eq!(read, BTreeMap::from([("admit", 3_000), ("encode", 1_200)]));
        assert!(limits("encode\n").is_err() && limits("encode x\n").is_err());
        assert_eq!(total("==12== \n==12== I   refs:      2,345,678\n"), Some(2_345_678));
        assert_eq!(total("==12== I refs: many"), None);
    }
}
