//! Pushes that no honest client makes, each with the code that it must be refused with.

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, Change, ExpandedChange, ROOT};
use etherply_engine::document::GENESIS_ACTOR;
use etherply_wire::ErrorCode;

use crate::edits::Edit;
use crate::rng::Rng;

/// A bad push for a copy in this state.
pub fn push(doc: &mut AutoCommit, rng: &mut Rng) -> (Vec<Edit>, ErrorCode) {
    let mut stranger = doc.fork();
    stranger.set_actor(ActorId::from(&rng.name()[..]));
    let first = put(&mut stranger, 1);
    match rng.below(8) {
        0 => (Vec::new(), ErrorCode::PushInvalid),
        1 => (vec![put(&mut stranger, 2)], ErrorCode::SequenceGap),
        2 => {
            stranger.set_actor(ActorId::from(&rng.name()[..]));
            (vec![put(&mut stranger, 2)], ErrorCode::MissingDependencies)
        }
        3 => (vec![with_start_op(&first, 1_000_000)], ErrorCode::MissingDependencies),
        4 => {
            let mut bad = first.clone();
            let at = 4 + rng.index(4);
            bad.bytes[at] ^= 1;
            (vec![bad], ErrorCode::ChangeChecksum)
        }
        5 => {
            // One good change before a bad one: neither may stay.
            stranger.empty_change(CommitOptions::default().with_time(0));
            let second = Edit::of(&stranger.get_last_local_change().expect("it was made"));
            (vec![first, with_start_op(&second, 1_000_000)], ErrorCode::StartOpWrong)
        }
        6 => {
            let second = put(&mut stranger, 2);
            // The wrong way round.
            (vec![second, first], ErrorCode::SequenceGap)
        }
        _ => {
            stranger.set_actor(ActorId::from(&GENESIS_ACTOR[..]));
            // What the genesis actor may not do: go on.
            (vec![put(&mut stranger, 3)], ErrorCode::ActorForked)
        }
    }
}

fn put(doc: &mut AutoCommit, value: i64) -> Edit {
    doc.put(ROOT, "mischief", value).expect("the root takes a key");
    doc.commit_with(CommitOptions::default().with_time(0));
    Edit::of(&doc.get_last_local_change().expect("something was put"))
}

/// The same change with its operations counted from elsewhere, as only a liar counts.
fn with_start_op(edit: &Edit, start_op: u64) -> Edit {
    let change = Change::from_bytes(edit.bytes.clone()).expect("Automerge wrote it");
    let mut expanded: ExpandedChange = change.decode();
    expanded.start_op = std::num::NonZeroU64::new(start_op).expect("not 0");
    expanded.hash = None;
    Edit::of(&Change::from(expanded))
}
