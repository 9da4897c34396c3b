//! Index rows: what stays of a record for good once a snapshot covers it.
//!
//! They stand where the record stood, so that a position always has one row, and the history of a document is
//! read in one walk whether its changes are in the log or in a snapshot. What a change did is in the snapshot;
//! here is who brought it when, and what proves the log's order: its hash, and at every [`CHAIN_EVERY`]th
//! position the chain, from which the chain at any position follows.
//!
//! Layout, little-endian: `u32 crc32 | u8 version | u64 seq | u64 max op | u64 server time in ms | u64 actor's
//! seq | u32 bytes of the change | hash × 32 | u8 length of actor | u16 length of pusher | u8 1 if the chain
//! follows | actor | pusher | chain × 32`. The checksum is as a record's, over document and epoch as well, and
//! the version differs from every record's.

use std::sync::Arc;

use bytes::Bytes;
use etherply_engine::change::{ActorId, ChangeHash, ChangeLimits, parse_header};
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::LogError;
use etherply_engine::record::{PUSHER_BYTES_MAX, Record, checksum};

use super::fields::Fields;
use super::reader::Reader;

/// Version of the row's layout; records count from 1.
pub const INDEX_VERSION: u8 = 0x81;
/// Every so many positions, a row holds the chain.
pub const CHAIN_EVERY: u64 = 32;
/// Most rows that are read at once.
pub const INDEX_ROWS_MAX: usize = 4_096;

/// What is known of a change by its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRow {
    /// Its position.
    pub seq: u64,
    /// Its hash.
    pub hash: ChangeHash,
    /// Who wrote it.
    pub actor: ActorId,
    /// Its number among the author's changes.
    pub actor_seq: u64,
    /// Its highest operation counter.
    pub max_op: u64,
    /// When the server took it, in milliseconds since 1970.
    pub time_ms: u64,
    /// The subject that sent it, empty for an anonymous one.
    pub pusher: Arc<str>,
    /// How many bytes it has.
    pub change_bytes: u32,
    /// The chain up to and including it, at every [`CHAIN_EVERY`]th position.
    pub chain: Option<ChainHash>,
}

/// Whether the row at a position is an index row, and not a record.
pub fn is_index(stored: &[u8]) -> bool {
    stored.get(4) == Some(&INDEX_VERSION)
}

impl IndexRow {
    /// The row that takes a record's place; the error says what is wrong with its change.
    pub fn of(record: &Record) -> Result<Self, String> {
        let change =
            parse_header(&record.change, &ChangeLimits::DEFAULT).map_err(|error| error.to_string())?;
        if change.hash != record.hash {
            return Err("the change's hash is not the one in its record".to_owned());
        }
        Ok(Self {
            seq: record.seq,
            hash: record.hash,
            actor: change.actor_id(),
            actor_seq: change.seq,
            max_op: record.max_op,
            time_ms: record.time_ms,
            pusher: Arc::clone(&record.pusher),
            change_bytes: u32::try_from(record.change.len()).unwrap_or(u32::MAX),
            chain: record.seq.is_multiple_of(CHAIN_EVERY).then_some(record.chain),
        })
    }

    /// The row's bytes under its document and epoch.
    pub fn encode(&self, document: &DocumentId, epoch: u64) -> Vec<u8> {
        let (actor, pusher) = (self.actor.as_bytes(), self.pusher.as_bytes());
        let mut out = Vec::with_capacity(128 + actor.len() + pusher.len());
        out.extend_from_slice(&[0; 4]);
        out.push(INDEX_VERSION);
        for field in [self.seq, self.max_op, self.time_ms, self.actor_seq] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.change_bytes.to_le_bytes());
        out.extend_from_slice(&self.hash.0);
        // An actor has 64 bytes at the most, a pusher PUSHER_BYTES_MAX.
        out.push(u8::try_from(actor.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(&u16::try_from(pusher.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.push(u8::from(self.chain.is_some()));
        out.extend_from_slice(actor);
        out.extend_from_slice(pusher);
        if let Some(chain) = &self.chain {
            out.extend_from_slice(&chain.0);
        }
        if let Some((crc, rest)) = out.split_first_chunk_mut::<4>() {
            *crc = checksum(document, epoch, rest).to_le_bytes();
        }
        out
    }

    /// Reads a row back; `None` if the bytes are not what was written there.
    pub fn decode(stored: &[u8], document: &DocumentId, epoch: u64) -> Option<Self> {
        let (crc, rest) = stored.split_first_chunk::<4>()?;
        (checksum(document, epoch, rest) == u32::from_le_bytes(*crc)).then_some(())?;
        let mut fields = Fields::new(rest);
        (fields.u8()? == INDEX_VERSION).then_some(())?;
        let (seq, max_op, time_ms, actor_seq) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
        let change_bytes = fields.u32()?;
        let hash = ChangeHash(fields.take(32)?.try_into().ok()?);
        let (actor_bytes, pusher_bytes) = (usize::from(fields.u8()?), usize::from(fields.u16()?));
        let has_chain = fields.u8()? == 1;
        let actor = ActorId::from_slice(fields.take(actor_bytes)?).ok()?;
        let pusher = fields.take(pusher_bytes).filter(|pusher| pusher.len() <= PUSHER_BYTES_MAX)?;
        let pusher = Arc::from(std::str::from_utf8(pusher).ok()?);
        let chain = match has_chain {
            true => Some(ChainHash(fields.take(32)?.try_into().ok()?)),
            false => None,
        };
        (fields.left() == 0).then_some(())?;
        Some(Self { seq, hash, actor, actor_seq, max_op, time_ms, pusher, change_bytes, chain })
    }
}

/// A row of the log: the whole record, or what stayed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogRow {
    /// The record.
    Record(Record),
    /// The record is in the document's snapshot.
    Covered(IndexRow),
}

impl LogRow {
    /// Reads the row at a position of a document's log; the error says what does not fit.
    pub fn decode(stored: &[u8], document: &DocumentId, epoch: u64, seq: u64) -> Result<Self, String> {
        let (row, stands_at) = if is_index(stored) {
            let row = IndexRow::decode(stored, document, epoch)
                .ok_or_else(|| "the index row is not what was written".to_owned())?;
            let seq = row.seq;
            (Self::Covered(row), seq)
        } else {
            // Copied, because the stored bytes would keep the whole block in memory that they came with.
            let record = Record::decode(&Bytes::copy_from_slice(stored), document, epoch)
                .map_err(|error| error.to_string())?;
            let seq = record.seq;
            (Self::Record(record), seq)
        };
        if stands_at != seq {
            return Err(format!("another record, {stands_at}, stands there"));
        }
        Ok(row)
    }

    /// The row's bytes.
    pub fn encode(&self, document: &DocumentId, epoch: u64) -> Vec<u8> {
        match self {
            Self::Record(record) => record.encode(document, epoch),
            Self::Covered(row) => row.encode(document, epoch),
        }
    }

    /// Bytes of its change that stand in the row.
    pub fn change_bytes(&self) -> usize {
        match self {
            Self::Record(record) => record.change.len(),
            Self::Covered(_) => 0,
        }
    }

    /// The position.
    pub fn seq(&self) -> u64 {
        match self {
            Self::Record(record) => record.seq,
            Self::Covered(row) => row.seq,
        }
    }

    /// The change's hash.
    pub fn hash(&self) -> &ChangeHash {
        match self {
            Self::Record(record) => &record.hash,
            Self::Covered(row) => &row.hash,
        }
    }

    /// The change's highest operation counter.
    pub fn max_op(&self) -> u64 {
        match self {
            Self::Record(record) => record.max_op,
            Self::Covered(row) => row.max_op,
        }
    }

    /// The chain up to and including it, where the row says it.
    pub fn chain(&self) -> Option<ChainHash> {
        match self {
            Self::Record(record) => Some(record.chain),
            Self::Covered(row) => row.chain,
        }
    }
}

impl Reader {
    /// What is known of the changes behind position `after_seq` up to `through_seq`, in order and without gaps,
    /// at most `count_max` of them (and [`INDEX_ROWS_MAX`]), whether a snapshot covers them or not.
    ///
    /// # Errors
    /// [`LogError::Damaged`] at the first row that is not what was written, or missing.
    pub fn index(
        &self,
        document: &DocumentId,
        epoch: u64,
        after_seq: u64,
        through_seq: u64,
        count_max: usize,
    ) -> Result<Vec<IndexRow>, LogError> {
        let rows = self.rows(document, epoch, after_seq, through_seq, count_max.min(INDEX_ROWS_MAX))?;
        let known = |row| match row {
            LogRow::Covered(row) => Ok(row),
            LogRow::Record(record) => {
                IndexRow::of(&record).map_err(|what| LogError::damaged(document, record.seq, what))
            }
        };
        rows.into_iter().map(known).collect()
    }

    /// The rows behind position `after_seq` up to `through_seq`, at most `count_max`, of any epoch.
    ///
    /// # Errors
    /// See [`Reader::index`].
    pub fn rows(
        &self,
        document: &DocumentId,
        epoch: u64,
        after_seq: u64,
        through_seq: u64,
        count_max: usize,
    ) -> Result<Vec<LogRow>, LogError> {
        self.view()?.rows(document, epoch, after_seq, through_seq).take(count_max).collect()
    }
}
