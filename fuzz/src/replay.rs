//! The log's records, altered: a document opens only with the history that was written, up to some position, or is
//! refused as damaged.

// A panic is how this code reports.
#![allow(clippy::expect_used)]

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, ROOT};
use bytes::Bytes;
use etherply_engine::change::{ChangeHash, ChangeLimits};
use etherply_engine::document::{Anchor, Document, Resolved, recover};
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::{FIRST_EPOCH, Found, LogError, LogReader, Past};
use etherply_engine::record::Record;

/// Records of the history that is altered.
const RECORDS: u64 = 6;

/// Reads the bytes as one stored record; then takes them, three by three, as alterations of a document's records:
/// which record, what of it, and with what.
pub fn check(data: &[u8]) {
    let document = DocumentId::new("d").expect("a name");
    let stored = Bytes::copy_from_slice(data);
    if let Ok(record) = Record::decode(&stored, &document, FIRST_EPOCH) {
        assert_eq!(record.encode(&document, FIRST_EPOCH), data, "what is read can be written again");
    }
    let honest = history(&document);
    let mut log = Altered { records: honest.clone() };
    for alteration in data.chunks_exact(3).take(64) {
        if let [which, what, with] = alteration {
            log.alter(*which, *what, *with);
        }
    }
    // As bytes with a checksum that fits, as a careful liar would store them.
    for record in &mut log.records {
        let stored = Bytes::from(record.encode(&document, FIRST_EPOCH));
        *record = Record::decode(&stored, &document, FIRST_EPOCH).expect("its own bytes");
    }
    match recover(&log, &document) {
        Ok(recovered) => {
            let at = recovered.committed();
            let written = honest.get(usize::try_from(at.seq).expect("few") - usize::from(at.seq > 0));
            assert!(at.seq <= RECORDS && (at.seq == 0 || written.is_some()));
            let chain = honest.iter().find(|record| record.seq == at.seq).map(|record| record.chain.0);
            assert!(at.seq == 0 || chain == Some(at.chain), "another history opens");
        }
        Err(error) => assert!(matches!(error, LogError::Damaged { .. }), "{error}"),
    }
}

/// What two actors wrote, as the log has it.
fn history(id: &DocumentId) -> Vec<Record> {
    let mut document = Document::new(id.clone(), FIRST_EPOCH);
    let mut author = AutoCommit::new().with_actor(ActorId::from(&[1; 16][..]));
    let mut records = Vec::new();
    for n in 0..RECORDS {
        if n == RECORDS / 2 {
            author.set_actor(ActorId::from(&[2; 16][..]));
        }
        author.put(ROOT, "key", n).expect("the root takes a key");
        author.commit_with(CommitOptions::default().with_time(0));
        let change = author.get_last_local_change().expect("it wrote");
        let admitted = document
            .admit(&[change.raw_bytes()], &ChangeLimits::DEFAULT, &Resolved::default())
            .expect("an honest change");
        document.commit(admitted.cursor);
        for fresh in &admitted.fresh {
            records.push(Record {
                seq: fresh.seq,
                hash: fresh.hash,
                chain: fresh.chain,
                max_op: fresh.max_op,
                time_ms: n,
                pusher: "".into(),
                change: Bytes::copy_from_slice(change.raw_bytes()),
            });
        }
    }
    records
}

fn flip(bytes: &mut [u8; 32], at: u8) {
    if let Some(byte) = bytes.get_mut(usize::from(at) % 32) {
        *byte ^= 1;
    }
}

/// A log whose records are not what was written.
struct Altered {
    records: Vec<Record>,
}

impl Altered {
    fn alter(&mut self, which: u8, what: u8, with: u8) {
        let count = self.records.len().max(1);
        let at = usize::from(which) % count;
        if what == 0 {
            self.records.truncate(at);
            return;
        }
        if what == 1 && !self.records.is_empty() {
            self.records.remove(at);
            return;
        }
        if what == 2 && !self.records.is_empty() {
            self.records.swap(at, usize::from(with) % count);
            return;
        }
        let Some(record) = self.records.get_mut(at) else { return };
        match what {
            3 => record.seq = u64::from(with),
            4 => flip(&mut record.hash.0, with),
            5 => flip(&mut record.chain.0, with),
            6 => record.seq = u64::MAX,
            7 => record.change = Bytes::new(),
            at => {
                let mut bytes = record.change.to_vec();
                let at = usize::from(at - 8) % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= with;
                }
                record.change = bytes.into();
            }
        }
    }
}

impl LogReader for Altered {
    fn epoch(&self, _: &DocumentId) -> Result<Option<u64>, LogError> {
        Ok(Some(FIRST_EPOCH))
    }

    /// As the database would: by the key, which is the position at which a record was stored.
    fn read(
        &self,
        _: &DocumentId,
        _: u64,
        after: u64,
        through: u64,
        _: usize,
    ) -> Result<Vec<Record>, LogError> {
        let stored = (1..).zip(&self.records).filter(|(at, _)| *at > after && *at <= through);
        Ok(stored.map(|(_, record)| record.clone()).take(2).collect())
    }

    fn past(&self, _: &DocumentId) -> Result<Past, LogError> {
        Ok(Past::default())
    }

    fn find(&self, _: &DocumentId, _: u64, _: &ChangeHash) -> Result<Option<Found>, LogError> {
        Ok(None)
    }

    fn anchor(&self, _: &DocumentId, _: u64) -> Result<Option<Anchor>, LogError> {
        Ok(None)
    }

    fn chain_at(&self, _: &DocumentId, _: u64, _: u64) -> Result<Option<ChainHash>, LogError> {
        Ok(None)
    }
}
