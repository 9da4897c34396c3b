//! Opening a document: load it, find out where the member stands, attach it.

use std::collections::BTreeSet;

use etherply_wire::kinds::{ClockEntry, Cursor, Opened, Reconcile, resume};
use etherply_wire::limits::RECONCILE_ENTRIES_MAX;
use etherply_wire::{ErrorCode, Kind, Rights};

use super::batch::{Entry, Listener};
use super::contain::InHand;
use super::effect::{Attach, Effect, FindFor, Observation};
use super::hosted::{Hosted, OPENS_WAITING_MAX, Reconciling, State, Stream};
use super::input::OpenRequest;
use super::rights::Access;
use super::snapshots::SnapshotState;
use super::{Shard, refuse_request};
use crate::access::{FORBIDDEN, knows_log};
use crate::change::{ActorId, ChangeHash};
use crate::document::{Document, Recovered};
use crate::feed::{FeedStart, Known, MemberStart, StartAt};
use crate::ids::ChainHash;
use crate::log::{FIRST_EPOCH, Found, LogError};
use crate::outgoing::Outgoing;
use crate::peer::{Now, Peer};
use crate::segment::Tail;
use crate::snapshot::Snapshot;

const EXPIRED: &str = "the token's time is over: open the document with a new one";
const REVOKED: &str = "the token was revoked: ask for another one";

/// The place of a member that is sent nothing of the document's log.
const NOWHERE: Cursor = Cursor { epoch: 0, seq: 0, chain: [0; 32] };

/// What the engine can say about a cursor at once.
enum Check {
    Fits,
    Foreign,
    /// Of an epoch whose copies are thrown away.
    Reset,
    AskLog,
}

/// How a member stands to the document's log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Fits,
    Foreign,
    Reset,
}

impl OpenRequest {
    /// What the stream may do.
    fn granted(&self) -> Rights {
        self.rights.and(self.grant.rights)
    }
}

impl Shard {
    /// Refuses to open a document without a grant, before anything is asked or told about it. Whether it did.
    pub(super) fn refuse_ungranted(&self, request: &OpenRequest, effects: &mut Vec<Effect>) -> bool {
        let (code, message) = if request.grant.has_expired(self.now.wall_ms) {
            (ErrorCode::TokenExpired, EXPIRED)
        } else if request.granted().is_empty() {
            (ErrorCode::Forbidden, FORBIDDEN)
        } else {
            return false;
        };
        effects.push(Effect::OpenRefused { peer: request.peer });
        refuse_request(request.peer, 0, (Kind::Open, request.request), code, 0, message, effects);
        true
    }

    /// Refuses an open that waits, because its grant was taken back.
    pub(super) fn refuse_revoked(&mut self, handle: u32, peer: Peer, effects: &mut Vec<Effect>) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let Some(request) = hosted.waiting.remove(&peer) else { return };
        effects.push(Effect::OpenRefused { peer });
        refuse_request(peer, 0, (Kind::Open, request.request), ErrorCode::TokenRevoked, 0, REVOKED, effects);
        self.not_opened(handle, peer);
    }

    /// Somebody who wanted to open a document does not.
    fn not_opened(&mut self, handle: u32, peer: Peer) {
        if let Some(handles) = self.peers.get_mut(&peer) {
            handles.remove(&handle);
        }
        self.idle_if_unused(handle, self.now);
    }

    pub(super) fn open(&mut self, handle: u32, mut request: OpenRequest, effects: &mut Vec<Effect>) {
        if !knows_log(request.granted()) {
            // Where its copy stands to the document's log is not for everybody.
            request.cursor = None;
        }
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        if hosted.waiting.contains_key(&request.peer) || hosted.streams.contains_key(&request.peer) {
            let message =
                "this document is open on this connection already: use that stream, or close it first";
            effects.push(Effect::OpenRefused { peer: request.peer });
            refuse_request(
                request.peer,
                handle,
                (Kind::Open, request.request),
                ErrorCode::AlreadyOpen,
                0,
                message,
                effects,
            );
            return;
        }
        if hosted.waiting.len() >= OPENS_WAITING_MAX {
            let message = "too many members open this document at once: try again shortly";
            effects.push(Effect::OpenRefused { peer: request.peer });
            refuse_request(
                request.peer,
                0,
                (Kind::Open, request.request),
                ErrorCode::Overloaded,
                1_000,
                message,
                effects,
            );
            return;
        }
        self.peers.entry(request.peer).or_default().insert(handle);
        self.admit_member(handle, request, effects);
    }

    /// Attaches a member, or lets it wait for what is needed to do so.
    fn admit_member(&mut self, handle: u32, request: OpenRequest, effects: &mut Vec<Effect>) {
        self.in_hand = Some(InHand::Open { peer: request.peer, request: request.request });
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let (State::Ready(document), Some(tail)) = (&hosted.state, &hosted.tail) else {
            hosted.waiting.insert(request.peer, request);
            return;
        };
        if hosted.deletion.is_some() {
            hosted.waiting.insert(request.peer, request);
            return;
        }
        match check_cursor(document, tail, request.cursor) {
            Check::Fits => self.attach(handle, request, Standing::Fits, effects),
            Check::Foreign => self.attach(handle, request, Standing::Foreign, effects),
            Check::Reset => self.attach(handle, request, Standing::Reset, effects),
            Check::AskLog => {
                if let Some(at) = request.cursor {
                    let (peer, document) = (request.peer, request.document.clone());
                    effects.push(Effect::ReadChain { handle, peer, document, at });
                }
                hosted.waiting.insert(request.peer, request);
            }
        }
    }

    pub(super) fn chain_read(
        &mut self,
        handle: u32,
        peer: Peer,
        result: Result<Option<ChainHash>, LogError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let Some(request) = hosted.waiting.remove(&peer) else { return };
        self.in_hand = Some(InHand::Open { peer, request: request.request });
        match result {
            Ok(chain) => {
                let fits = chain.is_some_and(|chain| {
                    request.cursor.is_some_and(|cursor| ChainHash(cursor.chain) == chain)
                });
                let standing = if fits { Standing::Fits } else { Standing::Foreign };
                self.attach(handle, request, standing, effects);
            }
            Err(error) => self.refuse_open(handle, &request, &error, effects),
        }
    }

    pub(super) fn loaded(
        &mut self,
        handle: u32,
        result: Result<Recovered, LogError>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let is_forgotten = planted!(ForgottenTombstone) && matches!(result, Err(LogError::Deleted { .. }));
        let empty = || Document::new(hosted.id.clone(), FIRST_EPOCH);
        let result = if is_forgotten { Ok(Recovered { document: empty(), snapshot: None }) } else { result };
        match result {
            Ok(Recovered { document, snapshot }) => {
                hosted.tail = Some(Tail::new(document.committed()));
                hosted.is_rebuilt = false;
                hosted.snapshot = SnapshotState::new(snapshot);
                hosted.state = State::Ready(Box::new(document));
                let nobody = hosted.waiting.is_empty();
                self.delete_if_settled(handle, effects);
                self.admit_waiting(handle, effects);
                if nobody && let Some(hosted) = self.hosted.get_mut(&handle) {
                    hosted.idle_since_us = now.mono_us;
                    self.idle.push_back((now.mono_us, handle));
                }
                self.used(handle);
                self.cut_if_due(handle, effects);
            }
            Err(error) => {
                self.refuse_waiting(handle, &error, effects);
                if !self.delete_unread(handle, &error, effects) {
                    // The next open tries anew: an operator may have mended it.
                    self.forget(handle);
                }
            }
        }
    }

    /// Attaches all who wait for the document, or lets them wait for what else is needed.
    pub(super) fn admit_waiting(&mut self, handle: u32, effects: &mut Vec<Effect>) {
        let hosted = self.hosted.get(&handle);
        let waiting: Vec<Peer> =
            hosted.into_iter().flat_map(|hosted| hosted.waiting.keys()).copied().collect();
        // One by one: if the work on one panics, the others are still known to wait.
        for peer in waiting {
            let hosted = self.hosted.get_mut(&handle);
            let Some(request) = hosted.and_then(|hosted| hosted.waiting.remove(&peer)) else { break };
            self.admit_member(handle, request, effects);
        }
    }

    pub(super) fn refuse_waiting(&mut self, handle: u32, error: &LogError, effects: &mut Vec<Effect>) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        for request in std::mem::take(&mut hosted.waiting).into_values() {
            self.refuse_open(handle, &request, error, effects);
        }
    }

    fn refuse_open(
        &mut self,
        handle: u32,
        request: &OpenRequest,
        error: &LogError,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(handles) = self.peers.get_mut(&request.peer) {
            handles.remove(&handle);
        }
        let (code, retry_after_ms) = refusal(error);
        let (peer, number) = (request.peer, request.request);
        effects.push(Effect::OpenRefused { peer });
        refuse_request(peer, 0, (Kind::Open, number), code, retry_after_ms, &error.to_string(), effects);
    }

    fn attach(&mut self, handle: u32, request: OpenRequest, standing: Standing, effects: &mut Vec<Effect>) {
        // It may have waited for long.
        if self.refuse_ungranted(&request, effects) {
            self.in_hand = None;
            return self.not_opened(handle, request.peer);
        }
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let (State::Ready(document), Some(tail)) = (&hosted.state, &hosted.tail) else { return };
        let (peer, rights) = (request.peer, request.granted());
        let expires_ms = request.grant.expires_ms;
        let foreign = standing == Standing::Foreign;
        let kept = request.cursor.filter(|_| standing != Standing::Reset);
        let seq = kept.map_or(0, |cursor| cursor.seq);
        let is_served = |snapshot: &Snapshot| rights.has(Rights::READ) && snapshot.serves(seq);
        let gets_snapshot = !foreign && hosted.snapshot.latest.as_ref().is_some_and(is_served);
        let how = match standing {
            Standing::Foreign => resume::RECONCILE,
            Standing::Reset => resume::RESET,
            Standing::Fits if gets_snapshot => resume::SNAPSHOT,
            _ if seq > 0 => resume::CURSOR,
            _ => resume::START,
        };
        let opened = Opened {
            request: request.request,
            rights: rights.0,
            resume: how,
            expires_at_ms: expires_ms,
            cursor: if knows_log(rights) { document.committed() } else { NOWHERE },
        };
        let number = self.next_stream;
        self.next_stream += 1;
        effects.push(Effect::reply(peer, handle, &opened));
        effects.push(Effect::Observe(Observation::Opened { resume: how }));
        let members = hosted.cores.entry(peer.core).or_insert(0);
        *members += 1;
        let feed = (*members == 1).then(|| {
            Box::new(FeedStart {
                document: hosted.id.clone(),
                tail: tail.clone(),
                presence: hosted.presence.clone(),
                broadcast_index: hosted.broadcast_index,
                snapshot: hosted.snapshot.latest,
            })
        });
        let at = match how {
            resume::RECONCILE => StartAt::Reconcile,
            _ if gets_snapshot => StartAt::Snapshot,
            _ if planted!(ResumeFromWrongSeq) => StartAt::Position(document.committed().seq),
            _ => StartAt::Position(seq),
        };
        let session = request.session;
        let member = MemberStart { stream: number, session, rights, expires_ms, at };
        effects.push(Effect::Attach(Box::new(Attach { peer, handle, member, feed })));
        let stream = Stream {
            number,
            session,
            access: Access::new(request.rights, &request.grant),
            refused_generation: None,
            parked: std::collections::VecDeque::new(),
            attached: true,
            reconcile: foreign.then(Reconciling::default),
        };
        self.faults.pass(&hosted.id, "open");
        hosted.streams.insert(peer, stream);
        self.expiries.add(expires_ms, handle, peer);
        self.in_hand = None;
        if foreign {
            self.send_clock(Listener { peer, handle, stream: number });
        }
    }

    /// Tells a member what the server has, as soon as all of it is durable: the member will take it for stored.
    pub(super) fn send_clock(&mut self, listener: Listener) {
        let document = self.hosted.get(&listener.handle).and_then(Hosted::document);
        let frames = document.map(|document| clock_frames(document, listener.handle));
        self.answer_behind(listener.handle, Entry::Clock(listener, frames.unwrap_or_default()));
    }

    /// A member says what it has: to be checked against the log, so that nobody builds on a forked actor.
    pub(super) fn reconcile(
        &mut self,
        peer: Peer,
        handle: u32,
        more: bool,
        clock: Vec<ClockEntry>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let State::Ready(document) = &hosted.state else { return };
        let Some(stream) = hosted.streams.get_mut(&peer) else { return };
        // Whether it was asked is the stream's own: a clock out of turn is the same wrong whatever the rights are.
        let wrong = match &mut stream.reconcile {
            None => {
                let message =
                    "this stream was not asked what it has: only `Opened` with the way `reconcile` asks";
                Some((ErrorCode::ProtocolViolation, message))
            }
            Some(_) if !knows_log(stream.access.rights) => Some(stream.access.lack(ErrorCode::Forbidden)),
            Some(asked) => asked.take(clock).err().map(|message| (ErrorCode::ProtocolViolation, message)),
        };
        if let Some((code, message)) = wrong {
            self.end_stream(peer, handle, code, message, now, effects);
            return;
        }
        let Some(collected) = stream.reconcile.as_mut().filter(|_| !more) else { return };
        // What the member has beyond the server it will push; what the server has beyond it must contain it.
        let is_within =
            |actor: &ActorId, seq: u64| document.actor(actor.as_bytes()).is_some_and(|state| seq < state.seq);
        let shared = collected.clock.iter().filter(|(actor, (seq, _))| is_within(actor, *seq));
        let hashes: Vec<ChangeHash> = shared.map(|(_, (_, hash))| *hash).collect();
        if hashes.is_empty() {
            self.reconcile_found(peer, handle, &[], now, effects);
            return;
        }
        collected.asked = true;
        let (document, epoch) = (hosted.id.clone(), document.committed().epoch);
        let asked_for = FindFor::Reconcile(stream.number);
        effects.push(Effect::Find { handle, peer, document, epoch, asked_for, hashes });
    }

    /// The log's answer for [`Shard::reconcile`].
    pub(super) fn reconcile_found(
        &mut self,
        peer: Peer,
        handle: u32,
        found: &[(ChangeHash, Option<Found>)],
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let State::Ready(document) = &hosted.state else { return };
        let Some(stream) = hosted.streams.get_mut(&peer) else { return };
        let Some(reconciling) = stream.reconcile.take() else { return };
        let missing: BTreeSet<ChangeHash> =
            found.iter().filter(|(_, found)| found.is_none()).map(|(hash, _)| *hash).collect();
        let mut known = Known::new();
        for (actor, (seq, hash)) in reconciling.clock {
            let state = document.actor(actor.as_bytes());
            let differs = state.is_some_and(|state| state.seq == seq && state.hash != hash);
            let pending = document.is_known(&hash);
            if differs || (missing.contains(&hash) && !pending) {
                let message = "this copy holds changes of an actor that differ from the server's: open the \
                               document without a cursor and apply your own edits anew as a fresh actor";
                let (code, message) = match knows_log(stream.access.rights) {
                    true => (ErrorCode::ActorForked, message),
                    // Its rights ended while the log was asked.
                    false => stream.access.lack(ErrorCode::Forbidden),
                };
                self.end_stream(peer, handle, code, message, now, effects);
                return;
            }
            known.insert(actor, seq + u64::from(planted!(ReconcileOffByOne)));
        }
        effects.push(Effect::Reconciled { peer, handle, known });
    }
}

/// Whether a cursor belongs to this document's log.
fn check_cursor(document: &Document, tail: &Tail, cursor: Option<Cursor>) -> Check {
    let Some(cursor) = cursor else { return Check::Fits };
    let committed = document.committed();
    if document.resets(cursor.epoch) {
        return Check::Reset;
    }
    if cursor.epoch != committed.epoch || cursor.seq > committed.seq {
        return Check::Foreign;
    }
    let known = if cursor.seq == 0 {
        Some(Document::new(document.id().clone(), committed.epoch).committed())
    } else {
        tail.cursor_at(cursor.seq)
    };
    match known {
        Some(known) if known == cursor => Check::Fits,
        Some(_) => Check::Foreign,
        None => Check::AskLog,
    }
}

/// What the server has, in as many frames as it takes.
pub(super) fn clock_frames(document: &Document, handle: u32) -> Vec<Outgoing> {
    let cursor = document.committed();
    let entries: Vec<ClockEntry> =
        document.clock().map(|(actor, state)| Document::clock_entry(actor, state)).collect();
    let frame = |more, clock| Outgoing::new(handle, &Reconcile { cursor, more, clock }, &[]);
    let mut chunks = entries.chunks(RECONCILE_ENTRIES_MAX).peekable();
    let mut frames = Vec::new();
    while let Some(chunk) = chunks.next() {
        frames.push(frame(chunks.peek().is_some(), chunk.to_vec()));
    }
    if frames.is_empty() {
        frames.push(frame(false, Vec::new()));
    }
    frames
}

/// How a member hears of a log that does not answer.
pub(super) fn refusal(error: &LogError) -> (ErrorCode, u32) {
    match error {
        LogError::Damaged { .. } => (ErrorCode::DocumentDamaged, 0),
        LogError::Deleted { .. } => (ErrorCode::DocumentDeleted, 0),
        // Nobody asks for what is covered, other than a feed, which knows what to do.
        LogError::Covered { .. } => (ErrorCode::Internal, super::STORAGE_RETRY_MS),
        LogError::Unavailable { .. } => (ErrorCode::StorageUnavailable, super::STORAGE_RETRY_MS),
    }
}
