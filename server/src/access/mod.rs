//! Who may open what: keys and revocations of this server, and the gate at which each core asks for tokens.
//!
//! What a token grants is worked out here once, when a document is opened or a grant is renewed; from then on the
//! engine holds every request against the stream's rights.
//!
//! ```text
//! keys         keys from files
//! remote       keys from a URL, kept up to date
//! fetch        one request for them
//! url          where they may come from
//! live         the keys that count now
//! revocations  what was revoked, durable
//! ```

pub mod fetch;
pub mod keys;
pub mod live;
pub mod remote;
pub mod revocations;
pub mod url;

use std::sync::Arc;

use etherply_access::{Expected, Reason, Refused, Verifier};
use etherply_engine::access::{FORBIDDEN, Grant};
use etherply_engine::ids::DocumentId;
use etherply_wire::{ErrorCode, Rights};

use crate::clock::now_ms;
use live::Keys;
use revocations::Revocations;

/// What the cores' gates are made of.
#[derive(Debug, Clone)]
pub struct Access {
    /// Keys of tokens; without any, no tokens are asked for.
    pub keys: Arc<Keys>,
    /// What tokens have to say of themselves.
    pub expected: Expected,
    /// What was revoked.
    pub revocations: Arc<Revocations>,
}

/// Where one core asks for tokens. Not shared: what it remembers needs no lock.
#[derive(Debug)]
pub struct Gate {
    verifier: Option<Verifier>,
    keys: Arc<Keys>,
    /// Which keys the verifier has.
    version: u64,
    revocations: Arc<Revocations>,
}

/// Why somebody does not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// The code.
    pub code: ErrorCode,
    /// The same for people.
    pub message: &'static str,
    /// For the metrics: how tokens are refused.
    pub counted: Option<&'static str>,
}

const REQUIRED: Denied = Denied {
    code: ErrorCode::TokenRequired,
    message: "this server asks for a token: open the document with one",
    counted: Some("missing"),
};
// One text for all: whoever forges tokens learns nothing from it. The server's log has the reason (debug).
const INVALID: Denied = Denied {
    code: ErrorCode::TokenInvalid,
    message: "the token cannot be used: ask for another one",
    counted: Some("invalid"),
};
const EXPIRED: Denied = Denied {
    code: ErrorCode::TokenExpired,
    message: "the token's time is over: ask for a new one",
    counted: Some("expired"),
};
const REVOKED: Denied = Denied {
    code: ErrorCode::TokenRevoked,
    message: "the token was revoked: ask for another one",
    counted: Some("revoked"),
};
// Not for good: the key that it names may be in the set that is fetched next.
const KEYS_UNAVAILABLE: Denied = Denied {
    code: ErrorCode::KeysUnavailable,
    message: "the server does not have the key of this token yet, and fetches keys: try again in a moment",
    counted: Some("unknown_key"),
};
const OTHER_SUBJECT: Denied = Denied {
    code: ErrorCode::TokenInvalid,
    message: "a connection belongs to one subject, and this token is another's: use a connection of its own",
    counted: Some("other_subject"),
};
const NOT_GRANTED: Denied = Denied { code: ErrorCode::Forbidden, message: FORBIDDEN, counted: None };

/// The time, in seconds since 1970.
pub fn now_s() -> u64 {
    now_ms() / 1_000
}

impl Gate {
    /// A core's own.
    pub fn new(access: &Access) -> Self {
        let Access { keys, expected, revocations } = access.clone();
        // Before the keys: those of a later version are taken again at worst.
        let version = keys.version();
        let verifier = keys.asks().then(|| Verifier::new(keys.current(), expected));
        Self { verifier, keys, version, revocations }
    }

    /// Whether it asks for tokens at all.
    pub fn asks(&self) -> bool {
        self.verifier.is_some()
    }

    /// What somebody may do with a document of what is wanted. A connection's first token says whose it is from
    /// then on.
    ///
    /// # Errors
    /// [`Denied`], which says the same of a document that is not there.
    pub fn grant(
        &mut self,
        token: Option<&str>,
        subject: &mut Option<Arc<str>>,
        document: &DocumentId,
        wanted: Rights,
        now_ms: u64,
    ) -> Result<Grant, Denied> {
        let Some(verifier) = &mut self.verifier else { return Ok(Grant::anonymous()) };
        let token = token.ok_or(REQUIRED)?;
        let version = self.keys.version();
        if version != self.version {
            self.version = version;
            verifier.set_keys(self.keys.current());
        }
        let verified = verifier.verify(token, now_ms).map_err(|refused| match refused {
            Refused::Expired => EXPIRED,
            Refused::Invalid(Reason::Key) if self.keys.may_come() => KEYS_UNAVAILABLE,
            Refused::Invalid(reason) => {
                tracing::debug!("a token is refused: {reason}");
                INVALID
            }
        })?;
        let identity = &verified.identity;
        if subject.as_ref().is_some_and(|subject| *subject != identity.subject) {
            return Err(OTHER_SUBJECT);
        }
        if self.revocations.hits(identity, document) {
            return Err(REVOKED);
        }
        subject.get_or_insert_with(|| Arc::clone(&identity.subject));
        let grant = verified.grant(document.as_str());
        if grant.rights.and(wanted).is_empty() {
            return Err(NOT_GRANTED);
        }
        Ok(grant)
    }

    /// Whether a grant was taken back since it was given: it may have been on its way.
    pub fn is_revoked(&self, grant: &Grant, document: &DocumentId) -> bool {
        self.revocations.hits(&grant.identity, document)
    }
}
