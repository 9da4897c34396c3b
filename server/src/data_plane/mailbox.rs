//! What cores and storage threads send one another.
//!
//! A mailbox has no bound of its own. What goes through it is bounded where it arises: a request from a
//! connection counts against [`super::limits::CORE_IN_FLIGHT_BYTES_MAX`] until it is answered, commits are
//! bounded by the pushes in them, and each member has at most one read of the log under way.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use etherply_engine::access::{Grant, Revocation};
use etherply_engine::change::ChangeHash;
use etherply_engine::document::Recovered;
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::{Deleted, Found, LogError};
use etherply_engine::peer::Peer;
use etherply_engine::shard::{Effect, FindFor, Input, OpenRequest, PushRequest, Unverified};
use etherply_engine::snapshot::{Snapshot, SnapshotRequest};
use etherply_wire::ErrorCode;
use etherply_wire::kinds::ClockEntry;

use super::effects::Fill;
use super::handover::Moving;
use crate::storage::snapshot::SnapshotRead;
use crate::throttle::Admission;

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopStage {
    /// Tell clients, read nothing more, let what is under way become durable and be sent.
    Drain,
    /// Close everything and end.
    End,
}

/// A message to a core.
#[derive(Debug)]
pub enum Message {
    /// A new connection.
    Adopt(OwnedFd, Admission),
    /// A connection of another core, which opens a document whose home is here.
    Move(Box<Moving>),
    /// A request of another core's connection to a document whose home is here.
    Request(Request),
    /// An effect of another core's shard.
    Effect(Effect),
    /// An operator deletes a document whose home is here.
    Delete {
        /// The document.
        document: DocumentId,
        /// Who gets the outcome.
        answer: flume::Sender<Result<Deleted, LogError>>,
    },
    /// A document's tombstone is durable, or is not.
    Deleted {
        /// The document.
        document: DocumentId,
        /// What was found.
        result: Result<Deleted, LogError>,
    },
    /// A document was read from the log.
    Loaded {
        /// Its handle.
        handle: u32,
        /// The document.
        result: Box<Result<Recovered, LogError>>,
    },
    /// A document holds changes that break it.
    Quarantine(DocumentId),
    /// A document has begun anew without what broke it, or could not.
    Rebuilt {
        /// Its handle.
        handle: u32,
        /// The document.
        document: DocumentId,
        /// How it went.
        result: Result<(), LogError>,
    },
    /// Grants are taken back, durably. Each core says so to all behind what it sent them before: an open that it
    /// let through earlier is at its document's home by then.
    Revoke(Arc<Revocation>),
    /// See [`Message::Revoke`].
    Revoked(Arc<Revocation>),
    /// Changes were held against their document.
    Verified {
        /// Its handle.
        handle: u32,
        /// The group's number.
        number: u64,
        /// How it went.
        result: Result<(), Unverified>,
    },
    /// The commit thread takes jobs again.
    Room,
    /// A snapshot was cut, or could not be.
    SnapshotCut {
        /// The document's handle.
        handle: u32,
        /// The document.
        document: DocumentId,
        /// The snapshot.
        result: Result<Snapshot, LogError>,
    },
    /// A piece of a snapshot was read for this core's feed.
    SnapshotRead {
        /// The document's handle.
        handle: u32,
        /// What was asked for.
        request: SnapshotRequest,
        /// What came of it.
        result: Result<SnapshotRead, LogError>,
    },
    /// Changes were looked up in the log.
    Found {
        /// The document's handle.
        handle: u32,
        /// Who waits for it.
        peer: Peer,
        /// What for.
        asked_for: FindFor,
        /// Where they stand.
        result: Result<Vec<(ChangeHash, Option<Found>)>, LogError>,
    },
    /// The chain at a position was read.
    ChainRead {
        /// The document's handle.
        handle: u32,
        /// Who waits for it.
        peer: Peer,
        /// The chain.
        result: Result<Option<ChainHash>, LogError>,
    },
    /// A piece of the log was read for a member of this core.
    Filled {
        /// The document's handle.
        handle: u32,
        /// The member's number in the feed.
        number: u32,
        /// The member.
        peer: Peer,
        /// What came of it.
        result: Result<Fill, LogError>,
    },
    /// A batch of this core's shard is durable, or failed.
    Committed {
        /// Its number.
        batch: u64,
        /// How it went.
        outcome: Result<(), LogError>,
    },
    /// The log was opened again after a failure.
    StorageRecovered {
        /// How often so far.
        era: u64,
        /// Documents of which it is not known whether their last changes are stored.
        documents: Arc<[DocumentId]>,
    },
    /// The server stops.
    Stop(StopStage),
    /// Everything that a turn of another core has for this one, in its order.
    Several(Vec<Message>),
}

impl Message {
    /// How many messages it is.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Several(messages) => messages.len(),
            _ => 1,
        }
    }
}

/// A request with bytes of its own.
#[derive(Debug)]
pub enum Request {
    /// See [`Input::Open`].
    Open(OpenRequest),
    /// See [`Input::Push`].
    Push {
        /// Everything but the bytes.
        peer: Peer,
        /// The document.
        handle: u32,
        /// The push's number.
        push: u64,
        /// Its generation.
        generation: u32,
        /// Bytes of each change.
        lengths: Vec<u32>,
        /// The changes.
        changes: Vec<u8>,
    },
    /// See [`Input::Reconcile`].
    Reconcile {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// More entries follow.
        more: bool,
        /// The entries.
        clock: Vec<ClockEntry>,
    },
    /// See [`Input::PresenceSet`].
    PresenceSet {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// How long it holds.
        ttl_ms: u32,
        /// The state.
        state: Vec<u8>,
    },
    /// See [`Input::PresenceLeave`].
    PresenceLeave {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
    },
    /// See [`Input::Broadcast`].
    Broadcast {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// The topic.
        topic: String,
        /// The payload.
        payload: Vec<u8>,
    },
    /// See [`Input::Fail`].
    Fail {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// Why.
        code: ErrorCode,
        /// The same for people.
        message: String,
    },
    /// See [`Input::Renew`].
    Renew {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
        /// What the answer repeats.
        request: u32,
        /// The new grant.
        grant: Grant,
    },
    /// See [`Input::Close`].
    Close {
        /// The connection.
        peer: Peer,
        /// The document.
        handle: u32,
    },
    /// See [`Input::Disconnected`].
    Disconnected {
        /// The connection.
        peer: Peer,
    },
}

impl Request {
    /// Copies what a connection asks, to be sent to another core. `None` for what no connection asks.
    pub(super) fn of(input: Input<'_>) -> Option<Self> {
        Some(match input {
            Input::Open(open) => Self::Open(open),
            Input::Push(PushRequest { peer, handle, push, generation, lengths, changes }) => Self::Push {
                peer,
                handle,
                push,
                generation,
                lengths: lengths.to_vec(),
                changes: changes.to_vec(),
            },
            Input::Reconcile { peer, handle, more, clock } => Self::Reconcile { peer, handle, more, clock },
            Input::PresenceSet { peer, handle, ttl_ms, state } => {
                Self::PresenceSet { peer, handle, ttl_ms, state: state.to_vec() }
            }
            Input::PresenceLeave { peer, handle } => Self::PresenceLeave { peer, handle },
            Input::Broadcast { peer, handle, topic, payload } => {
                Self::Broadcast { peer, handle, topic: topic.to_owned(), payload: payload.to_vec() }
            }
            Input::Fail { peer, handle, code, message } => Self::Fail { peer, handle, code, message },
            Input::Renew { peer, handle, request, grant } => Self::Renew { peer, handle, request, grant },
            Input::Close { peer, handle } => Self::Close { peer, handle },
            Input::Disconnected { peer } => Self::Disconnected { peer },
            _ => return None,
        })
    }

    /// The request as the shard takes it, and what to settle for it behind it: pushes settle themselves.
    pub(super) fn input(&mut self) -> (Input<'_>, Option<(Peer, usize)>) {
        match self {
            Self::Open(open) => (Input::Open(open.clone()), None),
            Self::Push { peer, handle, push, generation, lengths, changes } => {
                let request = PushRequest {
                    peer: *peer,
                    handle: *handle,
                    push: *push,
                    generation: *generation,
                    lengths,
                    changes,
                };
                (Input::Push(request), None)
            }
            Self::Reconcile { peer, handle, more, clock } => {
                let bytes = request_bytes(clock.len() * size_of::<ClockEntry>());
                let clock = std::mem::take(clock);
                (Input::Reconcile { peer: *peer, handle: *handle, more: *more, clock }, Some((*peer, bytes)))
            }
            Self::PresenceSet { peer, handle, ttl_ms, state } => {
                let settle = Some((*peer, request_bytes(state.len())));
                (Input::PresenceSet { peer: *peer, handle: *handle, ttl_ms: *ttl_ms, state }, settle)
            }
            Self::PresenceLeave { peer, handle } => {
                (Input::PresenceLeave { peer: *peer, handle: *handle }, Some((*peer, request_bytes(0))))
            }
            Self::Broadcast { peer, handle, topic, payload } => {
                let settle = Some((*peer, request_bytes(topic.len() + payload.len())));
                (Input::Broadcast { peer: *peer, handle: *handle, topic, payload }, settle)
            }
            Self::Fail { peer, handle, code, message } => {
                let message = std::mem::take(message);
                let fail = Input::Fail { peer: *peer, handle: *handle, code: *code, message };
                (fail, Some((*peer, request_bytes(0))))
            }
            Self::Renew { peer, handle, request, grant } => {
                let renew =
                    Input::Renew { peer: *peer, handle: *handle, request: *request, grant: grant.clone() };
                (renew, Some((*peer, request_bytes(0))))
            }
            Self::Close { peer, handle } => {
                (Input::Close { peer: *peer, handle: *handle }, Some((*peer, request_bytes(0))))
            }
            Self::Disconnected { peer } => (Input::Disconnected { peer: *peer }, None),
        }
    }

    /// The connection that asks.
    pub(super) fn peer(&self) -> Peer {
        match self {
            Self::Open(open) => open.peer,
            Self::Push { peer, .. }
            | Self::Reconcile { peer, .. }
            | Self::PresenceSet { peer, .. }
            | Self::PresenceLeave { peer, .. }
            | Self::Broadcast { peer, .. }
            | Self::Fail { peer, .. }
            | Self::Renew { peer, .. }
            | Self::Close { peer, .. }
            | Self::Disconnected { peer } => *peer,
        }
    }

    /// What it counts while it is under way, `None` if it is not counted or counts itself.
    pub(super) fn counted_bytes(&self) -> Option<usize> {
        match self {
            Self::Open(_) | Self::Push { .. } | Self::Disconnected { .. } => None,
            Self::Reconcile { clock, .. } => Some(request_bytes(clock.len() * size_of::<ClockEntry>())),
            Self::PresenceSet { state, .. } => Some(request_bytes(state.len())),
            Self::Broadcast { topic, payload, .. } => Some(request_bytes(topic.len() + payload.len())),
            Self::PresenceLeave { .. } | Self::Fail { .. } | Self::Renew { .. } | Self::Close { .. } => {
                Some(request_bytes(0))
            }
        }
    }
}

fn request_bytes(payload_bytes: usize) -> usize {
    super::limits::REQUEST_OVERHEAD_BYTES + payload_bytes
}

/// The way to a core.
#[derive(Debug, Clone)]
pub struct Mailbox(flume::Sender<Message>);

impl Mailbox {
    /// A mailbox and what it fills.
    pub fn new() -> (Self, flume::Receiver<Message>) {
        let (sender, receiver) = flume::unbounded();
        (Self(sender), receiver)
    }

    /// Sends. A core that has ended takes no more messages, which is no error: it is part of a stop.
    pub fn send(&self, message: Message) {
        drop(self.0.send(message));
    }
}

/// The ways to all cores, by their numbers.
pub type Mailboxes = Arc<[Mailbox]>;

/// What a core's turn has for other cores. It goes out at the turn's end, one message a core whatever there is,
/// so that a core is woken once, and a thousand effects cost one pass through its queue.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: Vec<Vec<Message>>,
    mailboxes: Mailboxes,
}

impl Outbox {
    pub(super) fn new(mailboxes: Mailboxes) -> Self {
        Self { waiting: mailboxes.iter().map(|_| Vec::new()).collect(), mailboxes }
    }

    /// Puts something in. A core that does not exist gets nothing.
    pub(super) fn put(&mut self, core: u16, message: Message) {
        if let Some(waiting) = self.waiting.get_mut(usize::from(core)) {
            waiting.push(message);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().all(Vec::is_empty)
    }

    /// Sends everything.
    pub(super) fn send(&mut self) {
        for (waiting, mailbox) in self.waiting.iter_mut().zip(self.mailboxes.iter()) {
            match waiting.len() {
                0 => {}
                1 => waiting.drain(..).for_each(|message| mailbox.send(message)),
                _ => mailbox.send(Message::Several(std::mem::take(waiting))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_turn_has_for_a_core_is_one_message_in_its_order() {
        let (mailboxes, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| Mailbox::new()).unzip();
        let mut outbox = Outbox::new(mailboxes.into());
        let committed = |batch| Message::Committed { batch, outcome: Ok(()) };
        for batch in 0..3 {
            outbox.put(1, committed(batch));
        }
        outbox.put(2, committed(9));
        outbox.put(3, committed(10));
        assert!(!outbox.is_empty() && receivers.iter().all(flume::Receiver::is_empty));
        outbox.send();
        outbox.send();
        assert!(outbox.is_empty());
        let received: Vec<Vec<Message>> =
            receivers.iter().map(|receiver| receiver.drain().collect()).collect();
        let [first, second, third] = received.as_slice() else { unreachable!() };
        assert!(first.is_empty());
        let [several @ Message::Several(messages)] = second.as_slice() else { panic!("{second:?}") };
        let batch = |message: &Message| match message {
            Message::Committed { batch, .. } => *batch,
            _ => u64::MAX,
        };
        assert_eq!((several.count(), messages.iter().map(batch).collect::<Vec<_>>()), (3, vec![0, 1, 2]));
        assert_eq!(
            third.iter().map(|message| (message.count(), batch(message))).collect::<Vec<_>>(),
            [(1, 9)]
        );
    }
}
