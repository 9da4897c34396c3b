use std::fs;

use etherply_engine::log::{FIRST_EPOCH, Log};

use super::super::testing::{Author, document};
use super::super::{FjallLog, open};
use super::*;

/// A log with one document of so many changes of so many bytes.
fn log(path: &Path, changes: usize, change_bytes: usize) -> FjallLog {
    let mut log = open(path).unwrap();
    let mut author = Author::default();
    for _ in 0..changes {
        log.commit(&[author.append_sized("a", FIRST_EPOCH, 1, change_bytes)]).unwrap();
    }
    log
}

fn end(log: &FjallLog) -> Cursor {
    let last = log.reader().head(&document("a")).unwrap().unwrap().last_seq;
    let record = log.reader().read(&document("a"), FIRST_EPOCH, last - 1, last, 1).unwrap().remove(0);
    Cursor { epoch: FIRST_EPOCH, seq: last, chain: record.chain.0 }
}

fn cut(log: &FjallLog, through: Cursor) -> Result<Snapshot, LogError> {
    let mut cut = log.reader().snapshots().cut(document("a"), through);
    loop {
        if let Some(snapshot) = cut.step(log.reader())? {
            return Ok(snapshot);
        }
    }
}

fn file(log: &FjallLog) -> PathBuf {
    log.reader().snapshots().path(&document("a"))
}

/// The whole of a snapshot, as a feed asks for it.
fn read_all(log: &FjallLog, snapshot: Snapshot, bytes_max: usize) -> Result<Vec<u8>, SnapshotError> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < snapshot.total_bytes {
        let offset = bytes.len() as u64;
        let request = SnapshotRequest { document: document("a"), snapshot, offset, bytes_max };
        let chunks = log.reader().snapshots().read(5, &request)?;
        assert!(!chunks.is_empty());
        for chunk in chunks {
            assert_eq!(chunk.offset, bytes.len() as u64);
            let length = usize::try_from(chunk.end - chunk.offset).unwrap();
            bytes.extend_from_slice(&chunk.frame.tail(length));
        }
    }
    Ok(bytes)
}

fn changes(log: &FjallLog, through: u64) -> Vec<u8> {
    let records = log.reader().read(&document("a"), FIRST_EPOCH, 0, through, usize::MAX).unwrap();
    records.iter().flat_map(|record| record.change.to_vec()).collect()
}

#[test]
fn a_snapshot_holds_the_changes_up_to_its_cursor_whatever_their_size() {
    // Below a chunk, exactly one, one byte more, several, and more than a step of a cut.
    let chunk = SNAPSHOT_CHUNK_BYTES_MAX;
    for (count, bytes) in [(3, 10), (2, chunk / 2), (1, chunk - 1), (1, chunk + 1), (5, chunk), (9, 100_001)]
    {
        let directory = tempfile::tempdir().unwrap();
        let log = log(directory.path(), count, bytes);
        let through = end(&log);
        let snapshot = cut(&log, through).unwrap();
        let total_bytes = (count * bytes) as u64;
        assert_eq!(snapshot, Snapshot { cursor: through, total_bytes, covered_bytes: total_bytes });
        assert_eq!(log.reader().snapshots().latest(&document("a")), Some(snapshot));
        assert_eq!(log.reader().snapshots().latest(&document("b")), None);
        for bytes_max in [1, chunk, chunk + 1, usize::MAX] {
            assert_eq!(read_all(&log, snapshot, bytes_max).unwrap(), changes(&log, through.seq));
        }
        assert_eq!(fs::read_dir(directory.path().join(DIRECTORY)).unwrap().count(), 1);
    }
}

#[test]
fn a_newer_snapshot_replaces_the_one_before_which_can_no_longer_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = log(directory.path(), 3, 50_000);
    let first = cut(&log, end(&log)).unwrap();
    let mut author = Author::default();
    author.append_sized("a", FIRST_EPOCH, 3, 50_000);
    log.commit(&[author.append_sized("a", FIRST_EPOCH, 2, 50_000)]).unwrap();
    let second = cut(&log, end(&log)).unwrap();
    assert!(matches!(read_all(&log, first, 1), Err(SnapshotError::Gone)));
    assert_eq!(read_all(&log, second, 1).unwrap(), changes(&log, 5));
}

#[test]
fn a_cut_that_the_log_contradicts_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(directory.path(), 3, 50_000);
    let through = end(&log);
    for wrong in
        [Cursor { chain: [9; 32], ..through }, Cursor { seq: 4, ..through }, Cursor { epoch: 2, ..through }]
    {
        cut(&log, wrong).unwrap_err();
        assert_eq!(log.reader().snapshots().latest(&document("a")), None);
        assert_eq!(fs::read_dir(directory.path().join(DIRECTORY)).unwrap().count(), 0);
    }
}

#[test]
fn an_interrupted_cut_is_not_seen_and_the_next_one_writes_over_it() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(directory.path(), 9, 100_000);
    let through = end(&log);
    let mut half = log.reader().snapshots().cut(document("a"), through);
    assert_eq!(half.step(log.reader()).unwrap(), None);
    assert!(file(&log).with_extension("new").exists());
    assert_eq!(log.reader().snapshots().latest(&document("a")), None);
    // As if the process had died.
    std::mem::forget(half);
    let snapshot = cut(&log, through).unwrap();
    assert_eq!(read_all(&log, snapshot, usize::MAX).unwrap(), changes(&log, 9));
}

#[test]
fn a_torn_snapshot_is_never_served() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(directory.path(), 3, 60_000);
    let snapshot = cut(&log, end(&log)).unwrap();
    let whole = fs::read(file(&log)).unwrap();
    let header = FIXED_BYTES + 1 + CHECKSUM_BYTES;
    let cuts = (0..header + 10).chain((header + 10..whole.len()).step_by(997)).chain([whole.len() - 1]);
    for length in cuts {
        fs::write(file(&log), &whole[..length]).unwrap();
        assert_eq!(log.reader().snapshots().latest(&document("a")), None, "{length} bytes");
        read_all(&log, snapshot, usize::MAX).unwrap_err();
    }
    for end in [vec![0], vec![0; 65_544]] {
        fs::write(file(&log), [whole.clone(), end].concat()).unwrap();
        assert_eq!(log.reader().snapshots().latest(&document("a")), None);
    }
    // What a power loss leaves of a file that was not synced: its length, and zeroes in it.
    for from in [0, 10, header, 100_000] {
        let mut zeroed = whole.clone();
        zeroed[from..].fill(0);
        fs::write(file(&log), &zeroed).unwrap();
        assert!(read_all(&log, snapshot, usize::MAX).is_err(), "zeroes from {from}");
    }
    fs::write(file(&log), &whole).unwrap();
    read_all(&log, snapshot, usize::MAX).unwrap();
}

#[test]
fn a_flipped_bit_is_never_served() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(directory.path(), 2, 40_000);
    let snapshot = cut(&log, end(&log)).unwrap();
    let whole = fs::read(file(&log)).unwrap();
    let header = FIXED_BYTES + 1 + CHECKSUM_BYTES;
    let bits = (0..header * 8).chain((header * 8..whole.len() * 8).step_by(1_009));
    for bit in bits {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(file(&log), &bad).unwrap();
        assert!(read_all(&log, snapshot, usize::MAX).is_err(), "bit {bit}");
        if bit < header * 8 {
            assert_eq!(log.reader().snapshots().latest(&document("a")), None, "bit {bit}");
        }
    }
}

#[test]
fn a_snapshot_in_another_documents_or_directorys_place_does_not_pass() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (log, elsewhere) = (log(directory.path(), 3, 1_000), log(other.path(), 3, 1_000));
    let snapshot = cut(&log, end(&log)).unwrap();
    fs::copy(file(&log), log.reader().snapshots().path(&document("b"))).unwrap();
    assert_eq!(log.reader().snapshots().latest(&document("b")), None);
    fs::create_dir_all(other.path().join(DIRECTORY)).unwrap();
    fs::copy(file(&log), file(&elsewhere)).unwrap();
    assert_eq!(elsewhere.reader().snapshots().latest(&document("a")), None);
    assert!(read_all(&elsewhere, snapshot, 1).is_err());
}

#[test]
fn an_offset_within_a_chunk_is_no_question() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(directory.path(), 1, 100_000);
    let snapshot = cut(&log, end(&log)).unwrap();
    for (offset, is_fine) in [(0, true), (1, false), (CHUNK_BYTES - 1, false), (CHUNK_BYTES, true)] {
        let request = SnapshotRequest { document: document("a"), snapshot, offset, bytes_max: 1 };
        assert_eq!(log.reader().snapshots().read(1, &request).is_ok(), is_fine, "{offset}");
    }
}
