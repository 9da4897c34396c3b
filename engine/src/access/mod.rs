//! Who may do what with which document: patterns of names, grants, revocations.
//!
//! A grant is resolved when a stream is opened or renewed; from then on it is a small set of bits beside the
//! stream, and the time at which it ends. Signatures and keys are not known here.

mod pattern;
mod revocation;

pub use pattern::{PATTERN_BYTES_MAX, Pattern, PatternError};
pub use revocation::{Revocation, Revoked};

use std::sync::{Arc, LazyLock};

use etherply_wire::Rights;

use crate::record::PUSHER_BYTES_MAX;

/// Longest name of a subject: it is stored with each change.
pub const SUBJECT_BYTES_MAX: usize = PUSHER_BYTES_MAX;
/// Longest id of a token.
pub const TOKEN_ID_BYTES_MAX: usize = 128;

/// What is said to those who may not know whether there is a document: the same in either case.
pub const FORBIDDEN: &str =
    "there is no such document for this token: ask for one that grants the rights wanted";

/// Who acts, and by which token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The subject, empty for an anonymous one; at most [`SUBJECT_BYTES_MAX`] bytes.
    pub subject: Arc<str>,
    /// The token's id, empty if it has none; at most [`TOKEN_ID_BYTES_MAX`] bytes.
    pub token: Arc<str>,
    /// When the token was issued, in seconds since 1970.
    pub issued_s: u64,
}

/// What somebody may do with one document, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The rights, whatever of them is asked for.
    pub rights: Rights,
    /// When they end, in milliseconds since 1970; 0 for never.
    pub expires_ms: u64,
    /// Whose they are.
    pub identity: Arc<Identity>,
}

/// Whether somebody with these rights may know where a document's log stands: a writer has to, to write.
pub(crate) fn knows_log(rights: Rights) -> bool {
    !rights.and(Rights::READ.with(Rights::WRITE)).is_empty()
}

static ANONYMOUS: LazyLock<Arc<Identity>> = LazyLock::new(|| {
    let nobody: Arc<str> = Arc::from("");
    Arc::new(Identity { subject: Arc::clone(&nobody), token: nobody, issued_s: 0 })
});

impl Grant {
    /// Everything but administration, to nobody in particular: where no tokens are asked for.
    pub fn anonymous() -> Self {
        let rights = Rights::READ.with(Rights::WRITE).with(Rights::PRESENCE).with(Rights::IMPORT);
        Self { rights, expires_ms: 0, identity: Arc::clone(&ANONYMOUS) }
    }

    /// Whether its time is over.
    pub fn has_expired(&self, wall_ms: u64) -> bool {
        self.expires_ms != 0 && wall_ms >= self.expires_ms
    }
}
