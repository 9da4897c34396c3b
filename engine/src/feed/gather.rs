//! What a member is sent in one turn.

use etherply_wire::Rights;
use etherply_wire::kinds::{BroadcastGap, PresenceEntry, PresenceLeave, PresenceUpdate};
use etherply_wire::limits::PRESENCE_FRAME_BYTES_MAX;

use super::{FILL_BYTES_MAX, Feed, Feeds};
use crate::ids::DocumentId;
use crate::outgoing::Outgoing;
use crate::peer::{Peer, SessionId};
use crate::presence::PresenceDiff;
use crate::segment::Segment;

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
}

impl Gathered {
    fn take(&mut self, frame: &Outgoing, sink: &mut impl FnMut(&Outgoing)) {
        self.bytes += frame.len();
        sink(frame);
    }

    fn take_segment(&mut self, segment: &Segment, sink: &mut impl FnMut(&Outgoing)) {
        self.segments += 1;
        if self.oldest_received_us == 0 {
            self.oldest_received_us = segment.received_us;
        }
        self.take(&segment.frame, sink);
    }
}

impl Feeds {
    /// Hands out to `sink` what a member lacks, at least one frame if there is one, then until `budget_bytes`
    /// are reached. A member that is dry is not looked at again before something happens.
    pub fn gather(
        &mut self,
        handle: u32,
        number: u32,
        peer: Peer,
        budget_bytes: usize,
        mut sink: impl FnMut(&Outgoing),
    ) -> Gathered {
        let mut gathered = Gathered::default();
        let Some(feed) = self.feeds.get_mut(&handle) else { return gathered };
        // What is durable goes before what nobody keeps: a flood of broadcasts must not hold changes up.
        feed.gather_changes(number, peer, budget_bytes, &mut gathered, &mut sink);
        feed.gather_presence(handle, number, peer, &mut gathered, &mut sink);
        feed.gather_broadcasts(handle, number, peer, budget_bytes, &mut gathered, &mut sink);
        if let Some(member) = feed.member(number, peer) {
            member.ready = gathered.more;
        }
        gathered
    }
}

impl Feed {
    fn gather_presence(
        &mut self,
        handle: u32,
        number: u32,
        peer: Peer,
        gathered: &mut Gathered,
        sink: &mut impl FnMut(&Outgoing),
    ) {
        let version = self.presence.version();
        let Some(member) = self.member(number, peer) else { return };
        let seen = member.presence_seen;
        if seen >= version || !member.rights.has(Rights::PRESENCE) {
            return;
        }
        member.presence_seen = version;
        if self.presence_frame.as_ref().is_none_or(|(from, to, _)| (*from, *to) != (seen, version)) {
            let frames = presence_frames(handle, version, self.presence.since(seen));
            self.presence_frame = Some((seen, version, frames));
        }
        for frame in self.presence_frame.iter().flat_map(|(_, _, frames)| frames) {
            gathered.take(frame, sink);
        }
    }

    fn gather_broadcasts(
        &mut self,
        handle: u32,
        number: u32,
        peer: Peer,
        budget_bytes: usize,
        gathered: &mut Gathered,
        sink: &mut impl FnMut(&Outgoing),
    ) {
        let (first, last) = (self.broadcasts.first(), self.broadcasts.last());
        let slot = self.members.get_mut(number as usize).and_then(Option::as_mut);
        let Some(member) = slot.filter(|member| member.peer == peer) else { return };
        if member.broadcast_seen >= last || !member.rights.has(Rights::PRESENCE) {
            return;
        }
        if member.broadcast_seen + 1 < first {
            let gap = BroadcastGap { first: member.broadcast_seen + 1, last: first - 1 };
            gathered.take(&Outgoing::new(handle, &gap, &[]), sink);
            member.broadcast_seen = first - 1;
        }
        for sent in self.broadcasts.after(member.broadcast_seen) {
            if gathered.bytes >= budget_bytes {
                gathered.more = true;
                return;
            }
            member.broadcast_seen = sent.index;
            if sent.from != peer {
                gathered.take(&sent.frame, sink);
            }
        }
    }

    fn gather_changes(
        &mut self,
        number: u32,
        peer: Peer,
        budget_bytes: usize,
        gathered: &mut Gathered,
        sink: &mut impl FnMut(&Outgoing),
    ) {
        let slot = self.members.get_mut(number as usize).and_then(Option::as_mut);
        let Some(member) = slot.filter(|member| member.peer == peer) else { return };
        if member.must_reconcile || !member.rights.has(Rights::READ) {
            return;
        }
        if let Some(fill) = member.fill.take() {
            member.seq = fill.cursor.seq;
            gathered.take_segment(&fill, sink);
            // No reading ahead: a slow member holds one piece at the most.
            gathered.more = true;
            return;
        }
        if member.seq >= member.log_through {
            member.known = None;
            match self.tail.after(member.seq) {
                Some(segments) => {
                    for segment in segments {
                        if gathered.bytes >= budget_bytes {
                            gathered.more = true;
                            return;
                        }
                        member.seq = segment.cursor.seq;
                        if segment.writer != Some(member.stream) {
                            gathered.take_segment(segment, sink);
                        }
                    }
                    return;
                }
                None => member.log_through = self.tail.boundary_from(member.seq),
            }
        }
        if !member.reading {
            member.reading = true;
            gathered.read = Some(ReadRequest {
                document: self.document.clone(),
                epoch: self.tail.end().epoch,
                after_seq: member.seq,
                through_seq: member.log_through,
                bytes_max: FILL_BYTES_MAX,
            });
        }
    }
}

/// Frames that tell a difference, none longer than the limit.
fn presence_frames(handle: u32, version: u64, diff: PresenceDiff) -> Vec<Outgoing> {
    let mut frames = Vec::new();
    let mut entries: Vec<PresenceEntry> = Vec::new();
    let (mut bytes, mut full) = (0, diff.full);
    let flush = |entries: &mut Vec<PresenceEntry>, full: &mut bool, frames: &mut Vec<Outgoing>| {
        let update = PresenceUpdate { version, full: *full, entries: std::mem::take(entries) };
        frames.push(Outgoing::new(handle, &update, &[]));
        *full = false;
    };
    for (member, state) in diff.set {
        if bytes + state.len() > PRESENCE_FRAME_BYTES_MAX && !entries.is_empty() {
            flush(&mut entries, &mut full, &mut frames);
            bytes = 0;
        }
        // Besides the state: the session's name, and what the archive needs to find them.
        bytes += state.len() + size_of::<SessionId>() + 8;
        entries.push(PresenceEntry { member, state: state.to_vec() });
    }
    if full || !entries.is_empty() {
        flush(&mut entries, &mut full, &mut frames);
    }
    if !diff.left.is_empty() {
        frames.push(Outgoing::new(handle, &PresenceLeave { version, members: diff.left }, &[]));
    }
    frames
}
