//! One document's log, proven row by row: what a start, a scrub, `verify` and `repair` mean by *whole*.
//!
//! A row is a record, or what stayed of it once a snapshot covered it. Of those the chain proves the hash and the
//! order, and the snapshot, which whoever asks for the proof has to look at, the changes themselves.

use bytes::Bytes;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::{ChangeLimits, parse_header};
use etherply_engine::ids::{ChainHash, DocumentId};

use super::index::LogRow;

/// A place in a document's log up to which everything is known to be good: the beginning, or the cursor of a
/// snapshot that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The document's epoch.
    pub epoch: u64,
    /// The position; 0 is the beginning.
    pub seq: u64,
    /// The chain there.
    pub chain: ChainHash,
}

impl Anchor {
    /// The beginning of an epoch.
    pub fn beginning(document: &DocumentId, epoch: u64) -> Self {
        Self { epoch, seq: 0, chain: chain_start(document, epoch) }
    }
}

/// A proof under way.
#[derive(Debug, Clone)]
pub struct Proof {
    document: DocumentId,
    through: Anchor,
}

impl Proof {
    /// Goes on from an anchor.
    pub fn from(document: DocumentId, anchor: Anchor) -> Self {
        Self { document, through: anchor }
    }

    /// How far everything is proven.
    pub fn through(&self) -> Anchor {
        self.through
    }

    /// Takes the row that is stored at position `seq`: its checksum over its place and its bytes, its position,
    /// the hash of its change, and its link to the row before must fit. What does not fit is said in words; then
    /// the proof stays where it was.
    pub fn take(&mut self, seq: u64, stored: &Bytes) -> Result<LogRow, String> {
        let Anchor { epoch, seq: before, .. } = self.through;
        if before.checked_add(1) != Some(seq) {
            return Err("the record is missing".to_owned());
        }
        let row = LogRow::decode(stored, &self.document, epoch, seq)?;
        self.take_row(&row)?;
        Ok(row)
    }

    /// As [`Proof::take`], of a row whose checksum was compared where it was read.
    pub fn take_row(&mut self, row: &LogRow) -> Result<(), String> {
        let Anchor { epoch, seq: before, chain } = self.through;
        let seq = row.seq();
        if before.checked_add(1) != Some(seq) {
            return Err("the record is missing".to_owned());
        }
        if let LogRow::Record(record) = row {
            let change =
                parse_header(&record.change, &ChangeLimits::DEFAULT).map_err(|error| error.to_string())?;
            if change.hash != record.hash {
                return Err("the change's hash is not the one in its record".to_owned());
            }
        }
        let next = chain_next(&chain, seq, row.hash());
        if row.chain().is_some_and(|chain| chain != next) {
            return Err("the record does not follow the one before".to_owned());
        }
        self.through = Anchor { epoch, seq, chain: next };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{RealAuthor, document};
    use super::*;
    use etherply_engine::record::Record;

    #[test]
    fn a_log_is_proven_from_its_beginning_and_from_every_anchor() {
        let append = RealAuthor::new().append("a", 5);
        let a = document("a");
        let mut proof = Proof::from(a.clone(), Anchor::beginning(&a, append.epoch));
        for (index, record) in append.records.iter().enumerate() {
            let anchor = proof.through();
            let mut behind = Proof::from(a.clone(), anchor);
            for record in &append.records[index..] {
                let stored = Bytes::from(record.encode(&a, append.epoch));
                assert_eq!(behind.take(record.seq, &stored), Ok(LogRow::Record(record.clone())));
            }
            proof.take(record.seq, &Bytes::from(record.encode(&a, append.epoch))).unwrap();
        }
        assert_eq!(proof.through().seq, 5);
        assert_eq!(proof.through().chain, append.records[4].chain);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_moves_nothing() {
        let append = RealAuthor::new().append("a", 3);
        let (a, records) = (document("a"), &append.records);
        let stored = |record: &Record| Bytes::from(record.encode(&a, append.epoch));
        let mut proof = Proof::from(a.clone(), Anchor::beginning(&a, append.epoch));
        proof.take(1, &stored(&records[0])).unwrap();
        let at = proof.through();
        let mut wrong_change = records[1].clone();
        wrong_change.change = records[2].change.clone();
        let mut wrong_hash = records[1].clone();
        wrong_hash.hash = records[2].hash;
        let mut wrong_chain = records[1].clone();
        wrong_chain.chain = records[2].chain;
        let mut flipped = stored(&records[1]).to_vec();
        flipped[100] ^= 1;
        let cases = [
            (3, stored(&records[2]), "missing"),
            (1, stored(&records[0]), "missing"),
            (2, stored(&records[2]), "another record, 3"),
            (2, stored(&wrong_change), "hash is not the one"),
            (2, stored(&wrong_hash), "hash is not the one"),
            (2, stored(&wrong_chain), "does not follow"),
            (2, Bytes::from(flipped), "checksum"),
            (2, Bytes::new(), "cut short"),
        ];
        for (seq, stored, expected) in cases {
            let error = proof.take(seq, &stored).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert_eq!(proof.through(), at);
        }
        proof.take(2, &stored(&records[1])).unwrap();
    }
}
