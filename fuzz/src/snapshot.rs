//! What a document is opened from when a snapshot covers its history: read or refused, and what is read can be
//! written again and worked with.

// A panic is how this code reports.
#![allow(clippy::expect_used)]

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, ROOT};
use etherply_engine::change::ChangeLimits;
use etherply_engine::document::{Document, Resolved, Summary};
use etherply_engine::ids::DocumentId;

/// Reads the bytes as a summary, opens a document from it, and pushes a change to that.
pub fn check(data: &[u8]) {
    let Some(summary) = Summary::decode(data) else { return };
    let written = summary.encode();
    assert_eq!(Summary::decode(&written).as_ref(), Some(&summary), "what is read can be written again");
    let mut document = Document::from_summary(DocumentId::new("d").expect("a name"), summary.clone());
    assert_eq!(document.committed(), summary.cursor);
    let mut author = AutoCommit::new().with_actor(ActorId::from(&[7; 16][..]));
    author.put(ROOT, "key", 1).expect("the root takes a key");
    author.commit_with(CommitOptions::default().with_time(0));
    let change = author.get_last_local_change().expect("it wrote");
    let before = document.committed();
    // At the end of all positions there is none for another change: such a document was never stored.
    if before.seq > u64::MAX / 2 {
        return;
    }
    if let Ok(admitted) = document.admit(&[change.raw_bytes()], &ChangeLimits::DEFAULT, &Resolved::default())
    {
        document.take_back(&admitted);
    }
    assert_eq!((document.admitted(), document.committed()), (before, before), "taken back");
}
