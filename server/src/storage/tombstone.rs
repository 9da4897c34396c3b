//! Deleted documents: the tombstone first, then its rows, in pieces that nobody waits for.
//!
//! A tombstone is the document's head with a flag; it stays for good, so that no client brings the document back.
//! Beside it, a row in `meta` names the document for as long as rows of it are left, so that a start goes on where
//! the last one stopped. Pieces are stored only when no commit waits.

use std::collections::VecDeque;
use std::ops::Bound;

use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Deleted, LogError};
use fjall::{Database, Readable};

use super::anchor::Slot;
use super::database::Keyspaces;
use super::keys::{
    DELETED_PREFIX, Head, KeyspaceId, anchor_key, deleted_key, document_of_deleted_key, past_key,
    rows_of_document,
};
use super::log::{Writer, read_failed};
use super::piece::{Expect, PIECE_ROWS_MAX, Piece};
use super::stats::add;

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

impl Purge {
    fn new(document: DocumentId) -> Self {
        Self { document, keyspace: None, after: Vec::new() }
    }
}

impl Tombstones for Writer {
    fn delete(&mut self, document: &DocumentId) -> Result<Deleted, LogError> {
        let head = match self.head(document) {
            Ok(None) => return Ok(Deleted::Absent),
            Ok(Some(head)) if head.is_deleted() => return Ok(Deleted::Before),
            Ok(Some(head)) => head,
            // Nobody can use it any more, so nobody should be kept from deleting it.
            Err(LogError::Damaged { .. }) => Head { epoch: 0, last_seq: 0, flags: 0 },
            Err(error) => return Err(error),
        };
        self.bury(document, head).map(|()| Deleted::Now)
    }

    fn tidy(&mut self) -> bool {
        let Some(mut purge) = self.purges.pop_front() else { return false };
        if purge.keyspace.is_none()
            && let Err(error) = self.snapshots.versions().delete_all(&purge.document)
        {
            tracing::error!("versions of deleted {} stay where they are: {error}", purge.document);
        }
        if purge.keyspace.is_none() && !self.remove_snapshots(&purge.document) {
            // Held by a backup: some time later, with the next work that comes.
            self.purges.push_back(purge);
            return false;
        }
        let piece = self.next_piece(&mut purge);
        let done = piece.and_then(|piece| match piece {
            // Only what writes may end all writing: a row that cannot be read does not.
            Some((piece, is_last)) => {
                add(&self.stats().purged_rows, piece.rows.len() as u64);
                self.store(&piece).map(|_| is_last)
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

/// The deleted documents of which rows are left.
pub(super) fn find_purges(database: &Database, keyspaces: &Keyspaces) -> Result<VecDeque<Purge>, LogError> {
    let mut purges = VecDeque::new();
    for row in database.snapshot().prefix(&keyspaces.meta, DELETED_PREFIX) {
        let (key, _) = row.into_inner().map_err(|error| read_failed(&error))?;
        purges.extend(document_of_deleted_key(&key).map(Purge::new));
    }
    Ok(purges)
}

impl Writer {
    /// Puts a tombstone where a document stands, or where none does yet.
    pub(super) fn bury(&mut self, document: &DocumentId, head: Head) -> Result<(), LogError> {
        let mut piece = Piece::new(document.clone(), Expect::Anything);
        piece.set(KeyspaceId::Meta, deleted_key(document), Vec::new());
        piece.head = Some(head.deleted());
        self.store(&piece)?;
        add(&self.stats().deleted, 1);
        self.purges.push_back(Purge::new(document.clone()));
        Ok(())
    }

    /// Whether a deleted document's snapshots are gone.
    fn remove_snapshots(&self, document: &DocumentId) -> bool {
        [Slot::A, Slot::B].into_iter().all(|slot| self.snapshots.remove(document, slot))
    }

    /// The next rows of a deleted document to be removed, and whether they are the last; `None` if it is not
    /// deleted, whatever asked for it.
    fn next_piece(&self, purge: &mut Purge) -> Result<Option<(Piece, bool)>, LogError> {
        let document = &purge.document;
        let Some(head) = self.head(document)?.filter(Head::is_deleted) else { return Ok(None) };
        let committed = self.committed_snapshot();
        let mut piece = Piece::new(document.clone(), Expect::Head(head));
        for id in [KeyspaceId::Changes, KeyspaceId::Hashes] {
            if purge.keyspace.is_some_and(|at| at as u64 > id as u64) {
                continue;
            }
            let all = rows_of_document(document);
            if purge.keyspace != Some(id) {
                (purge.keyspace, purge.after) = (Some(id), all.start);
            }
            let range = (Bound::Excluded(purge.after.clone()), Bound::Included(all.end));
            let room = PIECE_ROWS_MAX - piece.rows.len();
            for row in committed.range::<Vec<u8>, _>(self.keyspaces.get(id), range).take(room) {
                let key = row.key().map_err(|error| read_failed(&error))?;
                purge.after = key.to_vec();
                piece.remove(id, purge.after.clone());
            }
            if piece.rows.len() == PIECE_ROWS_MAX {
                return Ok(Some((piece, false)));
            }
        }
        let anchors = anchor_key(document, 0)..=anchor_key(document, u64::MAX);
        for row in committed.range(&self.keyspaces.meta, anchors) {
            let key = row.key().map_err(|error| read_failed(&error))?;
            piece.remove(KeyspaceId::Meta, key.to_vec());
        }
        piece.remove(KeyspaceId::Documents, past_key(document));
        piece.remove(KeyspaceId::Meta, deleted_key(document));
        Ok(Some((piece, true)))
    }
}

#[cfg(test)]
#[path = "tombstone_tests.rs"]
mod tests;
