//! The storage threads: one that commits, one that answers questions.
//!
//! The executors must never block, and the database does, so they hand over work through bounded queues and
//! get answers by a callback. Whatever waits in the commit queue goes into one batch with one sync.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use etherply_engine::log::{Append, Log, LogError};
use flume::{Receiver, Sender, TrySendError};

use super::database::panic_text;
use super::log::Reader;
use super::stats::{StorageStats, add};

/// Most records that go into one commit, unless a single job has more.
pub const COMMIT_RECORDS_MAX: usize = 4_096;
/// Most bytes of changes that go into one commit, unless a single job has more.
pub const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most jobs that wait for a commit.
pub const COMMIT_QUEUE_JOBS_MAX: usize = 4_096;
/// Most bytes of changes that wait for a commit; one job may always wait.
pub const COMMIT_QUEUE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Most questions that wait for the reader thread.
pub const READ_QUEUE_MAX: usize = 1_024;

/// Where a shard hears about its commits. Called on the commit thread: it must not block and not panic.
pub trait Reply: Send + Sync {
    /// The job with this token is durable, or failed.
    fn committed(&self, token: u64, outcome: Result<(), LogError>);
}

impl<F: Fn(u64, Result<(), LogError>) + Send + Sync> Reply for F {
    fn committed(&self, token: u64, outcome: Result<(), LogError>) {
        self(token, outcome);
    }
}

/// Appends of one shard's step, to be committed together.
pub struct Job {
    /// What is to be stored.
    pub appends: Vec<Append>,
    /// Comes back with the answer.
    pub token: u64,
    /// Who gets the answer.
    pub reply: Arc<dyn Reply>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("token", &self.token).field("appends", &self.appends.len()).finish()
    }
}

/// Why a job or question was not taken. It comes back unharmed.
#[derive(thiserror::Error)]
pub enum Refused<T> {
    /// The queue is at its limit: stop reading from sockets and come again.
    #[error("the storage queue is full")]
    Full(T),
    /// The thread has ended.
    #[error("the storage thread has ended")]
    Ended(T),
}

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Ended(_) => "Ended",
        })
    }
}

struct Queued {
    job: Job,
    records: usize,
    bytes: usize,
}

impl Queued {
    fn new(job: Job) -> Self {
        let records = job.appends.iter().flat_map(|append| &append.records);
        let (records, bytes) = records.fold((0, 0), |(n, sum), record| (n + 1, sum + record.change.len()));
        Self { job, records, bytes }
    }
}

/// Hands jobs to the commit thread; cheap to clone.
#[derive(Debug, Clone)]
pub struct Committer {
    queue: Sender<Queued>,
    stats: Arc<StorageStats>,
}

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.job.fmt(f)
    }
}

impl Committer {
    /// Queues a job; never blocks. Every job that was taken is answered exactly once.
    pub fn submit(&self, job: Job) -> Result<(), Refused<Job>> {
        let queued = Queued::new(job);
        let bytes = queued.bytes as u64;
        let before = self.stats.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        let refused = if before > 0 && before + bytes > COMMIT_QUEUE_BYTES_MAX {
            Refused::Full(queued.job)
        } else {
            // Counted before it is sent: the thread may take it, and count it off, at once.
            add(&self.stats.queued_jobs, 1);
            match self.queue.try_send(queued) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.stats.queued_jobs.fetch_sub(1, Ordering::Relaxed);
                    match error {
                        TrySendError::Full(queued) => Refused::Full(queued.job),
                        TrySendError::Disconnected(queued) => Refused::Ended(queued.job),
                    }
                }
            }
        };
        self.stats.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        Err(refused)
    }
}

/// A thread that ends once all handles to its queue are gone and what was queued is done.
#[derive(Debug)]
pub struct StorageThread(JoinHandle<()>);

impl StorageThread {
    /// Waits for the end.
    pub fn join(self) {
        if let Err(panic) = self.0.join() {
            tracing::error!("a storage thread panicked: {}", panic_text(&*panic));
        }
    }
}

/// Starts the thread that commits. `on_start` runs on it first: the place to set its priority.
pub fn spawn_committer<L: Log + Send + 'static>(
    log: L,
    stats: Arc<StorageStats>,
    on_start: impl FnOnce() + Send + 'static,
) -> io::Result<(Committer, StorageThread)> {
    let (queue, jobs) = flume::bounded(COMMIT_QUEUE_JOBS_MAX);
    let committer = Committer { queue, stats: Arc::clone(&stats) };
    let thread = std::thread::Builder::new().name("commit".to_owned()).spawn(move || {
        on_start();
        commit_loop(log, &jobs, &stats);
    })?;
    Ok((committer, StorageThread(thread)))
}

fn commit_loop(mut log: impl Log, jobs: &Receiver<Queued>, stats: &StorageStats) {
    let mut left_over = None;
    let mut replies: Vec<(u64, Arc<dyn Reply>)> = Vec::new();
    let mut appends: Vec<Append> = Vec::new();
    while let Some(first) = left_over.take().or_else(|| jobs.recv().ok()) {
        let (mut records, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(queued) = next {
            let fits =
                records + queued.records <= COMMIT_RECORDS_MAX && bytes + queued.bytes <= COMMIT_BYTES_MAX;
            if !fits && !replies.is_empty() {
                left_over = Some(queued);
                break;
            }
            records += queued.records;
            bytes += queued.bytes;
            appends.extend(queued.job.appends);
            replies.push((queued.job.token, queued.job.reply));
            next = jobs.try_recv().ok();
        }
        let outcome = log.commit(&appends);
        appends.clear();
        let done = replies.len() as u64;
        stats.queued_jobs.fetch_sub(done, Ordering::Relaxed);
        stats.queued_bytes.fetch_sub(bytes as u64, Ordering::AcqRel);
        if outcome.is_ok() {
            add(&stats.jobs, done);
        }
        for (token, reply) in replies.drain(..) {
            reply.committed(token, outcome.clone());
        }
    }
}

/// A question to the log. It carries its own way to answer.
pub type Question = Box<dyn FnOnce(&Reader) + Send>;

/// Hands questions to the reader thread; cheap to clone.
#[derive(Debug, Clone)]
pub struct Questions(Sender<Question>);

impl Questions {
    /// Queues a question; never blocks. If its code panics, the panic is logged and no answer comes.
    pub fn ask(&self, question: impl FnOnce(&Reader) + Send + 'static) -> Result<(), Refused<Question>> {
        self.0.try_send(Box::new(question)).map_err(|error| match error {
            TrySendError::Full(question) => Refused::Full(question),
            TrySendError::Disconnected(question) => Refused::Ended(question),
        })
    }
}

/// Starts the thread that reads. `on_start` runs on it first: the place to set its priority.
pub fn spawn_reader(
    reader: Reader,
    stats: Arc<StorageStats>,
    on_start: impl FnOnce() + Send + 'static,
) -> io::Result<(Questions, StorageThread)> {
    let (queue, questions) = flume::bounded::<Question>(READ_QUEUE_MAX);
    let thread = std::thread::Builder::new().name("log-read".to_owned()).spawn(move || {
        on_start();
        for question in questions {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| question(&reader))) {
                add(&stats.reads_panicked, 1);
                tracing::error!("a question to the log panicked: {}", panic_text(&*panic));
            }
            add(&stats.reads, 1);
        }
    })?;
    Ok((Questions(queue), StorageThread(thread)))
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
