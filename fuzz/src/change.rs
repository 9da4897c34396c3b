//! Changes: admission reads or refuses whatever arrives, and what it takes Automerge takes too.

// A panic is how this code reports.
#![allow(clippy::expect_used)]

use etherply_engine::change::{ChangeLimits, parse, parse_header};
use sha2::{Digest as _, Sha256};

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
const TYPE_CHANGE: u8 = 1;
/// Bytes of magic, checksum and type.
const PREFIX_BYTES: usize = 9;

/// Checks the bytes as they are and, if they begin like a change, with length and checksum put right, so that
/// a mutation gets further than the checksum.
pub fn check(data: &[u8]) {
    check_change(data);
    if let Some(repaired) = repaired(data) {
        check_change(&repaired);
    }
}

fn check_change(bytes: &[u8]) {
    let limits = ChangeLimits::DEFAULT;
    let Ok(change) = parse(bytes, &limits) else { return };
    let header = parse_header(bytes, &limits).expect("a header of a whole change");
    assert_eq!((header.hash, header.seq, header.actor), (change.hash, change.seq, change.actor));
    assert_eq!(change.bytes, bytes);
    change.for_each_reference(|reference| {
        assert!(reference.counter < change.start_op, "a reference to an operation that is not earlier");
        assert!(change.actor_at(reference.actor).is_some(), "a reference to an actor that is not named");
    });
    let theirs = automerge::Change::from_bytes(bytes.to_vec()).expect("a change that admission takes");
    assert_eq!(theirs.hash().0, change.hash.0);
    assert_eq!(theirs.actor_id().to_bytes(), change.actor);
    assert_eq!((theirs.seq(), theirs.start_op().get()), (change.seq, change.start_op));
    assert_eq!((theirs.len() as u64, theirs.max_op()), (change.ops(), change.max_op()));
    let deps: Vec<[u8; 32]> = theirs.deps().iter().map(|hash| hash.0).collect();
    assert_eq!(deps, change.deps.iter().map(|hash| hash.0).collect::<Vec<_>>());
}

/// The same change with the length that its body has and the checksum that belongs to it.
fn repaired(data: &[u8]) -> Option<Vec<u8>> {
    let body = data.get(PREFIX_BYTES..)?;
    if data.first_chunk() != Some(&MAGIC) || data.get(PREFIX_BYTES - 1) != Some(&TYPE_CHANGE) {
        return None;
    }
    let length_bytes = 1 + body.iter().position(|byte| byte & 0x80 == 0)?;
    let body = body.get(length_bytes..)?;
    let mut checked = vec![TYPE_CHANGE];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7F).ok()?;
        length >>= 7;
        checked.push(if length == 0 { low } else { low | 0x80 });
        if length == 0 {
            break;
        }
    }
    checked.extend_from_slice(body);
    let hash = Sha256::digest(&checked);
    Some([&MAGIC[..], hash.get(..4)?, &checked].concat())
}
