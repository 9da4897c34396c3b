//! Anchors: the row that ties an epoch of a document to the snapshot which holds its beginning.
//!
//! Layout, little-endian: `u8 version | u8 slot | u64 bytes | u64 bytes covered | u64 log after |
//! u64 checksum of the snapshot's bytes | the summary | u32 crc32 over key and all before`. Epoch, position and
//! chain are the summary's.

use etherply_engine::document::{Anchor, Summary};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::LogError;
use etherply_engine::snapshot::Snapshot;

use super::fields::Fields;
use super::keys::{anchor_key, checksum};
use super::log::document_read_failed;
use super::reader::Reader;

const ANCHOR_VERSION: u8 = 1;
const CRC_BYTES: usize = 4;

/// Which of a document's two files holds a snapshot: the next one is written beside the one that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// An anchor as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorRow {
    /// What the engine knows of it.
    pub anchor: Anchor,
    /// The file that holds the snapshot.
    pub slot: Slot,
    /// Checksum (xxh3) of the snapshot's bytes.
    pub checksum: u64,
}

impl AnchorRow {
    /// The row's bytes.
    pub fn encode(&self, document: &DocumentId) -> Vec<u8> {
        let Snapshot { cursor, total_bytes, covered_bytes, log_after_seq } = self.anchor.snapshot;
        let slot = u8::from(self.slot == Slot::B);
        let mut out = vec![ANCHOR_VERSION, slot];
        for field in [total_bytes, covered_bytes, log_after_seq, self.checksum] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.anchor.summary.encode());
        let crc = checksum(&anchor_key(document, cursor.epoch), &out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a row back; `None` if the bytes are not what was written there.
    pub fn decode(document: &DocumentId, epoch: u64, stored: &[u8]) -> Option<Self> {
        let (body, crc) = stored.split_last_chunk::<CRC_BYTES>()?;
        (checksum(&anchor_key(document, epoch), body) == u32::from_le_bytes(*crc)).then_some(())?;
        let mut fields = Fields::new(body);
        (fields.u8()? == ANCHOR_VERSION).then_some(())?;
        let slot = if fields.u8()? == 0 { Slot::A } else { Slot::B };
        let (total_bytes, covered_bytes) = (fields.u64()?, fields.u64()?);
        let (log_after_seq, checksum) = (fields.u64()?, fields.u64()?);
        let summary = Summary::decode(fields.take(fields.left())?)?;
        (summary.cursor.epoch == epoch && log_after_seq <= summary.cursor.seq).then_some(())?;
        let snapshot = Snapshot { cursor: summary.cursor, total_bytes, covered_bytes, log_after_seq };
        Some(Self { anchor: Anchor { snapshot, summary }, slot, checksum })
    }
}

impl Reader {
    /// What anchors an epoch of a document, if a snapshot covers its beginning. The snapshot's file is not
    /// looked at.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if the row is not what was written.
    pub fn anchor_row(&self, document: &DocumentId, epoch: u64) -> Result<Option<AnchorRow>, LogError> {
        let view = self.view()?;
        let key = anchor_key(document, epoch);
        let stored = fjall::Readable::get(&view.committed, &view.opened.keyspaces.meta, key);
        let Some(stored) = stored.map_err(|error| document_read_failed(document, 0, &error))? else {
            return Ok(None);
        };
        AnchorRow::decode(document, epoch, &stored).map(Some).ok_or_else(|| {
            LogError::damaged(document, 0, "the row that ties it to its snapshot is not what was written")
        })
    }
}

#[cfg(test)]
mod tests {
    use etherply_engine::document::Document;

    use super::*;

    #[test]
    fn every_flipped_bit_and_every_truncation_of_an_anchor_is_noticed() {
        let document = DocumentId::new("rooms/42").unwrap();
        let summary = Document::new(document.clone(), 3).summary().unwrap();
        let snapshot =
            Snapshot { cursor: summary.cursor, total_bytes: 7, covered_bytes: 9, log_after_seq: 0 };
        let row = AnchorRow { anchor: Anchor { snapshot, summary }, slot: Slot::B, checksum: 77 };
        let stored = row.encode(&document);
        assert_eq!(AnchorRow::decode(&document, 3, &stored), Some(row));
        assert_eq!(AnchorRow::decode(&document, 4, &stored), None);
        assert_eq!(AnchorRow::decode(&DocumentId::new("rooms/4").unwrap(), 3, &stored), None);
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(AnchorRow::decode(&document, 3, &bad), None, "bit {bit}");
        }
        for len in 0..stored.len() {
            assert_eq!(AnchorRow::decode(&document, 3, &stored[..len]), None, "length {len}");
        }
    }
}
