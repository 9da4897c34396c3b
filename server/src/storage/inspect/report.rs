//! What a look at a data directory found, for people and, with stable names, for programs.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::storage::error::Damage;
use crate::storage::keys::CommitRow;
use crate::storage::ledger::Mark;

/// Damaged documents, and damaged places in files, that the text for people names.
pub const TEXT_ITEMS_MAX: usize = 100;

/// What was found. As JSON it is stable: names are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The data directory.
    pub data: PathBuf,
    /// Nothing is damaged or missing.
    pub whole: bool,
    /// Documents, damaged ones included.
    pub documents: u64,
    /// Tombstones of deleted ones.
    pub documents_deleted: u64,
    /// Damaged ones.
    pub documents_damaged: u64,
    /// Records that are proven, of current epochs.
    pub records: u64,
    /// Their bytes, as stored.
    pub record_bytes: u64,
    /// Proven records of other epochs: earlier ones, and what an interrupted step into a new one left. Nothing
    /// serves them.
    pub records_of_other_epochs: u64,
    /// Commits.
    pub commits: FoundCommits,
    /// Damage, file by file.
    pub damage: Vec<Damage>,
    /// Damage, document by document, in the order of their names.
    pub damaged_documents: Vec<DocumentDamage>,
}

/// The commits of a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FoundCommits {
    /// The last one that was acknowledged, as the ledger knows it; none if the ledger cannot be read.
    pub acknowledged: Option<u64>,
    /// The last one of which anything was found.
    pub found: u64,
    /// Those that are missing, or not whole, from the first to the last of each gap.
    pub missing: Vec<(u64, u64)>,
}

impl FoundCommits {
    /// From the ledger's last entry, the last commit's stored row, and the whole batches in the journals.
    ///
    /// What is in no journal stands in tables. `tables_end` is the sequence number up to which all of them go, and
    /// the row that they hold of the last commit is given first.
    pub fn new(
        ledger: Option<Mark>,
        stored: Option<CommitRow>,
        tables_end: u64,
        journals: &[CommitRow],
    ) -> Self {
        let mut missing = Vec::new();
        let mut expected = journals.first().map(|row| row.commit);
        if let Some(first) = journals.first().filter(|first| tables_end < first.seqno_min) {
            let in_tables = stored.map_or(0, |row| row.commit);
            let through = first.commit.saturating_sub(1);
            missing.push(((in_tables + 1).min(through), through));
        }
        for row in journals {
            if let Some(from) = expected.filter(|from| *from < row.commit) {
                missing.push((from, row.commit - 1));
            }
            expected = Some(row.commit + 1);
        }
        let journaled = journals.iter().map(|row| row.commit).max();
        let acknowledged = ledger.map(|mark| mark.commit);
        let found = journaled.max(stored.map(|row| row.commit)).unwrap_or_default();
        let last = found.max(acknowledged.unwrap_or_default());
        // Tables never go further than the journals.
        let whole_through = journaled.unwrap_or(found);
        if whole_through < last {
            missing.push((whole_through + 1, last));
        }
        Self { acknowledged, found, missing }
    }
}

/// One document that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DocumentDamage {
    /// Its name.
    pub document: String,
    /// The epoch.
    pub epoch: u64,
    /// Everything up to this position is proven.
    pub whole_through: u64,
    /// Where its log should end, if that is known.
    pub expected_through: Option<u64>,
    /// What was found behind that, or before it if what was lost there can be made anew.
    pub what: String,
    /// Positions whose rows are damaged or missing, and whose changes are in the document's snapshot: a repair makes
    /// the rows anew, without who sent the changes when.
    pub made_anew: u64,
    /// Records that are there and cannot be proven, because one before them is damaged or missing.
    pub records_behind: u64,
    /// Their bytes, as stored.
    pub bytes_behind: u64,
}

impl DocumentDamage {
    /// Whether changes are lost, and not only rows that can be made anew.
    pub fn lost_changes(&self) -> bool {
        self.records_behind > 0 || self.expected_through.is_none_or(|expected| expected > self.whole_through)
    }
}

impl fmt::Display for DocumentDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { document, epoch, whole_through, what, .. } = self;
        write!(f, "{document}: whole through position {whole_through} of epoch {epoch}")?;
        if let Some(expected) = self.expected_through.filter(|expected| expected > whole_through) {
            write!(f, ", should go to {expected}")?;
        }
        write!(f, ": {what}")?;
        if self.records_behind > 0 {
            write!(f, " ({} records, {} bytes, behind it)", self.records_behind, self.bytes_behind)?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |count: usize| count.saturating_sub(TEXT_ITEMS_MAX);
        for damage in self.damage.iter().take(TEXT_ITEMS_MAX) {
            writeln!(f, "{}", damage.summary())?;
        }
        for document in self.damaged_documents.iter().take(TEXT_ITEMS_MAX) {
            writeln!(f, "{document}")?;
        }
        match listed(self.damage.len()) + listed(self.damaged_documents.len()) {
            0 => {}
            more => writeln!(f, "and {more} more, which --json lists")?,
        }
        for (from, through) in &self.commits.missing {
            writeln!(f, "commits {from} to {through} are missing or not whole")?;
        }
        write!(
            f,
            "{}: {} documents, {} damaged; {} records proven, {} bytes; last commit {}: {}",
            self.data.display(),
            self.documents,
            self.documents_damaged,
            self.records,
            self.record_bytes,
            self.commits.found,
            if self.whole { "whole" } else { "DAMAGED" },
        )
    }
}
