//! What a client tells the application.

use etherply_wire::ErrorCode;
use etherply_wire::kinds::{ArchivedChanges, ArchivedPresenceEntry, ClockEntry, Cursor};
use etherply_wire::rights::Rights;

use crate::client::StreamId;
use crate::outbox::Push;

/// Something that came from the server.
#[derive(Debug)]
pub enum Event<'a> {
    /// The server said welcome; every stream is being opened.
    Ready {
        /// Names this connection, and this member in presence and broadcasts.
        session: [u8; 16],
        /// The server's clock, in milliseconds since 1970.
        server_time_ms: u64,
    },
    /// A document is open.
    Opened {
        /// The stream.
        stream: StreamId,
        /// What it may do.
        rights: Rights,
        /// How it is brought up to date: see [`etherply_wire::kinds::resume`].
        resume: u8,
        /// When the grant ends, in milliseconds since 1970; 0 for never.
        expires_at_ms: u64,
        /// The document's last durable position. When a stream has seen this, it is up to date.
        cursor: Cursor,
    },
    /// A document could not be opened. The stream keeps its outbox until it is opened again or forgotten.
    OpenFailed {
        /// The stream.
        stream: StreamId,
        /// Why.
        fault: Fault<'a>,
        /// Whether the client opens it again by itself, because the server only refused it for a while.
        /// Otherwise the next connection tries once more, or [`crate::Client::reopen`].
        retries: bool,
    },
    /// Changes of other members, in the log's order.
    Changes {
        /// The stream.
        stream: StreamId,
        /// The changes.
        changes: Changes<'a>,
        /// How many of them stand at positions that this connection had delivered or acked. 0 but for a member that
        /// falls so far behind that it is sent the log, in which its own changes stand too; otherwise the server errs.
        duplicates: u64,
    },
    /// The document as a whole, in Automerge's format; what was received before is part of it.
    Snapshot {
        /// The stream.
        stream: StreamId,
        /// What it covers.
        cursor: Cursor,
        /// The document.
        bytes: Vec<u8>,
    },
    /// The document began anew without changes that broke it, and this member's copy is to be thrown away; comes
    /// before [`Event::Opened`]. The document is sent from its beginning. What this member wrote and the document
    /// lacks is for the application to write again: [`crate::Document`] does that.
    Reset {
        /// The stream.
        stream: StreamId,
        /// The document's last durable position: what it lacks shows when the stream has seen this.
        cursor: Cursor,
        /// The pushes that were not acked; the outbox holds them no longer, because they are built upon the copy.
        unacked: Vec<Push>,
    },
    /// The server's log is another than the one that this member knows. It waits for
    /// [`crate::Client::reconcile`] with this member's clock and what the server lacks.
    Reconcile {
        /// The stream.
        stream: StreamId,
        /// What the server has.
        clock: Vec<ClockEntry>,
    },
    /// A push is on the server's disk.
    Acked {
        /// The stream.
        stream: StreamId,
        /// The push; the outbox holds it no longer.
        push: Push,
        /// How many positions it added to the log: fewer than its changes if the server had them.
        added: u64,
    },
    /// A push was not taken. If `blocks`, nothing more is pushed until [`crate::Client::supply`] or
    /// [`crate::Client::give_back`]; otherwise it is sent again by itself.
    Refused {
        /// The stream.
        stream: StreamId,
        /// Number of the push.
        push: u64,
        /// Which of its changes, counted from 0.
        index: u32,
        /// Why.
        fault: Fault<'a>,
        /// Whether the application has to act.
        blocks: bool,
        /// What the server has: of every actor if `clock_complete`, else of those in the push.
        clock: Vec<ClockEntry>,
        /// Whether `clock` names every actor.
        clock_complete: bool,
        /// The server's first change of the document, where the push began it otherwise.
        genesis: &'a [u8],
    },
    /// What the stream may do changed.
    RightsChanged {
        /// The stream.
        stream: StreamId,
        /// The request of [`crate::Client::renew`] that this answers, 0 if none.
        request: u32,
        /// The rights from now on.
        rights: Rights,
        /// 0, or why rights ended.
        code: u16,
        /// When they end, in milliseconds since 1970; 0 for never.
        expires_at_ms: u64,
    },
    /// The stream ended: by this side's request, or because the server says so.
    Closed {
        /// The stream.
        stream: StreamId,
        /// Why; code 0 for this side's own request.
        fault: Fault<'a>,
        /// Whether the client opens it again by itself.
        retries: bool,
    },
    /// A request of a stream was refused; the stream goes on.
    Failed {
        /// The stream, `None` where it concerns the connection.
        stream: Option<StreamId>,
        /// The request, 0 if the frame had no number.
        request: u32,
        /// Why.
        fault: Fault<'a>,
    },
    /// Presence of members as it is now.
    Presence {
        /// The stream.
        stream: StreamId,
        /// Whether members that are not named are gone.
        full: bool,
        /// The members whose state is new.
        entries: Presences<'a>,
    },
    /// Members that are gone.
    PresenceLeft {
        /// The stream.
        stream: StreamId,
        /// Their sessions.
        members: &'a [[u8; 16]],
    },
    /// A message of a member.
    Broadcast {
        /// The stream.
        stream: StreamId,
        /// The session that sent it.
        member: [u8; 16],
        /// What it is about.
        topic: &'a str,
        /// The message.
        payload: &'a [u8],
    },
    /// Messages that this member was too slow for.
    BroadcastGap {
        /// The stream.
        stream: StreamId,
        /// How many.
        missing: u64,
    },
    /// Answer to [`crate::Client::ping`].
    Pong {
        /// The ping's number.
        nonce: u64,
    },
    /// The server will close the connection soon. What is acked is safe. [`crate::Client::disconnected`] tells
    /// when it wants to see this client again.
    GoingAway {
        /// Why.
        fault: Fault<'a>,
        /// Add a random time up to this before connecting again.
        retry_jitter_ms: u32,
    },
}

/// An error code with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault<'a> {
    /// The code's number; it may be of a newer server and not be known here.
    pub code: u16,
    /// Earliest time for another try, in milliseconds from now; 0 for at once, where it may help.
    pub retry_after_ms: u32,
    /// The reason for people.
    pub message: &'a str,
}

impl Fault<'_> {
    /// The code, if it is known.
    pub fn known(&self) -> Option<ErrorCode> {
        ErrorCode::from_number(self.code)
    }
}

impl std::fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.known() {
            Some(code) => write!(f, "{code}: {}", self.message),
            None => write!(f, "error {}: {}", self.code, self.message),
        }
    }
}

/// Members with their presence, borrowed from a frame.
#[derive(Clone, Copy)]
pub struct Presences<'a> {
    pub(crate) entries: &'a [ArchivedPresenceEntry],
    /// This client: what it set itself may stand in a frame that it shares with others, older than it is now.
    pub(crate) own: [u8; 16],
}

impl<'a> Presences<'a> {
    /// Each other member's session and state.
    pub fn iter(&self) -> impl Iterator<Item = ([u8; 16], &'a [u8])> + use<'a> {
        let own = self.own;
        let others = self.entries.iter().filter(move |entry| entry.member != own);
        others.map(|entry| (entry.member, entry.state.as_slice()))
    }
}

impl std::fmt::Debug for Presences<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Changes in a received frame: borrowed, nothing is copied.
#[derive(Clone, Copy)]
pub struct Changes<'a> {
    pub(crate) body: &'a ArchivedChanges,
    pub(crate) tail: &'a [u8],
}

impl<'a> Changes<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.body.lengths.len()
    }

    /// Whether there is none: a range of which the member has everything.
    pub fn is_empty(&self) -> bool {
        self.body.lengths.is_empty()
    }

    /// Each change's bytes, in the log's order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.tail;
        self.body.lengths.iter().map_while(move |length| {
            let (change, after) = rest.split_at_checked(length.to_native() as usize)?;
            rest = after;
            Some(change)
        })
    }

    /// All changes one behind the other, as Automerge loads them.
    pub fn joined(&self) -> &'a [u8] {
        self.tail
    }
}

impl std::fmt::Debug for Changes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
