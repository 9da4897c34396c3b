//! A panic while one document is worked on ends that document's members' streams, and nothing else. So do changes
//! in it that no member can digest, and a commit of which nobody knows whether it is stored.
//!
//! What the document held in memory can be half changed, so all of it is thrown away, and the document is read
//! back from the log once what is under way to the disk for it has arrived there. Nothing that was told to
//! anybody is lost by that: acks and deliveries are only given for what is in the log. Members open it again,
//! and push again what was not acked.

use std::panic::{AssertUnwindSafe, catch_unwind};

use etherply_wire::kinds::Close;
use etherply_wire::{ErrorCode, Kind};

use super::batch::Batch;
use super::effect::{Effect, Observation};
use super::hosted::Hosted;
use super::{Shard, refuse_request};
use crate::ids::DocumentId;
use crate::peer::Peer;

/// When a client should open a document again whose work panicked, or that is rebuilt.
pub const PANIC_RETRY_MS: u32 = 1_000;

/// Why a document's members lose their streams.
#[derive(Debug, Clone, Copy)]
struct Ending {
    code: ErrorCode,
    message: &'static str,
    /// It is rebuilt before it is read again.
    rebuilds: bool,
}

const PANICKED: Ending = Ending {
    code: ErrorCode::Internal,
    message: "a fault of the server's ended its work on this document: open it again, and push again what was \
              not acked",
    rebuilds: false,
};

const RESET: Ending = Ending {
    code: ErrorCode::DocumentReset,
    message: "this document begins anew, without a part of its history: open it again, and take it from its beginning",
    rebuilds: true,
};

const DOUBTFUL: Ending = Ending {
    code: ErrorCode::StorageUnavailable,
    message: "the server's storage failed and works again: open this document again, and push again what was not \
              acked",
    rebuilds: false,
};

/// A request that was taken out of where it waited, and is not in its next place yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InHand {
    Open {
        peer: Peer,
        request: u32,
    },
    Push {
        peer: Peer,
        bytes: usize,
    },
    /// A stream that is being ended, and may be forgotten already.
    Close {
        peer: Peer,
    },
}

impl Shard {
    /// Works on one document.
    pub(super) fn contained(
        &mut self,
        handle: u32,
        effects: &mut Vec<Effect>,
        work: impl FnOnce(&mut Self, &mut Vec<Effect>),
    ) {
        let mark = effects.len();
        // Whatever may be half changed by a panic is thrown away in `abandon`.
        let outcome = catch_unwind(AssertUnwindSafe(|| work(self, effects)));
        if outcome.is_err() {
            effects.push(Effect::Observe(Observation::Panicked));
            self.abandon(handle, mark, PANICKED, effects);
        }
        self.in_hand = None;
    }

    /// Ends the work on a document that holds what breaks it, and has it rebuilt.
    pub(super) fn quarantine(&mut self, document: &DocumentId, effects: &mut Vec<Effect>) {
        let handle = self.by_name.get(document).copied().unwrap_or_else(|| self.host_empty(document));
        self.abandon(handle, effects.len(), RESET, effects);
    }

    /// Reads a document again of which the log may have more than is known here.
    pub(super) fn read_again(&mut self, document: &DocumentId, effects: &mut Vec<Effect>) {
        if let Some(&handle) = self.by_name.get(document) {
            self.abandon(handle, effects.len(), DOUBTFUL, effects);
        }
    }

    /// Throws away what is in memory of a document, answers everybody who waits for it, and has it read again.
    /// Effects from `mark` on are those of the work that failed.
    fn abandon(&mut self, handle: u32, mark: usize, ending: Ending, effects: &mut Vec<Effect>) {
        self.recency.forget(handle);
        let Some(old) = self.hosted.remove(&handle) else { return };
        self.answer_in_hand(&old, handle, mark, ending, effects);
        self.drop_admitted(&old, handle, effects);
        self.presence_ends.retain(|(_, other, _)| *other != handle);
        self.peers.retain(|_, handles| {
            handles.remove(&handle);
            !handles.is_empty()
        });
        for request in old.waiting.into_values() {
            effects.push(Effect::OpenRefused { peer: request.peer });
            let (peer, number) = (request.peer, request.request);
            refuse_request(
                peer,
                0,
                (Kind::Open, number),
                ending.code,
                PANIC_RETRY_MS,
                ending.message,
                effects,
            );
        }
        for (peer, stream) in old.streams {
            self.expiries.forget(peer, handle, &stream.access);
            for parked in stream.parked {
                effects.push(Effect::Settle { peer, bytes: parked.bytes });
            }
            close(peer, handle, ending, effects);
        }
        for core in old.cores.into_keys() {
            effects.push(Effect::StopFeed { core, handle });
        }
        // Under a new handle: answers of the log and of the disk that still come for the old one are not taken
        // for the new one's.
        let fresh = self.host_empty(&old.id);
        if let Some(hosted) = self.hosted.get_mut(&fresh) {
            // Rebuilding that was asked for and did not begin is still due.
            hosted.is_rebuilt = ending.rebuilds || old.is_rebuilt;
            // Its tombstone may be on its way to the disk.
            hosted.deletion = old.deletion;
        }
        let is_under_way = |batch: &&Batch| batch.entries.iter().any(|entry| entry.handle() == handle);
        let last = self.batches.iter().rev().find(is_under_way).map(|batch| batch.number);
        let before =
            self.reloads.extract_if(.., |(_, other)| *other == handle).map(|(number, _)| number).max();
        match last.max(before) {
            Some(number) => self.reloads.push((number, fresh)),
            None => self.reload(fresh, effects),
        }
    }

    /// Reads documents again whose last appends before a panic have arrived on the disk, or never will.
    pub(super) fn reload_settled(&mut self, effects: &mut Vec<Effect>) {
        let oldest = self.batches.front().map_or(u64::MAX, |batch| batch.number);
        let due: Vec<u32> =
            self.reloads.extract_if(.., |(number, _)| *number < oldest).map(|(_, handle)| handle).collect();
        for handle in due {
            self.reload(handle, effects);
        }
    }

    fn reload(&self, handle: u32, effects: &mut Vec<Effect>) {
        if let Some(hosted) = self.hosted.get(&handle) {
            let document = hosted.id.clone();
            effects.push(if hosted.is_rebuilt {
                Effect::Rebuild { handle, document }
            } else {
                Effect::Load { handle, document }
            });
        }
    }

    fn answer_in_hand(
        &mut self,
        old: &Hosted,
        handle: u32,
        mark: usize,
        ending: Ending,
        effects: &mut Vec<Effect>,
    ) {
        match self.in_hand.take() {
            Some(InHand::Close { peer }) if !old.streams.contains_key(&peer) => {
                say_closed(peer, handle, ending, effects);
            }
            Some(InHand::Push { peer, bytes }) => effects.push(Effect::Settle { peer, bytes }),
            Some(InHand::Open { peer, request }) => {
                let of_it = |effect: &Effect| match effect {
                    Effect::Attach(attach) => attach.peer == peer && attach.handle == handle,
                    _ => false,
                };
                if effects.iter().skip(mark).any(of_it) {
                    close(peer, handle, ending, effects);
                    effects.push(Effect::StopFeed { core: peer.core, handle });
                } else {
                    effects.push(Effect::OpenRefused { peer });
                    let (code, message) = (ending.code, ending.message);
                    refuse_request(peer, 0, (Kind::Open, request), code, PANIC_RETRY_MS, message, effects);
                }
            }
            Some(InHand::Close { .. }) | None => {}
        }
    }

    /// What was admitted and is not on its way to the disk never goes there.
    fn drop_admitted(&mut self, old: &Hosted, handle: u32, effects: &mut Vec<Effect>) {
        self.open_batch.appends.retain(|append| append.document != old.id);
        self.held.remove(&handle);
        for (entry, _) in old.verification.iter().flat_map(|group| &group.entries) {
            if let Some(pushed) = entry.pushed() {
                effects.push(Effect::Settle { peer: pushed.listener.peer, bytes: pushed.bytes });
            }
        }
        self.open_batch.entries.retain(|entry| {
            let is_of_it = entry.handle() == handle;
            if let Some(pushed) = entry.pushed().filter(|_| is_of_it) {
                effects.push(Effect::Settle { peer: pushed.listener.peer, bytes: pushed.bytes });
            }
            !is_of_it
        });
    }
}

fn close(peer: Peer, handle: u32, ending: Ending, effects: &mut Vec<Effect>) {
    effects.push(Effect::Detach { peer, handle });
    say_closed(peer, handle, ending, effects);
}

fn say_closed(peer: Peer, handle: u32, ending: Ending, effects: &mut Vec<Effect>) {
    let close = Close { code: ending.code as u16, message: ending.message.to_owned() };
    effects.push(Effect::reply(peer, handle, &close));
}
