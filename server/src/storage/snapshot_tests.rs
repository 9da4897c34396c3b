use etherply_engine::document::{Anchor, Document};

use super::super::testing::document;
use super::*;

fn snapshots(path: &Path) -> Snapshots {
    Snapshots::new(path, DirectoryId([7; 16]))
}

/// An anchor that names what was written; what it covers is made up.
fn anchor(written: Written) -> AnchorRow {
    let summary = Document::new(document("a"), 1).summary().unwrap();
    let Written { slot, total_bytes, checksum } = written;
    let snapshot = Snapshot { cursor: summary.cursor, total_bytes, covered_bytes: 9, log_after_seq: 0 };
    AnchorRow { anchor: Anchor { snapshot, summary }, slot, checksum }
}

fn write(snapshots: &Snapshots, slot: Slot, bytes: &[u8]) -> AnchorRow {
    let cursor = Document::new(document("a"), 1).committed();
    anchor(snapshots.write(&document("a"), slot, (cursor, 9), bytes).unwrap())
}

#[test]
fn what_was_written_is_read_back_whatever_its_size() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = snapshots(directory.path());
    let chunk = SNAPSHOT_CHUNK_BYTES_MAX;
    for bytes in [0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 3 * chunk + 5] {
        let content: Vec<u8> = (0..=250).cycle().take(bytes).collect();
        let anchor = write(&snapshots, Slot::A, &content);
        assert_eq!(snapshots.read_whole(&document("a"), &anchor).unwrap(), content);
        for (from, bytes_max) in [(0, 1), (chunk, chunk), (chunk, chunk + 1), (2 * chunk, usize::MAX)] {
            let mut read = Vec::new();
            let each = |offset, chunk: &[u8]| {
                assert_eq!(offset, (from + read.len()) as u64);
                read.extend_from_slice(chunk);
            };
            snapshots.for_each_chunk(&document("a"), &anchor, (from as u64, bytes_max), each).unwrap();
            let end = bytes.min(bytes_max.div_ceil(chunk).saturating_mul(chunk).saturating_add(from));
            assert_eq!(read, content.get(from..end).unwrap_or_default(), "{bytes} {from} {bytes_max}");
        }
    }
}

#[test]
fn an_anchor_finds_no_other_snapshot_than_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = snapshots(directory.path());
    let (first, second) = (write(&snapshots, Slot::A, b"first"), write(&snapshots, Slot::B, b"second"));
    assert_eq!(snapshots.read_whole(&document("a"), &first).unwrap(), b"first");
    assert_eq!(snapshots.read_whole(&document("a"), &second).unwrap(), b"second");
    let crossed = AnchorRow { slot: Slot::B, ..first.clone() };
    assert!(matches!(snapshots.read_whole(&document("a"), &crossed), Err(LogError::Damaged { .. })));
    // Nor one of another document or data directory.
    assert!(matches!(snapshots.read_whole(&document("b"), &first), Err(LogError::Damaged { .. })));
    let other = Snapshots::new(directory.path(), DirectoryId([8; 16]));
    assert!(matches!(other.read_whole(&document("a"), &first), Err(LogError::Damaged { .. })));
    let moved = snapshots.path(&document("b"), Slot::A);
    make_directory(moved.parent().unwrap()).unwrap();
    fs::copy(snapshots.path(&document("a"), Slot::A), moved).unwrap();
    assert!(matches!(snapshots.read_whole(&document("b"), &first), Err(LogError::Damaged { .. })));
    snapshots.remove(&document("a"), Slot::A);
    snapshots.remove(&document("a"), Slot::A);
    assert!(matches!(snapshots.read_whole(&document("a"), &first), Err(LogError::Damaged { .. })));
}

#[test]
fn what_an_interrupted_start_left_is_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = snapshots(directory.path());
    let path = snapshots.path(&document("a"), Slot::A);
    make_directory(path.parent().unwrap()).unwrap();
    fs::write(path.with_extension("a.new"), "half of on").unwrap();
    fs::write(&path, "one that no anchor names").unwrap();
    let anchor = write(&snapshots, Slot::A, b"whole");
    assert_eq!(snapshots.read_whole(&document("a"), &anchor).unwrap(), b"whole");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn files_that_are_held_stay_as_they_are() {
    let data = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::new(data.path(), DirectoryId([7; 16]));
    let a = document("a");
    let at = |seq| (Cursor { epoch: 1, seq, chain: [3; 32] }, 100);
    snapshots.write(&a, Slot::A, at(1), b"first").unwrap();
    let path = snapshots.path(&a, Slot::A);
    let before = fs::read(&path).unwrap();
    // By whoever has a handle of the same.
    let other = snapshots.clone();
    let held = other.hold();
    assert!(matches!(snapshots.write(&a, Slot::A, at(2), b"second"), Err(LogError::Unavailable { .. })));
    assert!(!snapshots.remove(&a, Slot::A));
    assert_eq!(fs::read(&path).unwrap(), before);
    drop(held);
    snapshots.write(&a, Slot::A, at(2), b"second").unwrap();
    assert_ne!(fs::read(&path).unwrap(), before);
    assert!(snapshots.remove(&a, Slot::A) && !path.exists());
}
