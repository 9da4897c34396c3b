//! Whether a token is believed.
//!
//! The order is: form, key, signature, and only then what it says. Whoever cannot sign learns nothing from an
//! answer: to a client every token that is not believed looks the same, and only one that was good once and
//! is over now is told so. The reason is for the operator.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use etherply_wire::limits::TOKEN_BYTES_MAX;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cache::{Cache, digest};
use crate::claims::{Claims, Unusable, Verified};
use crate::keys::KeySet;

/// How far the clock of whoever makes tokens may be ahead of the server's. Ends of tokens have no leeway.
pub const CLOCK_LEEWAY_S: u64 = 60;
/// Longest time from a token's making to its end, unless the operator says otherwise. Revocations are kept for
/// as long.
pub const TOKEN_LIFETIME_S: u64 = 31 * 24 * 60 * 60;
/// Longest time that an operator may say.
pub const TOKEN_LIFETIME_S_MAX: u64 = 400 * 24 * 60 * 60;

/// What tokens have to say of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Who makes them.
    pub issuer: String,
    /// Whom they are for.
    pub audience: String,
    /// Longest time from the making to the end.
    pub lifetime_s: u64,
}

impl Default for Expected {
    /// As `etherply token` makes them.
    fn default() -> Self {
        let name = "etherply".to_owned();
        Self { issuer: name.clone(), audience: name, lifetime_s: TOKEN_LIFETIME_S }
    }
}

/// Why a token is not believed, as far as a client may know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It was good, and is over.
    #[error("the token's time is over")]
    Expired,
    /// Anything else. The reason is for the operator.
    #[error("the token cannot be used: {0}")]
    Invalid(Reason),
}

/// Why a token is not believed, for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Longer than the limit.
    #[error("it has more than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Not three parts of base64url.
    #[error("it is no JWT: three parts in base64url, with dots between")]
    Form,
    /// The header is not what a header is.
    #[error("its header is not JSON with alg, kid and typ as they should be")]
    Header,
    /// The header has extensions that have to be understood.
    #[error("its header has extensions (crit)")]
    Critical,
    /// No such key.
    #[error("it was not made with a key of this server's (kid)")]
    Key,
    /// The header's algorithm is not the key's.
    #[error("its algorithm (alg) is not its key's")]
    Algorithm,
    /// The signature does not fit.
    #[error("its signature does not fit")]
    Signature,
    /// The claims are not what they should be.
    #[error("its claims lack something, or have it twice or of another type")]
    Claims,
    /// The claims say something that cannot be.
    #[error("its claims cannot be used: {0}")]
    Unusable(#[from] Unusable),
    /// Of another issuer.
    #[error("its issuer (iss) is another than this server's")]
    Issuer,
    /// For somebody else.
    #[error("it is for another audience (aud) than this server")]
    Audience,
    /// It ends too late.
    #[error("it is good for longer than this server allows (exp, iat)")]
    Lifetime,
    /// It is not good yet.
    #[error("its time has not come yet (nbf, iat)")]
    TooEarly,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self::Invalid(reason)
    }
}

/// The parts of a header that are looked at.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

/// Types that a token may say it is (RFC 7519, 5.1; RFC 9068, 2.1).
const TYPES: [&str; 2] = ["JWT", "at+jwt"];

/// Verifies tokens, and remembers those that it believed.
#[derive(Debug)]
pub struct Verifier {
    keys: Arc<KeySet>,
    expected: Expected,
    cache: Cache,
}

impl Verifier {
    /// With these keys.
    pub fn new(keys: Arc<KeySet>, expected: Expected) -> Self {
        Self { keys, expected, cache: Cache::default() }
    }

    /// Goes on with other keys. Tokens that were believed are forgotten: their keys may be gone.
    pub fn set_keys(&mut self, keys: Arc<KeySet>) {
        self.keys = keys;
        self.cache = Cache::default();
    }

    /// Verifies a token as of now, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn verify(&mut self, token: &str, now_ms: u64) -> Result<Arc<Verified>, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Reason::TooLong.into());
        }
        let digest = digest(token);
        let verified = match self.cache.get(&digest) {
            Some(verified) => verified,
            None => {
                let verified = Arc::new(self.believe(token)?);
                self.cache.insert(digest, Arc::clone(&verified), token.len());
                verified
            }
        };
        if verified.begins_ms > now_ms.saturating_add(CLOCK_LEEWAY_S * 1_000) {
            return Err(Reason::TooEarly.into());
        }
        if verified.expires_ms <= now_ms {
            return Err(Refused::Expired);
        }
        Ok(verified)
    }

    /// Everything but the time.
    fn believe(&self, token: &str) -> Result<Verified, Reason> {
        let Parts { message, header, claims, signature } = Parts::of(token)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| Reason::Header)?;
        let is_ours = |typ: &str| TYPES.iter().any(|ours| ours.eq_ignore_ascii_case(typ));
        if header.typ.as_deref().is_some_and(|typ| !is_ours(typ)) {
            return Err(Reason::Header);
        }
        if header.crit.is_some() {
            return Err(Reason::Critical);
        }
        let key = self.keys.named(header.kid.as_deref()).ok_or(Reason::Key)?;
        if header.alg != key.algorithm.name() {
            return Err(Reason::Algorithm);
        }
        let algorithm = key.algorithm.library();
        let fits = jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.decoding, algorithm);
        if !fits.unwrap_or(false) {
            return Err(Reason::Signature);
        }
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Reason::Claims)?;
        if claims.iss != self.expected.issuer {
            return Err(Reason::Issuer);
        }
        if !claims.aud.has(&self.expected.audience) {
            return Err(Reason::Audience);
        }
        let verified = claims.resolve()?;
        if claims.exp - claims.iat > self.expected.lifetime_s {
            return Err(Reason::Lifetime);
        }
        Ok(verified)
    }
}

/// A token taken apart.
struct Parts<'t> {
    /// What is signed.
    message: &'t str,
    header: Vec<u8>,
    claims: Vec<u8>,
    /// Still in base64url.
    signature: &'t str,
}

impl<'t> Parts<'t> {
    fn of(token: &'t str) -> Result<Self, Reason> {
        let (message, signature) = token.rsplit_once('.').ok_or(Reason::Form)?;
        let (header, claims) = message.split_once('.').ok_or(Reason::Form)?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::Form);
        decode(signature)?;
        Ok(Self { message, header: decode(header)?, claims: decode(claims)?, signature })
    }
}

/// What a token says, whoever made it: its header and its claims, as JSON. Nothing of it is verified.
///
/// # Errors
/// [`Reason::Form`], or what is not JSON.
pub fn inspect(token: &str) -> Result<(serde_json::Value, serde_json::Value), Reason> {
    let parts = Parts::of(token)?;
    let header = serde_json::from_slice(&parts.header).map_err(|_| Reason::Header)?;
    let claims = serde_json::from_slice(&parts.claims).map_err(|_| Reason::Claims)?;
    Ok((header, claims))
}
