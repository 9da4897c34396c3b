//! What `etherply` can be asked for: each command's options beside its implementation (those of `serve` are
//! [`crate::cli`]'s), and how all of them end.
//!
//! A command that did what it was asked for exits with 0. One that found or left something damaged says what, and exits
//! with 1. One that failed says why on standard error, with `--json` also as
//! `{"error": NAME, "message": TEXT}` on standard output; the names are stable, and stand in `docs/errors.md`.

pub mod backup;
pub mod config;
pub mod delete;
pub mod export;
pub mod history;
pub mod keys;
pub mod quarantine;
pub mod revoke;
pub mod serve;
pub mod token;
pub mod verify;
pub mod version;

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _, stderr};
use std::process::ExitCode;

use crate::access::keys::KeysError;
use crate::access::now_s;
use crate::backup::BackupError;
use crate::cli::Command;
use crate::export::ExportError;
use crate::history::HistoryError;
use crate::operator::OperatorError;
use crate::settings::{Asked, Refused};
use crate::storage::OpenError;
use crate::storage::versions::VersionError;

/// Exit code of a command that failed.
const EXIT_FAILED: u8 = 1;
/// Exit code of `verify` and `repair` when they failed: with 1 they say that something is damaged.
const EXIT_COULD_NOT_LOOK: u8 = 2;
/// Exit code of a command that found or left something damaged.
const EXIT_DAMAGED: u8 = 1;

/// How a command ended that did what it could.
#[derive(Debug)]
pub enum Done {
    /// As it was asked for.
    Whole,
    /// Something is damaged: what there is to say about it that was not said.
    Damaged(String),
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// A stable name.
    pub name: &'static str,
    /// What went wrong, and what to do.
    pub message: String,
}

impl Failure {
    /// One of a name.
    pub fn new(name: &'static str, message: impl Display) -> Self {
        Self { name, message: message.to_string() }
    }

    /// For `map_err` where standard output cannot be written.
    pub fn output(error: impl Display) -> Self {
        Self::new("output_io", format!("cannot write: {error}"))
    }
}

macro_rules! failures {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(error.code(), error)
            }
        })*
    };
}

failures!(BackupError, ExportError, HistoryError, KeysError, OpenError, OperatorError, VersionError);

/// Carries out a command.
pub fn run(Asked { command, settings }: Asked) -> ExitCode {
    match command {
        Command::Config(args) => ended(args.json, EXIT_FAILED, config::run(&args, &settings)),
        Command::Serve(args) => ended(false, EXIT_FAILED, serve::run(&args)),
        Command::Export(args) => ended(args.json, EXIT_FAILED, export::run(&args)),
        Command::Quarantine(args) => ended(args.json(), EXIT_FAILED, quarantine::run(&args)),
        Command::History(args) => ended(args.json(), EXIT_FAILED, history::run(&args)),
        Command::Backup(args) => ended(args.json(), EXIT_FAILED, backup::run(&args)),
        Command::Restore(args) => ended(args.json, EXIT_FAILED, backup::restore(&args)),
        Command::Verify(args) => ended(args.json, EXIT_COULD_NOT_LOOK, verify::verify(&args)),
        Command::Repair(args) => ended(args.json, EXIT_COULD_NOT_LOOK, verify::repair(&args)),
        Command::Delete(args) => ended(false, EXIT_FAILED, delete::run(&args)),
        Command::Keys(args) => ended(args.json(), EXIT_FAILED, keys::run(&args)),
        Command::Token(args) => ended(args.json(), EXIT_FAILED, token::run(&args, now_s())),
        Command::Revoke(args) => ended(false, EXIT_FAILED, revoke::run(&args)),
    }
}

/// Says why there is no command to carry out.
pub fn refuse(refused: Refused) -> ExitCode {
    match refused {
        // Help for whoever asks for it, or a usage error, which exits with 2.
        Refused::Usage(error) => error.exit(),
        Refused::Faults { faults, json } => ended(json, EXIT_FAILED, Err(config::failure(&faults))),
    }
}

fn ended(json: bool, exit_failed: u8, done: Result<Done, Failure>) -> ExitCode {
    match done {
        Ok(Done::Whole) => ExitCode::SUCCESS,
        Ok(Done::Damaged(message)) => {
            if !message.is_empty() {
                eprintln!("etherply: {message}");
            }
            ExitCode::from(EXIT_DAMAGED)
        }
        Err(Failure { name, message }) => {
            eprintln!("etherply: {message}");
            if json {
                print(&serde_json::json!({ "error": name, "message": message }).to_string());
            }
            ExitCode::from(exit_failed)
        }
    }
}

/// Prints a line. Whoever reads may be gone; the exit code still says how it went.
fn print(text: &str) {
    drop(writeln!(io::stdout(), "{text}"));
}

/// Says on a terminal how many bytes are done, now and then.
fn bytes_shown(done: &'static str) -> impl FnMut(u64) {
    const EVERY_BYTES: u64 = 64 * 1024 * 1024;
    let (is_terminal, mut next) = (stderr().is_terminal(), EVERY_BYTES);
    move |bytes| {
        if is_terminal && bytes >= next {
            eprintln!("{} MiB {done}", bytes / (1024 * 1024));
            next = bytes + EVERY_BYTES;
        }
    }
}
