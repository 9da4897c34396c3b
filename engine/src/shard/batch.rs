//! What was admitted and waits for the disk.

use std::sync::Arc;

use etherply_wire::kinds::Ack;

use super::Shard;
use super::effect::{Effect, Observation};
use super::hosted::State;
use crate::document::Admitted;
use crate::feed::FeedEvent;
use crate::log::Append;
use crate::peer::Peer;
use crate::segment::Segment;

/// Pushes that become durable together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) appends: Vec<Append>,
    pub(super) pushes: Vec<Pending>,
}

/// A push that was admitted.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) peer: Peer,
    pub(super) handle: u32,
    pub(super) push: u64,
    pub(super) generation: u32,
    pub(super) bytes: usize,
    pub(super) admitted: Admitted,
    /// What members are sent; none if the push brought nothing new.
    pub(super) segment: Option<Arc<Segment>>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.pushes.is_empty()
    }
}

impl Shard {
    /// Sends everything that was admitted since the last call on its way to the disk.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
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
            // Nothing but duplicates: acked when what they may duplicate is on disk.
            if self.batches.len() == 1 {
                self.committed(number, effects);
            }
        } else {
            effects.push(Effect::Commit { batch: number, appends });
        }
    }

    /// Everything up to this batch is durable: ack it and relay it.
    pub(super) fn committed(&mut self, number: u64, effects: &mut Vec<Effect>) {
        while self.batches.front().is_some_and(|batch| batch.number <= number) {
            let Some(batch) = self.batches.pop_front() else { break };
            for pending in batch.pushes {
                self.complete(pending, effects);
            }
        }
        // Batches of duplicates only have nothing to wait for but the one before them.
        let is_done = |batch: &Batch| batch.pushes.iter().all(|pending| pending.segment.is_none());
        while self.batches.front().is_some_and(is_done) {
            let Some(batch) = self.batches.pop_front() else { break };
            for pending in batch.pushes {
                self.complete(pending, effects);
            }
        }
    }

    fn complete(&mut self, pending: Pending, effects: &mut Vec<Effect>) {
        let Pending { peer, handle, push, bytes, admitted, segment, .. } = pending;
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        if hosted.streams.contains_key(&peer) {
            let ack = Ack {
                push,
                after_seq: admitted.after_seq,
                cursor: admitted.cursor,
                positions: admitted.positions,
            };
            effects.push(Effect::reply(peer, handle, &ack));
        }
        effects.push(Effect::Settle { peer, bytes });
        let Some(segment) = segment else { return };
        if let State::Ready(document) = &mut hosted.state {
            document.commit(admitted.cursor);
        }
        if let Some(tail) = &mut hosted.tail {
            tail.push(Arc::clone(&segment));
        }
        effects.push(Effect::Observe(Observation::Stored {
            changes: u32::try_from(admitted.fresh.len()).unwrap_or(u32::MAX),
            bytes: bytes as u64,
            received_us: segment.received_us,
        }));
        for &core in hosted.cores.keys() {
            let event = FeedEvent::Segment(Arc::clone(&segment));
            effects.push(Effect::Publish { core, handle, event });
        }
    }

    /// Storage failed: everything that is not durable is taken back and refused, and nothing more is taken.
    pub(super) fn commit_failed(&mut self, number: u64, why: String, effects: &mut Vec<Effect>) {
        debug_assert!(self.batches.front().is_none_or(|batch| batch.number == number));
        self.storage_failure = Some(why);
        let open = std::mem::take(&mut self.open_batch);
        let mut failed: Vec<Pending> = Vec::new();
        for batch in self.batches.drain(..).chain([open]) {
            failed.extend(batch.pushes);
        }
        for pending in failed.iter().rev() {
            let hosted = self.hosted.get_mut(&pending.handle);
            if let Some(State::Ready(document)) = hosted.map(|hosted| &mut hosted.state) {
                document.take_back(&pending.admitted);
            }
        }
        for pending in failed {
            self.refuse_for_storage(
                pending.peer,
                pending.handle,
                pending.push,
                pending.generation,
                pending.bytes,
                effects,
            );
        }
    }
}
