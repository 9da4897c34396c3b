use std::sync::Mutex;
use std::sync::mpsc;

use etherply_engine::ids::DocumentId;

use super::super::error::OpenError;
use super::super::testing::{Author, document};
use super::*;

/// A log whose first commit waits until the test lets it go on, so that jobs pile up behind it.
struct GatedLog {
    gate: mpsc::Receiver<()>,
    entered: mpsc::Sender<()>,
    commits: Arc<Mutex<Vec<usize>>>,
    fail_from: usize,
}

impl Log for GatedLog {
    fn commit(&mut self, appends: &[Append]) -> Result<(), LogError> {
        let mut commits = self.commits.lock().unwrap();
        if commits.is_empty() {
            self.entered.send(()).unwrap();
            self.gate.recv().unwrap();
        }
        commits.push(appends.iter().map(|append| append.records.len()).sum());
        match commits.len() >= self.fail_from {
            true => Err(LogError::Unavailable { why: "the test says so".to_owned() }),
            false => Ok(()),
        }
    }
}

impl StorePiece for GatedLog {
    fn store(&mut self, _: &Piece) -> Result<Stored, LogError> {
        self.commits.lock().unwrap().push(0);
        Ok(Stored::Durable)
    }
}

impl Epochs for GatedLog {
    fn stage(&mut self, append: &Append) -> Result<(), LogError> {
        self.commits.lock().unwrap().push(1_000_000 + append.records.len());
        Ok(())
    }
    fn turn(&mut self, _: &Turn) -> Result<(), LogError> {
        unreachable!()
    }
}

impl Reopen for GatedLog {
    fn has_failed(&self) -> bool {
        false
    }
    fn reopen(&mut self) -> Result<Vec<DocumentId>, OpenError> {
        unreachable!()
    }
}

impl Tombstones for GatedLog {
    fn delete(&mut self, _: &DocumentId) -> Result<Deleted, LogError> {
        unreachable!()
    }
    fn tidy(&mut self) -> bool {
        false
    }
}

type Answered = (u64, Result<(), LogError>);

struct Gated {
    committer: Committer,
    thread: StorageThread,
    open_gate: mpsc::Sender<()>,
    answers: mpsc::Receiver<Answered>,
    reply: Arc<dyn Reply>,
    commits: Arc<Mutex<Vec<usize>>>,
    stats: Arc<StorageStats>,
    author: Author,
}

impl Gated {
    /// The thread stands in its first commit, of one job.
    fn new(fail_from: usize) -> Self {
        let (open_gate, gate) = mpsc::channel();
        let (entered, has_entered) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let commits = Arc::new(Mutex::default());
        let stats = Arc::new(StorageStats::default());
        let log = GatedLog { gate, entered, commits: Arc::clone(&commits), fail_from };
        let (committer, thread) =
            spawn_committer(log, Arc::clone(&stats), Listeners::default(), || {}).unwrap();
        let reply = Arc::new(move |token, outcome| answer.send((token, outcome)).unwrap());
        let mut gated =
            Self { committer, thread, open_gate, answers, reply, commits, stats, author: Author::default() };
        gated.submit(0, 1, 10).unwrap();
        has_entered.recv().unwrap();
        gated
    }

    fn submit(&mut self, token: u64, records: usize, change_bytes: usize) -> Result<(), Refused<Job>> {
        let appends = vec![self.author.append_sized("a", 1, records, change_bytes)];
        self.committer.submit(Job { appends, token, era: 0, reply: Arc::clone(&self.reply) })
    }

    /// Sizes of the commits, and the answers.
    fn finish(self) -> (Vec<usize>, Vec<Answered>) {
        self.open_gate.send(()).unwrap();
        drop(self.committer);
        self.thread.join();
        assert_eq!(self.stats.queued_jobs.load(Ordering::Relaxed), 0);
        assert_eq!(self.stats.queued_bytes.load(Ordering::Relaxed), 0);
        let commits = self.commits.lock().unwrap().clone();
        (commits, self.answers.try_iter().collect())
    }
}

#[test]
fn jobs_that_wait_share_a_commit_and_each_is_answered_once() {
    let mut gated = Gated::new(usize::MAX);
    for token in 1..=100 {
        gated.submit(token, 2, 10).unwrap();
    }
    let (commits, answers) = gated.finish();
    assert_eq!(commits, [1, 200]);
    assert_eq!(answers, (0..=100).map(|token| (token, Ok(()))).collect::<Vec<_>>());
}

#[test]
fn a_commit_takes_exactly_as_many_records_as_its_limit() {
    for (extra, expected) in [(0, vec![1, COMMIT_RECORDS_MAX]), (1, vec![1, COMMIT_RECORDS_MAX - 1, 2])] {
        let mut gated = Gated::new(usize::MAX);
        gated.submit(1, COMMIT_RECORDS_MAX - 1, 1).unwrap();
        gated.submit(2, 1 + extra, 1).unwrap();
        assert_eq!(gated.finish().0, expected);
    }
    // A single job may be larger than the limit.
    let mut gated = Gated::new(usize::MAX);
    gated.submit(1, COMMIT_RECORDS_MAX + 1, 1).unwrap();
    assert_eq!(gated.finish().0, [1, COMMIT_RECORDS_MAX + 1]);
}

#[test]
fn a_commit_takes_exactly_as_many_bytes_as_its_limit() {
    for (extra, expected) in [(0, vec![1, 2]), (1, vec![1, 1, 1])] {
        let mut gated = Gated::new(usize::MAX);
        gated.submit(1, 1, COMMIT_BYTES_MAX - 10).unwrap();
        gated.submit(2, 1, 10 + extra).unwrap();
        assert_eq!(gated.finish().0, expected);
    }
}

#[test]
fn a_full_queue_refuses_and_gives_the_job_back() {
    let mut gated = Gated::new(usize::MAX);
    for token in 1..=COMMIT_QUEUE_JOBS_MAX as u64 {
        gated.submit(token, 1, 1).unwrap();
    }
    let Err(Refused::Full(job)) = gated.submit(77, 1, 1) else { panic!("taken beyond the limit") };
    assert_eq!((job.token, job.appends.len()), (77, 1));
    let (_, answers) = gated.finish();
    assert_eq!(answers.len(), 1 + COMMIT_QUEUE_JOBS_MAX);
}

#[test]
fn the_queue_bounds_the_bytes_that_wait() {
    // The job in the commit counts: its 10 bytes are in memory as well.
    let room = usize::try_from(COMMIT_QUEUE_BYTES_MAX).unwrap() - 10;
    let mut gated = Gated::new(usize::MAX);
    gated.submit(1, 1, room - 1).unwrap();
    assert!(matches!(gated.submit(2, 1, 2), Err(Refused::Full(_))));
    gated.submit(3, 1, 1).unwrap();
    assert!(matches!(gated.submit(4, 1, 1), Err(Refused::Full(_))));
    assert_eq!(gated.finish().1.len(), 3);
}

#[test]
fn a_failed_commit_is_answered_to_each_of_its_jobs() {
    let mut gated = Gated::new(2);
    gated.submit(1, 1, 1).unwrap();
    gated.submit(2, 1, 1).unwrap();
    let (_, answers) = gated.finish();
    let failed = Err(LogError::Unavailable { why: "the test says so".to_owned() });
    assert_eq!(answers, [(0, Ok(())), (1, failed.clone()), (2, failed)]);
}

#[test]
fn on_disk_a_hundred_waiting_jobs_cost_one_sync() {
    let directory = tempfile::tempdir().unwrap();
    let log = super::super::open(directory.path()).unwrap();
    let (stats, reader) = (Arc::clone(log.stats()), log.reader().clone());
    let (send, answers) = mpsc::channel();
    let reply: Arc<dyn Reply> = Arc::new(move |token, outcome| send.send((token, outcome)).unwrap());
    // The thread starts its work only once all jobs wait.
    let (start, started) = mpsc::channel::<()>();
    let (committer, thread) =
        spawn_committer(log, Arc::clone(&stats), Listeners::default(), move || started.recv().unwrap())
            .unwrap();
    let mut author = Author::default();
    for token in 0..100 {
        let appends = vec![author.append(&format!("doc/{}", token % 7), 1)];
        committer.submit(Job { appends, token, era: 0, reply: Arc::clone(&reply) }).unwrap();
    }
    start.send(()).unwrap();
    for token in 0..100 {
        assert_eq!(answers.recv().unwrap(), (token, Ok(())));
    }
    assert_eq!(stats.fsyncs.load(Ordering::Relaxed), 1);
    assert_eq!(stats.commits.load(Ordering::Relaxed), 1);
    assert_eq!(stats.jobs.load(Ordering::Relaxed), 100);
    assert_eq!(stats.records.load(Ordering::Relaxed), 100);
    assert_eq!(stats.commit_us.buckets().map(|(_, count)| count).sum::<u64>(), 1);

    let (questions, reader_thread) = spawn_reader("log-read", reader, Arc::clone(&stats), || {}).unwrap();
    let (send, answer) = mpsc::channel();
    let head = |reader: &Reader| reader.head(&document("doc/0"));
    questions
        .ask(Question::new(move |reader| head(reader).map(Some), move |head| send.send(head).unwrap()))
        .unwrap();
    assert_eq!(answer.recv().unwrap().unwrap().unwrap().last_seq, 15);
    drop((committer, questions));
    thread.join();
    reader_thread.join();
    assert_eq!(stats.reads.load(Ordering::Relaxed), 1);
}

/// A reader thread of an empty log, and what it counts. It starts when the test says so.
fn reader() -> (tempfile::TempDir, Questions, StorageThread, Arc<StorageStats>, mpsc::Sender<()>) {
    let directory = tempfile::tempdir().unwrap();
    let log = super::super::open(directory.path()).unwrap();
    let (start, started) = mpsc::channel::<()>();
    let (reader, stats) = (log.reader().clone(), Arc::clone(log.stats()));
    let on_start = move || started.recv().unwrap();
    let (questions, thread) = spawn_reader("log-read", reader, Arc::clone(&stats), on_start).unwrap();
    (directory, questions, thread, stats, start)
}

#[test]
fn a_question_that_panics_is_answered_with_an_error_and_the_next_one_is_served() {
    let (_directory, questions, thread, stats, start) = reader();
    start.send(()).unwrap();
    let (send, answer) = mpsc::channel();
    let panics: fn(&Reader) -> Result<Option<()>, LogError> = |_| panic!("a bug in a question");
    let sends = |send: &mpsc::Sender<Result<(), LogError>>| {
        let send = send.clone();
        move |result| send.send(result).unwrap()
    };
    questions.ask(Question::new(panics, sends(&send))).unwrap();
    match answer.recv().unwrap() {
        Err(LogError::Unavailable { why }) => assert!(why.contains("a bug in a question"), "{why}"),
        other => panic!("{other:?}"),
    }
    // In a later step, and in the answer itself.
    let mut steps = 0;
    let late = move |_: &Reader| {
        steps += 1;
        if steps == 3 { panic!("later") } else { Ok(None::<()>) }
    };
    questions.ask(Question::new(late, sends(&send))).unwrap();
    assert!(answer.recv().unwrap().is_err());
    questions.ask(Question::new(|_| Ok(Some(())), |_| panic!("in the answer"))).unwrap();
    questions.ask(Question::new(|_| Ok(Some(())), sends(&send))).unwrap();
    assert_eq!(answer.recv().unwrap(), Ok(()));
    drop(questions);
    thread.join();
    assert_eq!(stats.reads_panicked.load(Ordering::Relaxed), 3);
    assert_eq!(stats.reads.load(Ordering::Relaxed), 4);
}

#[test]
fn short_questions_do_not_wait_for_long_ones() {
    let (_directory, questions, thread, _, start) = reader();
    let (send, order) = mpsc::channel();
    for long in 0..3 {
        let (mut steps, send) = (0, send.clone());
        let work = move |_: &Reader| {
            steps += 1;
            Ok((steps == 100).then_some(long))
        };
        questions.ask(Question::new(work, move |result| send.send(result.unwrap()).unwrap())).unwrap();
    }
    for short in 10..20 {
        let send = send.clone();
        let answer = move |result: Result<i32, LogError>| send.send(result.unwrap()).unwrap();
        questions.ask(Question::new(move |_| Ok(Some(short)), answer)).unwrap();
    }
    start.send(()).unwrap();
    let told: Vec<i32> = order.iter().take(13).collect();
    assert_eq!(told, (10..20).chain(0..3).collect::<Vec<_>>());
    drop(questions);
    thread.join();
}

#[test]
fn a_reader_begins_only_so_many_questions_at_once() {
    let (_directory, questions, thread, _, start) = reader();
    let (send, answers) = mpsc::channel();
    let begun = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for _ in 0..=READS_UNFINISHED_MAX {
        let (mut steps, begun, send) = (0, Arc::clone(&begun), send.clone());
        let work = move |_: &Reader| {
            steps += 1;
            begun.fetch_add(usize::from(steps == 1), Ordering::Relaxed);
            // Long enough that all who may begin have begun before the first is done.
            Ok((steps == 1_000).then(|| begun.load(Ordering::Relaxed)))
        };
        questions.ask(Question::new(work, move |result| send.send(result.unwrap()).unwrap())).unwrap();
    }
    start.send(()).unwrap();
    assert_eq!(answers.recv().unwrap(), READS_UNFINISHED_MAX, "the last one waits for the first");
    drop(questions);
    thread.join();
}

#[test]
fn the_question_queue_refuses_at_its_limit() {
    let directory = tempfile::tempdir().unwrap();
    let log = super::super::open(directory.path()).unwrap();
    let (start, started) = mpsc::channel::<()>();
    let (questions, thread) =
        spawn_reader("log-read", log.reader().clone(), Arc::clone(log.stats()), move || {
            started.recv().unwrap()
        })
        .unwrap();
    let nothing = || Question::new(|_| Ok(Some(())), |_| {});
    for _ in 0..READ_QUEUE_MAX {
        questions.ask(nothing()).unwrap();
    }
    let Err(Refused::Full(question)) = questions.ask(nothing()) else { panic!("taken beyond the limit") };
    drop(question);
    start.send(()).unwrap();
    drop(questions);
    thread.join();
    assert_eq!(log.stats().reads.load(Ordering::Relaxed), READ_QUEUE_MAX as u64);
}

#[test]
fn a_step_into_a_new_epoch_keeps_its_place_among_jobs_and_has_a_commit_of_its_own() {
    let mut gated = Gated::new(usize::MAX);
    gated.submit(1, 2, 10).unwrap();
    let committer = gated.committer.clone();
    let append = Author::default().append_sized("b", 2, 3, 10);
    let stats = Arc::clone(&gated.stats);
    let step = std::thread::spawn(move || committer.begin_anew(Anew::Stage(append)));
    while gated.committer.queue.len() < 2 {
        std::thread::yield_now();
    }
    gated.submit(2, 4, 10).unwrap();
    let (commits, answers) = gated.finish();
    step.join().unwrap().unwrap();
    assert_eq!(commits, [1, 2, 1_000_003, 4]);
    assert_eq!(answers.len(), 3);
    assert_eq!(stats.queued_jobs.load(Ordering::Relaxed), 0);
}

#[test]
fn a_closed_gate_holds_jobs_back_unharmed() {
    let directory = tempfile::tempdir().unwrap();
    let log = super::super::open(directory.path()).unwrap();
    let stats = Arc::clone(log.stats());
    let gate = Arc::new(Gate::default());
    let (told, heard) = mpsc::channel();
    let told = Mutex::new(told);
    let durable: Durable = Arc::new(move |appends| told.lock().unwrap().send(appends.len()).unwrap());
    let listeners = Listeners { gate: Arc::clone(&gate), durable, ..Listeners::default() };
    let (committer, thread) = spawn_committer(log, stats, listeners, || {}).unwrap();
    let (send, answers) = mpsc::channel();
    let reply: Arc<dyn Reply> = Arc::new(move |token, outcome| send.send((token, outcome)).unwrap());
    let job = Job { appends: vec![Author::default().append("a", 1)], token: 7, era: 0, reply };
    gate.set_closed(true);
    let Err(Refused::Full(job)) = committer.submit(job) else { panic!("taken though the gate is closed") };
    gate.set_closed(false);
    committer.submit(job).unwrap();
    assert_eq!(answers.recv().unwrap(), (7, Ok(())));
    assert_eq!(heard.recv().unwrap(), 1);
    drop(committer);
    thread.join();
}

#[test]
fn a_piece_goes_between_the_commits_before_and_behind_it() {
    let mut gated = Gated::new(usize::MAX);
    gated.submit(1, 2, 10).unwrap();
    let committer = gated.committer.clone();
    let piece = Piece::new(document("a"), super::super::piece::Expect::Anything);
    let (send, stored) = flume::bounded(1);
    let answer: Answer<Stored> = Box::new(move |outcome| send.send(outcome).unwrap());
    committer.queue.send(Work::Alone(Alone::Piece(piece, answer))).unwrap();
    gated.submit(2, 3, 10).unwrap();
    gated.open_gate.send(()).unwrap();
    assert_eq!(stored.recv().unwrap(), Ok(Stored::Durable));
    let answers: Vec<u64> = (0..3).map(|_| gated.answers.recv().unwrap().0).collect();
    assert_eq!(answers, [0, 1, 2]);
    assert_eq!(*gated.commits.lock().unwrap(), [1, 2, 0, 3]);
}

#[test]
fn what_nobody_waits_for_is_given_up_when_nobody_can_ask_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let log = super::super::open(directory.path()).unwrap();
    let (questions, thread) =
        spawn_background("snapshot", log.reader().clone(), Arc::default(), || {}).unwrap();
    let (answer, answers) = mpsc::channel();
    let (begun, has_begun) = mpsc::channel();
    for name in ["endless", "waiting"] {
        let (answer, begun) = (answer.clone(), begun.clone());
        let work = move |_: &Reader| {
            begun.send(()).unwrap();
            Ok(None::<()>)
        };
        questions.ask(Question::new(work, move |outcome| answer.send((name, outcome)).unwrap())).unwrap();
    }
    has_begun.recv().unwrap();
    drop(questions);
    thread.join();
    let mut told: Vec<_> = answers.try_iter().collect();
    told.sort_by_key(|(name, _)| *name);
    let stops = || Err(LogError::Unavailable { why: "the server stops".to_owned() });
    assert_eq!(told, [("endless", stops()), ("waiting", stops())]);
}

#[test]
fn the_commit_thread_rests_where_more_is_to_be_expected_and_never_longer_than_said() {
    let (us, longest) = (Duration::from_micros, Duration::from_micros(COMMIT_REST_US_MAX));
    // So many commits, each of `jobs`, that take `took` and begin `every` so often; how long the last one's rest is.
    let rest_after = |commits: u32, every: Duration, took: Duration, jobs: u32| {
        let begun = Instant::now();
        let mut rest = Rest::new(begun);
        for n in 0..commits {
            let began = begun + every * n;
            rest.after(began, began + took, jobs);
        }
        rest.until - rest.done
    };
    // One job a millisecond, or less often: nobody waits.
    assert_eq!(rest_after(100, us(1_000), us(200), 1), Duration::ZERO);
    assert_eq!(rest_after(100, us(50_000), us(200), 1), Duration::ZERO);
    // Three a millisecond: as many turns as said, or the longest rest.
    assert_eq!(rest_after(100, us(333), us(200), 1), us(200) * COMMIT_REST_TURNS);
    assert_eq!(rest_after(100, us(333), us(250), 1), longest);
    assert_eq!(rest_after(100, us(10_000), us(9_000), 100), longest);
    // What took almost no time is not worth a rest in which less than two jobs would come.
    assert_eq!(rest_after(100, us(333), us(100), 1), Duration::ZERO);
    // The first commit after a silence does not wait for company.
    assert_eq!(rest_after(1, us(333), us(200), 1), Duration::ZERO);
}
