//! The ledger: a small file of our own that says how far the log was acknowledged.
//!
//! The database can lose the end of its journal without a word, so each commit is noted here before it is
//! acknowledged, and the next start compares the two. An entry is written (not synced) before the ack; a
//! thread syncs it within [`LEDGER_SYNC_MS`] off the ack's path. So after a crash of the process the ledger
//! is exact, after a power loss it may lag behind the database by that time, and it never leads.
//!
//! A file is a header of 64 bytes (`magic | u32 number | u64 commit | u64 total records | u64 lineage`,
//! zeroes, `u32 crc32`) and entries of 32 bytes (`u64 commit | u64 total records | u64 lineage | u32 records
//! | u32 crc32`), all little-endian. The header holds the state before the first entry; entry `i` belongs to
//! commit `header + 1 + i`. An entry never crosses a sector, so it is either there, or zero, or damaged.
//! Each start and each [`LEDGER_FILE_BYTES_MAX`] begin a new file; the last two are kept.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::directory::{sync_directory, write_new_file};
use super::error::OpenError;
use super::fields::{Fields, put};
use super::keys::{CommitRow, DirectoryId, seal, unseal};

/// Longest time that an acknowledged commit's entry stays unsynced on a disk that keeps up.
pub const LEDGER_SYNC_MS: u64 = 50;
/// How long the thread gathers entries before it syncs; the rest of [`LEDGER_SYNC_MS`] is for the disk.
const LEDGER_GATHER_MS: u64 = 40;
/// Size at which a new file is begun: half a million commits.
pub const LEDGER_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Files kept: the current one, and the one before as long as the current one may not be on disk.
const LEDGER_FILES_KEPT: u32 = 2;

const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
const MAGIC: [u8; 8] = *b"EPLEDGR1";

/// The state of the log after a commit, as the ledger notes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Number of the commit; 0 before the first.
    pub commit: u64,
    /// Records in all commits up to this one.
    pub total_records: u64,
    /// Chain over all of them.
    pub lineage: u64,
    /// Records in this commit; 0 in a header.
    pub records: u32,
}

impl From<CommitRow> for Mark {
    fn from(row: CommitRow) -> Self {
        Self {
            commit: row.commit,
            total_records: row.total_records,
            lineage: row.lineage,
            records: row.records,
        }
    }
}

impl Mark {
    fn encode(&self, id: DirectoryId) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        put(
            &mut out,
            &[
                &self.commit.to_le_bytes(),
                &self.total_records.to_le_bytes(),
                &self.lineage.to_le_bytes(),
                &self.records.to_le_bytes(),
            ],
        );
        seal(&mut out, &id.0);
        out
    }

    fn decode(id: DirectoryId, stored: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(unseal::<ENTRY_BYTES>(stored, &id.0)?);
        Some(Self {
            commit: fields.u64()?,
            total_records: fields.u64()?,
            lineage: fields.u64()?,
            records: fields.u32()?,
        })
    }
}

fn encode_header(id: DirectoryId, number: u32, base: Mark) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    put(
        &mut out,
        &[
            &MAGIC,
            &number.to_le_bytes(),
            &base.commit.to_le_bytes(),
            &base.total_records.to_le_bytes(),
            &base.lineage.to_le_bytes(),
        ],
    );
    seal(&mut out, &id.0);
    out
}

fn decode_header(id: DirectoryId, stored: &[u8], number: u32) -> Option<Mark> {
    let mut fields = Fields::new(unseal::<HEADER_BYTES>(stored, &id.0)?);
    let magic = fields.take(MAGIC.len())?;
    let found_number = fields.u32()?;
    (magic == MAGIC && found_number == number).then_some(())?;
    Some(Mark { commit: fields.u64()?, total_records: fields.u64()?, lineage: fields.u64()?, records: 0 })
}

fn file_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}.ledger"))
}

/// What the ledger says, read without changing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerScan {
    /// The last commit noted.
    pub last: Mark,
    /// Number of the newest file.
    pub newest_file: u32,
}

/// Reads the whole ledger. An unfinished or zeroed tail is what a crash leaves; anything else that does not
/// fit is damage.
pub fn scan(directory: &Path, id: DirectoryId) -> Result<LedgerScan, OpenError> {
    let numbers = file_numbers(directory)?;
    let mut found: Option<LedgerScan> = None;
    for number in numbers {
        let path = file_path(directory, number);
        let bytes = fs::read(&path).map_err(OpenError::io(&path, "read the ledger"))?;
        let (base, last) = scan_file(&path, &bytes, id, number)?;
        if let Some(before) = found {
            if number != before.newest_file + 1 {
                let missing = file_path(directory, before.newest_file + 1);
                return Err(OpenError::damaged(&missing, None, "a file of the ledger is missing"));
            }
            let same = base.total_records == before.last.total_records && base.lineage == before.last.lineage;
            if base.commit < before.last.commit || (base.commit == before.last.commit && !same) {
                let what = "this file of the ledger does not follow the one before";
                return Err(OpenError::damaged(&path, Some(0), what));
            }
        }
        found = Some(LedgerScan { last, newest_file: number });
    }
    found.ok_or_else(|| OpenError::damaged(directory, None, "the ledger is missing"))
}

fn file_numbers(directory: &Path) -> Result<Vec<u32>, OpenError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::damaged(directory, None, "the ledger is missing"));
        }
        Err(error) => return Err(OpenError::io(directory, "list the ledger's files")(error)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let entry = entry.map_err(OpenError::io(directory, "list the ledger's files"))?;
        let name = entry.file_name();
        let number: Option<u32> = name.to_str().and_then(|name| name.strip_suffix(".ledger")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The state before the first entry, and the last one that is valid.
fn scan_file(path: &Path, bytes: &[u8], id: DirectoryId, number: u32) -> Result<(Mark, Mark), OpenError> {
    let header = bytes.get(..HEADER_BYTES).and_then(|header| decode_header(id, header, number));
    let Some(base) = header else {
        return Err(OpenError::damaged(path, Some(0), "the ledger's header is not what was written"));
    };
    let mut last = base;
    let mut bad: Option<usize> = None;
    let entries = bytes.get(HEADER_BYTES..).unwrap_or_default();
    for (index, stored) in entries.chunks_exact(ENTRY_BYTES).enumerate() {
        let expected = base.commit + 1 + index as u64;
        match Mark::decode(id, stored).filter(|mark| mark.commit == expected) {
            Some(mark) => {
                let adds_up = mark.total_records == last.total_records + u64::from(mark.records);
                if let Some(bad) = bad.or((last.commit + 1 == expected && !adds_up).then_some(index)) {
                    let offset = HEADER_BYTES + bad * ENTRY_BYTES;
                    let what = "an entry in the middle of the ledger is not what was written";
                    return Err(OpenError::damaged(path, Some(offset as u64), what));
                }
                last = mark;
            }
            // A page that a power loss kept from the disk; whether commits are missing is for the
            // comparison with the journals to say.
            None if stored.iter().all(|&byte| byte == 0) => {}
            None => bad = bad.or(Some(index)),
        }
    }
    Ok((base, last))
}

/// Begins the ledger of a new data directory.
pub fn create(directory: &Path, id: DirectoryId) -> Result<(), OpenError> {
    write_new_file(&file_path(directory, 1), &encode_header(id, 1, Mark::default()))
}

#[derive(Debug, Default)]
struct SyncState {
    file: Option<Arc<File>>,
    dirty: bool,
    stop: bool,
    failed: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<SyncState>,
    wake: Condvar,
}

impl Shared {
    // No code panics while it holds the lock, and the state is plain flags.
    fn lock(&self) -> MutexGuard<'_, SyncState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ledger, open for appending.
#[derive(Debug)]
pub struct Ledger {
    directory: PathBuf,
    id: DirectoryId,
    number: u32,
    file: Arc<File>,
    file_bytes: u64,
    file_bytes_max: u64,
    last: Mark,
    shared: Arc<Shared>,
    syncer: Option<JoinHandle<()>>,
}

impl Ledger {
    /// Begins a new file behind `newest_file` that starts from `base`, the database's last commit, and drops
    /// files that are no longer needed.
    pub fn open(directory: &Path, id: DirectoryId, newest_file: u32, base: Mark) -> Result<Self, OpenError> {
        Self::open_with(directory, id, newest_file, base, LEDGER_FILE_BYTES_MAX)
    }

    fn open_with(
        directory: &Path,
        id: DirectoryId,
        newest_file: u32,
        base: Mark,
        file_bytes_max: u64,
    ) -> Result<Self, OpenError> {
        let number = newest_file + 1;
        let path = file_path(directory, number);
        write_new_file(&path, &encode_header(id, number, base))?;
        let file =
            File::options().append(true).open(&path).map_err(OpenError::io(&path, "open the ledger"))?;
        let file = Arc::new(file);
        let shared = Arc::new(Shared::default());
        shared.lock().file = Some(Arc::clone(&file));
        let syncer = std::thread::Builder::new()
            .name("ledger-sync".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || sync_loop(&shared)
            })
            .map_err(OpenError::io(&path, "start the ledger's thread"))?;
        let ledger = Self {
            directory: directory.to_owned(),
            id,
            number,
            file,
            file_bytes: HEADER_BYTES as u64,
            file_bytes_max,
            last: Mark { records: 0, ..base },
            shared,
            syncer: Some(syncer),
        };
        ledger.drop_old_files().map_err(OpenError::io(directory, "remove old files of the ledger"))?;
        Ok(ledger)
    }

    /// Notes a commit: one write, no sync. After an error the ledger must not be used again.
    pub fn append(&mut self, mark: Mark) -> io::Result<()> {
        if let Some(why) = &self.shared.lock().failed {
            return Err(io::Error::other(why.clone()));
        }
        if self.file_bytes + ENTRY_BYTES as u64 > self.file_bytes_max {
            self.next_file()?;
        }
        (&*self.file).write_all(&mark.encode(self.id))?;
        self.file_bytes += ENTRY_BYTES as u64;
        self.last = mark;
        let mut state = self.shared.lock();
        if !state.dirty {
            state.dirty = true;
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    fn next_file(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let number = self.number + 1;
        let path = file_path(&self.directory, number);
        write_new_file(&path, &encode_header(self.id, number, self.last)).map_err(io::Error::other)?;
        self.file = Arc::new(File::options().append(true).open(&path)?);
        self.shared.lock().file = Some(Arc::clone(&self.file));
        self.number = number;
        self.file_bytes = HEADER_BYTES as u64;
        self.drop_old_files()
    }

    fn drop_old_files(&self) -> io::Result<()> {
        for number in file_numbers(&self.directory).map_err(io::Error::other)? {
            if number + LEDGER_FILES_KEPT <= self.number {
                fs::remove_file(file_path(&self.directory, number))?;
            }
        }
        sync_directory(&self.directory)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(syncer) = self.syncer.take() {
            // The thread only syncs; there is nothing to learn from how it ended.
            let _ = syncer.join();
        }
    }
}

fn sync_loop(shared: &Shared) {
    loop {
        let mut state = shared.lock();
        while !state.dirty && !state.stop {
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let gather = Duration::from_millis(LEDGER_GATHER_MS);
        state = shared
            .wake
            .wait_timeout_while(state, gather, |state| !state.stop)
            .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        let stop = state.stop;
        if std::mem::take(&mut state.dirty) {
            // Not a descriptor of its own: a server that has none left must still be able to sync.
            let file = state.file.clone();
            drop(state);
            if let Some(Err(error)) = file.map(|file| file.sync_data()) {
                shared.lock().failed = Some(format!("the ledger could not be synced: {error}"));
                shared.wake.notify_all();
                return;
            }
        }
        if stop {
            return;
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
