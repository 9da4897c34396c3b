use std::fs;

use etherply_engine::log::{FIRST_EPOCH, Log, LogReader};

use super::super::damage_tests::{MADE, scratch, verify};
use super::super::testing::{Author, document, files};
use super::*;

#[test]
fn what_is_behind_a_damaged_record_stays_and_is_named() {
    let scratch = scratch();
    let (root, to) = (scratch.path().join("data"), scratch.path().join("new"));
    // A byte in the middle of the first table with records; the later ones stand in other files.
    let path = Path::new("fjall/keyspaces/1/tables/1");
    let index = MADE.files.iter().position(|(file, _)| file == path).unwrap();
    let mut bad = MADE.files[index].1.clone();
    let at = bad.len() / 2;
    bad[at] ^= 4;
    MADE.write(&root, index, Some(&bad));
    let before = files(&root);
    let repaired = repair(&root, &to, &mut |_| {}).unwrap();
    assert_eq!(files(&root), before, "the damaged directory is only read");
    // Where blocks begin differs from run to run: this one may hold rows of the next document as well.
    let damaged = &repaired.found.damaged_documents;
    assert!(damaged.iter().all(|damage| ["long", "old"].contains(&damage.document.as_str())), "{damaged:?}");
    let damage = damaged.iter().find(|damage| damage.document == "long").unwrap();
    assert_eq!(damage.expected_through, Some(15));
    assert!(damage.whole_through < 12 && damage.records_behind >= 3, "{damage}");
    assert!(!repaired.kept_all && repaired.written.whole);
    assert_eq!(repaired.written.records, repaired.found.records);
    let log = super::super::testing::unlocked(|| super::super::open(&to)).unwrap();
    let kept = log.read(&document("long"), FIRST_EPOCH, 0, u64::MAX, usize::MAX).unwrap();
    assert_eq!(kept.len() as u64, damage.whole_through);
    // It goes on behind that; the chain there is another one than clients with more of it have.
    assert_eq!(log.read(&document("young"), FIRST_EPOCH, 0, u64::MAX, usize::MAX).unwrap().len(), 8);
}

#[test]
fn rows_that_can_be_made_anew_cost_nothing() {
    for keyspace in [2, 3] {
        let scratch = scratch();
        let (root, to) = (scratch.path().join("data"), scratch.path().join("new"));
        let path = PathBuf::from(format!("fjall/keyspaces/{keyspace}/tables/1"));
        let index = MADE.files.iter().position(|(file, _)| *file == path).unwrap();
        let mut bad = MADE.files[index].1.clone();
        bad[50] ^= 1;
        MADE.write(&root, index, Some(&bad));
        let found = verify(&root);
        assert!(!found.whole, "{found}");
        let repaired = repair(&root, &to, &mut |_| {}).unwrap();
        let all: usize = MADE.acknowledged.iter().map(|append| append.records.len()).sum();
        assert_eq!((repaired.kept_all, repaired.written.records), (true, all as u64), "{}", repaired.found);
    }
}

#[test]
fn a_directory_that_is_there_is_never_written_to() {
    let scratch = scratch();
    let root = scratch.path().join("data");
    MADE.write(&root, usize::MAX, None);
    let refuses = |to: &Path| {
        let error = repair(&root, to, &mut |_| {}).unwrap_err();
        assert_eq!(error.code(), "storage_not_a_data_directory");
        error.to_string()
    };
    assert!(refuses(&root).contains("is there already: choose an empty directory with --to"));
    assert!(refuses(&root.join("new")).contains("lies within the damaged directory"));
    let to = scratch.path().join("new");
    fs::create_dir(scratch.path().join("new.part")).unwrap();
    assert!(refuses(&to).contains("what an interrupted repair left"));
}

#[test]
fn a_running_server_s_directory_and_one_that_is_none_are_not_looked_at() {
    let root = tempfile::tempdir().unwrap();
    let error = Inspection::open(&root.path().join("nothing")).err().unwrap();
    assert_eq!(error.code(), "storage_no_data");
    assert_eq!(Inspection::open(root.path()).err().unwrap().code(), "storage_no_data");
    let mut log = super::super::open(root.path()).unwrap();
    log.commit(&[Author::default().append("a", 1)]).unwrap();
    assert_eq!(Inspection::open(root.path()).err().unwrap().code(), "storage_locked");
    drop(log);
    // Two may look at once.
    let first = Inspection::open(root.path()).unwrap();
    drop(Inspection::open(root.path()).unwrap());
    drop(first);
}

#[test]
fn an_interrupted_repair_leaves_no_directory_that_could_be_taken_for_whole() {
    let scratch = scratch();
    let (root, to) = (scratch.path().join("data"), scratch.path().join("new"));
    MADE.write(&root, usize::MAX, None);
    let part = begin(&root, &to).unwrap();
    let mut copy = Copy::new(&part).unwrap();
    let append = MADE.acknowledged[0].clone();
    copy.row(&append.document, append.epoch, LogRow::Record(append.records[0].clone())).unwrap();
    copy.commit().unwrap();
    assert!(!to.exists());
}

#[test]
fn epochs_and_what_they_left_behind_go_over_as_they_are() {
    use super::super::{Epochs, Turn};
    use etherply_engine::change::ActorId;
    use etherply_engine::log::Append;
    let scratch = scratch();
    let (root, to) = (scratch.path().join("data"), scratch.path().join("new"));
    let mut author = super::super::testing::RealAuthor::new();
    let mut writer = super::super::open(&root).unwrap();
    let first = author.append("a", 3);
    writer.commit(std::slice::from_ref(&first)).unwrap();
    writer.commit(&[author.append("b", 2)]).unwrap();
    let past = Past { reset_epoch: 7, excluded: vec![ActorId::from_slice(&[5; 16]).unwrap()] };
    // One document goes on in a later epoch with records, the other without any.
    let again = super::super::testing::RealAuthor::in_epoch(7).append("a", 2);
    let turn = |document: &DocumentId, from, append: Append| Turn {
        document: document.clone(),
        from: (FIRST_EPOCH, from),
        append,
        past: past.clone(),
    };
    let (a, b) = (document("a"), document("b"));
    writer.turn(&turn(&a, 3, again.clone())).unwrap();
    let empty = Append { document: b.clone(), epoch: 7, records: Vec::new() };
    writer.turn(&turn(&b, 2, empty)).unwrap();
    drop(writer);
    let found = verify(&root);
    assert!(found.whole, "{found}");
    assert_eq!((found.records, found.records_of_other_epochs), (2, 5));

    let repaired = repair(&root, &to, &mut |_| {}).unwrap();
    assert!(repaired.kept_all);
    assert_eq!(repaired.written.records_of_other_epochs, 5);
    let log = super::super::testing::unlocked(|| super::super::open(&to)).unwrap();
    assert_eq!(log.read(&a, 7, 0, u64::MAX, usize::MAX).unwrap(), again.records);
    for (id, last_seq) in [(&a, 2), (&b, 0)] {
        let head = log.reader().head(id).unwrap().unwrap();
        assert_eq!((head.epoch, head.last_seq), (7, last_seq));
        assert_eq!(log.reader().past(id).unwrap(), past);
    }
}
