//! The one task runner: `cargo xtask VERB`. `cargo xtask test` is what CI runs and what a change must pass.

mod admission;
mod chaos;
mod compare;
mod cost;
mod coverage;
mod damage;
mod fuzz;
mod instructions;
mod interop;
mod process;
mod reliability;
mod sdk;
mod sim;
mod stages;
mod suite;
mod system;
mod tidy;
mod vectors;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// EtherPly's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything that CI checks; runs all stages even if one fails, and says which did.
    Test {
        /// Runs only the stages with these names.
        #[arg(long = "stage", value_name = "NAME")]
        stages: Vec<String>,
        /// Prints the stages and what each may take, and runs none.
        #[arg(long)]
        list: bool,
    },
    /// Fuzzes.
    Fuzz {
        /// How long each target runs.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        seconds: u32,
        /// Runs only this target.
        #[arg(long)]
        target: Option<String>,
    },
    /// Runs seeds of the simulator: the engine and the client in a world in which everything goes wrong. What comes
    /// behind is passed on: `--seeds N`, `--minutes M`, `--seed N`, `--with LIST`, `--verbose`; `--help` says more.
    #[command(disable_help_flag = true)]
    Sim {
        /// Plants faults in the engine, one after the other, and counts the seeds until each is found.
        #[arg(long)]
        planted: bool,
        /// What `etherply-sim`, or the program with the planted faults, takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kills the real server under load, stops it, takes its power away, sets its clock, fills its disk.
    Chaos(chaos::Chaos),
    /// Lists the long runs that a release does, or does them and keeps what they say in results/reliability.
    Reliability {
        /// Does them; all together take hours.
        #[arg(long)]
        run: bool,
        /// Only the runs with these names.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
    },
    /// Reports how many altered changes pass admission, and how many of these Automerge cannot digest.
    Admission {
        /// How many altered changes are tried.
        #[arg(long, value_name = "N", default_value_t = 1_000_000)]
        changes: u64,
        /// Where chance begins.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Damages a data directory at every byte, in every way, and lets every call fail that writes to one. Takes
    /// hours.
    Damage,
    /// Holds places in the real server by a byte now and then, in every way that the test knows, with honest clients beside.
    Slowloris {
        /// How many clients do so in each way.
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        each: u32,
    },
    /// Counts what an edit costs a running server, for the table in ARCHITECTURE.md, and keeps it.
    Cost {
        /// Folder to keep it in.
        #[arg(long, value_name = "DIR", default_value = "target/cost-report")]
        out: PathBuf,
    },
    /// Says how many lines of the wire, the engine and the storage the tests come to. Needs LLVM's tools.
    Coverage {
        /// What `cargo test` takes instead of `--workspace`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measures other servers and EtherPly by turns under the same load, and keeps it in results/compare. Installs
    /// them first: Debian's packages, npm's and a Rust program, the last two into target/tools. Takes hours. What
    /// comes behind is passed on to `etherply-loadgen compare`; `--help` says more.
    #[command(disable_help_flag = true)]
    Compare {
        /// Only whether everything works: 20 connections, 3 s, what is installed; installs nothing.
        #[arg(long)]
        sample: bool,
        /// What `etherply-loadgen compare` takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Counts the instructions of the data path's steps, and compares them with benches/instructions.txt. Takes a
    /// minute.
    Instructions,
    /// Checks the style that no compiler checks.
    Tidy,
    /// Writes the golden vectors, wire/vectors, anew.
    Vectors,
}

/// The workspace's folder.
fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

fn main() -> ExitCode {
    let root = root();
    let done = match Arguments::parse().verb {
        Verb::Test { list: true, .. } => {
            suite::list(stages::STAGES);
            Ok(true)
        }
        Verb::Test { stages, list: false } => suite::run(&root, stages::STAGES, &stages),
        Verb::Fuzz { seconds, target } => fuzz::run(&root, seconds, target.as_deref()).map(|()| true),
        Verb::Sim { planted: true, arguments } => sim::planted(&root, &arguments).map(|()| true),
        Verb::Sim { planted: false, arguments } => sim::run(&root, &arguments).map(|()| true),
        Verb::Reliability { run, only } => reliability::run(&root, run, &only).map(|()| true),
        Verb::Chaos(chaos) => chaos.run(&root).map(|()| true),
        Verb::Admission { changes, seed } => admission::run(&root, changes, seed).map(|()| true),
        Verb::Slowloris { each } => process::run(
            process::cargo(&root)
                .args([
                    "test",
                    "--release",
                    "-p",
                    "etherply-server",
                    "--test",
                    "slowloris",
                    "--",
                    "--nocapture",
                ])
                .env("ETHERPLY_SLOWLORIS", each.to_string()),
        )
        .map(|()| true),
        Verb::Cost { out } => cost::run(&root, &out).map(|()| true),
        Verb::Damage => damage::run(&root).map(|()| true),
        Verb::Coverage { arguments } => coverage::run(&root, &arguments).map(|()| true),
        Verb::Compare { sample, arguments } => compare::run(&root, sample, &arguments).map(|()| true),
        Verb::Instructions => instructions::run(&root).map(|()| true),
        Verb::Tidy => tidy::run(&root).map(|()| true),
        Verb::Vectors => vectors::write(&root).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
