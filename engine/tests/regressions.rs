//! Every input that ever broke the engine, replayed: see fuzz/README.md.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "../../fuzz/src/alter.rs"]
mod alter;
#[path = "../../fuzz/src/change.rs"]
mod change;
#[path = "../../fuzz/src/reconcile.rs"]
mod reconcile;
#[path = "../../fuzz/src/regressions.rs"]
mod regressions;
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/snapshot.rs"]
mod snapshot;

use etherply_engine::change::{ChangeLimits, parse};

#[test]
fn clocks() {
    regressions::replay("reconcile", |input, _| reconcile::check(input));
}

#[test]
fn logs() {
    regressions::replay("replay", |input, _| replay::check(input));
}

#[test]
fn summaries() {
    regressions::replay("snapshot", |input, _| snapshot::check(input));
}

#[test]
fn changes() {
    let mut seeds = 0;
    regressions::replay("change", |bytes, name| {
        change::check(bytes);
        // Seeds are changes as Automerge writes them: if one were refused, the fuzzer would begin nowhere.
        if name.starts_with("seed-") {
            parse(bytes, &ChangeLimits::DEFAULT).expect("a seed that admission takes");
            seeds += 1;
        }
    });
    assert!(seeds > 0, "no seed of changes");
}

/// What the fuzzer begins with, altered as it alters: a bit of what it does for minutes, each time.
#[test]
fn altered_changes() {
    let (mut taken, mut refused) = (0, 0);
    regressions::replay("change", |seed, _| {
        let mut input = seed.to_vec();
        for number in 0..100 {
            let Some(altered) = alter::alter(&input, 4_096, number) else { continue };
            change::check(&altered);
            match change::pieces(&altered).iter().all(|change| parse(change, &ChangeLimits::DEFAULT).is_ok())
            {
                // What is read is what the next one is made of, as in a corpus.
                true => (taken, input) = (taken + 1, altered),
                false => refused += 1,
            }
        }
    });
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused: either says nothing");
}
