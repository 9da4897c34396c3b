use etherply_engine::log::{Append, FIRST_EPOCH, Log as _};

use super::super::testing::{behind, cut, document, history, store};
use super::*;
use crate::storage::FjallLog;

struct Verifying {
    verifier: Verifier,
    threads: VerifierThreads,
    metrics: Arc<Metrics>,
}

fn verifying(log: &FjallLog, bytes_max: u64) -> Verifying {
    let metrics = Arc::new(Metrics::new(None).unwrap());
    let (verifier, threads) = VerifierThreads::start(2, 2 * bytes_max, log.reader(), &metrics).unwrap();
    Verifying { verifier, threads, metrics }
}

impl Verifying {
    fn ask(&self, after: Cursor, records: &[Record]) -> Result<(), Unverified> {
        let (answer, answered) = flume::bounded(1);
        let answer = Box::new(move |result| answer.send(result).unwrap());
        self.verifier.ask(document(), after, records.to_vec(), answer);
        answered.recv().unwrap()
    }

    /// The threads end when nobody can ask them; what became of the groups.
    fn end(self, outcome: &str) -> u64 {
        drop(self.verifier);
        self.threads.join();
        self.metrics.verifications.with_label_values(&[outcome]).get()
    }
}

#[test]
fn what_waits_is_bounded_and_what_does_not_fit_is_refused() {
    let (way, tasks) = flume::bounded(VERIFICATIONS_MAX);
    let verifier = Verifier(Some([way].into()));
    let (answer, answered) = flume::unbounded();
    let mut ask = |place: usize| {
        let answer = answer.clone();
        let answer = Box::new(move |result| answer.send((place, result)).unwrap());
        let after = Cursor { epoch: FIRST_EPOCH, seq: 0, chain: [0; 32] };
        verifier.ask(document(), after, Vec::new(), answer);
    };
    (0..VERIFICATIONS_MAX).for_each(&mut ask);
    assert_eq!((tasks.len(), answered.len()), (VERIFICATIONS_MAX, 0));
    ask(VERIFICATIONS_MAX);
    let (place, result) = answered.try_recv().unwrap();
    assert!(matches!(result, Err(Unverified::Unavailable { .. })), "{result:?}");
    assert_eq!((place, tasks.len()), (VERIFICATIONS_MAX, VERIFICATIONS_MAX));
    drop(tasks);
    ask(0);
    assert!(matches!(answered.try_recv().unwrap().1, Err(Unverified::Unavailable { .. })));
}

/// Records whose third builds upon a change that is not there.
fn with_a_gap(records: &[Record]) -> Vec<Record> {
    let mut group = [&records[..2], &records[3..5]].concat();
    for (record, seq) in group.iter_mut().zip(records[0].seq..) {
        record.seq = seq;
    }
    group
}

#[test]
fn sound_changes_pass_from_the_log_from_memory_and_from_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = history(300);
    let mut log = store(directory.path(), &records[..100]);
    let verifying = verifying(&log, 1 << 24);
    verifying.ask(behind(&records[99]), &records[100..150]).unwrap();
    let append =
        |records: &[Record]| Append { document: document(), epoch: FIRST_EPOCH, records: records.to_vec() };
    log.commit(&[append(&records[100..150])]).unwrap();
    verifying.ask(behind(&records[149]), &records[150..200]).unwrap();
    // Those were never stored: others come in their place.
    verifying.ask(behind(&records[149]), &records[150..151]).unwrap();
    log.commit(&[append(&records[150..250])]).unwrap();
    cut(&mut log, &records[199]).unwrap();
    verifying.ask(behind(&records[249]), &records[250..]).unwrap();
    assert_eq!(verifying.end("sound"), 4);
}

#[test]
fn the_first_change_that_breaks_the_document_is_named_and_a_new_document_is_verified_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = history(20);
    let start = Replica::new(document(), FIRST_EPOCH).cursor();
    for stored in [0, 10] {
        let log = store_some(&directory.path().join(stored.to_string()), &records[..stored]);
        let verifying = verifying(&log, 1 << 24);
        let after = records[..stored].last().map_or(start, behind);
        let group = with_a_gap(&records[stored..]);
        let broken = verifying.ask(after, &group).unwrap_err();
        assert!(matches!(broken, Unverified::Breaks { index: 2, .. }), "{broken:?}");
        verifying.ask(after, &group[..2]).unwrap();
        assert_eq!(verifying.end("breaks"), 1);
    }
}

fn store_some(path: &std::path::Path, records: &[Record]) -> FjallLog {
    match records {
        [] => crate::storage::open(path).unwrap(),
        records => store(path, records),
    }
}

#[test]
fn another_state_of_the_document_is_not_taken_for_the_one_asked_about() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = history(20);
    let log = store(directory.path(), &records[..10]);
    let verifying = verifying(&log, 1 << 24);
    let elsewhere = Cursor { chain: [9; 32], ..behind(&records[9]) };
    assert!(matches!(verifying.ask(elsewhere, &records[10..]), Err(Unverified::Unavailable { .. })));
    let later = behind(&records[14]);
    assert!(matches!(verifying.ask(later, &records[15..]), Err(Unverified::Unavailable { .. })));
    assert_eq!(verifying.end("unavailable"), 2);
}

#[test]
fn a_document_that_would_take_many_times_the_budget_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = history(200);
    let log = store(directory.path(), &records[..199]);
    let bytes = Replica::new(document(), FIRST_EPOCH).apply(&records).unwrap().bytes();
    for (bytes_max, is_taken) in
        [(bytes / BUDGETS_PER_DOCUMENT_MAX + 1, true), (bytes / BUDGETS_PER_DOCUMENT_MAX - 1, false)]
    {
        let verifying = verifying(&log, bytes_max);
        let result = verifying.ask(behind(&records[198]), &records[199..]);
        let is_too_large = matches!(result, Err(Unverified::TooLarge { .. }));
        assert_eq!((result.is_ok(), is_too_large), (is_taken, !is_taken), "{bytes_max}");
        assert_eq!(verifying.end("sound"), u64::from(is_taken));
    }
}

#[test]
fn nobody_waits_for_threads_that_do_not_run() {
    let (verifier, threads) = VerifierThreads::none();
    let (answer, answered) = flume::bounded(1);
    let start = Replica::new(document(), FIRST_EPOCH).cursor();
    verifier.ask(document(), start, Vec::new(), Box::new(move |result| answer.send(result).unwrap()));
    assert!(matches!(answered.recv().unwrap(), Err(Unverified::Unavailable { .. })));
    assert!(!verifier.is_on());
    threads.join();
}
