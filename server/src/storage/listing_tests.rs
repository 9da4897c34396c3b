use etherply_engine::log::{Log as _, LogError};

use super::super::testing::{Author, document, spoil_head, unlocked};
use super::super::{FjallLog, open};
use super::*;

fn listed(log: &FjallLog, count_max: usize) -> Vec<DocumentEntry> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = log.reader().documents("", after.as_ref(), count_max).unwrap();
        assert!(page.len() <= count_max);
        let Some(last) = page.last() else { return all };
        after = Some(last.document.clone());
        all.extend(page);
    }
}

#[test]
fn a_damaged_head_is_its_document_s_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    log.commit(&[author.append("a", 1), author.append("b", 2), author.append("c", 3)]).unwrap();
    spoil_head(&mut log, "b");
    log.commit(&[author.append("c", 1)]).unwrap();
    for count_max in 1..5 {
        let listed = listed(&log, count_max);
        let last: Vec<_> = listed.iter().map(|entry| entry.head.clone().map(|head| head.last_seq)).collect();
        assert!(matches!(&last[1], Err(LogError::Damaged { document, .. }) if document.as_str() == "b"));
        assert_eq!((&last[0], &last[2], last.len()), (&Ok(1), &Ok(4), 3));
    }
    assert!(matches!(log.reader().head(&document("b")), Err(LogError::Damaged { .. })));
}

#[test]
fn where_the_list_itself_is_damaged_documents_are_known_by_their_records() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    // More rows than a block of a table takes.
    let names: Vec<String> = (0..200).map(|n| format!("documents/with/a/long/name/{n:03}")).collect();
    let appends: Vec<_> = names.iter().map(|name| author.append(name, 1)).collect();
    log.commit(&appends).unwrap();
    log.flush_tables();
    drop(log);
    let table = directory.path().join("fjall/keyspaces/3/tables/1");
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let mut log = unlocked(|| open(directory.path())).unwrap();
    for count_max in [1, 7, 199, 200, 201] {
        let listed = listed(&log, count_max);
        let found: Vec<&str> = listed.iter().map(|entry| entry.document.as_str()).collect();
        assert_eq!(found, names, "{count_max}");
        let damaged = listed.iter().filter(|entry| entry.head.is_err()).count();
        assert!(damaged > 0 && damaged < 200, "{damaged} of one block");
        assert!(listed[..damaged].iter().all(|entry| entry.head.is_err()));
    }
    let below = log.reader().documents("documents/with/a/long/name/00", None, 100).unwrap();
    assert_eq!(below.len(), 10);
    // The others go on.
    log.commit(&[author.append(&names[199], 1)]).unwrap();
    assert_eq!(log.reader().head(&document(&names[199])).unwrap().unwrap().last_seq, 2);
}
