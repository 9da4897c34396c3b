//! What a feed's members are told of presence: pieces that many of them share.
//!
//! Members move on through versions of the table by pieces of bounded size. A piece is encoded once for all
//! members that stand at the same place, and members are brought to few places: to the *mark*, which moves to
//! the table's version only when a piece has to be encoded anyway. So an update to a thousand members costs one
//! encoding, even when some of them have their turn later than others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use etherply_wire::kinds::{PresenceEntry, PresenceLeave, PresenceUpdate};

use crate::outgoing::Outgoing;
use crate::peer::SessionId;
use crate::presence::{PresenceChange, PresenceTable};

/// Most bytes of encoded presence that a feed keeps for the members that come next.
pub const PRESENCE_PIECES_BYTES_MAX: usize = 1024 * 1024;

/// How far a member has seen the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    /// It is sent the whole table, in the order of members' names, and has it up to `after`; then it has seen
    /// version `base`, and what happened since is sent like anything new.
    Table { base: u64, after: SessionId },
    /// Everything up to a version.
    Version(u64),
    /// Nothing yet.
    Nothing,
}

/// Something to tell the members that stand at one place.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) frames: Vec<Outgoing>,
    /// Where it brings them.
    pub(super) next: Seen,
    /// The only member that it is about: not to be told of itself.
    only: Option<SessionId>,
    /// It begins the whole table, and so also says who is gone.
    is_beginning: bool,
}

#[derive(Debug)]
pub(super) struct Presence {
    table: PresenceTable,
    mark: u64,
    /// Pieces that lead to the mark, or through the table, by where they begin.
    pieces: BTreeMap<Seen, Arc<Piece>>,
    /// The same, oldest first.
    order: VecDeque<Seen>,
    bytes: usize,
}

impl Piece {
    /// Whether it has anything to say to a member that has seen this much.
    pub(super) fn concerns(&self, member: &SessionId, seen: Seen) -> bool {
        self.only != Some(*member) || (self.is_beginning && seen != Seen::Nothing)
    }

    fn bytes(&self) -> usize {
        self.frames.iter().map(Outgoing::len).sum::<usize>() + size_of::<Self>()
    }
}

impl Presence {
    pub(super) fn new(table: PresenceTable) -> Self {
        let mark = table.version();
        Self { table, mark, pieces: BTreeMap::new(), order: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn apply(&mut self, change: &PresenceChange) {
        self.table.apply(change);
    }

    /// Whether a member that has seen this much lacks something.
    pub(super) fn is_news(&self, seen: Seen) -> bool {
        match seen {
            Seen::Version(version) => version < self.table.version(),
            Seen::Table { .. } => true,
            // A table that nobody ever stood in.
            Seen::Nothing => self.table.version() > 0,
        }
    }

    /// What comes next for a member that has seen this much, with about so many bytes of states at most.
    pub(super) fn next(&mut self, handle: u32, seen: Seen, bytes_max: usize) -> Arc<Piece> {
        let seen = match seen {
            Seen::Version(version) if !self.table.remembers(version) => Seen::Nothing,
            seen => seen,
        };
        if !self.table.remembers(self.mark) {
            // Nobody could go on from there.
            self.move_mark();
        }
        if let Some(piece) = self.pieces.get(&seen) {
            return Arc::clone(piece);
        }
        if !matches!(seen, Seen::Table { .. }) && self.mark < self.table.version() {
            self.move_mark();
        }
        let piece = Arc::new(match seen {
            Seen::Nothing => self.whole(handle, self.mark, None, bytes_max),
            Seen::Table { base, after } => self.whole(handle, base, Some(after), bytes_max),
            Seen::Version(version) => self.difference(handle, version, bytes_max),
        });
        self.keep(seen, &piece);
        piece
    }

    fn keep(&mut self, seen: Seen, piece: &Arc<Piece>) {
        self.bytes += piece.bytes();
        self.pieces.insert(seen, Arc::clone(piece));
        self.order.push_back(seen);
        while self.bytes > PRESENCE_PIECES_BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.pieces.remove(&oldest).map_or(0, |piece| piece.bytes());
        }
    }

    /// Moves the mark to now; pieces that lead to the old one go.
    fn move_mark(&mut self) {
        self.mark = self.table.version();
        let stays = |seen: &Seen| matches!(seen, Seen::Table { .. });
        self.order.retain(stays);
        self.pieces.retain(|seen, _| stays(seen));
        self.bytes = self.pieces.values().map(|piece| piece.bytes()).sum();
    }

    /// A piece of the whole table. States are as of now, which may be later than `base`: what is new since then
    /// is told once more.
    fn whole(&self, handle: u32, base: u64, after: Option<SessionId>, bytes_max: usize) -> Piece {
        let mut members = self.table.after(after).peekable();
        let mut entries = Entries::default();
        let mut last = None;
        while let Some((member, state)) = members.next_if(|(_, state)| entries.has_room(state, bytes_max)) {
            entries.push(*member, state);
            last = Some(*member);
        }
        let next = match last.filter(|_| members.peek().is_some()) {
            Some(after) => Seen::Table { base, after },
            None => Seen::Version(base),
        };
        let is_beginning = after.is_none();
        let only = match &entries.entries[..] {
            [entry] if is_beginning && next == Seen::Version(base) => Some(entry.member),
            _ => None,
        };
        let update = PresenceUpdate { version: base, full: is_beginning, entries: entries.entries };
        let frames = vec![Outgoing::new(handle, &update, &[])];
        Piece { frames, next, only, is_beginning }
    }

    /// What happened since a version, or the first part of it.
    fn difference(&self, handle: u32, seen: u64, bytes_max: usize) -> Piece {
        let mut newer = self.table.set_since(seen).peekable();
        let mut entries = Entries::default();
        let mut through = seen;
        while let Some((version, member, state)) =
            newer.next_if(|(_, _, state)| entries.has_room(state, bytes_max))
        {
            entries.push(*member, state);
            through = version;
        }
        if newer.peek().is_none() {
            through = self.table.version();
        }
        let left: Vec<SessionId> = self.table.left_since(seen, through).copied().collect();
        let entries = entries.entries;
        let only = match (&entries[..], &left[..]) {
            ([entry], []) => Some(entry.member),
            ([], [member]) => Some(*member),
            _ => None,
        };
        let mut frames = Vec::new();
        if !entries.is_empty() {
            let update = PresenceUpdate { version: through, full: false, entries };
            frames.push(Outgoing::new(handle, &update, &[]));
        }
        if !left.is_empty() {
            frames.push(Outgoing::new(handle, &PresenceLeave { version: through, members: left }, &[]));
        }
        Piece { frames, next: Seen::Version(through), only, is_beginning: false }
    }
}

/// Entries of a frame, and what they take.
#[derive(Default)]
struct Entries {
    entries: Vec<PresenceEntry>,
    bytes: usize,
}

impl Entries {
    /// Besides the state: the session's name, and what the archive needs to find them.
    fn bytes_of(state: &[u8]) -> usize {
        state.len() + size_of::<SessionId>() + 8
    }

    fn has_room(&self, state: &[u8], bytes_max: usize) -> bool {
        self.entries.is_empty() || self.bytes + Self::bytes_of(state) <= bytes_max
    }

    fn push(&mut self, member: SessionId, state: &[u8]) {
        self.bytes += Self::bytes_of(state);
        self.entries.push(PresenceEntry { member, state: state.to_vec() });
    }
}

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;
