//! Named versions: states of documents that somebody gave a name to, as files of their own.
//!
//! `versions/<document>/<name>.automerge` is the document with its history up to there, as Automerge loads it, and
//! `….json` says what it is. So a version needs nothing of the log: it outlives the snapshots, squashes and new epochs
//! of its document, and goes only when it is deleted, or its document is. Both files are on disk, the description last,
//! before a version counts as made; what a description does not name is left over, and written over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use etherply_engine::ids::DocumentId;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::directory::{sync_directory, write_new_file};
use super::error::{OpenError, advice};

/// The directory of versions in a data directory.
pub const VERSIONS_DIRECTORY: &str = "versions";
/// Bytes of a version's name.
pub const VERSION_NAME_BYTES_MAX: usize = 128;
/// Versions of one document.
pub const VERSIONS_PER_DOCUMENT_MAX: usize = 256;

/// What a version is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The document.
    pub document: String,
    /// Its name among the document's versions.
    pub name: String,
    /// The epoch in which it was made.
    pub epoch: u64,
    /// Its last position in that epoch.
    pub position: u64,
    /// The changes that it ends with, in hexadecimal, sorted.
    pub heads: Vec<String>,
    /// When it was made, in milliseconds since 1970.
    pub time_ms: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// Their xxh3, 128 bits, in hexadecimal.
    pub checksum: String,
}

/// Why a version cannot be made, read or deleted.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// The name cannot be one.
    #[error(
        "{name:?} is no version's name: it has 1 to {VERSION_NAME_BYTES_MAX} bytes and no control characters"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// The name is taken.
    #[error("document {document} has a version {name:?} already: delete it first, or take another name")]
    Taken {
        /// The document.
        document: DocumentId,
        /// The name.
        name: String,
    },
    /// The document has as many as it may.
    #[error("document {document} has {VERSIONS_PER_DOCUMENT_MAX} versions, as many as it may: delete some")]
    TooMany {
        /// The document.
        document: DocumentId,
    },
    /// There is no such version.
    #[error(
        "document {document} has no version {name:?}: `etherply history version list` shows those it has"
    )]
    Unknown {
        /// The document.
        document: DocumentId,
        /// What was asked for.
        name: String,
    },
    /// A file is not what was written.
    #[error("the version in {} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The operating system refused something.
    #[error("{}: {source}: {}", path.display(), advice(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] OpenError),
}

impl VersionError {
    /// Whether a file is not there any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// A stable name of the error, for scripts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "version_name_invalid",
            Self::Taken { .. } => "version_taken",
            Self::TooMany { .. } => "version_too_many",
            Self::Unknown { .. } => "version_unknown",
            Self::Damaged { .. } => "version_damaged",
            Self::Io { .. } | Self::Write(_) => "storage_unavailable",
        }
    }
}

/// The versions of a data directory.
#[derive(Debug, Clone)]
pub struct Versions {
    directory: PathBuf,
}

impl Versions {
    /// Those of the data directory at `path`. Nothing is read or made yet.
    pub fn new(path: &Path) -> Self {
        Self { directory: path.join(VERSIONS_DIRECTORY) }
    }

    /// Keeps a state of a document, as Automerge saved it, under a name. Returns when it will survive a power loss.
    /// `version.bytes` and `version.checksum` are filled in here.
    ///
    /// # Errors
    /// [`VersionError`]
    pub fn create(
        &self,
        document: &DocumentId,
        version: Version,
        automerge: &[u8],
    ) -> Result<Version, VersionError> {
        check_name(&version.name)?;
        let folder = self.folder(document);
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        let all = self.list(document)?;
        if all.iter().any(|other| other.name == version.name) {
            return Err(VersionError::Taken { document: document.clone(), name: version.name });
        }
        if all.len() >= VERSIONS_PER_DOCUMENT_MAX {
            return Err(VersionError::TooMany { document: document.clone() });
        }
        let version = Version { bytes: automerge.len() as u64, checksum: checksum(automerge), ..version };
        let description = self.description(document, &version.name);
        let json = serde_json::to_vec_pretty(&version).map_err(|error| damaged(&description, error))?;
        write_new_file(&description.with_extension("automerge"), automerge)?;
        write_new_file(&description, &json)?;
        // The folders' own names.
        for folder in [Some(self.directory.as_path()), self.directory.parent()].into_iter().flatten() {
            sync_directory(folder).map_err(io_error(folder))?;
        }
        Ok(version)
    }

    /// A document's versions, the oldest first.
    ///
    /// # Errors
    /// [`VersionError::Damaged`], [`VersionError::Io`].
    pub fn list(&self, document: &DocumentId) -> Result<Vec<Version>, VersionError> {
        let versions: Result<Vec<Version>, VersionError> = self.each(document)?.into_iter().collect();
        let mut versions = versions?;
        versions.sort_by(|a, b| (a.time_ms, &a.name).cmp(&(b.time_ms, &b.name)));
        Ok(versions)
    }

    /// A document's versions, damaged ones among them, in no order.
    ///
    /// # Errors
    /// [`VersionError::Io`]
    pub fn each(&self, document: &DocumentId) -> Result<Vec<Result<Version, VersionError>>, VersionError> {
        let folder = self.folder(document);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error(&folder)(error)),
        };
        let mut versions = Vec::new();
        for entry in entries {
            let path = entry.map_err(io_error(&folder))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                versions.push(self.describe(document, &path));
            }
        }
        Ok(versions)
    }

    /// What a version is.
    ///
    /// # Errors
    /// [`VersionError`]
    pub fn find(&self, document: &DocumentId, name: &str) -> Result<Version, VersionError> {
        check_name(name)?;
        let path = self.description(document, name);
        match fs::exists(&path) {
            Ok(true) => self.describe(document, &path),
            Ok(false) => Err(VersionError::Unknown { document: document.clone(), name: name.to_owned() }),
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    /// A version's file, proven to be what was written.
    ///
    /// # Errors
    /// [`VersionError::Damaged`], [`VersionError::Io`].
    pub fn read(&self, document: &DocumentId, version: &Version) -> Result<Vec<u8>, VersionError> {
        let path = self.description(document, &version.name).with_extension("automerge");
        let bytes = fs::read(&path).map_err(io_error(&path))?;
        if checksum(&bytes) != version.checksum {
            return Err(damaged(&path, "its checksum does not match its bytes"));
        }
        Ok(bytes)
    }

    /// Deletes a version for good.
    ///
    /// # Errors
    /// [`VersionError`]
    pub fn delete(&self, document: &DocumentId, name: &str) -> Result<(), VersionError> {
        check_name(name)?;
        let path = self.description(document, name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(VersionError::Unknown { document: document.clone(), name: name.to_owned() });
            }
            Err(error) => return Err(io_error(&path)(error)),
        }
        let folder = self.folder(document);
        sync_directory(&folder).map_err(io_error(&folder))?;
        // Without its description it is nothing.
        drop(fs::remove_file(path.with_extension("automerge")));
        Ok(())
    }

    /// Deletes all versions of a document, which was deleted itself.
    ///
    /// # Errors
    /// [`VersionError::Io`]
    pub fn delete_all(&self, document: &DocumentId) -> Result<(), VersionError> {
        let folder = self.folder(document);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&folder)(error)),
            _ => Ok(()),
        }
    }

    fn describe(&self, document: &DocumentId, path: &Path) -> Result<Version, VersionError> {
        let json = fs::read(path).map_err(io_error(path))?;
        let version: Version = serde_json::from_slice(&json).map_err(|error| damaged(path, error))?;
        if version.document != document.as_str() || self.description(document, &version.name) != path {
            return Err(damaged(path, "it describes another version"));
        }
        Ok(version)
    }

    fn folder(&self, document: &DocumentId) -> PathBuf {
        self.directory.join(format!("{:032x}", xxh3_128(document.as_str().as_bytes())))
    }

    fn description(&self, document: &DocumentId, name: &str) -> PathBuf {
        self.folder(document).join(format!("{:032x}.json", xxh3_128(name.as_bytes())))
    }
}

fn check_name(name: &str) -> Result<(), VersionError> {
    let is_one = (1..=VERSION_NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    if is_one { Ok(()) } else { Err(VersionError::Name { name: name.to_owned() }) }
}

/// The checksum of a version's file.
pub fn checksum(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

fn damaged(path: &Path, what: impl ToString) -> VersionError {
    VersionError::Damaged { path: path.to_owned(), what: what.to_string() }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> VersionError {
    let path = path.to_owned();
    move |source| VersionError::Io { path, source }
}

#[cfg(test)]
#[path = "versions_tests.rs"]
mod tests;
