//! Holds changes against their document before they are stored: what `--admission verified` adds.
//!
//! Threads of its own with replicas of their own, which end where the log does. A document is one thread's. What it
//! takes to build a replica is done in bounded steps by turns, so that a long document does not hold up the others.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use clap::ValueEnum;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::LogError;
use etherply_engine::record::Record;
use etherply_engine::shard::Unverified;
use etherply_wire::kinds::Cursor;
use flume::{Receiver, Sender};
use xxhash_rust::xxh3::xxh3_64;

use super::ask::{Asked, ask};
use super::replica::{Opening, OpeningError, Poison, Replica};
use super::resident::{Progress, Residents, Slot};
use super::worker::BUDGETS_PER_DOCUMENT_MAX;
use crate::metrics::Metrics;
use crate::priority;
use crate::storage::Reader;

/// A replica of at most so many bytes, estimated, is also saved and loaded again before its changes are stored. That of
/// a larger one is only applied to: saving and loading is the materialiser's, behind the log.
pub const VERIFIED_SAVED_BYTES_MAX: u64 = 512 * 1024;

/// Most documents whose changes wait for one thread, beside as many that it has begun with; beyond, pushes are refused
/// as [`etherply_wire::ErrorCode::StorageUnavailable`] and come again.
pub const VERIFICATIONS_MAX: usize = 16_384;

/// What a change has to pass before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Admission {
    /// All that can be told without building the document; it is built behind the log
    Checked,
    /// That, and the document is built with it first: takes time in proportion to the document
    Verified,
}

/// Gets the outcome, on another thread.
pub type Answer = Box<dyn FnOnce(Result<(), Unverified>) + Send>;

/// What is to be verified. There is at most one for a document at a time, and their bytes are bounded by what
/// connections may have in flight.
struct Task {
    document: DocumentId,
    after: Cursor,
    records: Vec<Record>,
    answer: Answer,
}

impl Asked for Task {
    fn refuse(self, why: &str) {
        (self.answer)(Err(Unverified::Unavailable { why: why.to_owned() }));
    }
}

/// A task under way.
struct Job {
    task: Task,
    step: Step,
}

enum Step {
    /// Its replica may be in memory.
    Begin,
    /// Its replica is being built; whether its records failed together before.
    Build { opening: Opening, alone: bool },
}

/// The way to the threads; cheap to clone. It asks nobody where changes are not verified.
#[derive(Debug, Clone)]
pub struct Verifier(Option<Arc<[Sender<Task>]>>);

impl Verifier {
    /// Whether changes are verified.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Asks whether a document, as it is up to a durable place, is whole with these records behind it.
    pub fn ask(&self, document: DocumentId, after: Cursor, records: Vec<Record>, answer: Answer) {
        let task = Task { document, after, records, answer };
        let threads = self.0.as_deref().unwrap_or_default();
        let hash = xxh3_64(task.document.as_str().as_bytes());
        let at = usize::try_from(hash % (threads.len().max(1) as u64)).unwrap_or(0);
        ask(threads.get(at), task);
    }
}

/// The threads. They end when nobody can ask them any more.
#[derive(Debug)]
pub struct VerifierThreads(Vec<JoinHandle<()>>);

impl VerifierThreads {
    /// None, where changes are not verified.
    pub fn none() -> (Verifier, Self) {
        (Verifier(None), Self(Vec::new()))
    }

    /// Starts `threads` threads, at least one, with replicas of `bytes_max` together.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        threads: u16,
        bytes_max: u64,
        reader: &Reader,
        metrics: &Arc<Metrics>,
    ) -> io::Result<(Verifier, Self)> {
        let threads = threads.max(1);
        let bytes_max = bytes_max / u64::from(threads);
        let (mut ways, mut handles) = (Vec::new(), Vec::new());
        for number in 0..threads {
            let (way, tasks) = flume::bounded(VERIFICATIONS_MAX);
            let verifying = Verifying {
                reader: reader.clone(),
                residents: Residents::new(bytes_max),
                bytes_max,
                metrics: Arc::clone(metrics),
            };
            let thread = std::thread::Builder::new().name(format!("verify-{number}")).spawn(move || {
                // Clients wait for it, executors do not.
                priority::lower();
                verifying.run(&tasks);
            })?;
            ways.push(way);
            handles.push(thread);
        }
        Ok((Verifier(Some(ways.into())), Self(handles)))
    }

    /// Waits for the threads' end.
    pub fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a thread that verifies changes panicked: see the message above");
            }
        }
    }
}

struct Verifying {
    reader: Reader,
    residents: Residents,
    bytes_max: u64,
    metrics: Arc<Metrics>,
}

/// How a step ended.
enum Stepped {
    Done(Result<(), Unverified>),
    Goes(Step),
}

impl Verifying {
    fn run(mut self, tasks: &Receiver<Task>) {
        let mut jobs: VecDeque<Job> = VecDeque::new();
        loop {
            let new = match jobs.len() {
                0 => tasks.recv().ok(),
                VERIFICATIONS_MAX.. => None,
                _ => tasks.try_recv().ok(),
            };
            if new.is_none() && jobs.is_empty() {
                return;
            }
            // A new one has its first step at once: most have a replica.
            let job = new.map(|task| Job { task, step: Step::Begin }).or_else(|| jobs.pop_front());
            let Some(Job { task, step }) = job else { continue };
            let work = AssertUnwindSafe(|| self.step(&task, step));
            // Automerge's panics are contained where it is called.
            let stepped = catch_unwind(work).unwrap_or_else(|_| {
                let why = "the server's code panicked".to_owned();
                Stepped::Done(Err(Unverified::Unavailable { why }))
            });
            match stepped {
                Stepped::Goes(step) => jobs.push_back(Job { task, step }),
                Stepped::Done(result) => {
                    self.count(&task, &result);
                    (task.answer)(result);
                }
            }
        }
    }

    fn count(&self, task: &Task, result: &Result<(), Unverified>) {
        let outcome = match result {
            Ok(()) => "sound",
            Err(Unverified::Breaks { index, what }) => {
                let hash = task.records.get(*index).map(|record| record.hash.to_string()).unwrap_or_default();
                tracing::warn!(
                    "{}: change {hash} was not stored, it breaks the document: {what}",
                    task.document
                );
                "breaks"
            }
            Err(Unverified::TooLarge { .. }) => "too_large",
            Err(Unverified::Unavailable { why }) => {
                tracing::warn!(
                    "{}: changes could not be verified, and were not stored: {why}",
                    task.document
                );
                "unavailable"
            }
        };
        self.metrics.verifications.with_label_values(&[outcome]).inc();
    }

    fn step(&mut self, task: &Task, step: Step) -> Stepped {
        let Task { document, after, .. } = task;
        let build = |alone| {
            let opening = Opening::through(document.clone(), after.seq);
            Stepped::Goes(Step::Build { opening, alone })
        };
        match step {
            Step::Begin => match self.residents.take(document).map(|slot| slot.progress) {
                Some(Progress::Ready(replica)) if replica.cursor() == *after => self.apply(task, *replica),
                // It began anew, or what it has was never stored.
                _ if after.seq == 0 => self.apply(task, Replica::new(document.clone(), after.epoch)),
                _ => build(false),
            },
            Step::Build { mut opening, alone } => match opening.step(&self.reader) {
                Ok(None) if opening.bytes() > self.document_bytes_max() => {
                    Stepped::Done(self.too_large(document))
                }
                Ok(None) => Stepped::Goes(Step::Build { opening, alone }),
                Ok(Some(replica)) if replica.cursor() != *after => {
                    let why = "the document began anew".to_owned();
                    Stepped::Done(Err(Unverified::Unavailable { why }))
                }
                Ok(Some(replica)) if alone => Stepped::Done(self.apply_alone(task, replica)),
                Ok(Some(replica)) => self.apply(task, replica),
                // A snapshot took the records that it lacks: it begins anew, with that.
                Err(OpeningError::Log(LogError::Covered { .. })) => build(alone),
                Err(OpeningError::Log(error)) => {
                    Stepped::Done(Err(Unverified::Unavailable { why: error.to_string() }))
                }
                // What is stored is broken already, which the materialiser finds as well.
                Err(OpeningError::Poison(poison)) => {
                    Stepped::Done(Err(Unverified::Unavailable { why: poison.to_string() }))
                }
            },
        }
    }

    /// Applies all records together. If that fails, which of them is to blame is found with a new replica.
    fn apply(&mut self, task: &Task, replica: Replica) -> Stepped {
        match check(replica, &task.records) {
            Ok(replica) => Stepped::Done(self.keep(replica)),
            Err(_) if task.after.seq == 0 => {
                Stepped::Done(self.apply_alone(task, Replica::new(task.document.clone(), task.after.epoch)))
            }
            Err(_) => {
                let opening = Opening::through(task.document.clone(), task.after.seq);
                Stepped::Goes(Step::Build { opening, alone: true })
            }
        }
    }

    /// Applies one record after the other: so the first that fails is to blame. None may: then the first failure
    /// had another cause.
    fn apply_alone(&mut self, task: &Task, mut replica: Replica) -> Result<(), Unverified> {
        for (index, record) in task.records.iter().enumerate() {
            let applied = check(replica, std::slice::from_ref(record));
            replica = applied.map_err(|poison| Unverified::Breaks { index, what: poison.what })?;
        }
        self.keep(replica)
    }

    fn keep(&mut self, replica: Replica) -> Result<(), Unverified> {
        let document = replica.document().clone();
        let slot = Slot { progress: Progress::Ready(Box::new(replica)), verified_seq: 0 };
        if slot.bytes() > self.document_bytes_max() {
            return self.too_large(&document);
        }
        self.residents.keep(document, slot);
        while self.residents.evict().is_some() {}
        Ok(())
    }

    fn document_bytes_max(&self) -> u64 {
        BUDGETS_PER_DOCUMENT_MAX * self.bytes_max
    }

    fn too_large(&self, document: &DocumentId) -> Result<(), Unverified> {
        let what = format!(
            "{document} takes more memory than a document may whose changes are verified ({} bytes): go on in a new \
             document, or raise --materialised-bytes",
            self.document_bytes_max()
        );
        Err(Unverified::TooLarge { what })
    }
}

/// Applies records, and looks whether what comes of it can be saved and loaded.
fn check(replica: Replica, records: &[Record]) -> Result<Replica, Box<Poison>> {
    let replica = replica.apply(records)?;
    if replica.bytes() <= VERIFIED_SAVED_BYTES_MAX {
        replica.save_verified()?;
    }
    Ok(replica)
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
