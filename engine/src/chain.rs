//! The chain: one hash that stands for a document's whole log up to a position.
//!
//! `chain(0) = SHA-256("etherply-chain-1" | epoch | document)`,
//! `chain(n) = SHA-256(chain(n-1) | n | hash of change n)`, integers little-endian. A resume cursor carries
//! it, so that a copied or rolled-back data directory, where the same position means another change, is
//! noticed; the log stores it with every record, so that a missing or swapped record is noticed as well.

use sha2::{Digest, Sha256};

use crate::change::ChangeHash;
use crate::ids::{ChainHash, DocumentId};

const DOMAIN: &[u8] = b"etherply-chain-1";

/// The chain of a document of which nothing is logged yet.
pub fn chain_start(document: &DocumentId, epoch: u64) -> ChainHash {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update(epoch.to_le_bytes());
    hash.update(document.as_str().as_bytes());
    ChainHash(hash.finalize().into())
}

/// The chain after one more change, which stands at position `seq`.
pub fn chain_next(previous: &ChainHash, seq: u64, change: &ChangeHash) -> ChainHash {
    let mut hash = Sha256::new();
    hash.update(previous.0);
    hash.update(seq.to_le_bytes());
    hash.update(change.0);
    ChainHash(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_depends_on_everything_before_it() {
        let document = DocumentId::new("a").unwrap();
        let other = DocumentId::new("b").unwrap();
        let (x, y) = (ChangeHash([1; 32]), ChangeHash([2; 32]));
        let start = chain_start(&document, 1);
        assert_ne!(start, chain_start(&document, 2));
        assert_ne!(start, chain_start(&other, 1));
        let xy = chain_next(&chain_next(&start, 1, &x), 2, &y);
        let yx = chain_next(&chain_next(&start, 1, &y), 2, &x);
        assert_ne!(xy, yx);
        assert_ne!(chain_next(&start, 1, &x), chain_next(&start, 2, &x));
    }

    #[test]
    fn the_chain_of_a_known_log_never_changes() {
        // Clients keep it in their cursors and disks in their records: a new value here is a new format.
        let start = chain_start(&DocumentId::new("rooms/42").unwrap(), 1);
        let next = chain_next(&start, 1, &ChangeHash([7; 32]));
        assert_eq!(start.to_string(), "2c6dce2eb37361b20d71ec124a5d4542de0a7cff1c4fc32768d387c108aef139");
        assert_eq!(next.to_string(), "677c3513ea698c489ef24af60e6c083f63296e74af2813cc7ac85d8cd1cfbbc6");
    }
}
