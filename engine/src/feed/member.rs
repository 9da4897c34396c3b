//! One member of a document on this core: its cursors.

use std::collections::BTreeMap;

use etherply_wire::Rights;

use super::presence::Seen;
use super::snapshot::Sending;
use crate::change::ActorId;
use crate::peer::{Peer, SessionId, StreamNumber};
use crate::segment::Segment;

/// Each actor's last change that a member has.
pub type Known = BTreeMap<ActorId, u64>;

/// What a member is sent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// What lies after this position.
    Position(u64),
    /// The document's snapshot, then what lies after it.
    Snapshot,
    /// Nothing, until it says what it has: its cursor belongs to another log.
    Reconcile,
}

/// Where a member begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberStart {
    /// The stream.
    pub stream: StreamNumber,
    /// The member's public name.
    pub session: SessionId,
    /// What it may have.
    pub rights: Rights,
    /// When that ends, in milliseconds since 1970; 0 for never.
    pub expires_ms: u64,
    /// What it is sent first.
    pub at: StartAt,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) peer: Peer,
    pub(super) stream: StreamNumber,
    pub(super) session: SessionId,
    pub(super) rights: Rights,
    pub(super) expires_ms: u64,
    /// Position up to which it has been sent the log.
    pub(super) seq: u64,
    /// Positions up to here come from the log; beyond, from the tail.
    pub(super) log_through: u64,
    /// A piece of the log, ready to be sent.
    pub(super) fill: Option<Segment>,
    /// It is being sent a snapshot, and nothing of the log before that is done.
    pub(super) snapshot: Option<Sending>,
    /// What it has of the piece of log that it is sent after a reconcile.
    pub(super) known: Option<Box<Known>>,
    pub(super) presence_seen: Seen,
    pub(super) broadcast_seen: u64,
    /// The log is being read for it.
    pub(super) reading: bool,
    /// It was woken and has not been gathered dry since.
    pub(super) ready: bool,
    pub(super) must_reconcile: bool,
}

impl Member {
    pub(super) fn new(peer: Peer, start: MemberStart, broadcast_seen: u64) -> Self {
        let begin = Sending { cursor: None, offset: 0 };
        Self {
            peer,
            stream: start.stream,
            session: start.session,
            rights: start.rights,
            expires_ms: start.expires_ms,
            seq: match start.at {
                StartAt::Position(seq) => seq + u64::from(planted!(CursorOffByOne)),
                _ => 0,
            },
            log_through: 0,
            fill: None,
            snapshot: (start.at == StartAt::Snapshot).then_some(begin),
            known: None,
            presence_seen: Seen::Nothing,
            broadcast_seen,
            reading: false,
            // Whoever attaches a member gathers for it at once.
            ready: true,
            must_reconcile: start.at == StartAt::Reconcile,
        }
    }

    /// Whether this is the member's own segment. If it has everything before, its cursor moves over it at
    /// once: a lone writer must not fall behind the tail, and be sent its own changes from the log.
    pub(super) fn pass_over(&mut self, segment: &Segment) -> bool {
        let is_own = segment.writer == Some(self.stream);
        let is_waiting = self.fill.is_some() || self.snapshot.is_some() || self.must_reconcile;
        if is_own && self.seq == segment.after_seq && !is_waiting {
            self.seq = segment.cursor.seq;
        }
        is_own
    }

    pub(super) fn reconciled(&mut self, known: Known, end_seq: u64) {
        self.must_reconcile = false;
        self.seq = 0;
        self.log_through = end_seq;
        self.known = Some(Box::new(known));
    }

    /// Notes that it has something to be sent; whether it was idle.
    pub(super) fn wake(&mut self) -> bool {
        !std::mem::replace(&mut self.ready, true)
    }
}
