use std::sync::atomic::Ordering;
use std::sync::mpsc;

use etherply_engine::log::{FIRST_EPOCH, Log, LogError, LogReader};

use super::super::testing::{Author, document};
use super::super::thread::{Job, Listeners, Reply, spawn_committer};
use super::super::{FjallLog, open};
use super::*;

fn last_seq(log: &FjallLog, name: &str) -> u64 {
    log.reader().head(&document(name)).unwrap().map_or(0, |head| head.last_seq)
}

/// A log with a document of one record, whose next commit has failed after it was synced.
fn failed(path: &std::path::Path) -> (FjallLog, Author) {
    let mut author = Author::default();
    let mut log = open(path).unwrap();
    log.commit(&[author.append("a", 1)]).unwrap();
    log.fill_disk();
    log.commit(&[author.append("a", 1), author.append("b", 1)]).unwrap_err();
    (log, author)
}

#[test]
fn a_failed_log_takes_writes_again_and_names_what_it_does_not_know() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, mut author) = failed(directory.path());
    assert!(log.has_failed());
    log.commit(&[author.append("c", 1)]).unwrap_err();
    let reader = log.reader().clone();
    assert_eq!(last_seq(&log, "a"), 1, "what failed is not seen");
    let doubtful = log.reopen().unwrap();
    assert_eq!(doubtful, [document("a"), document("b")], "and not those that came later");
    assert!(!log.has_failed());
    // Here, the commit had been synced. Readers from before see the log as it is now.
    assert_eq!(reader.head(&document("a")).unwrap().unwrap().last_seq, 2);
    assert_eq!(reader.head(&document("c")).unwrap(), None);
    log.commit(&[author.append("a", 1)]).unwrap();
    assert_eq!(log.reader().read(&document("a"), FIRST_EPOCH, 0, u64::MAX, usize::MAX).unwrap().len(), 3);
    assert_eq!(reader.head(&document("a")).unwrap().unwrap().last_seq, 3);
    drop((log, reader));
    assert_eq!(last_seq(&open(directory.path()).unwrap(), "a"), 3);
}

#[test]
fn a_pinned_reader_ends_and_a_slow_question_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = failed(directory.path());
    let pinned = log.reader().pinned();
    assert_eq!(pinned.head(&document("a")).unwrap().unwrap().last_seq, 1);
    // Somebody is in the middle of a question when the log is to be opened again.
    let asked = Arc::clone(log.reader().slot.read().unwrap().as_ref().unwrap());
    let (begin, begun) = mpsc::channel::<()>();
    let answering = std::thread::spawn(move || {
        begun.recv().unwrap();
        drop(asked);
    });
    std::thread::scope(|scope| {
        let reopening = scope.spawn(|| log.reopen().unwrap());
        begin.send(()).unwrap();
        reopening.join().unwrap();
    });
    answering.join().unwrap();
    let error = pinned.head(&document("a")).unwrap_err();
    assert!(error.to_string().contains("opened again meanwhile"), "{error}");
}

#[test]
fn what_was_damaged_meanwhile_is_not_opened_and_the_directory_stays_ours() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, mut author) = failed(directory.path());
    let journal = all_journals(&directory.path().join("fjall")).pop().unwrap();
    let whole = fs::read(&journal).unwrap();
    let mut bad = whole.clone();
    bad[100] ^= 1;
    fs::write(&journal, &bad).unwrap();
    assert_eq!(log.reopen().unwrap_err().code(), "storage_damaged");
    assert!(log.has_failed());
    assert!(matches!(log.commit(&[author.append("x", 1)]), Err(LogError::Unavailable { .. })));
    let error = log.reader().epoch(&document("a")).unwrap_err();
    assert!(error.to_string().contains("could not be opened again yet"), "{error}");
    assert_eq!(open(directory.path()).unwrap_err().code(), "storage_locked");
    // An operator has mended it.
    fs::write(&journal, &whole).unwrap();
    assert_eq!(log.reopen().unwrap().len(), 2);
    assert_eq!(last_seq(&log, "a"), 2);
}

#[test]
fn the_commit_thread_opens_the_log_again_and_jobs_from_before_fail() {
    let directory = tempfile::tempdir().unwrap();
    let (log, mut author) = failed(directory.path());
    let stats = Arc::clone(log.stats());
    let (tell, recovered) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let listeners = Listeners {
        recovered: Arc::new(move |era, documents| {
            tell.lock().unwrap().send((era, documents.to_vec())).unwrap();
        }),
        ..Listeners::default()
    };
    let (committer, thread) = spawn_committer(log, Arc::clone(&stats), listeners, || {}).unwrap();
    let (send, answers) = mpsc::channel();
    let reply: Arc<dyn Reply> = Arc::new(move |token, outcome: Result<(), LogError>| {
        send.send((token, outcome.is_ok())).unwrap();
    });
    let mut submit = |token, era| {
        let appends = vec![author.append(&format!("new {token}"), 1)];
        committer.submit(Job { appends, token, era, reply: Arc::clone(&reply) }).unwrap();
    };
    submit(1, 0);
    assert_eq!(answers.recv().unwrap(), (1, false));
    assert_eq!(stats.failed.load(Ordering::Acquire), 1);
    assert_eq!(recovered.recv().unwrap(), (1, vec![document("a"), document("b")]));
    assert_eq!((stats.failed.load(Ordering::Acquire), stats.recoveries.load(Ordering::Relaxed)), (0, 1));
    submit(2, 0);
    submit(3, 1);
    submit(4, 0);
    let mut told: Vec<_> = answers.iter().take(3).collect();
    told.sort_unstable();
    assert_eq!(told, [(2, false), (3, true), (4, false)]);
    drop(committer);
    thread.join();
    assert_eq!(stats.queued_jobs.load(Ordering::Relaxed), 0);
    assert_eq!(stats.queued_bytes.load(Ordering::Relaxed), 0);
    let log = open(directory.path()).unwrap();
    assert_eq!(["new 1", "new 2", "new 3", "new 4"].map(|name| last_seq(&log, name)), [0, 0, 1, 0]);
}
