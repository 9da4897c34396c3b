//! What a shard wants done.

use etherply_wire::kinds::Cursor;
use etherply_wire::{ErrorCode, Message, Rights};
use rkyv::api::high::HighSerializer;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;

use crate::change::ChangeHash;
use crate::feed::{FeedEvent, FeedStart, Known, MemberStart};
use crate::ids::DocumentId;
use crate::log::{Append, Deleted, LogError};
use crate::outgoing::Outgoing;
use crate::peer::{Peer, StreamNumber};
use crate::record::Record;

/// A member for the feeds of its core.
#[derive(Debug)]
pub struct Attach {
    /// The connection.
    pub peer: Peer,
    /// The document.
    pub handle: u32,
    /// Where the member begins.
    pub member: MemberStart,
    /// The feed, if this is the core's first member of the document.
    pub feed: Option<Box<FeedStart>>,
}

/// Something worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A stream was opened; how it is brought up to date: see [`etherply_wire::kinds::resume`].
    Opened {
        /// One of the values there.
        resume: u8,
    },
    /// A push was refused.
    Refused {
        /// Whose.
        peer: Peer,
        /// The document.
        handle: u32,
        /// Why.
        code: ErrorCode,
    },
    /// The work on a document panicked; its members were told to open it again.
    Panicked,
    /// A push became durable.
    Stored {
        /// Whose.
        peer: Peer,
        /// The document.
        handle: u32,
        /// Whether these are the first changes that the document ever had.
        is_first: bool,
        /// The position of the last one.
        last_seq: u64,
        /// New changes in it.
        changes: u32,
        /// Their bytes.
        bytes: u64,
        /// When it was received, on the monotonic clock.
        received_us: u64,
    },
}

/// Who asked the log for changes: a stream that may have been closed before the answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindFor {
    /// A push that waits.
    Push(StreamNumber),
    /// A member that says what it has.
    Reconcile(StreamNumber),
}

/// One thing to do. Effects for one core are carried out in their order.
#[derive(Debug)]
pub enum Effect {
    /// Read a document from the log; answered by [`super::Input::Loaded`].
    Load {
        /// What the answer repeats.
        handle: u32,
        /// The document.
        document: DocumentId,
    },
    /// Give a document a new epoch without the changes that break it, then read it from the log; answered by
    /// [`super::Input::Loaded`]. Nothing of it is on its way to the disk.
    Rebuild {
        /// What the answer repeats.
        handle: u32,
        /// The document.
        document: DocumentId,
    },
    /// Hold records against the document as it is up to `after`, which is durable: whether it can be applied, saved
    /// and loaded with them; answered by [`super::Input::Verified`]. Only a shard with
    /// [`super::Shard::with_verification`] asks, and about one group of a document at a time.
    Verify {
        /// What the answer repeats.
        handle: u32,
        /// What the answer repeats.
        number: u64,
        /// The document.
        document: DocumentId,
        /// What the records follow.
        after: Cursor,
        /// The records.
        records: Vec<Record>,
    },
    /// Store a document's tombstone; answered by [`super::Input::Deleted`]. Nothing of it is on its way to the disk.
    Delete {
        /// The document.
        document: DocumentId,
    },
    /// What became of an [`super::Input::Delete`].
    DeletionAnswered {
        /// The request's token.
        token: u64,
        /// What was found, and is durable.
        result: Result<Deleted, LogError>,
    },
    /// Look changes up in the log; answered by [`super::Input::Found`].
    Find {
        /// What the answer repeats.
        handle: u32,
        /// What the answer repeats.
        peer: Peer,
        /// The document.
        document: DocumentId,
        /// Its epoch.
        epoch: u64,
        /// What the answer repeats.
        asked_for: FindFor,
        /// The changes.
        hashes: Vec<ChangeHash>,
    },
    /// Read the chain at a position; answered by [`super::Input::ChainRead`].
    ReadChain {
        /// What the answer repeats.
        handle: u32,
        /// What the answer repeats.
        peer: Peer,
        /// The document.
        document: DocumentId,
        /// The position.
        at: Cursor,
    },
    /// Cut a snapshot of a document's log up to a place, some time, and anchor the log in it; answered by
    /// [`super::Input::SnapshotCut`].
    CutSnapshot {
        /// What the answer repeats.
        handle: u32,
        /// The document.
        document: DocumentId,
        /// The place; everything up to it is durable.
        through: Cursor,
    },
    /// Store appends; answered by [`super::Input::Committed`] or [`super::Input::CommitFailed`], in order.
    Commit {
        /// What the answer repeats.
        batch: u64,
        /// The appends, in order.
        appends: Vec<Append>,
    },
    /// Send a frame to a connection ahead of anything from its feeds.
    Reply {
        /// The connection.
        peer: Peer,
        /// The document that it concerns.
        handle: u32,
        /// The frame.
        frame: Outgoing,
    },
    /// A push is answered, or passed over: its bytes are no longer in flight.
    Settle {
        /// The connection.
        peer: Peer,
        /// Bytes of its changes.
        bytes: usize,
    },
    /// An open was refused; a reply said why.
    OpenRefused {
        /// The connection.
        peer: Peer,
    },
    /// Add a member to a feed.
    Attach(Box<Attach>),
    /// Remove a member from its feed.
    Detach {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
    },
    /// Begin to send a member what it lacks: see [`crate::feed::Feeds::reconciled`].
    Reconciled {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// What it has.
        known: Known,
    },
    /// Change what a member is sent: see [`crate::feed::Feeds::set_rights`].
    Rights {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// What it may have from now on.
        rights: Rights,
        /// When that ends, in milliseconds since 1970; 0 for never.
        expires_ms: u64,
    },
    /// Tell a core's feed what happened.
    Publish {
        /// The core.
        core: u16,
        /// The document.
        handle: u32,
        /// What happened.
        event: FeedEvent,
    },
    /// The core's last member is gone.
    StopFeed {
        /// The core.
        core: u16,
        /// The document.
        handle: u32,
    },
    /// Count something.
    Observe(Observation),
}

impl Effect {
    /// A frame without a tail for a connection.
    pub(super) fn reply<T>(peer: Peer, handle: u32, message: &T) -> Self
    where
        T: Message + for<'a> rkyv::Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, rancor::Panic>>,
    {
        Self::Reply { peer, handle, frame: Outgoing::new(handle, message, &[]) }
    }

    /// The core that carries it out, `None` for storage and counting.
    pub fn core(&self) -> Option<u16> {
        match self {
            Self::Reply { peer, .. }
            | Self::Settle { peer, .. }
            | Self::OpenRefused { peer }
            | Self::Detach { peer, .. }
            | Self::Rights { peer, .. }
            | Self::Reconciled { peer, .. } => Some(peer.core),
            Self::Attach(attach) => Some(attach.peer.core),
            Self::Publish { core, .. } | Self::StopFeed { core, .. } => Some(*core),
            Self::Load { .. }
            | Self::Rebuild { .. }
            | Self::Verify { .. }
            | Self::Delete { .. }
            | Self::DeletionAnswered { .. }
            | Self::Find { .. }
            | Self::ReadChain { .. }
            | Self::CutSnapshot { .. }
            | Self::Commit { .. }
            | Self::Observe(_) => None,
        }
    }
}
