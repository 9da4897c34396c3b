use std::os::unix::fs::FileExt;

use super::*;

const ID: DirectoryId = DirectoryId([9; 16]);

fn mark(commit: u64) -> Mark {
    Mark { commit, total_records: 2 * commit, lineage: commit.wrapping_mul(0x9e37_79b9), records: 2 }
}

fn base(commit: u64) -> Mark {
    Mark { records: 0, ..mark(commit) }
}

/// A ledger of one file with commits 1 to `commits`, closed.
fn written(commits: u64) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(directory.path(), ID, 0, Mark::default()).unwrap();
    (1..=commits).for_each(|commit| ledger.append(mark(commit)).unwrap());
    drop(ledger);
    let path = file_path(directory.path(), 1);
    (directory, path)
}

fn last(directory: &Path) -> Option<u64> {
    match scan(directory, ID) {
        Ok(found) => {
            assert!(found.last.commit == 0 || found.last.total_records == 2 * found.last.commit);
            Some(found.last.commit)
        }
        Err(error) => {
            assert_eq!(error.code(), "storage_damaged", "{error}");
            None
        }
    }
}

#[test]
fn what_was_appended_is_found() {
    for commits in [0, 1, 2, 40] {
        let (directory, _) = written(commits);
        assert_eq!(scan(directory.path(), ID).unwrap().newest_file, 1);
        assert_eq!(last(directory.path()), Some(commits));
    }
}

#[test]
fn each_start_begins_a_file_from_the_databases_end_and_two_are_kept() {
    let (directory, _) = written(5);
    for (start, end) in [(5, 8), (9, 9), (10, 12)] {
        let newest = scan(directory.path(), ID).unwrap().newest_file;
        let mut ledger = Ledger::open(directory.path(), ID, newest, base(start)).unwrap();
        (start + 1..=end).for_each(|commit| ledger.append(mark(commit)).unwrap());
        drop(ledger);
        assert_eq!(last(directory.path()), Some(end));
    }
    assert_eq!(file_numbers(directory.path()).unwrap(), [3, 4]);
}

#[test]
fn a_full_file_is_followed_by_the_next_at_exactly_the_limit() {
    for (max, expected) in [(4, vec![1]), (3, vec![1, 2]), (2, vec![1, 2]), (1, vec![3, 4])] {
        let directory = tempfile::tempdir().unwrap();
        let bytes_max = (HEADER_BYTES + max * ENTRY_BYTES) as u64;
        let mut ledger = Ledger::open_with(directory.path(), ID, 0, Mark::default(), bytes_max).unwrap();
        for commit in 1..=4 {
            ledger.append(mark(commit)).unwrap();
            assert_eq!(last(directory.path()), Some(commit));
        }
        drop(ledger);
        assert_eq!(file_numbers(directory.path()).unwrap(), expected, "{max}");
        for number in expected {
            let bytes = fs::metadata(file_path(directory.path(), number)).unwrap().len();
            assert!(bytes <= bytes_max);
        }
    }
}

#[test]
fn every_truncation_leaves_a_prefix_or_is_refused() {
    let (directory, path) = written(10);
    let whole = fs::read(&path).unwrap();
    for len in 0..=whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let expected = len.checked_sub(HEADER_BYTES).map(|entries| (entries / ENTRY_BYTES) as u64);
        assert_eq!(last(directory.path()), expected, "length {len}");
    }
}

#[test]
fn every_flipped_bit_is_refused_unless_it_is_in_the_last_entry() {
    let (directory, path) = written(10);
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bad).unwrap();
        let in_last = bit / 8 >= whole.len() - ENTRY_BYTES;
        assert_eq!(last(directory.path()), in_last.then_some(9), "bit {bit}");
    }
}

#[test]
fn pages_that_never_reached_the_disk_hide_nothing_behind_them() {
    let (directory, path) = written(10);
    let entry = |index: usize| (HEADER_BYTES + index * ENTRY_BYTES) as u64;
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 3 * ENTRY_BYTES], entry(4)).unwrap();
    assert_eq!(last(directory.path()), Some(10));
    file.write_all_at(&[0; 3 * ENTRY_BYTES], entry(7)).unwrap();
    assert_eq!(last(directory.path()), Some(4));
    // Entries from elsewhere in the file, or from another directory, are no entries.
    file.write_all_at(&mark(3).encode(ID), entry(4)).unwrap();
    file.write_all_at(&mark(6).encode(DirectoryId([8; 16])), entry(5)).unwrap();
    assert_eq!(last(directory.path()), Some(4));
    file.write_all_at(&mark(7).encode(ID), entry(6)).unwrap();
    assert_eq!(last(directory.path()), None);
}

#[test]
fn a_missing_ledger_or_file_of_it_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(last(directory.path()), None);
    assert_eq!(last(&directory.path().join("nowhere")), None);
    for number in 0..3 {
        drop(Ledger::open(directory.path(), ID, number, base(u64::from(number))).unwrap());
    }
    drop(Ledger::open(directory.path(), ID, 4, base(9)).unwrap());
    // Number 4 was never there, and opening number 5 kept it and its predecessor only.
    assert_eq!(file_numbers(directory.path()).unwrap(), [5]);
    write_new_file(&file_path(directory.path(), 3), &encode_header(ID, 3, base(2))).unwrap();
    assert_eq!(last(directory.path()), None);
}

#[test]
fn a_file_that_goes_back_is_damage() {
    let (directory, _) = written(5);
    let header = |base| encode_header(ID, 2, base);
    for (bytes, expected) in [
        (header(base(5)), Some(5)),
        (header(base(7)), Some(7)),
        (header(base(4)), None),
        (header(Mark { lineage: 1, ..base(5) }), None),
        (encode_header(ID, 3, base(5)), None),
    ] {
        write_new_file(&file_path(directory.path(), 2), &bytes).unwrap();
        assert_eq!(last(directory.path()), expected);
    }
}

#[test]
fn a_failed_sync_ends_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(directory.path(), ID, 0, Mark::default()).unwrap();
    // Writing goes on, but the device behind the handle that syncs cannot.
    ledger.shared.lock().file = Some(File::options().write(true).open("/dev/full").unwrap().into());
    ledger.append(mark(1)).unwrap();
    let state = ledger.shared.lock();
    let state = ledger.shared.wake.wait_while(state, |state| state.failed.is_none()).unwrap();
    drop(state);
    let error = ledger.append(mark(2)).unwrap_err();
    assert!(error.to_string().contains("could not be synced"), "{error}");
}

impl Ledger {
    /// From here on writes fail as on a full disk.
    pub fn fill_disk(&mut self) {
        self.file = File::options().write(true).open("/dev/full").unwrap().into();
    }
}
