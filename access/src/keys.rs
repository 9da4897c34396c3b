//! Keys that tokens are verified with. A key knows its one algorithm, whatever a token says.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::VerifyingKey;
use jsonwebtoken::DecodingKey;
use rsa::pkcs1::DecodeRsaPublicKey as _;
use rsa::{BigUint, RsaPublicKey};

/// Most keys of a server.
pub const KEYS_MAX: usize = 64;
/// Longest id of a key.
pub const KEY_ID_BYTES_MAX: usize = 128;
/// Shortest shared secret (RFC 7518, 3.2: at least as long as the hash).
pub const SECRET_BYTES_MIN: usize = 32;
/// Shortest RSA key (RFC 7518, 3.3).
pub const RSA_BITS_MIN: usize = 2_048;
/// Longest RSA key: verifying takes the longer, the longer it is.
pub const RSA_BITS_MAX: usize = 4_096;

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// RSA, PKCS #1 v1.5, with SHA-256; at least 2,048 bits.
    Rs256,
    /// HMAC with SHA-256: who can verify can also sign.
    Hs256,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 4] = [Self::EdDsa, Self::Es256, Self::Rs256, Self::Hs256];

    /// Its name in a token's header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Hs256 => "HS256",
        }
    }

    pub(crate) const fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let named = Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(text));
        named.ok_or(KeyError::Algorithm)
    }
}

/// Why something is no key, or cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not an algorithm's name.
    #[error("an algorithm is EdDSA, ES256, RS256 or HS256")]
    Algorithm,
    /// Not a public key.
    #[error("this is no public key of Ed25519, P-256 or RSA in PEM (BEGIN PUBLIC KEY)")]
    Public,
    /// A private key where a public one belongs.
    #[error("this is a private key: give the server the public one, and keep this where tokens are made")]
    Private,
    /// An RSA key of a length that is not taken.
    #[error("an RSA key has {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, this one has {bits}")]
    RsaBits {
        /// Its length.
        bits: usize,
    },
    /// Not a private key.
    #[error("this is no private key of Ed25519, P-256 or RSA in PEM (PKCS #8, BEGIN PRIVATE KEY)")]
    NotPrivate,
    /// Not a secret.
    #[error("a secret is base64url text of at least {SECRET_BYTES_MIN} bytes")]
    Secret,
    /// Not an id.
    #[error("a key's id has 1 to {KEY_ID_BYTES_MAX} bytes, without control characters")]
    Id,
    /// Two keys of one name.
    #[error("there are two keys with the id {id}")]
    Twice {
        /// The id.
        id: String,
    },
    /// More keys than the limit.
    #[error("a server may have {KEYS_MAX} keys")]
    TooMany,
}

/// A key.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) decoding: DecodingKey,
}

/// The keys of a server.
#[derive(Clone, Default)]
pub struct KeySet(Vec<Key>);

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|key| (&key.id, key.algorithm))).finish()
    }
}

impl KeySet {
    /// Adds a public key in PEM. Its type tells the algorithm.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn add_public(&mut self, id: &str, pem: &[u8]) -> Result<Algorithm, KeyError> {
        let (algorithm, decoding) = if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            (Algorithm::EdDsa, key)
        } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            (Algorithm::Es256, key)
        } else if is_private(pem) {
            return Err(KeyError::Private);
        } else if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
            (Algorithm::Rs256, key)
        } else {
            return Err(KeyError::Public);
        };
        check_public(algorithm, decoding.try_get_as_bytes().map_err(|_| KeyError::Public)?)?;
        self.add(id, algorithm, decoding)
    }

    /// Adds a shared secret, written in base64url.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn add_secret(&mut self, id: &str, text: &str) -> Result<Algorithm, KeyError> {
        let secret = read_secret(text)?;
        self.add(id, Algorithm::Hs256, DecodingKey::from_secret(&secret))
    }

    pub(crate) fn add(
        &mut self,
        id: &str,
        algorithm: Algorithm,
        decoding: DecodingKey,
    ) -> Result<Algorithm, KeyError> {
        check_id(id)?;
        if self.0.iter().any(|key| key.id == id) {
            return Err(KeyError::Twice { id: id.to_owned() });
        }
        if self.0.len() >= KEYS_MAX {
            return Err(KeyError::TooMany);
        }
        self.0.push(Key { id: id.to_owned(), algorithm, decoding });
        Ok(algorithm)
    }

    /// The key that a token names; a token that names none is for the only one.
    pub(crate) fn named(&self, id: Option<&str>) -> Option<&Key> {
        match (id, self.0.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id == id),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    /// The keys of both. What has an id of these keys' is not taken of the others.
    ///
    /// # Errors
    /// [`KeyError::TooMany`]
    pub fn with(&self, others: &Self) -> Result<Self, KeyError> {
        let mut all = self.clone();
        for key in others.0.iter().filter(|key| self.named(Some(&key.id)).is_none()) {
            all.add(&key.id, key.algorithm, key.decoding.clone())?;
        }
        Ok(all)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each key's id and algorithm.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Algorithm)> {
        self.0.iter().map(|key| (key.id.as_str(), key.algorithm))
    }
}

pub(crate) fn check_id(id: &str) -> Result<(), KeyError> {
    let fits = (1..=KEY_ID_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
    fits.then_some(()).ok_or(KeyError::Id)
}

/// Whether a public key's bytes, taken out of its PEM, are a key that tokens can be verified with. Whoever reads the
/// PEM looks at its frame only, and whoever verifies at the first token.
pub(crate) fn check_public(algorithm: Algorithm, key: &[u8]) -> Result<(), KeyError> {
    let is_key = match algorithm {
        Algorithm::EdDsa => <[u8; 32]>::try_from(key)
            .is_ok_and(|key| VerifyingKey::from_bytes(&key).is_ok_and(|key| !key.is_weak())),
        Algorithm::Es256 => p256::PublicKey::from_sec1_bytes(key).is_ok(),
        Algorithm::Rs256 => {
            let read = rsa::pkcs1::RsaPublicKey::try_from(key).map_err(|_| KeyError::Public)?;
            check_rsa_bits(&BigUint::from_bytes_be(read.modulus.as_bytes()))?;
            RsaPublicKey::from_pkcs1_der(key).is_ok()
        }
        Algorithm::Hs256 => false,
    };
    is_key.then_some(()).ok_or(KeyError::Public)
}

pub(crate) fn check_rsa_bits(modulus: &BigUint) -> Result<(), KeyError> {
    let bits = modulus.bits();
    if (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) { Ok(()) } else { Err(KeyError::RsaBits { bits }) }
}

pub(crate) fn read_secret(text: &str) -> Result<Vec<u8>, KeyError> {
    let secret = BASE64_URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| KeyError::Secret)?;
    if secret.len() < SECRET_BYTES_MIN { Err(KeyError::Secret) } else { Ok(secret) }
}

/// Whether PEM says of itself that it is private. RSA's private keys would be taken for public ones otherwise.
pub(crate) fn is_private(pem: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    pem.windows(MARK.len()).any(|window| window == MARK)
}
