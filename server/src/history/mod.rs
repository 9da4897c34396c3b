//! A document's history: who changed what when, the document at any position, the difference between two, and the
//! change that brings an old state back.
//!
//! Everything is answered from what is stored: Automerge keeps each change of a document, also within a snapshot,
//! and the log knows each one's position, pusher and time. Nothing here writes: an old state comes back as a new
//! change, to be pushed like any other. A history holds the whole document in memory and takes time in
//! proportion to it: it is for threads that nobody waits for, and for stopped data directories.

mod entry;
pub(crate) mod json;
mod patch;
#[cfg(test)]
mod tests;
mod timeline;
mod version;
#[cfg(test)]
mod version_tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::transaction::CommitOptions;
use automerge::{ActorId, Automerge, ChangeHash, ReadDoc as _};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{LogError, LogReader as _};
use serde_json::Value;

pub use entry::{ENTRIES_PER_PAGE_MAX, Entry};
pub use version::version_json;

use crate::materialise::depth::{self, DEPTH_MAX, Depth};
use crate::materialise::replica::{Opening, OpeningError, Replica};
use crate::storage::Reader;
use crate::storage::database::panic_text;
use crate::storage::versions::VersionError;
use timeline::Timeline;

/// Why a history does not answer.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The log cannot be read, or not by Automerge.
    #[error(transparent)]
    Opening(#[from] OpeningError),
    /// There is no such position.
    #[error("document {document} has no position {position}: its last one is {last}")]
    NoSuchPosition {
        /// The document.
        document: DocumentId,
        /// What was asked for.
        position: u64,
        /// The document's last position.
        last: u64,
    },
    /// A head that is none of the document's changes.
    #[error("document {document} has no change {hash}")]
    NoSuchChange {
        /// The document.
        document: DocumentId,
        /// What was asked for, in hexadecimal.
        hash: String,
    },
    /// The document is in that state now.
    #[error(
        "document {document} is in the state of position {position} already: there is nothing to bring back"
    )]
    Unchanged {
        /// The document.
        document: DocumentId,
        /// What was asked for.
        position: u64,
    },
    /// Its objects are nested too deep for one value.
    #[error(
        "document {document} has objects nested deeper than {DEPTH_MAX}, which is not read as one value: `history save` \
         writes it as Automerge's file"
    )]
    TooDeep {
        /// The document.
        document: DocumentId,
    },
    /// A named version cannot be made or read.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The document does not have a version's changes any more, or not yet.
    #[error(
        "version {name:?} was made in epoch {epoch} of document {document}, which does not have its changes now: it \
         can be shown and saved, not compared with the document or restored"
    )]
    VersionElsewhere {
        /// The document.
        document: DocumentId,
        /// The version.
        name: String,
        /// The version's epoch.
        epoch: u64,
    },
    /// Automerge cannot do it.
    #[error("document {document}: Automerge cannot {action}: {what}")]
    Automerge {
        /// The document.
        document: DocumentId,
        /// What it was to do.
        action: &'static str,
        /// What it said.
        what: String,
    },
}

impl HistoryError {
    /// A stable name of the error, for scripts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Opening(OpeningError::Log(error)) => error.code(),
            Self::Opening(OpeningError::Poison(_)) => "history_unreadable",
            Self::NoSuchPosition { .. } => "history_no_such_position",
            Self::NoSuchChange { .. } => "history_no_such_change",
            Self::Unchanged { .. } => "history_unchanged",
            Self::Version(error) => error.code(),
            Self::VersionElsewhere { .. } => "version_elsewhere",
            Self::TooDeep { .. } => "history_too_deep",
            Self::Automerge { .. } => "history_unreadable",
        }
    }
}

impl From<LogError> for HistoryError {
    fn from(error: LogError) -> Self {
        Self::Opening(error.into())
    }
}

/// A point in a document's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// After this many changes, in the order in which the server stored them; 0 is the empty document.
    Position(u64),
    /// What these changes and everything that they build upon make.
    Heads(Vec<ChangeHash>),
}

/// The history of one document in its current epoch, as far as it went when this was opened.
#[derive(Debug)]
pub struct History {
    replica: Replica,
    timeline: Timeline,
    reader: Reader,
}

impl History {
    /// Reads the whole document; `None` if nothing was ever stored of it. Takes long for a long one.
    ///
    /// # Errors
    /// [`HistoryError::Opening`].
    pub fn open(reader: &Reader, document: &DocumentId) -> Result<Option<Self>, HistoryError> {
        if reader.epoch(document)?.is_none() {
            return Ok(None);
        }
        let mut opening = Opening::new(document.clone());
        let replica = loop {
            if let Some(replica) = opening.step(reader)? {
                break replica;
            }
        };
        let timeline = guarded(document, "list its changes", || Timeline::of(&replica, reader))??;
        Ok(Some(Self { replica, timeline, reader: reader.clone() }))
    }

    /// The document.
    pub fn document(&self) -> &DocumentId {
        self.replica.document()
    }

    /// The epoch whose history this is.
    pub fn epoch(&self) -> u64 {
        self.replica.cursor().epoch
    }

    /// The last position.
    pub fn last_position(&self) -> u64 {
        self.replica.cursor().seq
    }

    /// Who changed what when, behind a position, at most [`ENTRIES_PER_PAGE_MAX`] changes: the next page begins
    /// behind the last one's position.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn entries(&self, after: u64, count_max: usize) -> Result<Vec<Entry>, HistoryError> {
        self.known(after)?;
        let count_max = count_max.min(ENTRIES_PER_PAGE_MAX);
        guarded(self.document(), "describe its changes", || {
            entry::entries(&self.replica, &self.reader, &self.timeline, after, count_max)
        })?
    }

    /// The heads at a point: sorted, and all of them known to this document.
    ///
    /// # Errors
    /// [`HistoryError::NoSuchPosition`], [`HistoryError::NoSuchChange`].
    pub fn heads(&self, at: &At) -> Result<Vec<ChangeHash>, HistoryError> {
        match at {
            At::Position(position) => {
                self.known(*position)?;
                Ok(self.timeline.heads(*position))
            }
            At::Heads(heads) => {
                for head in heads {
                    if self.timeline.position(head).is_none() {
                        let (document, hash) = (self.document().clone(), head.to_string());
                        return Err(HistoryError::NoSuchChange { document, hash });
                    }
                }
                let mut heads = heads.clone();
                heads.sort_unstable();
                heads.dedup();
                Ok(heads)
            }
        }
    }

    /// The document at a point as JSON: maps as objects, lists as arrays, texts as strings, counters, times (in
    /// milliseconds since 1970) and numbers as numbers, bytes as `{"$bytes": "base64"}`. Of values in conflict
    /// the winner. What JSON cannot say (not a number, infinity, values of a newer Automerge) is null.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn json(&self, at: &At) -> Result<Value, HistoryError> {
        let heads = self.heads(at)?;
        let automerge = self.replica.automerge();
        self.deep("read it", &[&heads], || json::value(&automerge.hydrate(Some(&heads))))
    }

    /// The document at a point as Automerge saves it, with its history up to there.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn automerge(&self, at: &At) -> Result<Vec<u8>, HistoryError> {
        let heads = self.heads(at)?;
        let forked = self.fork(&heads)?;
        guarded(self.document(), "save it", || forked.save())
    }

    /// What leads from one point to another, which may be an earlier one: a list of
    /// `{"path": […], "action": …}`, in the order in which they have to be carried out. Indices of texts count
    /// Unicode code points.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn difference(&self, from: &At, to: &At) -> Result<Value, HistoryError> {
        let (from, to) = (self.heads(from)?, self.heads(to)?);
        let automerge = self.replica.automerge();
        let compare = || json::patches(&automerge.diff(&from, &to));
        self.deep("compare two states of it", &[&from, &to], compare)
    }

    /// A change by `actor` that makes the document what it was at a point. It builds upon everything that the
    /// document has, and becomes part of it once it is pushed like any other; nothing is rewritten, and
    /// what others write meanwhile merges with it. Texts and lists keep the elements that both states have; what
    /// was deleted since is written anew.
    ///
    /// `actor` must be one that has not written this document. `time_s` is what the change says of its time,
    /// in seconds since 1970.
    ///
    /// # Errors
    /// [`HistoryError`]; [`HistoryError::Unchanged`] if there is nothing to do.
    pub fn restoring_change(
        &self,
        at: &At,
        actor: &[u8],
        message: &str,
        time_s: i64,
    ) -> Result<Vec<u8>, HistoryError> {
        let heads = self.heads(at)?;
        let automerge = self.replica.automerge();
        let action = "bring that state back";
        let document = self.document();
        let now = automerge.get_heads();
        let made = self.deep(action, &[&now, &heads], || {
            let patches = automerge.diff(&now, &heads);
            let mut copy = automerge.clone().with_actor(ActorId::from(actor));
            let mut transaction = copy.transaction();
            patch::apply(&mut transaction, patches).map_err(|error| error.to_string())?;
            let options = CommitOptions::default().with_message(message).with_time(time_s);
            let (Some(hash), _) = transaction.commit_with(options) else { return Ok(None) };
            if json::value(&copy.hydrate(None)) != json::value(&automerge.hydrate(Some(&heads))) {
                return Err("the new state is not the old one".to_owned());
            }
            let change = copy.get_change_by_hash(&hash);
            Ok(change.map(|change| change.raw_bytes().to_vec()))
        })?;
        let document = document.clone();
        match made {
            Ok(Some(change)) => Ok(change),
            Ok(None) => {
                let position = match at {
                    At::Position(position) => *position,
                    At::Heads(_) => self.last_position_of(&heads),
                };
                Err(HistoryError::Unchanged { document, position })
            }
            Err(what) => Err(HistoryError::Automerge { document, action, what }),
        }
    }

    fn deep<T: Send>(
        &self,
        action: &'static str,
        heads: &[&[ChangeHash]],
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, HistoryError> {
        deep(self.document(), self.replica.automerge(), action, heads, work)
    }

    fn known(&self, position: u64) -> Result<(), HistoryError> {
        let last = self.last_position();
        if position <= last {
            return Ok(());
        }
        Err(HistoryError::NoSuchPosition { document: self.document().clone(), position, last })
    }

    fn fork(&self, heads: &[ChangeHash]) -> Result<Automerge, HistoryError> {
        let action = "go back to that state";
        let forked = guarded(self.document(), action, || self.replica.automerge().fork_at(heads))?;
        forked.map_err(|error| HistoryError::Automerge {
            document: self.document().clone(),
            action,
            what: error.to_string(),
        })
    }
}

/// What reads a document's values at some heads, which recurses as deep as they are nested.
fn deep<T: Send>(
    document: &DocumentId,
    automerge: &Automerge,
    action: &'static str,
    heads: &[&[ChangeHash]],
    work: impl FnOnce() -> T + Send,
) -> Result<T, HistoryError> {
    let failed = |what| HistoryError::Automerge { document: document.clone(), action, what };
    for heads in heads {
        let is_within = guarded(document, action, || depth::is_within(automerge, heads, Depth::Document))?;
        if !is_within.map_err(|error| failed(error.to_string()))? {
            return Err(HistoryError::TooDeep { document: document.clone() });
        }
    }
    depth::contained(work).map_err(failed)
}

/// Automerge panics on some documents.
fn guarded<T>(
    document: &DocumentId,
    action: &'static str,
    work: impl FnOnce() -> T,
) -> Result<T, HistoryError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let what = format!("it panicked: {}", panic_text(&*panic));
        HistoryError::Automerge { document: document.clone(), action, what }
    })
}
