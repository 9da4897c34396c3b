//! Deleted documents: the tombstone first, then its rows, in pieces that nobody waits for.
//!
//! A tombstone is the document's head with a flag; it stays for good, so that no client brings the document back.
//! Beside it, a row in `meta` names the document for as long as rows of it are left, so that a start goes on where
//! the last one stopped. A piece is a commit of its own, small enough that no push waits long behind it, and made
//! only when no commit waits.
//!
//! A piece removes rows, and compactions forget removals. What the tables of a keyspace hold must never seem to end
//! before the journals begin (see [`super::database::Keyspaces::tables_end`]), so each piece also sets a row that
//! stays: [`FILLER_KEY`].

use std::ops::Bound;

use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Deleted, LogError};
use fjall::Readable;

use super::keys::{
    FILLER_KEY, Head, KeyspaceId, deleted_key, document_of_deleted_key, past_key, rows_of_document,
};
use super::log::{Rows, Writer, read_failed};
use super::stats::add;

/// Most rows that are removed in one piece.
pub const PURGE_ROWS_MAX: usize = 512;

/// A log from which documents can be deleted.
pub trait Tombstones {
    /// Deletes a document for good: whoever reads it from now on hears so. Returns when that will survive a power
    /// loss; its rows go later.
    ///
    /// # Errors
    /// See [`etherply_engine::log::Log::commit`].
    fn delete(&mut self, document: &DocumentId) -> Result<Deleted, LogError>;

    /// Does a piece of what nobody waits for; whether there is more to do.
    fn tidy(&mut self) -> bool;
}

/// A deleted document of which rows are left.
#[derive(Debug)]
pub(super) struct Purge {
    document: DocumentId,
    /// Which keyspace is being emptied of it; `None` before the first.
    keyspace: Option<KeyspaceId>,
    /// The last row that was removed there: what lies before it need not be walked again.
    after: Vec<u8>,
}

/// Rows to be removed together.
struct Piece {
    head: Head,
    rows: Vec<(KeyspaceId, Vec<u8>)>,
    is_last: bool,
}

impl Purge {
    fn new(document: DocumentId) -> Self {
        Self { document, keyspace: None, after: Vec::new() }
    }
}

impl Tombstones for Writer {
    fn delete(&mut self, document: &DocumentId) -> Result<Deleted, LogError> {
        match self.head(document)? {
            None => Ok(Deleted::Absent),
            Some(head) if head.is_deleted() => Ok(Deleted::Before),
            Some(head) => self.bury(document, head).map(|()| Deleted::Now),
        }
    }

    fn tidy(&mut self) -> bool {
        let Some(mut purge) = self.purges.pop_front() else { return false };
        // Only what writes may end all writing: a row that cannot be read does not.
        let piece = self.next_piece(&mut purge);
        let done = piece.and_then(|piece| match piece {
            Some(piece) => {
                self.guarded(|writer| writer.remove(&purge.document, &piece)).map(|()| piece.is_last)
            }
            None => Ok(true),
        });
        match done {
            // The next start tries anew.
            Err(error) => tracing::error!("rows of deleted {} stay where they are: {error}", purge.document),
            Ok(true) => tracing::debug!("all rows of deleted {} are removed", purge.document),
            Ok(false) => self.purges.push_front(purge),
        }
        !self.purges.is_empty()
    }
}

impl Writer {
    /// Puts a tombstone where a document stands, or where none does yet.
    pub(super) fn bury(&mut self, document: &DocumentId, head: Head) -> Result<(), LogError> {
        self.guarded(|writer| {
            let mut rows = writer.begin(1)?;
            writer.fill(&mut rows);
            writer.add_head(&mut rows, document, head.deleted());
            rows.batch.insert(&writer.keyspaces.meta, deleted_key(document), [].as_slice());
            writer.finish(rows)
        })?;
        // The cache must not outlive it.
        self.snapshots.remove(document);
        add(&self.stats().deleted, 1);
        self.purges.push_back(Purge::new(document.clone()));
        Ok(())
    }

    /// Remembers the deleted documents of which rows are left.
    pub(super) fn find_purges(&mut self) -> Result<(), LogError> {
        let committed = self.committed_snapshot();
        for row in committed.prefix(&self.keyspaces.meta, super::keys::DELETED_PREFIX) {
            let (key, _) = row.into_inner().map_err(|error| read_failed(&error))?;
            self.purges.extend(document_of_deleted_key(&key).map(Purge::new));
        }
        Ok(())
    }

    /// The next rows of a deleted document to be removed; `None` if it is not deleted, whatever asked for it.
    fn next_piece(&self, purge: &mut Purge) -> Result<Option<Piece>, LogError> {
        let Some(head) = self.head(&purge.document)?.filter(Head::is_deleted) else { return Ok(None) };
        let committed = self.committed_snapshot();
        let mut piece = Piece { head, rows: Vec::new(), is_last: false };
        for id in [KeyspaceId::Changes, KeyspaceId::Hashes] {
            if purge.keyspace.is_some_and(|at| at as u64 > id as u64) {
                continue;
            }
            let all = rows_of_document(&purge.document);
            if purge.keyspace != Some(id) {
                (purge.keyspace, purge.after) = (Some(id), all.start);
            }
            let range = (Bound::Excluded(purge.after.clone()), Bound::Included(all.end));
            let room = PURGE_ROWS_MAX - piece.rows.len();
            for row in committed.range::<Vec<u8>, _>(self.keyspaces.get(id), range).take(room) {
                let key = row.key().map_err(|error| read_failed(&error))?;
                purge.after = key.to_vec();
                piece.rows.push((id, purge.after.clone()));
            }
            if piece.rows.len() == PURGE_ROWS_MAX {
                return Ok(Some(piece));
            }
        }
        piece.is_last = true;
        Ok(Some(piece))
    }

    fn remove(&mut self, document: &DocumentId, piece: &Piece) -> Result<(), LogError> {
        let mut rows = self.begin(PURGE_ROWS_MAX)?;
        for (id, key) in &piece.rows {
            rows.batch.remove(self.keyspaces.get(*id), key.as_slice());
        }
        if piece.is_last {
            rows.batch.remove(&self.keyspaces.documents, past_key(document));
            rows.batch.remove(&self.keyspaces.meta, deleted_key(document));
        }
        self.fill(&mut rows);
        self.add_head(&mut rows, document, piece.head);
        self.finish(rows)?;
        add(&self.stats().purged_rows, piece.rows.len() as u64);
        Ok(())
    }

    /// Writes to the keyspaces to which a commit has no rows to add.
    pub(super) fn fill(&self, rows: &mut Rows) {
        let value = (self.last_commit() + 1).to_le_bytes();
        rows.add_row(&self.keyspaces.changes, FILLER_KEY, &value);
        rows.batch.insert(&self.keyspaces.hashes, FILLER_KEY, value.as_slice());
    }
}

#[cfg(test)]
#[path = "tombstone_tests.rs"]
mod tests;
