//! What goes wrong outside of clients: links, the server, the disk, an operator.

use etherply_engine::ids::DocumentId;
use etherply_engine::log::LogError;
use etherply_engine::placement::shard_of;

use crate::scenario::Trouble;
use crate::server::Message;
use crate::world::{Event, World};

/// What a slow link takes at once when all faults have stopped: the longest document has to pass within the time in
/// which everything has to drain.
const HEALED_WINDOW_BYTES: usize = 8_000;
/// How long a packet is under way then, at most.
const HEALED_DELAY_US: u64 = 200_000;

impl World {
    /// The next thing goes wrong.
    pub(crate) fn nemesis(&mut self) {
        if self.healing {
            return;
        }
        let mut next_us = self.rng.below(self.config.nemesis_us);
        match self.rng.below(16) {
            0..=4 if self.scenario.has(Trouble::Cuts) => {
                let up: Vec<u64> = self.links.iter().filter(|(_, l)| !l.is_cut).map(|(n, _)| *n).collect();
                if let Some(link) = self.rng.pick(&up).copied() {
                    self.cut(link);
                }
            }
            5 | 6 if self.scenario.has(Trouble::Crashes) => {
                self.crash();
                if self.config.restores && self.rng.chance(50) {
                    self.restore();
                }
            }
            7 | 8 if self.config.disk_fails && self.server.is_some() => self.disk_trouble(),
            9 if self.scenario.has(Trouble::Slowness)
                && self.rng.chance(20)
                && !self.counts.contains_key("lull") =>
            {
                next_us += self.lull();
            }
            10 if self.scenario.has(Trouble::Clock) => self.clock_jumps(),
            11 if self.config.bit_flips => self.bit_flips(),
            12 if self.config.deletes => self.delete(),
            13 | 14 if self.config.quarantines => self.quarantine(),
            15 if self.config.tokens => self.revoke(),
            _ => {}
        }
        self.after(next_us, Event::Nemesis);
    }

    /// A sync fails, or there is no room; or, when that has happened, what was wrong is mended.
    fn disk_trouble(&mut self) {
        if self.disk.poisoned {
            if self.rng.chance(70) {
                self.reopen();
            }
            return;
        }
        self.disk.poisoned = true;
        self.disk.is_full = self.rng.chance(40);
        self.count(if self.disk.is_full { "disk full" } else { "disk failed" });
    }

    /// The wall clock is set: by an hour, by a day, to 1970.
    fn clock_jumps(&mut self) {
        const HOUR_MS: i64 = 3_600_000;
        let to_ms = [0, HOUR_MS, -HOUR_MS, 24 * HOUR_MS, -1_700_000_000_000];
        self.wall_offset_ms = to_ms.get(self.rng.index(to_ms.len())).copied().unwrap_or(0);
        self.count("clock jumped");
    }

    /// A bit of a stored record flips; it is mended when everything heals.
    fn bit_flips(&mut self) {
        let Some(document) = self.rng.pick(&self.documents).cloned() else { return };
        if self.disk.flip(&document, &mut self.rng) {
            self.count("bit flipped");
        }
    }

    fn home(&self, document: &DocumentId) -> Option<u16> {
        let cores = self.server.as_ref()?.shards();
        Some(shard_of(document, cores))
    }

    /// An operator deletes a document for good.
    fn delete(&mut self) {
        let token = self.rng.index(self.documents.len());
        let Some(document) = self.documents.get(token).cloned() else { return };
        let Some(home) = self.home(&document) else { return };
        self.count("delete");
        self.deliver(home, Message::Delete { document, token: token as u64 });
    }

    /// A materialiser finds a change that no member can digest.
    fn quarantine(&mut self) {
        let Some(document) = self.rng.pick(&self.documents).cloned() else { return };
        let Some(home) = self.home(&document) else { return };
        self.quarantined = true;
        self.count("quarantine");
        self.deliver(home, Message::Quarantine { document });
    }

    /// A document begins anew without one of its changes.
    pub(crate) fn begin_anew(&mut self, document: &DocumentId) -> Result<(), LogError> {
        let (culprit, gone) = self.disk.begin_anew(document, &mut self.rng)?;
        self.culprits.extend(culprit.map(|edit| (document.clone(), edit)));
        self.trace.note(self.now_us, "begins anew", &[gone.len() as u8]);
        if !gone.is_empty() {
            self.count("begun anew");
        }
        self.check.excluded(document, gone, &self.disk);
        Ok(())
    }

    /// Power is gone, and comes back.
    pub(crate) fn crash(&mut self) {
        if self.server.take().is_none() {
            return;
        }
        self.count("crash");
        self.trace.note(self.now_us, "crash", &[]);
        let up: Vec<u64> = self.links.iter().filter(|(_, link)| !link.is_cut).map(|(n, _)| *n).collect();
        for link in up {
            self.cut(link);
        }
        self.disk.crash(&mut self.rng);
        let delay_us = self.rng.range(1_000, 200_000);
        self.after(delay_us, Event::Start);
    }

    /// An operator puts an older copy of a document back.
    fn restore(&mut self) {
        let Some(document) = self.rng.pick(&self.documents).cloned() else { return };
        let through_seq = self.rng.below(self.disk.records(&document).len() as u64 + 1);
        if self.disk.is_deleted(&document) {
            return;
        }
        self.disk.restore(&document, through_seq);
        self.check.restored(&document, through_seq);
        self.restored = true;
        self.count("restore");
    }

    /// Everybody leaves for more than a minute, so that the server lets documents go.
    fn lull(&mut self) -> u64 {
        let lull_us = self.rng.range(61, 90) * 1_000_000;
        let until_us = self.now_us + lull_us;
        let up: Vec<u64> = self.links.iter().filter(|(_, link)| !link.is_cut).map(|(n, _)| *n).collect();
        for link in up {
            self.cut(link);
        }
        for member in &mut self.members {
            member.asleep_until_us = until_us;
        }
        self.config.active_us += lull_us;
        self.count("lull");
        lull_us
    }

    /// All faults stop.
    pub(crate) fn heal(&mut self) {
        if self.disk.poisoned && self.server.is_some() && self.rng.chance(50) {
            self.reopen();
        } else if self.disk.poisoned {
            self.crash();
        }
        self.disk.mend();
        self.healing = true;
        (self.config.weather.lost, self.config.weather.doubled) = (0, 0);
        for link in self.links.values_mut() {
            link.window_bytes = link.window_bytes.max(HEALED_WINDOW_BYTES);
            link.delay_us_max = link.delay_us_max.min(HEALED_DELAY_US);
        }
    }
}
