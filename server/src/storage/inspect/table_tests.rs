use fjall::{CompressionType, Database, KeyspaceCreateOptions};

use super::*;
use crate::storage::manifest::{self, Listed};

type Rows = Vec<(Vec<u8>, Option<Vec<u8>>)>;
type Read = (Rows, Vec<Rubble>);

/// A keyspace with a table, of rows that share prefixes and have long and short values, and what is in it.
fn sample(compression: CompressionType) -> (tempfile::TempDir, Listed, Rows) {
    let root = tempfile::tempdir().unwrap();
    let database = Database::builder(root.path()).open().unwrap();
    let policy = fjall::config::CompressionPolicy::all(compression);
    let options = || KeyspaceCreateOptions::default().data_block_compression_policy(policy.clone());
    let keyspace = database.keyspace("a", options).unwrap();
    let mut rows = Vec::new();
    for n in 0..150_u32 {
        let key = format!("key/{:03}/{}", n / 7, n % 7).into_bytes();
        let value = vec![b'v'; usize::try_from(n * n % 300).unwrap()];
        keyspace.insert(key.as_slice(), value.as_slice()).unwrap();
        rows.push((key, Some(value)));
    }
    for row in rows.iter_mut().step_by(9) {
        keyspace.remove(row.0.as_slice()).unwrap();
        row.1 = None;
    }
    rows.sort();
    keyspace.rotate_memtable_and_wait().unwrap();
    let runs = manifest::tables(&manifest::keyspace_folder_of(root.path(), keyspace.id())).unwrap();
    let [run] = &runs[..] else { panic!("one run: {runs:?}") };
    let [table] = &run[..] else { panic!("one table: {run:?}") };
    let table = table.clone();
    drop((keyspace, database));
    (root, table, rows)
}

/// Each key's newest version, and what is damaged.
fn read(listed: &Listed) -> Read {
    let mut table = Table::open(&listed.path, listed.seqno_base).unwrap();
    let (mut rows, mut damage): Read = Default::default();
    while let Some(next) = table.next_entry().unwrap() {
        match next {
            Ok(entry) if rows.last().is_some_and(|(key, _)| key == &entry.key) => {}
            Ok(entry) => rows.push((entry.key.to_vec(), entry.value.map(|value| value.to_vec()))),
            Err(rubble) => damage.push(rubble),
        }
    }
    (rows, damage)
}

#[test]
fn tables_that_the_database_wrote_read_back_packed_or_not() {
    for compression in [CompressionType::None, CompressionType::Lz4] {
        let (_root, listed, rows) = sample(compression);
        assert_eq!(read(&listed), (rows, vec![]), "{compression:?}");
        assert_eq!(Some(file_checksum(&listed.path).unwrap()), listed.checksum);
    }
}

#[test]
fn a_flipped_bit_costs_the_rows_of_its_block_and_is_never_passed_over() {
    for compression in [CompressionType::None, CompressionType::Lz4] {
        let (_root, listed, rows) = sample(compression);
        let whole = std::fs::read(&listed.path).unwrap();
        for at in (0..whole.len()).step_by(37) {
            let mut bad = whole.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&listed.path, &bad).unwrap();
            let (found, damage) = read(&listed);
            assert_ne!(Some(file_checksum(&listed.path).unwrap()), listed.checksum, "byte {at}");
            assert!(found.iter().all(|row| rows.contains(row)), "byte {at}: a row that was never written");
            assert!(found.len() == rows.len() || !damage.is_empty(), "byte {at}");
            // One block's rows at most: those of all the others are found again.
            assert!(found.len() + 120 > rows.len(), "byte {at}: {} of {}", found.len(), rows.len());
        }
    }
}

#[test]
fn a_cut_zeroed_or_overwritten_table_gives_what_is_whole_of_it() {
    let (_root, listed, rows) = sample(CompressionType::None);
    let whole = std::fs::read(&listed.path).unwrap();
    let garbage: Vec<u8> =
        (0..whole.len()).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 9).to_le_bytes()[0]).collect();
    for at in (0..whole.len()).step_by(211) {
        for bad in [
            whole[..at].to_vec(),
            [&whole[..at], &vec![0; whole.len() - at]].concat(),
            [&whole[..at], &garbage[at..]].concat(),
        ] {
            std::fs::write(&listed.path, &bad).unwrap();
            let (found, damage) = read(&listed);
            assert_eq!(found, rows[..found.len()], "from byte {at}");
            assert!(found.len() == rows.len() || !damage.is_empty(), "from byte {at}");
        }
    }
}
