//! `etherply history`: the history of a document in a stopped server's data directory.

use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use etherply_engine::ids::DocumentId;

use super::version::{self, VersionCommand};
use super::{Done, Failure};
use crate::history::{At, Entry, History};
use crate::storage::versions::Versions;
use crate::storage::{self, Reader};

/// Whose history.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// What to do
    #[command(subcommand)]
    pub command: HistoryCommand,
    /// The data directory, of a server that is not running
    #[arg(long, env = "ETHERPLY_DATA", default_value = "etherply-data", value_name = "DIR", global = true)]
    pub data: PathBuf,
    /// The document's name
    #[arg(long, value_name = "NAME", global = true, default_value = "")]
    pub document: String,
}

/// What to do with a history. Positions count a document's changes in the order in which the server stored them.
#[derive(Debug, Subcommand)]
pub enum HistoryCommand {
    /// Who changed what when, a line a change
    List {
        /// Begin behind this position
        #[arg(long, default_value_t = 0, value_name = "POSITION")]
        after: u64,
        /// At most so many changes
        #[arg(long, default_value_t = 100, value_name = "N")]
        count: usize,
        /// Print an object of JSON for each
        #[arg(long)]
        json: bool,
    },
    /// The document at positions, as JSON, a line each; as it is now if none is given
    Show {
        /// Positions, with commas
        #[arg(long, value_delimiter = ',', value_name = "POSITION")]
        at: Vec<u64>,
    },
    /// What leads from one position to another, as JSON
    #[command(name = "diff")]
    Difference {
        /// From here
        #[arg(long, value_name = "POSITION")]
        from: u64,
        /// To here [default: as it is now]
        #[arg(long, value_name = "POSITION")]
        to: Option<u64>,
    },
    /// States of the document that have names
    #[command(subcommand)]
    Version(VersionCommand),
    /// Write the document at a position to a file that Automerge can load
    Save {
        /// The position [default: as it is now]
        #[arg(long, value_name = "POSITION")]
        at: Option<u64>,
        /// The file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

impl HistoryArgs {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            HistoryCommand::List { json, .. } => *json,
            HistoryCommand::Version(command) => command.json(),
            _ => false,
        }
    }
}

/// Answers from the document's history.
///
/// # Errors
/// [`crate::history::HistoryError`], that the data directory does not open, or that there is no such document.
pub fn run(args: &HistoryArgs) -> Result<Done, Failure> {
    let mut out = BufWriter::new(stdout().lock());
    answer(args, &mut out)?;
    out.flush().map_err(Failure::output)?;
    Ok(Done::Whole)
}

fn answer(args: &HistoryArgs, out: &mut impl Write) -> Result<(), Failure> {
    let document = DocumentId::new(&args.document).map_err(|_| {
        let what = "is no document's name: it has 1 to 256 bytes and no control characters";
        Failure::new("document_id_invalid", format!("{:?} {what}", args.document))
    })?;
    let log = storage::open_existing(&args.data)?;
    if let HistoryCommand::Version(command) = &args.command {
        return version::answer(command, &Versions::new(&args.data), log.reader(), &document, out);
    }
    let history = open(log.reader(), &document)?;
    match &args.command {
        // Above: not all of it needs the history.
        HistoryCommand::Version(_) => Ok(()),
        HistoryCommand::List { after, count, json } => list(&history, *after, *count, *json, out),
        HistoryCommand::Show { at } => {
            let last = [history.last_position()];
            for position in if at.is_empty() { &last } else { at.as_slice() } {
                writeln!(out, "{}", history.json(&At::Position(*position))?).map_err(Failure::output)?;
            }
            Ok(())
        }
        HistoryCommand::Difference { from, to } => {
            let to = to.unwrap_or(history.last_position());
            let difference = history.difference(&At::Position(*from), &At::Position(to))?;
            writeln!(out, "{difference}").map_err(Failure::output)
        }
        HistoryCommand::Save { at, out: path } => {
            let at = at.unwrap_or(history.last_position());
            let saved = history.automerge(&At::Position(at))?;
            write_file(path, &saved)?;
            let (document, path) = (history.document(), path.display());
            writeln!(out, "{document} as of position {at} is in {path}").map_err(Failure::output)
        }
    }
}

/// The document's history, of a document that has one.
pub(super) fn open(reader: &Reader, document: &DocumentId) -> Result<History, Failure> {
    History::open(reader, document)?.ok_or_else(|| {
        let what = "is not in this data directory: `etherply export` lists what is";
        Failure::new("document_unknown", format!("{document} {what}"))
    })
}

pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .map_err(|error| Failure::new("file_io", format!("cannot write {}: {error}", path.display())))
}

fn list(
    history: &History,
    after: u64,
    count: usize,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let (mut after, mut left) = (after, count);
    while left > 0 {
        let page = history.entries(after, left)?;
        let Some(last) = page.last() else { break };
        (after, left) = (last.position, left - page.len());
        for entry in &page {
            writeln!(out, "{}", line(entry, json)).map_err(Failure::output)?;
        }
    }
    Ok(())
}

fn line(entry: &Entry, json: bool) -> String {
    if json {
        return serde_json::json!(entry).to_string();
    }
    let pusher = if entry.pusher.is_empty() { "anonymous" } else { &entry.pusher };
    format!(
        "{:>8}  {} ms  {} by {pusher}, {} operations  {}",
        entry.position,
        entry.time_ms,
        entry.author,
        entry.operations,
        entry.message.as_deref().unwrap_or_default()
    )
}
