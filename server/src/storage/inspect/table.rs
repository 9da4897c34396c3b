//! One table file of the database, read block by block without the database.
//!
//! lsm-tree 3's format: blocks, one behind the other, data first, then index and filter, then a description. A
//! block, little-endian: `"LSM" 3 | u8 kind | u128 xxh3 of the data | u32 bytes | u32 bytes unpacked | u32 xxh3 of
//! this header`, then the data, plain or as an LZ4 block. Data is items in the order of their keys, byte 255,
//! what helps to search, and 31 bytes, of which the first is the restart interval and the last four the number of
//! items. An item: `u8 kind | varint seqno | varint key bytes | key | varint value bytes | value`; between restarts
//! the key is instead `varint shared with the restart's key | varint bytes | rest`. Deletions have no value.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::storage::fields::Fields;

const MAGIC: [u8; 4] = *b"LSM\x03";
const HEADER_BYTES: usize = 4 + 1 + 16 + 4 + 4 + 4;
const TRAILER_BYTES: usize = 31;
const KIND_DATA: u8 = 0;
const ITEMS_END: u8 = 255;
/// Most bytes that a block takes, packed or not: a table's blocks have a few KiB, or one record.
const BLOCK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that are read at once.
const WINDOW_BYTES: usize = 256 * 1024;

/// A version of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Bytes,
    /// The database's sequence number of the batch that wrote it.
    pub seqno: u64,
    /// Its value; `None` deletes.
    pub value: Option<Bytes>,
}

/// A part of a table that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rubble {
    /// Its first byte.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
}

/// The rows of one table, in the order of their keys; what is damaged is said, and passed over.
pub struct Table {
    path: PathBuf,
    window: Window,
    at: u64,
    seqno_base: u64,
    block: std::vec::IntoIter<Entry>,
    is_done: bool,
}

impl Table {
    /// Opens a table whose sequence numbers count from `seqno_base`.
    pub fn open(path: &Path, seqno_base: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            window: Window { file, len, start: 0, bytes: Vec::new() },
            at: 0,
            seqno_base,
            block: Vec::new().into_iter(),
            is_done: false,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far it was read.
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// The next row, or the next part that is none.
    pub fn next_entry(&mut self) -> io::Result<Option<Result<Entry, Rubble>>> {
        loop {
            if let Some(entry) = self.block.next() {
                return Ok(Some(Ok(entry)));
            }
            if self.is_done {
                return Ok(None);
            }
            let offset = self.at;
            match self.block_at(offset)? {
                Ok(block) if block.kind != KIND_DATA => self.is_done = true,
                Ok(block) => {
                    self.at += (HEADER_BYTES + block.stored_bytes) as u64;
                    match block.entries(self.seqno_base) {
                        Some(entries) => self.block = entries.into_iter(),
                        None => {
                            let what = "the rows of a block cannot be read";
                            return Ok(Some(Err(Rubble { offset, what })));
                        }
                    }
                }
                Err(what) => {
                    self.find_block()?;
                    return Ok(Some(Err(Rubble { offset, what })));
                }
            }
        }
    }

    fn block_at(&mut self, at: u64) -> io::Result<Result<Block, &'static str>> {
        let Some(header) = self.window.get(at, HEADER_BYTES)? else {
            return Ok(Err("the table is cut short"));
        };
        let Some(header) = Header::decode(header) else {
            return Ok(Err("a block's header is not what was written"));
        };
        if header.stored_bytes > BLOCK_BYTES_MAX || header.plain_bytes > BLOCK_BYTES_MAX {
            return Ok(Err("a block is larger than the server writes them"));
        }
        let Some(stored) = self.window.get(at + HEADER_BYTES as u64, header.stored_bytes)? else {
            return Ok(Err("the table is cut short"));
        };
        if xxh3_128(stored) != header.checksum {
            return Ok(Err("a block's checksum does not match its bytes"));
        }
        let Header { kind, stored_bytes, plain_bytes, .. } = header;
        Ok(Ok(Block { kind, stored_bytes, plain_bytes, stored: Bytes::copy_from_slice(stored) }))
    }

    /// Moves on to the next block that is whole, or to the end.
    fn find_block(&mut self) -> io::Result<()> {
        let mut from = self.at + 1;
        loop {
            let step = WINDOW_BYTES.min(usize::try_from(self.window.len.saturating_sub(from)).unwrap_or(0));
            let Some(bytes) = self.window.get(from, step)?.filter(|bytes| bytes.len() >= MAGIC.len()) else {
                self.is_done = true;
                return Ok(());
            };
            let Some(found) = memchr::memmem::find(bytes, &MAGIC) else {
                from += (step - (MAGIC.len() - 1)) as u64;
                continue;
            };
            from += found as u64;
            if self.block_at(from)?.is_ok() {
                self.at = from;
                return Ok(());
            }
            from += 1;
        }
    }
}

/// The checksum of a whole file, as the list of tables has it.
pub fn file_checksum(path: &Path) -> io::Result<u128> {
    let file = File::open(path)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; WINDOW_BYTES];
    let mut at = 0;
    loop {
        let read = match file.read_at(&mut buffer, at) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if read == 0 {
            return Ok(hash.digest128());
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        at += read as u64;
    }
}

/// A part of a file in memory.
struct Window {
    file: File,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// `count` bytes at `at`; `None` if the file ends before.
    fn get(&mut self, at: u64, count: usize) -> io::Result<Option<&[u8]>> {
        if at.checked_add(count as u64).is_none_or(|end| end > self.len) {
            return Ok(None);
        }
        let is_here = at >= self.start && at + count as u64 <= self.start + self.bytes.len() as u64;
        if !is_here {
            let left = usize::try_from(self.len - at).unwrap_or(usize::MAX);
            self.bytes.resize(count.max(WINDOW_BYTES).min(left), 0);
            self.start = at;
            self.file.read_exact_at(&mut self.bytes, at)?;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..).and_then(|bytes| bytes.get(..count)))
    }
}

struct Header {
    kind: u8,
    checksum: u128,
    stored_bytes: usize,
    plain_bytes: usize,
}

impl Header {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        let [c0, c1, c2, c3, ..] = xxh3_128(body).to_le_bytes();
        let mut fields = Fields::new(body);
        (fields.take(4)? == MAGIC && *checksum == [c0, c1, c2, c3]).then_some(())?;
        let kind = fields.u8()?;
        let checksum = u128::from_le_bytes(fields.take(16)?.try_into().ok()?);
        let stored_bytes = usize::try_from(fields.u32()?).ok()?;
        let plain_bytes = usize::try_from(fields.u32()?).ok()?;
        Some(Self { kind, checksum, stored_bytes, plain_bytes })
    }
}

struct Block {
    kind: u8,
    stored_bytes: usize,
    plain_bytes: usize,
    stored: Bytes,
}

impl Block {
    /// Whether it is packed stands elsewhere in the table, which may be damaged; it shows.
    fn entries(&self, seqno_base: u64) -> Option<Vec<Entry>> {
        let plain = (self.stored_bytes == self.plain_bytes).then(|| self.stored.clone());
        plain.and_then(|plain| items(&plain, seqno_base)).or_else(|| {
            let plain = lz4_flex::block::decompress(&self.stored, self.plain_bytes).ok()?;
            (plain.len() == self.plain_bytes).then_some(())?;
            items(&Bytes::from(plain), seqno_base)
        })
    }
}

fn items(data: &Bytes, seqno_base: u64) -> Option<Vec<Entry>> {
    let (body, trailer) = data.split_last_chunk::<TRAILER_BYTES>()?;
    let restart_interval = usize::from(*trailer.first()?);
    let count = usize::try_from(u32::from_le_bytes(*trailer.last_chunk::<4>()?)).ok()?;
    let mut fields = Fields::new(body);
    let mut entries = Vec::new();
    let mut restart_key = Bytes::new();
    for index in 0..count {
        let kind = fields.u8()?;
        let seqno = varint(&mut fields)?.checked_add(seqno_base)?;
        let key = if index % restart_interval.max(1) == 0 {
            restart_key = slice(data, &mut fields)?;
            restart_key.clone()
        } else {
            let shared = usize::try_from(varint(&mut fields)?).ok()?;
            let rest = slice(data, &mut fields)?;
            let mut key = restart_key.get(..shared)?.to_vec();
            key.extend_from_slice(&rest);
            Bytes::from(key)
        };
        let value = match kind {
            0 => Some(slice(data, &mut fields)?),
            1 | 2 => None,
            _ => return None,
        };
        entries.push(Entry { key, seqno, value });
    }
    (fields.u8()? == ITEMS_END).then_some(entries)
}

/// A length and so many bytes, which share the block's memory.
fn slice(data: &Bytes, fields: &mut Fields<'_>) -> Option<Bytes> {
    let bytes = usize::try_from(varint(fields)?).ok()?;
    Some(data.slice_ref(fields.take(bytes)?))
}

fn varint(fields: &mut Fields<'_>) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = fields.u8()?;
        let part = u64::from(byte & 0x7f);
        value |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
