//! The order in which the server stored a document's changes, and what the heads were at each position.

use std::collections::HashMap;

use automerge::ChangeHash;
use etherply_engine::log::LogError;

use crate::materialise::replica::Replica;
use crate::storage::Reader;
use crate::storage::index::INDEX_ROWS_MAX;

/// A document's changes in their order.
#[derive(Debug)]
pub struct Timeline {
    /// The change at each position, from 1 on.
    changes: Vec<Stored>,
    by_hash: HashMap<ChangeHash, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Stored {
    hash: ChangeHash,
    /// Position of the first change that builds upon it: from there on it is no head. None does: `u64::MAX`.
    superseded_at: u64,
}

impl Timeline {
    /// Of a replica, by the log that it was read from.
    pub fn of(replica: &Replica, reader: &Reader) -> Result<Self, LogError> {
        let (document, cursor) = (replica.document(), replica.cursor());
        let mut changes: Vec<Stored> = Vec::new();
        let mut by_hash = HashMap::new();
        while (changes.len() as u64) < cursor.seq {
            let after = changes.len() as u64;
            let page = reader.index(document, cursor.epoch, after, cursor.seq, INDEX_ROWS_MAX)?;
            if page.is_empty() {
                return Err(LogError::damaged(document, after + 1, "the log ends before the document does"));
            }
            for record in page {
                let hash = ChangeHash(record.hash.0);
                by_hash.insert(hash, record.seq);
                changes.push(Stored { hash, superseded_at: u64::MAX });
            }
        }
        for meta in replica.automerge().get_changes_meta(&[]) {
            let Some(&position) = by_hash.get(&meta.hash) else { continue };
            for dependency in &meta.deps {
                let index = by_hash.get(dependency).and_then(|at| usize::try_from(at - 1).ok());
                if let Some(stored) = index.and_then(|index| changes.get_mut(index)) {
                    stored.superseded_at = stored.superseded_at.min(position);
                }
            }
        }
        Ok(Self { changes, by_hash })
    }

    /// The position of a change.
    pub fn position(&self, hash: &ChangeHash) -> Option<u64> {
        self.by_hash.get(hash).copied()
    }

    /// The change at a position, from 1 on.
    pub fn at(&self, position: u64) -> Option<ChangeHash> {
        let index = usize::try_from(position.checked_sub(1)?).ok()?;
        self.changes.get(index).map(|stored| stored.hash)
    }

    /// The heads after so many changes, sorted.
    pub fn heads(&self, position: u64) -> Vec<ChangeHash> {
        let count = usize::try_from(position).unwrap_or(usize::MAX).min(self.changes.len());
        let stored = self.changes.iter().take(count);
        let mut heads: Vec<ChangeHash> =
            stored.filter(|stored| stored.superseded_at > position).map(|stored| stored.hash).collect();
        heads.sort_unstable();
        heads
    }
}
