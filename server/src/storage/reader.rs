//! The half of the log that reads. It sees whole, durable, acknowledged commits, and nothing else.
//!
//! Nobody keeps the database for longer than a question, so that it can be closed and opened again underneath: see
//! [`super::reopen`].

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::ChangeHash;
use etherply_engine::document::Anchor;
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::{FIRST_EPOCH, Found, LogError, LogReader, Past};
use etherply_engine::record::Record;
use fjall::{Database, Readable, Snapshot};

use super::anchor::AnchorRow;
use super::database::Keyspaces;
use super::directory::DataDirectory;
use super::index::{CHAIN_EVERY, LogRow};
use super::keys::{
    CommitRow, DirectoryId, Head, change_key, decode_found, decode_past, hash_key, parse_change_key, past_key,
};
use super::log::{document_read_failed, head, read_failed, unavailable};
use super::snapshot::Snapshots;

/// An open database. Nobody keeps it but for the length of a question, so that it can be closed.
pub(super) struct Opened {
    pub(super) keyspaces: Keyspaces,
    pub(super) committed: Arc<Mutex<Snapshot>>,
    pub(super) database: Database,
}

/// The half that reads: cheap to clone, usable from any thread. It sees whole, durable, acknowledged commits. While
/// the log is opened again, its questions wait.
#[derive(Clone)]
pub struct Reader {
    pub(super) slot: Arc<RwLock<Option<Arc<Opened>>>>,
    pub(super) pinned: Option<(Weak<Opened>, Snapshot)>,
    pub(super) snapshots: Arc<Snapshots>,
    // Behind the others: the database closes, then the lock ends.
    pub(super) directory: Arc<DataDirectory>,
}

/// The database for the length of one question, and what may be seen of it.
pub(super) struct View {
    pub(super) opened: Arc<Opened>,
    pub(super) committed: Snapshot,
}

impl View {
    /// Where a document stands.
    pub(super) fn head(&self, document: &DocumentId) -> Result<Option<Head>, LogError> {
        head(&self.opened.keyspaces.documents, &self.committed, document)
    }

    /// The rows of a document's log behind position `after_seq` up to `through_seq`, of any epoch, each proven to
    /// stand where it should; an error is the last item. It ends where the log does.
    pub(super) fn rows<'v>(
        &'v self,
        document: &'v DocumentId,
        epoch: u64,
        after_seq: u64,
        through_seq: u64,
    ) -> impl Iterator<Item = Result<LogRow, LogError>> + 'v {
        let first = after_seq.checked_add(1).filter(|first| *first <= through_seq);
        let stored = first.map(|first| {
            let range = change_key(document, epoch, first)..=change_key(document, epoch, through_seq);
            (first..=through_seq).zip(self.committed.range(&self.opened.keyspaces.changes, range))
        });
        stored.into_iter().flatten().map(move |(seq, row)| {
            let (key, stored) =
                row.into_inner().map_err(|error| document_read_failed(document, seq, &error))?;
            if parse_change_key(&key).map(|(_, _, at)| at) != Some(seq) {
                return Err(LogError::damaged(document, seq, "the record is missing"));
            }
            LogRow::decode(&stored, document, epoch, seq)
                .map_err(|what| LogError::damaged(document, seq, what))
        })
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// A reader that sees what is durable now, and nothing that comes later: for what has to be of one commit.
    #[must_use]
    pub fn pinned(&self) -> Self {
        let view = self.view().ok();
        let pinned = view.map(|view| (Arc::downgrade(&view.opened), view.committed));
        // Where nothing can be read now, nothing can be read later.
        Self { pinned: pinned.or_else(|| self.pinned.clone()), ..self.clone() }
    }

    /// The data directory's id, and the last commit that this reader sees.
    pub fn commit(&self) -> Result<(DirectoryId, CommitRow), LogError> {
        let id = self.directory.id();
        let View { opened, committed } = self.view()?;
        let stored = opened.keyspaces.commit_row(&committed).map_err(|error| read_failed(&error))?;
        let Some(stored) = stored else { return Ok((id, CommitRow::default())) };
        let row = CommitRow::decode(id, &stored);
        row.map(|row| (id, row))
            .ok_or_else(|| unavailable("the last commit's row is not readable".to_owned()))
    }

    pub(super) fn view(&self) -> Result<View, LogError> {
        if let Some((opened, committed)) = &self.pinned {
            let opened = opened.upgrade().ok_or_else(|| {
                unavailable("the log was opened again meanwhile: begin from the beginning".to_owned())
            })?;
            return Ok(View { opened, committed: committed.clone() });
        }
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        let Some(opened) = slot.as_ref().map(Arc::clone) else {
            let why = "the log could not be opened again yet after a failure: see the server's log";
            return Err(unavailable(why.to_owned()));
        };
        let committed = opened.committed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(View { opened, committed })
    }

    /// The head of a document that is not deleted.
    fn living(&self, view: &View, document: &DocumentId) -> Result<Option<Head>, LogError> {
        match view.head(document)? {
            Some(head) if head.is_deleted() => Err(LogError::Deleted { document: document.clone() }),
            head => Ok(head),
        }
    }

    /// Epoch and last position of a document, or its tombstone; `None` if nothing was ever stored for it.
    pub fn head(&self, document: &DocumentId) -> Result<Option<Head>, LogError> {
        self.view()?.head(document)
    }

    /// The first epoch behind a document's current one of which nothing is stored: a server that stopped half way
    /// may have left records that belong to none.
    pub fn free_epoch(&self, document: &DocumentId) -> Result<u64, LogError> {
        let view = self.view()?;
        let mut epoch = view.head(document)?.map_or(FIRST_EPOCH, |head| head.epoch + 1);
        let View { opened, committed } = view;
        loop {
            let rows = change_key(document, epoch, 0)..=change_key(document, epoch, u64::MAX);
            let Some(row) = committed.range(&opened.keyspaces.changes, rows).next() else { return Ok(epoch) };
            row.into_inner().map_err(|error| read_failed(&error))?;
            epoch += 1;
        }
    }

    /// The random id of the data directory.
    pub fn directory_id(&self) -> DirectoryId {
        self.directory.id()
    }

    /// The rows themselves, for tests of what stands in them.
    #[cfg(test)]
    pub(crate) fn keyspaces(&self) -> Keyspaces {
        self.view().unwrap().opened.keyspaces.clone()
    }

    #[cfg(test)]
    pub(super) fn committed_snapshot(&self) -> Snapshot {
        self.view().unwrap().committed
    }

    /// The snapshots of this data directory's documents.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Bytes that the database takes on disk.
    pub fn disk_bytes(&self) -> Result<u64, LogError> {
        self.view()?.opened.database.disk_space().map_err(|error| read_failed(&error))
    }
}

impl LogReader for Reader {
    fn epoch(&self, document: &DocumentId) -> Result<Option<u64>, LogError> {
        Ok(self.living(&self.view()?, document)?.map(|head| head.epoch))
    }

    /// Answers for the current epoch; another one has no records. Each record's checksum, its position and its link
    /// to the one before are checked, and that the log goes as far as it should.
    fn read(
        &self,
        document: &DocumentId,
        epoch: u64,
        after_seq: u64,
        through_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        let view = self.view()?;
        let head = self.living(&view, document)?;
        let Some(head) = head.filter(|head| head.epoch == epoch) else { return Ok(Vec::new()) };
        let through_seq = through_seq.min(head.last_seq);
        let mut records: Vec<Record> = Vec::new();
        let (mut seq, mut bytes) = (after_seq, 0);
        let mut chain = (after_seq == 0).then(|| chain_start(document, epoch));
        for row in view.rows(document, epoch, after_seq, through_seq) {
            let record = match row? {
                LogRow::Record(record) => record,
                LogRow::Covered(row) => {
                    return Err(LogError::Covered { document: document.clone(), seq: row.seq });
                }
            };
            seq = record.seq;
            let linked = chain.is_none_or(|chain| chain_next(&chain, seq, &record.hash) == record.chain);
            if !linked {
                return Err(LogError::damaged(document, seq, "the record does not follow the one before"));
            }
            chain = Some(record.chain);
            bytes += record.change.len();
            if bytes > bytes_max && !records.is_empty() {
                return Ok(records);
            }
            records.push(record);
        }
        if seq < through_seq {
            let what = format!("the log ends here, but should go to {}", head.last_seq);
            return Err(LogError::damaged(document, seq + 1, what));
        }
        Ok(records)
    }

    fn past(&self, document: &DocumentId) -> Result<Past, LogError> {
        let key = past_key(document);
        let View { opened, committed } = self.view()?;
        let stored = committed.get(&opened.keyspaces.documents, &key);
        let stored = stored.map_err(|error| document_read_failed(document, 0, &error))?;
        let Some(stored) = stored else { return Ok(Past::default()) };
        decode_past(&key, &stored).ok_or_else(|| {
            let what = "the row that says what its earlier epochs left behind is not what was written";
            LogError::damaged(document, 0, what)
        })
    }

    fn find(&self, document: &DocumentId, epoch: u64, hash: &ChangeHash) -> Result<Option<Found>, LogError> {
        let key = hash_key(document, epoch, hash);
        let View { opened, committed } = self.view()?;
        let stored = committed.get(&opened.keyspaces.hashes, &key);
        let stored = stored.map_err(|error| document_read_failed(document, 0, &error))?;
        let Some(stored) = stored else { return Ok(None) };
        decode_found(&key, &stored).map(Some).ok_or_else(|| {
            let what = "the row that says where a change stands is not what was written";
            LogError::damaged(document, 0, what)
        })
    }

    fn anchor(&self, document: &DocumentId, epoch: u64) -> Result<Option<Anchor>, LogError> {
        let Some(AnchorRow { anchor, .. }) = self.checked_anchor(document, epoch)? else { return Ok(None) };
        let head = self.head(document)?;
        if head.is_some_and(|head| head.epoch == epoch && head.last_seq < anchor.snapshot.cursor.seq) {
            return Err(LogError::damaged(document, 0, "its snapshot goes further than its log"));
        }
        Ok(Some(anchor))
    }

    fn chain_at(&self, document: &DocumentId, epoch: u64, seq: u64) -> Result<Option<ChainHash>, LogError> {
        if seq == 0 {
            return Ok(Some(chain_start(document, epoch)));
        }
        if self.head(document)?.is_none_or(|head| head.epoch != epoch || head.last_seq < seq) {
            return Ok(None);
        }
        // From the last row before it that is sure to say it.
        let from = (seq - 1) / CHAIN_EVERY * CHAIN_EVERY;
        let mut chain = (from == 0).then(|| chain_start(document, epoch));
        for row in self.view()?.rows(document, epoch, from.max(1) - 1, seq) {
            let row = row?;
            chain = row.chain().or_else(|| chain.map(|before| chain_next(&before, row.seq(), row.hash())));
        }
        Ok(chain)
    }
}
