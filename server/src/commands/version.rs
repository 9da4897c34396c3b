//! `etherply history version`: named versions of a document in a stopped server's data directory.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use etherply_engine::ids::DocumentId;

use super::Failure;
use super::history::{open, write_file};
use crate::clock::now_ms;
use crate::history::{At, version_json};
use crate::storage::Reader;
use crate::storage::versions::{Version, Versions};

/// What to do with a document's named versions.
#[derive(Debug, Subcommand)]
pub enum VersionCommand {
    /// Give the document's state at a position a name
    Create {
        /// The name
        name: String,
        /// The position [default: as it is now]
        #[arg(long, value_name = "POSITION")]
        at: Option<u64>,
    },
    /// The document's versions, a line each
    List {
        /// Print an object of JSON for each
        #[arg(long)]
        json: bool,
    },
    /// Delete a version for good; the document stays as it is
    Delete {
        /// The name
        name: String,
    },
    /// A version as JSON
    Show {
        /// The name
        name: String,
    },
    /// What leads from one version to another, as JSON
    #[command(name = "diff")]
    Difference {
        /// The name of the one
        #[arg(long, value_name = "NAME")]
        from: String,
        /// The name of the other [default: the document as it is now]
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
    },
    /// Write the change that makes the document what a version says to a file; it takes effect once a client pushes it
    Restore {
        /// The name
        name: String,
        /// The file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Write a version to a file that Automerge can load
    Save {
        /// The name
        name: String,
        /// The file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

impl VersionCommand {
    pub(super) fn json(&self) -> bool {
        matches!(self, Self::List { json: true })
    }
}

/// Answers from the document's versions, and its history where that is needed.
pub(super) fn answer(
    command: &VersionCommand,
    versions: &Versions,
    reader: &Reader,
    document: &DocumentId,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let said = match command {
        VersionCommand::Create { name, at } => {
            let history = open(reader, document)?;
            let at = At::Position(at.unwrap_or(history.last_position()));
            let Version { position, bytes, .. } = history.create_version(versions, name, &at, now_ms())?;
            format!("{document} as of position {position} is version {name:?}, {bytes} bytes")
        }
        VersionCommand::List { json } => {
            for version in versions.list(document)? {
                writeln!(out, "{}", line(&version, *json)).map_err(Failure::output)?;
            }
            return Ok(());
        }
        VersionCommand::Delete { name } => {
            versions.delete(document, name)?;
            format!("version {name:?} of {document} is deleted")
        }
        VersionCommand::Show { name } => {
            let version = versions.find(document, name)?;
            version_json(versions, document, &version)?.to_string()
        }
        VersionCommand::Difference { from, to } => {
            let history = open(reader, document)?;
            let at = |name: &str| Ok::<_, Failure>(history.at_version(&versions.find(document, name)?)?);
            let to = match to {
                Some(name) => at(name)?,
                None => At::Position(history.last_position()),
            };
            history.difference(&at(from)?, &to)?.to_string()
        }
        VersionCommand::Restore { name, out: path } => {
            let history = open(reader, document)?;
            let at = history.at_version(&versions.find(document, name)?)?;
            let mut actor = [0; 16];
            getrandom::fill(&mut actor).map_err(|error| Failure::new("no_randomness", error))?;
            let time_s = i64::try_from(now_ms() / 1_000).unwrap_or(i64::MAX);
            let change = history.restoring_change(&at, &actor, &format!("restore {name}"), time_s)?;
            write_file(path, &change)?;
            format!("the change that brings version {name:?} back is in {}", path.display())
        }
        VersionCommand::Save { name, out: path } => {
            let version = versions.find(document, name)?;
            write_file(path, &versions.read(document, &version)?)?;
            format!("version {name:?} of {document} is in {}", path.display())
        }
    };
    writeln!(out, "{said}").map_err(Failure::output)
}

fn line(version: &Version, json: bool) -> String {
    if json {
        return serde_json::json!(version).to_string();
    }
    let Version { name, epoch, position, time_ms, bytes, .. } = version;
    format!("{name:?}  position {position} of epoch {epoch}  {time_ms} ms  {bytes} bytes")
}
