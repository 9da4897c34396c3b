//! A document's log as it would be without some of its changes, and what of it breaks Automerge.

use std::collections::HashSet;

use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::{ActorId, ChangeHash, ChangeLimits, parse_header};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::LogError;
use etherply_engine::record::Record;

use super::replica::{Poison, Replica, STEP_BYTES_MAX};
use super::whole::WholeLog;
use crate::storage::Reader;

/// How often a change has to break what was whole without it, before it is blamed: a panic can have other causes.
pub const BLAMES: u32 = 3;

/// A change that breaks the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Culprit {
    /// The change.
    pub hash: ChangeHash,
    /// Who wrote it.
    pub actor: ActorId,
    /// What Automerge said.
    pub what: String,
}

/// The records of one epoch, up to a position, without some; in places of their own in another epoch.
pub struct Passage<'a> {
    /// The log.
    pub reader: &'a Reader,
    /// The document.
    pub document: &'a DocumentId,
    /// Where its log is read: epoch and last position.
    pub from: (u64, u64),
    /// The epoch that they are given places in.
    pub epoch: u64,
    /// Those that are left out.
    pub excluded: &'a HashSet<ChangeHash>,
}

impl Passage<'_> {
    /// Hands out the first `count_max` records, some at a time, until `each` fails.
    pub fn each<E: From<LogError>>(
        &self,
        count_max: u64,
        mut each: impl FnMut(Vec<Record>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (epoch, last_seq) = self.from;
        let mut chain = chain_start(self.document, self.epoch);
        let mut log = WholeLog::new(self.document.clone(), epoch);
        let mut seq = 0;
        while log.seq() < last_seq && seq < count_max {
            let records = log.next(self.reader, last_seq, STEP_BYTES_MAX)?;
            if records.is_empty() {
                break;
            }
            let mut kept = Vec::with_capacity(records.len());
            for record in records {
                if seq < count_max && !self.excluded.contains(&record.hash) {
                    seq += 1;
                    chain = chain_next(&chain, seq, &record.hash);
                    kept.push(Record { seq, chain, ..record });
                }
            }
            if !kept.is_empty() {
                each(kept)?;
            }
        }
        Ok(())
    }

    /// The first change that breaks the document, `None` if none does. Costs in proportion to the whole document,
    /// and if it breaks only when it is saved and loaded, as often as its length can be halved.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn culprit(&self) -> Result<Option<Culprit>, LogError> {
        match self.build(u64::MAX)? {
            Ok(whole) if whole.save_verified().is_ok() => Ok(None),
            Ok(whole) => self.culprit_of_saving(whole.cursor().seq),
            Err(broken) => Ok(broken.blame()),
        }
    }

    /// The document of the first `count_max` records.
    fn build(&self, count_max: u64) -> Result<Result<Replica, Broken>, LogError> {
        let mut good = Replica::new(self.document.clone(), self.epoch);
        let built = self.each(count_max, |records| {
            good = good.clone().apply(&records).map_err(|_| Stop::Broken(records))?;
            Ok(())
        });
        match built {
            Ok(()) => Ok(Ok(good)),
            Err(Stop::Broken(records)) => Ok(Err(Broken { good, records })),
            Err(Stop::Log(error)) => Err(error),
        }
    }

    /// The first change with which the document can be saved or loaded no longer. With the first `bad` it cannot.
    fn culprit_of_saving(&self, mut bad: u64) -> Result<Option<Culprit>, LogError> {
        let mut good = 0;
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            match self.saving(middle)? {
                Some(Ok(())) => good = middle,
                Some(Err(_)) => bad = middle,
                None => return Ok(None),
            }
        }
        let mut what = String::new();
        for _ in 0..BLAMES {
            match self.saving(bad)? {
                Some(Err(poison)) => what = poison.to_string(),
                _ => return Ok(None),
            }
        }
        let mut last = None;
        self.each(bad, |records| {
            last = records.into_iter().next_back();
            Ok::<(), LogError>(())
        })?;
        Ok(last.and_then(|record| culprit(&record, what)))
    }

    /// Can the first `count` changes be saved and loaded? `None` if they cannot even be applied.
    fn saving(&self, count: u64) -> Result<Option<Result<(), Box<Poison>>>, LogError> {
        Ok(self.build(count)?.ok().map(|replica| replica.save_verified().map(drop)))
    }

    /// These changes of the passage and all that depend on them.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn with_dependants(&self, culprits: &[Culprit]) -> Result<HashSet<ChangeHash>, LogError> {
        let mut found: HashSet<ChangeHash> = culprits.iter().map(|culprit| culprit.hash).collect();
        self.each(u64::MAX, |records| {
            for record in records {
                let Ok(header) = parse_header(&record.change, &ChangeLimits::DEFAULT) else { continue };
                if header.deps.iter().any(|dep| found.contains(&dep)) {
                    found.insert(record.hash);
                }
            }
            Ok::<(), LogError>(())
        })?;
        Ok(found)
    }
}

/// Records that cannot be applied to a document, or not all of them.
struct Broken {
    good: Replica,
    records: Vec<Record>,
}

enum Stop {
    Broken(Vec<Record>),
    Log(LogError),
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl Broken {
    fn prefix(&self, count: usize) -> Result<Replica, Box<Poison>> {
        self.good.clone().apply(self.records.get(..count).unwrap_or_default())
    }

    /// The first record with which they cannot be applied; `None` if it cannot be told.
    fn blame(&self) -> Option<Culprit> {
        let (mut good, mut bad) = (0, self.records.len());
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            match self.prefix(middle) {
                Ok(_) => good = middle,
                Err(_) => bad = middle,
            }
        }
        let record = self.records.get(good)?;
        let before = self.prefix(good).ok()?;
        let mut what = String::new();
        for _ in 0..BLAMES {
            what = before.clone().apply(std::slice::from_ref(record)).err()?.to_string();
        }
        culprit(record, what)
    }
}

fn culprit(record: &Record, what: String) -> Option<Culprit> {
    let header = parse_header(&record.change, &ChangeLimits::DEFAULT).ok()?;
    Some(Culprit { hash: record.hash, actor: header.actor_id(), what })
}
