//! Does the server's history of a replayed document say what the recording says?

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use automerge::{AutoCommit, Change};
use serde::Deserialize;
use serde_json::Value;

use crate::random::Random;
use crate::scenario::host::Host;
use crate::trace::changes::{ENCODING, Edits, KEY, text_in};
use crate::verify::unhex;

/// Changes that are asked for at once: all.
const LINES: &str = "100000000";

/// A line of `etherply history list --json`, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Line {
    position: u64,
    hash: String,
}

/// Asks a stopped server's data directory for a document's history, and for its state at so many random
/// positions; returns at how many the text is what the changes up to there make of it. They are applied here one
/// after the other, to a document that never saw the server. Of a recording by one agent, the order has
/// to be the recorded one.
pub fn check(host: &Host, name: &str, edits: &Edits, positions: u32, seed: u64) -> Result<u32> {
    let listed = host.ask(&["history", "list", "--document", name, "--count", LINES, "--json"])?;
    let mut order = Vec::new();
    for (line, position) in listed.lines().zip(1..) {
        let line: Line = serde_json::from_str(line).context("a line of the history is not readable")?;
        ensure!(line.position == position, "position {} follows {}", line.position, position - 1);
        let hash = unhex(&line.hash)?;
        order.push(edits.number_of(&hash).context("the history has a change that is not of this recording")?);
    }
    let all: HashSet<u32> = order.iter().copied().collect();
    let count = edits.made.len();
    ensure!(
        order.len() == count && all.len() == count,
        "the history has {} changes, {} different ones, of {count}",
        order.len(),
        all.len()
    );
    ensure!(edits.agents > 1 || order.is_sorted(), "the history is not in the order of the recording");

    // The text is made by the first change.
    let mut random = Random::new(seed);
    let mut wanted: Vec<usize> =
        (0..positions).map(|_| usize::try_from(random.below(count as u64)).unwrap_or(0) + 1).collect();
    wanted.sort_unstable();
    let at: Vec<String> = wanted.iter().map(usize::to_string).collect();
    let shown = host.ask(&["history", "show", "--document", name, "--at", &at.join(",")])?;
    ensure!(shown.lines().count() == wanted.len(), "the history does not show all positions");
    let mut document = AutoCommit::new_with_encoding(ENCODING);
    let (mut applied, mut right) = (0, 0);
    for (line, position) in shown.lines().zip(wanted) {
        let changes: Result<Vec<Change>> = order
            .get(applied..position)
            .unwrap_or_default()
            .iter()
            .map(|&number| {
                let made = edits.made.get(number as usize).context("a change that was not made")?;
                Ok(Change::try_from(&*made.bytes)?)
            })
            .collect();
        document.apply_changes(changes?)?;
        applied = position;
        let state: Value = serde_json::from_str(line).context("a state is not JSON")?;
        right += u32::from(state.get(KEY).and_then(Value::as_str) == Some(&text_in(&document)?));
    }
    Ok(right)
}
