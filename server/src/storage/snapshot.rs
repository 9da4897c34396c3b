//! Snapshots on disk: files beside the database, each with a document up to a position of its log.
//!
//! A snapshot takes the place of the records that it covers, so it is as much of the data as those were: written
//! beside the one in use, synced (file, name, directory), and only then named by the anchor in the database
//! ([`super::anchor`]), whose commit makes it the document's. The file before stays until then. A file that no
//! anchor names is left over from an interrupted start: the next snapshot of its document writes over it. A file
//! that an anchor names and that is missing, torn or other than what was written is damage of that document: no
//! part is served unless its checksum is right.
//!
//! Layout, little-endian: `"EPSN" | u8 version | directory id × 16 | u64 epoch | u64 seq | chain × 32 |
//! u64 bytes | u64 bytes covered | u64 xxh3 of the bytes | u16 length of name | name | u64 xxh3`, then chunks of
//! [`SNAPSHOT_CHUNK_BYTES_MAX`] bytes, the last one shorter, each followed by the xxh3 of its cursor's chain, its
//! offset and its bytes. The bytes are what Automerge's `save` made.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use etherply_engine::ids::DocumentId;
use etherply_engine::log::LogError;
use etherply_engine::snapshot::{Chunk, Snapshot, SnapshotRequest};
use etherply_wire::kinds::Cursor;
use etherply_wire::limits::{DOCUMENT_ID_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_MAX};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::anchor::{AnchorRow, Slot};
use super::directory::{make_directory, sync_directory};
use super::error::advice;
use super::fields::Fields;
use super::keys::DirectoryId;
use super::reader::Reader;
use super::versions::Versions;

/// The directory of snapshots in a data directory.
pub const SNAPSHOTS_DIRECTORY: &str = "snapshots";
const MAGIC: [u8; 4] = *b"EPSN";
const VERSION: u8 = 1;
const FIXED_BYTES: usize = 4 + 1 + 16 + 8 + 8 + 32 + 8 + 8 + 8 + 2;
const CHECKSUM_BYTES: usize = 8;
const CHUNK_BYTES: u64 = SNAPSHOT_CHUNK_BYTES_MAX as u64;
const STORED_CHUNK_BYTES: u64 = CHUNK_BYTES + CHECKSUM_BYTES as u64;
/// Bytes that stay free on the disk: a new snapshot must not take the log's last room.
pub const SNAPSHOT_ROOM_BYTES_MIN: u64 = 512 * 1024 * 1024;

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file is missing, or its bytes are not what was written.
    #[error("the snapshot {} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read the snapshot {}: {source}: {}", path.display(), advice(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SnapshotError {
    /// As the log says it of a document.
    fn of(self, document: &DocumentId) -> LogError {
        match self {
            Self::Damaged { .. } => LogError::damaged(document, 1, self.to_string()),
            Self::Io { .. } => LogError::Unavailable { why: self.to_string() },
        }
    }
}

/// The snapshot files of a data directory.
#[derive(Debug, Clone)]
pub struct Snapshots {
    directory: PathBuf,
    id: DirectoryId,
    /// Held for reading by whoever needs the files to stay, for writing by whoever changes one.
    hold: Arc<RwLock<()>>,
}

/// What a file says of itself in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    cursor: Cursor,
    total_bytes: u64,
    covered_bytes: u64,
    checksum: u64,
}

impl Header {
    fn of(anchor: &AnchorRow) -> Self {
        let Snapshot { cursor, total_bytes, covered_bytes, .. } = anchor.anchor.snapshot;
        Self { cursor, total_bytes, covered_bytes, checksum: anchor.checksum }
    }
}

impl Snapshots {
    /// Those of the data directory at `path`. Nothing is read or made yet.
    pub fn new(path: &Path, id: DirectoryId) -> Self {
        Self { directory: path.join(SNAPSHOTS_DIRECTORY), id, hold: Arc::default() }
    }

    /// The named versions beside them.
    pub fn versions(&self) -> Versions {
        Versions::new(self.directory.parent().unwrap_or(&self.directory))
    }

    /// Keeps every file as it is until this is let go, for whoever reads many of them as of one commit: meanwhile
    /// none is written or removed. Waits for one that is being written.
    pub fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.hold.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to change files, unless somebody holds them.
    fn change(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match self.hold.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The file of one of a document's slots.
    pub fn path(&self, document: &DocumentId, slot: Slot) -> PathBuf {
        // Names have characters that file names have not, and whoever chooses names must not find two with one
        // file. Spread over directories, because a million entries in one make some file systems slow.
        let hash: [u8; 32] = Sha256::digest(document.as_str()).into();
        let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let suffix = match slot {
            Slot::A => "a",
            Slot::B => "b",
        };
        self.directory.join(hex.get(..2).unwrap_or_default()).join(format!("{hex}.{suffix}"))
    }

    /// Opens the file that an anchor names, and checks all but its chunks.
    fn open(&self, document: &DocumentId, anchor: &AnchorRow) -> Result<(File, PathBuf), SnapshotError> {
        let path = self.path(document, anchor.slot);
        let io_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => SnapshotError::Damaged { path: path.clone(), what: "it is missing" },
            _ => SnapshotError::Io { path: path.clone(), source },
        };
        let damaged = |what| SnapshotError::Damaged { path: path.clone(), what };
        let file = File::open(&path).map_err(io_error)?;
        let mut header = Vec::with_capacity(FIXED_BYTES + DOCUMENT_ID_BYTES_MAX + CHECKSUM_BYTES);
        let header_bytes = header_bytes(document);
        (&file).take(header_bytes).read_to_end(&mut header).map_err(io_error)?;
        let found = decode(self.id, document, &header)
            .ok_or_else(|| damaged("its header is not what was written"))?;
        if found != Header::of(anchor) {
            return Err(damaged("it is another one than the document's"));
        }
        let bytes = file.metadata().map_err(io_error)?.len();
        if bytes != header_bytes + stored_bytes(found.total_bytes) {
            return Err(damaged("its length is not what was written"));
        }
        Ok((file, path))
    }

    /// Reads chunks from an offset on, at least one if there is one, then as many as stay within `bytes_max`.
    fn for_each_chunk(
        &self,
        document: &DocumentId,
        anchor: &AnchorRow,
        (from, bytes_max): (u64, usize),
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<(), SnapshotError> {
        let (file, path) = self.open(document, anchor)?;
        let Snapshot { cursor, total_bytes, .. } = anchor.anchor.snapshot;
        let (header_bytes, mut read_bytes) = (header_bytes(document), 0);
        let mut offset = from / CHUNK_BYTES * CHUNK_BYTES;
        let mut buffer = vec![0; SNAPSHOT_CHUNK_BYTES_MAX + CHECKSUM_BYTES];
        while offset < total_bytes && (read_bytes < bytes_max || read_bytes == 0) {
            let bytes = usize::try_from(CHUNK_BYTES.min(total_bytes - offset)).unwrap_or(0);
            let stored = buffer.get_mut(..bytes + CHECKSUM_BYTES).unwrap_or_default();
            let at = header_bytes + offset / CHUNK_BYTES * STORED_CHUNK_BYTES;
            file.read_exact_at(stored, at)
                .map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
            let whole = stored.split_last_chunk::<CHECKSUM_BYTES>().filter(|(chunk, checksum)| {
                u64::from_le_bytes(**checksum) == chunk_checksum(&cursor, offset, chunk)
            });
            let Some((chunk, _)) = whole else {
                let what = "a chunk's checksum does not match its bytes";
                return Err(SnapshotError::Damaged { path, what });
            };
            each(offset, chunk);
            offset += bytes as u64;
            read_bytes += bytes;
        }
        Ok(())
    }

    /// The whole of a snapshot, proven to be what was written.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if it is not, or missing; [`LogError::Unavailable`] if it cannot be read.
    pub fn read_whole(&self, document: &DocumentId, anchor: &AnchorRow) -> Result<Vec<u8>, LogError> {
        let mut whole = Vec::new();
        self.for_each_chunk(document, anchor, (0, usize::MAX), |_, chunk| whole.extend_from_slice(chunk))
            .map_err(|error| error.of(document))?;
        if xxh3_64(&whole) != anchor.checksum {
            let path = self.path(document, anchor.slot);
            let what = "its checksum does not match its bytes";
            return Err(SnapshotError::Damaged { path, what }.of(document));
        }
        Ok(whole)
    }

    /// Writes what a document's next anchor is to name, and returns when it will survive a power loss.
    ///
    /// # Errors
    /// What the system says, or that somebody holds the files; nothing that was there before is changed then.
    pub fn write(
        &self,
        document: &DocumentId,
        slot: Slot,
        (cursor, covered_bytes): (Cursor, u64),
        bytes: &[u8],
    ) -> Result<Written, LogError> {
        let Some(_changing) = self.change() else {
            let why = "a backup is being taken, and reads the snapshots of now".to_owned();
            return Err(LogError::Unavailable { why });
        };
        let path = self.path(document, slot);
        let directory = path.parent().unwrap_or(&self.directory);
        make_directory(directory).map_err(|error| LogError::Unavailable { why: error.to_string() })?;
        let (total_bytes, checksum) = (bytes.len() as u64, xxh3_64(bytes));
        let header = Header { cursor, total_bytes, covered_bytes, checksum };
        let new_path = path.with_extension(format!("{}.new", suffix(&path)));
        let written = self
            .write_file(document, header, bytes, (&new_path, &path))
            .and_then(|()| sync_directory(directory));
        match written {
            Ok(()) => Ok(Written { slot, total_bytes, checksum }),
            Err(error) => {
                // It was never to be read; should it stay, the next one is written over it.
                drop(fs::remove_file(&new_path));
                let why =
                    format!("cannot write the snapshot {}: {error}: {}", path.display(), advice(&error));
                Err(LogError::Unavailable { why })
            }
        }
    }

    fn write_file(
        &self,
        document: &DocumentId,
        header: Header,
        bytes: &[u8],
        (new_path, path): (&Path, &Path),
    ) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(new_path)?);
        let disk = rustix::fs::fstatvfs(file.get_ref())?;
        let room = disk.f_bavail.saturating_mul(disk.f_frsize);
        if room.saturating_sub(stored_bytes(header.total_bytes)) < SNAPSHOT_ROOM_BYTES_MIN {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all(&encode(self.id, document, &header))?;
        let mut offset = 0;
        for chunk in bytes.chunks(SNAPSHOT_CHUNK_BYTES_MAX) {
            file.write_all(chunk)?;
            file.write_all(&chunk_checksum(&header.cursor, offset, chunk).to_le_bytes())?;
            offset += chunk.len() as u64;
        }
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(new_path, path)
    }

    /// Removes the file that no anchor names any more, as far as that is possible. Whether nobody holds it.
    pub fn remove(&self, document: &DocumentId, slot: Slot) -> bool {
        let Some(_changing) = self.change() else { return false };
        let path = self.path(document, slot);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("a snapshot that is not needed any more stays: {}: {error}", path.display());
            }
            _ => {}
        }
        true
    }
}

/// A snapshot that is on disk, for its anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub slot: Slot,
    /// Its bytes, without what the file adds.
    pub total_bytes: u64,
    /// Their checksum.
    pub checksum: u64,
}

/// What came of reading a piece of a snapshot.
#[derive(Debug)]
pub enum SnapshotRead {
    /// The chunks.
    Chunks(Vec<Chunk>),
    /// This one took its place.
    Replaced(Snapshot),
}

impl Reader {
    /// What an epoch of a document begins with; its snapshot is there, as far as a look at its header tells.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if the row or the file is not what was written.
    pub fn checked_anchor(&self, document: &DocumentId, epoch: u64) -> Result<Option<AnchorRow>, LogError> {
        let Some(anchor) = self.anchor_row(document, epoch)? else { return Ok(None) };
        match self.snapshots().open(document, &anchor) {
            Ok(_) => Ok(Some(anchor)),
            // Between the look at the row and the one at the file, another one may have taken its place.
            Err(error) => match self.anchor_row(document, epoch)? {
                Some(newer) if newer != anchor => self.checked_anchor(document, epoch),
                Some(_) => Err(error.of(document)),
                None => Ok(None),
            },
        }
    }

    /// A document's snapshot with what anchors it, proven to be what was written; `None` if it has none.
    ///
    /// # Errors
    /// See [`Snapshots::read_whole`].
    pub fn snapshot(
        &self,
        document: &DocumentId,
        epoch: u64,
    ) -> Result<Option<(AnchorRow, Vec<u8>)>, LogError> {
        let Some(anchor) = self.anchor_row(document, epoch)? else { return Ok(None) };
        match self.snapshots().read_whole(document, &anchor) {
            Ok(bytes) => Ok(Some((anchor, bytes))),
            Err(error) => match self.anchor_row(document, epoch)? {
                Some(newer) if newer != anchor => self.snapshot(document, epoch),
                Some(_) => Err(error),
                None => Ok(None),
            },
        }
    }

    /// Reads the chunks that a feed asks for, encoded for the members of the document with this handle.
    ///
    /// # Errors
    /// See [`Snapshots::read_whole`]; then no chunk is handed out, not even those before the damage.
    pub fn read_snapshot(&self, handle: u32, request: &SnapshotRequest) -> Result<SnapshotRead, LogError> {
        let SnapshotRequest { document, snapshot, offset, bytes_max } = request;
        let stored = self.anchor_row(document, snapshot.cursor.epoch)?;
        let Some(anchor) = stored else {
            return Err(LogError::damaged(document, 1, "what ties it to its snapshot is missing"));
        };
        if anchor.anchor.snapshot != *snapshot {
            return Ok(SnapshotRead::Replaced(anchor.anchor.snapshot));
        }
        let mut chunks = Vec::new();
        let each = |offset, chunk: &[u8]| chunks.push(Chunk::new(handle, snapshot, offset, chunk));
        match self.snapshots().for_each_chunk(document, &anchor, (*offset, *bytes_max), each) {
            Ok(()) => Ok(SnapshotRead::Chunks(chunks)),
            Err(error) => match self.anchor_row(document, snapshot.cursor.epoch)? {
                Some(newer) if newer != anchor => Ok(SnapshotRead::Replaced(newer.anchor.snapshot)),
                _ => Err(error.of(document)),
            },
        }
    }
}

fn suffix(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn header_bytes(document: &DocumentId) -> u64 {
    (FIXED_BYTES + document.as_str().len() + CHECKSUM_BYTES) as u64
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

fn encode(id: DirectoryId, document: &DocumentId, header: &Header) -> Vec<u8> {
    let name = document.as_str().as_bytes();
    let mut out = Vec::with_capacity(FIXED_BYTES + name.len() + CHECKSUM_BYTES);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&id.0);
    out.extend_from_slice(&header.cursor.epoch.to_le_bytes());
    out.extend_from_slice(&header.cursor.seq.to_le_bytes());
    out.extend_from_slice(&header.cursor.chain);
    for field in [header.total_bytes, header.covered_bytes, header.checksum] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    // A document's name has 256 bytes at the most.
    out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(name);
    let checksum = xxh3_64(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

fn decode(id: DirectoryId, document: &DocumentId, header: &[u8]) -> Option<Header> {
    let (body, checksum) = header.split_last_chunk::<CHECKSUM_BYTES>()?;
    let mut fields = Fields::new(body);
    let is_ours = xxh3_64(body) == u64::from_le_bytes(*checksum)
        && fields.take(4)? == MAGIC
        && fields.u8()? == VERSION
        && fields.take(16)? == id.0;
    is_ours.then_some(())?;
    let (epoch, seq) = (fields.u64()?, fields.u64()?);
    let chain = fields.take(32)?.try_into().ok()?;
    let (total_bytes, covered_bytes, checksum) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let name_bytes = usize::from(fields.u16()?);
    (fields.take(name_bytes)? == document.as_str().as_bytes() && fields.left() == 0).then_some(())?;
    Some(Header { cursor: Cursor { epoch, seq, chain }, total_bytes, covered_bytes, checksum })
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
