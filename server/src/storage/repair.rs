//! Keeps what is proven of a damaged data directory, in a new one.
//!
//! Of each document the longest prefix that is proven goes over, with its epoch, positions and chain; rows that are
//! damaged and whose changes are in a snapshot are made anew. So clients
//! whose copies end within it resume as always. A client that has more asks for a position, or a chain, that the
//! new log does not have, so both sides compare what they have and the client pushes what is missing. The damaged
//! directory is only read. The new one gets its name when all of it is on disk and was read back.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use etherply_engine::change::ChangeHash;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{LogError, Past};
use etherply_engine::record::Record;
use etherply_engine::snapshot::Snapshot;
use etherply_wire::kinds::Cursor;
use fjall::Readable as _;
use serde::Serialize;

use super::anchor::AnchorRow;
use super::directory::{beside, put_in_place};
use super::error::OpenError;
use super::index::{IndexRow, LogRow};
use super::inspect::report::Report;
use super::inspect::walk::{Missing, Nobody, Taker};
use super::inspect::{Inspection, Progress};
use super::keys::{Head, KeyspaceId, anchor_key, rows_of_document};
use super::log::{FjallLog, Writer, read_failed};
use super::thread::{COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX};

/// What is added to the name of the directory while it is made.
const UNFINISHED: &str = ".part";

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

/// Takes the changes out of a document's snapshot again.
pub type Unpack = fn(&DocumentId, Cursor, &[u8]) -> Result<HashMap<ChangeHash, Bytes>, String>;

/// Writes what is proven in `data` to a new data directory, `to`. `unpack` is asked where rows are damaged whose
/// changes are in a snapshot.
///
/// # Errors
/// That one cannot look at `data`, or that `to` is there already or cannot be written.
pub fn repair(
    data: &Path,
    to: &Path,
    unpack: Unpack,
    progress: &mut dyn FnMut(Progress),
) -> Result<Repaired, OpenError> {
    let inspection = Inspection::open(data)?;
    let part = begin(data, to)?;
    let repaired = write(inspection, to, (&part, unpack), progress);
    if repaired.is_err() {
        // Made by this run, and of no use. Should it stay, the next run says so.
        drop(fs::remove_dir_all(&part));
    }
    repaired
}

fn write(
    inspection: Inspection,
    to: &Path,
    (part, unpack): (&Path, Unpack),
    progress: &mut dyn FnMut(Progress),
) -> Result<Repaired, OpenError> {
    let mut copy = Copy::new(part, unpack)?;
    let found = inspection.walk(&mut copy, progress)?;
    copy.finish()?;
    let written = Inspection::open(part)?.walk(&mut Nobody, &mut |_| {})?;
    if !written.whole {
        let what =
            "what was written does not read back as it should: the disk that it is on is not to be trusted";
        return Err(OpenError::damaged(part, None, what));
    }
    put_in_place(part, to).map_err(OpenError::io(to, "give the new directory its name"))?;
    let lost = found.damaged_documents.iter().any(|document| document.lost_changes());
    // Without a ledger, commits may be missing of which nothing is known.
    let kept_all = !lost && found.commits.missing.is_empty() && found.commits.acknowledged.is_some();
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
    if to.file_name().is_none() {
        return taken(to, "is no name for a new directory");
    }
    let part = beside(to, UNFINISHED);
    if part.symlink_metadata().is_ok() {
        return taken(&part, "is there: remove what an interrupted repair left, or choose another --to");
    }
    Ok(part)
}

/// The new directory as it is written.
struct Copy<'p> {
    log: FjallLog,
    path: &'p Path,
    unpack: Unpack,
    /// The newest snapshot that was told.
    snapshot: Option<(AnchorRow, Vec<u8>)>,
    anchors: Vec<(DocumentId, AnchorRow)>,
    rows: Vec<(DocumentId, u64, LogRow)>,
    bytes: usize,
    ends: Vec<(DocumentId, Head, Option<Past>)>,
}

impl Taker for Copy<'_> {
    /// Written anew, because its file names the directory.
    fn snapshot(
        &mut self,
        document: &DocumentId,
        anchor: AnchorRow,
        bytes: Vec<u8>,
    ) -> Result<(), OpenError> {
        let Snapshot { cursor, covered_bytes, .. } = anchor.anchor.snapshot;
        let snapshots = self.log.reader().snapshots();
        let written = snapshots.write(document, anchor.slot, (cursor, covered_bytes), &bytes);
        written.map_err(|error| self.failed(error))?;
        self.anchors.push((document.clone(), anchor.clone()));
        self.snapshot = Some((anchor, bytes));
        Ok(())
    }

    fn missing(&mut self, document: &DocumentId, rows: Vec<Missing>) -> Result<(), OpenError> {
        let Some((anchor, bytes)) = self.snapshot.take() else { return Ok(()) };
        let Snapshot { cursor, log_after_seq, .. } = anchor.anchor.snapshot;
        let mut changes = (self.unpack)(document, cursor, &bytes)
            .map_err(|what| self.failed(LogError::damaged(document, 1, what)))?;
        for Missing { seq, hash, max_op, chain } in rows {
            let damaged = |what: &str| self.failed(LogError::damaged(document, seq, what));
            let change = changes.remove(&hash);
            let change = change.ok_or_else(|| damaged("the snapshot does not have its change"))?;
            // Nobody knows any more who sent it, and when.
            let record = Record { seq, hash, chain, max_op, time_ms: 0, pusher: Arc::from(""), change };
            let row = match seq <= log_after_seq {
                true => LogRow::Covered(IndexRow::of(&record).map_err(|what| damaged(&what))?),
                false => LogRow::Record(record),
            };
            self.row(document, cursor.epoch, row)?;
        }
        Ok(())
    }

    fn lost(&mut self, document: &DocumentId) -> Result<(), OpenError> {
        self.commit()?;
        let mut is_left = true;
        while is_left {
            let taken_back = self.log.write(|writer| {
                is_left = writer.take_back(document)?;
                Ok(())
            });
            taken_back.map_err(|error| self.failed(error))?;
        }
        if let Some((anchor, _)) = self.snapshot.take() {
            self.log.reader().snapshots().remove(document, anchor.slot);
        }
        Ok(())
    }

    fn row(&mut self, document: &DocumentId, epoch: u64, row: LogRow) -> Result<(), OpenError> {
        let bytes = row.change_bytes();
        if self.rows.len() >= COMMIT_RECORDS_MAX || self.bytes + bytes > COMMIT_BYTES_MAX {
            self.commit()?;
        }
        self.bytes += bytes;
        self.rows.push((document.clone(), epoch, row));
        Ok(())
    }

    fn end(&mut self, document: &DocumentId, head: Head, past: Option<Past>) -> Result<(), OpenError> {
        self.snapshot = None;
        self.ends.push((document.clone(), head, past));
        if self.ends.len() >= COMMIT_RECORDS_MAX { self.commit() } else { Ok(()) }
    }
}

impl<'p> Copy<'p> {
    fn new(path: &'p Path, unpack: Unpack) -> Result<Self, OpenError> {
        let log = super::open(path)?;
        let (anchors, rows, ends) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { log, path, unpack, snapshot: None, anchors, rows, bytes: 0, ends })
    }

    fn commit(&mut self) -> Result<(), OpenError> {
        self.bytes = 0;
        let (rows, anchors) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.anchors));
        let ends = std::mem::take(&mut self.ends);
        let written = self.log.write(|writer| {
            let mut batch = writer.begin(rows.len())?;
            for (document, anchor) in &anchors {
                let key = anchor_key(document, anchor.anchor.snapshot.cursor.epoch);
                writer.set(&mut batch, KeyspaceId::Meta, &key, &anchor.encode(document));
            }
            for (document, epoch, row) in &rows {
                match row {
                    LogRow::Record(record) => writer.add_record(&mut batch, document, *epoch, record),
                    LogRow::Covered(row) => writer.add_index(&mut batch, document, *epoch, row),
                }
            }
            for (document, head, past) in &ends {
                writer.add_head(&mut batch, document, *head);
                if let Some(past) = past {
                    writer.add_past(&mut batch, document, past);
                }
            }
            writer.finish(batch)
        });
        written.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: LogError) -> OpenError {
        let what = match error {
            LogError::Unavailable { why } => why,
            damaged => damaged.to_string(),
        };
        OpenError::Database { path: self.path.to_owned(), what }
    }

    fn finish(mut self) -> Result<(), OpenError> {
        if self.rows.is_empty() && self.ends.is_empty() {
            return Ok(());
        }
        self.commit()
    }
}

impl Writer {
    /// Removes rows of a document that never came to be; whether there may be more.
    fn take_back(&mut self, document: &DocumentId) -> Result<bool, LogError> {
        let committed = self.committed_snapshot();
        let mut rows = self.begin(0)?;
        let mut removed = 0;
        for id in [KeyspaceId::Changes, KeyspaceId::Hashes] {
            let of_it = committed.range(self.keyspaces.get(id), rows_of_document(document));
            for row in of_it.take(COMMIT_RECORDS_MAX) {
                self.remove(&mut rows, id, &row.key().map_err(|error| read_failed(&error))?);
                removed += 1;
            }
        }
        let anchors = anchor_key(document, 0)..=anchor_key(document, u64::MAX);
        for row in committed.range(&self.keyspaces.meta, anchors) {
            self.remove(&mut rows, KeyspaceId::Meta, &row.key().map_err(|error| read_failed(&error))?);
        }
        self.finish(rows)?;
        Ok(removed > 0)
    }
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
