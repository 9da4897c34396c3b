//! The driver around the engine: cores with a shard, feeds and connections each, and what carries effects
//! between them. Everything that decides anything is the engine's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use etherply_engine::access::{Grant, Revocation};
use etherply_engine::change::{ChangeHash, ChangeLimits};
use etherply_engine::document::Recovered;
use etherply_engine::feed::Feeds;
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::{Deleted, Found, LogError};
use etherply_engine::peer::Peer;
use etherply_engine::record::Record;
use etherply_engine::shard::{Budget, Effect, FindFor, OpenRequest, Shard};
use etherply_engine::snapshot::{Chunk, Snapshot, SnapshotRequest};
use etherply_wire::ErrorCode;
use etherply_wire::kinds::Cursor;

/// What came of reading the log for a member.
#[derive(Debug)]
pub enum Read {
    /// These records.
    Records(Vec<Record>),
    /// They are only in this snapshot.
    Covered(Snapshot),
}

/// What came of reading a snapshot.
#[derive(Debug)]
pub enum SnapshotRead {
    /// A piece of it.
    Chunks(Vec<Chunk>),
    /// This one took its place.
    Replaced(Snapshot),
    /// It cannot be read.
    Failed,
}

/// Something for a core.
#[derive(Debug)]
pub enum Message {
    /// An effect of another core's shard.
    Effect(Effect),
    /// A document is to be opened.
    Open(OpenRequest),
    /// A stream of this core's documents is to have new rights.
    Renew {
        /// Whose.
        peer: Peer,
        /// The document.
        handle: u32,
        /// What the answer repeats.
        request: u32,
        /// The rights.
        grant: Grant,
    },
    /// A token is revoked: by an operator, to every core; or behind what a core sent before, by that core to a home.
    Revoke {
        /// What is revoked.
        revocation: Arc<Revocation>,
        /// The core.
        from: Option<u16>,
    },
    /// A frame for one of this core's documents.
    Frame {
        /// Whose.
        peer: Peer,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// A connection is gone.
    Disconnected(Peer),
    /// An answer to [`Effect::Load`].
    Loaded {
        /// The handle.
        handle: u32,
        /// The document.
        result: Box<Result<Recovered, LogError>>,
    },
    /// An answer to [`Effect::CutSnapshot`].
    SnapshotCut {
        /// The handle.
        handle: u32,
        /// The snapshot, or why there is none.
        result: Result<Snapshot, LogError>,
    },
    /// A piece of a snapshot for a feed.
    SnapshotRead {
        /// The handle.
        handle: u32,
        /// What was asked for.
        request: SnapshotRequest,
        /// What came of it.
        read: SnapshotRead,
    },
    /// A member cannot be sent its document.
    Fail {
        /// The handle.
        handle: u32,
        /// The member.
        peer: Peer,
        /// What it is told.
        code: ErrorCode,
    },
    /// An operator deletes a document.
    Delete {
        /// The document.
        document: DocumentId,
        /// The request.
        token: u64,
    },
    /// An answer to [`Effect::Delete`].
    Deleted {
        /// The document.
        document: DocumentId,
        /// What was found.
        result: Result<Deleted, LogError>,
    },
    /// A materialiser found a change that breaks the document.
    Quarantine {
        /// The document.
        document: DocumentId,
    },
    /// An answer to [`Effect::ReadChain`].
    ChainRead {
        /// The handle.
        handle: u32,
        /// Who opens.
        peer: Peer,
        /// The chain there.
        result: Option<ChainHash>,
    },
    /// An answer to [`Effect::Find`].
    Found {
        /// The handle.
        handle: u32,
        /// Who waits.
        peer: Peer,
        /// What for.
        asked_for: FindFor,
        /// The answers.
        found: Vec<(ChangeHash, Option<Found>)>,
    },
    /// A batch is durable, or was not stored.
    Committed {
        /// The batch.
        batch: u64,
        /// Whether it is durable.
        stored: bool,
    },
    /// The log was opened again after a failure.
    StorageRecovered {
        /// How often so far.
        era: u64,
        /// Documents of which nobody knows whether their last changes are stored.
        documents: Vec<DocumentId>,
    },
    /// Records for a member.
    Read {
        /// The handle.
        handle: u32,
        /// The member's number.
        number: u32,
        /// The member.
        peer: Peer,
        /// What came of it.
        read: Read,
    },
    /// Time passes.
    Tick,
}

/// A question to the log.
#[derive(Debug)]
pub enum Query {
    /// [`Effect::Load`], or [`Effect::Rebuild`].
    Load {
        /// What the answer repeats.
        handle: u32,
        /// The document.
        document: DocumentId,
        /// It begins anew without a part of its history.
        begins_anew: bool,
    },
    /// [`Effect::Delete`].
    Delete {
        /// The document.
        document: DocumentId,
    },
    /// [`Effect::ReadChain`].
    Chain {
        /// What the answer repeats.
        handle: u32,
        /// What the answer repeats.
        peer: Peer,
        /// The document.
        document: DocumentId,
        /// The position.
        at: Cursor,
    },
    /// [`Effect::Find`].
    Find {
        /// What the answer repeats.
        handle: u32,
        /// What the answer repeats.
        peer: Peer,
        /// What the answer repeats.
        asked_for: FindFor,
        /// The document.
        document: DocumentId,
        /// Its epoch.
        epoch: u64,
        /// The changes.
        hashes: Vec<ChangeHash>,
    },
    /// [`Effect::CutSnapshot`].
    Cut {
        /// What the answer repeats.
        handle: u32,
        /// The document.
        document: DocumentId,
        /// The place.
        through: Cursor,
    },
    /// A feed's [`SnapshotRequest`].
    Snapshot {
        /// What the answer repeats.
        handle: u32,
        /// What is wanted.
        request: SnapshotRequest,
    },
    /// A member's [`etherply_engine::feed::ReadRequest`].
    Read {
        /// What the answer repeats.
        handle: u32,
        /// What the answer repeats.
        number: u32,
        /// What the answer repeats.
        peer: Peer,
        /// What is wanted.
        request: etherply_engine::feed::ReadRequest,
    },
}

/// A connection, as its core sees it.
#[derive(Debug)]
pub struct Connection {
    /// The link that carries it.
    pub link: u64,
    /// Its session.
    pub session: [u8; 16],
    /// Its number as a member, by handle.
    pub members: BTreeMap<u32, u32>,
    /// Handles with something to be sent.
    pub ready: BTreeSet<u32>,
    /// Pushes that are not settled.
    pub unsettled: usize,
}

/// One core.
#[derive(Debug)]
pub struct Core {
    /// The home of its documents.
    pub shard: Shard,
    /// What its members are sent.
    pub feeds: Feeds,
    /// Its connections.
    pub connections: BTreeMap<u64, Connection>,
    /// What waits for its turn.
    pub inbox: VecDeque<Message>,
    /// A turn is due.
    pub turn_due: bool,
    /// How often it has heard that the log was opened again.
    pub era: u64,
}

/// One life of the server.
#[derive(Debug)]
pub struct Server {
    /// Which life it is.
    pub life: u64,
    /// Its cores.
    pub cores: Vec<Core>,
    /// The time at which each pair of cores last had a message, so that they stay in order.
    pub channels: BTreeMap<(u16, u16), u64>,
}

impl Server {
    /// A server without documents and connections; tails and snapshots of its feeds have these limits.
    pub fn new(life: u64, cores: u16, budget: Budget, feeds: (usize, usize)) -> Self {
        let core = |shard| Core {
            shard: Shard::new(shard, cores, ChangeLimits::DEFAULT).with_budget(budget),
            feeds: Feeds::new().with_limits(feeds.0, feeds.1),
            connections: BTreeMap::new(),
            inbox: VecDeque::new(),
            turn_due: false,
            era: 0,
        };
        Self { life, cores: (0..cores).map(core).collect(), channels: BTreeMap::new() }
    }

    /// How many cores it has.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.cores.len()).unwrap_or(u16::MAX)
    }
}
