//! Who is to be sent something at the end of a turn, and in which order.
//!
//! Most get theirs in the turn in which something happened for them. Where one event wakes very many, or a
//! member has more to get than its quantum, they are *bulk*: of those each turn serves some, behind all others,
//! so that one hot document or a long catch-up does not delay the rest of the core.

use std::collections::VecDeque;

use super::connection::Connection;
use super::limits::{BULK_MEMBERS_MIN, BULK_SENDS_PER_TURN_MAX, SENDS_PER_TURN_MAX};

/// How urgently a connection is to be sent what waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Nothing waits.
    No,
    /// Behind all others.
    Bulk,
    /// In this turn.
    Now,
}

impl Due {
    /// For what a document has for all of its members on a core.
    pub(super) fn for_members(members: usize) -> Self {
        if members > BULK_MEMBERS_MIN { Self::Bulk } else { Self::Now }
    }
}

/// The connections that are due. One that became more urgent stands in both queues; its [`Connection::due`]
/// decides in which it counts.
#[derive(Debug, Default)]
pub(super) struct DueQueues {
    now: VecDeque<u64>,
    bulk: VecDeque<u64>,
}

impl DueQueues {
    pub(super) fn is_empty(&self) -> bool {
        self.now.is_empty() && self.bulk.is_empty()
    }

    /// Notes a connection, unless it is due as urgently already.
    pub(super) fn add(&mut self, connection: &mut Connection, due: Due) {
        if connection.due >= due {
            return;
        }
        connection.due = due;
        match due {
            Due::No => {}
            Due::Bulk => self.bulk.push_back(connection.peer.id),
            Due::Now => self.now.push_back(connection.peer.id),
        }
    }

    /// How many of each queue are served in a turn that begins now.
    pub(super) fn turn(&self) -> [(Due, usize); 2] {
        [
            (Due::Now, self.now.len().min(SENDS_PER_TURN_MAX)),
            (Due::Bulk, self.bulk.len().min(BULK_SENDS_PER_TURN_MAX)),
        ]
    }

    /// The next one of a queue. It may have been served by the other one meanwhile.
    pub(super) fn pop(&mut self, due: Due) -> Option<u64> {
        match due {
            Due::No => None,
            Due::Bulk => self.bulk.pop_front(),
            Due::Now => self.now.pop_front(),
        }
    }
}

#[cfg(test)]
mod tests {
    use etherply_engine::peer::Peer;

    use super::*;

    fn connection(id: u64) -> Connection {
        Connection::new(Peer { core: 0, id }, -1, super::super::tls::Security::Plain, [0; 16], 0)
    }

    /// Queues with so many of each.
    fn queues(now: usize, bulk: usize) -> DueQueues {
        let mut queues = DueQueues::default();
        for id in 0..(now + bulk) as u64 {
            let due = if id < now as u64 { Due::Now } else { Due::Bulk };
            queues.add(&mut connection(id), due);
        }
        queues
    }

    #[test]
    fn a_document_with_many_members_is_bulk() {
        assert_eq!(Due::for_members(BULK_MEMBERS_MIN - 1), Due::Now);
        assert_eq!(Due::for_members(BULK_MEMBERS_MIN), Due::Now);
        assert_eq!(Due::for_members(BULK_MEMBERS_MIN + 1), Due::Bulk);
    }

    #[test]
    fn a_turn_serves_so_many_of_each_and_no_more() {
        let (now, bulk) = (SENDS_PER_TURN_MAX, BULK_SENDS_PER_TURN_MAX);
        for (waiting, served) in [
            ((0, 0), (0, 0)),
            ((now - 1, bulk - 1), (now - 1, bulk - 1)),
            ((now, bulk), (now, bulk)),
            ((now + 1, bulk + 1), (now, bulk)),
        ] {
            let queues = queues(waiting.0, waiting.1);
            assert_eq!(queues.turn(), [(Due::Now, served.0), (Due::Bulk, served.1)]);
            assert_eq!(queues.is_empty(), waiting == (0, 0));
        }
    }

    #[test]
    fn what_becomes_more_urgent_is_served_first_and_once() {
        let (mut queues, mut first, mut second) = (DueQueues::default(), connection(1), connection(2));
        queues.add(&mut first, Due::Bulk);
        queues.add(&mut second, Due::Bulk);
        queues.add(&mut second, Due::Now);
        // Less urgent than it is already: nothing changes.
        queues.add(&mut second, Due::Bulk);
        assert_eq!((first.due, second.due), (Due::Bulk, Due::Now));
        assert_eq!((queues.pop(Due::Now), queues.pop(Due::Now)), (Some(2), None));
        assert_eq!(
            (queues.pop(Due::Bulk), queues.pop(Due::Bulk), queues.pop(Due::Bulk)),
            (Some(1), Some(2), None)
        );
        assert!(queues.is_empty());
    }
}
