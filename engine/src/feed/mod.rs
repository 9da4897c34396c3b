//! Feeds: what the members on one core are sent.
//!
//! A core has one feed for each document that its connections have open: the document's tail, a copy of its
//! presence table, its latest broadcasts, and for each member three cursors into them. Nothing is queued for
//! a member. When its socket takes bytes, [`Feeds::gather`] hands out what lies after its cursors, up to a
//! quantum, and moves them. What the tail no longer has is read back from the log, one piece at a time.

mod broadcasts;
mod gather;
mod member;
mod presence;
mod rights;
mod snapshot;

pub use gather::{Gathered, ReadRequest};
pub use member::{Known, MemberStart, StartAt};
pub use presence::PRESENCE_PIECES_BYTES_MAX;
pub use snapshot::{FEED_SNAPSHOT_BYTES_MAX, FEEDS_SNAPSHOT_BYTES_MAX};

use std::collections::BTreeMap;
use std::sync::Arc;

use etherply_wire::Rights;
use etherply_wire::kinds::Cursor;

use crate::change::{ChangeLimits, parse_header};
use crate::faults::Faults;
use crate::ids::DocumentId;
use crate::peer::Peer;
use crate::presence::{PresenceChange, PresenceTable};
use crate::recency::Recency;
use crate::record::Record;
use crate::segment::{Segment, Tail};
use crate::snapshot::{Chunk, Snapshot};
use broadcasts::Broadcasts;
pub use broadcasts::Sent;
use member::Member;
use presence::Presence;
use rights::Expiries;
use snapshot::{Sending, SnapshotFeed};

/// Most bytes that a member is sent in one turn before the others have theirs.
pub const QUANTUM_BYTES: usize = 64 * 1024;
/// Bytes of changes that are read back from the log for a member at once.
pub const FILL_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of tails that a core keeps for all of its feeds. Beyond, those that were written least recently
/// are let go; members that still need them are sent the log.
pub const FEEDS_TAIL_BYTES_MAX: usize = 128 * 1024 * 1024;

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
    /// Its snapshot.
    pub snapshot: Option<Snapshot>,
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
    /// A snapshot takes the place of the one before.
    Snapshot(Snapshot),
}

#[derive(Debug)]
struct Feed {
    document: DocumentId,
    tail: Tail,
    presence: Presence,
    broadcasts: Broadcasts,
    snapshot: SnapshotFeed,
    members: Vec<Option<Member>>,
    free: Vec<u32>,
    /// A member that takes part in presence may be idle: only then is anybody to be woken.
    has_idle: bool,
}

/// All feeds of one core.
#[derive(Debug)]
pub struct Feeds {
    feeds: BTreeMap<u32, Feed>,
    faults: Faults,
    /// Feeds by the last change, with the bytes of their tails.
    recency: Recency,
    /// When members' rights end.
    expiries: Expiries,
    /// Bytes of snapshots that are kept for members.
    snapshot_bytes: usize,
    tail_bytes_max: usize,
    snapshot_bytes_max: usize,
}

impl Default for Feeds {
    fn default() -> Self {
        Self::new()
    }
}

impl Feeds {
    /// No feeds.
    pub fn new() -> Self {
        Self {
            feeds: BTreeMap::new(),
            faults: Faults::default(),
            recency: Recency::default(),
            expiries: Expiries::default(),
            snapshot_bytes: 0,
            tail_bytes_max: FEEDS_TAIL_BYTES_MAX,
            snapshot_bytes_max: FEEDS_SNAPSHOT_BYTES_MAX,
        }
    }

    /// The same with other limits than [`FEEDS_TAIL_BYTES_MAX`] and [`FEEDS_SNAPSHOT_BYTES_MAX`].
    #[must_use]
    pub fn with_limits(mut self, tail_bytes_max: usize, snapshot_bytes_max: usize) -> Self {
        (self.tail_bytes_max, self.snapshot_bytes_max) = (tail_bytes_max, snapshot_bytes_max);
        self
    }

    /// From now on, panics on purpose.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// How many documents have members here.
    pub fn len(&self) -> usize {
        self.feeds.len()
    }

    /// How many members a document has here.
    pub fn members(&self, handle: u32) -> usize {
        self.feeds.get(&handle).map_or(0, |feed| feed.members.len() - feed.free.len())
    }

    /// Whether no document has members here.
    pub fn is_empty(&self) -> bool {
        self.feeds.is_empty()
    }

    /// Bytes of all tails.
    pub fn tail_bytes(&self) -> usize {
        self.recency.bytes()
    }

    /// How many documents hold these. One may hold more than the limit by itself.
    pub fn tail_documents(&self) -> usize {
        self.recency.holders()
    }

    /// Bytes of snapshots that are kept for members.
    pub fn snapshot_bytes(&self) -> usize {
        self.snapshot_bytes
    }

    /// Begins a feed.
    pub fn start(&mut self, handle: u32, start: FeedStart) {
        self.stop(handle);
        let feed = Feed {
            document: start.document,
            tail: start.tail,
            presence: Presence::new(start.presence),
            broadcasts: Broadcasts::new(start.broadcast_index),
            snapshot: SnapshotFeed::new(start.snapshot),
            members: Vec::new(),
            free: Vec::new(),
            has_idle: false,
        };
        let tail_bytes = feed.tail.bytes();
        self.feeds.insert(handle, feed);
        self.tail_grew(handle, tail_bytes);
    }

    /// Ends a feed, whose last member is gone.
    pub fn stop(&mut self, handle: u32) {
        self.recency.forget(handle);
        if let Some(feed) = self.feeds.remove(&handle) {
            self.snapshot_bytes -= feed.snapshot.bytes();
            for (number, member) in (0..).zip(&feed.members) {
                let expires_ms = member.as_ref().map_or(0, |member| member.expires_ms);
                self.expiries.remove(expires_ms, handle, number);
            }
        }
    }

    /// Makes room for a tail that has grown.
    fn tail_grew(&mut self, handle: u32, bytes: usize) {
        self.recency.used(handle, bytes);
        planted!(TailBudgetIgnored, { return });
        while let Some(oldest) = self.recency.pop_beyond(self.tail_bytes_max) {
            if let Some(feed) = self.feeds.get_mut(&oldest) {
                feed.tail.clear();
            }
        }
    }

    /// Adds a member. Its number is valid until [`Feeds::detach`]; `None` if there is no such feed.
    pub fn attach(&mut self, handle: u32, peer: Peer, start: MemberStart) -> Option<u32> {
        let feed = self.feeds.get_mut(&handle)?;
        let member = Member::new(peer, start, feed.broadcasts.last());
        if member.snapshot.is_some() {
            feed.snapshot.joined();
        }
        let number = match feed.free.pop() {
            Some(number) => {
                *feed.members.get_mut(number as usize)? = Some(member);
                number
            }
            None => {
                feed.members.push(Some(member));
                u32::try_from(feed.members.len() - 1).ok()?
            }
        };
        self.expiries.add(start.expires_ms, handle, number);
        Some(number)
    }

    /// Removes a member.
    pub fn detach(&mut self, handle: u32, number: u32, peer: Peer) {
        let Some(feed) = self.feeds.get_mut(&handle) else { return };
        let Some(slot) = feed.members.get_mut(number as usize) else { return };
        if let Some(member) = slot.take_if(|member| member.peer == peer) {
            feed.free.push(number);
            self.expiries.remove(member.expires_ms, handle, number);
            if member.snapshot.is_some() {
                self.snapshot_bytes -= feed.snapshot.bytes();
                feed.snapshot.left();
                self.snapshot_bytes += feed.snapshot.bytes();
            }
        }
    }

    /// Takes over what happened, and calls `wake(peer, number)` for each member that was idle and has
    /// something to be sent now.
    pub fn publish(&mut self, handle: u32, event: FeedEvent, wake: impl FnMut(Peer, u32)) {
        let Some(feed) = self.feeds.get_mut(&handle) else { return };
        self.faults.pass(&feed.document, "publish");
        match event {
            FeedEvent::Segment(segment) => {
                feed.tail.push(Arc::clone(&segment));
                feed.wake(wake, |member| !member.pass_over(&segment) && member.rights.has(Rights::READ));
                let tail_bytes = feed.tail.bytes();
                self.tail_grew(handle, tail_bytes);
            }
            FeedEvent::Presence(change) => {
                feed.presence.apply(&change);
                feed.wake_present(wake, |member| member.session != change.member);
            }
            FeedEvent::Broadcast(sent) => {
                let from = sent.from;
                feed.broadcasts.push(sent);
                feed.wake_present(wake, |member| member.peer != from);
            }
            FeedEvent::Snapshot(latest) => self.snapshot_replaced(handle, latest, wake),
        }
    }

    /// A newer snapshot took the place of the one that members are being sent: they are sent it from its beginning.
    /// Calls `wake(peer, number)` as [`Feeds::publish`] does.
    pub fn snapshot_replaced(&mut self, handle: u32, newer: Snapshot, wake: impl FnMut(Peer, u32)) {
        let Some(feed) = self.feeds.get_mut(&handle) else { return };
        self.snapshot_bytes -= feed.snapshot.bytes();
        if feed.snapshot.replace(newer) {
            feed.wake(wake, |member| member.snapshot.is_some());
        }
        self.snapshot_bytes += feed.snapshot.bytes();
    }

    /// Takes what was read of a snapshot. Calls `wake(peer, number)` as [`Feeds::publish`] does.
    pub fn snapshot_read(
        &mut self,
        handle: u32,
        snapshot: &Snapshot,
        chunks: Vec<Chunk>,
        wake: impl FnMut(Peer, u32),
    ) {
        let Some(feed) = self.feeds.get_mut(&handle) else { return };
        let others_bytes = self.snapshot_bytes - feed.snapshot.bytes();
        let is_news = feed.snapshot.fill(snapshot, chunks, others_bytes, self.snapshot_bytes_max);
        self.snapshot_bytes = others_bytes + feed.snapshot.bytes();
        if is_news {
            feed.wake(wake, |member| member.snapshot.is_some());
        }
    }

    /// A snapshot cannot be read, and what it covers is nowhere else: the members that wait for it, which are to
    /// be told.
    pub fn snapshot_failed(&mut self, handle: u32, snapshot: &Snapshot) -> Vec<(Peer, u32)> {
        let Some(feed) = self.feeds.get_mut(&handle) else { return Vec::new() };
        feed.snapshot.failed(snapshot);
        let waits = |member: &&Member| member.snapshot.is_some();
        let members = (0..).zip(&feed.members);
        members.filter_map(|(number, slot)| Some((slot.as_ref().filter(waits)?.peer, number))).collect()
    }

    /// What a member lacks of the log is in this snapshot only: it is sent that, and the log behind it. Calls
    /// `wake(peer, number)` as [`Feeds::publish`] does, for others too: they may be sent the one before.
    pub fn covered(
        &mut self,
        handle: u32,
        number: u32,
        peer: Peer,
        latest: Snapshot,
        mut wake: impl FnMut(Peer, u32),
    ) {
        self.snapshot_replaced(handle, latest, &mut wake);
        let Some(feed) = self.feeds.get_mut(&handle) else { return };
        let slot = feed.members.get_mut(number as usize).and_then(Option::as_mut);
        let Some(member) = slot.filter(|member| member.peer == peer) else { return };
        member.reading = false;
        if !member.must_reconcile && member.snapshot.is_none() && member.seq < latest.log_after_seq {
            member.fill = None;
            member.snapshot = Some(Sending { cursor: None, offset: 0 });
            feed.snapshot.joined();
        }
        if member.wake() {
            wake(peer, number);
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
        if first.seq != member.seq + 1 || member.must_reconcile || member.snapshot.is_some() {
            // Read for where the member stood before it began anew: what it lacks now has to be read again.
            return member.wake();
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
        member.wake()
    }

    /// A member that had to say first what it has (after a cursor that did not fit) may be sent now what it
    /// lacks. Returns whether it was idle and has something to be sent now.
    pub fn reconciled(&mut self, handle: u32, number: u32, peer: Peer, known: Known) -> bool {
        let Some(feed) = self.feeds.get_mut(&handle) else { return false };
        let end = feed.tail.end().seq;
        let Some(member) = feed.member(number, peer) else { return false };
        member.reconciled(known, end);
        member.wake()
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

    /// Wakes the members that something concerns.
    fn wake(&mut self, mut wake: impl FnMut(Peer, u32), mut concerns: impl FnMut(&mut Member) -> bool) {
        for (number, slot) in (0_u32..).zip(&mut self.members) {
            let Some(member) = slot else { continue };
            if concerns(member) && member.wake() {
                wake(member.peer, number);
            }
        }
    }

    /// Wakes members that take part in presence. When all are awake already, as in a storm of updates, nobody
    /// is looked at.
    fn wake_present(&mut self, wake: impl FnMut(Peer, u32), concerns: impl Fn(&Member) -> bool) {
        if !std::mem::take(&mut self.has_idle) {
            return;
        }
        let mut has_idle = false;
        self.wake(wake, |member| {
            let is_present = member.rights.has(Rights::PRESENCE);
            let is_concerned = is_present && concerns(member);
            has_idle |= is_present && !is_concerned && !member.ready;
            is_concerned
        });
        self.has_idle = has_idle;
    }
}
