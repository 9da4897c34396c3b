//! `etherply export`.

use std::io::{IsTerminal as _, stderr};
use std::path::PathBuf;

use clap::Args;

use super::{Done, Failure, print};
use crate::export::{Export, export};

/// What to export.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The data directory, of a server that is not running
    #[arg(long, env = "ETHERPLY_DATA", default_value = "etherply-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Directory to write to; it must not exist yet
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// Exports, and names what is damaged.
///
/// # Errors
/// See [`export`].
pub fn run(args: &ExportArgs) -> Result<Done, Failure> {
    let is_terminal = stderr().is_terminal();
    let Export { exported, damaged } = export(&args.data, &args.out, |done| {
        if is_terminal && done % 1_000 == 0 {
            eprintln!("{done} documents");
        }
    })?;
    let changes: u64 = exported.iter().map(|document| document.changes).sum();
    print(&match args.json {
        true => {
            let summary = serde_json::json!({
                "documents": exported.len(), "changes": changes, "damaged": damaged.len(), "out": args.out
            });
            summary.to_string()
        }
        false => {
            format!("{} documents with {changes} changes are in {}", exported.len(), args.out.display())
        }
    });
    if damaged.is_empty() {
        return Ok(Done::Whole);
    }
    let mut message = format!("{} documents are damaged, and are not there:", damaged.len());
    for damage in damaged {
        message.push_str(&format!("\n  {damage}"));
    }
    Ok(Done::Damaged(message))
}
