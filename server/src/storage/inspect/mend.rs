//! Rows that a document's log lacks, and whose changes its snapshot has.
//!
//! A snapshot holds every change up to its end, so a damaged row before that costs none, as long as it is known which
//! change stood where: the rows of hashes say so, and the chain at the snapshot's end proves it. What is lost is who
//! sent them, and when.

use bytes::Bytes;
use etherply_engine::chain::chain_next;
use etherply_engine::change::ChangeHash;
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_wire::kinds::Cursor;

use super::{Epoch, Seen, Stopped, Walk};
use crate::storage::proof::{Anchor, Proof};

/// What is known of a row that is damaged or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The position.
    pub seq: u64,
    /// Its change.
    pub hash: ChangeHash,
    /// The change's highest operation counter.
    pub max_op: u64,
    /// The chain up to and including it.
    pub chain: ChainHash,
}

impl Epoch {
    /// Where its snapshot ends, if the proof came to an end before that.
    fn snapshot_behind_proof(&self) -> Option<Cursor> {
        let Some(Ok(cursor)) = self.snapshot else { return None };
        (self.is_served && !self.is_lost && self.proof.through().seq < cursor.seq).then_some(cursor)
    }

    pub(super) fn lacks_what_its_snapshot_has(&self) -> bool {
        self.snapshot_behind_proof().is_some()
    }

    fn mended(&mut self, document: &DocumentId, missing: &[Missing], end: Anchor) {
        let first = self.proof.through().seq + 1;
        let what = self.damage.take().unwrap_or_else(|| "the records are missing".to_owned());
        self.mended = Some((first..=end.seq, what));
        self.proof = Proof::from(document.clone(), end);
        (self.records_behind, self.bytes_behind) = (0, 0);
        for Missing { seq, hash, max_op, .. } in missing {
            self.count(document, hash, super::Found { seq: *seq, max_op: *max_op });
        }
    }

    /// Rows that need the snapshot cannot be kept without the others that it covers.
    fn lost(&mut self, document: &DocumentId) {
        let what = self.damage.take().unwrap_or_else(|| "the records are missing".to_owned());
        let whole = self.proof.through().seq;
        self.damage = Some(format!(
            "position {}: {what}, and the rows that say where its changes stood are damaged as well; its snapshot is \
             whole, and can be loaded by `etherply export`",
            whole + 1
        ));
        self.is_lost = true;
        self.proof = Proof::from(document.clone(), Anchor::beginning(document, self.epoch));
        (self.records_behind, self.bytes_behind) =
            (self.records_behind + self.records, self.bytes_behind + self.record_bytes);
        (self.records, self.record_bytes) = (0, 0);
    }
}

impl Walk<'_> {
    /// See [`Walk::mend`], of the document's epoch of now.
    pub(super) fn mend_current(
        &mut self,
        name: &Bytes,
        document: &DocumentId,
        seen: &mut Seen,
    ) -> Result<(), Stopped> {
        let Some(number) = seen.current() else { return Ok(()) };
        match self.epoch(document, number, seen)?.lacks_what_its_snapshot_has() {
            true => self.mend(name, document, number, seen),
            false => Ok(()),
        }
    }

    /// Goes on behind the end of an epoch's snapshot, if what the log lacks before that is known otherwise.
    pub(super) fn mend(
        &mut self,
        name: &Bytes,
        document: &DocumentId,
        number: u64,
        seen: &mut Seen,
    ) -> Result<(), Stopped> {
        let epoch = self.epoch(document, number, seen)?;
        let Some(cursor) = epoch.snapshot_behind_proof() else { return Ok(()) };
        let Anchor { seq: before, mut chain, .. } = epoch.proof.through();
        let is_wanted = |epoch, seq| epoch == number && seq > before && seq <= cursor.seq;
        let places = self.read_places(name, document, seen, is_wanted)?;
        let mut missing = Vec::new();
        for (seq, (&at, &(hash, found))) in (before + 1..).zip(&places) {
            chain = chain_next(&chain, seq, &hash);
            if at == seq {
                missing.push(Missing { seq, hash, max_op: found.max_op, chain });
            }
        }
        let epoch = self.epoch(document, number, seen)?;
        if missing.len() as u64 == cursor.seq - before && chain.0 == cursor.chain {
            epoch.mended(document, &missing, Anchor { epoch: number, seq: cursor.seq, chain });
            self.taker.missing(document, missing).map_err(Stopped::Taker)
        } else {
            epoch.lost(document);
            Ok(())
        }
    }
}
