//! What a member is sent in one turn.

use etherply_wire::Rights;
use etherply_wire::kinds::BroadcastGap;
use etherply_wire::limits::PRESENCE_FRAME_BYTES_MAX;

use super::broadcasts::Broadcasts;
use super::member::Member;
use super::presence::Presence;
use super::snapshot::{Sending, SnapshotFeed};
use super::{FILL_BYTES_MAX, Feeds};
use crate::ids::DocumentId;
use crate::outgoing::Outgoing;
use crate::peer::Peer;
use crate::segment::{Segment, Tail};
use crate::snapshot::{SNAPSHOT_READ_BYTES_MAX, SnapshotRequest};

/// A piece of the log that a member needs before it can be sent more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// The document.
    pub document: DocumentId,
    /// Its epoch.
    pub epoch: u64,
    /// Read after this position ...
    pub after_seq: u64,
    /// ... up to this one ...
    pub through_seq: u64,
    /// ... as many changes as have these bytes.
    pub bytes_max: usize,
}

/// What came of a turn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gathered {
    /// Bytes that were handed out.
    pub bytes: usize,
    /// Changes frames among them.
    pub segments: u32,
    /// When the oldest of those was received, on the monotonic clock; 0 if none was live.
    pub oldest_received_us: u64,
    /// There is more: the member wants another turn.
    pub more: bool,
    /// The member waits for this.
    pub read: Option<ReadRequest>,
    /// The feed waits for this, with all who are to be sent it.
    pub snapshot: Option<SnapshotRequest>,
}

/// One turn of a member.
struct Turn<'s, S> {
    budget_bytes: usize,
    gathered: Gathered,
    sink: &'s mut S,
}

impl<S: FnMut(&Outgoing)> Turn<'_, S> {
    fn take(&mut self, frame: &Outgoing) {
        self.gathered.bytes += frame.len();
        (self.sink)(frame);
    }

    fn take_segment(&mut self, segment: &Segment) {
        self.gathered.segments += 1;
        if self.gathered.oldest_received_us == 0 {
            self.gathered.oldest_received_us = segment.received_us;
        }
        self.take(&segment.frame);
    }

    /// Whether the budget is used up; then there is another turn.
    fn ends(&mut self) -> bool {
        let is_over = self.gathered.bytes >= self.budget_bytes;
        self.gathered.more |= is_over;
        is_over
    }
}

impl Feeds {
    /// Hands out to `sink` what a member lacks, until `budget_bytes` are reached; of presence and of the
    /// document at least one frame each, if there is one. A member that is dry is not looked at again before
    /// something happens.
    pub fn gather(
        &mut self,
        handle: u32,
        number: u32,
        peer: Peer,
        budget_bytes: usize,
        mut sink: impl FnMut(&Outgoing),
    ) -> Gathered {
        let mut turn = Turn { budget_bytes, gathered: Gathered::default(), sink: &mut sink };
        let Some(feed) = self.feeds.get_mut(&handle) else { return turn.gathered };
        let slot = feed.members.get_mut(number as usize).and_then(Option::as_mut);
        let Some(member) = slot.filter(|member| member.peer == peer) else { return turn.gathered };
        if member.rights.has(Rights::PRESENCE) {
            turn.presence(handle, member, &mut feed.presence);
        }
        if (member.rights.has(Rights::READ) || planted!(ReadRightIgnored)) && !member.must_reconcile {
            let snapshot_bytes = feed.snapshot.bytes();
            let is_short = self.snapshot_bytes + SNAPSHOT_READ_BYTES_MAX > self.snapshot_bytes_max;
            if turn.snapshot(member, &mut feed.snapshot, &feed.document, is_short) {
                turn.changes(member, &feed.tail, &feed.document);
            }
            self.snapshot_bytes = self.snapshot_bytes - snapshot_bytes + feed.snapshot.bytes();
        }
        // What is durable goes before what nobody keeps: a flood of broadcasts must not hold changes up.
        if member.rights.has(Rights::PRESENCE) {
            turn.broadcasts(handle, member, &feed.broadcasts);
            feed.has_idle |= !turn.gathered.more;
        }
        member.ready = turn.gathered.more || planted!(LostWakeUp);
        turn.gathered
    }
}

impl<S: FnMut(&Outgoing)> Turn<'_, S> {
    /// Presence, with half of the budget: it is live where changes may be a long way to catch up, and a long
    /// table must not hold changes up.
    fn presence(&mut self, handle: u32, member: &mut Member, presence: &mut Presence) {
        let share_bytes = self.budget_bytes / 2;
        while presence.is_news(member.presence_seen) {
            if self.gathered.bytes > 0 && self.gathered.bytes >= share_bytes {
                self.gathered.more = true;
                return;
            }
            let piece =
                presence.next(handle, member.presence_seen, share_bytes.min(PRESENCE_FRAME_BYTES_MAX));
            if piece.concerns(&member.session, member.presence_seen) {
                piece.frames.iter().for_each(|frame| self.take(frame));
            }
            member.presence_seen = piece.next;
        }
    }

    /// The snapshot. Whether the member is done with it, and changes may follow.
    fn snapshot(
        &mut self,
        member: &mut Member,
        feed: &mut SnapshotFeed,
        document: &DocumentId,
        is_short: bool,
    ) -> bool {
        let Some(mut sending) = member.snapshot else { return true };
        // Nobody is to be sent one before there is one.
        let Some(latest) = feed.latest else { return false };
        if sending.cursor != Some(latest.cursor) {
            // The first, or a newer one, which takes the place of what the member has of the one before.
            let offset = if planted!(SnapshotsMixed) { sending.offset } else { 0 };
            sending = Sending { cursor: Some(latest.cursor), offset };
        }
        let mut is_first = true;
        while sending.offset < latest.total_bytes {
            if !is_first && self.ends() {
                break;
            }
            is_first = false;
            let Some(chunk) = feed.chunk(sending.offset) else {
                self.gathered.snapshot = feed.request(document, sending.offset, is_short);
                break;
            };
            self.take(&chunk.frame);
            sending.offset = chunk.end;
        }
        member.snapshot = Some(sending);
        if sending.offset < latest.total_bytes {
            return false;
        }
        member.seq = latest.cursor.seq;
        member.snapshot = None;
        feed.left();
        !self.ends()
    }

    fn changes(&mut self, member: &mut Member, tail: &Tail, document: &DocumentId) {
        if let Some(fill) = member.fill.take() {
            member.seq = fill.cursor.seq;
            self.take_segment(&fill);
            // No reading ahead: a slow member holds one piece at the most.
            self.gathered.more = true;
            return;
        }
        if member.seq >= member.log_through {
            member.known = None;
            match tail.after(member.seq) {
                Some(segments) => {
                    let mut is_first = true;
                    for segment in segments {
                        if !is_first && self.ends() {
                            return;
                        }
                        member.seq = segment.cursor.seq;
                        if segment.writer != Some(member.stream) {
                            self.take_segment(segment);
                            is_first = false;
                        }
                    }
                    return;
                }
                None => member.log_through = tail.boundary_from(member.seq),
            }
        }
        if !member.reading {
            member.reading = true;
            self.gathered.read = Some(ReadRequest {
                document: document.clone(),
                epoch: tail.end().epoch,
                after_seq: member.seq,
                through_seq: member.log_through,
                bytes_max: FILL_BYTES_MAX,
            });
        }
    }

    fn broadcasts(&mut self, handle: u32, member: &mut Member, broadcasts: &Broadcasts) {
        let (first, last) = (broadcasts.first(), broadcasts.last());
        if member.broadcast_seen >= last {
            return;
        }
        if member.broadcast_seen + 1 < first {
            let gap = BroadcastGap { first: member.broadcast_seen + 1, last: first - 1 };
            if !planted!(BroadcastGapSilent) {
                self.take(&Outgoing::new(handle, &gap, &[]));
            }
            member.broadcast_seen = first - 1;
        }
        for sent in broadcasts.after(member.broadcast_seen) {
            if self.ends() {
                return;
            }
            member.broadcast_seen = sent.index;
            if sent.from != member.peer {
                self.take(&sent.frame);
            }
        }
    }
}
