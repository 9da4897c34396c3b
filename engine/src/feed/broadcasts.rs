//! The latest broadcasts of a document, bounded in number and bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use etherply_wire::limits::{BROADCAST_RING_BYTES_MAX, BROADCAST_RING_MAX};

use crate::outgoing::Outgoing;
use crate::peer::Peer;

/// A broadcast on its way to the members.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Its number in the document, counted from 1.
    pub index: u64,
    /// Who sent it and does not get it back.
    pub from: Peer,
    /// The frame.
    pub frame: Outgoing,
}

#[derive(Debug)]
pub(super) struct Broadcasts {
    ring: VecDeque<Arc<Sent>>,
    bytes: usize,
    last: u64,
}

impl Broadcasts {
    pub(super) fn new(last: u64) -> Self {
        Self { ring: VecDeque::new(), bytes: 0, last }
    }

    /// Number of the newest one.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Number of the oldest one that is still here.
    pub(super) fn first(&self) -> u64 {
        self.ring.front().map_or(self.last + 1, |sent| sent.index)
    }

    pub(super) fn push(&mut self, sent: Arc<Sent>) {
        self.last = sent.index;
        self.bytes += sent.frame.len();
        self.ring.push_back(sent);
        while self.ring.len() > BROADCAST_RING_MAX || self.bytes > BROADCAST_RING_BYTES_MAX {
            match self.ring.pop_front() {
                Some(oldest) => self.bytes -= oldest.frame.len(),
                None => break,
            }
        }
    }

    /// Those after number `seen` that are still here.
    pub(super) fn after(&self, seen: u64) -> impl Iterator<Item = &Arc<Sent>> {
        let index = self.ring.partition_point(|sent| sent.index <= seen);
        self.ring.range(index..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherply_wire::kinds::Broadcast;

    fn sent(index: u64, bytes: usize) -> Arc<Sent> {
        let message = Broadcast { index, member: [0; 16], topic: String::new() };
        let frame = Outgoing::new(1, &message, &[&vec![0; bytes]]);
        Arc::new(Sent { index, from: Peer { core: 0, id: 1 }, frame })
    }

    #[test]
    fn the_ring_keeps_the_newest_within_both_limits() {
        let max = BROADCAST_RING_MAX as u64;
        let mut ring = Broadcasts::new(0);
        for index in 1..=max {
            ring.push(sent(index, 1));
        }
        assert_eq!((ring.first(), ring.last()), (1, max));
        ring.push(sent(max + 1, 1));
        assert_eq!((ring.first(), ring.last()), (2, max + 1));
        assert_eq!(ring.after(max - 1).count(), 2);
        ring.push(sent(max + 2, BROADCAST_RING_BYTES_MAX));
        assert_eq!((ring.first(), ring.last()), (max + 3, max + 2), "too large to be kept at all");
        assert_eq!(ring.after(0).count(), 0);
    }
}
