//! Whatever Automerge writes passes, and is read as Automerge reads it.

use automerge::{AutoCommit, Change};
use etherply_engine::change::{ChangeLimits, ReferenceKind, parse, parse_header};
use proptest::prelude::*;

use super::generate::{Style, document};

fn assert_agrees(change: &Change) {
    let bytes = change.raw_bytes();
    let parsed = match parse(bytes, &ChangeLimits::DEFAULT) {
        Ok(parsed) => parsed,
        Err(error) => panic!("{error} ({}): {} ops", error.code(), change.decode().operations.len()),
    };
    assert_eq!(parsed.hash.0, change.hash().0);
    assert!(parsed.deps.iter().map(|dep| dep.0).eq(change.deps().iter().map(|dep| dep.0)));
    assert_eq!(parsed.actor, change.actor_id().to_bytes());
    assert_eq!(parsed.actor_id().as_bytes(), change.actor_id().to_bytes());
    assert_eq!(parsed.seq, change.seq());
    assert_eq!(parsed.start_op, change.start_op().get());
    assert_eq!(parsed.ops(), change.len() as u64);
    assert_eq!(parsed.max_op(), change.max_op());
    assert_eq!(parsed.time, change.timestamp());
    assert_eq!(parsed.message, change.message().unwrap_or_default());
    assert!(
        parsed.other_actors.clone().eq(change.other_actor_ids().iter().map(automerge::ActorId::to_bytes))
    );
    assert_eq!(parsed.author, change.author().as_ref().map(automerge::Author::as_bytes));
    assert_eq!(parsed.bytes, bytes);

    let header = parse_header(bytes, &ChangeLimits::DEFAULT).unwrap();
    assert_eq!(header.hash, parsed.hash);
    assert_eq!(header.count_ops(u64::MAX), Ok(parsed.ops()));

    let mut replaced = 0;
    parsed.for_each_reference(|reference| {
        assert!(parsed.actor_at(reference.actor).is_some());
        assert!(reference.counter < parsed.start_op);
        replaced += usize::from(reference.kind == ReferenceKind::Replaced);
    });
    let decoded = change.decode();
    let preds = decoded.operations.iter().flat_map(|op| op.pred.iter());
    let foreign =
        preds.filter(|pred| pred.actor() != change.actor_id() || pred.counter() < change.start_op().get());
    assert_eq!(replaced, foreign.count());
}

/// Also sees to it that the history was honest: Automerge can save and load it.
fn assert_history_agrees(mut doc: AutoCommit) {
    for change in doc.get_changes(&[]) {
        assert_agrees(&change);
    }
    let saved = doc.save();
    let mut loaded = AutoCommit::load(&saved).unwrap();
    for change in loaded.get_changes(&[]) {
        assert_agrees(&change);
    }
}

/// Changes from a file that `javascript/generate.mjs` wrote.
fn recorded(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut changes = Vec::new();
    while let Some((len, rest)) = file.split_first_chunk() {
        let (change, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        changes.push(change.to_vec());
        file = rest;
    }
    changes
}

#[test]
fn what_javascript_writes_passes() {
    for file in [&include_bytes!("javascript/3.0.0.bin")[..], include_bytes!("javascript/3.5.0.bin")] {
        let changes = recorded(file);
        assert!(changes.len() > 100);
        for change in changes {
            assert_agrees(&Change::from_bytes(change).unwrap());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn mixed_histories_pass(seed: u64, edits in 1_usize..160) {
        assert_history_agrees(document(seed, edits, Style::Mixed));
    }

    #[test]
    fn texts_pass(seed: u64, edits in 1_usize..80) {
        assert_history_agrees(document(seed, edits, Style::Text));
    }
}
