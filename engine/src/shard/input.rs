//! What can happen to a shard.

use etherply_wire::kinds::{ClockEntry, Cursor};
use etherply_wire::{ErrorCode, Rights};

use super::effect::FindFor;
use super::verify::Unverified;
use crate::access::{Grant, Revocation};
use crate::change::ChangeHash;
use crate::document::Recovered;
use crate::ids::{ChainHash, DocumentId};
use crate::log::{Deleted, Found, LogError};
use crate::peer::{Peer, SessionId};
use crate::snapshot::Snapshot;

/// A connection wants to open a document.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    /// The connection.
    pub peer: Peer,
    /// Its session's name.
    pub session: SessionId,
    /// What the answer repeats.
    pub request: u32,
    /// The document.
    pub document: DocumentId,
    /// The rights wanted.
    pub rights: Rights,
    /// What may be had of them.
    pub grant: Grant,
    /// Where its copy stands.
    pub cursor: Option<Cursor>,
}

/// A connection pushes changes.
#[derive(Debug, Clone, Copy)]
pub struct PushRequest<'a> {
    /// The connection.
    pub peer: Peer,
    /// The document.
    pub handle: u32,
    /// The push's number.
    pub push: u64,
    /// Its generation.
    pub generation: u32,
    /// Bytes of each change.
    pub lengths: &'a [u32],
    /// The changes, one behind the other.
    pub changes: &'a [u8],
}

/// One thing that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection opens a document.
    Open(OpenRequest),
    /// Answer to [`super::Effect::Load`].
    Loaded {
        /// The handle of the load.
        handle: u32,
        /// The document as stored.
        result: Box<Result<Recovered, LogError>>,
    },
    /// Answer to [`super::Effect::CutSnapshot`].
    SnapshotCut {
        /// The handle of the effect.
        handle: u32,
        /// The snapshot; it anchors the log, and can be read from now on.
        result: Result<Snapshot, LogError>,
    },
    /// Answer to [`super::Effect::ReadChain`].
    ChainRead {
        /// The document.
        handle: u32,
        /// Who is opening it.
        peer: Peer,
        /// The chain at the position asked for, `None` if there is no such position.
        result: Result<Option<ChainHash>, LogError>,
    },
    /// A document holds changes that break it: its members' streams end with [`ErrorCode::DocumentReset`], and
    /// once nothing is on its way to the disk any more it is rebuilt without them.
    Quarantine {
        /// The document.
        document: DocumentId,
    },
    /// An operator deletes a document for good; answered by [`super::Effect::DeletionAnswered`].
    Delete {
        /// The document.
        document: DocumentId,
        /// What the answer repeats.
        token: u64,
    },
    /// Answer to [`super::Effect::Delete`].
    Deleted {
        /// The document.
        document: DocumentId,
        /// What was found, and is durable.
        result: Result<Deleted, LogError>,
    },
    /// Answer to [`super::Effect::Verify`].
    Verified {
        /// The document.
        handle: u32,
        /// The group's number.
        number: u64,
        /// Whether the document is whole with all of its records.
        result: Result<(), Unverified>,
    },
    /// A connection pushes.
    Push(PushRequest<'a>),
    /// Answer to [`super::Effect::Find`].
    Found {
        /// The document.
        handle: u32,
        /// Who waits for it.
        peer: Peer,
        /// What for.
        asked_for: FindFor,
        /// Where each change stands, `None` for those that are not in the log.
        result: Result<Vec<(ChangeHash, Option<Found>)>, LogError>,
    },
    /// A batch is durable.
    Committed {
        /// Its number.
        batch: u64,
    },
    /// A batch was not stored, nor will any later one be until [`Input::StorageRecovered`].
    CommitFailed {
        /// Its number.
        batch: u64,
        /// What failed.
        why: String,
    },
    /// Storage takes writes again, after it failed and was opened anew. Every batch that was given out before and
    /// is not answered has failed. Of these documents it is not known whether their last changes are stored.
    StorageRecovered {
        /// The documents, of this shard and of others.
        documents: &'a [DocumentId],
    },
    /// A connection says what it has.
    Reconcile {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// More entries follow.
        more: bool,
        /// What it has of each actor.
        clock: Vec<ClockEntry>,
    },
    /// A member sets its presence.
    PresenceSet {
        /// The member's connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// How long it holds.
        ttl_ms: u32,
        /// The state.
        state: &'a [u8],
    },
    /// A member ends its presence.
    PresenceLeave {
        /// The member's connection.
        peer: Peer,
        /// The document.
        handle: u32,
    },
    /// A member sends something to the others.
    Broadcast {
        /// The member's connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// What it is about.
        topic: &'a str,
        /// The payload.
        payload: &'a [u8],
    },
    /// A stream brings a new grant.
    Renew {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// What the answer repeats.
        request: u32,
        /// What its token grants on this document.
        grant: Grant,
    },
    /// Grants are taken back.
    Revoke(&'a Revocation),
    /// A member cannot be served any more.
    Fail {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// Why.
        code: ErrorCode,
        /// The same for people.
        message: String,
    },
    /// A connection closes a document.
    Close {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
    },
    /// A connection is gone.
    Disconnected {
        /// The connection.
        peer: Peer,
    },
    /// Time has passed; to be given at least every second.
    Tick,
}
