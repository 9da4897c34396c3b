//! Damage to every byte of a data directory, and every call that can fail; `cargo test` takes samples of both.

use std::path::Path;

use crate::process;

/// The tests that damage a data directory.
const DAMAGE: &[&str] = &["storage::damage_tests", "storage::scan"];
/// The programs of tests under which a server's disk fails.
const FAILING: &[&str] = &["io_faults", "disk_full"];
/// Set for tests that take samples otherwise.
const ALL: &str = "ETHERPLY_TEST_ALL";

/// Runs all of it, and shows how many directories were refused, damaged in a document, and unharmed.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let threads = ["--", "--nocapture", "--test-threads", "1"];
    let test = ["test", "--release", "-p", "etherply-server"];
    let mut damage = process::cargo(root);
    process::run(damage.args(test).arg("--lib").args(threads).args(DAMAGE).env(ALL, "1"))?;
    let mut failing = process::cargo(root);
    failing.args(test);
    for program in FAILING {
        failing.args(["--test", program]);
    }
    process::run(failing.args(threads).env(ALL, "1"))
}
