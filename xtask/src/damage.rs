//! Damage to every byte of a data directory; `cargo test` takes a sample of it.

use std::path::Path;

use crate::process;

/// The tests that damage a data directory. They take a sample unless [`ALL`] is set.
const TESTS: &[&str] = &["storage::damage_tests", "storage::scan"];
const ALL: &str = "ETHERPLY_TEST_ALL";

/// Runs all of it, and shows how many directories were refused, damaged in a document, and unharmed.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let mut cargo = process::cargo(root);
    cargo.args([
        "test",
        "--release",
        "-p",
        "etherply-server",
        "--lib",
        "--",
        "--nocapture",
        "--test-threads",
        "1",
    ]);
    process::run(cargo.args(TESTS).env(ALL, "1"))
}
