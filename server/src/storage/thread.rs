//! The storage threads: one that commits, and readers that answer questions: one for what somebody waits for,
//! one for what nobody does.
//!
//! The executors must never block, and the database does, so they hand over work through bounded queues and
//! get answers by a callback. Whatever waits in the commit queue goes into one batch with one sync.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, Deleted, Log, LogError};
use flume::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError};

use super::database::panic_text;
use super::epoch::{Epochs, Turn};
use super::piece::{Piece, StorePiece, Stored};
use super::reader::Reader;
use super::reopen::{REOPEN_WAIT_MAX_MS, REOPEN_WAIT_MS, Reopen};
use super::stats::{StorageStats, add};
use super::tombstone::Tombstones;

/// Most records that go into one commit, unless a single job has more.
pub const COMMIT_RECORDS_MAX: usize = 4_096;
/// Most bytes of changes that go into one commit, unless a single job has more.
pub const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How much longer than a commit took the thread then rests, so that what comes meanwhile shares the next one: it
/// rests where at least [`COMMIT_REST_JOBS_MIN`] jobs are to be expected, and otherwise nobody waits.
pub const COMMIT_REST_TURNS: u32 = 4;
/// The longest rest, in microseconds.
pub const COMMIT_REST_US_MAX: u64 = 1_000;
/// Jobs that have to be expected within a rest, by how fast they came of late.
pub const COMMIT_REST_JOBS_MIN: u32 = 2;
/// Most jobs that wait for a commit.
pub const COMMIT_QUEUE_JOBS_MAX: usize = 4_096;
/// Most bytes of changes that wait for a commit; one job may always wait.
pub const COMMIT_QUEUE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Most questions that wait for a reader thread.
pub const READ_QUEUE_MAX: usize = 1_024;
/// Most questions that a reader thread has begun and not finished.
pub const READS_UNFINISHED_MAX: usize = 256;
/// Most changes that are looked up in one step of a question.
pub const LOOKUPS_PER_STEP_MAX: usize = 256;

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
    /// How often the sender was told that the log was opened again. A job from before that builds upon what was
    /// never stored, and fails.
    pub era: u64,
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
        let (records, bytes) = size(&job.appends);
        Self { job, records, bytes }
    }
}

/// Records, and bytes of their changes.
fn size(appends: &[Append]) -> (usize, usize) {
    let records = appends.iter().flat_map(|append| &append.records);
    records.fold((0, 0), |(n, sum), record| (n + 1, sum + record.change.len()))
}

/// A step on the way of a document that begins anew: see [`super::epoch`].
#[derive(Debug)]
pub enum Anew {
    /// [`Epochs::stage`]
    Stage(Append),
    /// [`Epochs::turn`]
    Turn(Box<Turn>),
}

/// Gets an outcome. Called on the commit thread: it must not block and not panic.
type Answer<T> = Box<dyn FnOnce(Result<T, LogError>) + Send>;

enum Work {
    Job(Queued),
    Alone(Alone),
}

/// What is a commit of its own, and who hears of it.
enum Alone {
    Delete(DocumentId, Answer<Deleted>),
    Anew(Anew, Answer<()>),
    Piece(Piece, Answer<Stored>),
}

/// Holds commits back while somebody who follows the log is too far behind it.
#[derive(Debug, Default)]
pub struct Gate {
    is_closed: AtomicBool,
    closings: AtomicU64,
}

impl Gate {
    /// Holds jobs back, or no longer. Who had a job refused meanwhile has to be told.
    pub fn set_closed(&self, is_closed: bool) {
        let was_closed = self.is_closed.swap(is_closed, Ordering::AcqRel);
        if is_closed && !was_closed {
            add(&self.closings, 1);
        }
    }

    /// Whether jobs are held back.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// How often it was closed.
    pub fn closings(&self) -> u64 {
        self.closings.load(Ordering::Relaxed)
    }
}

/// Hands jobs to the commit thread; cheap to clone.
#[derive(Clone)]
pub struct Committer {
    queue: Sender<Work>,
    stats: Arc<StorageStats>,
    gate: Arc<Gate>,
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer").field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl Committer {
    /// Queues a job; never blocks. Every job that was taken is answered exactly once.
    pub fn submit(&self, job: Job) -> Result<(), Refused<Job>> {
        if self.gate.is_closed() {
            return Err(Refused::Full(job));
        }
        let queued = Queued::new(job);
        let bytes = queued.bytes as u64;
        let before = self.stats.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        let refused = if before > 0 && before + bytes > COMMIT_QUEUE_BYTES_MAX {
            Refused::Full(queued.job)
        } else {
            // Counted before it is sent: the thread may take it, and count it off, at once.
            add(&self.stats.queued_jobs, 1);
            let refused = match self.queue.try_send(Work::Job(queued)) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(Work::Job(queued))) => Refused::Full(queued.job),
                Err(TrySendError::Disconnected(Work::Job(queued))) => Refused::Ended(queued.job),
                // What comes back is what was sent.
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Ok(()),
            };
            self.stats.queued_jobs.fetch_sub(1, Ordering::Relaxed);
            refused
        };
        self.stats.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        Err(refused)
    }

    /// Queues the deletion of a document; never blocks. One that was taken is answered exactly once.
    pub fn delete(
        &self,
        document: DocumentId,
        answer: impl FnOnce(Result<Deleted, LogError>) + Send + 'static,
    ) -> Result<(), Refused<DocumentId>> {
        match self.queue.try_send(Work::Alone(Alone::Delete(document, Box::new(answer)))) {
            Err(TrySendError::Full(Work::Alone(Alone::Delete(document, _)))) => Err(Refused::Full(document)),
            Err(TrySendError::Disconnected(Work::Alone(Alone::Delete(document, _)))) => {
                Err(Refused::Ended(document))
            }
            // What comes back is what was sent.
            _ => Ok(()),
        }
    }

    /// Has a document begin anew by a step, behind what waits for a commit; waits for the outcome, which no
    /// executor may.
    ///
    /// # Errors
    /// What the log says, or that the thread has ended.
    pub fn begin_anew(&self, step: Anew) -> Result<(), LogError> {
        self.ask(|answer| Alone::Anew(step, answer))
    }

    /// Stores a piece, behind what waits for a commit; waits for the outcome, which no executor may. Whoever has
    /// many stores them one after the other, so that what comes meanwhile goes between them.
    ///
    /// # Errors
    /// What the log says, or that the thread has ended.
    pub fn store(&self, piece: Piece) -> Result<Stored, LogError> {
        self.ask(|answer| Alone::Piece(piece, answer))
    }

    fn ask<T: Send + 'static>(&self, work: impl FnOnce(Answer<T>) -> Alone) -> Result<T, LogError> {
        let (send, outcome) = flume::bounded(1);
        let answer: Answer<T> = Box::new(move |outcome| drop(send.try_send(outcome)));
        let ended = || LogError::Unavailable { why: "the storage thread has ended".to_owned() };
        self.queue.send(Work::Alone(work(answer))).map_err(|_| ended())?;
        outcome.recv().map_err(|_| ended())?
    }
}

/// A thread that ends once all handles to its queue are gone and what was queued is done.
#[derive(Debug)]
pub struct StorageThread(JoinHandle<()>);

impl StorageThread {
    pub(super) fn new(thread: JoinHandle<()>) -> Self {
        Self(thread)
    }

    /// Waits for the end.
    pub fn join(self) {
        if let Err(panic) = self.0.join() {
            tracing::error!("a storage thread panicked: {}", panic_text(&*panic));
        }
    }
}

/// Hears on the commit thread what has become durable: it must not block and not panic.
pub type Durable = Arc<dyn Fn(&[Append]) + Send + Sync>;

/// Hears on the commit thread that the log was opened again after a failure: how often so far, and the documents of
/// which it is not known whether their last changes are there. It must not block and not panic.
pub type Recovered = Arc<dyn Fn(u64, &[DocumentId]) + Send + Sync>;

/// Who follows the log.
#[derive(Clone)]
pub struct Listeners {
    /// Holds jobs back.
    pub gate: Arc<Gate>,
    /// Hears of every commit.
    pub durable: Durable,
    /// Hears when the log was opened again.
    pub recovered: Recovered,
}

impl Default for Listeners {
    /// Nobody.
    fn default() -> Self {
        Self { gate: Arc::default(), durable: Arc::new(|_| {}), recovered: Arc::new(|_, _| {}) }
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").field("gate", &self.gate).finish_non_exhaustive()
    }
}

/// Starts the thread that commits. `on_start` runs on it first: the place to set its priority.
pub fn spawn_committer<L: Log + Epochs + StorePiece + Tombstones + Reopen + Send + 'static>(
    log: L,
    stats: Arc<StorageStats>,
    listeners: Listeners,
    on_start: impl FnOnce() + Send + 'static,
) -> io::Result<(Committer, StorageThread)> {
    let (queue, jobs) = flume::bounded(COMMIT_QUEUE_JOBS_MAX);
    let committer = Committer { queue, stats: Arc::clone(&stats), gate: Arc::clone(&listeners.gate) };
    let thread = std::thread::Builder::new().name("commit".to_owned()).spawn(move || {
        on_start();
        let (rest, wait_ms) = (Rest::new(Instant::now()), REOPEN_WAIT_MS);
        CommitThread { log, stats, listeners, era: 0, reopening: None, wait_ms, rest }.run(&jobs);
    })?;
    Ok((committer, StorageThread(thread)))
}

struct CommitThread<L> {
    log: L,
    stats: Arc<StorageStats>,
    listeners: Listeners,
    /// How often the log was opened again.
    era: u64,
    /// When it is tried next to open the log again, if it takes no writes.
    reopening: Option<Instant>,
    wait_ms: u64,
    rest: Rest,
}

/// When the next commit may begin.
#[derive(Debug)]
struct Rest {
    until: Instant,
    /// When the last commit was done.
    done: Instant,
    /// Time from one job to the next, smoothed.
    gap: Duration,
}

impl Rest {
    fn new(now: Instant) -> Self {
        Self { until: now, done: now, gap: Duration::from_micros(COMMIT_REST_US_MAX) }
    }

    /// A commit of so many jobs took from `begun` to `done`.
    fn after(&mut self, begun: Instant, done: Instant, jobs: u32) {
        let rest = ((done - begun) * COMMIT_REST_TURNS).min(Duration::from_micros(COMMIT_REST_US_MAX));
        // However long nothing came, a few commits are to be enough to see that jobs come fast again.
        let gap = (done - self.done).min(Duration::from_micros(2 * COMMIT_REST_US_MAX)) / jobs.max(1);
        self.gap = (self.gap * 7 + gap) / 8;
        self.done = done;
        self.until = if self.gap * COMMIT_REST_JOBS_MIN <= rest { done + rest } else { done };
    }
}

/// Jobs that are committed together.
#[derive(Default)]
struct Group {
    appends: Vec<Append>,
    replies: Vec<(u64, Arc<dyn Reply>)>,
    records: usize,
    bytes: usize,
}

impl Group {
    fn has_room_for(&self, queued: &Queued) -> bool {
        let fits = self.records + queued.records <= COMMIT_RECORDS_MAX
            && self.bytes + queued.bytes <= COMMIT_BYTES_MAX;
        fits || self.replies.is_empty()
    }

    fn add(&mut self, queued: Queued) {
        self.records += queued.records;
        self.bytes += queued.bytes;
        self.appends.extend(queued.job.appends);
        self.replies.push((queued.job.token, queued.job.reply));
    }
}

impl<L: Log + Epochs + StorePiece + Tombstones + Reopen> CommitThread<L> {
    fn run(&mut self, jobs: &Receiver<Work>) {
        let mut left_over = None;
        let mut group = Group::default();
        loop {
            self.reopen_if_due();
            let first = match left_over.take() {
                Some(work) => Ok(work),
                None => self.wait(jobs),
            };
            match first {
                Ok(work) => {
                    self.rest();
                    left_over = self.gather(work, jobs, &mut group);
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.commit(&mut group);
            if self.reopening.is_none() && self.log.has_failed() {
                self.try_again_later();
            }
        }
    }

    /// The next work; until it comes, the log is tidied.
    fn wait(&mut self, jobs: &Receiver<Work>) -> Result<Work, RecvTimeoutError> {
        if let Some(at) = self.reopening {
            return jobs.recv_deadline(at);
        }
        loop {
            match jobs.try_recv() {
                Ok(work) => return Ok(work),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if self.log.tidy() => {}
                Err(TryRecvError::Empty) => break,
            }
        }
        if self.log.has_failed() {
            self.failed(None);
            self.try_again_later();
            return Err(RecvTimeoutError::Timeout);
        }
        jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
    }

    /// Lets more come for the commit that is about to begin. Whoever sends does not wake the thread meanwhile.
    fn rest(&self) {
        let left = self.rest.until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            std::thread::sleep(left);
        }
    }

    /// Takes what waits, up to a commit's limits; what does not fit comes back.
    fn gather(&mut self, first: Work, jobs: &Receiver<Work>, group: &mut Group) -> Option<Work> {
        let mut next = Some(first);
        while let Some(work) = next {
            match work {
                Work::Job(queued) if queued.job.era != self.era => self.refuse_stale(queued),
                Work::Job(queued) if group.has_room_for(&queued) => group.add(queued),
                Work::Alone(work) if group.replies.is_empty() => {
                    self.do_alone(work);
                    return None;
                }
                // In its place among the others: behind what was to be committed before it.
                work => return Some(work),
            }
            next = jobs.try_recv().ok();
        }
        None
    }

    fn do_alone(&mut self, work: Alone) {
        match work {
            Alone::Delete(document, answer) => answer(self.write(|log| log.delete(&document))),
            Alone::Anew(Anew::Stage(append), answer) => answer(self.write(|log| log.stage(&append))),
            Alone::Anew(Anew::Turn(turn), answer) => answer(self.write(|log| log.turn(&turn))),
            Alone::Piece(piece, answer) => answer(self.write(|log| log.store(&piece))),
        }
    }

    /// Writes. That writing has failed is noted before anybody hears of it: who does may look at the metrics.
    fn write<T>(&mut self, write: impl FnOnce(&mut L) -> Result<T, LogError>) -> Result<T, LogError> {
        let outcome = write(&mut self.log);
        if self.reopening.is_none() && self.log.has_failed() {
            self.failed(outcome.as_ref().err());
        }
        outcome
    }

    fn refuse_stale(&self, queued: Queued) {
        self.count_off(1, queued.bytes);
        let why = "the log was opened again after a failure before this was stored".to_owned();
        queued.job.reply.committed(queued.job.token, Err(LogError::Unavailable { why }));
    }

    fn count_off(&self, jobs: usize, bytes: usize) {
        self.stats.queued_jobs.fetch_sub(jobs as u64, Ordering::Relaxed);
        self.stats.queued_bytes.fetch_sub(bytes as u64, Ordering::AcqRel);
    }

    fn commit(&mut self, group: &mut Group) {
        if group.replies.is_empty() {
            return;
        }
        let begun = Instant::now();
        let outcome = self.write(|log| log.commit(&group.appends));
        let jobs = u32::try_from(group.replies.len()).unwrap_or(u32::MAX);
        self.rest.after(begun, Instant::now(), jobs);
        if outcome.is_ok() {
            (self.listeners.durable)(&group.appends);
            add(&self.stats.jobs, group.replies.len() as u64);
            self.wait_ms = REOPEN_WAIT_MS;
        }
        self.count_off(group.replies.len(), group.bytes);
        for (token, reply) in group.replies.drain(..) {
            reply.committed(token, outcome.clone());
        }
        group.appends.clear();
        (group.records, group.bytes) = (0, 0);
    }

    fn failed(&self, error: Option<&LogError>) {
        self.stats.failed.store(1, Ordering::Release);
        let why = error.map(ToString::to_string).unwrap_or_default();
        tracing::error!("writes stop until the log could be opened again: {why}");
    }

    fn try_again_later(&mut self) {
        self.reopening = Some(Instant::now() + Duration::from_millis(self.wait_ms));
        self.wait_ms = (2 * self.wait_ms).min(REOPEN_WAIT_MAX_MS);
    }

    fn reopen_if_due(&mut self) {
        if self.reopening.is_none_or(|at| at > Instant::now()) {
            return;
        }
        match self.log.reopen() {
            Ok(documents) => {
                self.reopening = None;
                self.era += 1;
                add(&self.stats.recoveries, 1);
                self.stats.failed.store(0, Ordering::Release);
                tracing::warn!(
                    "storage takes writes again: the log was opened anew, and holds all that was acked"
                );
                (self.listeners.recovered)(self.era, &documents);
            }
            Err(error) => {
                tracing::error!("storage still takes no writes, and is tried again: {error}");
                self.try_again_later();
            }
        }
    }
}

/// A question to the log, answered in steps, so that a long one does not hold up the others.
pub struct Question(Box<dyn Ask + Send>);

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question")
    }
}

trait Ask {
    /// Does a step; whether that was the last one.
    fn step(&mut self, reader: &Reader) -> bool;
    /// Answers without having asked.
    fn fail(&mut self, error: LogError);
}

struct Asked<T, W, A> {
    work: W,
    answer: Option<A>,
    result: PhantomData<fn() -> T>,
}

impl<T, W, A> Ask for Asked<T, W, A>
where
    W: FnMut(&Reader) -> Result<Option<T>, LogError>,
    A: FnOnce(Result<T, LogError>),
{
    fn step(&mut self, reader: &Reader) -> bool {
        let Some(result) = (self.work)(reader).transpose() else { return false };
        if let Some(answer) = self.answer.take() {
            answer(result);
        }
        true
    }

    fn fail(&mut self, error: LogError) {
        if let Some(answer) = self.answer.take() {
            answer(Err(error));
        }
    }
}

impl Question {
    /// A question: `work` does a bounded part of it each time it is called and says `None` until it is done,
    /// then `answer` gets the result. It gets an error if `work` panics. `answer` must not block.
    pub fn new<T: 'static>(
        work: impl FnMut(&Reader) -> Result<Option<T>, LogError> + Send + 'static,
        answer: impl FnOnce(Result<T, LogError>) + Send + 'static,
    ) -> Self {
        Self(Box::new(Asked { work, answer: Some(answer), result: PhantomData }))
    }

    /// Answers it with an error.
    pub fn fail(mut self, error: LogError) {
        self.0.fail(error);
    }

    /// Does a step. `Some` if there is more to do.
    fn step(mut self, reader: &Reader, stats: &StorageStats) -> Option<Self> {
        match catch_unwind(AssertUnwindSafe(|| self.0.step(reader))) {
            Ok(false) => return Some(self),
            Ok(true) => {}
            Err(panic) => {
                add(&stats.reads_panicked, 1);
                let why = format!("the question panicked: {}", panic_text(&*panic));
                tracing::error!("a question to the log: {why}");
                // Should the answer be what panics, then nobody waits for it: it was on its way.
                let failed = catch_unwind(AssertUnwindSafe(|| self.0.fail(LogError::Unavailable { why })));
                drop(failed);
            }
        }
        add(&stats.reads, 1);
        None
    }
}

/// Hands questions to a thread that reads; cheap to clone.
#[derive(Debug, Clone)]
pub struct Questions(Sender<Question>);

impl Questions {
    /// Queues a question; never blocks. Every question that was taken is answered.
    pub fn ask(&self, question: Question) -> Result<(), Refused<Question>> {
        self.0.try_send(question).map_err(|error| match error {
            TrySendError::Full(question) => Refused::Full(question),
            TrySendError::Disconnected(question) => Refused::Ended(question),
        })
    }
}

/// The ways to the storage threads, which end when nobody can ask them any more.
#[derive(Debug, Clone)]
pub struct Handles {
    /// Stores.
    pub committer: Committer,
    /// Answers what somebody waits for.
    pub questions: Questions,
    /// Does what nobody waits for: cuts snapshots.
    pub background: Questions,
}

/// Starts a thread that reads, called `name`. `on_start` runs on it first: the place to set its priority.
pub fn spawn_reader(
    name: &str,
    reader: Reader,
    stats: Arc<StorageStats>,
    on_start: impl FnOnce() + Send + 'static,
) -> io::Result<(Questions, StorageThread)> {
    spawn_asked(name, reader, stats, on_start, AtEnd::Finish)
}

/// Starts a thread as [`spawn_reader`] does, for what nobody waits for: when nobody can ask it any more, it fails
/// what it has begun instead of finishing it, so that a stop does not wait for a long snapshot.
pub fn spawn_background(
    name: &str,
    reader: Reader,
    stats: Arc<StorageStats>,
    on_start: impl FnOnce() + Send + 'static,
) -> io::Result<(Questions, StorageThread)> {
    spawn_asked(name, reader, stats, on_start, AtEnd::GiveUp)
}

/// What a thread does with its questions when nobody can ask any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    Finish,
    GiveUp,
}

fn spawn_asked(
    name: &str,
    reader: Reader,
    stats: Arc<StorageStats>,
    on_start: impl FnOnce() + Send + 'static,
    at_end: AtEnd,
) -> io::Result<(Questions, StorageThread)> {
    let (queue, questions) = flume::bounded::<Question>(READ_QUEUE_MAX);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        on_start();
        read_loop(&reader, &questions, &stats, at_end);
    })?;
    Ok((Questions(queue), StorageThread(thread)))
}

/// A new question has its first step at once, and the unfinished ones take turns: a short question waits for
/// one step of a long one at the most.
fn read_loop(reader: &Reader, questions: &Receiver<Question>, stats: &StorageStats, at_end: AtEnd) {
    let mut unfinished: VecDeque<Question> = VecDeque::new();
    loop {
        if at_end == AtEnd::GiveUp && questions.is_disconnected() {
            for question in unfinished.into_iter().chain(questions.drain()) {
                question.fail(LogError::Unavailable { why: "the server stops".to_owned() });
            }
            return;
        }
        let new = match unfinished.len() {
            0 => questions.recv().ok(),
            READS_UNFINISHED_MAX.. => None,
            _ => questions.try_recv().ok(),
        };
        if new.is_none() && unfinished.is_empty() {
            return;
        }
        if let Some(question) = new {
            unfinished.extend(question.step(reader, stats));
        }
        if let Some(question) = unfinished.pop_front() {
            unfinished.extend(question.step(reader, stats));
        }
    }
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
