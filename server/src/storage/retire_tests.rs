use std::sync::atomic::Ordering;

use etherply_engine::log::{Append, FIRST_EPOCH, Log as _, LogReader as _, Past};

use super::super::testing::{Author, document, spoil_head};
use super::super::{Epochs as _, FjallLog, Tombstones as _, Turn, open};
use super::*;

/// Gives document `a`, which has so many changes in an epoch, a new one with two.
fn turn(log: &mut FjallLog, author: &mut Author, from: (u64, u64), epoch: u64) {
    turn_of("a", log, author, from, epoch);
}

fn turn_of(name: &str, log: &mut FjallLog, author: &mut Author, from: (u64, u64), epoch: u64) {
    let append = author.append_sized(name, epoch, 2, 48);
    let (document, past) = (document(name), Past { reset_epoch: epoch, ..Past::default() });
    log.turn(&Turn { document, from, append, past }).unwrap();
}

/// Rows of documents in the keyspaces of records and hashes, and notes.
fn rows(log: &FjallLog, name: &str) -> (usize, usize) {
    let view = log.reader().view().unwrap();
    let all = super::super::keys::rows_of_document(&document(name));
    let count = |id| view.committed.range(view.opened.keyspaces.get(id), all.clone()).count();
    let notes = log.reader().retired(None, 100).unwrap();
    let notes = notes.iter().filter(|note| note.document == document(name)).count();
    (count(KeyspaceId::Changes) + count(KeyspaceId::Hashes), notes)
}

fn removal(log: &FjallLog) -> Removal {
    Removal::new(log.reader().retired(None, 1).unwrap().remove(0))
}

fn step(log: &mut FjallLog, removal: &mut Removal) -> bool {
    let reader = log.reader().clone();
    removal.step(&reader, log, &mut 0).unwrap()
}

#[test]
fn the_rows_of_epochs_before_go_in_pieces_and_nothing_else_does() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    let mut author = Author::default();
    log.commit(&[author.append("a", 700), author.append("ab", 3)]).unwrap();
    // Half of an attempt that a crash ended.
    log.stage(&author.append_sized("a", 2, 5, 48)).unwrap();
    assert_eq!(log.reader().retired(None, 10).unwrap(), []);
    turn(&mut log, &mut author, (FIRST_EPOCH, 700), 3);
    let note = log.reader().retired(None, 10).unwrap().remove(0);
    assert_eq!((note.document.clone(), note.first_epoch, note.last_epoch), (document("a"), 1, 2));
    assert_eq!((rows(&log, "a"), rows(&log, "ab")), ((2 * 707, 1), (6, 0)));
    // It is stopped and opened again after each piece, while others write.
    let mut pieces = 0;
    while rows(&log, "a").1 > 0 {
        let mut removal = removal(&log);
        step(&mut log, &mut removal);
        pieces += 1;
        let mut push = author.append_sized("a", 3, 1, 48);
        push.records.iter_mut().for_each(|record| record.time_ms = 1);
        log.commit(&[push]).unwrap();
        drop(log);
        log = open(directory.path()).unwrap();
        assert_eq!(log.reader().read(&document("a"), 3, 0, u64::MAX, usize::MAX).unwrap().len(), 2 + pieces);
    }
    assert_eq!(pieces, (2 * 705_usize).div_ceil(PIECE_ROWS_MAX));
    assert_eq!((rows(&log, "a"), rows(&log, "ab")), ((2 * (2 + pieces), 0), (6, 0)));
    log.flush_tables();
    drop(log);
    let report = super::super::damage_tests::verify(directory.path());
    // These authors' changes are no changes: the records themselves count as damaged.
    assert!(report.damage.is_empty() && report.commits.missing.is_empty(), "{report:?}");
    assert_eq!(report.records_of_other_epochs, 0, "{report:?}");
}

#[test]
fn each_epoch_is_kept_for_its_days() {
    const DAYS: u64 = 30;
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    let mut author = Author::default();
    log.commit(&[author.append("a", 5)]).unwrap();
    turn(&mut log, &mut author, (FIRST_EPOCH, 5), 2);
    turn(&mut log, &mut author, (2, 2), 3);
    let notes = log.reader().retired(None, 10).unwrap();
    assert_eq!(log.reader().retired(Some(&notes[0]), 10).unwrap(), notes[1..]);
    let (reader, stats) = (log.reader().clone(), Arc::clone(log.stats()));
    let mut retiring = Retiring { reader, committer: log, stats, keep_ms: DAYS * DAY_MS };
    let (_stop, stopped) = flume::bounded(0);
    let due_ms = notes[1].time_ms + DAYS * DAY_MS;
    for (now_ms, left) in [(0, 18), (notes[0].time_ms + DAYS * DAY_MS - 1, 18), (due_ms, 4)] {
        retiring.pass(&stopped, now_ms).unwrap();
        assert_eq!(rows(&retiring.committer, "a").0, left, "{now_ms}");
    }
    // Ten rows of the first epoch, four of the second, a note of each.
    assert_eq!(retiring.stats.retired_rows.load(Ordering::Relaxed), 16);
}

#[test]
fn a_damaged_document_keeps_no_other_from_being_retired() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    let mut author = Author::default();
    for name in ["a", "b", "c"] {
        log.commit(&[author.append(name, 5)]).unwrap();
        turn_of(name, &mut log, &mut author, (FIRST_EPOCH, 5), 2);
    }
    spoil_head(&mut log, "b");
    let (reader, stats) = (log.reader().clone(), Arc::clone(log.stats()));
    let mut retiring = Retiring { reader, committer: log, stats, keep_ms: 0 };
    let (_stop, stopped) = flume::bounded(0);
    retiring.pass(&stopped, u64::MAX).unwrap();
    let left = ["a", "b", "c"].map(|name| rows(&retiring.committer, name));
    assert_eq!(left, [(4, 0), (14, 1), (4, 0)]);
    // What is not one document's ends the pass.
    retiring.committer.writer = None;
    let reader = retiring.reader.slot.write().unwrap().take();
    assert!(matches!(retiring.pass(&stopped, u64::MAX), Err(LogError::Unavailable { .. })));
    drop(reader);
}

#[test]
fn a_document_that_is_deleted_or_goes_on_meanwhile_loses_nothing_by_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    let mut author = Author::default();
    log.commit(&[author.append("a", 700)]).unwrap();
    turn(&mut log, &mut author, (FIRST_EPOCH, 700), 2);
    let mut removal = removal(&log);
    assert!(!step(&mut log, &mut removal));
    turn(&mut log, &mut author, (2, 2), 3);
    while !step(&mut log, &mut removal) {}
    assert_eq!(rows(&log, "a"), (8, 1), "the second epoch, which has a note of its own, and the third");
    let mut removal = self::removal(&log);
    log.delete(&document("a")).unwrap();
    assert!(step(&mut log, &mut removal));
    while log.tidy() {}
    assert_eq!(rows(&log, "a"), (0, 0));
    assert!(matches!(log.reader().epoch(&document("a")), Err(LogError::Deleted { .. })));
}

#[test]
fn a_wrong_note_removes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    let mut author = Author::default();
    log.commit(&[author.append("a", 5)]).unwrap();
    for last_epoch in [1, u64::MAX] {
        let note = Retired { document: document("a"), first_epoch: 0, last_epoch, time_ms: 0 };
        let mut piece = Piece::new(document("a"), Expect::Anything);
        piece.set(KeyspaceId::Meta, retired_key(&note.document, 0), note.encode());
        Pieces::store(&mut log, piece).unwrap();
        assert_eq!(log.reader().retired(None, 10).unwrap(), std::slice::from_ref(&note));
        assert!(step(&mut log, &mut Removal::new(note)));
        assert_eq!(rows(&log, "a"), (10, 0));
    }
    let append: Append = author.append("a", 1);
    log.commit(&[append]).unwrap();
}
