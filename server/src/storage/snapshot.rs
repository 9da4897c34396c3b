//! Snapshots on disk: one file for each document that has one, beside the database.
//!
//! They are a cache. Every change that one covers stays in the log, so a file that is missing, torn or damaged
//! costs time and nothing else: it is passed over, members are sent the log, and the next snapshot replaces it.
//! Nothing is synced for that reason, and an operator may delete them all. No part is served unless its checksum
//! is right, and none at all unless the log goes through its cursor, which [`super::log`]'s readers prove.
//!
//! Layout, little-endian: `"EPSN" | u8 version | directory id × 16 | u64 epoch | u64 seq | chain × 32 |
//! u64 bytes | u64 bytes covered | u16 length of name | name | u64 xxh3`, then chunks of
//! [`SNAPSHOT_CHUNK_BYTES_MAX`] bytes, the last one shorter, each followed by the xxh3 of its cursor's chain, its
//! offset and its bytes. What the bytes are is for whoever cuts: here, the document's changes one behind the
//! other, as Automerge loads them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::LogError;
use etherply_engine::snapshot::{Chunk, Snapshot, SnapshotRequest};
use etherply_wire::kinds::Cursor;
use etherply_wire::limits::{DOCUMENT_ID_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_MAX};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

use super::fields::Fields;
use super::keys::DirectoryId;
use super::log::Reader;

const DIRECTORY: &str = "snapshots";
const MAGIC: [u8; 4] = *b"EPSN";
const VERSION: u8 = 1;
const FIXED_BYTES: usize = 4 + 1 + 16 + 8 + 8 + 32 + 8 + 8 + 2;
const CHECKSUM_BYTES: usize = 8;
const CHUNK_BYTES: u64 = SNAPSHOT_CHUNK_BYTES_MAX as u64;
const STORED_CHUNK_BYTES: u64 = CHUNK_BYTES + CHECKSUM_BYTES as u64;
/// Bytes of changes that are read from the log in one step of a cut.
pub const CUT_STEP_BYTES_MAX: usize = 256 * 1024;
/// Bytes that stay free on the disk: a cache must not take the log's last room.
pub const CUT_ROOM_BYTES_MIN: u64 = 512 * 1024 * 1024;

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is none, or another one.
    #[error("the snapshot was replaced or removed")]
    Gone,
    /// The bytes are not what was written.
    #[error("the snapshot {} is damaged: {what}; the log has everything that it covers", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read the snapshot {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The snapshots of a data directory.
#[derive(Debug, Clone)]
pub struct Snapshots {
    directory: PathBuf,
    id: DirectoryId,
}

impl Snapshots {
    /// Those of the data directory at `path`. Nothing is read or made yet.
    pub fn new(path: &Path, id: DirectoryId) -> Self {
        Self { directory: path.join(DIRECTORY), id }
    }

    fn path(&self, document: &DocumentId) -> PathBuf {
        // Names have characters that file names have not. Two documents with one file would only replace each
        // other's snapshots: the name stands in it.
        self.directory.join(format!("{:032x}.snapshot", xxh3_128(document.as_str().as_bytes())))
    }

    /// What is stored of a document, if it is all there; chunks are checked when they are read.
    pub fn latest(&self, document: &DocumentId) -> Option<Snapshot> {
        match self.open(document) {
            Ok((_, snapshot)) => Some(snapshot),
            Err(SnapshotError::Gone) => None,
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        }
    }

    fn open(&self, document: &DocumentId) -> Result<(File, Snapshot), SnapshotError> {
        let path = self.path(document);
        let io_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => SnapshotError::Gone,
            _ => SnapshotError::Io { path: path.clone(), source },
        };
        let damaged = |what| SnapshotError::Damaged { path: path.clone(), what };
        let file = File::open(&path).map_err(io_error)?;
        let mut header = Vec::with_capacity(FIXED_BYTES + DOCUMENT_ID_BYTES_MAX + CHECKSUM_BYTES);
        let header_bytes = FIXED_BYTES + document.as_str().len() + CHECKSUM_BYTES;
        (&file).take(header_bytes as u64).read_to_end(&mut header).map_err(io_error)?;
        let snapshot = decode(self.id, document, &header)
            .ok_or_else(|| damaged("its header is not what was written"))?;
        let bytes = file.metadata().map_err(io_error)?.len();
        if bytes != header_bytes as u64 + stored_bytes(snapshot.total_bytes) {
            return Err(damaged("it is cut short"));
        }
        Ok((file, snapshot))
    }

    /// Reads the chunks that a feed asks for, encoded for the members of the document with this handle.
    ///
    /// # Errors
    /// [`SnapshotError`]; then no chunk is handed out, not even those before the damage.
    pub fn read(&self, handle: u32, request: &SnapshotRequest) -> Result<Vec<Chunk>, SnapshotError> {
        let mut chunks = Vec::new();
        self.for_each_chunk(request, |offset, chunk| {
            chunks.push(Chunk::new(handle, &request.snapshot, offset, chunk));
        })?;
        Ok(chunks)
    }

    /// Reads the same as [`Self::read`] as it is.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn read_bytes(&self, request: &SnapshotRequest) -> Result<Vec<u8>, SnapshotError> {
        let mut bytes = Vec::new();
        self.for_each_chunk(request, |_, chunk| bytes.extend_from_slice(chunk))?;
        Ok(bytes)
    }

    fn for_each_chunk(
        &self,
        request: &SnapshotRequest,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<(), SnapshotError> {
        let (file, snapshot) = self.open(&request.document)?;
        if snapshot != request.snapshot || !request.offset.is_multiple_of(CHUNK_BYTES) {
            return Err(SnapshotError::Gone);
        }
        let header_bytes = (FIXED_BYTES + request.document.as_str().len() + CHECKSUM_BYTES) as u64;
        let mut buffer = vec![0; SNAPSHOT_CHUNK_BYTES_MAX + CHECKSUM_BYTES];
        let (mut offset, mut read_bytes) = (request.offset, 0);
        while offset < snapshot.total_bytes && (read_bytes < request.bytes_max || read_bytes == 0) {
            let bytes = usize::try_from(CHUNK_BYTES.min(snapshot.total_bytes - offset)).unwrap_or(0);
            let stored = buffer.get_mut(..bytes + CHECKSUM_BYTES).unwrap_or_default();
            let at = header_bytes + offset / CHUNK_BYTES * STORED_CHUNK_BYTES;
            file.read_exact_at(stored, at)
                .map_err(|source| SnapshotError::Io { path: self.path(&request.document), source })?;
            let whole = stored.split_last_chunk::<CHECKSUM_BYTES>().filter(|(chunk, checksum)| {
                u64::from_le_bytes(**checksum) == chunk_checksum(&snapshot.cursor, offset, chunk)
            });
            let Some((chunk, _)) = whole else {
                let what = "a chunk's checksum does not match its bytes";
                return Err(SnapshotError::Damaged { path: self.path(&request.document), what });
            };
            each(offset, chunk);
            offset += bytes as u64;
            read_bytes += bytes;
        }
        Ok(())
    }

    /// Removes what is stored of a document.
    pub fn remove(&self, document: &DocumentId) {
        let path = self.path(document);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove the snapshot {}: {error}", path.display());
            }
            _ => {}
        }
    }

    /// Begins to cut a snapshot of a document's log up to a place.
    pub fn cut(&self, document: DocumentId, through: Cursor) -> Cut {
        Cut { snapshots: self.clone(), document, through, seq: 0, covered_bytes: 0, writer: None }
    }
}

/// Bytes of so many bytes with their checksums.
fn stored_bytes(total_bytes: u64) -> u64 {
    total_bytes.saturating_add(total_bytes.div_ceil(CHUNK_BYTES) * CHECKSUM_BYTES as u64)
}

fn chunk_checksum(cursor: &Cursor, offset: u64, bytes: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&cursor.chain);
    hash.update(&offset.to_le_bytes());
    hash.update(bytes);
    hash.digest()
}

fn encode(id: DirectoryId, document: &DocumentId, snapshot: &Snapshot) -> Vec<u8> {
    let name = document.as_str().as_bytes();
    let mut out = Vec::with_capacity(FIXED_BYTES + name.len() + CHECKSUM_BYTES);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&id.0);
    out.extend_from_slice(&snapshot.cursor.epoch.to_le_bytes());
    out.extend_from_slice(&snapshot.cursor.seq.to_le_bytes());
    out.extend_from_slice(&snapshot.cursor.chain);
    out.extend_from_slice(&snapshot.total_bytes.to_le_bytes());
    out.extend_from_slice(&snapshot.covered_bytes.to_le_bytes());
    // A document's name has 256 bytes at the most.
    out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(name);
    let checksum = xxh3_64(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

fn decode(id: DirectoryId, document: &DocumentId, header: &[u8]) -> Option<Snapshot> {
    let (body, checksum) = header.split_last_chunk::<CHECKSUM_BYTES>()?;
    let mut fields = Fields::new(body);
    let is_ours = xxh3_64(body) == u64::from_le_bytes(*checksum)
        && fields.take(4)? == MAGIC
        && fields.u8()? == VERSION
        && fields.take(16)? == id.0;
    is_ours.then_some(())?;
    let (epoch, seq) = (fields.u64()?, fields.u64()?);
    let chain = fields.take(32)?.try_into().ok()?;
    let (total_bytes, covered_bytes) = (fields.u64()?, fields.u64()?);
    let name_bytes = usize::from(fields.u16()?);
    (fields.take(name_bytes)? == document.as_str().as_bytes() && fields.left() == 0).then_some(())?;
    Some(Snapshot { cursor: Cursor { epoch, seq, chain }, total_bytes, covered_bytes })
}

/// A snapshot that is being cut, in bounded steps.
#[derive(Debug)]
pub struct Cut {
    snapshots: Snapshots,
    document: DocumentId,
    through: Cursor,
    seq: u64,
    covered_bytes: u64,
    writer: Option<SnapshotWriter>,
}

impl Cut {
    /// Goes on; `None` until the snapshot is in its place.
    ///
    /// # Errors
    /// What the log says, or that the file cannot be written. What was written of it is removed.
    pub fn step(&mut self, log: &Reader) -> Result<Option<Snapshot>, LogError> {
        let failed = |error: io::Error| LogError::Unavailable {
            why: format!("cannot write a snapshot of {}: {error}", self.document),
        };
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => SnapshotWriter::create(&self.snapshots, &self.document, self.through).map_err(failed)?,
        };
        let (epoch, through_seq) = (self.through.epoch, self.through.seq);
        let records = log.read(&self.document, epoch, self.seq, through_seq, CUT_STEP_BYTES_MAX)?;
        for record in &records {
            writer.write(&record.change).map_err(failed)?;
            self.covered_bytes += record.change.len() as u64;
        }
        let Some(last) = records.last() else {
            let why = format!("the log of {} ends before position {through_seq}", self.document);
            return Err(LogError::Unavailable { why });
        };
        self.seq = last.seq;
        if last.seq < through_seq {
            self.writer = Some(writer);
            return Ok(None);
        }
        if last.chain != ChainHash(self.through.chain) {
            let (document, what) = (self.document.clone(), "another history stands there".to_owned());
            return Err(LogError::Damaged { document, seq: last.seq, what });
        }
        writer.finish(self.covered_bytes).map(Some).map_err(failed)
    }
}

/// Writes a snapshot's bytes, wherever they come from.
#[derive(Debug)]
struct SnapshotWriter {
    file: BufWriter<File>,
    path: PathBuf,
    new_path: PathBuf,
    id: DirectoryId,
    document: DocumentId,
    cursor: Cursor,
    chunk: Vec<u8>,
    offset: u64,
    is_done: bool,
}

impl SnapshotWriter {
    fn create(snapshots: &Snapshots, document: &DocumentId, cursor: Cursor) -> io::Result<Self> {
        fs::create_dir_all(&snapshots.directory)?;
        let path = snapshots.path(document);
        let new_path = path.with_extension("new");
        let mut file = BufWriter::new(File::create(&new_path)?);
        // Its place is kept; what stands there is known in the end.
        let nothing = Snapshot { cursor, total_bytes: 0, covered_bytes: 0 };
        file.write_all(&vec![0; encode(snapshots.id, document, &nothing).len()])?;
        let (id, document) = (snapshots.id, document.clone());
        let chunk = Vec::with_capacity(SNAPSHOT_CHUNK_BYTES_MAX);
        Ok(Self { file, path, new_path, id, document, cursor, chunk, offset: 0, is_done: false })
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = SNAPSHOT_CHUNK_BYTES_MAX - self.chunk.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == SNAPSHOT_CHUNK_BYTES_MAX {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        let disk = rustix::fs::fstatvfs(self.file.get_ref())?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < CUT_ROOM_BYTES_MIN {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let checksum = chunk_checksum(&self.cursor, self.offset, &self.chunk);
        self.file.write_all(&self.chunk)?;
        self.file.write_all(&checksum.to_le_bytes())?;
        self.offset += self.chunk.len() as u64;
        self.chunk.clear();
        Ok(())
    }

    /// Puts the snapshot in its place; from now on it can be read.
    fn finish(mut self, covered_bytes: u64) -> io::Result<Snapshot> {
        if !self.chunk.is_empty() {
            self.end_chunk()?;
        }
        let snapshot = Snapshot { cursor: self.cursor, total_bytes: self.offset, covered_bytes };
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&encode(self.id, &self.document, &snapshot))?;
        self.file.flush()?;
        fs::rename(&self.new_path, &self.path)?;
        self.is_done = true;
        Ok(snapshot)
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.is_done {
            // It was never to be read; should it stay, the next cut writes over it.
            drop(fs::remove_file(&self.new_path));
        }
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
