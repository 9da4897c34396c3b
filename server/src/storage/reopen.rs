//! The log, opened again in the same process after a write or a sync failed.
//!
//! The database takes nothing any more after such a failure, and rightly so: nobody knows what is on disk. So it is
//! closed and opened as at a start, with the scan of journals and ledger, once writing to the disk works again. Until
//! then it is read as it was. Of the commit that failed it is not known whether it is there; whoever keeps state of
//! its documents in memory has to read them again. Nothing else can be there: after a failure nothing is written.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use etherply_engine::ids::DocumentId;

use super::directory::DataDirectory;
use super::error::OpenError;
use super::log::FjallLog;
use super::reader::Opened;
use super::scan::all_journals;

/// First wait before the log is opened again after a failure.
pub const REOPEN_WAIT_MS: u64 = 1_000;
/// Longest wait between two attempts; each attempt that fails doubles it.
pub const REOPEN_WAIT_MAX_MS: u64 = 30_000;
/// Bytes that have to be free beside those of the newest journal, which may have to be written anew.
pub const REOPEN_ROOM_BYTES: u64 = 1024 * 1024;
/// How long questions that are being answered may take before the attempt is given up.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
const PROBE_FILE: &str = "probe";
const PROBE_BYTES: usize = 4_096;

/// A log that can be opened again.
pub trait Reopen {
    /// Whether it takes no writes any more.
    fn has_failed(&self) -> bool;

    /// Opens it again. Documents of the commit that failed, which may or may not be there now.
    ///
    /// # Errors
    /// What a start would say, or that writing still does not work; then it can be tried again.
    fn reopen(&mut self) -> Result<Vec<DocumentId>, OpenError>;
}

impl Reopen for FjallLog {
    fn has_failed(&self) -> bool {
        self.writer.as_ref().is_none_or(|writer| writer.has_failed())
    }

    fn reopen(&mut self) -> Result<Vec<DocumentId>, OpenError> {
        let directory = Arc::clone(&self.reader.directory);
        // While it is not known that writing works, what is open is better than nothing: it can be read.
        probe(&directory)?;
        let slot = Arc::clone(&self.reader.slot);
        let mut slot = slot.write().unwrap_or_else(PoisonError::into_inner);
        self.writer = None;
        if let Some(opened) = slot.take()
            && let Err(opened) = close(opened)
        {
            *slot = Some(opened);
            let late = io::Error::from(io::ErrorKind::TimedOut);
            return Err(OpenError::io(directory.path(), "close the database: a question takes too long")(
                late,
            ));
        }
        // Beside the calling thread, which may have a place before the executors.
        let opened = std::thread::scope(|scope| scope.spawn(|| super::open_in(&directory)).join());
        let panicked = |_| OpenError::Database {
            path: directory.database_path(),
            what: "its code panicked: see the message above".to_owned(),
        };
        let ready = opened.map_err(panicked)??;
        *slot = Some(Arc::new(self.write_to(ready)));
        Ok(std::mem::take(&mut self.doubtful))
    }
}

/// Waits until nobody reads, then closes; nobody new can come, because the caller holds the slot.
fn close(mut opened: Arc<Opened>) -> Result<(), Arc<Opened>> {
    let begun = Instant::now();
    loop {
        match Arc::try_unwrap(opened) {
            Ok(opened) => {
                drop(opened);
                return Ok(());
            }
            Err(shared) if begun.elapsed() > CLOSE_PATIENCE => return Err(shared),
            Err(shared) => opened = shared,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Does writing work, and is there room for what a start may have to write?
fn probe(directory: &DataDirectory) -> Result<(), OpenError> {
    let path = directory.path().join(PROBE_FILE);
    let action = "write to the data directory again";
    let newest = all_journals(&directory.database_path()).pop();
    let journal_bytes =
        newest.and_then(|journal| journal.metadata().ok()).map_or(0, |file| 512 * file.blocks());
    let disk = rustix::fs::statvfs(directory.path())
        .map_err(|error| OpenError::io(directory.path(), action)(error.into()))?;
    if disk.f_bavail.saturating_mul(disk.f_frsize) < journal_bytes + REOPEN_ROOM_BYTES {
        return Err(OpenError::io(directory.path(), action)(io::ErrorKind::StorageFull.into()));
    }
    let write = || {
        let mut file = File::create(&path)?;
        file.write_all(&[1; PROBE_BYTES])?;
        file.sync_all()?;
        fs::remove_file(&path)
    };
    write().map_err(OpenError::io(&path, action))
}

#[cfg(test)]
#[path = "reopen_tests.rs"]
mod tests;
