//! A change in Automerge's format, read without a document.

/// The hash by which Automerge names a change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct ChangeHash(pub [u8; 32]);
