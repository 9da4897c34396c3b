use std::sync::atomic::Ordering;

use etherply_engine::log::{FIRST_EPOCH, LogReader as _, MemoryLog};

use super::super::testing::{Author, document};
use super::super::{DocumentEntry, open};
use super::*;

fn read_all(log: &FjallLog, name: &str) -> Vec<Record> {
    log.reader().read(&document(name), FIRST_EPOCH, 0, u64::MAX, usize::MAX).unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_reopen() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut memory = MemoryLog::new();
    for round in 0..5 {
        let mut log = open(directory.path()).unwrap();
        for _ in 0..=round {
            let appends = [author.append("a", 3), author.append("ab", 1), author.append("a", 1)];
            log.commit(&appends).unwrap();
            memory.commit(&appends).unwrap();
        }
        drop(log);
        let log = open(directory.path()).unwrap();
        for name in ["a", "ab", "b"] {
            assert_eq!(read_all(&log, name), memory.records(&document(name)));
            assert_eq!(log.reader().epoch(&document(name)), memory.epoch(&document(name)));
        }
    }
}

#[test]
fn reads_agree_with_the_log_in_memory_at_every_bound() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let appends = [author.append_sized("a", 1, 12, 10), author.append_sized("a!", 1, 3, 10)];
    let mut log = open(directory.path()).unwrap();
    let mut memory = MemoryLog::new();
    log.commit(&appends).unwrap();
    memory.commit(&appends).unwrap();
    let a = document("a");
    for epoch in [0, 1, 2] {
        for after in (0..14).chain([u64::MAX - 1, u64::MAX]) {
            for through in (0..14).chain([u64::MAX]) {
                for bytes_max in [0, 1, 9, 10, 11, 19, 20, 21, 119, 120, 121, usize::MAX] {
                    let read = log.reader().read(&a, epoch, after, through, bytes_max).unwrap();
                    let expected = memory.read(&a, epoch, after, through, bytes_max).unwrap();
                    assert_eq!(read, expected, "{epoch} {after} {through} {bytes_max}");
                }
            }
        }
    }
    for record in &appends[0].records {
        assert_eq!(log.reader().find(&a, 1, &record.hash), memory.find(&a, 1, &record.hash));
        assert_eq!(log.reader().find(&a, 2, &record.hash), Ok(None));
        assert_eq!(log.reader().find(&document("a!"), 1, &record.hash), Ok(None));
    }
}

#[test]
fn documents_whose_names_begin_alike_keep_apart() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let names = ["a", "a ", "aa", "aaa", "a/b", "a/b/c", "\u{10ffff}", "\u{10ffff}a", "é"];
    let mut log = open(directory.path()).unwrap();
    for _ in 0..3 {
        let appends: Vec<_> = names.iter().map(|name| author.append(name, 2)).collect();
        log.commit(&appends).unwrap();
    }
    for name in names {
        assert_eq!(read_all(&log, name).len(), 6, "{name}");
    }
    assert_eq!(read_all(&log, "a/").len(), 0);
}

#[test]
fn documents_are_listed_in_pages_below_a_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    let mut appends: Vec<_> = (0..10).map(|i| author.append(&format!("room/{i}"), i + 1)).collect();
    appends.push(author.append("z", 1));
    log.commit(&appends).unwrap();
    let reader = log.reader();
    let names = |page: Vec<DocumentEntry>| -> Vec<String> {
        page.into_iter().map(|entry| entry.document.to_string()).collect()
    };
    assert_eq!(names(reader.documents("", None, 100).unwrap()).len(), 11);
    assert_eq!(names(reader.documents("z", None, 100).unwrap()), ["z"]);
    assert_eq!(names(reader.documents("y", None, 100).unwrap()), [""; 0]);
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = reader.documents("room/", after.as_ref(), 3).unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        after = Some(last.document.clone());
        all.extend(page);
    }
    let expected: Vec<_> = (0..10)
        .map(|i| DocumentEntry {
            document: document(&format!("room/{i}")),
            head: Ok(Head { epoch: 1, last_seq: i + 1, flags: 0 }),
        })
        .collect();
    assert_eq!(all, expected);
    // A page may begin before the prefix, and behind a document that is not there.
    assert_eq!(names(reader.documents("room/", Some(&document("a")), 1).unwrap()), ["room/0"]);
    assert_eq!(names(reader.documents("room/", Some(&document("room/1x")), 1).unwrap()), ["room/2"]);
}

#[test]
fn a_new_epoch_replaces_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    let a = document("a");
    assert_eq!(log.reader().epoch(&a), Ok(None));
    log.commit(&[author.append("a", 3)]).unwrap();
    log.commit(&[author.append_sized("a", 7, 2, 10)]).unwrap();
    assert_eq!(log.reader().epoch(&a), Ok(Some(7)));
    assert_eq!(log.reader().read(&a, 7, 0, u64::MAX, usize::MAX).unwrap().len(), 2);
    assert_eq!(log.reader().read(&a, 1, 0, u64::MAX, usize::MAX).unwrap(), []);
}

#[test]
fn a_record_that_does_not_follow_is_not_stored_and_ends_writing() {
    let mut author = Author::default();
    let first = author.append("a", 1);
    let second = author.append("a", 1);
    let third = author.append("a", 1);
    let long_name = |mut append: Append| {
        append.records[0].pusher = Arc::from("x".repeat(PUSHER_BYTES_MAX + 1));
        append
    };
    let old_epoch = Append { epoch: 0, ..author.append_sized("a", 0, 1, 10) };
    let later_epoch = Append { epoch: 2, ..second.clone() };
    let cases = [
        vec![third.clone()],
        vec![first.clone()],
        vec![second.clone(), second.clone()],
        vec![second.clone(), Append { epoch: 0, ..third.clone() }],
        vec![old_epoch],
        vec![later_epoch],
        vec![long_name(second.clone())],
    ];
    for (index, bad) in cases.iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(directory.path()).unwrap();
        log.commit(std::slice::from_ref(&first)).unwrap();
        let error = log.commit(bad).unwrap_err();
        assert!(matches!(error, LogError::Damaged { .. }), "{index}: {error}");
        let error = log.commit(std::slice::from_ref(&second)).unwrap_err();
        assert!(error.to_string().contains("writes stopped after an earlier failure"), "{index}: {error}");
        assert_eq!(read_all(&log, "a"), first.records, "{index}");
        assert_eq!(log.stats().commits_failed.load(Ordering::Relaxed), 2);
    }
}

#[test]
fn an_empty_commit_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    log.commit(&[]).unwrap();
    log.commit(&[Append { document: document("a"), epoch: 1, records: Vec::new() }]).unwrap();
    assert_eq!(log.stats().fsyncs.load(Ordering::Relaxed), 0);
    assert_eq!(log.reader().epoch(&document("a")), Ok(None));
}

#[test]
fn damage_of_a_document_is_named_and_leaves_the_others_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    log.commit(&[author.append("a", 5), author.append("b", 5)]).unwrap();
    let (a, stored) = (document("a"), log.writer().keyspaces.changes.clone());
    let good = stored.get(change_key(&a, 1, 3)).unwrap().unwrap();
    let other = stored.get(change_key(&a, 1, 2)).unwrap().unwrap();
    let mut flipped = good.to_vec();
    flipped[60] ^= 1;
    let put = |seq: u64, bytes: Option<&[u8]>| {
        match bytes {
            Some(bytes) => stored.insert(change_key(&a, 1, seq), bytes).unwrap(),
            None => stored.remove(change_key(&a, 1, seq)).unwrap(),
        }
        log.writer().publish();
    };
    let damaged_at = |after: u64, through: u64| match log.reader().read(&a, 1, after, through, usize::MAX) {
        Err(LogError::Damaged { document, seq, .. }) if document == a => Some(seq),
        Ok(_) => None,
        other => panic!("{other:?}"),
    };
    for bad in [None, Some(flipped.as_slice()), Some(other.as_ref()), Some(&[])] {
        put(3, bad);
        assert_eq!(damaged_at(0, 5), Some(3));
        assert_eq!(damaged_at(2, 3), Some(3));
        assert_eq!(damaged_at(0, 2), None);
        assert_eq!(damaged_at(3, 5), None);
    }
    put(3, Some(&good));
    assert_eq!(damaged_at(0, 5), None);
    // The end of the log is missing.
    put(5, None);
    assert_eq!(damaged_at(0, 4), None);
    assert_eq!(damaged_at(0, 5), Some(5));
    assert_eq!(damaged_at(4, u64::MAX), Some(5));
    // A record that is whole and in its place, but of another history.
    let mut other_history = Author::default();
    other_history.append("b", 1);
    let fork = other_history.append("a", 5);
    put(5, Some(&fork.records[4].encode(&a, 1)));
    assert_eq!(damaged_at(0, 5), Some(5));
    assert_eq!(read_all(&log, "b").len(), 5);
}

#[test]
fn rows_beside_the_records_are_checked_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    let append = author.append("a", 1);
    let (a, hash) = (append.document.clone(), append.records[0].hash);
    log.commit(&[append]).unwrap();
    log.writer().keyspaces.hashes.insert(hash_key(&a, 1, &hash), [1; 20]).unwrap();
    log.writer().keyspaces.documents.insert(a.as_str(), [1; 22]).unwrap();
    log.writer().publish();
    assert!(matches!(log.reader().find(&a, 1, &hash), Err(LogError::Damaged { .. })));
    assert!(matches!(log.reader().epoch(&a), Err(LogError::Damaged { .. })));
    assert!(matches!(log.reader().read(&a, 1, 0, 1, 1), Err(LogError::Damaged { .. })));
    let listed = log.reader().documents("", None, 10).unwrap();
    assert!(matches!(&listed[..], [entry] if matches!(entry.head, Err(LogError::Damaged { .. }))));
}

#[test]
fn readers_see_nothing_before_the_commit_is_complete() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    log.commit(&[author.append("a", 1)]).unwrap();
    // Durable in the database, but not acknowledged: as if the ledger's write had failed.
    let next = author.append("a", 1);
    let (a, record) = (next.document.clone(), &next.records[0]);
    let keyspaces = log.writer().keyspaces.clone();
    keyspaces.changes.insert(change_key(&a, 1, 2), record.encode(&a, 1)).unwrap();
    let head = Head { epoch: 1, last_seq: 2, flags: 0 };
    keyspaces.documents.insert("a", head.encode(&a).as_slice()).unwrap();
    assert_eq!(read_all(&log, "a").len(), 1);
    assert_eq!(log.reader().head(&a).unwrap().unwrap().last_seq, 1);
    log.writer().publish();
    assert_eq!(read_all(&log, "a").len(), 2);
}

#[test]
fn the_log_survives_flushes_and_goes_on_behind_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    for _ in 0..3 {
        log.commit(&[author.append("a", 2)]).unwrap();
        log.flush_tables();
    }
    log.commit(&[author.append("a", 2)]).unwrap();
    assert_eq!(read_all(&log, "a").len(), 8);
    drop(log);
    let mut log = open(directory.path()).unwrap();
    assert_eq!(read_all(&log, "a").len(), 8);
    log.commit(&[author.append("a", 2)]).unwrap();
    assert_eq!(read_all(&log, "a").len(), 10);
}

#[test]
fn a_failed_flush_ends_writing_instead_of_blocking_it() {
    use fjall::AbstractTree;
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    let changes = log.writer().keyspaces.changes.clone();
    // The flush waits for us, so memtables pile up until commits have to wait.
    let flush = changes.tree.get_flush_lock();
    while !log.writer().keyspaces.behind() {
        log.commit(&[author.append("a", 1)]).unwrap();
        changes.rotate_memtable().unwrap();
    }
    let before = read_all(&log, "a");
    let next = author.append("a", 1);
    std::thread::scope(|scope| {
        let stats = Arc::clone(log.stats());
        let commit = scope.spawn(|| log.commit(&[next]));
        while stats.stalls.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        // Now it waits. The flush goes on, and has nowhere to write.
        std::fs::remove_dir_all(changes.path().join("tables")).unwrap();
        drop(flush);
        let error = commit.join().unwrap().unwrap_err();
        let expected = "cannot write tables in the background: an earlier write in the background failed";
        assert!(error.to_string().contains(expected), "{error}");
    });
    assert_eq!(read_all(&log, "a"), before);
}

#[test]
fn the_directory_stays_locked_while_anybody_reads() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    log.commit(&[author.append("a", 1)]).unwrap();
    let reader = log.reader().clone();
    drop(log);
    assert_eq!(open(directory.path()).unwrap_err().code(), "storage_locked");
    assert_eq!(reader.head(&document("a")).unwrap().unwrap().last_seq, 1);
    drop(reader);
    open(directory.path()).unwrap();
}

#[test]
fn a_commit_that_the_ledger_could_not_note_is_not_acknowledged_and_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    log.commit(&[author.append("a", 1)]).unwrap();
    log.fill_disk();
    let error = log.commit(&[author.append("a", 1)]).unwrap_err();
    assert!(error.to_string().contains("cannot write the ledger: No space left on device"), "{error}");
    let error = log.commit(&[author.append("b", 1)]).unwrap_err();
    assert!(error.to_string().contains("writes stopped after an earlier failure"), "{error}");
    assert_eq!(read_all(&log, "a").len(), 1);
    assert_eq!(log.reader().epoch(&document("b")), Ok(None));
    // It was durable, and nobody was told otherwise than that it failed: it may be there later, whole.
    drop(log);
    let mut log = open(directory.path()).unwrap();
    assert_eq!(read_all(&log, "a").len(), 2);
    log.commit(&[author.append("a", 1)]).unwrap();
    assert_eq!(read_all(&log, "a").len(), 3);
    assert!(directory.path().join("replaced.jnl").exists());
}
