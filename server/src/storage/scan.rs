//! May this data directory be opened? Journals against ledger, without changing anything.
//!
//! fjall cuts a damaged journal off at the damage while it opens it, and says nothing. So before it may, the
//! journals are read here: every batch must be whole, its commit must follow the one before, and the last
//! one must reach as far as the ledger says commits were acknowledged. The one thing that may be missing is
//! the end of the newest journal behind the last acknowledged commit: a batch that a crash interrupted. There
//! is at most one, because the next is written only after it was synced.
//!
//! What this cannot see: damage to the very commits of the last 50 ms before a power loss, which the ledger
//! does not know of; they look like that interrupted batch, if it is the last one. Tables are not read.

use std::fs;
use std::path::{Path, PathBuf};

use super::directory::DataDirectory;
use super::error::{Damage, OpenError, REPORT_DOCUMENTS_MAX};
use super::journal::{self, Batch};
use super::keys::{COMMIT_KEY, CommitRow, DirectoryId, KeyspaceId, Lineage, is_record};
use super::ledger::{self, LedgerScan, Mark};
use super::manifest;

/// Most that the database's sequence number grows from one batch to the next: flushes and compactions take
/// a few. A larger step is a flipped bit.
pub const SEQNO_STEP_MAX: u64 = 1 << 20;

/// What the scan of a directory that may be opened found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The ledger's end.
    pub ledger: LedgerScan,
    /// The first commit in the journals.
    pub first: Option<CommitRow>,
    /// The last commit in the journals. None: what was committed stands in tables.
    pub last: Option<CommitRow>,
    /// Journals that hold something which was never acknowledged, as far as the ledger knows.
    pub unsettled: Vec<Unsettled>,
}

/// A journal with commits that the ledger does not know, or with an interrupted batch at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// The journal.
    pub path: PathBuf,
    /// Where its whole batches end.
    pub end: usize,
}

/// Scans a data directory.
pub fn scan(directory: &DataDirectory) -> Result<Scan, OpenError> {
    let ledger = ledger::scan(&directory.ledger_path(), directory.id())?;
    let database = directory.database_path();
    manifest::check(&database)?;
    let mut walk = Walk::new(directory.id(), ledger.last);
    let journals = journals(&database)?;
    let Some(newest) = journals.last().cloned() else {
        return Err(OpenError::damaged(&database, None, "the journals are missing"));
    };
    let mut unsettled = Vec::new();
    for path in journals {
        let bytes = journal::read(&path)?;
        let (end, torn) = walk.journal(&path, &bytes, path == newest)?;
        if torn || (end > 0 && walk.last_commit() > Some(ledger.last.commit)) {
            unsettled.push(Unsettled { path, end });
        }
    }
    walk.finish(&newest, || manifest::has_tables(&database))?;
    let last = walk.last.map(|(row, _)| row);
    Ok(Scan { ledger, first: walk.first, last, unsettled })
}

/// The journals, oldest first. The database drops the oldest ones only, so there is no gap.
fn journals(database: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let numbers = journal_numbers(database)?;
    let path = |number: &u64| database.join(format!("{number}.jnl"));
    for (before, next) in numbers.iter().zip(numbers.iter().skip(1)) {
        if before + 1 != *next {
            return Err(OpenError::damaged(&path(&(before + 1)), None, "a journal is missing"));
        }
    }
    Ok(numbers.iter().map(path).collect())
}

/// Every journal that is there, oldest first, whether others are missing or not.
pub fn all_journals(database: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(database).into_iter().flatten().flatten();
    let mut numbers: Vec<u64> =
        names.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".jnl")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.into_iter().map(|number| database.join(format!("{number}.jnl"))).collect()
}

fn journal_numbers(database: &Path) -> Result<Vec<u64>, OpenError> {
    let mut numbers: Vec<u64> = Vec::new();
    for entry in fs::read_dir(database).map_err(OpenError::io(database, "list the journals"))? {
        let path = entry.map_err(OpenError::io(database, "list the journals"))?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            numbers.push(number.ok_or_else(|| OpenError::damaged(&path, None, "this is no journal's name"))?);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

struct Walk {
    id: DirectoryId,
    ledger: Mark,
    first: Option<CommitRow>,
    last: Option<(CommitRow, u64)>,
}

impl Walk {
    fn new(id: DirectoryId, ledger: Mark) -> Self {
        Self { id, ledger, first: None, last: None }
    }

    /// Commits that were acknowledged, or built upon, and are in no journal have to stand in tables.
    fn finish(&self, newest: &Path, has_tables: impl FnOnce() -> bool) -> Result<(), OpenError> {
        let through = self.first.map_or(self.ledger.commit, |first| first.commit - 1);
        if through == 0 || has_tables() {
            return Ok(());
        }
        Err(OpenError::Damaged(Box::new(Damage {
            path: newest.to_owned(),
            what: "commits are in no journal, and there are no tables that could hold them".to_owned(),
            lost: Some(1..=through),
            ..Damage::default()
        })))
    }

    fn last_commit(&self) -> Option<u64> {
        self.last.map(|(row, _)| row.commit)
    }

    /// Reads one journal. Says where its batches end, and whether an interrupted one follows.
    fn journal(&mut self, path: &Path, bytes: &[u8], newest: bool) -> Result<(usize, bool), OpenError> {
        let mut rest = bytes;
        while rest.first().is_some_and(|&byte| byte != 0) {
            let end = bytes.len() - rest.len();
            match journal::parse_batch(rest) {
                Ok(batch) => {
                    self.take(&batch).map_err(|what| self.damage(path, end, rest, what))?;
                    rest = rest.get(batch.len..).unwrap_or_default();
                }
                Err(_) if newest && self.may_be_interrupted(rest) => return Ok((end, true)),
                Err(what) => return Err(self.damage(path, end, rest, what.to_owned())),
            }
        }
        let end = bytes.len() - rest.len();
        let torn = rest.iter().any(|&byte| byte != 0);
        if torn && !(newest && self.may_be_interrupted(rest)) {
            return Err(self.damage(path, end, rest, "zeroes stand between batches".to_owned()));
        }
        if newest && self.last_commit().is_some_and(|last| last < self.ledger.commit) {
            return Err(self.damage(path, end, rest, "the journal ends here".to_owned()));
        }
        Ok((end, torn))
    }

    /// Can `rest`, which is not a batch, be what a crash left of the one batch that was being written?
    fn may_be_interrupted(&self, rest: &[u8]) -> bool {
        let mut commits = journal::find_commits(rest, self.id).map(|row| row.commit);
        let last = self.last_commit();
        let next = match last {
            Some(last) => Some(last + 1),
            // No whole batch in any journal: it can be any commit, but only one.
            None => commits.next(),
        };
        let only_next = commits.all(|commit| Some(commit) == next);
        let not_acknowledged = match (last, next) {
            (Some(last), _) => last >= self.ledger.commit,
            (None, Some(next)) => next > self.ledger.commit,
            (None, None) => true,
        };
        only_next && not_acknowledged
    }

    fn take(&mut self, batch: &Batch<'_>) -> Result<(), String> {
        let row = self.commit_row(batch)?;
        let sets = batch.items.iter().filter(|item| item.sets(KeyspaceId::Changes));
        let records = sets.filter(|item| is_record(item.key, item.value)).count();
        if usize::try_from(row.records) != Ok(records) {
            return Err(format!("commit {} says {} records and holds {records}", row.commit, row.records));
        }
        if batch.seqno < row.seqno_min || batch.seqno - row.seqno_min > SEQNO_STEP_MAX {
            return Err(format!("commit {} has the wrong sequence number", row.commit));
        }
        if let Some((last, last_seqno)) = self.last {
            let mut lineage = Lineage::after(last.lineage);
            for item in batch.items.iter().filter(|item| item.sets(KeyspaceId::Changes)) {
                lineage.record(item.key, item.value);
            }
            if row.commit != last.commit + 1 {
                return Err(format!("commit {} stands behind commit {}", row.commit, last.commit));
            }
            let follows = row.total_records == last.total_records + u64::from(row.records)
                && row.lineage == lineage.finish()
                && row.seqno_min == last_seqno + 1;
            if !follows {
                return Err(format!("commit {} does not follow the one before", row.commit));
            }
        }
        if row.commit == self.ledger.commit
            && (row.lineage, row.total_records) != (self.ledger.lineage, self.ledger.total_records)
        {
            return Err(format!("commit {} is not the one that the ledger knows", row.commit));
        }
        self.first.get_or_insert(row);
        self.last = Some((row, batch.seqno));
        Ok(())
    }

    fn commit_row(&self, batch: &Batch<'_>) -> Result<CommitRow, String> {
        let is_row =
            |item: &&journal::Item<'_>| item.keyspace == KeyspaceId::Meta as u64 && item.key == COMMIT_KEY;
        let mut rows = batch.items.iter().filter(is_row);
        let row = rows.next().filter(|item| item.sets(KeyspaceId::Meta));
        let row = row.and_then(|item| CommitRow::decode(self.id, item.value));
        row.filter(|_| rows.next().is_none())
            .ok_or_else(|| "a batch is not a commit of this server".to_owned())
    }

    fn damage(&self, path: &Path, offset: usize, rest: &[u8], what: String) -> OpenError {
        let mut documents: Vec<String> = Vec::new();
        let mut more_documents = false;
        for name in journal::find_documents(rest) {
            if documents.contains(&name) {
                continue;
            }
            more_documents = documents.len() == REPORT_DOCUMENTS_MAX;
            if more_documents {
                break;
            }
            documents.push(name);
        }
        let commits = || journal::find_commits(rest, self.id).map(|row| row.commit);
        let through = commits().max().unwrap_or(0).max(self.ledger.commit);
        let from = self.last_commit().map_or_else(|| commits().min().unwrap_or(1), |last| last + 1);
        let lost = (from <= through).then_some(from..=through);
        OpenError::Damaged(Box::new(Damage {
            path: path.to_owned(),
            offset: Some(offset as u64),
            what,
            lost,
            documents,
            more_documents,
            after_open: false,
        }))
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
