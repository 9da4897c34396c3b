//! What goes wrong outside of clients: links, the server, the disk, an operator.

use crate::world::{Event, World};

impl World {
    /// The next thing goes wrong.
    pub(crate) fn nemesis(&mut self) {
        if self.healing {
            return;
        }
        let mut next_us = self.rng.below(self.config.nemesis_us);
        match self.rng.below(10) {
            0..=4 => {
                let up: Vec<u64> = self.links.iter().filter(|(_, l)| !l.is_cut).map(|(n, _)| *n).collect();
                if let Some(link) = self.rng.pick(&up).copied() {
                    self.cut(link);
                }
            }
            5 | 6 => {
                self.crash();
                if self.config.restores && self.rng.chance(50) {
                    self.restore();
                }
            }
            7 if self.config.disk_fails && self.server.is_some() => {
                if !self.disk.poisoned {
                    self.disk.poisoned = true;
                    self.count("disk failed");
                } else if self.rng.chance(70) {
                    self.reopen();
                }
            }
            8 if self.rng.chance(20) && !self.counts.contains_key("lull") => next_us += self.lull(),
            _ => {}
        }
        self.after(next_us, Event::Nemesis);
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
        self.healing = true;
        for link in self.links.values_mut() {
            link.window_bytes = link.window_bytes.max(1_000);
        }
    }
}
