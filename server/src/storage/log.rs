//! The log on disk: records in the database, each commit one batch with one sync, then the ledger's entry.
//!
//! [`Writer`] owns commits and lives on one thread; [`Reader`]s can be cloned to others. The database makes
//! a batch readable only after its sync, but piece by piece and before the ledger knows of it. So the writer
//! publishes a snapshot once a commit is complete, and readers see nothing else: never a part of a batch,
//! never records of a commit that failed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use etherply_engine::change::ChangeHash;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, Deleted, Found, Log, LogError, Past};
use etherply_engine::record::{PUSHER_BYTES_MAX, Record};
use fjall::{Database, Keyspace, PersistMode, Readable, Snapshot};

use super::database::{Keyspaces, advice_for, is_damage, panic_text, wait_until_caught_up};
use super::directory::DataDirectory;
use super::epoch::{Epochs, Turn};
use super::index::IndexRow;
use super::keys::{
    COMMIT_KEY, CommitRow, DirectoryId, FILLER_KEY, Head, KeyspaceId, Lineage, change_key, encode_found,
    hash_key, is_record, past_key,
};
use super::ledger::{Ledger, Mark};
use super::piece::{Expect, Piece, StorePiece, Stored};
use super::reader::{Opened, Reader};
use super::snapshot::Snapshots;
use super::stats::{StorageStats, add};
use super::tombstone::{Purge, Tombstones};

/// The log of a data directory; see [`super::open`].
#[derive(Debug)]
pub struct FjallLog {
    /// None while it is opened again, and if that failed.
    pub(super) writer: Option<Writer>,
    pub(super) reader: Reader,
    pub(super) stats: Arc<StorageStats>,
    /// Documents of the commit that failed: it may be there or not once the log is opened again.
    pub(super) doubtful: Vec<DocumentId>,
}

/// What is needed to write.
pub(super) struct Ready {
    pub(super) database: Database,
    pub(super) keyspaces: Keyspaces,
    pub(super) ledger: Ledger,
    pub(super) last: CommitRow,
    /// Deleted documents of which rows are left.
    pub(super) purges: VecDeque<Purge>,
}

impl FjallLog {
    pub(super) fn new(ready: Ready, directory: DataDirectory) -> Self {
        let directory = Arc::new(directory);
        let reader = Reader {
            slot: Arc::default(),
            pinned: None,
            snapshots: Arc::new(Snapshots::new(directory.path(), directory.id())),
            directory,
        };
        let mut log = Self { writer: None, reader, stats: Arc::default(), doubtful: Vec::new() };
        let opened = log.write_to(ready);
        *log.reader.slot.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(opened));
        log
    }

    /// From now on, writes to this database. What readers need of it.
    pub(super) fn write_to(&mut self, ready: Ready) -> Opened {
        let Ready { database, keyspaces, ledger, last, purges } = ready;
        let directory = Arc::clone(&self.reader.directory);
        let committed = Arc::new(Mutex::new(database.snapshot()));
        let opened = Opened {
            keyspaces: keyspaces.clone(),
            committed: Arc::clone(&committed),
            database: database.clone(),
        };
        self.writer = Some(Writer {
            committed,
            snapshots: Arc::clone(&self.reader.snapshots),
            purges,
            stats: Arc::clone(&self.stats),
            failed: None,
            last,
            seqno_end: keyspaces.seqno_end(),
            id: directory.id(),
            ledger,
            keyspaces,
            database,
            _directory: directory,
        });
        opened
    }

    /// Writes rows of the caller's own.
    pub(super) fn write(
        &mut self,
        write: impl FnOnce(&mut Writer) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        self.with_writer(|writer| writer.guarded(write), Vec::new)
    }

    /// Writes, and remembers the documents concerned if that ends all writing.
    fn with_writer<T>(
        &mut self,
        write: impl FnOnce(&mut Writer) -> Result<T, LogError>,
        documents: impl FnOnce() -> Vec<DocumentId>,
    ) -> Result<T, LogError> {
        let Some(writer) = &mut self.writer else {
            add(&self.stats.commits_failed, 1);
            return Err(unavailable(
                "it is closed after a failure, and opened again as soon as it can be".into(),
            ));
        };
        let had_failed = writer.failed.is_some();
        let outcome = write(writer);
        if writer.failed.is_some() && !had_failed {
            self.doubtful = documents();
        }
        outcome
    }

    /// A handle that reads.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The counters.
    pub fn stats(&self) -> &Arc<StorageStats> {
        &self.stats
    }
}

#[cfg(test)]
impl FjallLog {
    pub(super) fn writer(&self) -> &Writer {
        self.writer.as_ref().unwrap()
    }

    /// Lets what the ledger writes fail, as on a full disk.
    pub(super) fn fill_disk(&mut self) {
        self.writer.as_mut().unwrap().ledger.fill_disk();
    }

    /// Writes everything to tables.
    pub(super) fn flush_tables(&self) {
        for keyspace in self.writer().keyspaces.all() {
            keyspace.rotate_memtable_and_wait().unwrap();
        }
    }
}

impl Log for FjallLog {
    fn commit(&mut self, appends: &[Append]) -> Result<(), LogError> {
        let documents = || appends.iter().map(|append| append.document.clone()).collect();
        self.with_writer(|writer| writer.commit(appends), documents)
    }
}

impl StorePiece for FjallLog {
    fn store(&mut self, piece: &Piece) -> Result<Stored, LogError> {
        self.with_writer(|writer| writer.store(piece), || vec![piece.document.clone()])
    }
}

impl Epochs for FjallLog {
    fn stage(&mut self, append: &Append) -> Result<(), LogError> {
        self.with_writer(|writer| writer.stage(append), || vec![append.document.clone()])
    }

    fn turn(&mut self, turn: &Turn) -> Result<(), LogError> {
        self.with_writer(|writer| writer.turn(turn), || vec![turn.document.clone()])
    }
}

impl Tombstones for FjallLog {
    fn delete(&mut self, document: &DocumentId) -> Result<Deleted, LogError> {
        self.with_writer(|writer| writer.delete(document), || vec![document.clone()])
    }

    fn tidy(&mut self) -> bool {
        self.writer.as_mut().is_some_and(Tombstones::tidy)
    }
}

impl FjallLog {
    /// Puts back what a backup has of a deleted document: its tombstone.
    ///
    /// # Errors
    /// See [`Log::commit`].
    pub fn restore_tombstone(&mut self, document: &DocumentId, epoch: u64) -> Result<(), LogError> {
        let head = Head { epoch, last_seq: 0, flags: 0 };
        self.with_writer(|writer| writer.bury(document, head), || vec![document.clone()])
    }

    /// Puts back what the epochs before a document's current one left behind, and the document itself if it has no
    /// records.
    ///
    /// # Errors
    /// See [`Log::commit`].
    pub fn restore_past(&mut self, document: &DocumentId, epoch: u64, past: &Past) -> Result<(), LogError> {
        self.with_writer(|writer| writer.restore_past(document, epoch, past), || vec![document.clone()])
    }
}

/// The half that commits. Dropping it, and all readers, closes the data directory.
pub struct Writer {
    // In this order: the ledger syncs, then the database closes, then the lock ends.
    ledger: Ledger,
    pub(super) keyspaces: Keyspaces,
    committed: Arc<Mutex<Snapshot>>,
    pub(super) snapshots: Arc<Snapshots>,
    /// Deleted documents of which rows are left.
    pub(super) purges: VecDeque<Purge>,
    database: Database,
    _directory: Arc<DataDirectory>,
    id: DirectoryId,
    pub(super) last: CommitRow,
    seqno_end: u64,
    failed: Option<String>,
    stats: Arc<StorageStats>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Writer {
    /// See [`Log::commit`]. After an error every further commit is refused with the first one's reason.
    pub fn commit(&mut self, appends: &[Append]) -> Result<(), LogError> {
        self.guarded(|writer| writer.try_commit(appends))
    }

    /// Stores a piece: see [`StorePiece::store`].
    pub fn store(&mut self, piece: &Piece) -> Result<Stored, LogError> {
        // Outside of what may end all writing: that one document's head cannot be read is no reason.
        if piece.expect != Expect::Anything && !piece.expect.is_met(self.head(&piece.document)?.as_ref()) {
            return Ok(Stored::Superseded);
        }
        self.guarded(|writer| writer.write_piece(piece))
    }

    /// Does what writes. A failure ends all writing.
    pub(super) fn guarded<T>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        if let Some(why) = &self.failed {
            add(&self.stats.commits_failed, 1);
            return Err(LogError::Unavailable { why: why.clone() });
        }
        // A panic in the database leaves its locks poisoned: the writer is as dead as after a failed sync.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| write(self)));
        let error = match done {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error,
            Err(panic) => unavailable(format!("the database panicked: {}", panic_text(&*panic))),
        };
        add(&self.stats.commits_failed, 1);
        self.failed = Some(match &error {
            LogError::Unavailable { why } => format!("writes stopped after an earlier failure: {why}"),
            _ => format!("writes stopped after an earlier failure: {error}"),
        });
        Err(error)
    }

    /// Whether nothing is written any more.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Number of the last commit that is durable.
    pub fn last_commit(&self) -> u64 {
        self.last.commit
    }

    /// The counters.
    pub fn stats(&self) -> &Arc<StorageStats> {
        &self.stats
    }

    fn try_commit(&mut self, appends: &[Append]) -> Result<(), LogError> {
        let records: usize = appends.iter().map(|append| append.records.len()).sum();
        if records == 0 {
            return Ok(());
        }
        let mut rows = self.begin(records)?;
        let mut heads: HashMap<&DocumentId, Head> = HashMap::with_capacity(appends.len());
        for append in appends {
            let (document, epoch) = (&append.document, append.epoch);
            for record in &append.records {
                let before = heads.get(document).copied();
                self.check_follows(append, record, before)?;
                self.add_record(&mut rows, document, epoch, record);
                heads.insert(document, Head { epoch, last_seq: record.seq, flags: 0 });
            }
        }
        for (document, head) in heads {
            self.add_head(&mut rows, document, head);
        }
        self.finish(rows)
    }

    /// Begins a commit of so many records.
    pub(super) fn begin(&self, records: usize) -> Result<Rows, LogError> {
        let started = Instant::now();
        if self.keyspaces.behind() {
            add(&self.stats.stalls, 1);
            wait_until_caught_up(&self.database, &self.keyspaces)
                .map_err(|error| write_failed("write tables in the background", &error))?;
        }
        let batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), 3 * records + 1)
            .durability(Some(PersistMode::SyncData));
        let lineage = Lineage::after(self.last.lineage);
        Ok(Rows { started, batch, lineage, records: 0, record_bytes: 0, touched: 0 })
    }

    /// Sets one row.
    pub(super) fn set(&self, rows: &mut Rows, id: KeyspaceId, key: &[u8], value: &[u8]) {
        if id == KeyspaceId::Changes {
            rows.lineage.record(key, value);
            if is_record(key, value) {
                rows.records += 1;
                rows.record_bytes += value.len() as u64;
            }
        }
        rows.touched |= 1 << id as u64;
        rows.batch.insert(self.keyspaces.get(id), key, value);
    }

    /// Removes one row.
    pub(super) fn remove(&self, rows: &mut Rows, id: KeyspaceId, key: &[u8]) {
        rows.batch.remove(self.keyspaces.get(id), key);
    }

    pub(super) fn add_record(&self, rows: &mut Rows, document: &DocumentId, epoch: u64, record: &Record) {
        let key = change_key(document, epoch, record.seq);
        self.set(rows, KeyspaceId::Changes, &key, &record.encode(document, epoch));
        let found = Found { seq: record.seq, max_op: record.max_op };
        self.add_found(rows, document, epoch, (&record.hash, found));
    }

    pub(super) fn add_index(&self, rows: &mut Rows, document: &DocumentId, epoch: u64, row: &IndexRow) {
        let key = change_key(document, epoch, row.seq);
        self.set(rows, KeyspaceId::Changes, &key, &row.encode(document, epoch));
        let found = Found { seq: row.seq, max_op: row.max_op };
        self.add_found(rows, document, epoch, (&row.hash, found));
    }

    fn add_found(
        &self,
        rows: &mut Rows,
        document: &DocumentId,
        epoch: u64,
        (hash, found): (&ChangeHash, Found),
    ) {
        let key = hash_key(document, epoch, hash);
        self.set(rows, KeyspaceId::Hashes, &key, &encode_found(&key, found));
    }

    pub(super) fn add_head(&self, rows: &mut Rows, document: &DocumentId, head: Head) {
        self.set(rows, KeyspaceId::Documents, document.as_str().as_bytes(), &head.encode(document));
    }

    pub(super) fn add_past(&self, rows: &mut Rows, document: &DocumentId, past: &Past) {
        let key = past_key(document);
        let row = super::keys::encode_past(&key, past);
        self.set(rows, KeyspaceId::Documents, &key, &row);
    }

    /// Makes a commit durable, and lets readers see it.
    pub(super) fn finish(&mut self, mut rows: Rows) -> Result<(), LogError> {
        // Every commit writes to every keyspace: see `Keyspaces::tables_end`.
        let filler = (self.last.commit + 1).to_le_bytes();
        for id in [KeyspaceId::Changes, KeyspaceId::Hashes, KeyspaceId::Documents] {
            if rows.touched & (1 << id as u64) == 0 {
                self.set(&mut rows, id, FILLER_KEY, &filler);
            }
        }
        let Rows { started, mut batch, lineage, records, record_bytes, .. } = rows;
        let row = CommitRow {
            commit: self.last.commit + 1,
            total_records: self.last.total_records + records as u64,
            records: u32::try_from(records)
                .map_err(|_| unavailable("one commit holds more records than it can count".to_owned()))?,
            lineage: lineage.finish(),
            seqno_min: self.seqno_end,
        };
        batch.insert(&self.keyspaces.meta, COMMIT_KEY, row.encode(self.id).as_slice());

        batch.commit().map_err(|error| write_failed("write and sync the journal", &error))?;
        add(&self.stats.fsyncs, 1);
        self.seqno_end = self.keyspaces.seqno_end();
        self.ledger.append(Mark::from(row)).map_err(|error| {
            let advice = super::error::advice(&error);
            unavailable(format!("cannot write the ledger: {error}: {advice}"))
        })?;
        self.last = row;
        self.publish();

        add(&self.stats.commits, 1);
        add(&self.stats.records, records as u64);
        add(&self.stats.record_bytes, record_bytes);
        self.stats.commit_us.record(started.elapsed());
        Ok(())
    }

    fn publish(&self) {
        let snapshot = self.database.snapshot();
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *committed, snapshot);
        drop(committed);
        drop(before);
    }

    /// Where a document stands now.
    pub(super) fn head(&self, document: &DocumentId) -> Result<Option<Head>, LogError> {
        head(&self.keyspaces.documents, &self.committed_snapshot(), document)
    }

    /// What readers see.
    pub(super) fn committed_snapshot(&self) -> Snapshot {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The engine gives out positions, so a record that does not follow is a bug of the server. Storing it
    /// would make the document unreadable, so nothing is stored any more. The look-up of what was stored
    /// before this commit is for debug builds; the rest costs nothing.
    fn check_follows(&self, append: &Append, record: &Record, before: Option<Head>) -> Result<(), LogError> {
        let document = &append.document;
        let refuse = |what: &str| {
            Err(LogError::damaged(document, record.seq, format!("a record that was to be stored {what}")))
        };
        if record.pusher.len() > PUSHER_BYTES_MAX {
            return refuse("has a pusher with a longer name than a record takes");
        }
        let before = match before {
            None if cfg!(debug_assertions) => self.head(document)?,
            before => before,
        };
        match before {
            Some(head) if head.is_deleted() => refuse("belongs to a deleted document"),
            Some(head) if head.epoch > append.epoch => refuse("belongs to an earlier epoch"),
            Some(head) if head.epoch == append.epoch && head.last_seq.checked_add(1) != Some(record.seq) => {
                refuse(&format!("does not follow the last one, which has {}", head.last_seq))
            }
            Some(head) if head.epoch < append.epoch && record.seq != 1 => {
                refuse("does not begin its epoch with 1")
            }
            None if record.seq == 0 || (cfg!(debug_assertions) && record.seq != 1) => {
                refuse("does not begin its document with 1")
            }
            _ => Ok(()),
        }
    }
}

/// What one commit writes.
pub(super) struct Rows {
    started: Instant,
    pub(super) batch: fjall::OwnedWriteBatch,
    lineage: Lineage,
    records: usize,
    record_bytes: u64,
    /// Keyspaces that it writes to, by their numbers.
    touched: u64,
}

pub(super) fn unavailable(why: String) -> LogError {
    LogError::Unavailable { why }
}

fn write_failed(action: &str, error: &fjall::Error) -> LogError {
    unavailable(format!("cannot {action}: {}", advice_for(error)))
}

pub(super) fn read_failed(error: &fjall::Error) -> LogError {
    unavailable(format!("cannot read the log: {}", advice_for(error)))
}

/// The error of a read that concerns one document: damage is that document's alone.
pub(super) fn document_read_failed(document: &DocumentId, seq: u64, error: &fjall::Error) -> LogError {
    if !is_damage(error) {
        return read_failed(error);
    }
    LogError::damaged(document, seq, advice_for(error))
}

pub(super) fn head(
    documents: &Keyspace,
    committed: &Snapshot,
    document: &DocumentId,
) -> Result<Option<Head>, LogError> {
    let stored = committed.get(documents, document.as_str());
    let stored = stored.map_err(|error| document_read_failed(document, 0, &error))?;
    let Some(stored) = stored else { return Ok(None) };
    decode_head(document, &stored).map(Some)
}

pub(super) fn decode_head(document: &DocumentId, stored: &[u8]) -> Result<Head, LogError> {
    let what = "the row that names its epoch is not what was written";
    Head::decode(document, stored).ok_or_else(|| LogError::damaged(document, 0, what))
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
