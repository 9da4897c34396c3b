//! Records for a log.
#![allow(clippy::unwrap_used, reason = "a benchmark ends where it cannot go on")]

use std::sync::Arc;

use bytes::Bytes;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::{ChangeLimits, parse_header};
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::{Append, FIRST_EPOCH};
use etherply_engine::record::Record;

/// Makes records that follow one another. The log does not look into changes, so one serves for all.
pub struct Author {
    document: DocumentId,
    change: Bytes,
    chain: ChainHash,
    seq: u64,
}

impl Author {
    /// One for each of so many documents.
    pub fn several(count: usize) -> Vec<Self> {
        let change = Bytes::from(crate::map_edits(1, 16).unwrap().remove(0));
        let author = |n| {
            let document = DocumentId::new(&format!("bench/{n}")).unwrap();
            let chain = chain_start(&document, FIRST_EPOCH);
            Self { document, change: change.clone(), chain, seq: 0 }
        };
        (0..count).map(author).collect()
    }

    /// The next record.
    pub fn append(&mut self) -> Append {
        let hash = parse_header(&self.change, &ChangeLimits::DEFAULT).unwrap().hash;
        self.seq += 1;
        self.chain = chain_next(&self.chain, self.seq, &hash);
        let (seq, chain, change) = (self.seq, self.chain, self.change.clone());
        let record = Record { seq, hash, chain, max_op: seq, time_ms: 0, pusher: Arc::from(""), change };
        Append { document: self.document.clone(), epoch: FIRST_EPOCH, records: vec![record] }
    }
}
