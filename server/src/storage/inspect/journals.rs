//! What can be read of the journals, damaged or not: every whole batch, and of a batch whose checksum is wrong
//! the rows that prove themselves.
//!
//! The scan stops at the first damage, because it decides whether the database may be opened. Here it is about
//! what can be saved.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::table::Entry;
use crate::storage::error::OpenError;
use crate::storage::journal::{self, Item, KIND_VALUE};
use crate::storage::keys::{COMMIT_KEY, CommitRow, DirectoryId, KeyspaceId};
use crate::storage::scan::SEQNO_STEP_MAX;

/// The newest version of each row that the journals hold.
pub type Rows = BTreeMap<Bytes, (u64, Option<Bytes>)>;

/// What the journals hold.
#[derive(Debug, Default)]
pub struct Journals {
    rows: [Rows; KeyspaceId::ALL.len()],
    /// Commits whose batches are whole, in the order of the journals.
    pub commits: Vec<CommitRow>,
    /// Bytes of all journals.
    pub bytes: u64,
}

impl Journals {
    /// Reads journals, oldest first. `is_sound`: the scan found nothing wrong; then what is not a whole batch was
    /// never acknowledged, and nothing is taken from it.
    pub fn read<'p>(
        paths: impl IntoIterator<Item = &'p Path>,
        id: DirectoryId,
        is_sound: bool,
    ) -> Result<Self, OpenError> {
        let mut journals = Self::default();
        for path in paths {
            let bytes = journal::read(path)?;
            journals.bytes += bytes.len() as u64;
            journals.take(&Bytes::from(bytes), id, is_sound);
        }
        Ok(journals)
    }

    /// The rows of a keyspace.
    pub fn take_rows(&mut self, keyspace: KeyspaceId) -> Rows {
        let index = KeyspaceId::ALL.iter().position(|id| *id == keyspace);
        index.and_then(|index| self.rows.get_mut(index)).map(std::mem::take).unwrap_or_default()
    }

    /// Keeps of a keyspace's rows those whose keys are wanted.
    pub fn retain_rows(&mut self, keyspace: KeyspaceId, is_wanted: impl Fn(&[u8]) -> bool) {
        let index = KeyspaceId::ALL.iter().position(|id| *id == keyspace);
        if let Some(rows) = index.and_then(|index| self.rows.get_mut(index)) {
            rows.retain(|key, _| is_wanted(key));
        }
    }

    fn take(&mut self, journal: &Bytes, id: DirectoryId, is_sound: bool) {
        let mut at = 0;
        while let Some(rest) = journal.get(at..).filter(|rest| !rest.is_empty()) {
            if let Ok(batch) = journal::parse_batch(rest) {
                let row = commit_of(&batch.items, id);
                self.insert(journal, batch.seqno, row, &batch.items);
                self.commits.extend(row);
                at += batch.len;
            } else if is_sound {
                return;
            } else if let Some((seqno, items, len)) = journal::parse_unproven(rest) {
                self.insert(journal, seqno, commit_of(&items, id), &items);
                at += len;
            } else {
                // The next place where a batch can begin.
                let next = rest.get(1..).and_then(|rest| memchr::memchr(journal::TAG_START, rest));
                let Some(next) = next else { return };
                at += 1 + next;
            }
        }
    }

    /// Rows carry their own checksums and places, so those that are damaged do not pass later on.
    fn insert(&mut self, journal: &Bytes, seqno: u64, row: Option<CommitRow>, items: &[Item<'_>]) {
        // The sequence number is covered by nothing; what it must be at least is.
        let at_least = row.map_or(0, |row| row.seqno_min);
        let is_plausible = row.is_none() || (at_least..=at_least + SEQNO_STEP_MAX).contains(&seqno);
        let seqno = if is_plausible { seqno } else { at_least };
        for item in items {
            let index = KeyspaceId::ALL.iter().position(|id| *id as u64 == item.keyspace);
            let Some(rows) = index.and_then(|index| self.rows.get_mut(index)) else { continue };
            let value = (item.kind == KIND_VALUE).then(|| journal.slice_ref(item.value));
            let newer = (seqno, value);
            rows.entry(journal.slice_ref(item.key))
                .and_modify(|row| {
                    if row.0 <= seqno {
                        row.clone_from(&newer);
                    }
                })
                .or_insert(newer);
        }
    }
}

fn commit_of(items: &[Item<'_>], id: DirectoryId) -> Option<CommitRow> {
    let row = items.iter().find(|item| item.sets(KeyspaceId::Meta) && item.key == COMMIT_KEY)?;
    CommitRow::decode(id, row.value)
}

/// The rows as a table has them.
pub fn entries(rows: Rows) -> impl Iterator<Item = Entry> {
    rows.into_iter().map(|(key, (seqno, value))| Entry { key, seqno, value })
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{RealAuthor, journal_paths};
    use std::fs;

    use super::*;
    use etherply_engine::log::Log;

    #[test]
    fn rows_of_whole_batches_and_provable_rows_of_damaged_ones_are_read() {
        let root = tempfile::tempdir().unwrap();
        let mut author = RealAuthor::new();
        let mut log = crate::storage::open(root.path()).unwrap();
        for _ in 0..4 {
            log.commit(&[author.append("a", 1), author.append("b", 1)]).unwrap();
        }
        let id = log.reader().directory_id();
        drop(log);
        let paths = journal_paths(root.path());
        let whole = fs::read(&paths[0]).unwrap();
        let read = |bytes: &[u8], is_sound| {
            fs::write(&paths[0], bytes).unwrap();
            let mut journals = Journals::read(paths.iter().map(|path| path.as_path()), id, is_sound).unwrap();
            let commits: Vec<u64> = journals.commits.iter().map(|row| row.commit).collect();
            (commits, journals.take_rows(KeyspaceId::Changes).len())
        };
        assert_eq!(read(&whole, true), (vec![1, 2, 3, 4], 8));
        let first = journal::parse_batch(&whole).unwrap().len;
        // A flipped bit in a row's value: the batch's other rows, and all other batches, are there.
        let mut flipped = whole.clone();
        flipped[first + 100] ^= 1;
        assert_eq!(read(&flipped, false), (vec![1, 3, 4], 8));
        assert_eq!(read(&flipped, true), (vec![1], 2));
        // A flipped bit in a length: that batch is lost, the others are there.
        let mut flipped = whole.clone();
        flipped[first + 13 + 11] ^= 1;
        assert_eq!(read(&flipped, false), (vec![1, 3, 4], 6));
        // Cut short.
        assert_eq!(read(&whole[..first + 50], false), (vec![1], 2));
        assert_eq!(read(&whole[3..], false), (vec![2, 3, 4], 6));
        assert_eq!(read(&[], false), (vec![], 0));
    }
}
