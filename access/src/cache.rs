//! Tokens that were verified: a storm of reconnects does not pay a signature each.
//!
//! Only those that were believed are kept: forged ones would push them out. What is kept is found by the
//! SHA-256 of the whole token; the oldest goes first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::claims::Verified;

/// Most tokens that a core remembers.
pub const TOKENS_CACHED_MAX: usize = 16_384;
/// Most bytes of tokens, as they came, that a core remembers; what is kept of them takes about as much.
pub const TOKENS_CACHED_BYTES_MAX: usize = 16 * 1024 * 1024;

pub(crate) type Digest = [u8; 32];

#[derive(Debug)]
struct Entry {
    verified: Arc<Verified>,
    bytes: usize,
}

/// The cache.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: HashMap<Digest, Entry>,
    order: VecDeque<Digest>,
    bytes: usize,
}

pub(crate) fn digest(token: &str) -> Digest {
    Sha256::digest(token.as_bytes()).into()
}

impl Cache {
    pub(crate) fn get(&self, digest: &Digest) -> Option<Arc<Verified>> {
        self.entries.get(digest).map(|entry| Arc::clone(&entry.verified))
    }

    pub(crate) fn insert(&mut self, digest: Digest, verified: Arc<Verified>, bytes: usize) {
        if self.entries.insert(digest, Entry { verified, bytes }).is_some() {
            return;
        }
        self.order.push_back(digest);
        self.bytes += bytes;
        while self.order.len() > TOKENS_CACHED_MAX || self.bytes > TOKENS_CACHED_BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.bytes -= entry.bytes;
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::{Audience, Claims, Grants};

    fn verified() -> Arc<Verified> {
        let claims = Claims {
            sub: "ada".to_owned(),
            iss: String::new(),
            aud: Audience::One(String::new()),
            iat: 1,
            nbf: None,
            exp: 2,
            jti: None,
            etherply: Grants::default(),
        };
        Arc::new(claims.resolve().unwrap())
    }

    #[test]
    fn as_many_tokens_are_remembered_as_may_be() {
        let (mut cache, verified) = (Cache::default(), verified());
        for (count, len) in [
            (TOKENS_CACHED_MAX - 1, TOKENS_CACHED_MAX - 1),
            (TOKENS_CACHED_MAX, TOKENS_CACHED_MAX),
            (TOKENS_CACHED_MAX + 1, TOKENS_CACHED_MAX),
        ] {
            for n in cache.len()..count {
                cache.insert(digest(&n.to_string()), Arc::clone(&verified), 1);
            }
            assert_eq!((cache.len(), cache.order.len(), cache.bytes), (len, len, len));
        }
        assert!(cache.get(&digest("0")).is_none(), "the oldest has gone");
        assert!(cache.get(&digest("1")).is_some());
    }

    #[test]
    fn as_many_bytes_are_remembered_as_may_be() {
        let (mut cache, verified) = (Cache::default(), verified());
        let half = TOKENS_CACHED_BYTES_MAX / 2;
        cache.insert(digest("a"), Arc::clone(&verified), half);
        cache.insert(digest("b"), Arc::clone(&verified), half);
        cache.insert(digest("b"), Arc::clone(&verified), half);
        assert_eq!((cache.len(), cache.bytes), (2, TOKENS_CACHED_BYTES_MAX));
        cache.insert(digest("c"), verified, 1);
        assert_eq!((cache.len(), cache.bytes), (2, half + 1));
        assert!(cache.get(&digest("a")).is_none() && cache.get(&digest("c")).is_some());
    }
}
