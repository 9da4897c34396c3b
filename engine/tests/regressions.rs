//! Every input that ever broke the engine, replayed: see fuzz/README.md.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "../../fuzz/src/change.rs"]
mod change;
#[path = "../../fuzz/src/reconcile.rs"]
mod reconcile;
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/snapshot.rs"]
mod snapshot;

use std::path::PathBuf;

use etherply_engine::change::{ChangeLimits, parse};

fn replay_all(target: &str, check: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder of regressions") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        check(&std::fs::read(&path).expect("an input"));
        inputs += 1;
    }
    assert!(inputs > 0, "no input in {}", folder.display());
}

#[test]
fn clocks() {
    replay_all("reconcile", reconcile::check);
}

#[test]
fn logs() {
    replay_all("replay", replay::check);
}

#[test]
fn summaries() {
    replay_all("snapshot", snapshot::check);
}

#[test]
fn changes() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions/change");
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder of regressions") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        let bytes = std::fs::read(&path).expect("an input");
        change::check(&bytes);
        // Seeds are changes as Automerge writes them: if one were refused, the fuzzer would begin nowhere.
        let is_seed = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seed-"));
        if is_seed {
            parse(&bytes, &ChangeLimits::DEFAULT).expect("a seed that admission takes");
            seeds += 1;
        }
    }
    assert!(seeds > 0, "no seed in {}", folder.display());
}
