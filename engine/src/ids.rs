//! Names of things: documents and hashes. Actors live in [`crate::change`], beside the format that
//! defines them.

use std::fmt;
use std::sync::Arc;

use etherply_wire::limits::DOCUMENT_ID_BYTES_MAX;

/// The name of a document: UTF-8, 1 to [`DOCUMENT_ID_BYTES_MAX`] bytes, no control characters.
///
/// Control characters are refused because a name ends up in logs, in file names of exports, and, followed
/// by a zero byte, in the keys of the log.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentId(Arc<str>);

impl DocumentId {
    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, DocumentIdError> {
        if name.is_empty() {
            return Err(DocumentIdError::Empty);
        }
        if name.len() > DOCUMENT_ID_BYTES_MAX {
            return Err(DocumentIdError::TooLong { bytes: name.len() });
        }
        if name.chars().any(char::is_control) {
            return Err(DocumentIdError::ControlCharacter);
        }
        Ok(Self(Arc::from(name)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Why a text cannot name a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentIdError {
    /// No characters at all.
    #[error("a document needs a name of at least one character")]
    Empty,
    /// Longer than the limit.
    #[error("a document's name may have {DOCUMENT_ID_BYTES_MAX} bytes, this one has {bytes}")]
    TooLong {
        /// Length of the name that was given.
        bytes: usize,
    },
    /// A line break, a tab, a zero byte or the like.
    #[error("a document's name may not contain control characters")]
    ControlCharacter,
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }
    };
}

hash_type! {
    /// Hash over a document's log up to a position: see [`crate::chain`].
    ChainHash
}
