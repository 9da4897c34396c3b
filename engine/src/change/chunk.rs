//! The frame around a change: magic bytes, checksum, type, length. No decompression happens here or
//! anywhere below: a deflated chunk is refused by its type.

use std::fmt;

use sha2::{Digest, Sha256};

use super::{
    error::{ChangeError, Fault, HeaderPart},
    leb::Reader,
};

/// The first bytes of each Automerge chunk.
const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
/// Bytes of the checksum, which is the beginning of the hash.
const CHECKSUM_BYTES: u64 = 4;
/// Where the hashed part begins: at the chunk's type, after magic bytes and checksum.
const HASHED_FROM: usize = 8;
const TYPE_CHANGE: u8 = 1;
const TYPE_DEFLATED_CHANGE: u8 = 2;

/// Bytes of a change's hash.
pub const CHANGE_HASH_BYTES: usize = 32;

/// The SHA-256 hash that names a change.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChangeHash(pub [u8; CHANGE_HASH_BYTES]);

impl fmt::Display for ChangeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChangeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChangeHash({self})")
    }
}

/// Takes the frame off exactly one change chunk that fills `bytes`: its hash and its body.
///
/// The length comes from the sender, so nothing is hashed before it agrees with what was received.
pub(super) fn unframe(bytes: &[u8]) -> Result<(ChangeHash, &[u8]), ChangeError> {
    let frame = |fault| ChangeError::Header { part: HeaderPart::Frame, fault };
    let mut input = Reader::new(bytes);
    if input.take(MAGIC.len() as u64).map_err(frame)? != MAGIC {
        return Err(ChangeError::BadMagic);
    }
    let checksum = input.take(CHECKSUM_BYTES).map_err(frame)?;
    match input.byte().map_err(frame)? {
        TYPE_CHANGE => {}
        TYPE_DEFLATED_CHANGE => return Err(ChangeError::Deflated),
        found => return Err(ChangeError::NotAChange { found }),
    }
    let len = input.unsigned().map_err(frame)?;
    let body = input.take(len).map_err(frame)?;
    if !input.is_empty() {
        return Err(ChangeError::TrailingBytes);
    }
    let hashed = bytes.get(HASHED_FROM..).ok_or(frame(Fault::Truncated))?;
    let hash = ChangeHash(Sha256::digest(hashed).into());
    if hash.0.starts_with(checksum) { Ok((hash, body)) } else { Err(ChangeError::Checksum) }
}
