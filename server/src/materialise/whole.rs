//! A document's log as if nothing of it were covered: what a snapshot holds is taken out of it again, change by
//! change, and put together with what the index rows know.
//!
//! For whoever needs every record: backups, repairs, a new epoch. It builds the document for that, and holds those of
//! its snapshot's changes that were not yet handed out: as much memory as one document of the largest size takes.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::{ChangeHash, ChangeLimits, parse_header};
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::{LogError, LogReader as _};
use etherply_engine::record::Record;
use etherply_wire::kinds::Cursor;

use super::replica::Replica;
use crate::storage::Reader;
use crate::storage::index::{INDEX_ROWS_MAX, IndexRow, LogRow};

/// Reads a document's records one behind the other, also those that only its snapshot holds.
#[derive(Debug)]
pub struct WholeLog {
    document: DocumentId,
    epoch: u64,
    seq: u64,
    chain: ChainHash,
    /// The changes of the snapshot that was read last, once one of them was needed; those that were handed out since
    /// are gone.
    unpacked: Option<HashMap<ChangeHash, Bytes>>,
}

impl WholeLog {
    /// Of an epoch, from its beginning.
    pub fn new(document: DocumentId, epoch: u64) -> Self {
        let chain = chain_start(&document, epoch);
        Self { document, epoch, seq: 0, chain, unpacked: None }
    }

    /// The position up to which it was read.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Reads on, up to a position: at least one record if there is one, then as many as keep the sum of their
    /// changes within `bytes_max`. Each is proven to follow the one before.
    ///
    /// # Errors
    /// [`LogError::Damaged`] at the first position that is not whole.
    pub fn next(
        &mut self,
        reader: &Reader,
        through_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        let end = reader.head(&self.document)?.filter(|head| head.epoch == self.epoch);
        let through_seq = through_seq.min(end.map_or(0, |head| head.last_seq));
        if self.seq >= through_seq {
            return Ok(Vec::new());
        }
        let records = match reader.read(&self.document, self.epoch, self.seq, through_seq, bytes_max) {
            Err(LogError::Covered { .. }) => self.unpack(reader, through_seq, bytes_max)?,
            read => read?,
        };
        for record in &records {
            if chain_next(&self.chain, record.seq, &record.hash) != record.chain {
                let what = "the record does not follow the one before".to_owned();
                return Err(self.damaged(record.seq, what));
            }
            (self.seq, self.chain) = (record.seq, record.chain);
        }
        Ok(records)
    }

    fn unpack(
        &mut self,
        reader: &Reader,
        through_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        let rows = reader.rows(&self.document, self.epoch, self.seq, through_seq, INDEX_ROWS_MAX)?;
        // Rows first: the snapshot that is read then has all that they say is covered.
        let (mut unpacked, mut is_old) = match self.unpacked.take() {
            Some(unpacked) => (unpacked, true),
            None => match self.read_snapshot(reader)? {
                Some(unpacked) => (unpacked, false),
                None => return Ok(Vec::new()),
            },
        };
        let (mut records, mut chain, mut bytes) = (Vec::new(), self.chain, 0);
        for row in rows {
            let LogRow::Covered(row) = row else { break };
            bytes += row.change_bytes as usize;
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            let mut change = unpacked.remove(&row.hash);
            if change.is_none() && is_old {
                // A later snapshot than that which was taken apart has covered more meanwhile.
                let Some(newer) = self.read_snapshot(reader)? else { break };
                (unpacked, is_old) = (newer, false);
                change = unpacked.remove(&row.hash);
            }
            let record = self.record(change, row, &chain)?;
            chain = record.chain;
            records.push(record);
        }
        self.unpacked = Some(unpacked);
        Ok(records)
    }

    /// The changes of the snapshot that the document has now; `None` if it began anew meanwhile.
    fn read_snapshot(&self, reader: &Reader) -> Result<Option<HashMap<ChangeHash, Bytes>>, LogError> {
        let damaged = |what| self.damaged(self.seq + 1, what);
        let Some((anchor, bytes)) = reader.snapshot(&self.document, self.epoch)? else {
            if reader.head(&self.document)?.is_none_or(|head| head.epoch != self.epoch) {
                return Ok(None);
            }
            return Err(damaged("what ties it to its snapshot is missing".to_owned()));
        };
        unpack(&self.document, anchor.anchor.snapshot.cursor, &bytes).map(Some).map_err(damaged)
    }

    fn record(&self, change: Option<Bytes>, row: IndexRow, before: &ChainHash) -> Result<Record, LogError> {
        let Some(bytes) = change else {
            return Err(self.damaged(row.seq, "the snapshot does not have its change".to_owned()));
        };
        let is_same =
            parse_header(&bytes, &ChangeLimits::DEFAULT).is_ok_and(|change| change.hash == row.hash);
        let chain = chain_next(before, row.seq, &row.hash);
        if !is_same || row.chain.is_some_and(|stored| stored != chain) {
            let what = "what the snapshot has of it is not what the index says".to_owned();
            return Err(self.damaged(row.seq, what));
        }
        let IndexRow { seq, hash, max_op, time_ms, pusher, .. } = row;
        Ok(Record { seq, hash, chain, max_op, time_ms, pusher, change: bytes })
    }

    fn damaged(&self, seq: u64, what: String) -> LogError {
        LogError::damaged(&self.document, seq, what)
    }
}

/// Takes a snapshot's changes out of it again.
///
/// # Errors
/// In words, what Automerge says.
pub fn unpack(
    document: &DocumentId,
    cursor: Cursor,
    bytes: &[u8],
) -> Result<HashMap<ChangeHash, Bytes>, String> {
    let replica =
        Replica::from_saved(document.clone(), cursor, 0, bytes).map_err(|poison| poison.to_string())?;
    let unpack = || {
        let changes = replica.automerge().get_changes(&[]);
        let each = |change: automerge::Change| {
            (ChangeHash(change.hash().0), Bytes::copy_from_slice(change.raw_bytes()))
        };
        changes.into_iter().map(each).collect()
    };
    catch_unwind(AssertUnwindSafe(unpack))
        .map_err(|_| "Automerge panicked while it took its snapshot apart".to_owned())
}
