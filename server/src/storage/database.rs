//! How the database is set up and opened. Nothing here decides whether it may be opened: that is the scan's.

use std::any::Any;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Snapshot,
};

use super::directory::sync_directory;
use super::error::{DAMAGE_ADVICE, Damage, OpenError, advice};
use super::keys::{COMMIT_KEY, KeyspaceId};
use crate::priority;

/// Blocks of tables kept in memory. The engine holds what is in use; reads of the log are cold.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Size of all journals at which memtables that hold the oldest one back are flushed. A journal is closed at
/// 64 MB; a start reads all of them, so this bounds the time of a start as well.
const JOURNALS_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// One worker flushes and the other compacts: with a single one, a long compaction holds up flushes until
/// commits stall at four memtables that wait.
const WORKER_THREADS: usize = 2;
/// How the names of the database's threads begin.
const THREADS_PREFIX: &str = "fjall:";
/// Table files that stay open. Sockets need the process's descriptors more.
const OPEN_TABLES_MAX: usize = 128;

/// Memtables of one keyspace that wait for their flush, at which commits wait. fjall itself waits at 4, and
/// for ever if the flush has failed; one more can come during a commit.
const WAITING_MEMTABLES_MAX: usize = 3;
/// Runs of a keyspace's newest tables that wait for compaction, at which commits wait; fjall itself does at 30.
const WAITING_RUNS_MAX: usize = 24;
/// How often a commit that waits looks again.
const WAIT_POLL_MS: u64 = 5;

/// Size at which a keyspace's memtable is flushed.
fn memtable_bytes(keyspace: KeyspaceId) -> u64 {
    const MIB: u64 = 1024 * 1024;
    match keyspace {
        KeyspaceId::Changes => 16 * MIB,
        KeyspaceId::Hashes => 8 * MIB,
        KeyspaceId::Documents | KeyspaceId::Meta => 4 * MIB,
    }
}

/// Handles of all keyspaces.
#[derive(Clone)]
pub struct Keyspaces {
    /// [`KeyspaceId::Changes`].
    pub changes: Keyspace,
    /// [`KeyspaceId::Hashes`].
    pub hashes: Keyspace,
    /// [`KeyspaceId::Documents`].
    pub documents: Keyspace,
    /// [`KeyspaceId::Meta`].
    pub meta: Keyspace,
}

impl std::fmt::Debug for Keyspaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyspaces").finish_non_exhaustive()
    }
}

impl Keyspaces {
    fn open(database: &Database, path: &Path) -> Result<Self, OpenError> {
        let open = |id: KeyspaceId| {
            let keyspace = database
                .keyspace(id.name(), || {
                    KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes(id))
                })
                .map_err(|error| open_failed(path, &error))?;
            if keyspace.id() == id as u64 {
                return Ok(keyspace);
            }
            // The scan knows keyspaces by their numbers, so another number would blind it.
            let what =
                format!("keyspace {} has number {} instead of {}", id.name(), keyspace.id(), id as u64);
            Err(OpenError::Database { path: path.to_owned(), what })
        };
        Ok(Self {
            changes: open(KeyspaceId::Changes)?,
            hashes: open(KeyspaceId::Hashes)?,
            documents: open(KeyspaceId::Documents)?,
            meta: open(KeyspaceId::Meta)?,
        })
    }

    /// A keyspace by its number.
    pub fn get(&self, id: KeyspaceId) -> &Keyspace {
        match id {
            KeyspaceId::Changes => &self.changes,
            KeyspaceId::Hashes => &self.hashes,
            KeyspaceId::Documents => &self.documents,
            KeyspaceId::Meta => &self.meta,
        }
    }

    /// All of them.
    pub fn all(&self) -> [&Keyspace; 4] {
        [&self.changes, &self.hashes, &self.documents, &self.meta]
    }

    /// Are flushes or compactions so far behind that a commit has to wait for them?
    pub fn behind(&self) -> bool {
        self.all().into_iter().any(|keyspace| {
            keyspace.sealed_memtable_count() >= WAITING_MEMTABLES_MAX
                || keyspace.tree.l0_run_count() >= WAITING_RUNS_MAX
        })
    }

    /// Sequence number of the last batch plus 1; 0 if there is none. Every batch writes the row in `meta`.
    pub fn seqno_end(&self) -> u64 {
        self.meta.tree.get_highest_seqno().map_or(0, |seqno| seqno + 1)
    }

    /// Sequence number, plus 1, up to which the tables hold all batches; 0 if there are none. Every batch
    /// writes to every keyspace, so a journal may be dropped when all keyspaces' tables are past it.
    pub fn tables_end(&self) -> u64 {
        let ends = self
            .all()
            .map(|keyspace| keyspace.tree.get_highest_persisted_seqno().map_or(0, |seqno| seqno + 1));
        ends.into_iter().min().unwrap_or(0)
    }

    /// Writes everything to tables, and one table of each keyspace's.
    #[cfg(test)]
    pub fn flush_and_compact(&self) -> Result<(), fjall::Error> {
        for keyspace in self.all() {
            keyspace.rotate_memtable_and_wait()?;
            keyspace.major_compact()?;
        }
        Ok(())
    }

    /// The row of the last commit, as stored.
    pub fn commit_row(&self, snapshot: &Snapshot) -> Result<Option<Vec<u8>>, fjall::Error> {
        use fjall::Readable;
        Ok(snapshot.get(&self.meta, COMMIT_KEY)?.map(|stored| stored.to_vec()))
    }
}

/// Opens the database at `path`, or makes an empty one. It changes files there, even when it fails.
///
/// Somebody waits for this, and nobody for what its worker threads do: they get a lower priority once it is open.
pub fn open(path: &Path) -> Result<(Database, Keyspaces), OpenError> {
    let opened = std::thread::scope(|scope| {
        // A thread has the name of the one that starts it until it gives itself another.
        let opening = std::thread::Builder::new().name(format!("{THREADS_PREFIX}open"));
        let opening = opening.spawn_scoped(scope, || open_here(path));
        opening.map_err(OpenError::io(path, "start a thread"))?.join().unwrap_or_else(|panic| {
            Err(OpenError::Database { path: path.to_owned(), what: panic_text(&*panic) })
        })
    });
    priority::lower_named(THREADS_PREFIX);
    opened
}

fn open_here(path: &Path) -> Result<(Database, Keyspaces), OpenError> {
    make_lock(path)?;
    let database = Database::builder(path)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(JOURNALS_BYTES_MAX)
        .worker_threads(WORKER_THREADS)
        .max_cached_files(Some(OPEN_TABLES_MAX))
        // Costs time on the way to the ack, and the scan reads journals as they are.
        .journal_compression(CompressionType::None)
        .open()
        .map_err(|error| open_failed(path, &error))?;
    let keyspaces = Keyspaces::open(&database, path)?;
    sync_names(path)?;
    Ok((database, keyspaces))
}

/// fjall makes a directory for each keyspace and does not sync the one that they stand in: after a power loss they, and
/// all that was stored, could be without a name.
fn sync_names(path: &Path) -> Result<(), OpenError> {
    for directory in [path.join("keyspaces"), path.to_owned()] {
        sync_directory(&directory).map_err(OpenError::io(&directory, "sync the directory"))?;
    }
    Ok(())
}

/// fjall wants its lock's file to be there; it holds nothing that could be missing.
fn make_lock(path: &Path) -> Result<(), OpenError> {
    let lock = path.join("lock");
    if path.join("version").exists() && !lock.exists() {
        File::create(&lock).map_err(OpenError::io(&lock, "make the lock"))?;
    }
    Ok(())
}

/// The error of a database that does not open, or cannot be read while it is opened.
pub fn open_failed(path: &Path, error: &fjall::Error) -> OpenError {
    if !is_damage(error) {
        return OpenError::Database { path: path.to_owned(), what: advice_for(error) };
    }
    let what = format!("the database does not open, because of the files that hold it: {error}");
    let damage = Damage { path: path.to_owned(), what, after_open: true, ..Damage::default() };
    OpenError::Damaged(Box::new(damage))
}

/// Waits until flushes and compactions have caught up; fails if they cannot any more.
pub fn wait_until_caught_up(database: &Database, keyspaces: &Keyspaces) -> Result<(), fjall::Error> {
    while keyspaces.behind() {
        // Syncs nothing, but says whether a worker has failed.
        database.persist(PersistMode::Buffer)?;
        std::thread::sleep(Duration::from_millis(WAIT_POLL_MS));
    }
    Ok(())
}

/// The database's error for people: its cause, and what to do where that is known.
pub fn advice_for(error: &fjall::Error) -> String {
    use fjall::{Error, LsmError};
    let damaged = |what: &str| format!("{what} is not what was written: {DAMAGE_ADVICE}");
    match error {
        Error::Io(io) | Error::Storage(LsmError::Io(io)) => format!("{io}: {}", advice(io)),
        Error::Poisoned => {
            "an earlier write in the background failed: check the disk and the system's log".to_owned()
        }
        Error::Locked => "another process has the database open: stop it".to_owned(),
        Error::InvalidVersion(_) | Error::Storage(LsmError::InvalidVersion(_)) => {
            "it was written by another version of fjall: start the etherply that wrote it".to_owned()
        }
        Error::JournalRecovery(_) | Error::InvalidTag(_) | Error::InvalidTrailer => damaged("the journal"),
        Error::Storage(LsmError::ChecksumMismatch { .. }) => damaged("a table"),
        Error::Storage(inner) => damaged(&format!("a table ({inner})")),
        other => other.to_string(),
    }
}

/// Do the bytes on disk differ from what was written, or could they not be read?
pub fn is_damage(error: &fjall::Error) -> bool {
    use fjall::{Error, LsmError};
    match error {
        // A file that is gone, ends too early, or is too short for what is looked for before its end.
        Error::Io(io) | Error::Storage(LsmError::Io(io)) => matches!(
            io.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
        ),
        Error::Poisoned | Error::Locked => false,
        Error::InvalidVersion(_) | Error::Storage(LsmError::InvalidVersion(_)) => false,
        _ => true,
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text").to_owned()
}
