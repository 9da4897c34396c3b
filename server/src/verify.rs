//! `etherply verify` and `etherply repair`: what they print, and how they exit.

use std::io::{self, Write as _};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::{RepairArgs, VerifyArgs};
use crate::materialise::whole::unpack;
use crate::storage::OpenError;
use crate::storage::inspect::report::TEXT_ITEMS_MAX;
use crate::storage::inspect::walk::Nobody;
use crate::storage::inspect::{Inspection, Progress};
use crate::storage::repair::{self, Repaired};

/// The data is damaged, or not all of it could be kept.
const EXIT_DAMAGED: u8 = 1;
/// One could not look, or not write.
const EXIT_FAILED: u8 = 2;

/// Looks at a data directory. Exits with 0 if it is whole, 1 if not, 2 if one could not look.
pub fn verify(args: &VerifyArgs) -> ExitCode {
    let bar = Bar::new();
    let walked = Inspection::open(&args.data)
        .and_then(|inspection| inspection.walk(&mut Nobody, &mut |at| bar.show(at)));
    bar.finish();
    let report = match walked {
        Ok(report) => report,
        Err(error) => return failed(&error, args.json),
    };
    print(args.json, &report, || {
        let advice =
            "\nKeep a copy of it. Restore the last backup, or keep what is whole:\n\x20 etherply repair";
        match report.whole {
            true => report.to_string(),
            false => format!("{report}{advice} --data {} --to NEW", args.data.display()),
        }
    });
    exit(report.whole)
}

/// Writes what is whole to a new directory. Exits with 0 if that is everything, 1 if something stayed behind, 2 if
/// nothing was written.
pub fn repair(args: &RepairArgs) -> ExitCode {
    let bar = Bar::new();
    let repaired = repair::repair(&args.data, &args.to, unpack, &mut |at| bar.show(at));
    bar.finish();
    let repaired = match repaired {
        Ok(repaired) => repaired,
        Err(error) => return failed(&error, args.json),
    };
    print(args.json, &repaired, || text_of(&repaired));
    exit(repaired.kept_all)
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

fn exit(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DAMAGED) }
}

fn failed(error: &OpenError, json: bool) -> ExitCode {
    if json {
        let said = serde_json::json!({ "error": error.code(), "message": error.to_string() });
        print(true, &said, String::new);
    } else {
        eprintln!("etherply: {error}");
    }
    ExitCode::from(EXIT_FAILED)
}

fn print(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) {
    let text = match json {
        true => serde_json::to_string_pretty(value).unwrap_or_else(|error| error.to_string()),
        false => text(),
    };
    // Whoever reads may be gone; the exit code still says it.
    drop(writeln!(io::stdout(), "{text}"));
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
