//! Documents that have a past longer than the engine's window: what is old has to be looked up in the log.

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, ROOT};
use etherply_engine::change::ChangeLimits;
use etherply_engine::document::{Document, Resolved};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, FIRST_EPOCH, Log, MemoryLog};
use etherply_engine::record::Record;

use crate::edits::Edit;
use crate::rng::Rng;

/// Writes so many changes, by the engine's own admission, into the log.
pub fn write(log: &mut MemoryLog, id: &DocumentId, changes: u64, rng: &mut Rng) {
    let mut author = AutoCommit::new().with_actor(ActorId::from(&rng.name()[..]));
    let mut document = Document::new(id.clone(), FIRST_EPOCH);
    for n in 0..changes {
        author.put(ROOT, format!("k{}", n % 5), i64::try_from(n).expect("small")).expect("a key");
        author.commit_with(CommitOptions::default().with_time(0));
        let edit = Edit::of(&author.get_last_local_change().expect("something was put"));
        let admitted = document
            .admit(&[&edit.bytes], &ChangeLimits::DEFAULT, &Resolved::default())
            .expect("an honest change");
        document.commit(admitted.cursor);
        let fresh = admitted.fresh.first().expect("it is new");
        let record = Record {
            seq: fresh.seq,
            hash: fresh.hash,
            chain: fresh.chain,
            max_op: fresh.max_op,
            time_ms: 0,
            pusher: "".into(),
            change: edit.bytes.into(),
        };
        let append = Append { document: id.clone(), epoch: FIRST_EPOCH, records: vec![record] };
        log.commit(&[append]).expect("a log in memory does not fail");
    }
}
