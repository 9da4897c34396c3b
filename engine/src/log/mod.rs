//! The log, seen from the engine: what it stores and what it can be asked.
//!
//! The engine never calls a log while it steps. It emits effects that name an append or a question, and the
//! driver answers later: the server from its storage threads, the simulator from a simulated disk. This
//! trait is the contract both fulfil.

mod memory;

pub use memory::MemoryLog;

use etherply_wire::ErrorCode;

use crate::change::{ActorId, ChangeHash};
use crate::document::Anchor;
use crate::ids::{ChainHash, DocumentId};
use crate::record::Record;

/// Epoch of a document that was never squashed, restored or quarantined.
pub const FIRST_EPOCH: u64 = 1;

/// Records to be stored behind a document's last one, all or none.
#[derive(Debug, Clone)]
pub struct Append {
    /// The document.
    pub document: DocumentId,
    /// The document's epoch.
    pub epoch: u64,
    /// At least one record; the first follows the last one stored.
    pub records: Vec<Record>,
}

/// Where a change stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its position.
    pub seq: u64,
    /// Its highest operation counter.
    pub max_op: u64,
}

/// Most excluded actors that are kept of a document. Of one that is forgotten, what was excluded is taken again if
/// somebody brings it, and found again.
pub const EXCLUDED_ACTORS_MAX: usize = 1_024;

/// What the epochs before a document's current one left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// Copies from epochs before this one hold what the document has no longer: they are thrown away. Copies from
    /// this one on are brought up to date, or reconciled. 0 if there is no such epoch.
    pub reset_epoch: u64,
    /// Actors of whom a change was excluded. Nothing more of theirs is taken.
    pub excluded: Vec<ActorId>,
}

/// What a deletion found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The document, which is deleted from now on.
    Now,
    /// Its tombstone.
    Before,
    /// Nothing: no document of this name was ever stored.
    Absent,
}

/// Why the log could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Stored bytes of one document are not what was written.
    #[error("document {document}: the log is damaged at position {seq}: {what}")]
    Damaged {
        /// The document concerned.
        document: DocumentId,
        /// First position that cannot be trusted.
        seq: u64,
        /// What was found.
        what: String,
    },
    /// The document was deleted; its name stays taken.
    #[error("document {document} was deleted for good: use another name")]
    Deleted {
        /// The document.
        document: DocumentId,
    },
    /// The record asked for is in the document's snapshot, and no longer in the log.
    #[error("document {document}: position {seq} is only in the document's snapshot")]
    Covered {
        /// The document concerned.
        document: DocumentId,
        /// The first position of those asked for.
        seq: u64,
    },
    /// Storage does not work: a failed write or sync, a full disk.
    #[error("storage is not available: {why}")]
    Unavailable {
        /// What failed, and what to do about it.
        why: String,
    },
}

impl LogError {
    /// A stable name of the error: the wire's, where clients hear of it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => ErrorCode::DocumentDamaged,
            Self::Deleted { .. } => ErrorCode::DocumentDeleted,
            // What a snapshot took over can be had from that.
            Self::Covered { .. } | Self::Unavailable { .. } => ErrorCode::StorageUnavailable,
        }
        .name()
    }

    /// Damage of one document, from a position on.
    pub fn damaged(document: &DocumentId, seq: u64, what: impl Into<String>) -> Self {
        Self::Damaged { document: document.clone(), seq, what: what.into() }
    }
}

/// Durable records, to be read.
pub trait LogReader {
    /// The document's current epoch, `None` if nothing was ever stored for it.
    ///
    /// # Errors
    /// [`LogError::Deleted`], and what else this log can say.
    fn epoch(&self, document: &DocumentId) -> Result<Option<u64>, LogError>;

    /// Durable records after position `after_seq` up to `through_seq`, in order and without gaps: at least
    /// one if there is one, then as many as keep the sum of their changes within `bytes_max`.
    ///
    /// # Errors
    /// [`LogError::Covered`] if the first of them went when a snapshot took over what it held.
    fn read(
        &self,
        document: &DocumentId,
        epoch: u64,
        after_seq: u64,
        through_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError>;

    /// What the epochs before the current one left behind.
    fn past(&self, document: &DocumentId) -> Result<Past, LogError>;

    /// Where a change stands, by its hash, also if a snapshot holds it.
    fn find(&self, document: &DocumentId, epoch: u64, hash: &ChangeHash) -> Result<Option<Found>, LogError>;

    /// What an epoch of a document begins with, if a snapshot covers its beginning. That the snapshot is there is
    /// proven as far as a look at it can.
    fn anchor(&self, document: &DocumentId, epoch: u64) -> Result<Option<Anchor>, LogError>;

    /// The chain at a position, also if a snapshot holds the change there; `None` if there is no such position.
    fn chain_at(&self, document: &DocumentId, epoch: u64, seq: u64) -> Result<Option<ChainHash>, LogError>;
}

/// A durable store of records; reading them is [`LogReader`]'s.
pub trait Log {
    /// Stores all appends, in order, and returns when they will survive a power loss. On an error nothing of
    /// them counts as stored, and the log takes no further commit until it was opened anew.
    fn commit(&mut self, appends: &[Append]) -> Result<(), LogError>;
}
