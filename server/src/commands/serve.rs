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
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|error| Failure::new("usage", format!("--log {}: {error}", args.log)))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match args.log_format {
        LogFormat::Human => logs.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().init(),
    }
    crate::serve::serve(args)?;
    Ok(Done::Whole)
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Storage(error) => error.into(),
            other => Self::new("not_started", other),
        }
    }
}
