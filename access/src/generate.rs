//! Making keys, from the operating system's randomness.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use crate::keys::{Algorithm, SECRET_BYTES_MIN};

/// Characters of base64 in a line of PEM (RFC 7468, 2).
const PEM_LINE_CHARS: usize = 64;

/// A new key, as it is written to files.
pub struct Generated {
    /// What tokens are made with: PEM, or a secret.
    pub private: String,
    /// What they are verified with, `None` for a secret, which does both.
    pub public: Option<String>,
}

/// The cryptographic library failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no key could be made: the system gives no randomness")]
pub struct GenerateError;

/// Makes a key.
///
/// # Errors
/// [`GenerateError`]
pub fn generate(algorithm: Algorithm) -> Result<Generated, GenerateError> {
    let failed = |_| GenerateError;
    let (private, public) = match algorithm {
        Algorithm::Hs256 => {
            let mut secret = [0; SECRET_BYTES_MIN];
            aws_lc_rs::rand::fill(&mut secret).map_err(failed)?;
            return Ok(Generated { private: BASE64_URL_SAFE_NO_PAD.encode(secret) + "\n", public: None });
        }
        Algorithm::EdDsa => {
            let pair = Ed25519KeyPair::generate().map_err(failed)?;
            let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
            (
                pem("PRIVATE KEY", pair.to_pkcs8v1().map_err(failed)?.as_ref()),
                pem("PUBLIC KEY", public.as_ref()),
            )
        }
        Algorithm::Es256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
            let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
            (
                pem("PRIVATE KEY", pair.to_pkcs8v1().map_err(failed)?.as_ref()),
                pem("PUBLIC KEY", public.as_ref()),
            )
        }
        Algorithm::Rs256 => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
            let private: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
            let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
            (pem("PRIVATE KEY", private.as_ref()), pem("PUBLIC KEY", public.as_ref()))
        }
    };
    Ok(Generated { private, public: Some(public) })
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, behind) = rest.split_at(rest.len().min(PEM_LINE_CHARS));
        out.push_str(line);
        out.push('\n');
        rest = behind;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
