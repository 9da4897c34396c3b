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

/// A constant of a source file: its name and its value as it is written there.
fn constant(line: &str) -> Option<(&str, &str)> {
    let declared = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(super) ");
    let (name, rest) = declared.strip_prefix("const ")?.split_once(':')?;
    Some((name, rest.split_once(" = ")?.1.strip_suffix(';')?))
}

/// Sections of docs/limits.md: the file that each is about, and its rows, name and value.
fn limits(page: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let mut sections: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
    for line in page.lines() {
        if let Some(path) = line.strip_prefix("In `").and_then(|rest| rest.split('`').next()) {
            sections.push((path, Vec::new()));
        } else if let Some((name, rest)) = line.strip_prefix("| `").and_then(|row| row.split_once("` | `")) {
            let (value, _) = rest.split_once("` | ").unwrap_or_else(|| panic!("{line}"));
            sections.last_mut().unwrap().1.push((name, value));
        }
    }
    sections
}

fn is_limit(name: &str) -> bool {
    ["_MAX", "_MIN", "_BYTES", "_MS", "_US", "_S"].iter().any(|unit| name.ends_with(unit))
}

#[test]
fn every_limit_is_documented_with_its_value_and_nothing_else_is() {
    let page = read("docs/limits.md");
    for (path, rows) in limits(&page) {
        let source = read(path);
        for line in source.lines().filter(|line| line.trim_start().starts_with("pub const ")) {
            let Some((name, value)) = constant(line).filter(|(name, _)| is_limit(name)) else { continue };
            assert!(rows.contains(&(name, value)), "{path}: docs/limits.md lacks {name} = {value}");
        }
        let constants: Vec<_> = source.lines().filter_map(constant).collect();
        for row in rows {
            assert!(constants.contains(&row), "docs/limits.md says {row:?}, and {path} does not");
        }
    }
}

#[test]
fn every_file_with_limits_has_its_place_on_the_page() {
    let page = read("docs/limits.md");
    let known: Vec<_> = limits(&page).into_iter().map(|(path, _)| path).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut open: Vec<_> =
        ["wire", "engine", "access", "server", "client"].map(|part| root.join(part).join("src")).into();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
        for line in source.lines().filter(|line| line.starts_with("pub const ")) {
            let limit = constant(line).filter(|(name, _)| name.ends_with("_MAX") || name.ends_with("_MIN"));
            assert!(
                limit.is_none() || known.contains(&name),
                "docs/limits.md has no place for {name}: {line}"
            );
        }
    }
}
