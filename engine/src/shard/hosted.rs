//! A document in a shard's memory, with those who have it open.

use std::collections::{BTreeMap, VecDeque};

use etherply_wire::kinds::ClockEntry;
use etherply_wire::limits::CLOCK_ENTRIES_MAX;

use super::delete::Deletion;
use super::input::OpenRequest;
use super::rights::Access;
use super::snapshots::SnapshotState;
use super::verify::Verification;
use crate::change::{ActorId, ChangeHash};
use crate::document::{Document, Resolved};
use crate::ids::DocumentId;
use crate::peer::{Peer, SessionId, StreamNumber};
use crate::presence::PresenceTable;
use crate::segment::Tail;

/// Most connections that wait for one document to be loaded.
pub(super) const OPENS_WAITING_MAX: usize = 20_000;

#[derive(Debug)]
pub(super) enum State {
    Loading,
    Ready(Box<Document>),
}

/// What a shard holds of one document.
#[derive(Debug)]
pub(super) struct Hosted {
    pub(super) id: DocumentId,
    pub(super) state: State,
    /// While it is loading: it is to be rebuilt first.
    pub(super) is_rebuilt: bool,
    /// It is being deleted: pushes and opens wait.
    pub(super) deletion: Option<Deletion>,
    /// Admitted, and not on its way to the disk before it was verified.
    pub(super) verification: Option<Verification>,
    pub(super) tail: Option<Tail>,
    pub(super) snapshot: SnapshotState,
    pub(super) presence: PresenceTable,
    /// When each member's presence ends, and whose it is.
    pub(super) presence_owners: BTreeMap<SessionId, (u64, Peer)>,
    pub(super) broadcast_index: u64,
    pub(super) streams: BTreeMap<Peer, Stream>,
    /// Bytes of changes on their way to the disk.
    pub(super) pending_bytes: u64,
    /// Members on each core.
    pub(super) cores: BTreeMap<u16, u32>,
    /// Opens that wait for the load, or for a position of the chain.
    pub(super) waiting: BTreeMap<Peer, OpenRequest>,
    /// Since when nobody has it open, on the monotonic clock.
    pub(super) idle_since_us: u64,
}

/// A connection that has the document open.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) number: StreamNumber,
    pub(super) session: SessionId,
    pub(super) access: Access,
    /// Pushes of generations up to this one are passed over.
    pub(super) refused_generation: Option<u32>,
    /// Pushes that wait, for an answer of the log or for what is under way of the document.
    pub(super) parked: VecDeque<Parked>,
    pub(super) attached: bool,
    /// It has to say what it has; taken once, and from nobody else.
    pub(super) reconcile: Option<Reconciling>,
}

/// A push that waits.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) push: u64,
    pub(super) generation: u32,
    pub(super) lengths: Vec<u32>,
    pub(super) changes: Vec<u8>,
    pub(super) bytes: usize,
    pub(super) received_us: u64,
    pub(super) resolved: Resolved,
    pub(super) looked_up: usize,
    /// The log is being asked for it.
    pub(super) asked: bool,
}

/// A member's clock on its way.
#[derive(Debug, Default)]
pub(super) struct Reconciling {
    /// Each actor's last change: its number and its hash.
    pub(super) clock: BTreeMap<ActorId, (u64, ChangeHash)>,
    /// All of it is here, and the log is being asked.
    pub(super) asked: bool,
    /// The server's clock is not told yet, because the member has no rights.
    pub(super) untold: bool,
}

impl Reconciling {
    /// Takes a part of the clock; what is wrong with it, if something is.
    pub(super) fn take(&mut self, part: Vec<ClockEntry>) -> Result<(), &'static str> {
        if self.asked || self.clock.len() + part.len() > CLOCK_ENTRIES_MAX {
            return Err("one clock at a time, with as many entries as the server takes");
        }
        for entry in part {
            let actor =
                ActorId::from_slice(&entry.actor).map_err(|_| "a clock names an actor that is none")?;
            if self.clock.insert(actor, (entry.seq, ChangeHash(entry.hash))).is_some() {
                return Err("a clock names each actor once");
            }
        }
        Ok(())
    }
}

impl Hosted {
    pub(super) fn new(id: DocumentId) -> Self {
        Self {
            id,
            state: State::Loading,
            is_rebuilt: false,
            deletion: None,
            verification: None,
            tail: None,
            snapshot: SnapshotState::default(),
            presence: PresenceTable::default(),
            presence_owners: BTreeMap::new(),
            broadcast_index: 0,
            streams: BTreeMap::new(),
            pending_bytes: 0,
            cores: BTreeMap::new(),
            waiting: BTreeMap::new(),
            idle_since_us: 0,
        }
    }

    pub(super) fn document(&self) -> Option<&Document> {
        match &self.state {
            State::Ready(document) => Some(document),
            State::Loading => None,
        }
    }

    /// Counts a member off its core; whether it was the last one there.
    pub(super) fn core_left(&mut self, core: u16) -> bool {
        let Some(members) = self.cores.get_mut(&core) else { return false };
        *members = members.saturating_sub(1);
        let is_last = *members == 0;
        if is_last {
            self.cores.remove(&core);
        }
        is_last
    }

    pub(super) fn is_unused(&self) -> bool {
        self.streams.is_empty() && self.waiting.is_empty() && self.deletion.is_none()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.document().is_some_and(Document::is_settled)
    }
}
