//! Changes that were taken out of documents, kept for operators: two files for each time.
//!
//! `quarantine/<document>-<epoch>.json` says which changes they are and why, `….changes` has the changes themselves,
//! one behind the other, as Automerge loads them. Both are on disk before the document begins anew. When all
//! together are too large, the oldest changes go, and their descriptions stay until these are too many.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etherply_engine::change::{ChangeHash, ChangeLimits, parse_header};
use etherply_engine::ids::DocumentId;
use etherply_engine::record::Record;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::events::{Event, Events};

/// Directory within the data directory.
pub const DIRECTORY: &str = "quarantine";
/// Bytes that all files together may take.
pub const QUARANTINE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Descriptions that are kept; the oldest go with their changes. Each poisoning is one.
pub const QUARANTINE_DESCRIPTIONS_MAX: usize = 10_000;
/// Changes that a description names; it counts those beyond.
pub const DESCRIBED_CHANGES_MAX: usize = 10_000;

/// Why and what was taken out of a document at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// The document.
    pub document: String,
    /// The epoch in which the changes stood.
    pub epoch: u64,
    /// The epoch without them.
    pub new_epoch: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What Automerge said of each change that broke the document.
    pub reasons: Vec<String>,
    /// How many changes were taken out.
    pub changes_count: u64,
    /// Bytes of these changes.
    pub bytes: u64,
    /// The first of them.
    pub changes: Vec<ExcludedChange>,
}

/// A change that was taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExcludedChange {
    /// Its hash, in hexadecimal.
    pub hash: String,
    /// Its author, in hexadecimal.
    pub actor: String,
    /// Its number among its author's.
    pub seq: u64,
    /// Where it stood in the log.
    pub position: u64,
    /// When the server took it, in milliseconds since 1970.
    pub time_ms: u64,
    /// Who sent it; empty for an anonymous member.
    pub pusher: String,
    /// Whether it broke the document, rather than depending on one that did.
    pub is_culprit: bool,
    /// Its length.
    pub bytes: u64,
}

/// The excluded changes of a data directory.
#[derive(Debug, Clone)]
pub struct Quarantine {
    directory: PathBuf,
    /// Where documents that began anew are told of, in a running server.
    events: Option<Arc<Events>>,
}

/// What is kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// Each exclusion with the file of its changes, the oldest first.
    pub exclusions: Vec<(PathBuf, Exclusion)>,
    /// Descriptions that are not what was written.
    pub unreadable: Vec<PathBuf>,
}

/// The two files of one exclusion.
struct Files {
    description: PathBuf,
    /// Those of the description, and of the changes if they are there.
    bytes: [u64; 2],
}

/// An exclusion that is being written.
#[derive(Debug)]
pub struct Excluding {
    exclusion: Exclusion,
    path: PathBuf,
    file: BufWriter<File>,
}

impl Quarantine {
    /// That of the data directory at `path`. Nothing is read or made yet.
    pub fn new(path: &Path) -> Self {
        Self { directory: path.join(DIRECTORY), events: None }
    }

    /// Tells whoever reads events.
    pub fn telling(self, events: &Arc<Events>) -> Self {
        Self { events: Some(Arc::clone(events)), ..self }
    }

    /// A document has begun anew without so many changes.
    pub(super) fn tell(&self, document: &DocumentId, changes: u64) {
        if let Some(events) = &self.events {
            events.tell(|| Event::Quarantined { document: document.clone(), changes });
        }
    }

    /// Begins to write down what is taken out of a document.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn begin(
        &self,
        document: &DocumentId,
        (epoch, new_epoch): (u64, u64),
        time_ms: u64,
        reasons: Vec<String>,
    ) -> io::Result<Excluding> {
        fs::create_dir_all(&self.directory)?;
        let name = format!("{:032x}-{epoch}", xxh3_128(document.as_str().as_bytes()));
        let path = self.directory.join(name);
        let file = BufWriter::new(File::create(path.with_extension("changes"))?);
        let exclusion = Exclusion {
            document: document.to_string(),
            epoch,
            new_epoch,
            time_ms,
            reasons,
            changes_count: 0,
            bytes: 0,
            changes: Vec::new(),
        };
        Ok(Excluding { exclusion, path, file })
    }

    /// All that is kept.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> io::Result<Kept> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
            Err(error) => return Err(error),
        };
        let mut kept = Kept::default();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                match serde_json::from_slice(&fs::read(&path)?) {
                    Ok(exclusion) => kept.exclusions.push((path.with_extension("changes"), exclusion)),
                    Err(_) => kept.unreadable.push(path),
                }
            }
        }
        kept.unreadable.sort();
        kept.exclusions.sort_by(|(_, one), (_, other)| {
            (one.time_ms, &one.document).cmp(&(other.time_ms, &other.document))
        });
        Ok(kept)
    }

    /// Lets the oldest go: changes until all files together are within `bytes_max`, then descriptions until they are
    /// that and no more than `descriptions_max`. How many files went. The newest description stays.
    ///
    /// # Errors
    /// The directory cannot be read or written.
    pub fn trim(&self, bytes_max: u64, descriptions_max: usize) -> io::Result<u64> {
        let files = self.files()?;
        let mut bytes: u64 = files.iter().map(|files| files.bytes[0] + files.bytes[1]).sum();
        let (mut gone, mut descriptions) = (0, files.len());
        let mut remove = |path: &Path, own: u64| match own {
            0 => Ok(0),
            own => {
                gone += 1;
                fs::remove_file(path).map(|()| own)
            }
        };
        for Files { description, bytes: [_, changes] } in &files {
            let is_too_old = descriptions > descriptions_max;
            descriptions -= usize::from(is_too_old);
            if bytes > bytes_max || is_too_old {
                bytes -= remove(&description.with_extension("changes"), *changes)?;
            }
        }
        descriptions = files.len();
        for Files { description, bytes: [own, _] } in &files {
            if descriptions > 1 && (bytes > bytes_max || descriptions > descriptions_max) {
                bytes -= remove(description, *own)?;
                descriptions -= 1;
            }
        }
        Ok(gone)
    }

    /// What is there, the oldest first, by when it was written: nothing of it is read.
    fn files(&self) -> io::Result<Vec<Files>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let description = entry.path();
            if description.extension().is_some_and(|extension| extension == "json") {
                let metadata = entry.metadata()?;
                let changes = fs::metadata(description.with_extension("changes"));
                let bytes = [metadata.len(), changes.map_or(0, |metadata| metadata.len())];
                found.push((metadata.modified()?, Files { description, bytes }));
            }
        }
        found.sort_by(|(one, a), (other, b)| (one, &a.description).cmp(&(other, &b.description)));
        Ok(found.into_iter().map(|(_, files)| files).collect())
    }
}

impl Excluding {
    /// Adds a change.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, record: &Record, is_culprit: bool) -> io::Result<()> {
        self.file.write_all(&record.change)?;
        self.exclusion.changes_count += 1;
        self.exclusion.bytes += record.change.len() as u64;
        let header = parse_header(&record.change, &ChangeLimits::DEFAULT);
        let described =
            header.ok().filter(|_| self.exclusion.changes.len() < DESCRIBED_CHANGES_MAX || is_culprit);
        if let Some(header) = described {
            self.exclusion.changes.push(ExcludedChange {
                hash: hex(&record.hash),
                actor: header.actor.iter().map(|byte| format!("{byte:02x}")).collect(),
                seq: header.seq,
                position: record.seq,
                time_ms: record.time_ms,
                pusher: record.pusher.to_string(),
                is_culprit,
                bytes: record.change.len() as u64,
            });
        }
        Ok(())
    }

    /// Puts it on disk.
    ///
    /// # Errors
    /// It cannot be written or synced.
    pub fn finish(self) -> io::Result<Exclusion> {
        let Self { exclusion, path, file } = self;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        let new_path = path.with_extension("new");
        let mut file = File::create(&new_path)?;
        file.write_all(&serde_json::to_vec_pretty(&exclusion)?)?;
        file.sync_all()?;
        fs::rename(&new_path, path.with_extension("json"))?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
            directory.parent().map(File::open).transpose()?.map(|file| file.sync_all()).transpose()?;
        }
        Ok(exclusion)
    }
}

fn hex(hash: &ChangeHash) -> String {
    hash.to_string()
}

#[cfg(test)]
#[path = "quarantine_tests.rs"]
mod tests;
