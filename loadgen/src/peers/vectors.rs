//! Bytes that the peers' own libraries made, for tests: `loadgen/peers/vectors.json`, which `vectors.mjs` beside it
//! writes.

use serde_json::Value;

const VECTORS: &str = include_str!("../../peers/vectors.json");

/// The bytes of this name.
pub fn vector(peer: &str, name: &str) -> Vec<u8> {
    let all: Value = serde_json::from_str(VECTORS).unwrap();
    let hex = all[peer][name].as_str().unwrap_or_else(|| panic!("no vector {peer}.{name}"));
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
