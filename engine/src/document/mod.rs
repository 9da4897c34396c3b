//! What the engine knows of a document without building it: heads, vector clock, positions, chain.
//!
//! Two states stand side by side: *admitted*, which counts changes that are on their way to the disk, and
//! *committed*, which is durable. Admission works on the first; members see only the second. If a commit
//! fails, what was admitted since is taken back.

mod admit;
mod ops;
mod owners;
mod recover;
mod refusal;
mod summary;
mod window;

pub use admit::{AdmitError, Admitted, Fresh, LOOKUPS_MAX, LOOKUPS_PER_PUSH_MAX, Pusher, Resolved};
pub use ops::{OBJECT_DEPTH_MAX, OP_OBJECTS_MAX, OP_RUNS_MAX};
pub use recover::{RECOVERY_STEP_BYTES_MAX, Recovered, Recovery, recover};
pub use summary::{Anchor, SUMMARY_VERSION, Summary};

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use etherply_wire::kinds::{ClockEntry, Cursor};

use crate::chain::chain_start;
use crate::change::{ActorId, ChangeHash};
use crate::ids::DocumentId;
use crate::log::Past;
use ops::Ops;
use owners::Owners;
use window::Window;

/// The actor of genesis changes, by which a client gives a new document its initial content. It belongs to
/// nobody: only its first change, without dependencies, is ever taken.
pub const GENESIS_ACTOR: [u8; 16] = *b"etherply genesis";
/// Longest genesis change; it is kept in memory with the document.
pub const GENESIS_BYTES_MAX: usize = 64 * 1024;
/// Most heads that a document may have at once: writers that never merge would grow them without bound.
pub const DOCUMENT_HEADS_MAX: usize = 1_024;
/// Most actors that a document may have.
pub const DOCUMENT_ACTORS_MAX: usize = etherply_wire::limits::CLOCK_ENTRIES_MAX;
/// Most bytes of changes that a document may have, all of its current epoch, unless the operator says less. It has
/// snapshots up to there, and members put it together in memory.
pub const DOCUMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Least that an operator may say: the longest change, whatever else there is.
pub const DOCUMENT_BYTES_MIN: u64 = 1024 * 1024;
/// Most changes of a document that wait for the disk.
pub const PENDING_CHANGES_MAX: usize = 16_384;

/// A change without successors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The change.
    pub hash: ChangeHash,
    /// Its highest operation counter.
    pub max_op: u64,
}

/// An actor's last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActorState {
    /// Its number among the actor's changes.
    pub seq: u64,
    /// Its hash.
    pub hash: ChangeHash,
    /// Its position in the log.
    pub position: u64,
    /// Its highest operation counter.
    pub max_op: u64,
    /// The subject that it belongs to.
    pub owner: Owner,
}

/// The subject that an actor belongs to, as a number in its document's table; 0 for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner(u32);

/// A document's state in memory.
#[derive(Debug, Clone)]
pub struct Document {
    id: DocumentId,
    admitted: Cursor,
    committed: Cursor,
    heads: Vec<Head>,
    clock: BTreeMap<ActorId, ActorState>,
    max_op: u64,
    log_bytes: u64,
    window: Window,
    ops: Ops,
    genesis: Option<(ChangeHash, Bytes)>,
    reset_epoch: u64,
    excluded: BTreeSet<ActorId>,
    owners: Owners,
}

impl Document {
    /// A document without changes.
    pub fn new(id: DocumentId, epoch: u64) -> Self {
        let start = Cursor { epoch, seq: 0, chain: chain_start(&id, epoch).0 };
        Self {
            id,
            admitted: start,
            committed: start,
            heads: Vec::new(),
            clock: BTreeMap::new(),
            max_op: 0,
            log_bytes: 0,
            window: Window::default(),
            ops: Ops::default(),
            genesis: None,
            reset_epoch: 0,
            excluded: BTreeSet::new(),
            owners: Owners::default(),
        }
    }

    /// The same, with what its earlier epochs left behind.
    pub fn with_past(self, past: Past) -> Self {
        Self { reset_epoch: past.reset_epoch, excluded: past.excluded.into_iter().collect(), ..self }
    }

    /// Whether a copy from this epoch has to be thrown away.
    pub fn resets(&self, epoch: u64) -> bool {
        epoch < self.reset_epoch && !planted!(LostReset)
    }

    /// The document's name.
    pub fn id(&self) -> &DocumentId {
        &self.id
    }

    /// The place behind the last change that is on its way to the disk, or there.
    pub fn admitted(&self) -> Cursor {
        self.admitted
    }

    /// The place behind the last durable change.
    pub fn committed(&self) -> Cursor {
        self.committed
    }

    /// Heads of the admitted state, sorted by hash.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// The genesis change, if the document has one.
    pub fn genesis(&self) -> Option<&Bytes> {
        self.genesis.as_ref().map(|(_, bytes)| bytes)
    }

    /// Each actor's last admitted change.
    pub fn clock(&self) -> impl Iterator<Item = (&ActorId, &ActorState)> {
        self.clock.iter()
    }

    /// How many actors have written.
    pub fn actors(&self) -> usize {
        self.clock.len()
    }

    /// An actor's last admitted change.
    pub fn actor(&self, actor: &[u8]) -> Option<&ActorState> {
        self.clock.get(actor)
    }

    /// Whether a change is among the latest ones; older ones are only in the log.
    pub fn is_known(&self, hash: &ChangeHash) -> bool {
        self.window.get(hash).is_some()
    }

    /// An actor's state as the wire says it.
    pub fn clock_entry(actor: &ActorId, state: &ActorState) -> ClockEntry {
        ClockEntry { actor: actor.as_bytes().to_vec(), seq: state.seq, hash: state.hash.0 }
    }

    /// Bytes of all durable changes, as far as [`Document::add_log_bytes`] and recovery counted them.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// Counts changes that became durable.
    pub fn add_log_bytes(&mut self, bytes: usize) {
        self.log_bytes += bytes as u64;
    }

    /// Bytes that the window of recent changes, and the index of operations, take in memory, about.
    pub fn window_bytes(&self) -> usize {
        self.window.bytes() + self.ops.bytes()
    }

    /// Lets the window go down to its least: what leaves it is looked up in the log. The index of operations begins
    /// anew: references to older ones are believed.
    pub fn shrink_window(&mut self) {
        self.ops.forget(self.max_op);
        self.window.trim_to(window::WINDOW_CHANGES_MIN, self.committed.seq);
    }

    /// Everything up to `cursor` is on disk.
    pub fn commit(&mut self, cursor: Cursor) {
        debug_assert!(cursor.seq >= self.committed.seq && cursor.seq <= self.admitted.seq);
        self.committed = cursor;
        self.window.trim(cursor.seq);
    }

    /// Whether nothing waits for the disk.
    pub fn is_settled(&self) -> bool {
        self.admitted == self.committed
    }
}
