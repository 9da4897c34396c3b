//! Feeds: what the members on one core are sent.
//!
//! A core has one feed for each document that its connections have open: the document's tail, a copy of its
//! presence table, its latest broadcasts, and for each member three cursors into them. Nothing is queued for
//! a member. When its socket takes bytes, [`Feeds::gather`] hands out what lies after its cursors, up to a
//! quantum, and moves them. What the tail no longer has is read back from the log, one piece at a time.

mod broadcasts;
mod gather;
mod member;

pub use gather::{Gathered, ReadRequest};
pub use member::{Known, MemberStart};

use std::collections::BTreeMap;
use std::sync::Arc;

use etherply_wire::Rights;
use etherply_wire::kinds::Cursor;

use crate::change::{ChangeLimits, parse_header};
use crate::faults::Faults;
use crate::ids::DocumentId;
use crate::outgoing::Outgoing;
use crate::peer::Peer;
use crate::presence::{PresenceChange, PresenceTable};
use crate::record::Record;
use crate::segment::{Segment, Tail};
use broadcasts::Broadcasts;
pub use broadcasts::Sent;
use member::Member;

/// Most bytes that a member is sent in one turn before the others have theirs.
pub const QUANTUM_BYTES: usize = 64 * 1024;
/// Bytes of changes that are read back from the log for a member at once.
pub const FILL_BYTES_MAX: usize = 64 * 1024;

/// What a core is given when its first member opens a document.
#[derive(Debug, Clone)]
pub struct FeedStart {
    /// The document.
    pub document: DocumentId,
    /// Its newest segments.
    pub tail: Tail,
    /// Its presence table.
    pub presence: PresenceTable,
    /// Number of its last broadcast.
    pub broadcast_index: u64,
}

/// What happened to a document, for the cores that have members.
#[derive(Debug, Clone)]
pub enum FeedEvent {
    /// A push is durable.
    Segment(Arc<Segment>),
    /// A member's presence changed.
    Presence(PresenceChange),
    /// A member broadcast something.
    Broadcast(Arc<Sent>),
}

#[derive(Debug)]
struct Feed {
    document: DocumentId,
    tail: Tail,
    presence: PresenceTable,
    /// The latest presence frame, with the version before and behind it: most members are equally far.
    presence_frame: Option<(u64, u64, Vec<Outgoing>)>,
    broadcasts: Broadcasts,
    members: Vec<Option<Member>>,
    free: Vec<u32>,
}

/// All feeds of one core.
#[derive(Debug, Default)]
pub struct Feeds {
    feeds: BTreeMap<u32, Feed>,
    faults: Faults,
}

impl Feeds {
    /// No feeds.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on, panics on purpose.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// How many documents have members here.
    pub fn len(&self) -> usize {
        self.feeds.len()
    }

    /// Whether no document has members here.
    pub fn is_empty(&self) -> bool {
        self.feeds.is_empty()
    }

    /// Begins a feed.
    pub fn start(&mut self, handle: u32, start: FeedStart) {
        let feed = Feed {
            document: start.document,
            tail: start.tail,
            presence: start.presence,
            presence_frame: None,
            broadcasts: Broadcasts::new(start.broadcast_index),
            members: Vec::new(),
            free: Vec::new(),
        };
        self.feeds.insert(handle, feed);
    }

    /// Ends a feed, whose last member is gone.
    pub fn stop(&mut self, handle: u32) {
        self.feeds.remove(&handle);
    }

    /// Adds a member. Its number is valid until [`Feeds::detach`]; `None` if there is no such feed.
    pub fn attach(&mut self, handle: u32, peer: Peer, start: MemberStart) -> Option<u32> {
        let feed = self.feeds.get_mut(&handle)?;
        let member = Member::new(peer, start, feed.broadcasts.last());
        match feed.free.pop() {
            Some(number) => {
                *feed.members.get_mut(number as usize)? = Some(member);
                Some(number)
            }
            None => {
                feed.members.push(Some(member));
                u32::try_from(feed.members.len() - 1).ok()
            }
        }
    }

    /// Removes a member.
    pub fn detach(&mut self, handle: u32, number: u32, peer: Peer) {
        let Some(feed) = self.feeds.get_mut(&handle) else { return };
        let Some(slot) = feed.members.get_mut(number as usize) else { return };
        if slot.as_ref().is_some_and(|member| member.peer == peer) {
            *slot = None;
            feed.free.push(number);
        }
    }

    /// Takes over what happened, and calls `wake(peer, number)` for each member that was idle and has
    /// something to be sent now.
    pub fn publish(&mut self, handle: u32, event: FeedEvent, mut wake: impl FnMut(Peer, u32)) {
        let Some(feed) = self.feeds.get_mut(&handle) else { return };
        let (needs, segment, sender) = match &event {
            FeedEvent::Segment(segment) => (Rights::READ, Some(Arc::clone(segment)), None),
            FeedEvent::Presence(_) => (Rights::PRESENCE, None, None),
            FeedEvent::Broadcast(sent) => (Rights::PRESENCE, None, Some(sent.from)),
        };
        self.faults.pass(&feed.document, "publish");
        match event {
            FeedEvent::Segment(segment) => feed.tail.push(segment),
            FeedEvent::Presence(change) => feed.presence.apply(&change),
            FeedEvent::Broadcast(sent) => feed.broadcasts.push(sent),
        }
        for (number, member) in (0_u32..).zip(&mut feed.members) {
            let Some(member) = member else { continue };
            let is_own = match &segment {
                Some(segment) => member.pass_over(segment),
                None => sender == Some(member.peer),
            };
            if is_own || member.ready || !member.rights.has(needs) {
                continue;
            }
            member.ready = true;
            wake(member.peer, number);
        }
    }

    /// Hands a member records that were read back for it. Returns whether it was idle and has something to be
    /// sent now.
    pub fn fill(&mut self, handle: u32, number: u32, peer: Peer, records: &[Record]) -> bool {
        let Some(feed) = self.feeds.get_mut(&handle) else { return false };
        let epoch = feed.tail.end().epoch;
        let Some(member) = feed.member(number, peer) else { return false };
        member.reading = false;
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return false };
        if first.seq != member.seq + 1 || member.must_reconcile {
            // Read for where the member stood before it began anew: what it lacks now has to be read again.
            return !std::mem::replace(&mut member.ready, true);
        }
        let cursor = Cursor { epoch, seq: last.seq, chain: last.chain.0 };
        let is_lacking = |record: &&Record| match &member.known {
            Some(known) => !known_to(known, record),
            None => true,
        };
        let lacking: Vec<&Record> = records.iter().filter(is_lacking).collect();
        let length = |record: &&Record| u32::try_from(record.change.len()).unwrap_or(u32::MAX);
        let lengths = lacking.iter().map(length).collect();
        let changes: Vec<&[u8]> = lacking.iter().map(|record| &*record.change).collect();
        member.fill = Some(Segment::new(handle, member.seq, cursor, lengths, &changes, None, 0));
        !std::mem::replace(&mut member.ready, true)
    }

    /// A member that had to say first what it has (after a cursor that did not fit) may be sent now what it
    /// lacks. Returns whether it was idle and has something to be sent now.
    pub fn reconciled(&mut self, handle: u32, number: u32, peer: Peer, known: Known) -> bool {
        let Some(feed) = self.feeds.get_mut(&handle) else { return false };
        let end = feed.tail.end().seq;
        let Some(member) = feed.member(number, peer) else { return false };
        member.reconciled(known, end);
        !std::mem::replace(&mut member.ready, true)
    }
}

fn known_to(known: &Known, record: &Record) -> bool {
    parse_header(&record.change, &ChangeLimits::DEFAULT)
        .is_ok_and(|change| known.get(change.actor).is_some_and(|&seq| change.seq <= seq))
}

impl Feed {
    fn member(&mut self, number: u32, peer: Peer) -> Option<&mut Member> {
        self.members.get_mut(number as usize)?.as_mut().filter(|member| member.peer == peer)
    }
}
