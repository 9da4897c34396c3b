//! Storage: the log on disk and the threads that serve it. The only module that knows the database.
//!
//! ```text
//! directory   what lies where, the lock, the format
//! ledger      how far the log was acknowledged
//! keys        the rows
//! database    how fjall is set up
//! journal     fjall's journals, parsed without changing them
//! scan        may this directory be opened? journals against ledger
//! log         commit, read, find
//! thread      group commit, questions from other threads
//! ```

pub mod database;
pub mod directory;
pub mod error;
mod fields;
pub mod keys;
pub mod ledger;
pub mod log;
pub mod stats;
#[cfg(test)]
mod testing;
pub mod thread;

use std::path::Path;

pub use error::{Damage, OpenError};
pub use log::{DocumentEntry, FjallLog, Reader, Writer};
pub use stats::StorageStats;
pub use thread::{
    Committer, Job, Question, Questions, Refused, Reply, StorageThread, spawn_committer, spawn_reader,
};

use directory::DataDirectory;
use keys::CommitRow;
use ledger::{Ledger, Mark};

/// Opens a data directory, or begins one where there is none. Blocks; the database's workers take the
/// priority of the calling thread.
pub fn open(path: &Path) -> Result<FjallLog, OpenError> {
    let directory = DataDirectory::open(path, |database| database::open(database).map(drop))?;
    let ledger = ledger::scan(&directory.ledger_path(), directory.id())?;
    let (database, keyspaces) = database::open(&directory.database_path())?;
    let database_path = directory.database_path();
    let stored = keyspaces.commit_row(&database.snapshot()).map_err(|error| OpenError::Database {
        path: database_path.clone(),
        what: database::advice_for(&error),
    })?;
    let last = match stored {
        None => CommitRow::default(),
        Some(stored) => CommitRow::decode(directory.id(), &stored)
            .ok_or_else(|| OpenError::damaged(&database_path, None, "the last commit's row is unreadable"))?,
    };
    if last.commit < ledger.last.commit {
        let what = "the database ends before the last acknowledged commit";
        return Err(OpenError::damaged(&database_path, None, what));
    }
    let last_seqno = keyspaces.last_seqno();
    let ledger =
        Ledger::open(&directory.ledger_path(), directory.id(), ledger.newest_file, Mark::from(last))?;
    Ok(FjallLog::new(database, keyspaces, ledger, directory, last, last_seqno))
}
