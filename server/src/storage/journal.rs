//! The format of fjall 3.1's journals, read from memory without changing anything.
//!
//! A journal is batches, one after the other, and zeroes behind them (the file is allocated ahead). A batch,
//! little-endian: start `u8 1 | u32 items | u64 seqno`; each item `u8 2 | u8 kind | u8 compression |
//! u64 keyspace | u16 key length | u32 value length | u32 stored length | key | value`; end `u8 3 |
//! u64 xxh3 over the items | "FJL" 3`. Compression is off, and keyspaces are never cleared, so either is
//! unreadable here. Note what the checksum leaves out: the number of items and the sequence number.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use xxhash_rust::xxh3::xxh3_64;

use super::error::OpenError;

use super::fields::Fields;
use super::keys::{COMMIT_KEY, COMMIT_ROW_BYTES, CommitRow, DirectoryId, KeyspaceId, parse_change_key};

/// The byte with which a batch begins.
pub const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
/// The kind of an item that sets a value.
pub const KIND_VALUE: u8 = 0;
const NOT_COMPRESSED: u8 = 0;
const TRAILER: &[u8] = b"FJL\x03";

/// One key and its value, as a batch sets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// Number of the keyspace.
    pub keyspace: u64,
    /// 0 for a value; others delete.
    pub kind: u8,
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// A batch that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The database's sequence number. Not covered by the checksum.
    pub seqno: u64,
    /// What it writes, in order.
    pub items: Vec<Item<'a>>,
    /// Bytes it takes.
    pub len: usize,
}

/// A journal's bytes, without the hole at its end: tens of MB that are allocated ahead, take no room on disk and read
/// as zeroes.
pub fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    let failed = OpenError::io(path, "read the journal");
    let read = || {
        let file = File::open(path)?;
        let mut bytes = Vec::new();
        match data_end(&file) {
            Some(end) => file.take(end).read_to_end(&mut bytes)?,
            None => return fs::read(path),
        };
        Ok(bytes)
    };
    read().map_err(failed)
}

/// Where a file's last data ends, if the file system tells; the file is at its beginning then.
fn data_end(file: &File) -> Option<u64> {
    let mut end = 0;
    loop {
        match seek(file, SeekFrom::Data(end)) {
            Ok(data) => {
                let hole = seek(file, SeekFrom::Hole(data)).ok()?;
                // Otherwise this would not end.
                end = Some(hole).filter(|hole| *hole > end)?;
            }
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => return None,
        }
    }
    seek(file, SeekFrom::Start(0)).ok()?;
    Some(end)
}

/// Reads the batch that begins `bytes`; the error says what does not fit.
pub fn parse_batch(bytes: &[u8]) -> Result<Batch<'_>, &'static str> {
    let (batch, is_proven) = parse(bytes)?;
    is_proven.then_some(batch).ok_or("a batch's checksum does not match its bytes")
}

/// Reads a batch whose lengths all fit, though its checksum does not: its number, its items, its bytes.
pub fn parse_unproven(bytes: &[u8]) -> Option<(u64, Vec<Item<'_>>, usize)> {
    let (batch, _) = parse(bytes).ok()?;
    Some((batch.seqno, batch.items, batch.len))
}

/// A batch, and whether its checksum matches.
fn parse(bytes: &[u8]) -> Result<(Batch<'_>, bool), &'static str> {
    let mut fields = Fields::new(bytes);
    if fields.u8() != Some(TAG_START) {
        return Err("no batch begins here");
    }
    let (Some(count), Some(seqno)) = (fields.u32(), fields.u64()) else { return Err("a batch is cut short") };
    let items_start = bytes.len() - fields.left();
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(parse_item(&mut fields)?);
    }
    let items_end = bytes.len() - fields.left();
    if fields.u8().ok_or("a batch is cut short")? != TAG_END {
        return Err("a batch holds more than it says");
    }
    let checksum = fields.u64().ok_or("a batch is cut short")?;
    if fields.take(TRAILER.len()).ok_or("a batch is cut short")? != TRAILER {
        return Err("a batch does not end as it should");
    }
    let is_proven = xxh3_64(bytes.get(items_start..items_end).unwrap_or_default()) == checksum;
    Ok((Batch { seqno, items, len: bytes.len() - fields.left() }, is_proven))
}

fn parse_item<'a>(fields: &mut Fields<'a>) -> Result<Item<'a>, &'static str> {
    const SHORT: &str = "a batch is cut short";
    if fields.u8().ok_or(SHORT)? != TAG_ITEM {
        return Err("a batch holds less than it says");
    }
    let kind = fields.u8().ok_or(SHORT)?;
    let compression = fields.u8().ok_or(SHORT)?;
    let keyspace = fields.u64().ok_or(SHORT)?;
    let key_bytes = fields.u16().ok_or(SHORT)?;
    let value_bytes = fields.u32().ok_or(SHORT)?;
    let stored_bytes = fields.u32().ok_or(SHORT)?;
    if compression != NOT_COMPRESSED || value_bytes != stored_bytes {
        return Err("an item is compressed, which this server never writes");
    }
    let key = fields.take(usize::from(key_bytes)).ok_or(SHORT)?;
    let value = fields.take(usize::try_from(stored_bytes).map_err(|_| SHORT)?).ok_or(SHORT)?;
    Ok(Item { keyspace, kind, key, value })
}

impl<'a> Item<'a> {
    /// Is this a value in that keyspace?
    pub fn sets(&self, keyspace: KeyspaceId) -> bool {
        self.keyspace == keyspace as u64 && self.kind == KIND_VALUE
    }
}

/// Commits whose rows can be found in `bytes`, wherever they stand, batches around them whole or not. The
/// directory's id is in their checksums, so nothing that a client sent passes for one.
pub fn find_commits(bytes: &[u8], id: DirectoryId) -> impl Iterator<Item = CommitRow> + '_ {
    find_items(bytes, KeyspaceId::Meta)
        .filter(|item| item.key == COMMIT_KEY && item.value.len() == COMMIT_ROW_BYTES)
        .filter_map(move |item| CommitRow::decode(id, item.value))
}

/// Names of documents whose records seem to stand in `bytes`. A guess, for people.
pub fn find_documents(bytes: &[u8]) -> impl Iterator<Item = String> + '_ {
    find_items(bytes, KeyspaceId::Changes)
        .filter_map(|item| Some(parse_change_key(item.key)?.0.as_str().to_owned()))
}

fn find_items(bytes: &[u8], keyspace: KeyspaceId) -> impl Iterator<Item = Item<'_>> {
    let mut start = [TAG_ITEM, KIND_VALUE, NOT_COMPRESSED, 0, 0, 0, 0, 0, 0, 0, 0];
    super::fields::put(
        &mut start,
        &[&[TAG_ITEM, KIND_VALUE, NOT_COMPRESSED], &(keyspace as u64).to_le_bytes()],
    );
    let found: Vec<usize> = memchr::memmem::find_iter(bytes, &start).collect();
    found.into_iter().filter_map(move |at| parse_item(&mut Fields::new(bytes.get(at..)?)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_ahead_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.jnl");
        for (start, data) in [(0, 5_000), (0, 0), (200_000, 9)] {
            let written = [vec![0; start], vec![7; data]].concat();
            fs::write(&path, []).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &written[start..], start as u64).unwrap();
            file.set_len(64 << 20).unwrap();
            let bytes = read(&path).unwrap();
            assert!(bytes.starts_with(&written) && bytes[written.len()..].iter().all(|&byte| byte == 0));
            assert!(bytes.len() < 1 << 20, "{}", bytes.len());
        }
    }

    fn item(keyspace: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = vec![TAG_ITEM, KIND_VALUE, NOT_COMPRESSED];
        out.extend_from_slice(&keyspace.to_le_bytes());
        out.extend_from_slice(&u16::try_from(key.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
        out
    }

    fn batch(seqno: u64, items: &[Vec<u8>]) -> Vec<u8> {
        let body = items.concat();
        let mut out = vec![TAG_START];
        out.extend_from_slice(&u32::try_from(items.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&seqno.to_le_bytes());
        out.extend_from_slice(&body);
        out.push(TAG_END);
        out.extend_from_slice(&xxh3_64(&body).to_le_bytes());
        out.extend_from_slice(TRAILER);
        out
    }

    #[test]
    fn a_batch_that_fjall_wrote_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let database = fjall::Database::builder(directory.path())
            .journal_compression(fjall::CompressionType::None)
            .open()
            .unwrap();
        let keyspace = database.keyspace("a", Default::default).unwrap();
        let mut write = database.batch().durability(Some(fjall::PersistMode::SyncData));
        let large = vec![7; 10_000];
        write.insert(&keyspace, "key", "value");
        write.insert(&keyspace, "large", large.as_slice());
        write.remove(&keyspace, "gone");
        write.commit().unwrap();
        let bytes = fs::read(directory.path().join("0.jnl")).unwrap();
        let read = parse_batch(&bytes).unwrap();
        let id = keyspace.id();
        assert_eq!(
            read.items,
            [
                Item { keyspace: id, kind: 0, key: b"key", value: b"value" },
                Item { keyspace: id, kind: 0, key: b"large", value: &large },
                Item { keyspace: id, kind: 1, key: b"gone", value: b"" },
            ]
        );
        assert!(bytes[read.len..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn every_truncation_and_flip_is_noticed_but_for_the_sequence_number() {
        let whole = batch(9, &[item(1, b"key", b"value"), item(4, b"k", b"")]);
        let expected = parse_batch(&whole).unwrap();
        assert_eq!((expected.seqno, expected.items.len(), expected.len), (9, 2, whole.len()));
        for len in 0..whole.len() {
            assert!(parse_batch(&whole[..len]).is_err(), "length {len}");
        }
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_batch(&bad).is_ok(), (5..13).contains(&(bit / 8)), "bit {bit}");
        }
    }

    #[test]
    fn a_count_beyond_the_bytes_costs_nothing() {
        let mut bytes = batch(1, &[]);
        bytes[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(parse_batch(&bytes).is_err());
    }

    #[test]
    fn commits_are_found_in_rubble_and_foreign_ones_are_not() {
        let (id, other) = (DirectoryId([1; 16]), DirectoryId([2; 16]));
        let row = CommitRow { commit: 5, records: 1, ..CommitRow::default() };
        let mut bytes = vec![2, 0, 0, 4];
        bytes.extend(item(KeyspaceId::Meta as u64, COMMIT_KEY, &row.encode(id)));
        bytes.extend([2; 30]);
        assert_eq!(find_commits(&bytes, id).collect::<Vec<_>>(), [row]);
        assert_eq!(find_commits(&bytes, other).count(), 0);
        assert_eq!(find_commits(&bytes[..bytes.len() - 31], id).count(), 0);
    }
}
