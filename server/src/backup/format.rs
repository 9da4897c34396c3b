//! The file of a backup: sections, one behind the other, each with a checksum.
//!
//! It begins with [`MAGIC`]. A section, little-endian: `u32 payload bytes | u8 kind | payload | u64 xxh3`, the
//! hash seeded with the section's number, so that a section that is missing, doubled or out of place does not
//! pass. The last one, [`Kind::End`], has the totals and a hash over all bytes before it: a backup without it is
//! torn, whatever stands before. What a section holds is here as well; what must follow what is [`super::walk`]'s.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use etherply_engine::change::ActorId;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::Past;
use xxhash_rust::xxh3::Xxh3;

use super::{BackupError, Summary};
use crate::storage::fields::Fields;
use crate::storage::versions::Version;

/// The first bytes of a backup.
pub const MAGIC: [u8; 16] = *b"EtherPly backup\n";
/// Version of the format that this code writes, and the newest that it reads.
///
/// Version 1 had no named versions, and no count of them in its end.
pub const VERSION: u32 = 2;
/// Longest payload of a section: a record has at most 1 MiB and a little.
pub const SECTION_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest text in a section.
const TEXT_BYTES_MAX: usize = 4 * 1024;
/// Size at which a section of records is full.
pub const RECORDS_SECTION_BYTES: usize = 256 * 1024;
const SECTION_HEADER_BYTES: usize = 4 + 1;
const CHECKSUM_BYTES: usize = 8;
/// Bytes of the hash over all of it.
const HASH_BYTES: usize = 16;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Begin`]: the first section.
    Begin = 1,
    /// [`DocumentHeader`]: what follows belongs to this document.
    Document = 2,
    /// Records of the document, as the log stores them, each behind its length as `u32`.
    Records = 3,
    /// The document's log is damaged: `u64` position, then a text.
    Damaged = 4,
    /// A named version of the document, behind its records: its description, as JSON.
    Version = 5,
    /// Bytes of that version's file, in their order.
    VersionPart = 6,
    /// The source could not go on: a text.
    Ended = 254,
    /// [`End`]: the last section.
    End = 255,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        const KINDS: [Kind; 8] = {
            use Kind::{Begin, Damaged, Document, End, Ended, Records, Version, VersionPart};
            [Begin, Document, Records, Damaged, Version, VersionPart, Ended, End]
        };
        KINDS.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Where the backup comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// Id of the data directory.
    pub directory: [u8; 16],
    /// The last commit that it holds.
    pub commit: u64,
    /// Chain over the records of all commits up to there.
    pub lineage: u64,
    /// When it was taken, in milliseconds since 1970.
    pub taken_ms: u64,
    /// Version of the etherply that took it.
    pub etherply: String,
}

/// A document; its records follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentHeader {
    /// Its name.
    pub document: DocumentId,
    /// Its epoch.
    pub epoch: u64,
    /// Position of its last record.
    pub last_seq: u64,
    /// It was deleted: this is its tombstone, and no records follow.
    pub is_deleted: bool,
    /// What the epochs before this one left behind.
    pub past: Past,
}

/// The totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// Documents that are not deleted.
    pub documents: u64,
    /// Tombstones.
    pub deleted: u64,
    /// Damaged documents.
    pub damaged: u64,
    /// Records.
    pub records: u64,
    /// Bytes of their changes.
    pub change_bytes: u64,
    /// Named versions.
    pub versions: u64,
}

impl From<&Summary> for End {
    fn from(summary: &Summary) -> Self {
        Self {
            documents: summary.documents,
            deleted: summary.deleted,
            damaged: summary.damaged,
            records: summary.records,
            change_bytes: summary.change_bytes,
            versions: summary.versions,
        }
    }
}

impl Begin {
    fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        out.extend_from_slice(&self.directory);
        out.extend_from_slice(&self.commit.to_le_bytes());
        out.extend_from_slice(&self.lineage.to_le_bytes());
        out.extend_from_slice(&self.taken_ms.to_le_bytes());
        put_text(&mut out, &self.etherply);
        out
    }

    /// Reads it back. `Err(version)` if a newer etherply wrote it.
    pub(super) fn decode(payload: &[u8]) -> Result<Option<Self>, u32> {
        let mut fields = Fields::new(payload);
        match fields.u32() {
            Some(found) if found > VERSION => return Err(found),
            Some(1..=VERSION) => {}
            _ => return Ok(None),
        }
        let read = |fields: &mut Fields<'_>| {
            Some(Self {
                directory: fields.take(16)?.try_into().ok()?,
                commit: fields.u64()?,
                lineage: fields.u64()?,
                taken_ms: fields.u64()?,
                etherply: text(fields)?,
            })
        };
        Ok(read(&mut fields).filter(|_| fields.left() == 0))
    }
}

impl DocumentHeader {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.last_seq.to_le_bytes());
        out.push(u8::from(self.is_deleted));
        put_text(&mut out, self.document.as_str());
        out.extend_from_slice(&self.past.reset_epoch.to_le_bytes());
        for actor in &self.past.excluded {
            // An actor has 64 bytes at the most.
            out.push(u8::try_from(actor.as_bytes().len()).unwrap_or(u8::MAX));
            out.extend_from_slice(actor.as_bytes());
        }
        out
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(payload);
        let (epoch, last_seq) = (fields.u64()?, fields.u64()?);
        let is_deleted = match fields.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let document = DocumentId::new(&text(&mut fields)?).ok()?;
        let mut past = Past { reset_epoch: fields.u64()?, excluded: Vec::new() };
        while fields.left() > 0 {
            let length = usize::from(fields.u8()?);
            past.excluded.push(ActorId::from_slice(fields.take(length)?).ok()?);
        }
        Some(Self { document, epoch, last_seq, is_deleted, past })
    }
}

impl End {
    fn encode(&self, hash: u128) -> Vec<u8> {
        let counts =
            [self.documents, self.deleted, self.damaged, self.records, self.change_bytes, self.versions];
        let mut out: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
        out.extend_from_slice(&hash.to_le_bytes());
        out
    }

    pub(super) fn decode(payload: &[u8]) -> Option<(Self, u128)> {
        let mut fields = Fields::new(payload);
        let mut end = Self {
            documents: fields.u64()?,
            deleted: fields.u64()?,
            damaged: fields.u64()?,
            records: fields.u64()?,
            change_bytes: fields.u64()?,
            versions: 0,
        };
        if fields.left() > HASH_BYTES {
            end.versions = fields.u64()?;
        }
        let hash = u128::from_le_bytes(fields.take(HASH_BYTES)?.try_into().ok()?);
        (fields.left() == 0).then_some((end, hash))
    }
}

/// Reads a [`Kind::Damaged`] section: the position, and what was found.
pub(super) fn decode_damaged(payload: &[u8]) -> Option<(u64, String)> {
    let mut fields = Fields::new(payload);
    let damaged = (fields.u64()?, text(&mut fields)?);
    (fields.left() == 0).then_some(damaged)
}

/// Reads a [`Kind::Ended`] section.
pub(super) fn decode_ended(payload: &[u8]) -> Option<String> {
    text(&mut Fields::new(payload))
}

/// The stored records of a [`Kind::Records`] section; `None` stands where the bytes are none.
pub(super) fn decode_records(payload: &Bytes) -> impl Iterator<Item = Option<Bytes>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = payload.get(at..).filter(|rest| !rest.is_empty())?;
        let mut fields = Fields::new(rest);
        let length = fields.u32().and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|length| *length <= fields.left()) else {
            at = payload.len();
            return Some(None);
        };
        let start = at + 4;
        at = start + length;
        Some(Some(payload.slice(start..at)))
    })
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or(text);
    // Not longer than TEXT_BYTES_MAX.
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn text(fields: &mut Fields<'_>) -> Option<String> {
    let bytes = usize::from(fields.u16()?);
    String::from_utf8(fields.take(bytes)?.to_vec()).ok()
}

/// Writes a backup's sections.
pub(super) struct SectionWriter<W> {
    out: W,
    number: u64,
    hash: Xxh3,
    records: Vec<u8>,
    /// Bytes written so far.
    pub(super) bytes: u64,
}

impl<W: Write> SectionWriter<W> {
    pub(super) fn new(mut out: W, begin: &Begin) -> io::Result<Self> {
        let mut hash = Xxh3::new();
        out.write_all(&MAGIC)?;
        hash.update(&MAGIC);
        let records = Vec::with_capacity(RECORDS_SECTION_BYTES);
        let mut writer = Self { out, number: 0, hash, records, bytes: MAGIC.len() as u64 };
        writer.section(Kind::Begin, &begin.encode())?;
        Ok(writer)
    }

    fn section(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut header = [0; SECTION_HEADER_BYTES];
        crate::storage::fields::put(&mut header, &[&length.to_le_bytes(), &[kind as u8]]);
        let checksum = section_checksum(self.number, &header, payload).to_le_bytes();
        for part in [&header[..], payload, &checksum] {
            self.out.write_all(part)?;
            self.hash.update(part);
            self.bytes += part.len() as u64;
        }
        self.number += 1;
        Ok(())
    }

    pub(super) fn document(&mut self, header: &DocumentHeader) -> io::Result<()> {
        self.end_records()?;
        self.section(Kind::Document, &header.encode())
    }

    pub(super) fn record(&mut self, stored: &[u8]) -> io::Result<()> {
        if self.records.len() + 4 + stored.len() > RECORDS_SECTION_BYTES {
            self.end_records()?;
        }
        let length = u32::try_from(stored.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.records.extend_from_slice(&length.to_le_bytes());
        self.records.extend_from_slice(stored);
        Ok(())
    }

    fn end_records(&mut self) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let mut records = std::mem::take(&mut self.records);
        self.section(Kind::Records, &records)?;
        records.clear();
        self.records = records;
        Ok(())
    }

    pub(super) fn damaged(&mut self, seq: u64, what: &str) -> io::Result<()> {
        self.end_records()?;
        let mut payload = seq.to_le_bytes().to_vec();
        put_text(&mut payload, what);
        self.section(Kind::Damaged, &payload)
    }

    pub(super) fn version(&mut self, version: &Version, automerge: &[u8]) -> io::Result<()> {
        self.end_records()?;
        self.section(Kind::Version, &serde_json::to_vec(version)?)?;
        for part in automerge.chunks(RECORDS_SECTION_BYTES) {
            self.section(Kind::VersionPart, part)?;
        }
        Ok(())
    }

    /// Says why there is no more, instead of an end.
    pub(super) fn give_up(&mut self, why: &str) -> io::Result<()> {
        let mut payload = Vec::new();
        put_text(&mut payload, why);
        self.section(Kind::Ended, &payload)?;
        self.out.flush()
    }

    pub(super) fn end(&mut self, end: &End) -> io::Result<()> {
        self.end_records()?;
        let hash = self.hash.digest128();
        self.section(Kind::End, &end.encode(hash))?;
        self.out.flush()
    }
}

fn section_checksum(number: u64, header: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::with_seed(number);
    hash.update(header);
    hash.update(payload);
    hash.digest()
}

/// A section as it was read; its checksum fits.
pub(super) struct Section {
    pub(super) kind: Kind,
    pub(super) payload: Bytes,
    /// Where it begins.
    pub(super) offset: u64,
    /// Hash over all bytes before it.
    pub(super) hash_before: u128,
}

/// Reads a backup's sections.
pub(super) struct SectionReader<R> {
    source: R,
    path: PathBuf,
    number: u64,
    hash: Xxh3,
    /// Bytes read so far.
    pub(super) bytes: u64,
}

impl<R: Read> SectionReader<R> {
    /// Of a backup; `path` is for errors.
    pub(super) fn new(source: R, path: &Path) -> Result<Self, BackupError> {
        let mut reader = Self { source, path: path.to_owned(), number: 0, hash: Xxh3::new(), bytes: 0 };
        let mut magic = [0; MAGIC.len()];
        match reader.fill(&mut magic) {
            Ok(()) if magic == MAGIC => Ok(reader),
            Ok(()) | Err(BackupError::Torn { .. }) => Err(BackupError::NotABackup { path: reader.path }),
            Err(error) => Err(error),
        }
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), BackupError> {
        self.source.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BackupError::Torn { path: self.path.clone(), offset: self.bytes },
            _ => BackupError::io(&self.path, "read")(error),
        })?;
        self.hash.update(into);
        self.bytes += into.len() as u64;
        Ok(())
    }

    pub(super) fn damaged(&self, offset: u64, what: impl Into<String>) -> BackupError {
        BackupError::Damaged { path: self.path.clone(), offset, what: what.into() }
    }

    pub(super) fn future_version(&self, found: u32) -> BackupError {
        BackupError::FutureVersion { path: self.path.clone(), found, supported: VERSION }
    }

    pub(super) fn next(&mut self) -> Result<Section, BackupError> {
        let (offset, hash_before) = (self.bytes, self.hash.digest128());
        let mut header = [0; SECTION_HEADER_BYTES];
        self.fill(&mut header)?;
        let mut fields = Fields::new(&header);
        let (length, kind) = (fields.u32().unwrap_or(u32::MAX), fields.u8().unwrap_or(0));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > SECTION_BYTES_MAX {
            return Err(self.damaged(offset, "a section is longer than any that is written"));
        }
        let mut payload = vec![0; length];
        self.fill(&mut payload)?;
        let mut checksum = [0; CHECKSUM_BYTES];
        self.fill(&mut checksum)?;
        if u64::from_le_bytes(checksum) != section_checksum(self.number, &header, &payload) {
            return Err(self.damaged(offset, "a section's checksum does not match its bytes"));
        }
        let kind = Kind::of(kind).ok_or_else(|| self.damaged(offset, "a section of an unknown kind"))?;
        self.number += 1;
        Ok(Section { kind, payload: Bytes::from(payload), offset, hash_before })
    }

    /// Nothing may stand behind the last section.
    pub(super) fn expect_end(&mut self) -> Result<(), BackupError> {
        let mut byte = [0];
        match self.source.read(&mut byte) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged(self.bytes, "bytes stand behind its end")),
            Err(error) => Err(BackupError::io(&self.path, "read")(error)),
        }
    }
}
