//! Backups: every document at one commit, in one file of our own, and a new data directory from it.
//!
//! ```text
//! format    the file: sections, each with a checksum
//! take      a data directory's documents, written as sections
//! walk      a backup read from front to back, and every promise of the format checked on the way
//! restore   a new data directory from a backup
//! file      a backup put in its place: written, synced, checked, renamed
//! ```
//!
//! Nothing here knows the database: it is read and written as anybody else does, through [`crate::storage`].

pub mod file;
pub mod format;
pub mod restore;
pub mod take;
pub mod walk;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use etherply_engine::log::LogError;
use serde::Serialize;

use crate::operator::OperatorError;
use crate::storage::OpenError;
use crate::storage::error::advice;
use crate::storage::versions::VersionError;

/// Most damaged documents that a summary names.
pub const DAMAGED_NAMED_MAX: usize = 20;

/// Why a backup was not taken, is none, or was not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A data directory does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log does not answer, or not as it should.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A named version cannot be written or read back.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}: {}", path.display(), advice(source))]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// What is to be written is there already.
    #[error("{} exists already, and nothing is written over: choose another name", path.display())]
    Exists {
        /// It.
        path: PathBuf,
    },
    /// Something else than a backup.
    #[error("{} is no backup that etherply wrote", path.display())]
    NotABackup {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer server.
    #[error(
        "{}: the backup has version {found}, this etherply reads up to {supported}: use the one that wrote it",
        path.display()
    )]
    FutureVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest one that can be read.
        supported: u32,
    },
    /// It ends before its end.
    #[error("{}: the backup is cut short at byte {offset}: take another one", path.display())]
    Torn {
        /// The file.
        path: PathBuf,
        /// Where it ends.
        offset: u64,
    },
    /// Its bytes are not what was written.
    #[error("{}: the backup is damaged at byte {offset}: {what}: use another one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the section begins that does not fit.
        offset: u64,
        /// What does not fit.
        what: String,
    },
    /// The server that took it could not go on.
    #[error("the server ended the backup: {why}")]
    EndedBySource {
        /// Its reason.
        why: String,
    },
    /// The control plane does not answer, or refuses.
    #[error(transparent)]
    Control(#[from] OperatorError),
    /// What was restored is not what the backup holds: a fault of the disk, or a bug.
    #[error("document {document}: what was restored differs from the backup: {what}: check the disk")]
    RestoredWrongly {
        /// The document.
        document: String,
        /// What differs.
        what: String,
    },
}

impl BackupError {
    /// A stable name of the error, for scripts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Open(error) => error.code(),
            Self::Log(error) => error.code(),
            Self::Version(error) => error.code(),
            Self::Control(error) => error.code(),
            Self::Io { .. } => "file_io",
            Self::Exists { .. } => "file_exists",
            Self::NotABackup { .. } => "backup_not_one",
            Self::FutureVersion { .. } => "backup_future_version",
            Self::Torn { .. } => "backup_torn",
            Self::Damaged { .. } => "backup_damaged",
            Self::EndedBySource { .. } => "backup_ended_by_source",
            Self::RestoredWrongly { .. } => "backup_restored_wrongly",
        }
    }

    /// For `map_err` after a file operation.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Summary {
    /// Id of the data directory that it was taken of, in hexadecimal.
    pub directory: String,
    /// The commit at which it was taken.
    pub commit: u64,
    /// When it was taken, in milliseconds since 1970.
    pub taken_ms: u64,
    /// The etherply that took it.
    pub etherply: String,
    /// Documents, those without records and damaged ones included, deleted ones not.
    pub documents: u64,
    /// Tombstones of deleted documents.
    pub deleted: u64,
    /// Records.
    pub records: u64,
    /// Bytes of their changes.
    pub change_bytes: u64,
    /// Named versions of documents.
    pub versions: u64,
    /// Bytes of the backup.
    pub bytes: u64,
    /// Documents whose log, or one of whose versions, was damaged when the backup was taken: it holds what stands before
    /// the damage, and the other versions.
    pub damaged: u64,
    /// The first of them, at most [`DAMAGED_NAMED_MAX`].
    pub damaged_documents: Vec<DamagedDocument>,
}

/// A document that was damaged when the backup was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedDocument {
    /// Its name.
    pub document: String,
    /// The first position that is not in the backup.
    pub seq: u64,
    /// What was found there.
    pub what: String,
}

impl Summary {
    fn note_damaged(&mut self, document: &str, seq: u64, what: &str) {
        self.damaged += 1;
        if self.damaged_documents.len() < DAMAGED_NAMED_MAX {
            let (document, what) = (document.to_owned(), what.to_owned());
            self.damaged_documents.push(DamagedDocument { document, seq, what });
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { documents, records, change_bytes, deleted, versions, commit, bytes, .. } = self;
        write!(f, "{documents} documents with {records} changes of {change_bytes} bytes")?;
        if *deleted > 0 {
            write!(f, " and {deleted} tombstones")?;
        }
        if *versions > 0 {
            write!(f, ", {versions} named versions")?;
        }
        write!(f, ", at commit {commit}, in {bytes} bytes of backup")
    }
}
