//! Which shard is a document's home.

use crate::ids::DocumentId;

/// The home of a document among `shards` of them; 0 if there are none.
///
/// FNV-1a (64 bit, by Fowler, Noll and Vo) with a final mix, then the high half of a multiplication instead
/// of a remainder. Nothing is stored by shard, so the function may change between releases.
pub fn shard_of(document: &DocumentId, shards: u16) -> u16 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in document.as_str().as_bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let scaled = (u128::from(hash) * u128::from(shards)) >> 64;
    u16::try_from(scaled).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_spread_evenly() {
        for shards in [1_u16, 2, 3, 8, 64] {
            let mut counts = vec![0_u32; usize::from(shards)];
            for n in 0..10_000 {
                let document = DocumentId::new(&format!("rooms/{n}")).unwrap();
                counts[usize::from(shard_of(&document, shards))] += 1;
            }
            let fair = 10_000 / u32::from(shards);
            let worst = counts.iter().map(|&count| count.abs_diff(fair)).max().unwrap();
            assert!(worst <= 50 + fair / 5, "{shards} shards: {counts:?}");
        }
    }
}
