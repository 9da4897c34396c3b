//! Why a data directory does not open. What goes wrong later is the engine's `LogError`.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Most document names that a damage report lists.
pub const REPORT_DOCUMENTS_MAX: usize = 20;

/// What to do about damage.
pub const DAMAGE_ADVICE: &str = "keep a copy of the directory; `etherply verify --data DIR` says what is damaged and \
                                 what is whole, then restore the last backup, or keep what is whole with `etherply \
                                 repair --data DIR --to NEW`";

/// Why a data directory does not open. Each says what was found and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "{}: data directory in use by another etherply ({}): stop it or choose another --data",
        path.display(),
        pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"))
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The process that holds it, where it could be read.
        pid: Option<u32>,
    },
    /// Written by a newer server.
    #[error(
        "{}: the data directory has format {found}, this server reads format {supported}: start the newer \
         etherply that wrote it, or choose another --data",
        path.display()
    )]
    FutureFormat {
        /// The file that names the format.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format this server reads.
        supported: u32,
    },
    /// Something else stands where the data should be.
    #[error("{}: {what}: choose an empty directory with {flag}", path.display())]
    NotADataDirectory {
        /// The directory.
        path: PathBuf,
        /// What was found in it.
        what: String,
        /// How another one is chosen.
        flag: &'static str,
    },
    /// There is nothing to look at.
    #[error("{}: {what}: name the data directory of an etherply with --data", path.display())]
    NoData {
        /// The directory.
        path: PathBuf,
        /// What was found, or not.
        what: String,
    },
    /// What is stored is not what was written. The report says what is known.
    #[error(transparent)]
    Damaged(Box<Damage>),
    /// The operating system refused something.
    #[error("{}: cannot {action}: {source}: {}, then start etherply again", path.display(), advice(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The database refused to open although the checks before found nothing.
    #[error("{}: the database does not open: {what}", path.display())]
    Database {
        /// The database's directory.
        path: PathBuf,
        /// What it said, and what to do.
        what: String,
    },
}

impl OpenError {
    /// A stable name of the error, for scripts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "storage_locked",
            Self::FutureFormat { .. } => "storage_future_format",
            Self::NotADataDirectory { .. } => "storage_not_a_data_directory",
            Self::NoData { .. } => "storage_no_data",
            Self::Damaged(_) => "storage_damaged",
            Self::Io { .. } => "storage_io",
            Self::Database { .. } => "storage_database",
        }
    }

    /// Damage at one place.
    pub fn damaged(path: &Path, offset: Option<u64>, what: impl Into<String>) -> Self {
        Self::Damaged(Box::new(Damage {
            path: path.to_owned(),
            offset,
            what: what.into(),
            ..Damage::default()
        }))
    }

    /// For `map_err` after a file operation.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}

/// What is known about damage in a data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The damaged file, or the directory if something is missing.
    pub path: PathBuf,
    /// First byte that cannot be trusted.
    #[serde(rename = "byte")]
    pub offset: Option<u64>,
    /// What was found there.
    pub what: String,
    /// Numbers of the commits that were acknowledged and are not whole.
    #[serde(rename = "commits")]
    pub lost: Option<RangeInclusive<u64>>,
    /// Documents whose names could still be read there, at most [`REPORT_DOCUMENTS_MAX`].
    pub documents: Vec<String>,
    /// There are more documents than are listed.
    pub more_documents: bool,
    /// The database was already opened when this was found, so its files are not as they were.
    #[serde(skip)]
    pub after_open: bool,
}

impl Damage {
    /// What was found and where, without what to do.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        if !self.path.as_os_str().is_empty() {
            text = format!("{}: ", self.path.display());
        }
        if let Some(offset) = self.offset {
            text += &format!("byte {offset}: ");
        }
        text + &self.found()
    }

    fn found(&self) -> String {
        let mut text = self.what.clone();
        if let Some(lost) = &self.lost {
            text += &format!("; not whole: commits {} to {}", lost.start(), lost.end());
        }
        if !self.documents.is_empty() {
            text += "; documents concerned, as far as they can be read: ";
            text += &self.documents.join(", ");
            text += if self.more_documents { " and more" } else { "" };
        }
        text
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the data directory is damaged", self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}; ", self.found())?;
        f.write_str(if self.after_open {
            "the server refuses to serve it as if whole"
        } else {
            "nothing was changed"
        })?;
        write!(f, ": {DAMAGE_ADVICE}")
    }
}

impl std::error::Error for Damage {}

/// What a person can do about an I/O error.
pub fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free space on that disk (or raise the limit)"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "give etherply's user the right to write there"
        }
        io::ErrorKind::NotFound => "check that the path exists",
        _ => "check the disk and the system's log",
    }
}
