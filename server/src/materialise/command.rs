//! `etherply quarantine`: what was taken out of documents. Reads files only.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::quarantine::{DIRECTORY, Exclusion, Quarantine};
use crate::cli::{QuarantineCommand, QuarantineExportArgs, QuarantineListArgs};

/// Does what `etherply quarantine` is asked for.
///
/// # Errors
/// What to tell the operator.
pub fn run(command: &QuarantineCommand, to: &mut impl Write) -> Result<(), String> {
    match command {
        QuarantineCommand::List(args) => list(args, to),
        QuarantineCommand::Export(args) => export(args, to),
    }
}

fn all(data: &Path) -> Result<Vec<(PathBuf, Exclusion)>, String> {
    let found = Quarantine::new(data).list();
    found.map_err(|error| format!("{}: {error}", data.join(DIRECTORY).display()))
}

fn list(args: &QuarantineListArgs, to: &mut impl Write) -> Result<(), String> {
    let all = all(&args.data)?;
    let told = if args.json {
        let all: Vec<&Exclusion> = all.iter().map(|(_, exclusion)| exclusion).collect();
        writeln!(to, "{}", serde_json::json!(all))
    } else {
        all.iter().try_for_each(|(_, exclusion)| describe(exclusion, to)).and_then(|()| match all.len() {
            0 => writeln!(to, "nothing was taken out of any document"),
            _ => Ok(()),
        })
    };
    told.map_err(|error| error.to_string())
}

fn describe(exclusion: &Exclusion, to: &mut impl Write) -> io::Result<()> {
    let Exclusion { document, changes_count, bytes, epoch, .. } = exclusion;
    writeln!(to, "{document}: {changes_count} changes of {bytes} bytes, taken out of epoch {epoch}")?;
    for change in exclusion.changes.iter().filter(|change| change.is_culprit) {
        writeln!(to, "  change {} of actor {} broke it", change.hash, change.actor)?;
    }
    exclusion.reasons.iter().try_for_each(|reason| writeln!(to, "  {reason}"))
}

fn export(args: &QuarantineExportArgs, to: &mut impl Write) -> Result<(), String> {
    let mut all = all(&args.data)?;
    all.retain(|(_, exclusion)| args.document.as_ref().is_none_or(|name| *name == exclusion.document));
    let exported = write_files(&all, &args.out)
        .and_then(|()| writeln!(to, "what was taken out {} times is in {}", all.len(), args.out.display()));
    exported.map_err(|error| format!("{}: {error}", args.out.display()))
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
