//! Makes a new data directory of a backup.
//!
//! Every document gets a new epoch. So no cursor of a client's fits any more, and whoever comes back compares what
//! it has with what is here: it brings what was acknowledged behind the backup, and gets what it lacks.
//!
//! The directory is made beside its place and moved there when all of it was read back and compared: an
//! interrupted restore leaves nothing that a server would open.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::document::recover;
use etherply_engine::ids::ChainHash;
use etherply_engine::log::{Append, Log as _, LogReader as _, Past};
use etherply_engine::record::Record;

use super::format::DocumentHeader;
use super::walk::{Visitor, walk};
use super::{BackupError, Summary};
use crate::storage::directory::{beside, make_directory, put_in_place};
use crate::storage::thread::{COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX};
use crate::storage::versions::Version;
use crate::storage::{self, FjallLog};

/// What is added to the name of the directory while it is made.
const UNFINISHED: &str = ".restoring";

/// What a restore is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Writing the new directory.
    Writing,
    /// Reading it back and comparing it.
    Comparing,
}

/// Restores the backup `file` as the data directory `data`, which must not exist yet, or be empty. `progress` is
/// told the bytes of the backup read so far in each step.
///
/// # Errors
/// [`BackupError`]; `data` is as before then.
pub fn restore(
    file: &Path,
    data: &Path,
    progress: &mut dyn FnMut(Step, u64),
) -> Result<Summary, BackupError> {
    expect_room(data)?;
    let unfinished = beside(data, UNFINISHED);
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(BackupError::io(&unfinished, "remove what an interrupted restore left in")(error));
        }
        _ => {}
    }
    let restored = write_and_compare(file, &unfinished, progress).and_then(|summary| {
        // Over an empty directory as well, and never over one that is not.
        put_in_place(&unfinished, data).map_err(BackupError::io(data, "move the restored directory to"))?;
        Ok(summary)
    });
    if restored.is_err() {
        // Should it stay, the next restore removes it.
        drop(fs::remove_dir_all(&unfinished));
    }
    restored
}

fn expect_room(data: &Path) -> Result<(), BackupError> {
    match fs::read_dir(data).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(BackupError::Exists { path: data.to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && data.file_name().is_some() => {
            let above = data.parent().filter(|above| !above.as_os_str().is_empty());
            above.map_or(Ok(()), |above| make_directory(above).map_err(BackupError::from))
        }
        Err(error) => Err(BackupError::io(data, "look into")(error)),
    }
}

fn write_and_compare(
    file: &Path,
    unfinished: &Path,
    progress: &mut dyn FnMut(Step, u64),
) -> Result<Summary, BackupError> {
    let open = || File::open(file).map(BufReader::new).map_err(BackupError::io(file, "open"));
    let mut writing = Writing::new(storage::open(unfinished)?);
    let summary = walk(open()?, file, &mut writing, &mut |bytes| progress(Step::Writing, bytes))?;
    drop(writing);
    // Opened anew: what is compared is what a server would read.
    let mut comparing = Comparing { log: storage::open(unfinished)?, chain: ChainHash::default() };
    let again = walk(open()?, file, &mut comparing, &mut |bytes| progress(Step::Comparing, bytes))?;
    if again != summary {
        let (path, what) = (file.to_owned(), "it changed while it was read".to_owned());
        return Err(BackupError::Damaged { path, offset: 0, what });
    }
    Ok(summary)
}

/// The epoch of a restored document.
fn epoch(header: &DocumentHeader) -> u64 {
    header.epoch.saturating_add(1)
}

/// Gives a record its place in the new epoch.
fn rechain(chain: &mut ChainHash, record: &mut Record) {
    *chain = chain_next(chain, record.seq, &record.hash);
    record.chain = *chain;
}

/// Writes the documents, in commits as large as those of a busy server.
struct Writing {
    log: FjallLog,
    appends: Vec<Append>,
    records: usize,
    bytes: usize,
    chain: ChainHash,
}

impl Writing {
    fn new(log: FjallLog) -> Self {
        Self { log, appends: Vec::new(), records: 0, bytes: 0, chain: ChainHash::default() }
    }

    fn commit(&mut self) -> Result<(), BackupError> {
        self.log.commit(&self.appends)?;
        self.appends.clear();
        (self.records, self.bytes) = (0, 0);
        Ok(())
    }
}

impl Visitor for Writing {
    fn document(&mut self, header: &DocumentHeader) -> Result<(), BackupError> {
        self.chain = chain_start(&header.document, epoch(header));
        if header.is_deleted {
            self.log.restore_tombstone(&header.document, epoch(header))?;
        }
        Ok(())
    }

    fn document_end(&mut self, header: &DocumentHeader, last_seq: u64) -> Result<(), BackupError> {
        let is_there = last_seq > 0 && header.past == Past::default();
        if !header.is_deleted && !is_there {
            self.commit()?;
            self.log.restore_past(&header.document, epoch(header), &header.past)?;
        }
        Ok(())
    }

    fn records(&mut self, header: &DocumentHeader, mut records: Vec<Record>) -> Result<(), BackupError> {
        let bytes: usize = records.iter().map(|record| record.change.len()).sum();
        if self.records + records.len() > COMMIT_RECORDS_MAX || self.bytes + bytes > COMMIT_BYTES_MAX {
            self.commit()?;
        }
        self.records += records.len();
        self.bytes += bytes;
        for record in &mut records {
            rechain(&mut self.chain, record);
        }
        self.appends.push(Append { document: header.document.clone(), epoch: epoch(header), records });
        Ok(())
    }

    fn version(
        &mut self,
        header: &DocumentHeader,
        version: &Version,
        automerge: &[u8],
    ) -> Result<(), BackupError> {
        let versions = self.log.reader().snapshots().versions();
        versions.create(&header.document, version.clone(), automerge)?;
        Ok(())
    }

    fn walk_end(&mut self) -> Result<(), BackupError> {
        self.commit()
    }
}

/// Compares each document with the backup.
struct Comparing {
    log: FjallLog,
    chain: ChainHash,
}

fn differs(header: &DocumentHeader, what: &str) -> BackupError {
    BackupError::RestoredWrongly { document: header.document.to_string(), what: what.to_owned() }
}

impl Visitor for Comparing {
    fn document(&mut self, header: &DocumentHeader) -> Result<(), BackupError> {
        self.chain = chain_start(&header.document, epoch(header));
        Ok(())
    }

    fn records(&mut self, header: &DocumentHeader, mut records: Vec<Record>) -> Result<(), BackupError> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
        let (after, through) = (first.seq.saturating_sub(1), last.seq);
        for record in &mut records {
            rechain(&mut self.chain, record);
        }
        let stored = self.log.reader().read(&header.document, epoch(header), after, through, usize::MAX)?;
        if stored == records { Ok(()) } else { Err(differs(header, "its records")) }
    }

    fn version(
        &mut self,
        header: &DocumentHeader,
        version: &Version,
        automerge: &[u8],
    ) -> Result<(), BackupError> {
        let versions = self.log.reader().snapshots().versions();
        let restored = versions.find(&header.document, &version.name)?;
        let is_same = restored == *version && versions.read(&header.document, &restored)? == automerge;
        if is_same { Ok(()) } else { Err(differs(header, "a named version")) }
    }

    fn document_end(&mut self, header: &DocumentHeader, last_seq: u64) -> Result<(), BackupError> {
        let reader = self.log.reader();
        if header.is_deleted {
            let is_buried = reader.head(&header.document)?.is_some_and(|head| head.is_deleted());
            return if is_buried { Ok(()) } else { Err(differs(header, "its tombstone")) };
        }
        if reader.past(&header.document)? != header.past {
            return Err(differs(header, "what earlier epochs left behind"));
        }
        // As a server does when the document is opened.
        let end = recover(reader, &header.document)?.committed();
        let is_same = (end.epoch, end.chain) == (epoch(header), self.chain.0);
        if is_same && end.seq == last_seq { Ok(()) } else { Err(differs(header, "where it ends")) }
    }
}
