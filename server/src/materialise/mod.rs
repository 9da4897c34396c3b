//! Automerge documents, built in the background from what is durable. The only module that knows Automerge.
//!
//! ```text
//! ask         the way of a task to one of these threads
//! replica     one document as Automerge has it, up to a position of its log
//! cut         a snapshot is made of a document
//! squash      a document without its history
//! whole       the log as if no snapshot covered any of it
//! depth       how deep objects are nested, and a stack that is deep enough
//! due         which documents have changes that their replica lacks
//! memory      what cuts take, and how it is given back
//! resident    replicas in memory, under a budget
//! worker      a thread that keeps them up to date, and so validates every change for good
//! verify      changes are held against their document before they are stored, where that is asked for
//! passage     a log without some of its changes, and what of it breaks Automerge
//! inspector   the thread that finds what breaks a document, and gives it an epoch without that
//! quarantine  what was taken out, kept for operators
//! faults      panics on purpose, for tests
//! ```

mod ask;
pub mod cut;
pub mod depth;
pub mod due;
mod faults;
pub mod inspector;
pub mod memory;
mod passage;
pub mod quarantine;
pub mod replica;
#[cfg(test)]
mod replica_tests;
mod resident;
pub mod squash;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;
pub mod whole;
mod worker;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use etherply_engine::ids::DocumentId;
use etherply_engine::log::Append;
use flume::Sender;
use xxhash_rust::xxh3::xxh3_64;

use crate::metrics::Metrics;
use crate::priority;
use crate::storage::{Committer, Gate, Reader};
use ask::ask;
use due::{Due, Room};
use inspector::{Inspector, Quarantining, Rebuilt, SquashAnswer, TASKS_MAX, Task};
use memory::CutMemory;
pub use quarantine::Quarantine;
pub use replica::{Opening, OpeningError, Poison, Replica};
use resident::Residents;
use worker::Worker;

/// Most materialiser threads.
pub const MATERIALISERS_MAX: u16 = 64;
/// Bytes of memory that replicas may take together, unless it is said otherwise.
pub const MATERIALISED_BYTES: u64 = 64 * 1024 * 1024;
/// Least that an operator may ask for.
pub const MATERIALISED_BYTES_MIN: u64 = 1024 * 1024;
/// Most that an operator may ask for.
pub const MATERIALISED_BYTES_MAX: u64 = 1024 * 1024 * 1024 * 1024;

/// How to materialise.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Threads; with 0 nothing is materialised.
    pub threads: u16,
    /// Bytes of memory that replicas may take together.
    pub bytes_max: u64,
    /// Changes that may wait before commits are held back.
    pub lag_records_max: u64,
}

/// What is told of commits, before there is anything to tell it to.
pub struct Tables {
    tables: Arc<[Arc<Due>]>,
}

impl Tables {
    /// A table for each thread. `gate` is closed while too much waits, and `room` called when it opens again.
    pub fn new(settings: Settings, gate: &Arc<Gate>, room: &Room) -> Self {
        let table = |_| Arc::new(Due::new(Arc::clone(gate), Arc::clone(room), settings.lag_records_max));
        Self { tables: (0..settings.threads).map(table).collect() }
    }

    /// What hears of every commit.
    pub fn durable(&self) -> crate::storage::Durable {
        let tables = Arc::clone(&self.tables);
        Arc::new(move |appends: &[Append]| {
            for append in appends.iter().filter(|_| !tables.is_empty()) {
                table_of(&tables, &append.document).told(append);
            }
        })
    }
}

/// The table of a document's materialiser. There is at least one.
fn table_of<'t>(tables: &'t [Arc<Due>], document: &DocumentId) -> &'t Due {
    let hash = xxh3_64(document.as_str().as_bytes());
    let at = usize::try_from(hash % (tables.len().max(1) as u64)).unwrap_or(0);
    #[allow(clippy::indexing_slicing, reason = "a remainder is less than what it is of")]
    &tables[at]
}

/// The way to the thread that gives documents a new epoch; cheap to clone.
#[derive(Debug, Clone)]
pub struct Rebuilds(Option<Sender<Task>>);

impl Rebuilds {
    /// Gives a document a new epoch without what breaks it. Nothing of it may be on its way to the disk until
    /// `rebuilt` is called, on another thread, or at once if that is not possible.
    pub fn rebuild(&self, document: DocumentId, rebuilt: Rebuilt) {
        ask(self.0.as_ref(), Task::Rebuild(document, rebuilt));
    }

    /// Gives a document an epoch that holds what it says now and nothing of how it came to be: see
    /// [`squash::squash`]. Its members' streams end with [`etherply_wire::ErrorCode::DocumentReset`], and they open
    /// it again. `answer` is called on another thread, or at once if that is not possible.
    pub fn squash(&self, document: DocumentId, answer: SquashAnswer) {
        ask(self.0.as_ref(), Task::Squash(document, answer));
    }
}

/// The threads that run.
#[derive(Debug)]
pub struct Materialisers {
    tables: Arc<[Arc<Due>]>,
    inspections: Sender<Task>,
    cuts: Arc<CutMemory>,
    threads: Vec<JoinHandle<()>>,
}

impl Materialisers {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        tables: Tables,
        settings: Settings,
        reader: &Reader,
        committer: Committer,
        quarantine: Quarantine,
        metrics: &Arc<Metrics>,
        tell_home: Quarantining,
    ) -> io::Result<Self> {
        let Tables { tables } = tables;
        let (inspections, tasks) = flume::bounded(TASKS_MAX);
        let mut threads = Vec::new();
        let cuts = CutMemory::new(settings.bytes_max);
        let bytes_max = settings.bytes_max / u64::from(settings.threads.max(1));
        for (number, due) in tables.iter().enumerate() {
            let worker = Worker {
                reader: reader.clone(),
                due: Arc::clone(due),
                tables: Arc::clone(&tables),
                inspections: inspections.clone(),
                metrics: Arc::clone(metrics),
                residents: Residents::new(bytes_max).beside(&cuts, settings.threads.into()),
                bytes_max,
                told: (0, 0),
            };
            threads.push(spawn(&format!("materialise-{number}"), move || worker.run())?);
        }
        if !tables.is_empty() {
            let inspector = Inspector {
                reader: reader.clone(),
                committer,
                quarantine,
                metrics: Arc::clone(metrics),
                tables: Arc::clone(&tables),
                tell_home,
                known: HashMap::new(),
                spared: HashMap::new(),
                squashes: HashMap::new(),
            };
            threads.push(spawn("inspect", move || inspector.run(&tasks))?);
        }
        Ok(Self { tables, inspections, cuts, threads })
    }

    /// The way to the thread that gives documents a new epoch.
    pub fn rebuilds(&self) -> Rebuilds {
        Rebuilds((!self.tables.is_empty()).then(|| self.inspections.clone()))
    }

    /// What cuts of snapshots may take in memory, beside the replicas.
    pub fn cuts(&self) -> &Arc<CutMemory> {
        &self.cuts
    }

    /// Nothing is held back any more; the threads end when they are done with what they are at.
    pub fn begin_stop(&self) {
        for table in self.tables.iter() {
            table.stop();
        }
    }

    /// Waits for the threads' end.
    pub fn join(self) {
        self.begin_stop();
        drop(self.inspections.send(Task::Stop));
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a materialiser thread panicked: see the message above");
            }
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        priority::lowest();
        run();
    })
}
