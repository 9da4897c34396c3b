//! Ends of the real server, in every way, under load from real TCP and WebSocket clients: `etherply-loadgen crash`
//! does it, and verifies with a fresh client after each and `etherply verify` in the end.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::process;
use crate::suite::BUILT;

/// Ends of a server in one data directory. After each a fresh client reads everything, so more would mostly read what
/// was read before: the ends are dealt out to several directories instead, each with another seed.
const ENDS_PER_DIRECTORY: u32 = 25;
/// The same in CI, which has less time to read.
const ENDS_PER_DIRECTORY_SAMPLE: u32 = 7;

/// How often what happens; with nothing said, what CI runs.
#[derive(Debug, Clone, Args)]
pub struct Chaos {
    /// How often the server is killed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    kills: u32,
    /// How often it is asked to stop.
    #[arg(long, value_name = "N", default_value_t = 0)]
    sigterm: u32,
    /// How often it loses its power: all that it wrote and did not sync is dropped. Needs `rustc`.
    #[arg(long, value_name = "N", default_value_t = 0)]
    power_loss: u32,
    /// How often it is killed after its wall clock was set somewhere else. Needs `rustc`.
    #[arg(long, value_name = "N", default_value_t = 0)]
    clock_jumps: u32,
    /// Whether its disk runs full and has room again, 20 times, on a small file system.
    #[arg(long)]
    disk_full: bool,
    /// Ends in one data directory; more go to others.
    #[arg(long, value_name = "N", default_value_t = ENDS_PER_DIRECTORY, value_parser = clap::value_parser!(u32).range(1..))]
    per_directory: u32,
    /// Folder for the reports, one below it for each kind of end.
    #[arg(long, value_name = "DIR", default_value = "target/chaos")]
    out: PathBuf,
}

impl Chaos {
    /// What CI has time for. The test of a full disk is among the tests, twice.
    pub fn sample() -> Self {
        let out = PathBuf::from("target/chaos");
        let per_directory = ENDS_PER_DIRECTORY_SAMPLE;
        Self { kills: 25, sigterm: 10, power_loss: 10, clock_jumps: 5, disk_full: false, per_directory, out }
    }

    fn is_nothing(&self) -> bool {
        self.kills + self.sigterm + self.power_loss + self.clock_jumps == 0 && !self.disk_full
    }

    /// Does all of it, whatever became of what was before.
    pub fn run(&self, root: &Path) -> anyhow::Result<()> {
        if self.is_nothing() {
            return Self::sample().run(root);
        }
        let build = ["build", "--release", "--workspace", "--bins"];
        process::run(process::cargo(root).args(build)).context("the programs do not build")?;
        let ends: [(&str, u32, &[&str]); 4] = [
            ("kill", self.kills, &["--by", "kill"]),
            ("sigterm", self.sigterm, &["--by", "term"]),
            ("power-loss", self.power_loss, &["--by", "power"]),
            ("clock-jumps", self.clock_jumps, &["--by", "kill", "--clock-jumps"]),
        ];
        let mut failed = Vec::new();
        for (name, times, arguments) in ends {
            for (number, first) in (0..times).step_by(self.per_directory as usize).enumerate() {
                let ends = self.per_directory.min(times - first);
                println!("\n-- {name}, {} to {} of {times}", first + 1, first + ends);
                let mut crash = process::command(root, root.join("target/release/etherply-loadgen"));
                // A claim about time says as much about the machine as about the server: shown, but no reason to fail.
                crash.args(["crash", "--ignore-times", "--kills", &ends.to_string()]).args(arguments);
                crash.args(["--seed", &(number + 1).to_string()]);
                crash.arg("--out").arg(self.out.join(format!("{name}-{}", number + 1))).env(BUILT.0, BUILT.1);
                if let Err(error) = process::run(&mut crash) {
                    println!("error: {error:#}");
                    failed.push(name);
                }
            }
        }
        if self.disk_full {
            let test =
                ["test", "--release", "-p", "etherply-server", "--test", "disk_full", "--", "--nocapture"];
            if let Err(error) = process::run(process::cargo(root).args(test).env("ETHERPLY_TEST_ALL", "1")) {
                println!("error: {error:#}");
                failed.push("disk-full");
            }
        }
        if failed.is_empty() {
            Ok(())
        } else {
            bail!("something was lost, or did not end well: {}", failed.join(", "))
        }
    }
}
