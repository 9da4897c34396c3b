//! Writes a data directory's documents, as they are at one commit, as a backup.

use std::io::Write;
use std::path::Path;

use etherply_engine::ids::DocumentId;
use etherply_engine::log::{LogError, LogReader as _};

use super::format::{Begin, DocumentHeader, End, SectionWriter};
use super::{BackupError, Summary};
use crate::clock::now_ms;
use crate::materialise::whole::WholeLog;
use crate::storage::keys::Head;
use crate::storage::{DocumentEntry, Reader};

/// Documents that are listed at once.
const PAGE_DOCUMENTS: usize = 1_000;
/// Bytes of changes that are read at once.
const READ_BYTES_MAX: usize = 256 * 1024;

/// Takes a backup of all that is durable now; commits go on meanwhile, and are not in it. Memory does not grow
/// with what is stored, but for the document that is being written: see [`WholeLog`]. `progress` is told the documents and bytes written so far.
///
/// A damaged document is taken up to its damage, which the backup and its summary name; of one of which it is not
/// known any more how far it goes, its name is.
///
/// # Errors
/// [`BackupError::Log`] if the database cannot be read at all; the backup says so and has no end.
/// [`BackupError::Io`] if it cannot be written; `path` is for that.
pub fn take(
    reader: &Reader,
    out: impl Write,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Summary, BackupError> {
    // The log of now names snapshots of now: they must be there until the end.
    let _held = reader.snapshots().hold();
    let pinned = reader.pinned();
    let (directory, commit) = pinned.commit()?;
    let begin = Begin {
        directory: directory.0,
        commit: commit.commit,
        lineage: commit.lineage,
        taken_ms: now_ms(),
        etherply: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let summary = Summary {
        directory: format!("{:032x}", u128::from_be_bytes(begin.directory)),
        commit: begin.commit,
        taken_ms: begin.taken_ms,
        etherply: begin.etherply.clone(),
        ..Summary::default()
    };
    let written = || BackupError::io(path, "write");
    let sections = SectionWriter::new(out, &begin).map_err(written())?;
    let mut taking = Taking { reader: &pinned, sections, summary, path };
    match taking.documents(progress) {
        Ok(()) => {}
        Err(BackupError::Log(error)) => {
            taking.sections.give_up(&error.to_string()).map_err(written())?;
            return Err(error.into());
        }
        Err(error) => return Err(error),
    }
    taking.sections.end(&End::from(&taking.summary)).map_err(written())?;
    taking.summary.bytes = taking.sections.bytes;
    Ok(taking.summary)
}

struct Taking<'a, W> {
    reader: &'a Reader,
    sections: SectionWriter<W>,
    summary: Summary,
    path: &'a Path,
}

impl<W: Write> Taking<'_, W> {
    fn documents(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), BackupError> {
        let mut after: Option<DocumentId> = None;
        loop {
            let page = self.reader.documents("", after.as_ref(), PAGE_DOCUMENTS)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.document.clone());
            for entry in page {
                self.document(entry)?;
                progress(self.summary.documents, self.sections.bytes);
            }
        }
    }

    fn document(&mut self, entry: DocumentEntry) -> Result<(), BackupError> {
        let DocumentEntry { document, head } = entry;
        let written = || BackupError::io(self.path, "write");
        let mut damage = None;
        let unknown = Head { epoch: 0, last_seq: 0, flags: 0 };
        let head = unless_damaged(head, &mut damage)?.unwrap_or(unknown);
        let past = unless_damaged(self.reader.past(&document), &mut damage)?.unwrap_or_default();
        let (Head { epoch, last_seq, .. }, is_deleted) = (head, head.is_deleted());
        let header = DocumentHeader { document: document.clone(), epoch, last_seq, is_deleted, past };
        self.sections.document(&header).map_err(written())?;
        if is_deleted {
            self.summary.deleted += 1;
            return Ok(());
        }
        self.summary.documents += 1;
        let (mut seq, mut through) = (0, last_seq);
        let mut log = WholeLog::new(document.clone(), epoch);
        while seq < through {
            let mut found = None;
            let records = unless_damaged(log.next(self.reader, through, READ_BYTES_MAX), &mut found)?;
            let Some(records) = records else {
                // What stands before the damage is read again, without it.
                through = found.as_ref().map_or(0, |(seq, _)| seq.saturating_sub(1)).min(through - 1);
                damage = found;
                continue;
            };
            for record in &records {
                let stored = record.encode(&document, epoch);
                self.sections.record(&stored).map_err(written())?;
                self.summary.records += 1;
                self.summary.change_bytes += record.change.len() as u64;
                seq = record.seq;
            }
        }
        if let Some(what) = self.versions(&document)? {
            damage = Some(match damage {
                Some((seq, before)) => (seq, format!("{before}; {what}")),
                None => (last_seq.saturating_add(1), what),
            });
        }
        if let Some((seq, what)) = damage {
            self.sections.damaged(seq, &what).map_err(written())?;
            self.summary.note_damaged(document.as_str(), seq, &what);
        }
        Ok(())
    }
}

impl<W: Write> Taking<'_, W> {
    /// Takes a document's named versions, those of now; what is wrong with those that cannot be read.
    fn versions(&mut self, document: &DocumentId) -> Result<Option<String>, BackupError> {
        let versions = self.reader.snapshots().versions();
        let mut wrong: Vec<String> = Vec::new();
        for found in versions.each(document).unwrap_or_else(|error| vec![Err(error)]) {
            let read = found.and_then(|version| Ok((versions.read(document, &version)?, version)));
            match read {
                Ok((automerge, version)) => {
                    let written = self.sections.version(&version, &automerge);
                    written.map_err(BackupError::io(self.path, "write"))?;
                    self.summary.versions += 1;
                }
                // It was deleted meanwhile.
                Err(error) if error.is_gone() => {}
                Err(error) => wrong.push(error.to_string()),
            }
        }
        Ok((!wrong.is_empty()).then(|| wrong.join("; ")))
    }
}

/// What was read of a document, or the position of its damage and what was found there.
fn unless_damaged<T>(
    read: Result<T, LogError>,
    damage: &mut Option<(u64, String)>,
) -> Result<Option<T>, LogError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(LogError::Damaged { seq, what, .. }) => {
            *damage = Some((seq, what));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
