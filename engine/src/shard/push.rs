//! Pushes: generations, admission, refusals.

use std::sync::Arc;

use etherply_wire::kinds::{ClockEntry, Refused};
use etherply_wire::limits::{FRAME_BYTES_MAX, PUSH_BYTES_MAX, PUSH_CHANGES_MAX, REFUSED_CLOCK_ENTRIES_MAX};
use etherply_wire::{ErrorCode, Rights};

use super::batch::{Entry, Listener, Pending, Pushed};
use super::contain::InHand;
use super::effect::{Effect, FindFor, Observation};
use super::hosted::{Hosted, Parked, State, Stream};
use super::input::PushRequest;
use super::{STORAGE_RETRY_MS, Shard};
use crate::access::knows_log;
use crate::change::{ChangeHash, ChangeLimits, parse_header};
use crate::document::{AdmitError, Admitted, Document, LOOKUPS_PER_PUSH_MAX, Pusher, Resolved};
use crate::log::{Append, Found, LogError};
use crate::outgoing::Outgoing;
use crate::peer::{Now, Peer};
use crate::record::Record;
use crate::segment::Segment;

/// Bytes of a frame with changes beside the changes and their lengths, rounded up.
const CHANGES_FRAME_OVERHEAD_BYTES: usize = 128;
// What is taken can be sent on: members refuse a longer frame.
const _: () =
    assert!(PUSH_BYTES_MAX + 4 * PUSH_CHANGES_MAX + CHANGES_FRAME_OVERHEAD_BYTES <= FRAME_BYTES_MAX);

/// Why a push is refused.
pub(super) struct Refusal {
    pub(super) index: usize,
    pub(super) code: ErrorCode,
    pub(super) retry_after_ms: u32,
    pub(super) message: String,
}

impl Shard {
    pub(super) fn push(&mut self, push: PushRequest<'_>, now: Now, effects: &mut Vec<Effect>) {
        let (peer, handle, bytes) = (push.peer, push.handle, push.changes.len());
        let Some(hosted) = self.hosted.get_mut(&handle) else {
            effects.push(Effect::Settle { peer, bytes });
            return;
        };
        let takes_pushes = hosted.takes_pushes(self.verifies);
        let Some(stream) = hosted.streams.get_mut(&peer) else {
            effects.push(Effect::Settle { peer, bytes });
            return;
        };
        let is_passed_over = stream.refused_generation.is_some_and(|refused| push.generation <= refused);
        if is_passed_over && !planted!(GenerationIgnored) {
            effects.push(Effect::Settle { peer, bytes });
            return;
        }
        if stream.parked.is_empty() && takes_pushes {
            let resolved = Resolved::default();
            self.try_push(push, &resolved, 0, now.mono_us, now, effects);
        } else {
            // For a deletion or a verification, or behind one that waits: a stream's pushes are taken in their order.
            stream.parked.push_back(parked(push, Resolved::default(), 0, now.mono_us));
        }
    }

    /// Admits, parks or refuses a push. Whether the stream goes on, and is not waiting.
    fn try_push(
        &mut self,
        push: PushRequest<'_>,
        resolved: &Resolved,
        looked_up: usize,
        received_us: u64,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> bool {
        self.in_hand = Some(InHand::Push { peer: push.peer, bytes: push.changes.len() });
        if self.storage_failure.is_some() {
            if let Some(pushed) = self.pushed(&push) {
                self.refuse_for_storage(&pushed, effects);
            }
            return true;
        }
        let (limits, bytes_max) = (self.limits, self.document_bytes_max);
        let Some(hosted) = self.hosted.get_mut(&push.handle) else { return true };
        let admitted = admit(hosted, &push, &limits, resolved);
        match admitted.and_then(|admitted| check_size(hosted, &push, admitted, bytes_max).map_err(Err)) {
            Ok(admitted) => {
                self.faults.pass(&hosted.id, "push");
                self.take(push, admitted, received_us, now);
                true
            }
            Err(Ok(hashes)) => {
                let looked_up = looked_up + hashes.len();
                if looked_up > LOOKUPS_PER_PUSH_MAX {
                    let refusal = Refusal {
                        index: 0,
                        code: ErrorCode::PushInvalid,
                        retry_after_ms: 0,
                        message: "the push refers to too many old changes at once: split it".to_owned(),
                    };
                    self.refuse(push, refusal, effects);
                    return true;
                }
                self.park(push, resolved, looked_up, received_us, hashes, effects);
                false
            }
            // It would tell of changes that may yet be taken back.
            Err(Err(_)) if hosted.verification.is_some() => {
                if let Some(stream) = hosted.streams.get_mut(&push.peer) {
                    stream.parked.push_front(parked(push, resolved.clone(), looked_up, received_us));
                }
                self.in_hand = None;
                false
            }
            Err(Err(refusal)) => {
                self.refuse(push, refusal, effects);
                true
            }
        }
    }

    fn park(
        &mut self,
        push: PushRequest<'_>,
        resolved: &Resolved,
        looked_up: usize,
        received_us: u64,
        hashes: Vec<ChangeHash>,
        effects: &mut Vec<Effect>,
    ) {
        let (peer, handle) = (push.peer, push.handle);
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let Some(document) = hosted.document() else { return };
        let epoch = document.committed().epoch;
        let mut resolved = resolved.clone();
        document.asking(&mut resolved);
        let Some(stream) = hosted.streams.get_mut(&peer) else { return };
        stream.parked.push_front(Parked { asked: true, ..parked(push, resolved, looked_up, received_us) });
        self.in_hand = None;
        let (document, asked_for) = (hosted.id.clone(), FindFor::Push(stream.number));
        effects.push(Effect::Find { handle, peer, document, epoch, asked_for, hashes });
    }

    /// The log's answer for a parked push, or for a reconcile.
    pub(super) fn found(
        &mut self,
        handle: u32,
        peer: Peer,
        asked_for: FindFor,
        result: Result<Vec<(ChangeHash, Option<Found>)>, LogError>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let (FindFor::Push(number) | FindFor::Reconcile(number)) = asked_for;
        let stream = hosted.streams.get_mut(&peer).filter(|stream| stream.number == number);
        let Some(stream) = stream else { return };
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                let (code, _) = super::open::refusal(&error);
                self.end_stream(peer, handle, code, &error.to_string(), now, effects);
                return;
            }
        };
        if matches!(asked_for, FindFor::Reconcile(_)) {
            self.reconcile_found(peer, handle, &found, now, effects);
            return;
        }
        if let Some(asked) = stream.parked.iter_mut().find(|parked| parked.asked) {
            asked.resolved.extend(found);
            asked.asked = false;
        }
        self.take_parked(handle, peer, now, effects);
    }

    /// Takes the pushes that wait, until one has to wait on.
    pub(super) fn take_parked(&mut self, handle: u32, peer: Peer, now: Now, effects: &mut Vec<Effect>) {
        loop {
            let verifies = self.verifies;
            let hosted = self.hosted.get_mut(&handle).filter(|hosted| hosted.takes_pushes(verifies));
            let Some(stream) = hosted.and_then(|hosted| hosted.streams.get_mut(&peer)) else { return };
            let Some(next) = stream.parked.pop_front_if(|next| !next.asked) else { return };
            if stream.refused_generation.is_some_and(|refused| next.generation <= refused) {
                effects.push(Effect::Settle { peer, bytes: next.bytes });
                continue;
            }
            let push = next.request(peer, handle);
            if !self.try_push(push, &next.resolved, next.looked_up, next.received_us, now, effects) {
                return;
            }
        }
    }

    /// Puts an admitted push into the open batch.
    fn take(&mut self, push: PushRequest<'_>, admitted: Admitted, received_us: u64, now: Now) {
        let Some(pushed) = self.pushed(&push) else { return };
        let Some(hosted) = self.hosted.get_mut(&push.handle) else { return };
        let Some(stream) = hosted.streams.get(&push.peer) else { return };
        let pusher = Arc::clone(&stream.access.identity.subject);
        let (mut records, after) = (Vec::new(), hosted.document().map(Document::committed));
        let segment = (!admitted.fresh.is_empty()).then(|| {
            let changes = split(push.lengths, push.changes);
            let fresh: Vec<&[u8]> =
                admitted.fresh.iter().filter_map(|fresh| changes.get(fresh.index).copied()).collect();
            let length = |change: &&[u8]| u32::try_from(change.len()).unwrap_or(u32::MAX);
            let lengths: Vec<u32> = fresh.iter().map(length).collect();
            let bytes: usize = fresh.iter().map(|change| change.len()).sum();
            let (after, cursor) = (admitted.after_seq, admitted.cursor);
            let writer = Some(pushed.listener.stream);
            hosted.pending_bytes += bytes as u64;
            let segment = Segment::new(push.handle, after, cursor, lengths, &fresh, writer, received_us);
            let mut rest = segment.changes(bytes);
            records.extend(admitted.fresh.iter().zip(&fresh).map(|(fresh, change)| Record {
                seq: fresh.seq,
                hash: fresh.hash,
                chain: fresh.chain,
                max_op: fresh.max_op,
                time_ms: now.wall_ms,
                pusher: Arc::clone(&pusher),
                change: rest.split_to(change.len()),
            }));
            Arc::new(segment)
        });
        let (epoch, is_group) = (admitted.cursor.epoch, segment.is_some() || hosted.verification.is_some());
        let entry = Entry::Push(Pending { pushed, admitted, segment });
        match after.filter(|_| self.verifies && is_group) {
            Some(after) => {
                let again = parked(push, Resolved::default(), 0, received_us);
                self.hold(push.handle, after, records, entry, Some(again));
            }
            None => {
                if !records.is_empty() {
                    self.open_batch.appends.push(Append { document: hosted.id.clone(), epoch, records });
                }
                self.open_batch.entries.push(entry);
            }
        }
        self.in_hand = None;
    }

    /// The push as it is remembered while its answer is not given.
    fn pushed(&self, push: &PushRequest<'_>) -> Option<Pushed> {
        let &PushRequest { peer, handle, push, generation, changes, .. } = push;
        let stream = self.hosted.get(&handle)?.streams.get(&peer)?.number;
        let listener = Listener { peer, handle, stream };
        Some(Pushed { listener, push, generation, bytes: changes.len() })
    }

    pub(super) fn refuse(&mut self, push: PushRequest<'_>, refusal: Refusal, effects: &mut Vec<Effect>) {
        let (peer, handle) = (push.peer, push.handle);
        let Some(pushed) = self.pushed(&push) else { return };
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        // What the document has is not for everybody.
        let knows = |stream: &Stream| knows_log(stream.access.rights);
        let shown = hosted.document().filter(|_| hosted.streams.get(&peer).is_some_and(knows));
        let (clock, clock_complete) = match shown {
            Some(document) => refused_clock(document, &push, &self.limits),
            None => (Vec::new(), false),
        };
        let genesis = match refusal.code {
            ErrorCode::GenesisConflict => shown.and_then(Document::genesis),
            _ => None,
        };
        let refused = Refused {
            push: push.push,
            generation: push.generation,
            index: u32::try_from(refusal.index).unwrap_or(u32::MAX),
            code: refusal.code as u16,
            retry_after_ms: refusal.retry_after_ms,
            clock_complete,
            clock,
            message: refusal.message,
        };
        let tail = genesis.map_or(&[][..], |genesis| genesis);
        let frame = Outgoing::new(handle, &refused, &[tail]);
        if let Some(stream) = hosted.streams.get_mut(&peer) {
            stream.refused_generation = Some(push.generation);
        }
        effects.push(Effect::Observe(Observation::Refused { peer, handle, code: refusal.code }));
        planted!(RefusalBeforeSync, {
            effects.push(Effect::Settle { peer, bytes: pushed.bytes });
            effects.push(Effect::Reply { peer, handle, frame });
            return;
        });
        // It tells of changes, and may hold a genesis, that are not durable yet; and answers keep the order of
        // the pushes, so that whoever is refused knows what became of everything before.
        self.open_batch.entries.push(Entry::Refusal(pushed, frame));
        self.in_hand = None;
    }

    /// Refuses a push because storage takes no writes, however far its generation was refused before.
    pub(super) fn refuse_for_storage(&mut self, pushed: &Pushed, effects: &mut Vec<Effect>) {
        let Listener { peer, handle, .. } = pushed.listener;
        effects.push(Effect::Settle { peer, bytes: pushed.bytes });
        self.in_hand = None;
        let code = ErrorCode::StorageUnavailable;
        effects.push(Effect::Observe(Observation::Refused { peer, handle, code }));
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        if !hosted.listens(&pushed.listener) {
            return;
        }
        if let Some(stream) = hosted.streams.get_mut(&peer) {
            stream.refused_generation = stream.refused_generation.max(Some(pushed.generation));
        }
        let refused = Refused {
            push: pushed.push,
            generation: pushed.generation,
            index: 0,
            code: ErrorCode::StorageUnavailable as u16,
            retry_after_ms: STORAGE_RETRY_MS,
            clock_complete: false,
            clock: Vec::new(),
            message: format!(
                "the server's storage takes no writes ({}): keep your edits and push them again later",
                self.storage_failure.as_deref().unwrap_or("it failed")
            ),
        };
        effects.push(Effect::reply(peer, handle, &refused));
    }
}

/// `Err(Ok(hashes))`: the log has to be asked; `Err(Err(refusal))`: no.
fn admit(
    hosted: &mut Hosted,
    push: &PushRequest<'_>,
    limits: &ChangeLimits,
    resolved: &Resolved,
) -> Result<Admitted, Result<Vec<ChangeHash>, Refusal>> {
    let refuse = |index, code, message: &str| {
        Err(Err(Refusal { index, code, retry_after_ms: 0, message: message.to_owned() }))
    };
    let Some(stream) = hosted.streams.get(&push.peer) else {
        return refuse(0, ErrorCode::StreamNotOpen, "the stream has ended");
    };
    if !stream.access.rights.has(Rights::WRITE) && !planted!(WriteRightIgnored) {
        let (code, message) = stream.access.lack(ErrorCode::ReadOnly);
        return refuse(0, code, message);
    }
    let imports = stream.access.rights.has(Rights::IMPORT);
    let pusher = Pusher { subject: &stream.access.identity.subject, imports };
    let changes = split(push.lengths, push.changes);
    let bytes: usize = changes.iter().map(|change| change.len()).sum();
    let lengths_fit = changes.len() == push.lengths.len() && bytes == push.changes.len();
    if changes.is_empty() || changes.len() > PUSH_CHANGES_MAX || !lengths_fit || bytes > PUSH_BYTES_MAX {
        let message = format!(
            "a push has 1 to {PUSH_CHANGES_MAX} changes and {PUSH_BYTES_MAX} bytes, and its lengths add up to \
             its tail"
        );
        return refuse(0, ErrorCode::PushInvalid, &message);
    }
    let State::Ready(document) = &mut hosted.state else {
        return refuse(0, ErrorCode::Internal, "the document is not loaded");
    };
    document.admit_from(pusher, &changes, limits, resolved).map_err(|error| match error {
        AdmitError::Lookup(hashes) => Ok(hashes),
        AdmitError::Refused { index, code, message } => {
            let retry_after_ms = if code == ErrorCode::Overloaded { 1_000 } else { 0 };
            Err(Refusal { index, code, retry_after_ms, message })
        }
    })
}

/// Takes a push back that would make its document larger than it may be. What is there already counts once.
fn check_size(
    hosted: &mut Hosted,
    push: &PushRequest<'_>,
    admitted: Admitted,
    bytes_max: u64,
) -> Result<Admitted, Refusal> {
    let State::Ready(document) = &mut hosted.state else { return Ok(admitted) };
    let mut bytes = document.log_bytes() + hosted.pending_bytes;
    for fresh in &admitted.fresh {
        bytes += u64::from(push.lengths.get(fresh.index).copied().unwrap_or(0));
        if bytes > bytes_max {
            document.take_back(&admitted);
            let message = format!(
                "a document may have {bytes_max} bytes of changes here, all of its history included, and this \
                 one would have {bytes}: go on in a new document"
            );
            let (index, code) = (fresh.index, ErrorCode::DocumentTooLarge);
            return Err(Refusal { index, code, retry_after_ms: 0, message });
        }
    }
    Ok(admitted)
}

/// The changes of a push; fewer if the lengths exceed the bytes.
fn split<'a>(lengths: &[u32], mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut changes = Vec::with_capacity(lengths.len().min(PUSH_CHANGES_MAX + 1));
    for &length in lengths.iter().take(PUSH_CHANGES_MAX + 1) {
        let Some((change, rest)) = bytes.split_at_checked(length as usize) else { break };
        changes.push(change);
        bytes = rest;
    }
    changes
}

fn parked(push: PushRequest<'_>, resolved: Resolved, looked_up: usize, received_us: u64) -> Parked {
    Parked {
        push: push.push,
        generation: push.generation,
        lengths: push.lengths.to_vec(),
        changes: push.changes.to_vec(),
        bytes: push.changes.len(),
        received_us,
        resolved,
        looked_up,
        asked: false,
    }
}

/// What the server has: all of it where that is short, else only of the actors of this push.
fn refused_clock(
    document: &Document,
    push: &PushRequest<'_>,
    limits: &ChangeLimits,
) -> (Vec<ClockEntry>, bool) {
    if document.actors() <= REFUSED_CLOCK_ENTRIES_MAX {
        let entries = document.clock().map(|(actor, state)| Document::clock_entry(actor, state));
        return (entries.collect(), true);
    }
    let mut clock: Vec<ClockEntry> = Vec::new();
    for change in split(push.lengths, push.changes) {
        let Ok(header) = parse_header(change, limits) else { continue };
        let is_new = clock.iter().all(|entry| entry.actor != header.actor);
        if let Some(state) = document.actor(header.actor).filter(|_| is_new) {
            let (actor, seq, hash) = (header.actor.to_vec(), state.seq, state.hash.0);
            clock.push(ClockEntry { actor, seq, hash });
        }
        if clock.len() >= REFUSED_CLOCK_ENTRIES_MAX {
            break;
        }
    }
    (clock, false)
}
