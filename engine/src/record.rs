//! One change as the log stores it.
//!
//! Layout, little-endian: `u32 crc32 | u8 version | u16 pusher length | u64 seq | u64 max op | u64 server
//! time in ms | change hash × 32 | chain hash × 32 | pusher | change`. The checksum covers what follows it
//! and, before that, the record's place (document and epoch), so that a record which turns up under another
//! key does not pass. `seq` and the chain guard the order; see [`crate::chain`].

use bytes::Bytes;
use std::sync::Arc;

use crate::change::ChangeHash;
use crate::ids::{ChainHash, DocumentId};

/// Version of the record's layout that this code writes.
pub const RECORD_VERSION: u8 = 1;
/// Bytes of a record before the pusher's name and the change.
pub const RECORD_HEADER_BYTES: usize = 4 + 1 + 2 + 8 + 8 + 8 + 32 + 32;
/// Longest name of a pusher that a record takes.
pub const PUSHER_BYTES_MAX: usize = 256;

/// One stored change and its place in the document's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Position in the document's log; the first change has 1.
    pub seq: u64,
    /// The change's own hash.
    pub hash: ChangeHash,
    /// The chain up to and including this change.
    pub chain: ChainHash,
    /// Highest operation counter of this change.
    pub max_op: u64,
    /// When the server took the change, in milliseconds since 1970.
    pub time_ms: u64,
    /// The subject that sent it, empty for an anonymous one; at most [`PUSHER_BYTES_MAX`] bytes.
    pub pusher: Arc<str>,
    /// The change in Automerge's format.
    pub change: Bytes,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than a record's header says.
    #[error("the record is cut short: {bytes} bytes")]
    Truncated {
        /// Bytes that are there.
        bytes: usize,
    },
    /// The checksum does not fit the bytes or their place.
    #[error("the record's checksum does not match its bytes")]
    Checksum,
    /// Written by a newer server.
    #[error("the record has version {version}, this server reads up to {RECORD_VERSION}")]
    Version {
        /// The version found.
        version: u8,
    },
    /// The pusher's name is not UTF-8 or too long.
    #[error("the record's pusher is not a name")]
    Pusher,
}

impl Record {
    /// Bytes that [`Record::encode`] makes.
    pub fn encoded_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.pusher.len() + self.change.len()
    }

    /// The record as it stands on disk under its document and epoch.
    pub fn encode(&self, document: &DocumentId, epoch: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_bytes());
        out.extend_from_slice(&[0; 4]);
        out.push(RECORD_VERSION);
        // Bounded by PUSHER_BYTES_MAX; a longer name would fail to decode, which the tests pin.
        let pusher_bytes = u16::try_from(self.pusher.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&pusher_bytes.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.max_op.to_le_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.extend_from_slice(&self.hash.0);
        out.extend_from_slice(&self.chain.0);
        out.extend_from_slice(self.pusher.as_bytes());
        out.extend_from_slice(&self.change);
        if let Some((crc, rest)) = out.split_first_chunk_mut::<4>() {
            *crc = checksum(document, epoch, rest).to_le_bytes();
        }
        out
    }

    /// Reads a record back; the change shares `stored`'s memory.
    pub fn decode(stored: &Bytes, document: &DocumentId, epoch: u64) -> Result<Self, RecordError> {
        let short = || RecordError::Truncated { bytes: stored.len() };
        let (crc, rest) = stored.split_first_chunk::<4>().ok_or_else(short)?;
        if stored.len() < RECORD_HEADER_BYTES {
            return Err(short());
        }
        if checksum(document, epoch, rest) != u32::from_le_bytes(*crc) {
            return Err(RecordError::Checksum);
        }
        let (&[version], rest) = rest.split_first_chunk::<1>().ok_or_else(short)?;
        if version != RECORD_VERSION {
            return Err(RecordError::Version { version });
        }
        let (pusher_bytes, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let (seq, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (max_op, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (time_ms, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (hash, rest) = rest.split_first_chunk::<32>().ok_or_else(short)?;
        let (chain, rest) = rest.split_first_chunk::<32>().ok_or_else(short)?;
        let pusher_bytes = usize::from(u16::from_le_bytes(*pusher_bytes));
        let pusher = rest.get(..pusher_bytes).ok_or_else(short)?;
        if pusher_bytes > PUSHER_BYTES_MAX {
            return Err(RecordError::Pusher);
        }
        Ok(Self {
            seq: u64::from_le_bytes(*seq),
            hash: ChangeHash(*hash),
            chain: ChainHash(*chain),
            max_op: u64::from_le_bytes(*max_op),
            time_ms: u64::from_le_bytes(*time_ms),
            pusher: Arc::from(std::str::from_utf8(pusher).map_err(|_| RecordError::Pusher)?),
            change: stored.slice(RECORD_HEADER_BYTES + pusher_bytes..),
        })
    }
}

/// Checksum of what is stored of a document's log: over its place and its bytes.
pub fn checksum(document: &DocumentId, epoch: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(document.as_str().as_bytes());
    crc.update(&epoch.to_le_bytes());
    crc.update(bytes);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pusher: &str) -> (DocumentId, Record) {
        let record = Record {
            seq: 9,
            hash: ChangeHash([1; 32]),
            chain: ChainHash([2; 32]),
            max_op: 77,
            time_ms: 1_700_000_000_000,
            pusher: Arc::from(pusher),
            change: Bytes::from_static(b"change bytes"),
        };
        (DocumentId::new("rooms/42").unwrap(), record)
    }

    #[test]
    fn a_record_reads_back_as_written() {
        for pusher in ["", "ada", &"x".repeat(PUSHER_BYTES_MAX)] {
            let (document, record) = sample(pusher);
            let stored = Bytes::from(record.encode(&document, 3));
            assert_eq!(stored.len(), record.encoded_bytes());
            assert_eq!(Record::decode(&stored, &document, 3), Ok(record));
        }
        let (document, record) = sample(&"x".repeat(PUSHER_BYTES_MAX + 1));
        let stored = Bytes::from(record.encode(&document, 3));
        assert_eq!(Record::decode(&stored, &document, 3), Err(RecordError::Pusher));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let (document, record) = sample("ada");
        let stored = record.encode(&document, 3);
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&Bytes::from(bad), &document, 3).is_err(), "bit {bit}");
        }
        for len in 0..stored.len() {
            let bad = Bytes::copy_from_slice(&stored[..len]);
            assert!(Record::decode(&bad, &document, 3).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_record_in_another_place_does_not_pass() {
        let (document, record) = sample("ada");
        let stored = Bytes::from(record.encode(&document, 3));
        let other = DocumentId::new("rooms/43").unwrap();
        assert_eq!(Record::decode(&stored, &other, 3), Err(RecordError::Checksum));
        assert_eq!(Record::decode(&stored, &document, 4), Err(RecordError::Checksum));
    }
}
