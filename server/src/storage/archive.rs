//! The archives that the database's files are, read without it: sections, a list of them, and where that list stands.
//!
//! An archive ends with `"SFA!" | u8 1 | u8 0 | u128 xxh3 of the list | u64 its position | u64 its bytes`, little-endian. The
//! list: `"TOC!" | u32 sections`, each `u64 position | u64 bytes | u16 name bytes | name`. The database believes the number of
//! sections before it compares the checksum: a flipped bit there has it ask for more memory than there is, which ends
//! the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::fields::Fields;

const END_BYTES: usize = 4 + 1 + 1 + 16 + 8 + 8;
/// Most bytes that a list of sections takes: the database's have fewer than ten.
const LIST_BYTES_MAX: u64 = 64 * 1024;

/// Where an archive's list of sections stands, and what its bytes come to.
struct End {
    position: u64,
    bytes: u64,
    checksum: u128,
}

impl End {
    /// Of the last bytes of an archive with so many.
    fn decode(end: &[u8], archive_bytes: u64) -> Option<Self> {
        let mut end = Fields::new(end);
        (end.take(6)? == b"SFA!\x01\0").then_some(())?;
        let checksum = u128::from_le_bytes(end.take(16)?.try_into().ok()?);
        let (position, bytes) = (end.u64()?, end.u64()?);
        let fits = position.checked_add(bytes)?.checked_add(END_BYTES as u64)? == archive_bytes;
        (fits && bytes <= LIST_BYTES_MAX).then_some(Self { position, bytes, checksum })
    }
}

/// A section of an archive that is in memory, if its list is what was written.
pub fn section<'a>(archive: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let (rest, end) = archive.split_last_chunk::<END_BYTES>()?;
    let end = End::decode(end, archive.len() as u64)?;
    let list = rest.get(usize::try_from(end.position).ok()?..)?;
    let (_, from, bytes) = sections(list, end.checksum)?.into_iter().find(|(name, ..)| *name == wanted)?;
    let from = usize::try_from(from).ok()?;
    archive.get(from..from.checked_add(usize::try_from(bytes).ok()?)?)
}

/// Whether the list of an archive's sections is what was written, and they lie before it. They are not read.
pub fn is_listed_rightly(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let archive_bytes = file.metadata()?.len();
    let Some(end_at) = archive_bytes.checked_sub(END_BYTES as u64) else { return Ok(false) };
    let mut end = [0; END_BYTES];
    file.read_exact_at(&mut end, end_at)?;
    let Some(end) = End::decode(&end, archive_bytes) else { return Ok(false) };
    let mut list = vec![0; usize::try_from(end.bytes).unwrap_or_default()];
    file.read_exact_at(&mut list, end.position)?;
    let lies_before = |(_, from, bytes): &(_, u64, u64)| {
        from.checked_add(*bytes).is_some_and(|behind| behind <= end.position)
    };
    Ok(sections(&list, end.checksum).is_some_and(|sections| sections.iter().all(lies_before)))
}

/// What a list names: each section's name, position and bytes.
fn sections(list: &[u8], checksum: u128) -> Option<Vec<(&[u8], u64, u64)>> {
    (xxh3_128(list) == checksum).then_some(())?;
    let mut fields = Fields::new(list);
    (fields.take(4)? == b"TOC!").then_some(())?;
    let mut sections = Vec::new();
    for _ in 0..fields.u32()? {
        let (from, bytes) = (fields.u64()?, fields.u64()?);
        let name_bytes = usize::from(fields.u16()?);
        sections.push((fields.take(name_bytes)?, from, bytes));
    }
    (fields.left() == 0).then_some(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sections, of 5 and 0 bytes.
    fn archive() -> Vec<u8> {
        let mut archive = b"hello".to_vec();
        let mut list = b"TOC!\x02\0\0\0".to_vec();
        for (from, bytes, name) in [(0u64, 5u64, &b"one"[..]), (5, 0, b"two")] {
            list.extend([from.to_le_bytes(), bytes.to_le_bytes()].concat());
            list.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            list.extend(name);
        }
        archive.extend(&list);
        archive.extend(b"SFA!\x01\0");
        archive.extend(xxh3_128(&list).to_le_bytes());
        archive.extend([5u64.to_le_bytes(), (list.len() as u64).to_le_bytes()].concat());
        archive
    }

    #[test]
    fn a_list_that_is_not_what_was_written_is_noticed_at_every_bit_and_length() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("archive");
        let whole = archive();
        let is_whole = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let (file, memory) = (is_listed_rightly(&path).unwrap(), section(bytes, b"two").is_some());
            assert_eq!(file, memory);
            file
        };
        assert!(is_whole(&whole));
        assert_eq!(section(&whole, b"one"), Some(&b"hello"[..]));
        assert_eq!(section(&whole, b"three"), None);
        for at in 5..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                assert!(!is_whole(&flipped), "bit {bit} of byte {at}");
            }
        }
        for len in 0..whole.len() {
            assert!(!is_whole(&whole[..len]), "{len} bytes");
        }
    }
}
