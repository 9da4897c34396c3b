//! A materialiser: one thread that keeps replicas of its documents up to date.
//!
//! Each turn does a bounded piece of one document's work, and what is left of it goes behind the other documents.
//! Unless too much waits, the thread then pauses four times as long as the turn took: it takes a fifth of a
//! processor at the most, and what gathers meanwhile costs less together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherply_engine::ids::DocumentId;
use etherply_engine::log::{LogError, LogReader as _};
use flume::Sender;

use super::due::{Due, Next, Waiting};
use super::inspector::{INSPECTIONS_MAX, Task};
use super::replica::{Opening, OpeningError, Poison, Replica, STEP_BYTES_MAX};
use super::resident::{Progress, Residents, Slot};
use crate::metrics::Metrics;
use crate::storage::Reader;

/// How much longer a pause is than the turn before it.
const PAUSE_TURNS: u32 = 4;
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How often what was not verified is, while nothing else is to be done.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often what is measured is told while there is work; when there is none, at once.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// A replica of at most so many bytes is verified after every turn; a larger one when an eighth of its changes are
/// new, when nothing else is to be done, and before it is let go.
const VERIFIED_ALWAYS_BYTES_MAX: u64 = 96 * 1024;
/// How long a turn begins new pieces of a replica that is being built.
const TURN_MAX: Duration = Duration::from_millis(5);
/// Replicas that are being built at once: they are not let go before they are whole.
const OPENINGS_MAX: usize = 4;
/// A document may take so many times the budget before it is left alone.
pub(super) const BUDGETS_PER_DOCUMENT_MAX: u64 = 8;

/// What the thread works with.
pub struct Worker {
    pub(super) reader: Reader,
    pub(super) due: Arc<Due>,
    pub(super) tables: Arc<[Arc<Due>]>,
    pub(super) inspections: Sender<Task>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) residents: Residents,
    pub(super) bytes_max: u64,
    /// What of the replicas is in the gauges.
    pub(super) told: (i64, i64),
}

/// How a turn ended.
enum Turn {
    /// So many changes were applied; whether there are more.
    Applied { slot: Slot, records: u64, left: bool },
    /// Something in it breaks Automerge.
    Poisoned(Box<Poison>),
    /// The log cannot be read.
    Failed(LogError),
    /// Its replica would take too much memory.
    TooLarge,
}

impl Worker {
    /// Works until the server stops.
    pub(super) fn run(mut self) {
        let mut pause = Duration::ZERO;
        let mut told_at = Instant::now();
        loop {
            let residents = &self.residents;
            // A quarter of its changes being new makes it worth to build all of it.
            let is_cold = |document: &DocumentId, waiting: &Waiting| {
                4 * waiting.records < waiting.newest_seq && !residents.has_or_takes(document)
            };
            let next = self.due.next(pause, PATIENCE.max(pause), is_cold);
            let begun = Instant::now();
            let is_idle = next == Next::Idle;
            match next {
                Next::Stop => return,
                Next::Turn(document, waiting) => self.turn(document, waiting),
                Next::Idle => self.verify_one(),
            }
            if is_idle || told_at.elapsed() >= TELL_EVERY {
                self.tell();
                told_at = Instant::now();
            }
            pause = if self.due.is_pressing() { Duration::ZERO } else { begun.elapsed() * PAUSE_TURNS };
            pause = pause.min(PAUSE_MAX);
        }
    }

    fn turn(&mut self, document: DocumentId, waiting: Waiting) {
        if !self.residents.has(&document) && self.residents.openings() >= OPENINGS_MAX {
            return self.due.done(document, waiting, 0, true);
        }
        let slot = self.residents.take(&document).unwrap_or_else(|| Slot::new(document.clone()));
        let work = AssertUnwindSafe(|| self.work(&document, slot));
        // Automerge's panics are contained where it is called; this is for what they leave behind.
        let turn = catch_unwind(work).unwrap_or_else(|_| {
            Turn::Failed(LogError::Unavailable { why: "the materialiser panicked".to_owned() })
        });
        match turn {
            Turn::Applied { slot, records, left } => {
                self.metrics.materialiser_applied.inc_by(records);
                self.residents.keep(document.clone(), slot);
                self.due.done(document, waiting, records, left);
                while let Some((document, slot)) = self.residents.evict() {
                    if let Some(Err(poison)) = slot.unverified().map(Replica::save_verified) {
                        self.give_away(document, &poison);
                    }
                }
            }
            Turn::Poisoned(poison) => {
                self.due.done(document.clone(), waiting, 0, false);
                self.give_away(document, &poison);
            }
            // Nobody needs it any more.
            Turn::Failed(LogError::Deleted { .. }) => self.due.done(document, waiting, 0, false),
            Turn::Failed(error) => {
                tracing::warn!("{document} is not materialised, until it changes again: {error}");
                self.metrics.materialiser_failures.with_label_values(&["log"]).inc();
                self.due.done(document, waiting, 0, false);
            }
            Turn::TooLarge => {
                tracing::warn!(
                    "{document} is too large to be materialised, so its changes are not validated: raise \\
                     --materialised-bytes"
                );
                self.metrics.materialiser_failures.with_label_values(&["too_large"]).inc();
                self.due.done(document, waiting, 0, false);
            }
        }
    }

    fn work(&self, document: &DocumentId, slot: Slot) -> Turn {
        let Slot { progress, verified_seq } = slot;
        let turn = match progress {
            Progress::Opening(opening) => self.open(opening),
            Progress::Ready(replica) => self.apply(document, *replica, verified_seq),
        };
        let turn = turn.unwrap_or_else(|error| match error {
            // A snapshot took the records that it lacks: it begins anew, with that.
            OpeningError::Log(LogError::Covered { .. }) => {
                Turn::Applied { slot: Slot::new(document.clone()), records: 0, left: true }
            }
            OpeningError::Log(error) => Turn::Failed(error),
            OpeningError::Poison(poison) => Turn::Poisoned(poison),
        });
        match turn {
            Turn::Applied { slot, .. } if slot.bytes() > BUDGETS_PER_DOCUMENT_MAX * self.bytes_max => {
                Turn::TooLarge
            }
            Turn::Applied { slot, records, left: false } => self.verify_if_due(slot, records),
            turn => turn,
        }
    }

    fn open(&self, mut opening: Opening) -> Result<Turn, OpeningError> {
        let begun = Instant::now();
        while begun.elapsed() < TURN_MAX {
            if let Some(replica) = opening.step(&self.reader)? {
                self.metrics.materialiser_opened.inc();
                let (records, verified_seq) = (replica.cursor().seq, replica.saved_seq());
                let slot = Slot { progress: Progress::Ready(Box::new(replica)), verified_seq };
                return Ok(Turn::Applied { slot, records, left: false });
            }
        }
        let slot = Slot { progress: Progress::Opening(opening), verified_seq: 0 };
        Ok(Turn::Applied { slot, records: 0, left: true })
    }

    fn apply(
        &self,
        document: &DocumentId,
        replica: Replica,
        verified_seq: u64,
    ) -> Result<Turn, OpeningError> {
        let cursor = replica.cursor();
        let head = self.reader.head(document)?.filter(|head| head.epoch == cursor.epoch);
        let Some(head) = head else {
            // It began anew.
            return Ok(Turn::Applied { slot: Slot::new(document.clone()), records: 0, left: true });
        };
        let records = self.reader.read(document, cursor.epoch, cursor.seq, u64::MAX, STEP_BYTES_MAX)?;
        let replica = replica.apply(&records)?;
        let left = replica.cursor().seq < head.last_seq;
        let slot = Slot { progress: Progress::Ready(Box::new(replica)), verified_seq };
        Ok(Turn::Applied { slot, records: records.len() as u64, left })
    }

    fn verify_if_due(&self, slot: Slot, records: u64) -> Turn {
        let verified_seq = slot.verified_seq;
        let is_due = |replica: &&Replica| {
            let seq = replica.cursor().seq;
            replica.bytes() <= VERIFIED_ALWAYS_BYTES_MAX || (seq - verified_seq) * 8 >= seq
        };
        match slot.unverified().filter(is_due).map(|replica| (replica.save_verified(), replica.cursor().seq))
        {
            Some((Err(poison), _)) => Turn::Poisoned(poison),
            Some((Ok(_), seq)) => {
                self.metrics.materialiser_verified.inc();
                Turn::Applied { slot: Slot { verified_seq: seq, ..slot }, records, left: false }
            }
            None => Turn::Applied { slot, records, left: false },
        }
    }

    /// Verifies a replica that waited for a quiet moment.
    fn verify_one(&mut self) {
        let Some(document) = self.residents.oldest_unverified() else { return };
        let Some(slot) = self.residents.take(&document) else { return };
        match slot.unverified().map(|replica| (replica.save_verified(), replica.cursor().seq)) {
            Some((Err(poison), _)) => self.give_away(document, &poison),
            Some((Ok(_), seq)) => {
                self.metrics.materialiser_verified.inc();
                self.residents.keep(document, Slot { verified_seq: seq, ..slot });
            }
            None => self.residents.keep(document, slot),
        }
    }

    fn give_away(&mut self, document: DocumentId, poison: &Poison) {
        tracing::warn!("{poison}: looking for the change that is to blame");
        // Before it is asked for, because the answer gives it back.
        self.due.give_away(&document);
        let has_room = self.inspections.len() < INSPECTIONS_MAX;
        if !has_room || self.inspections.try_send(Task::Inspect(document.clone())).is_err() {
            tracing::warn!("too many documents wait to be inspected: {document} is when it changes again");
            self.due.give_back(&document, false);
        }
    }

    /// Brings the gauges up to date.
    fn tell(&mut self) {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let now = (signed(self.residents.count() as u64), signed(self.residents.bytes()));
        self.metrics.materialiser_documents.add(now.0 - self.told.0);
        self.metrics.materialiser_bytes.add(now.1 - self.told.1);
        self.told = now;
        let lags = self.tables.iter().map(|table| table.lag());
        let (records, oldest) =
            lags.fold((0, Duration::ZERO), |(sum, oldest), (records, age)| (sum + records, oldest.max(age)));
        // The gate is everybody's: one of them tells of it.
        if self.tables.first().is_some_and(|first| Arc::ptr_eq(first, &self.due)) {
            let told = self.metrics.materialiser_holds.get();
            self.metrics.materialiser_holds.inc_by(self.due.holds().saturating_sub(told));
        }
        self.metrics.materialiser_lag_records.set(signed(records));
        self.metrics.materialiser_lag_seconds.set(oldest.as_secs_f64());
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
