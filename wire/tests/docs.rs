//! The reference pages name everything that the code has.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

use etherply_wire::ErrorCode;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

#[test]
fn every_error_code_is_documented_as_it_is() {
    let page = read("docs/errors.md");
    for &code in ErrorCode::ALL {
        let begins = format!("| {} | `{}` |", code as u16, code.name());
        let row = page.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("{begins}"));
        let again = if code.is_retryable() { "yes" } else { "no" };
        assert!(row.ends_with(&format!("| {again} | {} |", code.close_code())), "{row}");
    }
}

#[test]
fn every_limit_is_documented_with_its_value() {
    let page = read("docs/limits.md");
    for path in page.lines().filter_map(|line| line.strip_prefix("In `")?.strip_suffix("`.")) {
        let source = read(path);
        for line in source.lines().filter(|line| line.trim_start().starts_with("pub const ")) {
            let Some((name, value)) = line.trim_start()["pub const ".len()..].split_once(" = ") else {
                continue;
            };
            let name = name.split(':').next().unwrap();
            if !["_MAX", "_MIN", "_BYTES", "_MS", "_US", "_S"].iter().any(|unit| name.ends_with(unit)) {
                continue;
            }
            let row = format!("| `{name}` | `{}` |", value.trim_end_matches(';'));
            assert!(page.contains(&row), "{path}: docs/limits.md lacks {row}");
        }
    }
}
