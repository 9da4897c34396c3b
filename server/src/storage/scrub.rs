//! The scrub: proves all documents over days, while the server runs.
//!
//! A document is proven when it is first opened, so damage in one that nobody opens would wait until the last good
//! backup is gone. This reads every document from its beginning, in small steps with pauses between them, on a
//! thread of the lowest priority. Damage is logged and counted; the document is refused when somebody opens it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etherply_engine::ids::DocumentId;
use etherply_engine::log::LogError;
use flume::{Receiver, RecvTimeoutError, Sender};

use super::listing::DocumentEntry;
use super::proof::{Anchor, Proof};
use super::reader::Reader;
use super::stats::{StorageStats, add};
use super::thread::StorageThread;

/// Rows that are read in one step; a document's snapshot is read in one as well.
pub const SCRUB_STEP_ROWS_MAX: usize = 64;
/// Slowest pace, so that a small directory is not read a byte a minute.
pub const SCRUB_BYTES_PER_S_MIN: u64 = 64 * 1024;
/// Fastest pace, however much there is to read in the days given.
pub const SCRUB_BYTES_PER_S_MAX: u64 = 8 * 1024 * 1024;
/// Days of one cycle unless it is said otherwise.
pub const SCRUB_DAYS: u16 = 7;
/// Most days of one cycle.
pub const SCRUB_DAYS_MAX: u16 = 365;
/// What a document counts beside its changes: finding it takes a read.
const DOCUMENT_BYTES: u64 = 4 * 1024;
/// Pause behind an error that is none of a document, and between cycles.
const REST: Duration = Duration::from_secs(60);
const DAY_S: u64 = 24 * 60 * 60;

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It read so many bytes, more or less.
    Read(u64),
    /// All documents were read.
    CycleEnds,
}

/// A walk through all documents, in steps.
#[derive(Debug)]
pub struct Scrub {
    reader: Reader,
    stats: Arc<StorageStats>,
    last: Option<DocumentId>,
    proof: Option<(DocumentId, Proof)>,
}

impl Scrub {
    /// Begins with the first document.
    pub fn new(reader: Reader, stats: Arc<StorageStats>) -> Self {
        Self { reader, stats, last: None, proof: None }
    }

    /// Goes on.
    ///
    /// # Errors
    /// That the log cannot be read, or the list of documents is damaged where no document tells of it: then the cycle
    /// begins anew.
    pub fn step(&mut self) -> Result<Step, LogError> {
        match self.proof.take() {
            Some((document, proof)) => self.prove(document, proof),
            None => self.next_document(),
        }
    }

    fn next_document(&mut self) -> Result<Step, LogError> {
        let page = self.reader.documents("", self.last.as_ref(), 1).inspect_err(|_| self.last = None)?;
        let Some(entry) = page.into_iter().next() else {
            self.last = None;
            add(&self.stats.scrub_cycles, 1);
            return Ok(Step::CycleEnds);
        };
        let DocumentEntry { document, head } = entry;
        self.last = Some(document.clone());
        let read = head.and_then(|head| Ok((head.epoch, self.reader.snapshot(&document, head.epoch)?)));
        let (epoch, bytes) = match read {
            Ok((epoch, snapshot)) => (epoch, snapshot.map_or(0, |(_, bytes)| bytes.len() as u64)),
            Err(damage @ LogError::Damaged { .. }) => {
                self.ended(Some(damage));
                return Ok(Step::Read(DOCUMENT_BYTES));
            }
            Err(error) => return Err(error),
        };
        add(&self.stats.scrub_bytes, bytes);
        let anchor = Anchor::beginning(&document, epoch);
        self.proof = Some((document.clone(), Proof::from(document, anchor)));
        Ok(Step::Read(DOCUMENT_BYTES + bytes))
    }

    fn prove(&mut self, document: DocumentId, mut proof: Proof) -> Result<Step, LogError> {
        match self.take_rows(&document, &mut proof) {
            Ok(Some(bytes)) => {
                self.proof = Some((document, proof));
                return Ok(Step::Read(bytes));
            }
            Ok(None) => self.ended(None),
            Err(damage @ LogError::Damaged { .. }) => self.ended(Some(damage)),
            Err(error) => {
                self.proof = Some((document, proof));
                return Err(error);
            }
        }
        Ok(Step::Read(0))
    }

    /// Proves the next rows of a document; how many bytes of changes they have, or that there are no more.
    fn take_rows(&self, document: &DocumentId, proof: &mut Proof) -> Result<Option<u64>, LogError> {
        let Anchor { epoch, seq, .. } = proof.through();
        let rows = self.reader.rows(document, epoch, seq, u64::MAX, SCRUB_STEP_ROWS_MAX)?;
        if rows.is_empty() {
            return match self.reader.head(document)? {
                Some(head) if head.epoch == epoch && head.last_seq > seq => {
                    let what = format!("the log ends here, but should go to {}", head.last_seq);
                    Err(LogError::damaged(document, seq + 1, what))
                }
                // All of it; or it began anew meanwhile, and will be read in the next cycle.
                _ => Ok(None),
            };
        }
        let bytes = rows.iter().map(|row| row.change_bytes() as u64).sum();
        add(&self.stats.scrub_bytes, bytes);
        for row in &rows {
            proof.take_row(row).map_err(|what| LogError::damaged(document, row.seq(), what))?;
        }
        Ok(Some(bytes))
    }

    /// A document is done.
    fn ended(&self, damage: Option<LogError>) {
        add(&self.stats.scrub_documents, 1);
        if let Some(damage) = damage {
            add(&self.stats.scrub_damaged, 1);
            tracing::error!(
                "the scrub found damage: {damage}. Members that open the document are refused, the others are \
                 served. Stop the server when you can, see `etherply verify`, and restore a backup or use \
                 `etherply repair`"
            );
        }
    }
}

/// Ends the scrub when it is dropped.
#[derive(Debug)]
pub struct ScrubStop {
    _stop: Sender<()>,
}

/// Starts the thread that scrubs: once through everything in so many days, as far as the bounds on its pace allow.
/// `on_start` runs on it first: the place to set its priority.
pub fn spawn_scrub(
    reader: Reader,
    stats: Arc<StorageStats>,
    days: u16,
    on_start: impl FnOnce() + Send + 'static,
) -> io::Result<(ScrubStop, StorageThread)> {
    let (stop, stopped) = flume::bounded(0);
    let thread = std::thread::Builder::new().name("scrub".to_owned()).spawn(move || {
        on_start();
        let scrub = Scrub::new(reader.clone(), stats);
        run(scrub, &reader, days, &stopped);
    })?;
    Ok((ScrubStop { _stop: stop }, StorageThread::new(thread)))
}

fn run(mut scrub: Scrub, reader: &Reader, days: u16, stopped: &Receiver<()>) {
    let mut bytes_per_s = pace(reader, days);
    let mut rest = Duration::ZERO;
    while stopped.recv_timeout(rest) == Err(RecvTimeoutError::Timeout) {
        rest = match scrub.step() {
            Ok(Step::Read(bytes)) => Duration::from_micros(bytes.saturating_mul(1_000_000) / bytes_per_s),
            Ok(Step::CycleEnds) => {
                bytes_per_s = pace(reader, days);
                REST
            }
            Err(error) => {
                tracing::warn!("the scrub rests: {error}");
                scrub
                    .stats
                    .scrub_damaged
                    .fetch_add(u64::from(matches!(error, LogError::Damaged { .. })), Ordering::Relaxed);
                REST
            }
        };
    }
}

/// Bytes a second by which everything is read in so many days, within bounds.
fn pace(reader: &Reader, days: u16) -> u64 {
    let bytes = reader.disk_bytes().unwrap_or(0);
    let bytes_per_s = bytes / (u64::from(days.max(1)) * DAY_S);
    bytes_per_s.clamp(SCRUB_BYTES_PER_S_MIN, SCRUB_BYTES_PER_S_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::damage_tests::{MADE, scratch, verify};
    use super::super::testing::RealAuthor;
    use super::*;
    use etherply_engine::log::Log;

    fn cycle(scrub: &mut Scrub) -> usize {
        let mut steps = 1;
        while scrub.step().unwrap() != Step::CycleEnds {
            steps += 1;
        }
        steps
    }

    #[test]
    fn a_cycle_proves_every_document_in_bounded_steps() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = super::super::open(directory.path()).unwrap();
        let mut author = RealAuthor::new();
        let long = "x".repeat(2_000);
        log.commit(&[author.append_text("long", 150, &long), author.append("short", 3)]).unwrap();
        let stats = Arc::clone(log.stats());
        let mut scrub = Scrub::new(log.reader().clone(), Arc::clone(&stats));
        let steps = cycle(&mut scrub);
        // Each document begins and ends, the long one in three reads, the short one in one; and the cycle's end.
        assert_eq!(steps, 2 + 2 + 3 + 1 + 1, "for 150 and 3 records");
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((count(&stats.scrub_documents), count(&stats.scrub_cycles)), (2, 1));
        assert_eq!(count(&stats.scrub_damaged), 0);
        assert!(count(&stats.scrub_bytes) > 240_000);
        // What comes meanwhile is read in its turn.
        log.commit(&[author.append("new", 1)]).unwrap();
        cycle(&mut scrub);
        assert_eq!((count(&stats.scrub_documents), count(&stats.scrub_cycles)), (5, 2));
    }

    #[test]
    fn damage_is_counted_and_the_other_documents_are_proven() {
        let scratch = scratch();
        let root = scratch.path().join("data");
        MADE.write_flipped(&root, "fjall/keyspaces/1/tables/1", |bytes| bytes / 2);
        // It finds what a look from outside finds.
        let damaged = verify(&root).documents_damaged;
        assert!(damaged > 0);
        let log = super::super::open(&root).unwrap();
        let stats = Arc::clone(log.stats());
        cycle(&mut Scrub::new(log.reader().clone(), Arc::clone(&stats)));
        assert_eq!(stats.scrub_documents.load(Ordering::Relaxed), 7);
        assert_eq!(stats.scrub_damaged.load(Ordering::Relaxed), damaged);
    }

    #[test]
    fn the_thread_scrubs_and_ends_when_it_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = super::super::open(directory.path()).unwrap();
        log.commit(&[RealAuthor::new().append("a", 3)]).unwrap();
        let stats = Arc::clone(log.stats());
        let (stop, thread) =
            spawn_scrub(log.reader().clone(), Arc::clone(&stats), SCRUB_DAYS, || {}).unwrap();
        while stats.scrub_cycles.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        drop(stop);
        thread.join();
    }
}
