//! Keys as issuers publish them: a JWK Set (RFC 7517). Who fetches it, and when, is the caller's.
//!
//! A key's algorithm is what its own type says, and where the set names another one, the key is not taken: so a token
//! cannot choose. Shared secrets (`oct`) and private keys are never taken, because whoever can read the set has them.
//! What this server has no algorithm for is passed over, as RFC 7517, 5, asks. A set with a key that is there twice is
//! no set: which of the two is meant would be a guess.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use rsa::{BigUint, RsaPublicKey};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::keys::{Algorithm, KeyError, KeySet, check_id, check_public, check_rsa_bits};

/// Longest JWK Set. Chains of certificates, which some issuers add to each key, fit.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// Most keys in one JWK Set, those that are passed over included.
pub const JWKS_KEYS_MAX: usize = 256;

/// Why a text is no JWK Set that keys are taken from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Longer than the limit.
    #[error("it has more than {JWKS_BYTES_MAX} bytes")]
    TooLong,
    /// Not what it should be.
    #[error("it is no JWK Set: JSON with a list `keys` of objects that have `kty`")]
    Form,
    /// More keys than the limit.
    #[error("it has {keys} keys, at most {JWKS_KEYS_MAX} are looked at")]
    TooMany {
        /// How many it has.
        keys: usize,
    },
    /// The keys cannot be added.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Why one key of a set is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassedOver {
    /// A shared secret.
    #[error("it is a shared secret (oct), which whoever reads the set could make tokens with")]
    Secret,
    /// A private key.
    #[error("it holds the private key (d), which whoever reads the set could make tokens with")]
    Private,
    /// Without an id, no token can name it.
    #[error("it has no id (kid)")]
    NoId,
    /// For something else.
    #[error("it is not for signatures (use, key_ops)")]
    Use,
    /// Of a type, a curve or an algorithm that is not known here.
    #[error("it is not of EdDSA with Ed25519, ES256 or RS256 (kty, crv, alg)")]
    Unsupported,
    /// It cannot be used.
    #[error("{0}")]
    Unusable(KeyError),
}

/// What a set has.
#[derive(Debug, Default)]
pub struct Jwks {
    /// The keys that tokens are verified with.
    pub keys: KeySet,
    /// The others: the id of each, as far as it has one, and why.
    pub passed_over: Vec<(String, PassedOver)>,
}

#[derive(Debug, Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

/// The parts of a key that are looked at; a member that is there twice is an error.
#[derive(Debug, Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    d: Option<IgnoredAny>,
}

impl Jwks {
    /// Reads a set.
    ///
    /// # Errors
    /// [`JwksError`]; nothing of it is taken then.
    pub fn read(text: &[u8]) -> Result<Self, JwksError> {
        if text.len() > JWKS_BYTES_MAX {
            return Err(JwksError::TooLong);
        }
        let set: Set = serde_json::from_slice(text).map_err(|_| JwksError::Form)?;
        if set.keys.len() > JWKS_KEYS_MAX {
            return Err(JwksError::TooMany { keys: set.keys.len() });
        }
        let mut read = Self::default();
        for key in set.keys {
            match key.take() {
                Ok((id, algorithm, decoding)) => _ = read.keys.add(id, algorithm, decoding)?,
                Err(why) => {
                    let id: String =
                        key.kid.unwrap_or_default().chars().filter(|c| !c.is_control()).take(64).collect();
                    read.passed_over.push((id, why));
                }
            }
        }
        Ok(read)
    }
}

impl Jwk {
    fn take(&self) -> Result<(&str, Algorithm, DecodingKey), PassedOver> {
        if self.kty == "oct" {
            return Err(PassedOver::Secret);
        }
        if self.d.is_some() {
            return Err(PassedOver::Private);
        }
        let id = self.kid.as_deref().ok_or(PassedOver::NoId)?;
        check_id(id).map_err(PassedOver::Unusable)?;
        let verifies = |operations: &Vec<String>| operations.iter().any(|operation| operation == "verify");
        if self.usage.as_deref().is_some_and(|usage| usage != "sig")
            || self.key_ops.as_ref().is_some_and(|operations| !verifies(operations))
        {
            return Err(PassedOver::Use);
        }
        let algorithm = match (self.kty.as_str(), self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
            ("EC", Some("P-256")) => Algorithm::Es256,
            ("RSA", _) => Algorithm::Rs256,
            _ => return Err(PassedOver::Unsupported),
        };
        if self.alg.as_deref().is_some_and(|alg| alg != algorithm.name()) {
            return Err(PassedOver::Unsupported);
        }
        let decoding = self.decoding(algorithm).map_err(PassedOver::Unusable)?;
        Ok((id, algorithm, decoding))
    }

    /// The key itself, once it is known to be one.
    fn decoding(&self, algorithm: Algorithm) -> Result<DecodingKey, KeyError> {
        let part = |part: &Option<String>| {
            let text = part.as_deref().ok_or(KeyError::Public)?;
            BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Public)
        };
        if algorithm == Algorithm::Rs256 {
            let (n, e) = (part(&self.n)?, part(&self.e)?);
            let modulus = BigUint::from_bytes_be(&n);
            check_rsa_bits(&modulus)?;
            RsaPublicKey::new(modulus, BigUint::from_bytes_be(&e)).map_err(|_| KeyError::Public)?;
            return Ok(DecodingKey::from_rsa_raw_components(&n, &e));
        }
        let x = part(&self.x)?;
        if algorithm == Algorithm::EdDsa {
            check_public(algorithm, &x)?;
            return Ok(DecodingKey::from_ed_der(&x));
        }
        let y = part(&self.y)?;
        // Each is as long as the curve's field (RFC 7518, 6.2.1.2): shorter ones would be another point's.
        if (x.len(), y.len()) != (32, 32) {
            return Err(KeyError::Public);
        }
        let point = [&[4], x.as_slice(), y.as_slice()].concat();
        check_public(algorithm, &point)?;
        Ok(DecodingKey::from_ec_der(&point))
    }
}
