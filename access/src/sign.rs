//! Making tokens, for `etherply token` and for tests. Applications sign theirs with any JWT library.

use std::fmt;

use jsonwebtoken::{EncodingKey, Header};
use rsa::RsaPrivateKey;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::traits::PublicKeyParts as _;

use crate::claims::{Claims, Unusable};
use crate::keys::{Algorithm, KeyError, check_id, check_rsa_bits, is_private, read_secret};

/// A key that tokens are made with.
pub struct SigningKey {
    id: String,
    algorithm: Algorithm,
    encoding: EncodingKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).field("algorithm", &self.algorithm).finish()
    }
}

/// Why a token cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No server would take it.
    #[error(transparent)]
    Claims(#[from] Unusable),
    /// The key does not sign.
    #[error("the key cannot sign: {0}")]
    Key(String),
}

impl SigningKey {
    /// A private key in PEM, or a secret in base64url.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn read(id: &str, text: &str) -> Result<Self, KeyError> {
        check_id(id)?;
        let pem = text.as_bytes();
        let (algorithm, encoding) = if !text.contains("-----BEGIN") {
            (Algorithm::Hs256, EncodingKey::from_secret(&read_secret(text)?))
        } else if let Ok(key) = EncodingKey::from_ed_pem(pem) {
            (Algorithm::EdDsa, key)
        } else if let Ok(key) = EncodingKey::from_ec_pem(pem) {
            (Algorithm::Es256, key)
        } else if is_private(pem)
            && let Ok(key) = EncodingKey::from_rsa_pem(pem)
        {
            let read = RsaPrivateKey::from_pkcs1_der(key.as_bytes()).map_err(|_| KeyError::NotPrivate)?;
            check_rsa_bits(read.n())?;
            (Algorithm::Rs256, key)
        } else {
            return Err(KeyError::NotPrivate);
        };
        Ok(Self { id: id.to_owned(), algorithm, encoding })
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`SignError`]
    pub fn sign(&self, claims: &Claims) -> Result<String, SignError> {
        claims.resolve()?;
        let header = Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm.library()) };
        jsonwebtoken::encode(&header, claims, &self.encoding)
            .map_err(|error| SignError::Key(error.to_string()))
    }
}
