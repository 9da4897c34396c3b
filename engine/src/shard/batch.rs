//! What was admitted and waits for the disk, and what may not be told before that is durable.

use std::collections::BTreeSet;
use std::sync::Arc;

use etherply_wire::kinds::Ack;

use super::Shard;
use super::effect::{Effect, Observation};
use super::hosted::{Hosted, State, Stream};
use super::open::clock_frames;
use crate::access::knows_log;
use crate::document::{Admitted, Document};
use crate::feed::FeedEvent;
use crate::ids::DocumentId;
use crate::log::{Append, FIRST_EPOCH};
use crate::outgoing::Outgoing;
use crate::peer::{Peer, StreamNumber};
use crate::segment::Segment;

/// What becomes durable together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) appends: Vec<Append>,
    pub(super) entries: Vec<Entry>,
}

/// One answer that a batch holds back.
#[derive(Debug)]
pub(super) enum Entry {
    /// A push that was admitted.
    Push(Pending),
    /// A push that was refused, with a clock or a genesis that is not durable yet.
    Refusal(Pushed, Outgoing),
    /// The clock for a member that has to say what it has.
    Clock(Listener, Vec<Outgoing>),
}

/// A stream that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listener {
    pub(super) peer: Peer,
    pub(super) handle: u32,
    pub(super) stream: StreamNumber,
}

/// A push, without its changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pushed {
    pub(super) listener: Listener,
    pub(super) push: u64,
    pub(super) generation: u32,
    pub(super) bytes: usize,
}

/// A push that was admitted.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) pushed: Pushed,
    pub(super) admitted: Admitted,
    /// What members are sent; none if the push brought nothing new.
    pub(super) segment: Option<Arc<Segment>>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it has only to wait for the batch before it.
    fn stores_nothing(&self) -> bool {
        self.appends.is_empty() && self.entries.iter().all(|entry| entry.segment().is_none())
    }
}

impl Entry {
    /// The push that is answered, if it is one.
    pub(super) fn pushed(&self) -> Option<&Pushed> {
        match self {
            Self::Push(Pending { pushed, .. }) | Self::Refusal(pushed, _) => Some(pushed),
            Self::Clock(..) => None,
        }
    }

    /// The document that it concerns.
    pub(super) fn handle(&self) -> u32 {
        match self {
            Self::Push(Pending { pushed, .. }) | Self::Refusal(pushed, _) => pushed.listener.handle,
            Self::Clock(listener, _) => listener.handle,
        }
    }

    fn segment(&self) -> Option<&Arc<Segment>> {
        match self {
            Self::Push(pending) => pending.segment.as_ref(),
            Self::Refusal(..) | Self::Clock(..) => None,
        }
    }
}

impl Hosted {
    /// Whether the stream is still the one that asked.
    pub(super) fn listens(&self, listener: &Listener) -> bool {
        let is_it = |stream: &Stream| stream.number == listener.stream || planted!(AnswerToAnotherStream);
        self.streams.get(&listener.peer).is_some_and(is_it)
    }
}

impl Shard {
    /// Sends everything that was admitted since the last call on its way to the disk.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        self.ask_verifications(effects);
        if self.open_batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.open_batch);
        batch.number = self.next_batch;
        self.next_batch += 1;
        let appends = std::mem::take(&mut batch.appends);
        let number = batch.number;
        self.batches.push_back(batch);
        if appends.is_empty() {
            // Nothing but answers: given when what they tell of is on disk.
            if self.batches.len() == 1 {
                self.committed(number, effects);
            }
        } else {
            planted!(AckBeforeSync, { self.tell_early(effects) });
            planted!(RelayBeforeSync, { self.tell_early(effects) });
            effects.push(Effect::Commit { batch: number, appends });
        }
    }

    /// Everything up to this batch is durable: ack it and relay it.
    pub(super) fn committed(&mut self, number: u64, effects: &mut Vec<Effect>) {
        let is_done = |batch: &Batch| batch.number <= number || batch.stores_nothing();
        while self.batches.front().is_some_and(is_done) {
            let Some(batch) = self.batches.pop_front() else { break };
            for entry in batch.entries {
                let handle = entry.handle();
                self.contained(handle, effects, |shard, effects| shard.complete(entry, effects));
            }
        }
        self.reload_settled(effects);
    }

    fn complete(&mut self, entry: Entry, effects: &mut Vec<Effect>) {
        match entry {
            Entry::Push(pending) => self.complete_push(pending, effects),
            Entry::Refusal(pushed, frame) => {
                effects.push(Effect::Settle { peer: pushed.listener.peer, bytes: pushed.bytes });
                self.answer(&pushed.listener, frame, effects);
            }
            Entry::Clock(listener, frames) => self.answer_clock(&listener, frames, effects),
        }
    }

    /// Tells a member what the server has, if it may know that now: its rights may have ended while the clock waited.
    /// It is told then when it has rights again.
    fn answer_clock(&mut self, listener: &Listener, frames: Vec<Outgoing>, effects: &mut Vec<Effect>) {
        let &Listener { peer, handle, .. } = listener;
        let hosted = self.hosted.get_mut(&handle).filter(|hosted| hosted.listens(listener));
        let Some(stream) = hosted.and_then(|hosted| hosted.streams.get_mut(&peer)) else { return };
        if knows_log(stream.access.rights) {
            effects.extend(frames.into_iter().map(|frame| Effect::Reply { peer, handle, frame }));
        } else if let Some(reconciling) = &mut stream.reconcile {
            reconciling.untold = true;
        }
    }

    /// Replies to a stream, if it is still there.
    fn answer(&self, listener: &Listener, frame: Outgoing, effects: &mut Vec<Effect>) {
        let &Listener { peer, handle, .. } = listener;
        if self.hosted.get(&handle).is_some_and(|hosted| hosted.listens(listener)) {
            effects.push(Effect::Reply { peer, handle, frame });
        }
    }

    fn complete_push(&mut self, pending: Pending, effects: &mut Vec<Effect>) {
        let Pending { pushed: Pushed { listener, push, bytes, .. }, admitted, segment } = pending;
        let Listener { peer, handle, .. } = listener;
        effects.push(Effect::Settle { peer, bytes });
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        if hosted.listens(&listener) {
            let ack = Ack {
                push,
                after_seq: admitted.after_seq,
                cursor: admitted.cursor,
                positions: admitted
                    .positions
                    .iter()
                    .map(|at| at + u64::from(planted!(AckedElsewhere)))
                    .collect(),
            };
            effects.push(Effect::reply(peer, handle, &ack));
        }
        let Some(segment) = segment else { return };
        if let State::Ready(document) = &mut hosted.state {
            document.commit(admitted.cursor);
            document.add_log_bytes(segment.changes_bytes);
            if self.verifies && document.is_settled() {
                self.resumable.push(handle);
            }
        }
        hosted.pending_bytes = hosted.pending_bytes.saturating_sub(segment.changes_bytes as u64);
        self.faults.pass(&hosted.id, "commit");
        if let Some(tail) = &mut hosted.tail {
            tail.push(Arc::clone(&segment));
        }
        effects.push(Effect::Observe(Observation::Stored {
            peer,
            handle,
            is_first: admitted.after_seq == 0 && admitted.cursor.epoch == FIRST_EPOCH,
            last_seq: admitted.cursor.seq,
            changes: u32::try_from(admitted.fresh.len()).unwrap_or(u32::MAX),
            bytes: bytes as u64,
            received_us: segment.received_us,
        }));
        for &core in hosted.cores.keys() {
            let event = FeedEvent::Segment(Arc::clone(&segment));
            effects.push(Effect::Publish { core, handle, event });
        }
        self.used(handle);
        self.cut_if_due(handle, effects);
        self.delete_if_settled(handle, effects);
    }

    /// Storage failed: everything that is not durable is taken back and refused, and nothing more is taken.
    pub(super) fn commit_failed(&mut self, number: u64, why: String, effects: &mut Vec<Effect>) {
        if !self.batches.iter().any(|batch| batch.number == number) {
            // It was taken back when the first one failed, perhaps before storage was opened anew.
            return;
        }
        self.take_all_back(why, effects);
    }

    /// Storage takes writes again. What is under way was never stored, and nobody builds upon it.
    pub(super) fn storage_recovered(&mut self, documents: &[DocumentId], effects: &mut Vec<Effect>) {
        if !self.batches.is_empty() {
            self.take_all_back("it was opened anew".to_owned(), effects);
        }
        self.storage_failure = None;
        for document in documents {
            self.read_again(document, effects);
        }
    }

    fn take_all_back(&mut self, why: String, effects: &mut Vec<Effect>) {
        self.storage_failure = Some(why);
        self.deletions_failed(effects);
        let open = std::mem::take(&mut self.open_batch);
        let groups = self.drop_groups();
        let failed = self.batches.drain(..).chain([open]).flat_map(|batch| batch.entries);
        let failed: Vec<Entry> = failed.chain(groups).collect();
        for entry in failed.iter().rev() {
            let Entry::Push(pending) = entry else { continue };
            planted!(BuiltOnFailedCommit, { break });
            self.contained(entry.handle(), effects, |shard, _| shard.take_back(pending));
        }
        // The first of each generation speaks for those behind it. Each is told, even if a later push of its
        // generation was refused before: it waited for an answer all the same.
        let mut told = BTreeSet::new();
        for entry in failed {
            let is_first =
                entry.pushed().is_none_or(|pushed| told.insert((pushed.listener.stream, pushed.generation)));
            self.contained(entry.handle(), effects, |shard, effects| {
                shard.give_up(&entry, is_first, effects)
            });
        }
        self.reload_settled(effects);
    }

    pub(super) fn take_back(&mut self, pending: &Pending) {
        let Some(hosted) = self.hosted.get_mut(&pending.pushed.listener.handle) else { return };
        if let State::Ready(document) = &mut hosted.state {
            document.take_back(&pending.admitted);
        }
        let bytes = pending.segment.as_ref().map_or(0, |segment| segment.changes_bytes);
        hosted.pending_bytes = hosted.pending_bytes.saturating_sub(bytes as u64);
    }

    /// Answers what storage did not store; only the first of each generation is told.
    fn give_up(&mut self, entry: &Entry, is_first: bool, effects: &mut Vec<Effect>) {
        match entry {
            Entry::Push(Pending { pushed, .. }) | Entry::Refusal(pushed, _) if is_first => {
                self.refuse_for_storage(pushed, effects);
            }
            Entry::Push(Pending { pushed, .. }) | Entry::Refusal(pushed, _) => {
                planted!(PushNeverSettled, { return });
                effects.push(Effect::Settle { peer: pushed.listener.peer, bytes: pushed.bytes });
            }
            Entry::Clock(listener, _) => {
                let hosted = self.hosted.get(&listener.handle);
                let clock = |document: &Document| clock_frames(document, listener.handle);
                let frames = hosted.and_then(Hosted::document).map(clock).unwrap_or_default();
                self.answer_clock(listener, frames, effects);
            }
        }
    }
}

#[cfg(feature = "planted")]
impl Shard {
    /// What [`crate::planted::Fault::AckBeforeSync`] and [`crate::planted::Fault::RelayBeforeSync`] do.
    fn tell_early(&self, effects: &mut Vec<Effect>) {
        for entry in self.batches.iter().flat_map(|batch| &batch.entries) {
            let Entry::Push(Pending { pushed, admitted, segment: Some(segment) }) = entry else { continue };
            let Listener { peer, handle, .. } = pushed.listener;
            if planted!(AckBeforeSync) {
                let (after_seq, cursor) = (admitted.after_seq, admitted.cursor);
                let ack = Ack { push: pushed.push, after_seq, cursor, positions: admitted.positions.clone() };
                effects.push(Effect::reply(peer, handle, &ack));
                continue;
            }
            for &core in self.hosted.get(&handle).into_iter().flat_map(|hosted| hosted.cores.keys()) {
                let event = FeedEvent::Segment(Arc::clone(segment));
                effects.push(Effect::Publish { core, handle, event });
            }
        }
    }
}
