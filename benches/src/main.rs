//! `etherply-instructions CASE TIMES`: does one step of the data path so many times. `cargo xtask instructions` counts
//! the processor's instructions of two runs, and so knows those of one step, whatever the start of the program takes.
#![allow(clippy::unwrap_used, reason = "a benchmark ends where it cannot go on")]

use std::process::ExitCode;

use etherply_benches::author::Author;
use etherply_benches::map_edits;
use etherply_benches::room::Room;
use etherply_engine::change::{ChangeLimits, parse};
use etherply_engine::document::{Document, Resolved};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{FIRST_EPOCH, Log as _};
use etherply_engine::outgoing::Outgoing;
use etherply_wire::kinds::{Changes, Cursor};

/// Changes that are made beforehand, whatever the number of steps: making them is no part of a step.
const CHANGES: usize = 1_000;
/// Bytes of the value that a change puts, as in the comparison.
const VALUE_BYTES: usize = 48;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (case, times) = (arguments.next().unwrap_or_default(), arguments.next());
    let Some(times) = times.and_then(|times| times.parse().ok()).filter(|times| *times <= CHANGES) else {
        eprintln!(
            "usage: etherply-instructions encode|check|admit|commit|edit-10|edit-100 TIMES (up to {CHANGES})"
        );
        return ExitCode::from(2);
    };
    match case.as_str() {
        "encode" => encode(times),
        "check" => check(times),
        "admit" => admit(times),
        "commit" => commit(times),
        "edit-10" => edit(10, times),
        "edit-100" => edit(100, times),
        _ => {
            eprintln!("there is no step {case}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// A change becomes the frame that every member is sent, for both transports.
fn encode(times: usize) {
    let change = map_edits(1, VALUE_BYTES).unwrap().remove(0);
    let lengths = vec![u32::try_from(change.len()).unwrap()];
    let changes = Changes { after_seq: 41, cursor: Cursor { epoch: 1, seq: 42, chain: [7; 32] }, lengths };
    for _ in 0..times {
        std::hint::black_box(Outgoing::new(3, std::hint::black_box(&changes), &[&change]));
    }
}

/// A change is looked at by itself: header, hash, operations.
fn check(times: usize) {
    let change = map_edits(1, VALUE_BYTES).unwrap().remove(0);
    for _ in 0..times {
        std::hint::black_box(parse(std::hint::black_box(&change), &ChangeLimits::DEFAULT).unwrap().ops());
    }
}

/// The same, and it is taken into its document.
fn admit(times: usize) {
    let (limits, resolved) = (ChangeLimits::DEFAULT, Resolved::default());
    let mut document = Document::new(DocumentId::new("bench").unwrap(), FIRST_EPOCH);
    for change in map_edits(CHANGES, VALUE_BYTES).unwrap().into_iter().take(times) {
        let admitted = document.admit(&[change.as_slice()], &limits, &resolved).unwrap();
        document.commit(admitted.cursor);
    }
}

/// A commit of one record to the log, with its sync.
fn commit(times: usize) {
    let directory = tempfile::tempdir_in(".").unwrap();
    let mut log = etherply_server::storage::open(&directory.path().join("data")).unwrap();
    let mut author = Author::several(1).remove(0);
    for _ in 0..times {
        log.commit(&[author.append()]).unwrap();
    }
}

/// An edit of one member that all others get: admission, commit as the engine sees it, ack, deliveries.
fn edit(members: u64, times: usize) {
    let mut room = Room::new(members, 1);
    for change in map_edits(CHANGES, VALUE_BYTES).unwrap().into_iter().take(times) {
        room.push(&change);
    }
}
