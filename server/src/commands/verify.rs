//! `etherply verify` and `etherply repair`. They exit with 0 if all is whole, 1 if something is damaged or stayed
//! behind, 2 if they could not work.

use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Done, Failure, print};
use crate::materialise::whole::unpack;
use crate::storage::inspect::report::TEXT_ITEMS_MAX;
use crate::storage::inspect::walk::Nobody;
use crate::storage::inspect::{Inspection, Progress};
use crate::storage::repair::{self, Repaired};

/// What to look at.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The data directory, of a server that is not running; it may lie on a file system that cannot be written
    #[arg(long, env = "ETHERPLY_DATA", default_value = "etherply-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// What to repair.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The damaged data directory, of a server that is not running
    #[arg(long, env = "ETHERPLY_DATA", default_value = "etherply-data", value_name = "DIR")]
    pub data: PathBuf,
    /// The new data directory; it must not exist yet
    #[arg(long, value_name = "NEW")]
    pub to: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Looks at a data directory.
///
/// # Errors
/// One cannot look.
pub fn verify(args: &VerifyArgs) -> Result<Done, Failure> {
    let bar = Bar::new();
    let walked = Inspection::open(&args.data)
        .and_then(|inspection| inspection.walk(&mut Nobody, &mut |at| bar.show(at)));
    bar.finish();
    let report = walked?;
    say(args.json, &report, || {
        let advice =
            "\nKeep a copy of it. Restore the last backup, or keep what is whole:\n\x20 etherply repair";
        match report.whole {
            true => report.to_string(),
            false => format!("{report}{advice} --data {} --to NEW", args.data.display()),
        }
    });
    Ok(done(report.whole))
}

/// Writes what is whole to a new directory.
///
/// # Errors
/// Nothing was written.
pub fn repair(args: &RepairArgs) -> Result<Done, Failure> {
    let bar = Bar::new();
    let repaired = repair::repair(&args.data, &args.to, unpack, &mut |at| bar.show(at));
    bar.finish();
    let repaired = repaired?;
    say(args.json, &repaired, || text_of(&repaired));
    Ok(done(repaired.kept_all))
}

fn done(is_whole: bool) -> Done {
    if is_whole { Done::Whole } else { Done::Damaged(String::new()) }
}

fn say(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) {
    print(&match json {
        true => serde_json::to_string_pretty(value).unwrap_or_else(|error| error.to_string()),
        false => text(),
    });
}

fn text_of(repaired: &Repaired) -> String {
    let Repaired { to, kept_all, found, written } = repaired;
    let mut text = format!("{found}\n\n");
    let lost: Vec<_> = found.damaged_documents.iter().filter(|document| document.lost_changes()).collect();
    if *kept_all {
        text += "Everything that was committed was kept.\n";
    } else {
        text += "Not kept:\n";
        for document in lost.iter().take(TEXT_ITEMS_MAX) {
            let through = document.expected_through.map_or("?".to_owned(), |through| through.to_string());
            let from = document.whole_through + 1;
            text += &format!(
                "\x20 {}: positions {from} to {through} of epoch {}; of these, {} records with {} bytes are there \
                 and cannot be proven\n",
                document.document, document.epoch, document.records_behind, document.bytes_behind
            );
        }
        if lost.len() > TEXT_ITEMS_MAX {
            text +=
                &format!("\x20 and of {} more documents, which --json lists\n", lost.len() - TEXT_ITEMS_MAX);
        }
        for (from, through) in &found.commits.missing {
            text += &format!("\x20 what commits {from} to {through} held and nothing above names\n");
        }
    }
    text + &format!(
        "{}: {} documents, {} records, {} bytes; read back and whole. Start it with\n\x20 etherply serve --data {}",
        to.display(),
        written.documents,
        written.records,
        written.record_bytes,
        to.display()
    )
}

/// A progress bar on standard error, if that is a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn show(&self, at: Progress) {
        self.0.set_length(at.total);
        self.0.set_position(at.done);
    }

    fn finish(&self) {
        self.0.finish_and_clear();
    }
}
