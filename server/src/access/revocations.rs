//! What was revoked, durable in the data directory.
//!
//! The file has a line of JSON for each revocation, with a checksum before it; a line counts once it is synced. A
//! line that a crash cut off at the end was never confirmed, and goes. Anything else that cannot be read stops the
//! start: with a revocation forgotten, somebody would have rights again. Every start writes the file anew
//! without those whose tokens have all ended by themselves.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use etherply_engine::access::{
    Identity, Pattern, Revocation, Revoked, SUBJECT_BYTES_MAX, TOKEN_ID_BYTES_MAX,
};
use etherply_engine::ids::DocumentId;
use serde::{Deserialize, Serialize};

/// Most revocations at a time.
pub const REVOCATIONS_MAX: usize = 100_000;
/// Most revocations of documents among them: each open is held against all of these.
pub const DOCUMENT_REVOCATIONS_MAX: usize = 1_000;
/// Name of the file in the data directory.
const FILE: &str = "revocations";

/// Why revocations cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RevocationsError {
    /// The file cannot be read or written.
    #[error("cannot keep revocations in {path}: {reason}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "{path}, line {line}, is damaged: somebody whose token was revoked could get in again. Restore the file, \
         or correct it, or remove it and change the keys",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
    },
    /// More than the limit.
    #[error(
        "there are {REVOCATIONS_MAX} revocations, or {DOCUMENT_REVOCATIONS_MAX} of documents: change the keys instead"
    )]
    Full,
    /// Not a revocation.
    #[error("{0}")]
    Wrong(String),
}

/// A revocation as it is asked for, and stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Line {
    /// A token, by its id.
    Token(String),
    /// All tokens of a subject.
    Subject(String),
    /// Everybody's rights on documents.
    Documents(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    at_s: u64,
    what: Line,
}

impl Line {
    /// The revocation, as of a time.
    ///
    /// # Errors
    /// [`RevocationsError::Wrong`]
    pub fn at(&self, at_s: u64) -> Result<Revocation, RevocationsError> {
        let wrong = |text: String| Err(RevocationsError::Wrong(text));
        let what = match self {
            Self::Token(id) if (1..=TOKEN_ID_BYTES_MAX).contains(&id.len()) => {
                Revoked::Token(id.as_str().into())
            }
            Self::Subject(name) if (1..=SUBJECT_BYTES_MAX).contains(&name.len()) => {
                Revoked::Subject(name.as_str().into())
            }
            Self::Documents(pattern) => match Pattern::new(pattern) {
                Ok(pattern) => Revoked::Documents(pattern),
                Err(error) => return wrong(error.to_string()),
            },
            Self::Token(_) => return wrong(format!("a token's id has 1 to {TOKEN_ID_BYTES_MAX} bytes")),
            Self::Subject(_) => return wrong(format!("a subject has 1 to {SUBJECT_BYTES_MAX} bytes")),
        };
        Ok(Revocation { what, at_s })
    }
}

fn line(revocation: &Revocation) -> String {
    let what = match &revocation.what {
        Revoked::Token(id) => Line::Token(id.to_string()),
        Revoked::Subject(name) => Line::Subject(name.to_string()),
        Revoked::Documents(pattern) => Line::Documents(pattern.to_string()),
    };
    let json = serde_json::json!(Stored { at_s: revocation.at_s, what }).to_string();
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
}

fn read_line(bytes: &[u8]) -> Option<Revocation> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (crc, json) = text.split_once(' ')?;
    (format!("{:08x}", crc32fast::hash(json.as_bytes())) == crc).then_some(())?;
    let stored: Stored = serde_json::from_str(json).ok()?;
    stored.what.at(stored.at_s).ok()
}

/// What was revoked, so that an open does not look at all of it.
#[derive(Debug, Default)]
struct Table {
    tokens: HashSet<Arc<str>>,
    /// When all tokens of each subject were revoked last.
    subjects: HashMap<Arc<str>, Revocation>,
    documents: Vec<Revocation>,
}

impl Table {
    fn add(&mut self, revocation: Revocation) {
        match &revocation.what {
            Revoked::Token(id) => _ = self.tokens.insert(Arc::clone(id)),
            Revoked::Subject(name) => {
                let last = self.subjects.entry(Arc::clone(name)).or_insert_with(|| revocation.clone());
                last.at_s = last.at_s.max(revocation.at_s);
            }
            Revoked::Documents(_) => self.documents.push(revocation),
        }
    }

    fn hits(&self, identity: &Identity, document: &DocumentId) -> bool {
        self.tokens.contains(&identity.token)
            || self
                .subjects
                .get(&identity.subject)
                .is_some_and(|revocation| revocation.hits(identity, document))
            || self.documents.iter().any(|revocation| revocation.hits(identity, document))
    }

    fn len(&self) -> usize {
        self.tokens.len() + self.subjects.len() + self.documents.len()
    }
}

/// The file, behind its last whole line.
#[derive(Debug)]
struct Written {
    file: File,
    /// It ends with half a line that could not be taken away.
    is_broken: bool,
}

/// The revocations of a server.
#[derive(Debug)]
pub struct Revocations {
    path: PathBuf,
    written: Mutex<Written>,
    table: RwLock<Table>,
}

impl Revocations {
    /// Reads those of a data directory. Tokens older than `lifetime_s` have ended by themselves.
    ///
    /// # Errors
    /// [`RevocationsError`]
    pub fn open(data: &Path, lifetime_s: u64, now_s: u64) -> Result<Self, RevocationsError> {
        let path = data.join(FILE);
        let failed = |reason| RevocationsError::Io { path: path.clone(), reason };
        let text = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut all =
            read_all(&text).map_err(|line| RevocationsError::Damaged { path: path.clone(), line })?;
        all.retain(|revocation| revocation.at_s.saturating_add(lifetime_s) >= now_s);
        let new = data.join(format!("{FILE}.new"));
        let options = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new);
        let mut file = options.map_err(failed)?;
        let text: String = all.iter().map(line).collect();
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&new, &path).map_err(failed)?;
        File::open(data).and_then(|folder| folder.sync_all()).map_err(failed)?;
        let mut table = Table::default();
        all.into_iter().for_each(|revocation| table.add(revocation));
        let written = Mutex::new(Written { file, is_broken: false });
        Ok(Self { path, written, table: RwLock::new(table) })
    }

    /// Whether any hits this identity's grant on this document.
    pub fn hits(&self, identity: &Identity, document: &DocumentId) -> bool {
        self.table.read().unwrap_or_else(PoisonError::into_inner).hits(identity, document)
    }

    /// Adds one. It is durable, and counts, when this returns.
    ///
    /// # Errors
    /// [`RevocationsError`]; it does not count then.
    pub fn add(&self, revocation: &Revocation) -> Result<(), RevocationsError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of_documents = matches!(revocation.what, Revoked::Documents(_));
        let documents = self.table.read().unwrap_or_else(PoisonError::into_inner).documents.len();
        if self.len() >= REVOCATIONS_MAX || (is_of_documents && documents >= DOCUMENT_REVOCATIONS_MAX) {
            return Err(RevocationsError::Full);
        }
        written
            .append(&line(revocation))
            .map_err(|reason| RevocationsError::Io { path: self.path.clone(), reason })?;
        self.table.write().unwrap_or_else(PoisonError::into_inner).add(revocation.clone());
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Written {
    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.is_broken {
            return Err(io::Error::other("an earlier write failed half way: restart the server"));
        }
        let before = self.file.metadata()?.len();
        let done = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if done.is_err() {
            // Half a line in the middle would be damage.
            let undone = self.file.set_len(before).and_then(|()| self.file.seek(SeekFrom::End(0)));
            self.is_broken = undone.is_err();
        }
        done
    }
}

/// Reads a file's lines; the number of the first that is damaged otherwise.
fn read_all(bytes: &[u8]) -> Result<Vec<Revocation>, usize> {
    let mut all = Vec::new();
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').enumerate();
    for (at, bytes) in lines {
        let (last, rest) = bytes.split_last().unwrap_or((&0, &[]));
        match read_line(rest) {
            // The end of its line is not what it was; it says so itself that it is whole.
            Some(revocation) => all.push(revocation),
            // Cut off by a crash before it was confirmed.
            None if *last != b'\n' => return Ok(all),
            None => return Err(at + 1),
        }
    }
    Ok(all)
}

#[cfg(test)]
#[path = "revocations_tests.rs"]
mod tests;
