//! `etherply backup` and `etherply restore`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Done, Failure, bytes_shown, print};
use crate::backup::file::{Source, backup, verify};
use crate::backup::restore::Step;
use crate::backup::{self, BackupError, Summary};
use crate::operator;

/// What to back up, and where to.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BackupArgs {
    /// Something else than taking a backup
    #[command(subcommand)]
    pub command: Option<BackupCommand>,
    /// The control address of a running server, as http://HOST:PORT
    #[arg(long, value_name = "URL", required_unless_present = "data", conflicts_with = "data")]
    pub control: Option<String>,
    /// The file operator.key of the running server's data directory, which a server that asks for tokens asks for
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub operator_key: Option<PathBuf>,
    /// The data directory of a server that is not running
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// File to write; it must not exist yet
    #[arg(long, value_name = "FILE", required = true)]
    pub to: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// What can be done with backups.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Check a backup from front to back, without restoring it
    Verify(VerifyBackupArgs),
}

/// Which backup to check.
#[derive(Debug, Args)]
pub struct VerifyBackupArgs {
    /// The backup
    pub file: PathBuf,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// What to restore, and where to.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    pub file: PathBuf,
    /// The data directory to make; it must not exist yet, or be empty
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

impl BackupArgs {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            Some(BackupCommand::Verify(args)) => args.json,
            None => self.json,
        }
    }
}

/// Takes a backup, or checks one.
///
/// # Errors
/// [`BackupError`], or the operator's key cannot be read.
pub fn run(args: &BackupArgs) -> Result<Done, Failure> {
    if let Some(BackupCommand::Verify(args)) = &args.command {
        let checked = verify(&args.file, &mut bytes_shown("checked"));
        return summarize(checked, args.json, |summary| format!("{}: {summary}", args.file.display()));
    }
    // The command line's rules see to it that both are given.
    let asked = |what: &str| Failure::new("usage", format!("backup: say {what}"));
    let key = args.operator_key.as_deref().map(operator::read_key_file).transpose()?;
    let source = match (&args.control, &args.data) {
        (Some(url), _) => Source::Control { url, key: key.as_deref() },
        (None, Some(data)) => Source::Data(data),
        (None, None) => return Err(asked("of what, by --control or --data")),
    };
    let to = args.to.as_ref().ok_or_else(|| asked("where to, by --to"))?;
    let taken = backup(source, to, &mut bytes_shown("written"));
    summarize(taken, args.json, |summary| format!("{} holds {summary}", to.display()))
}

/// Makes a new data directory of a backup.
///
/// # Errors
/// [`BackupError`].
pub fn restore(args: &RestoreArgs) -> Result<Done, Failure> {
    let (mut writing, mut comparing) = (bytes_shown("restored"), bytes_shown("compared"));
    let restored = backup::restore::restore(&args.file, &args.data, &mut |step, bytes| match step {
        Step::Writing => writing(bytes),
        Step::Comparing => comparing(bytes),
    });
    summarize(restored, args.json, |summary| {
        format!(
            "{} holds {summary}\nEvery document has a new epoch: clients compare what they have, and bring what \
             the backup lacks",
            args.data.display()
        )
    })
}

/// Prints what a backup holds. One that names damaged documents is there, and is not whole.
fn summarize(
    done: Result<Summary, BackupError>,
    json: bool,
    say: impl FnOnce(&Summary) -> String,
) -> Result<Done, Failure> {
    let summary = done?;
    print(&if json { serde_json::json!(summary).to_string() } else { say(&summary) });
    if summary.damaged == 0 {
        return Ok(Done::Whole);
    }
    let mut message = format!(
        "{} documents were damaged when the backup was taken; it has what stands before the damage:",
        summary.damaged
    );
    for damaged in &summary.damaged_documents {
        message
            .push_str(&format!("\n  {} from position {}: {}", damaged.document, damaged.seq, damaged.what));
    }
    Ok(Done::Damaged(message))
}
