//! Which documents have changes that their replica lacks: a table, not a queue of changes.
//!
//! The commit thread tells it of every commit; a document that is told of again and again stays one entry. So it is
//! bounded by the number of documents, and what waits for a document is read from the log when its turn comes.
//! When too much waits, the table holds commits back until a quarter of that is done.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etherply_engine::ids::DocumentId;
use etherply_engine::log::Append;

use crate::storage::Gate;

/// Changes that may wait for a materialiser before commits are held back.
pub const LAG_RECORDS_MAX: u64 = 200_000;
/// Documents that may wait for a materialiser before commits are held back.
pub const LAG_DOCUMENTS_MAX: usize = 100_000;
/// How long a document waits for more changes to come, which then cost little more than the first.
pub const GATHER: Duration = Duration::from_secs(1);
/// So many changes are worth a turn after [`GATHER`].
pub const GATHER_RECORDS_MIN: u64 = 16;
/// How long a document waits that has fewer: what a turn takes, however small, is then paid by all of them. Nobody
/// waits so when much waits.
pub const GATHER_FEW: Duration = Duration::from_secs(5);
/// How long a document without a replica waits for more changes, while memory has room for no other replica: all of
/// it has to be built for the first of them.
pub const GATHER_COLD: Duration = Duration::from_secs(10);

/// Tells everybody whose commits were held back that there is room again.
pub type Room = Arc<dyn Fn() + Send + Sync>;

/// What waits for one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Changes, about: those that came while it had its last turn may have been part of that.
    pub records: u64,
    /// Its last position, as far as it was told.
    pub newest_seq: u64,
    /// Since when the first of them waits.
    pub since: Instant,
}

/// What a materialiser is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Work on this document.
    Turn(DocumentId, Waiting),
    /// Nothing is due.
    Idle,
    /// The server stops.
    Stop,
}

/// The table of one materialiser.
pub struct Due {
    inner: Mutex<Inner>,
    wake: Condvar,
    gate: Arc<Gate>,
    room: Room,
    gather_few: Duration,
    gather_cold: Duration,
    records_max: u64,
}

#[derive(Default)]
struct Inner {
    documents: HashMap<DocumentId, Waiting>,
    /// Each document of the table once, in one of these.
    order: VecDeque<DocumentId>,
    few: VecDeque<DocumentId>,
    cold: VecDeque<DocumentId>,
    /// Documents that somebody else has, who gives them back.
    given_away: HashSet<DocumentId>,
    records: u64,
    is_stopped: bool,
}

impl std::fmt::Debug for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Due").finish_non_exhaustive()
    }
}

impl Due {
    /// An empty table, for which `records_max` changes may wait before commits are held back.
    pub fn new(gate: Arc<Gate>, room: Room, records_max: u64) -> Self {
        let (inner, wake) = (Mutex::default(), Condvar::new());
        Self { inner, wake, gate, room, gather_few: GATHER_FEW, gather_cold: GATHER_COLD, records_max }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These have become durable. Called on the commit thread: it does not block for long.
    pub fn told(&self, append: &Append) {
        let newest_seq = append.records.last().map_or(0, |record| record.seq);
        self.add(&append.document, append.records.len() as u64, newest_seq);
    }

    fn add(&self, document: &DocumentId, records: u64, newest_seq: u64) {
        let mut inner = self.lock();
        if inner.given_away.contains(document) {
            return;
        }
        inner.records += records;
        if let Some(waiting) = inner.documents.get_mut(document) {
            waiting.records += records;
            waiting.newest_seq = newest_seq;
        } else {
            let waiting = Waiting { records, newest_seq, since: Instant::now() };
            inner.documents.insert(document.clone(), waiting);
            inner.order.push_back(document.clone());
            // Otherwise it waits for the first one's time already.
            if inner.documents.len() == 1 {
                self.wake.notify_one();
            }
        }
        if inner.records > self.records_max || inner.documents.len() > LAG_DOCUMENTS_MAX {
            self.gate.set_closed(!inner.is_stopped);
        }
    }

    /// A document is no longer this materialiser's work: what comes for it is passed over.
    pub fn give_away(&self, document: &DocumentId) {
        let mut inner = self.lock();
        if let Some(waiting) = inner.documents.remove(document) {
            inner.records = inner.records.saturating_sub(waiting.records);
        }
        inner.given_away.insert(document.clone());
        self.open_gate(inner);
    }

    /// Commits are held back no longer if enough is done.
    fn open_gate(&self, inner: MutexGuard<'_, Inner>) {
        let has_room =
            inner.records <= self.records_max / 4 * 3 && inner.documents.len() <= LAG_DOCUMENTS_MAX / 4 * 3;
        if has_room && self.gate.is_closed() {
            self.gate.set_closed(false);
            drop(inner);
            (self.room)();
        }
    }

    /// How often commits were held back, by whatever table.
    pub fn holds(&self) -> u64 {
        self.gate.closings()
    }

    /// It is again; if `looks`, all that has come meanwhile is its next work, otherwise what comes next.
    pub fn give_back(&self, document: &DocumentId, looks: bool) {
        self.lock().given_away.remove(document);
        if looks {
            self.add(document, 0, u64::MAX);
        }
    }

    /// Waits until something is due, `pause` at least and `patience` at the most; that document's entry leaves the
    /// table. `is_cold` says of which documents it takes more to begin.
    pub fn next(
        &self,
        pause: Duration,
        patience: Duration,
        mut is_cold: impl FnMut(&DocumentId, &Waiting) -> bool,
    ) -> Next {
        let begun = Instant::now();
        let mut inner = self.lock();
        loop {
            let now = Instant::now();
            if inner.is_stopped {
                return Next::Stop;
            }
            let mut until = begun + patience;
            if now < begun + pause {
                until = begun + pause;
            } else {
                let gather_few = if self.presses(&inner) { GATHER } else { self.gather_few };
                match inner.pop(now, gather_few, self.gather_cold, &mut is_cold) {
                    Ok(Some((document, waiting))) => return Next::Turn(document, waiting),
                    Ok(None) => {}
                    Err(due_at) => until = until.min(due_at),
                }
                if now >= until {
                    return Next::Idle;
                }
            }
            let wait = until.saturating_duration_since(now);
            inner = self.wake.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// So many of a document's changes are done; if `left` there are more, and it gets another turn behind the
    /// others.
    pub fn done(&self, document: DocumentId, waiting: Waiting, records: u64, left: bool) {
        let mut inner = self.lock();
        let done = if left { records.min(waiting.records) } else { waiting.records };
        inner.records = inner.records.saturating_sub(done);
        if left {
            let rest = waiting.records - done;
            match inner.documents.get_mut(&document) {
                Some(told) => {
                    told.records += rest;
                    told.since = waiting.since;
                }
                None => {
                    inner.documents.insert(document.clone(), Waiting { records: rest, ..waiting });
                    inner.order.push_back(document);
                }
            }
        }
        self.open_gate(inner);
    }

    /// Whether so much waits that it should be worked on without pauses.
    pub fn is_pressing(&self) -> bool {
        self.presses(&self.lock())
    }

    fn presses(&self, inner: &Inner) -> bool {
        inner.records > self.records_max / 4 || inner.documents.len() > LAG_DOCUMENTS_MAX / 4
    }

    /// Changes that wait, and since when the oldest does.
    pub fn lag(&self) -> (u64, Duration) {
        let inner = self.lock();
        let oldest = inner.documents.values().map(|waiting| waiting.since).min();
        (inner.records, oldest.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// The server stops: nothing is held back any more.
    pub fn stop(&self) {
        self.lock().is_stopped = true;
        self.gate.set_closed(false);
        self.wake.notify_all();
        (self.room)();
    }
}

impl Inner {
    /// What is due; or when something will be.
    fn pop(
        &mut self,
        now: Instant,
        gather_few: Duration,
        gather_cold: Duration,
        is_cold: &mut impl FnMut(&DocumentId, &Waiting) -> bool,
    ) -> Result<Option<(DocumentId, Waiting)>, Instant> {
        let mut due_at: Option<Instant> = None;
        while let Some(document) = self.order.pop_front() {
            let Some(waiting) = self.documents.get(&document).copied() else { continue };
            if waiting.since + GATHER > now {
                due_at = Some(waiting.since + GATHER);
                self.order.push_front(document);
                break;
            }
            if waiting.since + gather_cold > now && is_cold(&document, &waiting) {
                self.cold.push_back(document);
                continue;
            }
            if waiting.since + gather_few > now && waiting.records < GATHER_RECORDS_MIN {
                self.few.push_back(document);
                continue;
            }
            self.documents.remove(&document);
            return Ok(Some((document, waiting)));
        }
        for (queue, gather) in [(&mut self.few, gather_few), (&mut self.cold, gather_cold)] {
            while let Some(document) = queue.pop_front() {
                let Some(waiting) = self.documents.get(&document).copied() else { continue };
                if waiting.since + gather <= now {
                    self.documents.remove(&document);
                    return Ok(Some((document, waiting)));
                }
                let at = waiting.since + gather;
                due_at = Some(due_at.map_or(at, |before| before.min(at)));
                queue.push_front(document);
                break;
            }
        }
        due_at.map_or(Ok(None), Err)
    }
}

#[cfg(test)]
#[path = "due_tests.rs"]
mod tests;
