//! What admission lets through: altered changes, admission, Automerge.

use std::path::Path;

use crate::process;

/// Runs the report over so many altered changes, in a release build: what members and servers run.
pub fn run(root: &Path, changes: u64, seed: u64) -> anyhow::Result<()> {
    let mut command = process::cargo(root);
    command
        .args([
            "test",
            "--release",
            "-p",
            "etherply-engine",
            "--test",
            "change",
            "report::",
            "--",
            "--nocapture",
        ])
        .env("ETHERPLY_CHANGES", changes.to_string())
        .env("ETHERPLY_SEED", seed.to_string());
    process::run(&mut command)
}
