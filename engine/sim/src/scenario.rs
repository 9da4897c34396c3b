//! What a run is made from: a seed, and what is left out of the world that the seed draws. With nothing left out it
//! is the seed's own world; a failure is shrunk by leaving out more and more.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::world::Config;

/// Something that can be left out of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Connections that break.
    Cuts,
    /// The server's crashes and restores.
    Crashes,
    /// Older copies put back.
    Restores,
    /// Failing and full disks.
    Disk,
    /// Bits that flip on the disk, snapshots that cannot be read.
    Damage,
    /// Cloned devices.
    Clones,
    /// What clients do wrong.
    Faults,
    /// Deleted documents.
    Deletions,
    /// Documents that begin anew without some changes.
    Quarantines,
    /// Lost and doubled packets.
    Packets,
    /// Members that are the production client.
    Devices,
    /// Members that take no bytes for a while, and clients that go for long.
    Slowness,
    /// Snapshots.
    Snapshots,
    /// Presence and broadcasts.
    Social,
    /// A wall clock that jumps.
    Clock,
    /// Rights that end.
    Tokens,
}

/// All of them, with their names.
pub const TROUBLES: &[(Trouble, &str)] = &[
    (Trouble::Cuts, "cuts"),
    (Trouble::Crashes, "crashes"),
    (Trouble::Restores, "restores"),
    (Trouble::Disk, "disk"),
    (Trouble::Damage, "damage"),
    (Trouble::Clones, "clones"),
    (Trouble::Faults, "faults"),
    (Trouble::Deletions, "deletions"),
    (Trouble::Quarantines, "quarantines"),
    (Trouble::Packets, "packets"),
    (Trouble::Devices, "devices"),
    (Trouble::Slowness, "slowness"),
    (Trouble::Snapshots, "snapshots"),
    (Trouble::Social, "social"),
    (Trouble::Clock, "clock"),
    (Trouble::Tokens, "tokens"),
];

/// A seed, and what is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scenario {
    /// Where all chance comes from.
    pub seed: u64,
    /// Most members.
    pub members: Option<u64>,
    /// Most documents.
    pub documents: Option<u64>,
    /// Most cores.
    pub cores: Option<u16>,
    /// Longest time in which things go wrong, in milliseconds.
    pub active_ms: Option<u64>,
    /// What does not happen.
    pub without: BTreeSet<Trouble>,
}

impl Scenario {
    /// A seed's own world.
    pub fn of(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Whether something happens in this world.
    pub fn has(&self, trouble: Trouble) -> bool {
        !self.without.contains(&trouble)
    }

    /// Leaves out of what the seed drew what is to be left out.
    pub(crate) fn narrow(&self, config: &mut Config) {
        config.cores = config.cores.min(self.cores.unwrap_or(u16::MAX));
        config.members = config.members.min(self.members.unwrap_or(u64::MAX));
        config.documents = config.documents.min(self.documents.unwrap_or(u64::MAX));
        config.active_us = config.active_us.min(self.active_ms.map_or(u64::MAX, |ms| ms * 1_000));
        config.restores &= self.has(Trouble::Restores);
        config.disk_fails &= self.has(Trouble::Disk);
        config.clones &= self.has(Trouble::Clones);
        config.deletes &= self.has(Trouble::Deletions);
        config.quarantines &= self.has(Trouble::Quarantines);
        config.tokens &= self.has(Trouble::Tokens);
        if !self.has(Trouble::Damage) {
            (config.damage, config.bit_flips) = (0, false);
        }
        if !self.has(Trouble::Faults) {
            config.client_faults = 0;
        }
        if !self.has(Trouble::Packets) {
            (config.weather.lost, config.weather.doubled) = (0, 0);
        }
        if !self.has(Trouble::Snapshots) {
            config.budget.snapshot_after_bytes = u64::MAX;
        }
    }
}

/// As `--with` takes it: `members=3,documents=1,active=80,no-cuts`. Empty for a seed's own world.
impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = [
            ("members", self.members),
            ("documents", self.documents),
            ("cores", self.cores.map(u64::from)),
            ("active", self.active_ms),
        ];
        let numbers = numbers.into_iter().filter_map(|(name, n)| Some(format!("{name}={}", n?)));
        let named = TROUBLES.iter().filter(|(trouble, _)| !self.has(*trouble));
        let parts: Vec<String> = numbers.chain(named.map(|(_, name)| format!("no-{name}"))).collect();
        f.write_str(&parts.join(","))
    }
}

/// What stands in `--with`, without a seed.
impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut scenario = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let named = |(_, name): &&(Trouble, &str)| part.strip_prefix("no-") == Some(*name);
            if let Some((trouble, _)) = TROUBLES.iter().find(named) {
                scenario.without.insert(*trouble);
                continue;
            }
            let number = part.split_once('=').and_then(|(name, n)| Some((name, n.parse::<u64>().ok()?)));
            match number {
                Some(("members", n)) => scenario.members = Some(n.max(1)),
                Some(("documents", n)) => scenario.documents = Some(n.max(1)),
                Some(("cores", n)) => scenario.cores = Some(n.clamp(1, 64) as u16),
                Some(("active", n)) => scenario.active_ms = Some(n),
                _ => {
                    let names: Vec<&str> = TROUBLES.iter().map(|(_, name)| *name).collect();
                    return Err(format!(
                        "`{part}` is neither members=N, documents=N, cores=N nor active=MILLISECONDS, nor `no-` \
                         and one of {}",
                        names.join(", ")
                    ));
                }
            }
        }
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_reads_back_as_written() {
        let text = "members=3,documents=1,cores=2,active=80,no-cuts,no-clock";
        let scenario: Scenario = text.parse().unwrap();
        assert_eq!(scenario.to_string(), text);
        assert_eq!("".parse::<Scenario>().unwrap(), Scenario::default());
        assert!("no-thing".parse::<Scenario>().unwrap_err().contains("no-thing"));
    }
}
