//! The `change` target's own alterations: a change of the input is taken apart into its header and rows, altered, and
//! put together with a length and a checksum that fit, by the code that alters changes in the engine's tests.

// A panic is how the tests' code reports, and none of it is reached by a change that admission reads.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::cast_possible_truncation)]

#[allow(dead_code, reason = "the tests of changes use the rest")]
#[path = "../../engine/tests/change/image.rs"]
mod image;
#[path = "../../engine/tests/change/mutate.rs"]
mod mutate;
#[allow(dead_code, reason = "the tests of changes use the rest")]
#[path = "../../engine/tests/change/rng.rs"]
mod rng;

use etherply_engine::change::{ChangeLimits, parse};
use image::Image;
use rng::Rng;

use crate::change::pieces;

/// Most operations of a change that is taken apart: few bytes may claim very many.
const OPS_MAX: u64 = 1_000;

/// An altered copy of an input, unless it is left to the fuzzer's own ways or is longer than `bytes_max`.
pub fn alter(input: &[u8], bytes_max: usize, seed: u32) -> Option<Vec<u8>> {
    let mut rng = Rng(u64::from(seed));
    if rng.one_in(4) {
        return None;
    }
    let pieces = pieces(input);
    let last = pieces.len().checked_sub(1)?;
    // What builds upon an altered change is refused, so that is mostly the last one.
    let at = if rng.one_in(4) { rng.below(pieces.len()) } else { last };
    let chunk = pieces[at];
    let change = parse(chunk, &ChangeLimits::DEFAULT).ok().filter(|change| change.ops() <= OPS_MAX)?;
    let altered = if rng.one_in(3) {
        // The same author does the like once more.
        let mut next = Image::decode(chunk);
        (next.deps, next.seq, next.start_op) = (vec![change.hash.0], change.seq + 1, change.max_op() + 1);
        [chunk, &next.encode()].concat()
    } else {
        mutate::mutate(&mut rng, chunk)
    };
    let output = [pieces[..at].concat(), altered, pieces[at + 1..].concat()].concat();
    (output.len() <= bytes_max).then_some(output)
}
