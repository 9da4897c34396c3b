use std::fs;
use std::path::Path;
use std::sync::Arc;

use automerge::Automerge;
use etherply_engine::document::recover;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, FIRST_EPOCH, Log, LogReader as _};
use etherply_engine::record::Record;
use etherply_engine::snapshot::SnapshotRequest;

use super::super::testing::{behind, cut, document, history, open, store};
use super::super::whole::WholeLog;
use super::*;
use crate::storage::FjallLog;
use crate::storage::index::{CHAIN_EVERY, IndexRow};
use crate::storage::inspect::Inspection;
use crate::storage::inspect::walk::Nobody;
use crate::storage::piece::PIECE_ROWS_MAX;
use crate::storage::repair::repair;
use crate::storage::snapshot::SnapshotRead;
use crate::storage::testing::RealAuthor;

/// Lets all records go that are covered; how many pieces that took.
fn cover(log: &mut FjallLog) -> usize {
    let reader = log.reader().clone();
    let Some(mut cover) = Cover::resume(&reader, &document()).unwrap() else { return 0 };
    (1..).find(|_| cover.step(&reader, log).unwrap()).unwrap()
}

/// Every record, whether it is covered or not.
fn whole(reader: &Reader) -> Result<Vec<Record>, LogError> {
    let mut log = WholeLog::new(document(), FIRST_EPOCH);
    let mut records = Vec::new();
    loop {
        let page = log.next(reader, u64::MAX, 10_000)?;
        if page.is_empty() {
            return Ok(records);
        }
        records.extend(page);
    }
}

/// The document is what its records say, however it is read.
fn assert_whole(reader: &Reader, records: &[Record]) {
    let recovered = recover(reader, &document()).unwrap();
    assert_eq!(recovered.committed(), behind(records.last().unwrap()));
    let bytes: usize = records.iter().map(|record| record.change.len()).sum();
    assert_eq!(recovered.log_bytes(), bytes as u64);
    assert_eq!(whole(reader).unwrap(), records);
    let index = reader.index(&document(), FIRST_EPOCH, 0, u64::MAX, usize::MAX).unwrap();
    for (row, record) in index.iter().zip(records) {
        let expected = (record.seq, record.hash, record.max_op, record.time_ms, record.change.len());
        assert_eq!((row.seq, row.hash, row.max_op, row.time_ms, row.change_bytes as usize), expected);
        assert_eq!(&*row.pusher, &*record.pusher);
    }
    for record in records.iter().step_by(7).chain(records.last()) {
        let chain = reader.chain_at(&document(), FIRST_EPOCH, record.seq).unwrap();
        assert_eq!(chain, Some(record.chain), "{}", record.seq);
        let found = reader.find(&document(), FIRST_EPOCH, &record.hash).unwrap().unwrap();
        assert_eq!((found.seq, found.max_op), (record.seq, record.max_op));
    }
    assert_eq!(reader.chain_at(&document(), FIRST_EPOCH, records.len() as u64 + 1).unwrap(), None);
}

fn with_pushers(edits: u64) -> (Automerge, Vec<Record>) {
    let (automerge, mut records) = history(edits);
    for record in &mut records {
        record.time_ms = 1_700_000_000_000 + record.seq;
        record.pusher = Arc::from(if record.seq % 3 == 0 { "ada" } else { "" });
    }
    (automerge, records)
}

#[test]
fn a_snapshot_takes_the_place_of_the_records_that_it_covers() {
    let directory = tempfile::tempdir().unwrap();
    let (automerge, records) = with_pushers(3_000);
    let mut log = store(directory.path(), &records);
    let plain = recover(log.reader(), &document()).unwrap();
    let snapshot = cut(&mut log, &records[2_799]).unwrap();
    let gone = snapshot.log_after_seq;
    assert!(gone > 2_000 && gone < 2_800 && snapshot.cursor.seq == 2_800, "{snapshot:?}");
    let pieces = cover(&mut log);
    assert!(pieces > usize::try_from(gone).unwrap() / PIECE_ROWS_MAX, "{pieces}");
    for _ in 0..2 {
        let reader = log.reader();
        assert_whole(reader, &records);
        // What goes is gone, and what stays can be read.
        for after in [0, 1, gone - 1] {
            let read = reader.read(&document(), FIRST_EPOCH, after, u64::MAX, 1);
            assert_eq!(read, Err(LogError::Covered { document: document(), seq: after + 1 }));
        }
        let read = reader.read(&document(), FIRST_EPOCH, gone, u64::MAX, 1).unwrap();
        assert_eq!(read, [records[usize::try_from(gone).unwrap()].clone()]);
        let recovered = recover(reader, &document()).unwrap();
        assert_eq!(recovered.heads(), plain.heads());
        assert!(recovered.clock().eq(plain.clock()));
        let saved = reader.snapshot(&document(), FIRST_EPOCH).unwrap().unwrap().1;
        assert_eq!(saved.len() as u64, snapshot.total_bytes);
        let loaded = Automerge::load(&saved).unwrap();
        let heads: Vec<_> = vec![automerge::ChangeHash(records[2_799].hash.0)];
        assert_eq!(loaded.hydrate(None), automerge.hydrate(Some(&heads)));
        drop(log);
        log = open(directory.path());
    }
}

#[test]
fn what_a_later_snapshot_covers_while_a_log_is_read_is_found_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = with_pushers(3_000);
    let mut log = store(directory.path(), &records);
    let first = cut(&mut log, &records[999]).unwrap();
    cover(&mut log);
    let mut reading = WholeLog::new(document(), FIRST_EPOCH);
    let mut read = reading.next(log.reader(), u64::MAX, 10_000).unwrap();
    assert!(reading.seq() < first.log_after_seq, "it is in the middle of what it took apart");
    let second = cut(&mut log, &records[2_799]).unwrap();
    cover(&mut log);
    assert!(second.log_after_seq > first.cursor.seq);
    loop {
        let page = reading.next(log.reader(), u64::MAX, 10_000).unwrap();
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert_eq!(read, records);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { assert!(fs::copy(&path, &target).is_ok()) }
    }
}

#[test]
fn a_stop_after_any_step_leaves_a_document_that_opens_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = with_pushers(1_500);
    let mut log = store(directory.path(), &records[..1_400]);
    // The second cut: there is a snapshot in use, with records behind it.
    cut(&mut log, &records[699]).unwrap();
    cover(&mut log);
    let append = Append { document: document(), epoch: FIRST_EPOCH, records: records[1_400..].to_vec() };
    log.commit(&[append]).unwrap();
    let reader = log.reader().clone();
    let (mut making, mut covering) = (Some(Cut::new(document(), behind(&records[1_449]))), None::<Cover>);
    let mut stops = 0;
    loop {
        // A copy of the directory is what a kill leaves: every step has synced what it did.
        let stopped = tempfile::tempdir().unwrap();
        copy(directory.path(), stopped.path());
        let mut again = open(stopped.path());
        assert_whole(again.reader(), &records);
        cut(&mut again, &records[1_499]).unwrap();
        assert_whole(again.reader(), &records);
        cover(&mut again);
        assert_whole(again.reader(), &records);
        assert_eq!(cover(&mut again), 0);
        stops += 1;
        if let Some(cut) = &mut making {
            if cut.step(&reader, &mut log).unwrap().is_some() {
                (making, covering) = (None, Cover::resume(&reader, &document()).unwrap());
            }
        } else if covering.as_mut().unwrap().step(&reader, &mut log).unwrap() {
            break;
        }
    }
    assert!(stops > 6, "{stops}");
}

#[test]
fn the_next_snapshot_is_written_beside_the_one_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = with_pushers(1_000);
    let mut log = store(directory.path(), &records);
    let files = || {
        let mut found: Vec<_> = walk(directory.path()).into_iter().collect();
        found.sort();
        found
    };
    let first = cut(&mut log, &records[499]).unwrap();
    assert_eq!(files().len(), 1);
    let in_use = files();
    let second = cut(&mut log, &records[799]).unwrap();
    assert_eq!(files().len(), 1, "the one before went");
    assert_ne!(files(), in_use);
    assert!(second.log_after_seq >= first.log_after_seq);
    // Whoever still asks for the first one hears of the second.
    let request = SnapshotRequest { document: document(), snapshot: first, offset: 0, bytes_max: 1 };
    match log.reader().read_snapshot(1, &request).unwrap() {
        SnapshotRead::Replaced(newer) => assert_eq!(newer, second),
        SnapshotRead::Chunks(_) => panic!("it is gone"),
    }
    // Nothing older takes its place again, and no snapshot of what is not there.
    assert!(cut(&mut log, &records[799]).is_err() && cut(&mut log, &records[599]).is_err());
    let mut other = records[899].clone();
    other.chain.0[0] ^= 1;
    assert!(cut(&mut log, &other).is_err());
    assert_whole(log.reader(), &records);
}

fn walk(path: &Path) -> Vec<std::path::PathBuf> {
    let snapshots = path.join("snapshots");
    let below =
        fs::read_dir(snapshots).unwrap().flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap());
    below.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_damaged_snapshot_is_damage_of_its_document_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = with_pushers(2_000);
    let mut log = store(directory.path(), &records);
    let other = DocumentId::new("other").unwrap();
    let mut chain = etherply_engine::chain::chain_start(&other, FIRST_EPOCH);
    let moved = records[..5].iter().map(|record| {
        chain = etherply_engine::chain::chain_next(&chain, record.seq, &record.hash);
        Record { chain, ..record.clone() }
    });
    let append = Append { document: other.clone(), epoch: FIRST_EPOCH, records: moved.collect() };
    log.commit(&[append]).unwrap();
    let snapshot = cut(&mut log, &records[1_999]).unwrap();
    cover(&mut log);
    let (reader, file) = (log.reader().clone(), walk(directory.path()).remove(0));
    let whole_file = fs::read(&file).unwrap();
    let request = SnapshotRequest { document: document(), snapshot, offset: 0, bytes_max: usize::MAX };
    // Of the bytes before and behind the chunks each, of the chunks some.
    let step = (whole_file.len() / 200).max(1);
    for at in
        (0..120).chain((120..whole_file.len()).step_by(step)).chain(whole_file.len() - 9..whole_file.len())
    {
        let mut bad = whole_file.clone();
        bad[at] ^= 1;
        fs::write(&file, &bad).unwrap();
        assert!(
            matches!(reader.snapshot(&document(), FIRST_EPOCH), Err(LogError::Damaged { .. })),
            "byte {at}"
        );
        assert!(matches!(reader.read_snapshot(1, &request), Err(LogError::Damaged { .. })), "byte {at}");
        assert!(whole(&reader).is_err());
    }
    for len in [0, 1, 100, whole_file.len() - 1] {
        fs::write(&file, &whole_file[..len]).unwrap();
        assert!(matches!(recover(&reader, &document()), Err(LogError::Damaged { .. })), "length {len}");
    }
    fs::remove_file(&file).unwrap();
    let error = recover(&reader, &document()).unwrap_err();
    assert!(error.to_string().contains("is damaged: it is missing"), "{error}");
    assert_eq!(recover(&reader, &other).unwrap().committed().seq, 5, "the other one is served");
    fs::write(&file, &whole_file).unwrap();
    assert_whole(&reader, &records);
}

#[test]
fn an_index_row_says_the_chain_at_every_so_many_positions() {
    let (_, records) = with_pushers(2 * CHAIN_EVERY);
    for record in &records {
        let row = IndexRow::of(record).unwrap();
        assert_eq!(row.chain.is_some(), record.seq.is_multiple_of(CHAIN_EVERY));
        let stored = row.encode(&document(), 3);
        assert_eq!(IndexRow::decode(&stored, &document(), 3), Some(row));
        if record.seq % 31 != 1 {
            continue;
        }
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(IndexRow::decode(&bad, &document(), 3), None, "bit {bit}");
        }
        for len in 0..stored.len() {
            assert_eq!(IndexRow::decode(&stored[..len], &document(), 3), None);
        }
        assert_eq!(IndexRow::decode(&stored, &document(), 4), None);
    }
}

#[test]
fn verify_and_repair_know_what_a_snapshot_covers() {
    let root = tempfile::tempdir().unwrap();
    let (data, to) = (root.path().join("data"), root.path().join("repaired"));
    let (_, records) = with_pushers(1_500);
    let mut log = store(&data, &records[..1_400]);
    cut(&mut log, &records[1_199]).unwrap();
    let whole_report = |data: &Path| Inspection::open(data).unwrap().walk(&mut Nobody, &mut |_| {});
    // Half covered, then wholly, then with more behind it.
    let reader = log.reader().clone();
    let mut covering = Cover::resume(&reader, &document()).unwrap().unwrap();
    assert!(!covering.step(&reader, &mut log).unwrap());
    drop((log, reader));
    let report = whole_report(&data).unwrap();
    assert!(report.whole && report.records == 1_400, "{report}");
    let mut log = open(&data);
    cover(&mut log);
    let append = Append { document: document(), epoch: FIRST_EPOCH, records: records[1_400..].to_vec() };
    log.commit(&[append]).unwrap();
    drop(log);
    let report = whole_report(&data).unwrap();
    assert!(report.whole && report.records == 1_500, "{report}");
    let repaired = repair(&data, &to, crate::materialise::whole::unpack, &mut |_| {}).unwrap();
    assert!(repaired.kept_all && repaired.written.records == 1_500);
    assert_whole(open(&to).reader(), &records);
    // Without its snapshot, nothing of the document is whole.
    let file = walk(&data).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let report = whole_report(&data).unwrap();
    let damaged = &report.damaged_documents[0];
    assert!(!report.whole && damaged.lost_changes() && damaged.whole_through == 0, "{report}");
    assert!(damaged.what.contains("checksum does not match"), "{}", damaged.what);
}

#[test]
fn cuts_take_turns_where_memory_has_room_for_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path());
    let mut author = RealAuthor::new();
    log.commit(&[author.append("a", 20), author.append("b", 20)]).unwrap();
    let (memory, reader) = (CutMemory::new(1), log.reader().clone());
    let [mut first, mut second] = ["a", "b"].map(|name| {
        let id = DocumentId::new(name).unwrap();
        let end = recover(&reader, &id).unwrap().committed();
        Cut::new(id, end).within(&memory)
    });
    assert_eq!(first.step(&reader, &mut log).unwrap(), None);
    for _ in 0..100 {
        assert_eq!(second.step(&reader, &mut log).unwrap(), None, "it waits, and has nothing in memory");
    }
    let mut finish = |mut cut: Cut| (0..100).find_map(|_| cut.step(&reader, &mut log).unwrap()).unwrap();
    assert_eq!(finish(first).cursor.seq, 20);
    assert_eq!(memory.bytes(), 0);
    assert_eq!(finish(second).cursor.seq, 20);
    assert_eq!(memory.bytes(), 0);
}
