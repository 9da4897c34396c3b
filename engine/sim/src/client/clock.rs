//! Clocks: a client and a server that do not know what they share say what each has.

use std::collections::BTreeMap;

use etherply_wire::encode;
use etherply_wire::kinds::{ClockEntry, Cursor, Reconcile};

use super::{Output, Replica, State};
use crate::rng::Rng;

impl Replica {
    pub(super) fn on_reconcile(
        &mut self,
        part: Reconcile,
        rng: &mut Rng,
        out: &mut Output,
    ) -> Result<(), String> {
        let State::Reconciling { handle, clock } = &mut self.state else {
            return Err("a clock that nobody asked for".to_owned());
        };
        clock.extend(part.clock);
        if part.more {
            return Ok(());
        }
        let (handle, clock) = (*handle, std::mem::take(clock));
        if !self.resync(&clock) {
            self.start_over(rng, out);
            return Ok(());
        }
        self.state = State::Open { handle };
        self.send_clock(handle, rng, out);
        Ok(())
    }

    /// Says what this copy has, without being asked.
    pub fn send_clock_out_of_turn(&mut self, handle: u32, rng: &mut Rng, out: &mut Output) {
        self.is_out_of_turn = true;
        self.send_clock(handle, rng, out);
    }

    /// Says what this copy has.
    fn send_clock(&mut self, handle: u32, rng: &mut Rng, out: &mut Output) {
        self.clocks += 1;
        let mut latest: BTreeMap<Vec<u8>, ([u8; 32], u64)> = BTreeMap::new();
        for ((actor, seq), hash) in &self.known {
            latest.insert(actor.clone(), (*hash, *seq));
        }
        let mut entries: Vec<ClockEntry> =
            latest.into_iter().map(|(actor, (hash, seq))| ClockEntry { actor, seq, hash }).collect();
        let cursor = Cursor { epoch: 0, seq: 0, chain: [0; 32] };
        loop {
            let part = entries.split_off(entries.len().saturating_sub(rng.index(6) + 1));
            let more = !entries.is_empty();
            out.frames.push(encode(handle, &Reconcile { cursor, more, clock: part }, &[]));
            if !more {
                return;
            }
        }
    }
}
