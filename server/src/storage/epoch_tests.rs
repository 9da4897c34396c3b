use etherply_engine::change::ActorId;
use etherply_engine::log::{FIRST_EPOCH, Log, LogReader};

use super::super::testing::{Author, document};
use super::super::{FjallLog, open};
use super::*;

fn past(epoch: u64) -> Past {
    Past { reset_epoch: epoch, excluded: vec![ActorId::from_slice(&[9; 16]).unwrap()] }
}

fn turn(append: Append, from: u64) -> Turn {
    let past = past(append.epoch);
    Turn { document: append.document.clone(), from: (FIRST_EPOCH, from), append, past }
}

fn seqs(log: &FjallLog, epoch: u64) -> Vec<u64> {
    let records = log.reader().read(&document("a"), epoch, 0, u64::MAX, usize::MAX).unwrap();
    records.iter().map(|record| record.seq).collect()
}

/// Flushed or not, and after a reopen, everything is there.
fn reopened(directory: &std::path::Path, log: FjallLog) -> FjallLog {
    drop(log);
    open(directory).unwrap()
}

#[test]
fn a_document_begins_anew_in_as_many_commits_as_it_takes() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    log.commit(&[author.append("a", 5), author.append("ab", 2)]).unwrap();
    assert_eq!(log.reader().past(&document("a")), Ok(Past::default()));
    for _ in 0..2 {
        log.stage(&author.append_sized("a", 2, 2, 48)).unwrap();
        log = reopened(directory.path(), log);
        assert_eq!((seqs(&log, 1).len(), seqs(&log, 2).len()), (5, 0), "nobody reads what is staged");
        assert_eq!(log.reader().epoch(&document("a")), Ok(Some(1)));
    }
    log.turn(&turn(author.append_sized("a", 2, 1, 48), 5)).unwrap();
    for _ in 0..2 {
        assert_eq!(log.reader().epoch(&document("a")), Ok(Some(2)));
        assert_eq!((seqs(&log, 1), seqs(&log, 2)), (vec![], vec![1, 2, 3, 4, 5]));
        assert_eq!(log.reader().past(&document("a")), Ok(past(2)));
        assert_eq!(log.reader().past(&document("ab")), Ok(Past::default()));
        let page = log.reader().documents("", None, 10).unwrap();
        assert_eq!(page.iter().map(|entry| entry.head.as_ref().unwrap().epoch).collect::<Vec<_>>(), [2, 1]);
        log = reopened(directory.path(), log);
    }
    log.commit(&[author.append_sized("a", 2, 1, 48)]).unwrap();
    assert_eq!(seqs(&log, 2).len(), 6);
    assert_eq!(log.reader().past(&document("a")), Ok(past(2)), "an append changes nothing about it");
}

#[test]
fn a_document_may_begin_anew_without_any_record() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    let first = author.append("a", 1);
    log.commit(std::slice::from_ref(&first)).unwrap();
    let empty = Append { document: document("a"), epoch: 2, records: Vec::new() };
    log.turn(&turn(empty, 1)).unwrap();
    let mut log = reopened(directory.path(), log);
    assert_eq!((log.reader().epoch(&document("a")), seqs(&log, 2)), (Ok(Some(2)), vec![]));
    log.commit(&[author.append_sized("a", 2, 1, 48)]).unwrap();
    assert_eq!(seqs(&log, 2), [1]);
}

#[test]
fn what_does_not_fit_is_refused_and_writing_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    assert!(log.stage(&author.append_sized("a", 2, 1, 48)).is_err(), "nothing is stored of it");
    let mut author = Author::default();
    log.commit(&[author.append("a", 2)]).unwrap();
    assert!(log.stage(&author.append("a", 1)).is_err(), "it is the document's own epoch");
    let next = author.append_sized("a", 2, 1, 48);
    for from in [1, 3] {
        assert!(log.turn(&turn(next.clone(), from)).is_err(), "it stands at 2, not at {from}");
    }
    log.turn(&turn(next, 2)).unwrap();
    log.commit(&[author.append_sized("a", 2, 1, 48)]).unwrap();
}

#[test]
fn what_an_interrupted_attempt_left_is_never_taken_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    log.commit(&[author.append("a", 2)]).unwrap();
    assert_eq!(log.reader().free_epoch(&document("a")), Ok(2));
    log.stage(&author.append_sized("a", 2, 3, 48)).unwrap();
    let mut log = reopened(directory.path(), log);
    let epoch = log.reader().free_epoch(&document("a")).unwrap();
    assert_eq!(epoch, 3);
    log.turn(&turn(author.append_sized("a", epoch, 1, 48), 2)).unwrap();
    assert_eq!(seqs(&log, 3), [1]);
    assert_eq!(log.reader().free_epoch(&document("ab")), Ok(1));
}
