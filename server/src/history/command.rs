//! `etherply history`: the history of a document in a stopped server's data directory.

use std::io::{self, Write};

use etherply_engine::ids::DocumentId;

use super::{At, History, HistoryError};
use crate::cli::{HistoryArgs, HistoryCommand};
use crate::storage::{self, OpenError};

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The data directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The history does not answer.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The name cannot be one.
    #[error("{name:?} is no document's name: it has 1 to 256 bytes and no control characters")]
    Name {
        /// What was given.
        name: String,
    },
    /// There is no such document.
    #[error("{document} is not in this data directory: `etherply export` lists what is")]
    Unknown {
        /// What was asked for.
        document: DocumentId,
    },
    /// What it says cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Runs the command; what it says goes to `out`.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &HistoryArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let document = DocumentId::new(&args.document);
    let document = document.map_err(|_| CommandError::Name { name: args.document.clone() })?;
    let log = storage::open(&args.data)?;
    let history = History::open(log.reader(), &document)?;
    let history = history.ok_or(CommandError::Unknown { document })?;
    match &args.command {
        HistoryCommand::List { after, count, json } => list(&history, *after, *count, *json, out),
        HistoryCommand::Show { at } => {
            let last = [history.last_position()];
            for position in if at.is_empty() { &last } else { at.as_slice() } {
                writeln!(out, "{}", history.json(&At::Position(*position))?)?;
            }
            Ok(())
        }
        HistoryCommand::Difference { from, to } => {
            let to = to.unwrap_or(history.last_position());
            let difference = history.difference(&At::Position(*from), &At::Position(to))?;
            Ok(writeln!(out, "{difference}")?)
        }
        HistoryCommand::Save { at, out: path } => {
            let at = at.unwrap_or(history.last_position());
            std::fs::write(path, history.automerge(&At::Position(at))?)?;
            Ok(writeln!(out, "{} as of position {at} is in {}", history.document(), path.display())?)
        }
    }
}

fn list(
    history: &History,
    after: u64,
    count: usize,
    json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let (mut after, mut left) = (after, count);
    while left > 0 {
        let page = history.entries(after, left)?;
        let Some(last) = page.last() else { break };
        (after, left) = (last.position, left - page.len());
        for entry in &page {
            if json {
                writeln!(out, "{}", serde_json::to_string(entry).map_err(io::Error::from)?)?;
                continue;
            }
            let pusher = if entry.pusher.is_empty() { "anonymous" } else { &entry.pusher };
            writeln!(
                out,
                "{:>8}  {} ms  {} by {pusher}, {} operations  {}",
                entry.position,
                entry.time_ms,
                entry.author,
                entry.operations,
                entry.message.as_deref().unwrap_or_default()
            )?;
        }
    }
    Ok(())
}
