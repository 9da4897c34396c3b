//! Presence: who is here, and the state that each set last.
//!
//! The home shard keeps the table and decides; every core with members keeps a copy. A member's cursor is
//! the version up to which it has seen, so that a slow member gets the latest states and never a history.
//! Nothing of it is stored.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::peer::SessionId;

/// Departures that a copy remembers for slow members; one that is further behind gets the whole table.
pub const DEPARTURES_MAX: usize = 1_024;

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
}

/// What a member that has seen the table up to a version has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceDiff {
    /// Whether `set` is the whole table.
    pub full: bool,
    /// Members with a new state.
    pub set: Vec<(SessionId, Bytes)>,
    /// Members that left.
    pub left: Vec<SessionId>,
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

    /// Whether this member has a state.
    pub fn contains(&self, member: &SessionId) -> bool {
        self.members.contains_key(member)
    }

    /// The change that sets a member's state, or ends it, in the next version.
    pub fn next(&self, member: SessionId, state: Option<Bytes>) -> PresenceChange {
        PresenceChange { version: self.version + 1, member, state }
    }

    /// Takes a change over, from [`PresenceTable::next`] of this table or of the one it copies.
    pub fn apply(&mut self, change: &PresenceChange) {
        self.version = change.version;
        let before = self.members.remove(&change.member);
        if let Some((version, _)) = &before {
            self.by_version.remove(version);
        }
        match &change.state {
            Some(state) => {
                // Whoever has a state is not among those that left.
                if before.is_none() {
                    self.departures.retain(|_, member| member != &change.member);
                }
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

    /// What happened after version `seen`; `0` has seen nothing.
    pub fn since(&self, seen: u64) -> PresenceDiff {
        if seen == 0 || seen < self.forgotten {
            let set = self.members.iter().map(|(member, (_, state))| (*member, state.clone())).collect();
            return PresenceDiff { full: true, set, left: Vec::new() };
        }
        let newer = self.by_version.range(seen + 1..).map(|(_, member)| member);
        let set = newer.filter_map(|member| Some((*member, self.members.get(member)?.1.clone()))).collect();
        let left = self.departures.range(seen + 1..).map(|(_, member)| *member).collect();
        PresenceDiff { full: false, set, left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(n: u8) -> SessionId {
        [n; 16]
    }

    fn set(table: &mut PresenceTable, n: u8, state: Option<&'static str>) {
        let change = table.next(member(n), state.map(|text| Bytes::from_static(text.as_bytes())));
        table.apply(&change);
    }

    #[test]
    fn a_slow_member_gets_the_latest_state_only() {
        let mut table = PresenceTable::default();
        set(&mut table, 1, Some("a"));
        let seen = table.version();
        set(&mut table, 1, Some("b"));
        set(&mut table, 1, Some("c"));
        set(&mut table, 2, Some("x"));
        set(&mut table, 2, None);
        let diff = table.since(seen);
        assert_eq!(diff.set, vec![(member(1), Bytes::from_static(b"c"))]);
        assert_eq!(diff.left, vec![member(2)]);
        assert!(!diff.full);
    }

    #[test]
    fn forgotten_departures_lead_to_the_whole_table() {
        let mut table = PresenceTable::default();
        set(&mut table, 1, Some("here"));
        let seen = table.version();
        for _ in 0..=DEPARTURES_MAX {
            set(&mut table, 2, Some("x"));
            set(&mut table, 2, None);
        }
        assert!(!table.since(seen).full, "one member's departure is remembered once");
        for n in 0..=DEPARTURES_MAX {
            let mut name = [9; 16];
            name[..8].copy_from_slice(&n.to_le_bytes());
            for state in [Some(Bytes::new()), None] {
                let change = table.next(name, state);
                table.apply(&change);
            }
        }
        let diff = table.since(seen);
        assert!(diff.full && diff.set.len() == 1);
    }

    proptest! {
        #[test]
        fn whoever_follows_the_diffs_has_the_table(
            steps in prop::collection::vec((0_u8..6, prop::option::of(any::<u8>()), any::<bool>()), 1..200)
        ) {
            let mut table = PresenceTable::default();
            let mut copy: BTreeMap<SessionId, Bytes> = BTreeMap::new();
            let mut seen = 0;
            for (n, state, look) in steps {
                let change = table.next(member(n), state.map(|byte| Bytes::copy_from_slice(&[byte])));
                table.apply(&change);
                if look {
                    let diff = table.since(seen);
                    if diff.full { copy.clear(); }
                    for gone in &diff.left { copy.remove(gone); }
                    copy.extend(diff.set);
                    seen = table.version();
                    let now: BTreeMap<_, _> =
                        table.members.iter().map(|(id, (_, state))| (*id, state.clone())).collect();
                    prop_assert_eq!(&copy, &now);
                }
            }
        }
    }
}
