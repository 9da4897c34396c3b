//! What a token says, and what follows from it once it is believed.

use std::sync::Arc;

use etherply_engine::access::{
    Grant, Identity, Pattern, PatternError, SUBJECT_BYTES_MAX, TOKEN_ID_BYTES_MAX,
};
use etherply_wire::Rights;
use serde::{Deserialize, Serialize};

/// Most patterns that one token grants rights on.
pub const GRANTS_MAX: usize = 256;

/// A token's claims. Times are whole seconds since 1970; claims that are not named here mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whose token it is: 1 to [`SUBJECT_BYTES_MAX`] bytes, without control characters.
    pub sub: String,
    /// Who made it.
    pub iss: String,
    /// Whom it is for.
    pub aud: Audience,
    /// When it was made.
    pub iat: u64,
    /// From when on it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Until when it is good.
    pub exp: u64,
    /// Its id, by which it can be revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// What it grants.
    pub etherply: Grants,
}

/// Whom a token is for: one, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Audience {
    /// Whether it is for this one.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Several(several) => several.iter().any(|one| one == name),
        }
    }
}

/// Patterns of documents, by what may be done with them: see [`etherply_engine::access::Pattern`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Receive the document.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
    /// Change it, and so receive it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<String>,
    /// Take part in presence and broadcasts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub presence: Vec<String>,
    /// Bring changes that others wrote, and so change it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub import: Vec<String>,
    /// Administer it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub admin: Vec<String>,
}

/// Why claims cannot be used, whoever signed them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The subject is no name.
    #[error("a subject has 1 to {SUBJECT_BYTES_MAX} bytes, without control characters")]
    Subject,
    /// The id is too long.
    #[error("a token's id has 1 to {TOKEN_ID_BYTES_MAX} bytes, without control characters")]
    Id,
    /// Times that make no sense.
    #[error("a token ends after it was made")]
    Times,
    /// More patterns than the limit.
    #[error("a token may grant rights on {GRANTS_MAX} patterns")]
    TooMany,
    /// Not a pattern.
    #[error("{text:?} is no pattern: {error}")]
    Pattern {
        /// The text.
        text: String,
        /// What is wrong with it.
        error: PatternError,
    },
}

/// A token that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is.
    pub identity: Arc<Identity>,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
    /// When it begins, in milliseconds since 1970.
    pub(crate) begins_ms: u64,
    grants: Box<[(Pattern, Rights)]>,
}

impl Verified {
    /// What it grants on a document, which may be nothing.
    pub fn grant(&self, document: &str) -> Grant {
        let fits = self.grants.iter().filter(|(pattern, _)| pattern.matches(document));
        let rights = fits.fold(Rights::NONE, |rights, (_, more)| rights.with(*more));
        Grant { rights, expires_ms: self.expires_ms, identity: Arc::clone(&self.identity) }
    }
}

impl Claims {
    /// Checks what can be checked without a clock, and resolves the patterns.
    ///
    /// # Errors
    /// [`Unusable`]
    pub fn resolve(&self) -> Result<Verified, Unusable> {
        let is_name =
            |name: &str, max: usize| (1..=max).contains(&name.len()) && !name.chars().any(char::is_control);
        if !is_name(&self.sub, SUBJECT_BYTES_MAX) {
            return Err(Unusable::Subject);
        }
        if self.jti.as_deref().is_some_and(|id| !is_name(id, TOKEN_ID_BYTES_MAX)) {
            return Err(Unusable::Id);
        }
        let expires_ms =
            self.exp.checked_mul(1_000).filter(|_| self.exp > self.iat).ok_or(Unusable::Times)?;
        let begins_s = self.nbf.map_or(self.iat, |nbf| nbf.max(self.iat));
        let begins_ms = begins_s.checked_mul(1_000).ok_or(Unusable::Times)?;
        let write = Rights::READ.with(Rights::WRITE);
        let Grants { read, write: writes, presence, import, admin } = &self.etherply;
        let all = [
            (read, Rights::READ),
            (writes, write),
            (presence, Rights::PRESENCE),
            (import, write.with(Rights::IMPORT)),
            (admin, Rights::ADMIN),
        ];
        if all.iter().map(|(texts, _)| texts.len()).sum::<usize>() > GRANTS_MAX {
            return Err(Unusable::TooMany);
        }
        let texts = all.iter().flat_map(|(texts, rights)| texts.iter().map(|text| (text, *rights)));
        let grants = texts.map(|(text, rights)| match Pattern::new(text) {
            Ok(pattern) => Ok((pattern, rights)),
            Err(error) => Err(Unusable::Pattern { text: text.clone(), error }),
        });
        let token = self.jti.as_deref().unwrap_or_default();
        let identity =
            Identity { subject: self.sub.as_str().into(), token: token.into(), issued_s: self.iat };
        Ok(Verified {
            identity: Arc::new(identity),
            expires_ms,
            begins_ms,
            grants: grants.collect::<Result<_, _>>()?,
        })
    }
}
