//! Every input that ever broke the engine, replayed: see fuzz/README.md.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

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
