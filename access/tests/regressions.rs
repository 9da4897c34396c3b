//! Every input that ever broke the reading of tokens and patterns, replayed: see fuzz/README.md.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "../../fuzz/src/pattern.rs"]
mod pattern;
#[path = "../../fuzz/src/token.rs"]
mod token;

use std::path::PathBuf;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder of regressions") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        check(&std::fs::read(&path).expect("an input"));
        count += 1;
    }
    assert!(count > 0, "no input in {}", folder.display());
}

#[test]
fn tokens() {
    replay("token", token::check);
}

#[test]
fn patterns() {
    replay("pattern", pattern::check);
}
