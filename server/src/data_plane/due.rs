//! Who is to be sent something at the end of a turn, and in which order.
//!
//! Most get theirs in the turn in which something happened for them. Where one event wakes very many, or a
//! member has more to get than its quantum, they are *bulk*: of those each turn serves some, behind all others,
//! so that one hot document or a long catch-up does not delay the rest of the core.

use std::collections::VecDeque;

use super::connection::Connection;
use super::limits::{BULK_SENDS_PER_TURN_MAX, SENDS_PER_TURN_MAX};

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
