//! A shard: the home of some of the documents.
//!
//! `step(input, now, effects)` is all there is: no input is ever waited for, no effect is carried out here.
//! Changes that were admitted wait in a batch until the driver calls [`Shard::flush`] at the end of its turn,
//! so that everything that came in one turn becomes one commit.

mod batch;
mod contain;
mod delete;
mod effect;
mod hosted;
mod input;
mod memory;
mod open;
mod push;
mod rights;
mod snapshots;
mod social;
mod verify;

pub use contain::PANIC_RETRY_MS;
pub use delete::DELETIONS_WAITING_MAX;
pub use effect::{Attach, Effect, FindFor, Observation};
pub use input::{Input, OpenRequest, PushRequest};
pub use memory::{Budget, SHARD_CACHE_BYTES_MAX};
pub use verify::Unverified;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use etherply_wire::kinds::{Close, Error};
use etherply_wire::{ErrorCode, Kind};

use crate::access::Identity;
use crate::change::ChangeLimits;
use crate::document::DOCUMENT_BYTES_MAX;
use crate::faults::Faults;
use crate::ids::DocumentId;
use crate::outgoing::Outgoing;
use crate::peer::{Now, Peer, SessionId, StreamNumber};
use crate::recency::Recency;
use batch::Batch;
use contain::InHand;
use hosted::Hosted;
use rights::Expiries;

/// How long a document without members stays in memory, so that a member that reconnects finds it there.
pub const IDLE_DOCUMENT_US: u64 = 60 * 1_000_000;
/// Most documents without members that a shard keeps in memory.
pub const IDLE_DOCUMENTS_MAX: usize = 4_096;
/// When a client should try again that was refused because storage does not take writes.
pub const STORAGE_RETRY_MS: u32 = 5_000;

/// The state machine of one shard.
#[derive(Debug)]
pub struct Shard {
    shard: u16,
    shards: u16,
    limits: ChangeLimits,
    budget: Budget,
    document_bytes_max: u64,
    by_name: BTreeMap<DocumentId, u32>,
    hosted: BTreeMap<u32, Hosted>,
    next_handle: u32,
    next_stream: StreamNumber,
    /// Documents that each connection has open, or is opening.
    peers: BTreeMap<Peer, BTreeSet<u32>>,
    /// What was admitted since the last flush.
    open_batch: Batch,
    /// What is on its way to the disk, oldest first.
    batches: VecDeque<Batch>,
    next_batch: u64,
    /// Whether changes are verified before they are stored.
    verifies: bool,
    /// Documents with changes that are to be verified, or are being so.
    held: BTreeSet<u32>,
    next_verification: u64,
    /// Documents whose changes have all become durable, where more may wait.
    resumable: Vec<u32>,
    /// Documents to be read again after a panic, once the batch of this number is on disk.
    reloads: Vec<(u64, u32)>,
    /// What an answer is owed for if the work on it panics.
    in_hand: Option<InHand>,
    faults: Faults,
    /// Why storage takes no writes, once it failed.
    storage_failure: Option<String>,
    /// When presence ends that is not set again.
    presence_ends: BTreeSet<(u64, u32, SessionId)>,
    /// When streams' rights end.
    expiries: Expiries,
    /// The time of the last input.
    now: Now,
    /// Documents without members, with the time since when.
    idle: VecDeque<(u64, u32)>,
    /// Documents by their last use, with the bytes that they could let go of.
    recency: Recency,
}

impl Shard {
    /// A shard without documents, one of `shards`.
    pub fn new(shard: u16, shards: u16, limits: ChangeLimits) -> Self {
        Self {
            shard,
            shards: shards.max(1),
            limits,
            budget: Budget::default(),
            document_bytes_max: DOCUMENT_BYTES_MAX,
            by_name: BTreeMap::new(),
            hosted: BTreeMap::new(),
            next_handle: 1,
            next_stream: 1,
            peers: BTreeMap::new(),
            open_batch: Batch::default(),
            batches: VecDeque::new(),
            next_batch: 1,
            verifies: false,
            held: BTreeSet::new(),
            next_verification: 1,
            resumable: Vec::new(),
            reloads: Vec::new(),
            in_hand: None,
            faults: Faults::none(),
            storage_failure: None,
            presence_ends: BTreeSet::new(),
            expiries: Expiries::default(),
            now: Now::default(),
            idle: VecDeque::new(),
            recency: Recency::default(),
        }
    }

    /// The same shard, in which documents may have so many bytes of changes.
    #[must_use]
    pub fn with_document_bytes_max(mut self, bytes: u64) -> Self {
        self.document_bytes_max = bytes;
        self
    }

    /// From now on, panics on purpose.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The shard that a handle belongs to.
    pub fn home_of(handle: u32, shards: u16) -> u16 {
        u16::try_from(handle % u32::from(shards.max(1))).unwrap_or(0)
    }

    /// The document of a handle, if it is in memory.
    pub fn document_of(&self, handle: u32) -> Option<&DocumentId> {
        self.hosted.get(&handle).map(|hosted| &hosted.id)
    }

    /// Who has a document open by a connection: its session, and whose it is.
    pub fn member_of(&self, handle: u32, peer: Peer) -> Option<(SessionId, &Arc<Identity>)> {
        let stream = self.hosted.get(&handle)?.streams.get(&peer)?;
        Some((stream.session, &stream.access.identity))
    }

    /// Documents in memory.
    pub fn documents(&self) -> usize {
        self.hosted.len()
    }

    /// Takes one input; what is to be done is appended to `effects`. If the work on a document panics, that
    /// document's streams end with [`ErrorCode::Internal`], and it is read again from the log.
    pub fn step(&mut self, input: Input<'_>, now: Now, effects: &mut Vec<Effect>) {
        self.end_expired(now, effects);
        let handle = match &input {
            Input::Open(request) => {
                if self.refuse_ungranted(request, effects) {
                    return;
                }
                self.host(&request.document, effects)
            }
            Input::Loaded { handle, .. }
            | Input::ChainRead { handle, .. }
            | Input::SnapshotCut { handle, .. }
            | Input::Found { handle, .. }
            | Input::Verified { handle, .. }
            | Input::Reconcile { handle, .. }
            | Input::PresenceSet { handle, .. }
            | Input::PresenceLeave { handle, .. }
            | Input::Broadcast { handle, .. }
            | Input::Renew { handle, .. }
            | Input::Fail { handle, .. }
            | Input::Close { handle, .. } => *handle,
            Input::Push(push) => push.handle,
            Input::Committed { batch } => {
                self.committed(*batch, effects);
                return self.resume_settled(now, effects);
            }
            Input::CommitFailed { batch, why } => {
                self.commit_failed(*batch, why.clone(), effects);
                return self.resume_all(now, effects);
            }
            Input::StorageRecovered { documents } => {
                self.storage_recovered(documents, effects);
                return self.resume_all(now, effects);
            }
            Input::Disconnected { peer } => return self.disconnected(*peer, now, effects),
            Input::Quarantine { document } => return self.quarantine(document, effects),
            Input::Revoke(revocation) => return self.revoke(revocation, effects),
            Input::Delete { document, token } => return self.delete(document, *token, effects),
            // By its name: after a panic it has another handle.
            Input::Deleted { document, .. } => match self.by_name.get(document) {
                Some(handle) => *handle,
                None => return,
            },
            Input::Tick => {
                self.expire_presence(now, effects);
                return self.evict_idle(now);
            }
        };
        self.contained(handle, effects, |shard, effects| shard.work(handle, input, now, effects));
    }

    /// What concerns one document.
    fn work(&mut self, handle: u32, input: Input<'_>, now: Now, effects: &mut Vec<Effect>) {
        match input {
            Input::Open(request) => self.open(handle, request, effects),
            Input::Loaded { result, .. } => self.loaded(handle, *result, now, effects),
            Input::ChainRead { peer, result, .. } => self.chain_read(handle, peer, result, effects),
            Input::Deleted { result, .. } => self.deleted(handle, &result, now, effects),
            Input::SnapshotCut { result, .. } => self.snapshot_cut(handle, result, effects),
            Input::Push(push) => self.push(push, now, effects),
            Input::Found { peer, asked_for, result, .. } => {
                self.found(handle, peer, asked_for, result, now, effects);
            }
            Input::Verified { number, result, .. } => self.verified(handle, number, result, now, effects),
            Input::Reconcile { peer, more, clock, .. } => {
                self.reconcile(peer, handle, more, clock, now, effects);
            }
            Input::PresenceSet { peer, ttl_ms, state, .. } => {
                self.presence_set(peer, handle, ttl_ms, state, now, effects);
            }
            Input::PresenceLeave { peer, .. } => self.presence_leave(peer, handle, effects),
            Input::Broadcast { peer, topic, payload, .. } => {
                self.broadcast(peer, handle, topic, payload, effects);
            }
            Input::Renew { peer, request, grant, .. } => self.renew(peer, handle, request, &grant, effects),
            Input::Fail { peer, code, message, .. } => {
                if self.has_stream(peer, handle) {
                    self.in_hand = Some(InHand::Close { peer });
                    self.end_stream(peer, handle, code, &message, now, effects);
                }
            }
            // A `Close` of each side may cross: then the server's own has answered, and another one would end a
            // stream that the client opens next.
            Input::Close { peer, .. } => {
                if self.has_stream(peer, handle) {
                    self.in_hand = Some(InHand::Close { peer });
                    self.leave(peer, handle, now, effects);
                    effects.push(Effect::reply(peer, handle, &Close { code: 0, message: String::new() }));
                }
            }
            Input::Committed { .. }
            | Input::CommitFailed { .. }
            | Input::StorageRecovered { .. }
            | Input::Quarantine { .. }
            | Input::Delete { .. }
            | Input::Revoke(_)
            | Input::Disconnected { .. }
            | Input::Tick => {}
        }
    }

    fn disconnected(&mut self, peer: Peer, now: Now, effects: &mut Vec<Effect>) {
        for handle in self.peers.remove(&peer).unwrap_or_default() {
            self.contained(handle, effects, |shard, effects| shard.leave(peer, handle, now, effects));
        }
    }

    fn has_stream(&self, peer: Peer, handle: u32) -> bool {
        self.hosted.get(&handle).is_some_and(|hosted| hosted.streams.contains_key(&peer))
    }

    /// The handle of a document, which is read from the log if it is not in memory.
    fn host(&mut self, document: &DocumentId, effects: &mut Vec<Effect>) -> u32 {
        if let Some(&handle) = self.by_name.get(document) {
            return handle;
        }
        let handle = self.host_empty(document);
        effects.push(Effect::Load { handle, document: document.clone() });
        handle
    }

    fn host_empty(&mut self, document: &DocumentId) -> u32 {
        let handle = self.take_handle();
        self.by_name.insert(document.clone(), handle);
        self.hosted.insert(handle, Hosted::new(document.clone()));
        handle
    }

    /// Whether nothing waits for the disk.
    pub fn is_settled(&self) -> bool {
        self.batches.is_empty() && self.open_batch.is_empty() && self.held.is_empty()
    }

    /// A number for a new document in memory: not 0, not in use, and congruent to this shard.
    fn take_handle(&mut self) -> u32 {
        loop {
            let handle =
                self.next_handle.wrapping_mul(u32::from(self.shards)).wrapping_add(u32::from(self.shard));
            self.next_handle = self.next_handle.wrapping_add(1);
            let is_ours = Self::home_of(handle, self.shards) == self.shard;
            if handle != 0 && is_ours && !self.hosted.contains_key(&handle) {
                return handle;
            }
        }
    }

    /// Ends a stream with a reason.
    fn end_stream(
        &mut self,
        peer: Peer,
        handle: u32,
        code: ErrorCode,
        message: &str,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        self.leave(peer, handle, now, effects);
        effects.push(Effect::reply(peer, handle, &Close { code: code as u16, message: message.to_owned() }));
    }

    /// Removes a member, and whatever it held.
    fn leave(&mut self, peer: Peer, handle: u32, now: Now, effects: &mut Vec<Effect>) {
        if let Some(handles) = self.peers.get_mut(&peer) {
            handles.remove(&handle);
            if handles.is_empty() {
                self.peers.remove(&peer);
            }
        }
        if !planted!(PresenceLeak) {
            self.presence_leave(peer, handle, effects);
        }
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        hosted.waiting.remove(&peer);
        if let Some(stream) = hosted.streams.remove(&peer) {
            self.expiries.forget(peer, handle, &stream.access);
            for parked in stream.parked {
                effects.push(Effect::Settle { peer, bytes: parked.bytes });
            }
            if stream.attached {
                effects.push(Effect::Detach { peer, handle });
                self.faults.pass(&hosted.id, "leave");
                if hosted.core_left(peer.core) && !planted!(FeedLeak) {
                    effects.push(Effect::StopFeed { core: peer.core, handle });
                }
            }
        }
        self.idle_if_unused(handle, now);
    }

    /// Begins to count the time for which nobody has had the document open.
    fn idle_if_unused(&mut self, handle: u32, now: Now) {
        if let Some(hosted) = self.hosted.get_mut(&handle).filter(|hosted| hosted.is_unused()) {
            hosted.idle_since_us = now.mono_us;
            self.idle.push_back((now.mono_us, handle));
        }
    }

    /// Lets documents go that nobody has open, after a while or when there are too many of them.
    fn evict_idle(&mut self, now: Now) {
        while let Some(&(since_us, handle)) = self.idle.front() {
            let is_due = now.mono_us.saturating_sub(since_us) >= IDLE_DOCUMENT_US;
            if !is_due && self.idle.len() <= IDLE_DOCUMENTS_MAX {
                break;
            }
            self.idle.pop_front();
            // It may have been opened since, or left again later: then a later entry decides.
            let is_this = |hosted: &&Hosted| hosted.is_unused() && hosted.idle_since_us == since_us;
            match self.hosted.get(&handle).filter(is_this).map(Hosted::is_settled) {
                Some(true) => self.forget(handle),
                // Its last changes are on their way to the disk.
                Some(false) => {
                    self.idle.push_back((since_us, handle));
                    break;
                }
                None => {}
            }
        }
    }

    fn forget(&mut self, handle: u32) {
        self.recency.forget(handle);
        if let Some(hosted) = self.hosted.remove(&handle) {
            self.by_name.remove(&hosted.id);
        }
    }
}

/// Answers a frame of a kind, and its request, if it has a number, with an error, which does not end anything.
fn refuse_request(
    peer: Peer,
    handle: u32,
    (kind, request): (Kind, u32),
    code: ErrorCode,
    retry_after_ms: u32,
    message: &str,
    effects: &mut Vec<Effect>,
) {
    let error =
        Error { request, code: code as u16, kind: kind as u16, retry_after_ms, message: message.to_owned() };
    effects.push(Effect::Reply { peer, handle, frame: Outgoing::new(handle, &error, &[]) });
}
