//! One member of a document on this core: its cursors.

use std::collections::BTreeMap;

use etherply_wire::Rights;

use crate::change::ActorId;
use crate::peer::{Peer, StreamNumber};
use crate::segment::Segment;

/// Each actor's last change that a member has.
pub type Known = BTreeMap<ActorId, u64>;

/// Where a member begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberStart {
    /// The stream.
    pub stream: StreamNumber,
    /// What it may have.
    pub rights: Rights,
    /// The position up to which it has the log.
    pub seq: u64,
    /// It has to say first what it has: its cursor belongs to another log.
    pub must_reconcile: bool,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) peer: Peer,
    pub(super) stream: StreamNumber,
    pub(super) rights: Rights,
    /// Position up to which it has been sent the log.
    pub(super) seq: u64,
    /// Positions up to here come from the log; beyond, from the tail.
    pub(super) log_through: u64,
    /// A piece of the log, ready to be sent.
    pub(super) fill: Option<Segment>,
    /// What it has of the piece of log that it is sent after a reconcile.
    pub(super) known: Option<Box<Known>>,
    pub(super) presence_seen: u64,
    pub(super) broadcast_seen: u64,
    /// The log is being read for it.
    pub(super) reading: bool,
    /// It was woken and has not been gathered dry since.
    pub(super) ready: bool,
    pub(super) must_reconcile: bool,
}

impl Member {
    pub(super) fn new(peer: Peer, start: MemberStart, broadcast_seen: u64) -> Self {
        Self {
            peer,
            stream: start.stream,
            rights: start.rights,
            seq: start.seq,
            log_through: 0,
            fill: None,
            known: None,
            presence_seen: 0,
            broadcast_seen,
            reading: false,
            // Whoever attaches a member gathers for it at once.
            ready: true,
            must_reconcile: start.must_reconcile,
        }
    }

    /// Whether this is the member's own segment. If it has everything before, its cursor moves over it at
    /// once: a lone writer must not fall behind the tail, and be sent its own changes from the log.
    pub(super) fn pass_over(&mut self, segment: &Segment) -> bool {
        let is_own = segment.writer == Some(self.stream);
        if is_own && self.seq == segment.after_seq && self.fill.is_none() && !self.must_reconcile {
            self.seq = segment.cursor.seq;
        }
        is_own
    }

    pub(super) fn reconciled(&mut self, known: Known, end_seq: u64) {
        self.must_reconcile = false;
        self.seq = 0;
        self.log_through = end_seq;
        // Of where it stood before. An answer of the log that is still under way will not fit either.
        self.fill = None;
        self.known = Some(Box::new(known));
    }
}
