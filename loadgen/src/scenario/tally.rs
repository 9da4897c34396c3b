//! What all members together received, held against what was acked: exact, edit by edit.

use std::collections::{HashMap, HashSet};

use crate::net::MemberOutcome;
use crate::plan::Plan;
use crate::report::{Deliveries, Edits};

/// The sums, and the documents whose members all have the same heads.
#[derive(Debug, Default)]
pub struct Tally {
    pub edits: Edits,
    pub deliveries: Deliveries,
    /// Documents, by number, of which all members are here and have equal heads.
    pub equal: HashSet<u32>,
}

impl Tally {
    /// Counts.
    pub fn of(members: &[MemberOutcome], plan: &Plan) -> Self {
        let mut tally = Self::default();
        let mut documents: HashMap<u32, Vec<&MemberOutcome>> = HashMap::new();
        for member in members {
            documents.entry(member.document).or_default().push(member);
            tally.edits.sent += u64::from(member.made);
            tally.edits.acked += u64::from(member.acked);
            tally.deliveries.received += member.received;
            tally.deliveries.duplicated += member.duplicated;
        }
        for (document, members) in documents {
            for writer in &members {
                tally.expect(writer, &members);
            }
            let first = members.first().map(|member| &member.heads);
            let is_whole = members.len() == plan.members as usize;
            if is_whole && members.iter().all(|member| Some(&member.heads) == first) {
                tally.equal.insert(document);
            }
        }
        tally
    }

    /// Every acked edit of a writer is due at every other member, and comes in the writer's order: the number
    /// of the last one that came tells how many are missing behind it, and the count those before it.
    fn expect(&mut self, writer: &MemberOutcome, members: &[&MemberOutcome]) {
        for member in members.iter().filter(|member| member.member != writer.member) {
            self.deliveries.expected += u64::from(writer.acked);
            let seen = member.seen.get(writer.member as usize).copied().unwrap_or(0);
            self.deliveries.lost += u64::from(writer.acked.saturating_sub(seen));
        }
    }

    /// Lost deliveries also show in the sum, where a change in the middle was left out. The larger counts.
    pub fn settle(mut self) -> Self {
        let missing = self.deliveries.expected.saturating_sub(self.deliveries.received);
        self.deliveries.lost = self.deliveries.lost.max(missing);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    fn member(member: u32, acked: u32, seen: [u32; 3], head: u8) -> MemberOutcome {
        let received = seen.iter().map(|&seen| u64::from(seen)).sum();
        MemberOutcome {
            member,
            made: acked,
            acked,
            received,
            seen: seen.to_vec(),
            heads: vec![[head; 32]],
            ..MemberOutcome::default()
        }
    }

    #[test]
    fn what_is_missing_is_counted_once() {
        let plan = plan(1, 3, 1);
        let all = [member(0, 2, [0, 3, 1], 1), member(1, 3, [2, 0, 1], 1), member(2, 1, [2, 3, 0], 1)];
        let tally = Tally::of(&all, &plan).settle();
        assert_eq!((tally.edits.acked, tally.deliveries.expected, tally.deliveries.lost), (6, 12, 0));
        assert!(tally.equal.contains(&0));
        let mut behind = all;
        behind[2] = member(2, 1, [2, 1, 0], 9);
        let tally = Tally::of(&behind, &plan).settle();
        assert_eq!((tally.deliveries.lost, tally.equal.len()), (2, 0));
        behind[2] = member(2, 1, [2, 3, 0], 1);
        behind[2].received -= 1;
        assert_eq!(Tally::of(&behind, &plan).settle().deliveries.lost, 1, "one in the middle was left out");
        assert!(Tally::of(&behind[..2], &plan).equal.is_empty(), "a member is not there");
    }
}
