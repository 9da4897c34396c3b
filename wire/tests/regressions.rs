//! Every input that ever broke something here, replayed: see fuzz/README.md.

#![allow(clippy::expect_used)]

#[path = "../../fuzz/src/frame.rs"]
mod frame;
#[path = "../../fuzz/src/upgrade.rs"]
mod upgrade;
#[path = "../../fuzz/src/websocket.rs"]
mod websocket;

use std::path::PathBuf;

fn replay(target: &str, check: fn(&[u8])) {
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
fn frames() {
    replay("frame", frame::check);
}

#[test]
fn upgrades() {
    replay("upgrade", upgrade::check);
}

#[test]
fn websocket_streams() {
    replay("websocket", websocket::check);
}
