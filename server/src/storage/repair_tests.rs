use std::fs;

use etherply_engine::document::recover;
use etherply_engine::log::{Append, FIRST_EPOCH, Log, LogReader};

use super::super::damage_tests::{MADE, cut_and_cover, scratch, verify, whole};
use super::super::keys::{change_key, hash_key};
use super::super::testing::{Author, RealAuthor, document, files, spoil_head, unlocked};
use super::*;
use crate::materialise::whole::unpack;

#[test]
fn what_is_behind_a_damaged_record_stays_and_is_named() {
    let scratch = scratch();
    let (root, to) = (scratch.path().join("data"), scratch.path().join("new"));
    // A byte in the middle of the first table with records; the later ones stand in other files.
    MADE.write_flipped(&root, "fjall/keyspaces/1/tables/1", |bytes| bytes / 2);
    let before = files(&root);
    let repaired = repair(&root, &to, unpack, &mut |_| {}).unwrap();
    assert_eq!(files(&root), before, "the damaged directory is only read");
    // Where blocks begin differs from run to run: this one may hold rows of the next document as well.
    let damaged = &repaired.found.damaged_documents;
    assert!(damaged.iter().all(|damage| ["long", "old"].contains(&damage.document.as_str())), "{damaged:?}");
    let damage = damaged.iter().find(|damage| damage.document == "long").unwrap();
    assert_eq!(damage.expected_through, Some(15));
    assert!(damage.whole_through < 12 && damage.records_behind >= 3, "{damage}");
    assert!(!repaired.kept_all && repaired.written.whole);
    assert_eq!(repaired.written.records, repaired.found.records);
    let log = unlocked(|| super::super::open(&to)).unwrap();
    let kept = log.reader().read(&document("long"), FIRST_EPOCH, 0, u64::MAX, usize::MAX).unwrap();
    assert_eq!(kept.len() as u64, damage.whole_through);
    // It goes on behind that; the chain there is another one than clients with more of it have.
    assert_eq!(log.reader().read(&document("young"), FIRST_EPOCH, 0, u64::MAX, usize::MAX).unwrap().len(), 8);
}

#[test]
fn rows_that_can_be_made_anew_cost_nothing() {
    for keyspace in [2, 3] {
        let scratch = scratch();
        let (root, to) = (scratch.path().join("data"), scratch.path().join("new"));
        MADE.write_flipped(&root, &format!("fjall/keyspaces/{keyspace}/tables/1"), |_| 50);
        let found = verify(&root);
        assert!(!found.whole, "{found}");
        let repaired = repair(&root, &to, unpack, &mut |_| {}).unwrap();
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
        let error = repair(&root, to, unpack, &mut |_| {}).unwrap_err();
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
    let mut copy = Copy::new(&part, unpack).unwrap();
    let append = MADE.acknowledged[0].clone();
    copy.row(&append.document, append.epoch, LogRow::Record(append.records[0].clone())).unwrap();
    copy.commit().unwrap();
    assert!(!to.exists());
}

#[test]
fn epochs_and_what_they_left_behind_go_over_as_they_are() {
    use super::super::{Epochs, Turn};
    use etherply_engine::change::ActorId;
    let scratch = scratch();
    let (root, to) = (scratch.path().join("data"), scratch.path().join("new"));
    let mut author = RealAuthor::new();
    let mut writer = super::super::open(&root).unwrap();
    let first = author.append("a", 3);
    writer.commit(std::slice::from_ref(&first)).unwrap();
    writer.commit(&[author.append("b", 2)]).unwrap();
    let past = Past { reset_epoch: 7, excluded: vec![ActorId::from_slice(&[5; 16]).unwrap()] };
    // One document goes on in a later epoch with records, the other without any.
    let again = RealAuthor::in_epoch(7).append("a", 2);
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

    let repaired = repair(&root, &to, unpack, &mut |_| {}).unwrap();
    assert!(repaired.kept_all);
    assert_eq!(repaired.written.records_of_other_epochs, 5);
    let log = unlocked(|| super::super::open(&to)).unwrap();
    assert_eq!(log.reader().read(&a, 7, 0, u64::MAX, usize::MAX).unwrap(), again.records);
    for (id, last_seq) in [(&a, 2), (&b, 0)] {
        let head = log.reader().head(id).unwrap().unwrap();
        assert_eq!((head.epoch, head.last_seq), (7, last_seq));
        assert_eq!(log.reader().past(id).unwrap(), past);
    }
}

/// A document of 50 records whose first 40 a snapshot covers, and others beside it. Rows of what was covered and is
/// also in the log stand behind the position that comes with it.
fn covered(root: &Path) -> (FjallLog, Vec<Record>, u64) {
    let mut author = RealAuthor::new();
    let mut log = super::super::open(root).unwrap();
    let mut records = Vec::new();
    for n in 0..40_u64 {
        // What does not get shorter in a snapshot, so that more records stay beside it.
        let text: String = (0..40)
            .map(|word| format!("{:016x}", (n * 40 + word).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .collect();
        records.extend(author.append_text("covered", 1, &text).records);
    }
    log.commit(&[Append { document: document("covered"), epoch: FIRST_EPOCH, records: records.clone() }])
        .unwrap();
    cut_and_cover(&mut log, "covered");
    let behind = author.append("covered", 10);
    records.extend(behind.records.iter().cloned());
    log.commit(&[behind, author.append("a", 3), author.append("z", 3)]).unwrap();
    let anchor = log.reader().anchor_row(&document("covered"), FIRST_EPOCH).unwrap().unwrap();
    let gone = anchor.anchor.snapshot.log_after_seq;
    assert!(gone > 2 && gone < 36 && anchor.anchor.snapshot.cursor.seq == 40, "{gone}");
    (log, records, gone)
}

/// Puts something else at positions, or nothing.
fn spoil(log: &mut FjallLog, positions: impl Iterator<Item = u64>, value: Option<&[u8]>) {
    let positions: Vec<u64> = positions.collect();
    log.write(|writer| {
        let mut rows = writer.begin(positions.len())?;
        for seq in &positions {
            let key = change_key(&document("covered"), FIRST_EPOCH, *seq);
            match value {
                Some(value) => writer.set(&mut rows, KeyspaceId::Changes, &key, value),
                None => writer.remove(&mut rows, KeyspaceId::Changes, &key),
            }
        }
        writer.finish(rows)
    })
    .unwrap();
}

#[test]
fn damaged_rows_whose_changes_are_in_the_snapshot_are_made_anew() {
    for (from, through, value) in [
        // In the place of records that went; across the end of those; among those that stayed, first and last.
        (0, 0, Some(&[7; 60][..])),
        (-1, 2, Some(&[7; 60][..])),
        (1, 1, None),
        (2, 3, Some(&[][..])),
        (3, i64::MAX, None),
        (i64::MIN, i64::MAX, None),
    ] {
        let scratch = scratch();
        let (root, to) = (scratch.path().join("data"), scratch.path().join("new"));
        let (mut log, records, gone) = covered(&root);
        let at = |from_gone: i64| gone.saturating_add_signed(from_gone).clamp(1, 40);
        let positions = at(from)..=at(through);
        spoil(&mut log, positions.clone(), value);
        drop(log);
        let repaired = unlocked(|| repair(&root, &to, unpack, &mut |_| {})).unwrap();
        let [damage] = &repaired.found.damaged_documents[..] else { panic!("{}", repaired.found) };
        assert!(damage.document == "covered" && !damage.lost_changes(), "{damage}");
        // From the first damaged row to the snapshot's end, whole ones as well.
        assert_eq!(damage.made_anew, 41 - positions.start(), "{damage}");
        assert!(damage.to_string().contains("not who sent them when"), "{damage}");
        assert!(repaired.kept_all && repaired.written.whole);
        assert_eq!(repaired.written.records, 56);

        let mut log = unlocked(|| super::super::open(&to)).unwrap();
        let kept = whole(&log, &document("covered")).unwrap();
        assert_eq!(kept.len(), records.len());
        for (kept, record) in kept.iter().zip(&records) {
            if (*positions.start()..=40).contains(&record.seq) {
                let expected = Record { time_ms: 0, pusher: Arc::from(""), ..record.clone() };
                assert_eq!(*kept, expected);
            } else {
                assert_eq!(kept, record);
            }
            let found = log.reader().find(&document("covered"), FIRST_EPOCH, &record.hash).unwrap().unwrap();
            assert_eq!((found.seq, found.max_op), (record.seq, record.max_op));
        }
        let end = recover(log.reader(), &document("covered")).unwrap().committed();
        assert_eq!((end.seq, end.chain), (50, records[49].chain.0));
        // It goes on.
        log.commit(&[RealAuthor::new().append("new", 1)]).unwrap();
    }
}

#[test]
fn a_document_whose_rows_are_damaged_and_known_from_nothing_else_is_left_out_whole() {
    let scratch = scratch();
    let (root, to) = (scratch.path().join("data"), scratch.path().join("new"));
    let (mut log, records, gone) = covered(&root);
    spoil(&mut log, gone..=gone + 1, Some(&[7; 60]));
    log.write(|writer| {
        let mut rows = writer.begin(1)?;
        let key = hash_key(&document("covered"), FIRST_EPOCH, &records[usize::try_from(gone).unwrap()].hash);
        writer.remove(&mut rows, KeyspaceId::Hashes, &key);
        writer.finish(rows)
    })
    .unwrap();
    drop(log);
    let repaired = unlocked(|| repair(&root, &to, unpack, &mut |_| {})).unwrap();
    let [damage] = &repaired.found.damaged_documents[..] else { panic!("{}", repaired.found) };
    assert_eq!(
        (damage.whole_through, damage.expected_through, damage.made_anew),
        (0, Some(50), 0),
        "{damage}"
    );
    assert!(damage.to_string().contains("etherply export"), "{damage}");
    assert!(damage.lost_changes() && !repaired.kept_all && repaired.written.whole);
    let log = unlocked(|| super::super::open(&to)).unwrap();
    assert_eq!(log.reader().head(&document("covered")).unwrap(), None);
    assert_eq!(log.reader().rows(&document("covered"), FIRST_EPOCH, 0, u64::MAX, 100).unwrap(), []);
    assert_eq!(log.reader().anchor_row(&document("covered"), FIRST_EPOCH).unwrap(), None);
    assert_eq!(whole(&log, &document("z")).unwrap().len(), 3);
}

#[test]
fn a_snapshot_that_goes_further_than_its_log_is_damage() {
    let scratch = scratch();
    let (mut log, _, _) = covered(scratch.path());
    for (last_seq, is_whole) in [(39, false), (40, true), (50, true)] {
        log.write(|writer| {
            let mut rows = writer.begin(0)?;
            writer.add_head(&mut rows, &document("covered"), Head { epoch: FIRST_EPOCH, last_seq, flags: 0 });
            writer.finish(rows)
        })
        .unwrap();
        let opened = recover(log.reader(), &document("covered"));
        assert_eq!(opened.is_ok(), is_whole, "{last_seq}");
        assert!(is_whole || opened.unwrap_err().to_string().contains("goes further"));
    }
}

#[test]
fn a_covered_document_whose_head_is_damaged_as_well_goes_as_far_as_its_log() {
    for (from, through, kept) in [(30, 30, 50), (30, 50, 40), (1, 50, 0)] {
        let scratch = scratch();
        let (root, to) = (scratch.path().join("data"), scratch.path().join("new"));
        let (mut log, _, _) = covered(&root);
        spoil(&mut log, from..=through, None);
        spoil_head(&mut log, "covered");
        drop(log);
        let repaired = unlocked(|| repair(&root, &to, unpack, &mut |_| {})).unwrap();
        let [damage] = &repaired.found.damaged_documents[..] else { panic!("{}", repaired.found) };
        // Of all rows, those of hashes are left: they know that there was more.
        assert_eq!(
            (damage.whole_through, damage.expected_through),
            (kept, (kept < 50).then_some(50)),
            "{damage}"
        );
        assert!(repaired.written.whole);
        let log = unlocked(|| super::super::open(&to)).unwrap();
        assert_eq!(recover(log.reader(), &document("covered")).unwrap().committed().seq, kept);
        assert_eq!(whole(&log, &document("covered")).unwrap().len() as u64, kept);
    }
}
