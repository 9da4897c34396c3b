//! Tokens: who signed them, whose they are, what they grant.
//!
//! A token is a JWT (RFC 7519) with the claims of [`Claims`]. Its header says by which key it was signed, and
//! nothing else of it is believed: the algorithm is the key's, keys come from the operator alone, and URLs and
//! certificates in the header are not looked at (RFC 8725). What it grants are rights on patterns of documents;
//! the engine knows those.
//!
//! ```text
//! keys      keys that tokens are verified with
//! jwks      the same as issuers publish them
//! claims    what a token says
//! verify    whether to believe it; verified ones are remembered
//! sign      making tokens
//! generate  making keys
//! ```
//!
//! There is no I/O here and no clock: files are read by the caller, who also tells the time.

mod cache;
mod claims;
mod generate;
mod jwks;
mod keys;
mod sign;
mod verify;

pub use cache::{TOKENS_CACHED_BYTES_MAX, TOKENS_CACHED_MAX};
pub use claims::{Audience, Claims, GRANTS_MAX, Grants, Unusable, Verified};
pub use generate::{GenerateError, Generated, generate};
pub use jwks::{JWKS_BYTES_MAX, JWKS_KEYS_MAX, Jwks, JwksError, PassedOver};
pub use keys::{
    Algorithm, KEY_ID_BYTES_MAX, KEYS_MAX, KeyError, KeySet, RSA_BITS_MAX, RSA_BITS_MIN, SECRET_BYTES_MIN,
};
pub use sign::{SignError, SigningKey};
pub use verify::{
    CLOCK_LEEWAY_S, Expected, Reason, Refused, TOKEN_LIFETIME_S, TOKEN_LIFETIME_S_MAX, Verifier, inspect,
};
