//! The golden vectors in `vectors/` are what this crate writes and reads, to the byte.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use etherply_wire::json::FrameJson;
use etherply_wire::vectors::samples;
use etherply_wire::{Frame, Kind};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn files() -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder()).unwrap().map(Result::unwrap);
    let read = |entry: std::fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

#[test]
fn the_files_are_the_samples_and_no_others_are_there() {
    let expected: BTreeMap<_, _> =
        samples().unwrap().iter().flat_map(|vector| vector.files().unwrap()).collect();
    let found = files();
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&found), names(&expected));
    for (name, contents) in &expected {
        assert_eq!(found.get(name), Some(contents), "vectors/{name} differs from its sample");
    }
}

#[test]
fn json_leads_to_the_bytes_and_bytes_to_the_json() {
    let found = files();
    let mut pairs = 0;
    for (name, text) in found.iter().filter(|(name, _)| name.ends_with(".json")) {
        let stem = name.trim_end_matches(".json");
        let bytes = found.get(&format!("{stem}.bin")).expect(name);
        let named: serde_json::Value = serde_json::from_slice(text).unwrap();
        assert_eq!(named.get("name").and_then(|name| name.as_str()), Some(stem));
        let json: FrameJson = serde_json::from_value(named).unwrap();
        assert_eq!(&json.to_bytes().unwrap(), bytes, "{name} encoded");
        assert_eq!(FrameJson::from_bytes(bytes).unwrap(), json, "{stem}.bin decoded");
        pairs += 1;
    }
    assert_eq!(pairs, samples().unwrap().len() - 1, "all but the unknown kind have JSON");
}

#[test]
fn every_kind_has_a_vector() {
    let samples = samples().unwrap();
    let numbers: BTreeSet<u16> =
        samples.iter().filter_map(|vector| vector.json.as_ref()).map(|json| json.kind_number).collect();
    let kinds: BTreeSet<u16> = Kind::ALL.iter().map(|&kind| kind as u16).collect();
    assert_eq!(numbers, kinds);
}

#[test]
fn a_skippable_frame_of_an_unknown_kind_is_passed_over() {
    let bytes = files().remove("unknown_skippable.bin").unwrap();
    assert!(Frame::parse(&bytes).unwrap().is_none());
    assert!(FrameJson::from_bytes(&bytes).is_err());
}
