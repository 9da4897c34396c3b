//! Keeps what is proven of a damaged data directory, in a new one.
//!
//! Of each document the longest prefix that is proven goes over, with its epoch, positions and chain, so clients
//! whose copies end within it resume as always. A client that has more asks for a position, or a chain, that the
//! new log does not have, so both sides compare what they have and the client pushes what is missing. The damaged
//! directory is only read. The new one gets its name when all of it is on disk and was read back.

use std::fs;
use std::path::{Path, PathBuf};

use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, Found, Log, LogError};
use etherply_engine::record::Record;
use etherply_engine::snapshot::Snapshot;
use serde::Serialize;

use super::anchor::AnchorRow;
use super::directory::sync_directory;
use super::error::OpenError;
use super::index::{IndexRow, LogRow};
use super::inspect::report::Report;
use super::inspect::walk::Proven;
use super::inspect::{Inspection, Progress};
use super::keys::{Head, KeyspaceId, anchor_key, change_key, encode_found, hash_key};
use super::log::FjallLog;
use super::piece::{Expect, Piece, StorePiece};
use super::thread::{COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX};

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// The new data directory.
    pub to: PathBuf,
    /// Whether everything that was committed is in it: only what can be made anew was damaged.
    pub kept_all: bool,
    /// What was found in the damaged one: what of each document is whole went over, what is behind that did not.
    pub found: Report,
    /// The new directory as it was read back.
    pub written: Report,
}

/// Writes what is proven in `data` to a new data directory, `to`.
///
/// # Errors
/// That one cannot look at `data`, or that `to` is there already or cannot be written.
pub fn repair(data: &Path, to: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Repaired, OpenError> {
    let inspection = Inspection::open(data)?;
    let part = begin(data, to)?;
    let repaired = write(inspection, to, &part, progress);
    if repaired.is_err() {
        // Made by this run, and of no use. Should it stay, the next run says so.
        drop(fs::remove_dir_all(&part));
    }
    repaired
}

fn write(
    inspection: Inspection,
    to: &Path,
    part: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Repaired, OpenError> {
    let mut copy = Copy {
        log: super::open(part)?,
        appends: Vec::new(),
        records: 0,
        bytes: 0,
        covered: None,
        path: part,
    };
    let found =
        inspection.walk(&mut |document, epoch, proven| copy.take(document, epoch, proven), progress)?;
    copy.end_document()?;
    drop(copy);
    let written = Inspection::open(part)?.walk(&mut |_, _, _| Ok(()), &mut |_| {})?;
    if !written.whole {
        let what =
            "what was written does not read back as it should: the disk that it is on is not to be trusted";
        return Err(OpenError::damaged(part, None, what));
    }
    fs::rename(part, to).map_err(OpenError::io(to, "give the new directory its name"))?;
    let above = to.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_directory(above).map_err(OpenError::io(above, "sync the directory"))?;
    let lost = found.damaged_documents.iter().any(|document| document.lost_changes());
    // The count tells of what no row speaks of any more. Without a ledger, the last commits may be unknown.
    let is_all_there = found.records + found.records_of_earlier_epochs >= found.commits.records;
    let kept_all = !lost && is_all_there && found.commits.acknowledged.is_some();
    let written = Report { data: to.to_owned(), ..written };
    Ok(Repaired { to: to.to_owned(), kept_all, found, written })
}

/// Checks that `to` is free, and where to write until it is done.
fn begin(data: &Path, to: &Path) -> Result<PathBuf, OpenError> {
    let taken = |path: &Path, what: &str| {
        Err(OpenError::NotADataDirectory { path: path.to_owned(), what: what.to_owned(), flag: "--to" })
    };
    if to.symlink_metadata().is_ok() {
        return taken(to, "is there already");
    }
    let absolute = |path: &Path| std::path::absolute(path).map_err(OpenError::io(path, "find the directory"));
    if absolute(to)?.starts_with(absolute(data)?) {
        return taken(to, "lies within the damaged directory, which is not changed");
    }
    let Some(name) = to.file_name() else { return taken(to, "is no name for a new directory") };
    let mut part = name.to_owned();
    part.push(".part");
    let part = to.with_file_name(part);
    if part.symlink_metadata().is_ok() {
        return taken(&part, "is there: remove what an interrupted repair left, or choose another --to");
    }
    Ok(part)
}

/// The new directory as it is written.
struct Copy<'p> {
    log: FjallLog,
    appends: Vec<Append>,
    records: usize,
    bytes: usize,
    /// The document's snapshot, and rows that stand for what it holds, until there are enough for a piece.
    covered: Option<Covered>,
    path: &'p Path,
}

struct Covered {
    document: DocumentId,
    epoch: u64,
    piece: Piece,
    last_seq: u64,
}

impl Copy<'_> {
    fn take(&mut self, document: &DocumentId, epoch: u64, proven: Proven) -> Result<(), OpenError> {
        match proven {
            Proven::Row(LogRow::Record(record)) => self.record(document, epoch, record),
            Proven::Row(LogRow::Covered(row)) => self.covered(document, epoch, &row),
            Proven::Snapshot(anchor, bytes) => self.snapshot(document, epoch, *anchor, &bytes),
        }
    }

    fn record(&mut self, document: &DocumentId, epoch: u64, record: Record) -> Result<(), OpenError> {
        if self.covered.as_ref().is_some_and(|covered| covered.last_seq > 0) {
            self.store_covered()?;
        }
        if self.records >= COMMIT_RECORDS_MAX || self.bytes + record.change.len() > COMMIT_BYTES_MAX {
            self.commit()?;
        }
        self.records += 1;
        self.bytes += record.change.len();
        match self.appends.last_mut() {
            Some(last) if last.document == *document && last.epoch == epoch => last.records.push(record),
            _ => self.appends.push(Append { document: document.clone(), epoch, records: vec![record] }),
        }
        Ok(())
    }

    /// Begins a document with its snapshot, which is written anew: its file names the directory.
    fn snapshot(
        &mut self,
        document: &DocumentId,
        epoch: u64,
        anchor: AnchorRow,
        bytes: &[u8],
    ) -> Result<(), OpenError> {
        self.end_document()?;
        let Snapshot { cursor, covered_bytes, .. } = anchor.anchor.snapshot;
        let snapshots = self.log.reader().snapshots();
        let written = snapshots.write(document, anchor.slot, (cursor, covered_bytes), bytes);
        written.map_err(|error| self.failed(error))?;
        let mut piece = Piece::new(document.clone(), Expect::Anything);
        piece.set(KeyspaceId::Meta, anchor_key(document, epoch), anchor.encode(document));
        self.covered = Some(Covered { document: document.clone(), epoch, piece, last_seq: 0 });
        Ok(())
    }

    fn covered(&mut self, document: &DocumentId, epoch: u64, row: &IndexRow) -> Result<(), OpenError> {
        let Some(covered) = &mut self.covered else { return Ok(()) };
        covered.last_seq = row.seq;
        let (key, value) = (change_key(document, epoch, row.seq), row.encode(document, epoch));
        covered.piece.set(KeyspaceId::Changes, key, value);
        let key = hash_key(document, epoch, &row.hash);
        let found = encode_found(&key, Found { seq: row.seq, max_op: row.max_op });
        covered.piece.set(KeyspaceId::Hashes, key, found.to_vec());
        if covered.piece.is_full() { self.store_covered() } else { Ok(()) }
    }

    fn store_covered(&mut self) -> Result<(), OpenError> {
        // In the order of the documents, and before the records that follow.
        self.commit()?;
        let Some(covered) = &mut self.covered else { return Ok(()) };
        let next = Piece::new(covered.document.clone(), Expect::Anything);
        let mut piece = std::mem::replace(&mut covered.piece, next);
        if piece.rows.is_empty() {
            return Ok(());
        }
        if covered.last_seq > 0 {
            piece.head = Some(Head { epoch: covered.epoch, last_seq: covered.last_seq, flags: 0 });
        }
        self.log.store(&piece).map(drop).map_err(|error| self.failed(error))
    }

    fn end_document(&mut self) -> Result<(), OpenError> {
        self.store_covered()?;
        self.covered = None;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), OpenError> {
        (self.records, self.bytes) = (0, 0);
        let appends = std::mem::take(&mut self.appends);
        self.log.commit(&appends).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: LogError) -> OpenError {
        let what = match error {
            LogError::Unavailable { why } => why,
            damaged => damaged.to_string(),
        };
        OpenError::Database { path: self.path.to_owned(), what }
    }
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
