//! `etherply serve`, the command without a name.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;

use super::{Done, Failure};
use crate::cli::{LogFormat, ServeArgs};
use crate::preflight::Problem;

/// Serves until a signal asks to stop.
///
/// # Errors
/// The server cannot start.
pub fn run(args: &ServeArgs) -> Result<Done, Failure> {
    let filter = filter(args)?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match args.log_format {
        LogFormat::Human => logs.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().init(),
    }
    crate::serve::serve(args)?;
    Ok(Done::Whole)
}

/// Automerge describes its own work span by span, which cost a sixth of the materialiser's time; whoever wants that
/// names it.
fn filter(args: &ServeArgs) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(format!("automerge=off,{}", args.log))
        .map_err(|error| Failure::new("usage", format!("--log {}: {error}", args.log)))
}

/// Looks whether these settings fit together, and whether what they name is there; starts nothing.
///
/// # Errors
/// The server would not start.
pub fn check(args: &ServeArgs) -> Result<(), Failure> {
    drop(filter(args)?);
    drop(crate::serve::check(args)?);
    Ok(())
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Storage(error) => error.into(),
            Problem::Keys(error) => error.into(),
            other => Self::new("not_started", other),
        }
    }
}
