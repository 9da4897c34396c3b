//! The rows of the database: keyspaces, keys and the small values. Records themselves are the engine's.
//!
//! Every value carries a checksum over its key as well, so that a row which turns up in another place does
//! not pass. Document names hold no control characters, so the zero byte behind a name keeps the rows of a
//! document apart from those of a document whose name begins with it.

use etherply_engine::change::{ActorId, ChangeHash};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{EXCLUDED_ACTORS_MAX, Found, Past};
use xxhash_rust::xxh3::Xxh3;

use super::fields::{Fields, put};
use super::index::is_index;

/// Number of a keyspace in the journal; fixed by the order of creation in a new data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum KeyspaceId {
    /// document, epoch, seq → record, or the index row that took its place.
    Changes = 1,
    /// document, epoch, hash → position.
    Hashes = 2,
    /// document → [`Head`], and document, 0, `past` → what [`encode_past`] makes, where there is something.
    Documents = 3,
    /// [`COMMIT_KEY`] → [`CommitRow`]; [`anchor_key`]s; [`deleted_key`]s; [`retired_key`] → [`Retired`].
    Meta = 4,
}

impl KeyspaceId {
    /// All keyspaces, in the order of their creation.
    pub const ALL: [Self; 4] = [Self::Changes, Self::Hashes, Self::Documents, Self::Meta];

    /// The keyspace's name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Hashes => "hashes",
            Self::Documents => "documents",
            Self::Meta => "meta",
        }
    }
}

/// Key of the row that every batch writes.
pub const COMMIT_KEY: &[u8] = b"commit";
/// How keys of [`retired_key`] begin.
pub const RETIRED_PREFIX: &[u8] = b"retired\0";
/// Key of a row without a meaning, by which a batch that has nothing else for a keyspace writes to it. It
/// stands before every document's rows.
pub const FILLER_KEY: &[u8] = &[0];
/// How keys of [`deleted_key`] begin.
pub const DELETED_PREFIX: &[u8] = b"deleted\0";
/// Flag of a [`Head`]: the document was deleted.
const FLAG_DELETED: u8 = 1;
const ANCHOR_PREFIX: &[u8] = b"anchor\0";
/// Bytes of an encoded [`CommitRow`].
pub const COMMIT_ROW_BYTES: usize = 1 + 8 + 8 + 8 + 8 + 4 + 4;
const COMMIT_ROW_VERSION: u8 = 1;
const HEAD_VERSION: u8 = 1;
const PAST_VERSION: u8 = 1;
const RETIRED_VERSION: u8 = 1;
const PAST_SUFFIX: &[u8] = b"past";
const HEAD_BYTES: usize = 1 + 1 + 8 + 8 + 4;
const FOUND_BYTES: usize = 8 + 8 + 4;

/// Random bytes that a data directory gets when it is created. They go into the checksums of commits, so
/// that a ledger or a journal from another directory, or one that a client made up, does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryId(pub [u8; 16]);

fn document_prefix(document: &DocumentId, room: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(document.as_str().len() + 1 + room);
    key.extend_from_slice(document.as_str().as_bytes());
    key.push(0);
    key
}

/// Between these keys lie all rows of a document in [`KeyspaceId::Changes`] and [`KeyspaceId::Hashes`]: behind its
/// name and a zero byte.
pub fn rows_of_document(document: &DocumentId) -> std::ops::Range<Vec<u8>> {
    let start = document_prefix(document, 0);
    let mut end = start.clone();
    if let Some(last) = end.last_mut() {
        *last = 1;
    }
    start..end
}

/// Key of the row in [`KeyspaceId::Meta`] that stands there while rows of a deleted document are left.
pub fn deleted_key(document: &DocumentId) -> Vec<u8> {
    [DELETED_PREFIX, document.as_str().as_bytes()].concat()
}

/// The document of a [`deleted_key`].
pub fn document_of_deleted_key(key: &[u8]) -> Option<DocumentId> {
    let name = key.strip_prefix(DELETED_PREFIX)?;
    DocumentId::new(std::str::from_utf8(name).ok()?).ok()
}

/// Key of a record.
pub fn change_key(document: &DocumentId, epoch: u64, seq: u64) -> Vec<u8> {
    let mut key = document_prefix(document, 16);
    key.extend_from_slice(&epoch.to_be_bytes());
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

/// The parts of a record's key: document, epoch, seq. `None` if it is not one.
pub fn parse_change_key(key: &[u8]) -> Option<(DocumentId, u64, u64)> {
    let (rest, seq) = key.split_last_chunk::<8>()?;
    let (rest, epoch) = rest.split_last_chunk::<8>()?;
    let (&0, name) = rest.split_last()? else { return None };
    let document = DocumentId::new(std::str::from_utf8(name).ok()?).ok()?;
    Some((document, u64::from_be_bytes(*epoch), u64::from_be_bytes(*seq)))
}

/// Key of a change's position.
pub fn hash_key(document: &DocumentId, epoch: u64, hash: &ChangeHash) -> Vec<u8> {
    let mut key = document_prefix(document, 40);
    key.extend_from_slice(&epoch.to_be_bytes());
    key.extend_from_slice(&hash.0);
    key
}

/// Key of the row that anchors an epoch of a document in its snapshot, in [`KeyspaceId::Meta`].
pub fn anchor_key(document: &DocumentId, epoch: u64) -> Vec<u8> {
    let name = document.as_str().as_bytes();
    [ANCHOR_PREFIX, name, &[0], &epoch.to_be_bytes()].concat()
}

/// The parts of such a key: document and epoch. `None` if it is not one.
pub fn parse_anchor_key(key: &[u8]) -> Option<(DocumentId, u64)> {
    let (rest, epoch) = key.strip_prefix(ANCHOR_PREFIX)?.split_last_chunk::<8>()?;
    let (&0, name) = rest.split_last()? else { return None };
    let document = DocumentId::new(std::str::from_utf8(name).ok()?).ok()?;
    Some((document, u64::from_be_bytes(*epoch)))
}

/// Whether a row of [`KeyspaceId::Changes`] counts as a record of its commit, and is not what took the place of
/// one.
pub fn is_record(key: &[u8], value: &[u8]) -> bool {
    key != FILLER_KEY && !is_index(value)
}

/// The parts of such a key: document, epoch, hash. `None` if it is not one.
pub fn parse_hash_key(key: &[u8]) -> Option<(DocumentId, u64, ChangeHash)> {
    let (rest, hash) = key.split_last_chunk::<32>()?;
    let (rest, epoch) = rest.split_last_chunk::<8>()?;
    let (&0, name) = rest.split_last()? else { return None };
    let document = DocumentId::new(std::str::from_utf8(name).ok()?).ok()?;
    Some((document, u64::from_be_bytes(*epoch), ChangeHash(*hash)))
}

/// The value at [`hash_key`].
pub fn encode_found(key: &[u8], found: Found) -> [u8; FOUND_BYTES] {
    let mut out = [0; FOUND_BYTES];
    put(&mut out, &[&found.seq.to_le_bytes(), &found.max_op.to_le_bytes()]);
    seal(&mut out, key);
    out
}

/// Reads [`encode_found`] back; `None` if the bytes are not what was written.
pub fn decode_found(key: &[u8], stored: &[u8]) -> Option<Found> {
    let mut fields = Fields::new(unseal::<FOUND_BYTES>(stored, key)?);
    Some(Found { seq: fields.u64()?, max_op: fields.u64()? })
}

/// Key of what a document's earlier epochs left behind. It is no document's name, because of the zero byte.
pub fn past_key(document: &DocumentId) -> Vec<u8> {
    let mut key = document_prefix(document, PAST_SUFFIX.len());
    key.extend_from_slice(PAST_SUFFIX);
    key
}

/// Whether a key of [`KeyspaceId::Documents`] is one of [`past_key`], or [`FILLER_KEY`], and no document's name.
pub fn is_past_key(key: &[u8]) -> bool {
    key.contains(&0)
}

/// Key of the row that names epochs which a document has left behind, by the first of them, in [`KeyspaceId::Meta`].
pub fn retired_key(document: &DocumentId, first_epoch: u64) -> Vec<u8> {
    let name = document.as_str().as_bytes();
    [RETIRED_PREFIX, name, &[0], &first_epoch.to_be_bytes()].concat()
}

/// Epochs that a document has left behind: all from the first to the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// The document.
    pub document: DocumentId,
    /// The first of them.
    pub first_epoch: u64,
    /// The last of them.
    pub last_epoch: u64,
    /// When the document got the next one, in milliseconds since 1970.
    pub time_ms: u64,
}

impl Retired {
    /// The value at [`retired_key`]: `u8 version | u64 last epoch | u64 time | u32 crc32`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![RETIRED_VERSION];
        out.extend_from_slice(&self.last_epoch.to_le_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        seal(&mut out, &retired_key(&self.document, self.first_epoch));
        out
    }

    /// Reads a row; `None` if it is not what was written.
    pub fn decode(key: &[u8], stored: &[u8]) -> Option<Self> {
        let (rest, first_epoch) = key.strip_prefix(RETIRED_PREFIX)?.split_last_chunk::<8>()?;
        let (&0, name) = rest.split_last()? else { return None };
        let document = DocumentId::new(std::str::from_utf8(name).ok()?).ok()?;
        let (body, crc) = stored.split_last_chunk::<4>()?;
        (u32::from_le_bytes(*crc) == checksum(key, body)).then_some(())?;
        let mut fields = Fields::new(body);
        (fields.u8()? == RETIRED_VERSION).then_some(())?;
        let (last_epoch, time_ms) = (fields.u64()?, fields.u64()?);
        let first_epoch = u64::from_be_bytes(*first_epoch);
        (fields.left() == 0).then_some(Self { document, first_epoch, last_epoch, time_ms })
    }
}

/// The value at [`past_key`]: `u8 version | u64 reset epoch | u16 actors | each: u8 length, bytes | u32 crc32`.
/// Actors beyond [`EXCLUDED_ACTORS_MAX`] are left out, the first of them first.
pub fn encode_past(key: &[u8], past: &Past) -> Vec<u8> {
    let too_many = past.excluded.len().saturating_sub(EXCLUDED_ACTORS_MAX);
    let excluded = past.excluded.get(too_many..).unwrap_or_default();
    let mut out = vec![PAST_VERSION];
    out.extend_from_slice(&past.reset_epoch.to_le_bytes());
    out.extend_from_slice(&u16::try_from(excluded.len()).unwrap_or(u16::MAX).to_le_bytes());
    for actor in excluded {
        // An actor has 64 bytes at the most.
        out.push(u8::try_from(actor.as_bytes().len()).unwrap_or(u8::MAX));
        out.extend_from_slice(actor.as_bytes());
    }
    out.extend_from_slice(&[0; 4]);
    seal(&mut out, key);
    out
}

/// Reads [`encode_past`] back; `None` if the bytes are not what was written.
pub fn decode_past(key: &[u8], stored: &[u8]) -> Option<Past> {
    let (body, crc) = stored.split_last_chunk::<4>()?;
    (u32::from_le_bytes(*crc) == checksum(key, body)).then_some(())?;
    let mut fields = Fields::new(body);
    (fields.u8()? == PAST_VERSION).then_some(())?;
    let reset_epoch = fields.u64()?;
    let actors = usize::from(fields.u16()?);
    let mut excluded = Vec::with_capacity(actors.min(EXCLUDED_ACTORS_MAX));
    for _ in 0..actors {
        let length = usize::from(fields.u8()?);
        excluded.push(ActorId::from_slice(fields.take(length)?).ok()?);
    }
    (fields.left() == 0).then_some(Past { reset_epoch, excluded })
}

/// What stands at a document's name: its current epoch and how far its log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The current epoch.
    pub epoch: u64,
    /// Position of the last record of that epoch.
    pub last_seq: u64,
    /// Whether this is a tombstone; other bits are 0 so far.
    pub flags: u8,
}

impl Head {
    /// Whether the document was deleted.
    pub fn is_deleted(&self) -> bool {
        self.flags & FLAG_DELETED != 0
    }

    /// The tombstone that takes this head's place.
    #[must_use]
    pub fn deleted(self) -> Self {
        Self { flags: self.flags | FLAG_DELETED, ..self }
    }

    /// The row's bytes.
    pub fn encode(&self, document: &DocumentId) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        put(
            &mut out,
            &[&[HEAD_VERSION, self.flags], &self.epoch.to_le_bytes(), &self.last_seq.to_le_bytes()],
        );
        seal(&mut out, document.as_str().as_bytes());
        out
    }

    /// Reads a row back; `None` if the bytes are not what was written.
    pub fn decode(document: &DocumentId, stored: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(unseal::<HEAD_BYTES>(stored, document.as_str().as_bytes())?);
        let (version, flags) = (fields.u8()?, fields.u8()?);
        (version == HEAD_VERSION).then_some(())?;
        Some(Self { flags, epoch: fields.u64()?, last_seq: fields.u64()? })
    }
}

/// The row that every commit writes: which commit this is, and what came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitRow {
    /// Number of the commit; the first one has 1, each next one 1 more. 0: nothing was committed yet.
    pub commit: u64,
    /// Rows of [`KeyspaceId::Changes`] that all commits up to this one set: records, and [`FILLER_KEY`].
    pub total_records: u64,
    /// Records in this commit: see [`is_record`].
    pub records: u32,
    /// Chain over all such rows committed so far: see [`Lineage`].
    pub lineage: u64,
    /// The database's sequence number of the batch before, plus 1; 0 for the first. The journal's checksums do
    /// not cover that number and recovery skips batches by it, so it has to be known from elsewhere.
    pub seqno_min: u64,
}

impl CommitRow {
    /// The row's bytes.
    pub fn encode(&self, id: DirectoryId) -> [u8; COMMIT_ROW_BYTES] {
        let mut out = [0; COMMIT_ROW_BYTES];
        put(
            &mut out,
            &[
                &[COMMIT_ROW_VERSION],
                &self.commit.to_le_bytes(),
                &self.total_records.to_le_bytes(),
                &self.lineage.to_le_bytes(),
                &self.seqno_min.to_le_bytes(),
                &self.records.to_le_bytes(),
            ],
        );
        seal(&mut out, &id.0);
        out
    }

    /// Reads a row back; `None` if the bytes are not what this directory's server wrote.
    pub fn decode(id: DirectoryId, stored: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(unseal::<COMMIT_ROW_BYTES>(stored, &id.0)?);
        (fields.u8()? == COMMIT_ROW_VERSION).then_some(())?;
        Some(Self {
            commit: fields.u64()?,
            total_records: fields.u64()?,
            lineage: fields.u64()?,
            seqno_min: fields.u64()?,
            records: fields.u32()?,
        })
    }
}

/// Chain over the records of all commits, and the rows that took their place: `lineage(n) = xxh3(lineage(n-1), for
/// each row its key and its checksum)`. Two directories whose commit `n` has the same lineage hold the same records
/// up to there.
pub struct Lineage(Xxh3);

impl Lineage {
    /// Begins the next commit's value.
    pub fn after(previous: u64) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&previous.to_le_bytes());
        Self(hash)
    }

    /// Takes in one record: its key, and its stored bytes, which begin with their checksum.
    pub fn record(&mut self, key: &[u8], stored: &[u8]) {
        self.0.update(key);
        self.0.update(stored.get(..4).unwrap_or(stored));
    }

    /// The value.
    pub fn finish(self) -> u64 {
        self.0.digest()
    }
}

/// Checksum over a row and its place.
pub fn checksum(place: &[u8], bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(place);
    crc.update(bytes);
    crc.finalize()
}

/// Writes the checksum into the last four bytes.
pub fn seal(out: &mut [u8], place: &[u8]) {
    if let Some((body, crc)) = out.split_last_chunk_mut::<4>() {
        *crc = checksum(place, body).to_le_bytes();
    }
}

/// The bytes before the checksum, if there are `N` bytes in all and the checksum fits.
pub fn unseal<'a, const N: usize>(stored: &'a [u8], place: &[u8]) -> Option<&'a [u8]> {
    let (body, crc) = stored.split_last_chunk::<4>()?;
    (stored.len() == N && u32::from_le_bytes(*crc) == checksum(place, body)).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(name: &str) -> DocumentId {
        DocumentId::new(name).unwrap()
    }

    #[test]
    fn a_change_key_reads_back_and_sorts_by_document_epoch_seq() {
        let keys: Vec<_> =
            [("a", 1, 1), ("a", 1, 0xff), ("a", 1, 0x100), ("a", 2, 1), ("ab", 1, 1), ("ÿ", 0, 0)]
                .into_iter()
                .map(|(name, epoch, seq)| {
                    let key = change_key(&document(name), epoch, seq);
                    assert_eq!(parse_change_key(&key), Some((document(name), epoch, seq)));
                    key
                })
                .collect();
        assert!(keys.is_sorted());
    }

    #[test]
    fn what_is_not_a_change_key_does_not_parse() {
        let key = change_key(&document("a"), u64::MAX, u64::MAX);
        for len in 0..key.len() {
            assert_eq!(parse_change_key(&key[..len]), None, "length {len}");
        }
        assert_eq!(parse_change_key(&[0; 17]), None, "no name");
    }

    #[test]
    fn of_too_many_excluded_actors_the_first_are_forgotten() {
        let key = past_key(&document("a"));
        let actor = |n: usize| ActorId::from_slice(&n.to_be_bytes()).unwrap();
        for count in [EXCLUDED_ACTORS_MAX - 1, EXCLUDED_ACTORS_MAX, EXCLUDED_ACTORS_MAX + 1] {
            let past = Past { reset_epoch: 2, excluded: (0..count).map(actor).collect() };
            let kept = decode_past(&key, &encode_past(&key, &past)).unwrap();
            assert_eq!(kept.excluded.len(), count.min(EXCLUDED_ACTORS_MAX));
            assert_eq!(kept.excluded.last(), Some(&actor(count - 1)));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_value_is_noticed() {
        let id = DirectoryId([7; 16]);
        let row = CommitRow { commit: 3, total_records: 9, records: 2, lineage: 5, seqno_min: 8 };
        assert_eq!(CommitRow::decode(id, &row.encode(id)), Some(row));
        assert_eq!(CommitRow::decode(DirectoryId([8; 16]), &row.encode(id)), None);
        let head = Head { epoch: 2, last_seq: 11, flags: 0 };
        let a = document("a");
        assert_eq!(Head::decode(&a, &head.encode(&a)), Some(head));
        assert_eq!(Head::decode(&document("b"), &head.encode(&a)), None);
        let found = Found { seq: 4, max_op: 77 };
        let key = hash_key(&a, 1, &ChangeHash([0xff; 32]));
        assert_eq!(decode_found(&key, &encode_found(&key, found)), Some(found));

        for bit in 0..COMMIT_ROW_BYTES * 8 {
            let mut bad = row.encode(id);
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(CommitRow::decode(id, &bad), None);
        }
        for bit in 0..HEAD_BYTES * 8 {
            let mut bad = head.encode(&a);
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&a, &bad), None);
        }
        let key = past_key(&a);
        assert!(is_past_key(&key) && !is_past_key(a.as_str().as_bytes()));
        let excluded = [[1; 16], [2; 16]].map(|bytes| ActorId::from_slice(&bytes).unwrap()).to_vec();
        let past = Past { reset_epoch: 3, excluded };
        let stored = encode_past(&key, &past);
        assert_eq!(decode_past(&key, &stored), Some(past));
        assert_eq!(decode_past(&past_key(&document("b")), &stored), None);
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_past(&key, &bad), None);
        }
        let found = Found { seq: 4, max_op: 77 };
        let key = hash_key(&a, 1, &ChangeHash([0xff; 32]));
        for bit in 0..FOUND_BYTES * 8 {
            let mut bad = encode_found(&key, found);
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_found(&key, &bad), None);
        }
    }
}
