//! Making keys, from the operating system's randomness.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::KeypairBytes;
use rand::rngs::{OsRng, StdRng};
use rand::{RngCore as _, SeedableRng as _};
use rsa::RsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};

use crate::keys::{Algorithm, RSA_BITS_MIN, SECRET_BYTES_MIN};

/// A new key, as it is written to files.
pub struct Generated {
    /// What tokens are made with: PEM, or a secret.
    pub private: String,
    /// What they are verified with, `None` for a secret, which does both.
    pub public: Option<String>,
}

/// Why no key could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// The system gives no randomness.
    #[error("no key could be made: the system gives no randomness")]
    Randomness,
    /// The cryptographic library failed.
    #[error("no key could be made: it could not be written down")]
    Encoding,
}

/// Makes a key.
///
/// # Errors
/// [`GenerateError`]
pub fn generate(algorithm: Algorithm) -> Result<Generated, GenerateError> {
    // Asked once, where it can fail; what follows is drawn from it (ChaCha).
    let mut random = StdRng::from_rng(OsRng).map_err(|_| GenerateError::Randomness)?;
    match algorithm {
        Algorithm::Hs256 => {
            let mut secret = [0; SECRET_BYTES_MIN];
            random.fill_bytes(&mut secret);
            Ok(Generated { private: BASE64_URL_SAFE_NO_PAD.encode(secret) + "\n", public: None })
        }
        Algorithm::EdDsa => {
            let mut secret_key = [0; 32];
            random.fill_bytes(&mut secret_key);
            let public = SigningKey::from_bytes(&secret_key).verifying_key();
            // Without the public half, which not every library reads there (RFC 5958 has it, RFC 5208 has not).
            pair(&KeypairBytes { secret_key, public_key: None }, &public)
        }
        Algorithm::Es256 => {
            let key = p256::SecretKey::random(&mut random);
            pair(&key, &key.public_key())
        }
        Algorithm::Rs256 => {
            let key = RsaPrivateKey::new(&mut random, RSA_BITS_MIN).map_err(|_| GenerateError::Encoding)?;
            pair(&key, &key.to_public_key())
        }
    }
}

/// Both halves in PEM.
fn pair(private: &impl EncodePrivateKey, public: &impl EncodePublicKey) -> Result<Generated, GenerateError> {
    let private = private.to_pkcs8_pem(LineEnding::LF).map_err(|_| GenerateError::Encoding)?;
    let public = public.to_public_key_pem(LineEnding::LF).map_err(|_| GenerateError::Encoding)?;
    Ok(Generated { private: private.to_string(), public: Some(public) })
}
