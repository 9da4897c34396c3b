//! Replays the inputs that are kept of a target: the tests of the crates that own the code include this.

use std::path::PathBuf;

/// Calls a check with every input in `fuzz/regressions/TARGET` and its name.
pub fn replay(target: &str, mut check: impl FnMut(&[u8], &str)) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder of regressions") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        check(&std::fs::read(&path).expect("an input"), &name);
        inputs += 1;
    }
    assert!(inputs > 0, "no input in {}", folder.display());
}
