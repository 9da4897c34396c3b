//! `etherply quarantine`: what was taken out of documents. Reads files only.

use std::fs;
use std::io::{self, Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Done, Failure};
use crate::materialise::quarantine::{DIRECTORY, Exclusion, Kept, Quarantine};

/// What to do with excluded changes.
#[derive(Debug, Args)]
pub struct QuarantineArgs {
    /// What to do
    #[command(subcommand)]
    pub command: QuarantineCommand,
}

/// Commands of `quarantine`. They read files only, so the server may run.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// Say what was taken out of which document, and why
    List(QuarantineListArgs),
    /// Write the excluded changes to files, one behind the other, with a description beside
    Export(QuarantineExportArgs),
}

/// What to list.
#[derive(Debug, Args)]
pub struct QuarantineListArgs {
    /// The data directory
    #[arg(long, env = "ETHERPLY_DATA", default_value = "etherply-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// What to export.
#[derive(Debug, Args)]
pub struct QuarantineExportArgs {
    /// The data directory
    #[arg(long, env = "ETHERPLY_DATA", default_value = "etherply-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Only what was taken out of this document
    #[arg(long, value_name = "NAME")]
    pub document: Option<String>,
    /// Directory to write to; it must not exist yet
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

impl QuarantineArgs {
    pub(super) fn json(&self) -> bool {
        matches!(&self.command, QuarantineCommand::List(args) if args.json)
    }
}

/// Lists or exports.
///
/// # Errors
/// The files cannot be read, or the new ones not be written.
pub fn run(args: &QuarantineArgs) -> Result<Done, Failure> {
    answer(&args.command, &mut stdout().lock())
}

/// As [`run`], to somewhere else than standard output.
pub(crate) fn answer(command: &QuarantineCommand, to: &mut impl Write) -> Result<Done, Failure> {
    let data = match command {
        QuarantineCommand::List(args) => &args.data,
        QuarantineCommand::Export(args) => &args.data,
    };
    let cannot = |error| Failure::new("file_io", format!("{}: {error}", data.join(DIRECTORY).display()));
    let Kept { exclusions, unreadable } = Quarantine::new(data).list().map_err(cannot)?;
    match command {
        QuarantineCommand::List(args) => list(args, &exclusions, to)?,
        QuarantineCommand::Export(args) => export(args, exclusions, to)?,
    }
    if unreadable.is_empty() {
        return Ok(Done::Whole);
    }
    let mut message =
        "these descriptions cannot be read; the changes stand beside them, in files that Automerge loads:"
            .to_owned();
    for path in unreadable {
        message.push_str(&format!("\n  {}", path.display()));
    }
    Ok(Done::Damaged(message))
}

fn list(args: &QuarantineListArgs, all: &[(PathBuf, Exclusion)], to: &mut impl Write) -> Result<(), Failure> {
    let told = if args.json {
        let all: Vec<&Exclusion> = all.iter().map(|(_, exclusion)| exclusion).collect();
        writeln!(to, "{}", serde_json::json!(all))
    } else {
        all.iter().try_for_each(|(_, exclusion)| describe(exclusion, to)).and_then(|()| match all.len() {
            0 => writeln!(to, "nothing was taken out of any document"),
            _ => Ok(()),
        })
    };
    told.map_err(Failure::output)
}

fn describe(exclusion: &Exclusion, to: &mut impl Write) -> io::Result<()> {
    let Exclusion { document, changes_count, bytes, epoch, .. } = exclusion;
    writeln!(to, "{document}: {changes_count} changes of {bytes} bytes, taken out of epoch {epoch}")?;
    for change in exclusion.changes.iter().filter(|change| change.is_culprit) {
        writeln!(to, "  change {} of actor {} broke it", change.hash, change.actor)?;
    }
    exclusion.reasons.iter().try_for_each(|reason| writeln!(to, "  {reason}"))
}

fn export(
    args: &QuarantineExportArgs,
    mut all: Vec<(PathBuf, Exclusion)>,
    to: &mut impl Write,
) -> Result<(), Failure> {
    all.retain(|(_, exclusion)| args.document.as_ref().is_none_or(|name| *name == exclusion.document));
    write_files(&all, &args.out)
        .map_err(|error| Failure::new("file_io", format!("{}: {error}", args.out.display())))?;
    writeln!(to, "what was taken out {} times is in {}", all.len(), args.out.display())
        .map_err(Failure::output)
}

fn write_files(all: &[(PathBuf, Exclusion)], out: &Path) -> io::Result<()> {
    fs::create_dir(out)?;
    for (number, (changes, exclusion)) in all.iter().enumerate() {
        let path = out.join(format!("{number:08}.json"));
        fs::write(&path, serde_json::to_vec_pretty(exclusion)?)?;
        match fs::copy(changes, path.with_extension("automerge")) {
            // The oldest may have been removed to make room.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
