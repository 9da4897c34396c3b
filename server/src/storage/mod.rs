//! Storage: the log on disk and the threads that serve it. The only module that knows the database.
//!
//! ```text
//! directory   what lies where, the lock, the format
//! ledger      how far the log was acknowledged
//! keys        the rows
//! database    how fjall is set up
//! journal     fjall's journals, parsed without changing them
//! archive     what fjall's other files say of their own parts
//! scan        may this directory be opened? journals against ledger
//! log         commit
//! reader      read, find
//! epoch       a document begins anew
//! listing     the list of documents
//! index       what stays of a record that a snapshot covers
//! anchor      what ties a document to its snapshot
//! snapshot    snapshots: files beside the database
//! piece       bounded sets of rows that go between ordinary commits
//! cover       a snapshot takes the place of records
//! scrub       proves all documents, slowly, while the server runs
//! proof       one document's log, proven row by row
//! inspect     a data directory, looked at from outside: what `verify` and `repair` see
//! repair      what is proven, in a new data directory
//! reopen      the log, opened again in the same process after a failure
//! versions    states of documents with names, as files
//! retire      epochs that documents have left behind, and how their rows go
//! tombstone   deleted documents, and how their rows go
//! thread      group commit, questions from other threads
//! ```

pub mod anchor;
mod archive;
pub mod cover;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
pub mod database;
pub mod directory;
pub mod epoch;
pub mod error;
pub(crate) mod fields;
pub mod index;
pub mod inspect;
mod journal;
pub mod keys;
pub mod ledger;
pub mod listing;
pub mod log;
mod manifest;
pub mod piece;
mod proof;
pub mod reader;
pub mod reopen;
pub mod repair;
pub mod retire;
mod scan;
pub mod scrub;
pub mod snapshot;
pub mod stats;
#[cfg(test)]
pub(crate) mod testing;
pub mod thread;
pub mod tombstone;
pub mod versions;

use std::fs;
use std::path::Path;

pub use epoch::{Epochs, Turn};
pub use error::{Damage, OpenError};
pub use listing::DocumentEntry;
pub use log::{FjallLog, Writer};
pub use reader::Reader;
pub use reopen::Reopen;
pub use snapshot::SnapshotError;
pub use stats::StorageStats;
pub use thread::{
    Anew, Committer, Durable, Gate, Handles, Job, LOOKUPS_PER_STEP_MAX, Listeners, Question, Questions,
    Recovered, Refused, Reply, StorageThread, spawn_background, spawn_committer, spawn_reader,
};
pub use tombstone::Tombstones;

use database::Keyspaces;
use directory::{DataDirectory, write_new_file};
use fjall::Database;
use keys::CommitRow;
use ledger::{Ledger, Mark};
use log::Ready;
use scan::{Scan, Unsettled};

/// Opens a data directory, or begins one where there is none. Blocks.
///
/// A directory that does not hold all that was acknowledged is refused. Except in the rare case that only
/// the opened database can tell (then [`Damage::after_open`] is set), no file but the lock was changed by
/// then.
pub fn open(path: &Path) -> Result<FjallLog, OpenError> {
    let mut directory = DataDirectory::open(path, |database| database::open(database).map(drop))?;
    let ready = open_in(&directory)?;
    directory.settle()?;
    Ok(FjallLog::new(ready, directory))
}

/// As [`open`], but never begins a new directory: for commands that only read what is there.
///
/// # Errors
/// As [`open`], and [`OpenError::NoData`].
pub fn open_existing(path: &Path) -> Result<FjallLog, OpenError> {
    directory::expect_data(path)?;
    open(path)
}

/// Opens what is in a data directory that this process holds.
fn open_in(directory: &DataDirectory) -> Result<Ready, OpenError> {
    let scan = scan::scan(directory)?;
    for journal in &scan.unsettled {
        settle(directory, journal)?;
    }
    let (database, keyspaces) = database::open(&directory.database_path())?;
    let last = check_opened(directory, &scan, &database, &keyspaces)?;
    let (newest_file, base) = (scan.ledger.newest_file, Mark::from(last));
    let ledger = Ledger::open(&directory.ledger_path(), directory.id(), newest_file, base)?;
    let purges = tombstone::find_purges(&database, &keyspaces);
    let purges = purges
        .map_err(|error| OpenError::Database { path: directory.database_path(), what: error.to_string() })?;
    Ok(Ready { database, keyspaces, ledger, last, purges })
}

/// Name of the journal that [`settle`] replaced last, kept for whoever wants to know what stood there.
const REPLACED_JOURNAL: &str = "replaced.jnl";

/// Writes the whole batches of a journal anew and syncs them.
///
/// After a failed sync the system may show bytes that never reached the disk, and syncing them again does
/// nothing; written anew they do reach it. And fjall refuses some ends that an interrupted batch can have.
fn settle(directory: &DataDirectory, journal: &Unsettled) -> Result<(), OpenError> {
    let path = &journal.path;
    let mut bytes = journal::read(path)?;
    bytes.truncate(journal.end);
    let kept = directory.path().join(REPLACED_JOURNAL);
    // Evidence only: a file system without links, or a full one, must not keep the server from starting.
    let linked = fs::remove_file(&kept).or(Ok(())).and_then(|()| fs::hard_link(path, &kept));
    if let Err(error) = linked {
        tracing::warn!("cannot keep {} as {}: {error}", path.display(), kept.display());
    }
    write_new_file(path, &bytes)
}

/// Does the opened database hold what the scan has seen, and what the ledger knows?
fn check_opened(
    directory: &DataDirectory,
    scan: &Scan,
    database: &Database,
    keyspaces: &Keyspaces,
) -> Result<CommitRow, OpenError> {
    let path = directory.database_path();
    let refuse = |what: &str, from: u64, through: u64| {
        let lost = (from <= through).then_some(from..=through);
        let damage =
            Damage { path: path.clone(), what: what.to_owned(), lost, after_open: true, ..Damage::default() };
        Err(OpenError::Damaged(Box::new(damage)))
    };
    let stored =
        keyspaces.commit_row(&database.snapshot()).map_err(|error| database::open_failed(&path, &error))?;
    let acknowledged = scan.ledger.last;
    let last = match stored {
        None => CommitRow::default(),
        Some(stored) => match CommitRow::decode(directory.id(), &stored) {
            Some(row) => row,
            None => return refuse("the last commit's row is not readable", 1, acknowledged.commit),
        },
    };
    if last.commit < acknowledged.commit {
        return refuse(
            "the tables end before the last acknowledged commit",
            last.commit + 1,
            acknowledged.commit,
        );
    }
    let same = (last.lineage, last.total_records) == (acknowledged.lineage, acknowledged.total_records);
    if last.commit == acknowledged.commit && !same {
        return refuse("the tables hold another history than the ledger knows", 1, last.commit);
    }
    if let Some(journaled) = scan.last.filter(|journaled| *journaled != last) {
        return refuse("the database did not take over its journal", last.commit + 1, journaled.commit);
    }
    // What came before the oldest journal was dropped from the journals because all tables held it.
    if let Some(first) = scan.first.filter(|first| keyspaces.tables_end() < first.seqno_min) {
        return refuse("a journal, or tables that replaced it, are missing", 1, first.commit - 1);
    }
    Ok(last)
}
