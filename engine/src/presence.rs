//! Presence: who is here, and the state that each set last.
//!
//! The home shard keeps the table and decides; every core with members keeps a copy. A member's cursor is
//! the version up to which it has seen, so that a slow member gets the latest states and never a history.
//! Nothing of it is stored.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use bytes::Bytes;

use crate::peer::SessionId;

/// Departures that a copy remembers for slow members; one that is further behind gets the whole table.
pub const DEPARTURES_MAX: usize = 1_024;
/// Most bytes of all states of a document, names included: every core with members has a copy.
pub const PRESENCE_TABLE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One change of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    /// The table's version behind it.
    pub version: u64,
    /// The member.
    pub member: SessionId,
    /// Its state, `None` if it left.
    pub state: Option<Bytes>,
}

/// A table of members' states with versions.
#[derive(Debug, Clone, Default)]
pub struct PresenceTable {
    version: u64,
    members: BTreeMap<SessionId, (u64, Bytes)>,
    by_version: BTreeMap<u64, SessionId>,
    departures: BTreeMap<u64, SessionId>,
    /// Departures up to this version are forgotten.
    forgotten: u64,
    bytes: usize,
}

impl PresenceTable {
    /// The version behind the latest change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many members have a state.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether no member has a state.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A member's state.
    pub fn get(&self, member: &SessionId) -> Option<&Bytes> {
        self.members.get(member).map(|(_, state)| state)
    }

    /// Bytes of all states with their members' names, if this member's were `state_bytes` long.
    pub fn bytes_with(&self, member: &SessionId, state_bytes: usize) -> usize {
        let before = self.get(member).map_or(0, |state| entry_bytes(state.len()));
        self.bytes - before + entry_bytes(state_bytes)
    }

    /// Whether somebody who has seen the table up to a version can be told what happened since.
    pub fn remembers(&self, seen: u64) -> bool {
        seen >= self.forgotten
    }

    /// The change that sets a member's state, or ends it, in the next version.
    pub fn next(&self, member: SessionId, state: Option<Bytes>) -> PresenceChange {
        PresenceChange { version: self.version + 1, member, state }
    }

    /// Takes a change over, from [`PresenceTable::next`] of this table or of the one it copies.
    pub fn apply(&mut self, change: &PresenceChange) {
        self.version = change.version;
        let before = self.members.remove(&change.member);
        if let Some((version, state)) = &before {
            self.by_version.remove(version);
            self.bytes -= entry_bytes(state.len());
        }
        match &change.state {
            Some(state) => {
                // Whoever has a state is not among those that left.
                if before.is_none() {
                    self.departures.retain(|_, member| member != &change.member);
                }
                self.bytes += entry_bytes(state.len());
                self.members.insert(change.member, (change.version, state.clone()));
                self.by_version.insert(change.version, change.member);
            }
            None => {
                self.departures.insert(change.version, change.member);
                if self.departures.len() > DEPARTURES_MAX
                    && let Some((version, _)) = self.departures.pop_first()
                {
                    self.forgotten = version;
                }
            }
        }
    }

    /// Members in the order of their names, behind `after`.
    pub fn after(&self, after: Option<SessionId>) -> impl Iterator<Item = (&SessionId, &Bytes)> {
        let from = after.map_or(Unbounded, Excluded);
        self.members.range((from, Unbounded)).map(|(member, (_, state))| (member, state))
    }

    /// Members with a state that was set after version `seen`, in the order of their versions.
    pub fn set_since(&self, seen: u64) -> impl Iterator<Item = (u64, &SessionId, &Bytes)> {
        let newer = self.by_version.range((Excluded(seen), Unbounded));
        newer.filter_map(|(version, member)| Some((*version, member, &self.members.get(member)?.1)))
    }

    /// Members that left after version `seen`, up to version `through`.
    pub fn left_since(&self, seen: u64, through: u64) -> impl Iterator<Item = &SessionId> {
        self.departures
            .range((Excluded(seen), Unbounded))
            .take_while(move |(version, _)| **version <= through)
            .map(|(_, member)| member)
    }
}

fn entry_bytes(state_bytes: usize) -> usize {
    size_of::<SessionId>() + state_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u8) -> SessionId {
        [n; 16]
    }

    fn set(table: &mut PresenceTable, n: u8, state: Option<&'static str>) {
        let change = table.next(member(n), state.map(|text| Bytes::from_static(text.as_bytes())));
        table.apply(&change);
    }

    #[test]
    fn only_the_latest_state_of_a_member_stands_in_the_table() {
        let mut table = PresenceTable::default();
        set(&mut table, 1, Some("a"));
        let seen = table.version();
        set(&mut table, 1, Some("b"));
        set(&mut table, 1, Some("cc"));
        set(&mut table, 2, Some("x"));
        set(&mut table, 2, None);
        let newer: Vec<_> = table.set_since(seen).collect();
        assert_eq!(newer, [(3, &member(1), &Bytes::from_static(b"cc"))]);
        assert_eq!(table.left_since(seen, 5).collect::<Vec<_>>(), [&member(2)]);
        assert_eq!(table.left_since(seen, 4).count(), 0);
        assert_eq!(table.bytes_with(&member(3), 10), 16 + 2 + 16 + 10);
        assert_eq!(table.bytes_with(&member(1), 10), 16 + 10);
        set(&mut table, 2, Some("again"));
        assert_eq!(table.left_since(0, 9).count(), 0, "who is here has not left");
    }

    #[test]
    fn departures_are_forgotten_at_the_limit() {
        let mut table = PresenceTable::default();
        let name = |n: usize| {
            let mut name = [9; 16];
            name[..8].copy_from_slice(&n.to_le_bytes());
            name
        };
        for n in 0..DEPARTURES_MAX {
            for state in [Some(Bytes::new()), None] {
                let change = table.next(name(n), state);
                table.apply(&change);
            }
        }
        assert!(table.remembers(0), "exactly at the limit");
        for _ in 0..3 {
            set(&mut table, 1, Some("here"));
        }
        assert!(table.remembers(0), "states are not departures");
        set(&mut table, 1, None);
        assert!(!table.remembers(1) && table.remembers(2), "the first departure, version 2, is forgotten");
    }
}
