use etherply_engine::log::{Append, FIRST_EPOCH, Log, LogReader};

use super::super::damage_tests::verify;
use super::super::repair::repair;
use super::super::testing::{Author, RealAuthor, document, journal_paths, spoil_head};
use super::super::{FjallLog, open};
use super::*;

fn is_deleted(log: &FjallLog, name: &str) -> bool {
    let deleted = |error| matches!(error, LogError::Deleted { .. });
    let read = log.reader().read(&document(name), FIRST_EPOCH, 0, u64::MAX, usize::MAX);
    log.reader().epoch(&document(name)).is_err_and(deleted) && read.is_err_and(deleted)
}

/// Rows of a document that are left.
fn rows(log: &FjallLog, name: &str) -> usize {
    let reader = log.reader();
    let keyspaces = reader.keyspaces();
    let all = rows_of_document(&document(name));
    [&keyspaces.changes, &keyspaces.hashes]
        .map(|keyspace| reader.committed_snapshot().range(keyspace, all.clone()).count())
        .iter()
        .sum()
}

fn tidy(log: &mut FjallLog) -> usize {
    let mut pieces = 1;
    while log.tidy() {
        pieces += 1;
    }
    pieces
}

fn assert_whole(log: &FjallLog, append: &Append) {
    let read = log.reader().read(&append.document, append.epoch, 0, u64::MAX, usize::MAX).unwrap();
    assert_eq!(read, append.records);
}

#[test]
fn a_deleted_document_stays_deleted_and_its_neighbours_stay() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    let mut author = Author::default();
    let neighbours = [author.append("a", 3), author.append("a/b ", 2), author.append("a/bb", 3)];
    log.commit(&neighbours).unwrap();
    log.commit(&[author.append("a/b", 5)]).unwrap();
    assert_eq!(log.delete(&document("nothing")).unwrap(), Deleted::Absent);
    assert_eq!(log.delete(&document("a/b")).unwrap(), Deleted::Now);
    assert_eq!(log.delete(&document("a/b")).unwrap(), Deleted::Before);
    assert!(is_deleted(&log, "a/b") && rows(&log, "a/b") == 10);
    drop(log);
    // The next start goes on with its rows.
    let mut log = open(directory.path()).unwrap();
    assert!(is_deleted(&log, "a/b") && rows(&log, "a/b") == 10);
    assert_eq!(tidy(&mut log), 1);
    assert_eq!(rows(&log, "a/b"), 0);
    drop(log);
    let mut log = open(directory.path()).unwrap();
    assert!(is_deleted(&log, "a/b"));
    assert!(!log.tidy(), "nothing is left to do");
    for append in &neighbours {
        assert_whole(&log, append);
    }
    let page = log.reader().documents("", None, 10).unwrap();
    let listed: Vec<_> = page.iter().map(|entry| (entry.document.as_str(), entry.is_deleted())).collect();
    assert_eq!(listed, [("a", false), ("a/b", true), ("a/b ", false), ("a/bb", false)]);
    log.commit(&[author.append("a", 1)]).unwrap();
}

#[test]
fn a_document_whose_head_is_damaged_can_be_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    let mut author = Author::default();
    let neighbours = [author.append("a", 3), author.append("c", 2)];
    log.commit(&neighbours).unwrap();
    log.commit(&[author.append("b", 5)]).unwrap();
    spoil_head(&mut log, "b");
    assert_eq!(log.delete(&document("b")).unwrap(), Deleted::Now);
    assert_eq!(log.delete(&document("b")).unwrap(), Deleted::Before);
    assert_eq!(tidy(&mut log), 1);
    assert!(is_deleted(&log, "b") && rows(&log, "b") == 0);
    neighbours.iter().for_each(|append| assert_whole(&log, append));
}

#[test]
fn rows_go_in_pieces_with_commits_in_between() {
    for (records, pieces) in [(PIECE_ROWS_MAX / 2 - 1, 1), (PIECE_ROWS_MAX / 2, 2), (PIECE_ROWS_MAX, 3)] {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(directory.path()).unwrap();
        let mut author = Author::default();
        log.commit(&[author.append("gone", records)]).unwrap();
        log.delete(&document("gone")).unwrap();
        let mut made = 1;
        while log.tidy() {
            made += 1;
            log.commit(&[author.append("other", 1)]).unwrap();
            assert_eq!(rows(&log, "gone"), 2 * records - (made - 1) * PIECE_ROWS_MAX);
        }
        assert_eq!((made, rows(&log, "gone")), (pieces, 0), "{records} records");
        drop(log);
        assert!(is_deleted(&open(directory.path()).unwrap(), "gone"));
    }
}

#[test]
fn a_start_after_a_crash_in_the_middle_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    let mut author = Author::default();
    log.commit(&[author.append("gone", 2 * PIECE_ROWS_MAX)]).unwrap();
    log.delete(&document("gone")).unwrap();
    let mut left = rows(&log, "gone");
    assert_eq!(left, 4 * PIECE_ROWS_MAX);
    loop {
        let more = log.tidy();
        drop(log);
        log = open(directory.path()).unwrap();
        assert!(is_deleted(&log, "gone"));
        left -= PIECE_ROWS_MAX.min(left);
        assert_eq!(rows(&log, "gone"), left);
        if !more {
            break;
        }
    }
    assert!(!log.tidy());
}

#[test]
fn removed_rows_that_compactions_forget_do_not_look_like_missing_tables() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    log.commit(&[author.append("kept", 2)]).unwrap();
    log.commit(&[author.append("gone", 100)]).unwrap();
    log.delete(&document("gone")).unwrap();
    tidy(&mut log);
    // Everything into tables, and these into one each: the tables hold all batches, and must still say so when
    // nothing of the removals is left in them. Journals that are not needed any more are dropped by that.
    for _ in 0..2 {
        let keyspaces = log.reader().keyspaces();
        keyspaces.flush_and_compact().unwrap();
        assert_eq!(keyspaces.tables_end(), keyspaces.seqno_end());
        drop((log, keyspaces));
        log = open(directory.path()).unwrap();
    }
    assert!(is_deleted(&log, "gone"));
    log.commit(&[author.append("kept", 1)]).unwrap();
    drop(log);
    let log = open(directory.path()).unwrap();
    assert_eq!(log.reader().read(&document("kept"), FIRST_EPOCH, 0, u64::MAX, usize::MAX).unwrap().len(), 3);
}

#[test]
fn what_an_epoch_has_staged_of_a_deleted_document_is_refused_and_removed() {
    use super::super::epoch::Epochs;
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    let mut author = Author::default();
    log.commit(&[author.append("gone", 2)]).unwrap();
    log.stage(&author.append_sized("gone", 2, 3, 20)).unwrap();
    log.delete(&document("gone")).unwrap();
    let later = author.append_sized("gone", 2, 1, 20);
    assert!(matches!(log.stage(&later), Err(LogError::Deleted { .. })));
    tidy(&mut log);
    assert_eq!(rows(&log, "gone"), 0);
    log.commit(&[author.append("other", 1)]).unwrap();
}

#[test]
fn verify_and_repair_know_deleted_documents() {
    let root = tempfile::tempdir().unwrap();
    let (data, to) = (root.path().join("data"), root.path().join("new"));
    let mut author = RealAuthor::new();
    let mut log = open(&data).unwrap();
    log.commit(&[author.append("kept", 3)]).unwrap();
    log.commit(&[author.append("gone", 4)]).unwrap();
    log.delete(&document("gone")).unwrap();
    drop(log);
    // With its rows, without them, and with everything in tables.
    for step in 0..3 {
        let found = verify(&data);
        assert!(found.whole, "step {step}: {found}");
        assert_eq!((found.documents, found.documents_deleted, found.records), (1, 1, 3));
        let mut log = open(&data).unwrap();
        match step {
            0 => assert_eq!(tidy(&mut log), 1),
            _ => log.reader().keyspaces().flush_and_compact().unwrap(),
        }
    }
    let repaired = repair(&data, &to, crate::materialise::whole::unpack, &mut |_| {}).unwrap();
    assert!(repaired.kept_all && repaired.written.whole, "{}", repaired.found);
    let log = open(&to).unwrap();
    assert!(is_deleted(&log, "gone"));
    assert_eq!(log.reader().read(&document("kept"), FIRST_EPOCH, 0, u64::MAX, usize::MAX).unwrap().len(), 3);
}

#[test]
fn a_damaged_tombstone_is_never_a_free_name_without_a_word() {
    let data = tempfile::tempdir().unwrap();
    let mut log = open(data.path()).unwrap();
    log.commit(&[RealAuthor::new().append("gone", 1)]).unwrap();
    log.delete(&document("gone")).unwrap();
    tidy(&mut log);
    drop(log);
    let path = &journal_paths(data.path())[0];
    let whole = std::fs::read(path).unwrap();
    let used = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    for byte in 0..used {
        let mut bad = whole.clone();
        bad[byte] ^= 1;
        std::fs::write(path, &bad).unwrap();
        let found = verify(data.path());
        // Either it is said, or what was changed means nothing.
        assert!(!found.whole || found.documents_deleted == 1, "byte {byte}: {found}");
    }
}
