//! Who wrote a change: the actor id, kept without a heap allocation at its usual length.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use super::error::ChangeError;

// Automerge makes ids of 16 bytes, and of a few more for an edit that was made on an old version of the
// document.
pub use etherply_wire::limits::ACTOR_BYTES_MAX;

/// Longest actor id that is kept without a heap allocation, in bytes.
pub const ACTOR_INLINE_BYTES: usize = 32;

/// An Automerge actor id: 1 to [`ACTOR_BYTES_MAX`] bytes, ordered bytewise.
///
/// It borrows as `[u8]`, so that a map with `ActorId` keys can be asked with the bytes from a change.
#[derive(Clone)]
pub struct ActorId(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; ACTOR_INLINE_BYTES] },
    Boxed(Box<[u8]>),
}

impl ActorId {
    /// Copies an actor id.
    ///
    /// # Errors
    /// [`ChangeError::ActorLength`] if it is empty or longer than [`ACTOR_BYTES_MAX`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ChangeError> {
        if bytes.is_empty() || bytes.len() > ACTOR_BYTES_MAX {
            return Err(ChangeError::ActorLength { bytes: bytes.len(), max: ACTOR_BYTES_MAX });
        }
        Ok(Self::from_checked(bytes))
    }

    /// For bytes whose length was checked when they were read.
    pub(super) fn from_checked(bytes: &[u8]) -> Self {
        let mut inline = [0; ACTOR_INLINE_BYTES];
        match (inline.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(target), Ok(len)) => {
                target.copy_from_slice(bytes);
                Self(Repr::Inline { len, bytes: inline })
            }
            _ => Self(Repr::Boxed(bytes.into())),
        }
    }

    /// The id's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            // `len` never exceeds the array: see `from_checked`.
            Repr::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Repr::Boxed(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for ActorId {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Borrow<[u8]> for ActorId {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for ActorId {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for ActorId {}

impl PartialOrd for ActorId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ActorId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for ActorId {
    // As a slice hashes, which `Borrow<[u8]>` asks for.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorId({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;

    #[test]
    fn lengths_at_their_limits() {
        assert_eq!(
            ActorId::from_slice(&[]),
            Err(ChangeError::ActorLength { bytes: 0, max: ACTOR_BYTES_MAX })
        );
        for len in
            [1, 16, ACTOR_INLINE_BYTES - 1, ACTOR_INLINE_BYTES, ACTOR_INLINE_BYTES + 1, ACTOR_BYTES_MAX - 1]
        {
            let bytes = vec![0xab; len];
            assert_eq!(ActorId::from_slice(&bytes).unwrap().as_bytes(), bytes);
        }
        assert!(ActorId::from_slice(&[1; ACTOR_BYTES_MAX]).is_ok());
        assert!(ActorId::from_slice(&[1; ACTOR_BYTES_MAX + 1]).is_err());
        assert!(size_of::<ActorId>() <= 40);
    }

    #[test]
    fn ordered_and_found_by_bytes() {
        let ids = [&[1; 40][..], &[1, 2], &[1], &[2; 33], &[0; 16]];
        let set: BTreeSet<_> = ids.iter().map(|bytes| ActorId::from_slice(bytes).unwrap()).collect();
        let mut sorted = ids;
        sorted.sort_unstable();
        assert!(set.iter().map(ActorId::as_bytes).eq(sorted));

        let map: HashMap<ActorId, usize> =
            ids.iter().enumerate().map(|(i, bytes)| (ActorId::from_slice(bytes).unwrap(), i)).collect();
        for (i, bytes) in ids.iter().enumerate() {
            assert_eq!(map.get(*bytes), Some(&i));
        }
        assert_eq!(ActorId::from_slice(&[0xab, 1]).unwrap().to_string(), "ab01");
    }
}
