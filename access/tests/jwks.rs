//! Sets of keys as issuers publish them: what is taken, what is passed over, and what is no set.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::DecodePublicKey as _;
use etherply_access::{
    Algorithm, Expected, JWKS_BYTES_MAX, JWKS_KEYS_MAX, Jwks, JwksError, KEY_ID_BYTES_MAX, KEYS_MAX,
    KeyError, PassedOver, Reason, Refused, SigningKey, Verifier, generate,
};
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use rsa::traits::PublicKeyParts as _;
use serde_json::{Value, json};

const NOW_S: u64 = 1_700_000_000;

fn text(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A key of an algorithm: as it is published, and what signs.
fn published(algorithm: Algorithm, id: &str) -> (Value, SigningKey) {
    let made = generate(algorithm).unwrap();
    let pem = made.public.as_deref().unwrap_or_default();
    let jwk = match algorithm {
        Algorithm::EdDsa => {
            let key = ed25519_dalek::VerifyingKey::from_public_key_pem(pem).unwrap();
            json!({ "kty": "OKP", "crv": "Ed25519", "x": text(key.as_bytes()) })
        }
        Algorithm::Es256 => {
            let point = p256::PublicKey::from_public_key_pem(pem).unwrap().to_encoded_point(false);
            json!({ "kty": "EC", "crv": "P-256", "x": text(point.x().unwrap()), "y": text(point.y().unwrap()) })
        }
        Algorithm::Rs256 => {
            let key = rsa::RsaPublicKey::from_public_key_pem(pem).unwrap();
            json!({ "kty": "RSA", "n": text(&key.n().to_bytes_be()), "e": text(&key.e().to_bytes_be()) })
        }
        Algorithm::Hs256 => json!({ "kty": "oct", "k": made.private.trim() }),
    };
    (with(&jwk, "kid", json!(id)), SigningKey::read(id, &made.private).unwrap())
}

fn with(jwk: &Value, member: &str, value: Value) -> Value {
    let mut jwk = jwk.clone();
    jwk[member] = value;
    jwk
}

fn read(keys: &[Value]) -> Result<Jwks, JwksError> {
    Jwks::read(json!({ "keys": keys }).to_string().as_bytes())
}

/// Why the only key of a set is not taken.
fn passed_over(jwk: Value) -> PassedOver {
    let read = read(&[jwk]).unwrap();
    assert!(read.keys.is_empty(), "{:?}", read.keys);
    read.passed_over.into_iter().next().unwrap().1
}

fn token(key: &SigningKey) -> String {
    let claims = json!({
        "iss": "etherply", "aud": "etherply", "sub": "ada", "jti": "1",
        "iat": NOW_S, "exp": NOW_S + 60, "etherply": { "read": ["rooms/*"] }
    });
    key.sign(&serde_json::from_value(claims).unwrap()).unwrap()
}

#[test]
fn keys_of_every_algorithm_are_taken_and_verify() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256] {
        let (jwk, signing) = published(algorithm, "k");
        for jwk in [
            jwk.clone(),
            with(&jwk, "alg", json!(algorithm.name())),
            with(&with(&jwk, "use", json!("sig")), "key_ops", json!(["verify"])),
            with(&jwk, "x5c", json!(["what is not looked at"])),
        ] {
            let read = read(&[jwk]).unwrap();
            assert_eq!(read.keys.iter().collect::<Vec<_>>(), [("k", algorithm)]);
            let mut verifier = Verifier::new(Arc::new(read.keys), Expected::default());
            assert!(verifier.verify(&token(&signing), NOW_S * 1_000).is_ok(), "{algorithm}");
        }
    }
}

#[test]
fn a_key_that_is_gone_takes_what_was_believed_by_it_along() {
    let ((first, signs_first), (second, _)) =
        (published(Algorithm::EdDsa, "a"), published(Algorithm::EdDsa, "b"));
    let mut verifier =
        Verifier::new(Arc::new(read(std::slice::from_ref(&first)).unwrap().keys), Expected::default());
    let token = token(&signs_first);
    assert!(verifier.verify(&token, NOW_S * 1_000).is_ok());
    verifier.set_keys(Arc::new(read(&[first, second.clone()]).unwrap().keys));
    assert!(verifier.verify(&token, NOW_S * 1_000).is_ok());
    verifier.set_keys(Arc::new(read(std::slice::from_ref(&second)).unwrap().keys));
    assert_eq!(verifier.verify(&token, NOW_S * 1_000).unwrap_err(), Refused::Invalid(Reason::Key));
    // The same id for another key: a signature is held against the key that there is.
    verifier.set_keys(Arc::new(read(&[with(&second, "kid", json!("a"))]).unwrap().keys));
    assert_eq!(verifier.verify(&token, NOW_S * 1_000).unwrap_err(), Refused::Invalid(Reason::Signature));
}

#[test]
fn secrets_private_keys_and_other_kinds_are_passed_over_and_the_rest_is_taken() {
    let (good, _) = published(Algorithm::EdDsa, "good");
    let (es, _) = published(Algorithm::Es256, "es");
    let (rs, _) = published(Algorithm::Rs256, "rs");
    let (secret, _) = published(Algorithm::Hs256, "s");
    assert_eq!(passed_over(secret.clone()), PassedOver::Secret);
    assert_eq!(passed_over(with(&secret, "alg", json!("EdDSA"))), PassedOver::Secret);
    assert_eq!(passed_over(with(&good, "d", json!("x"))), PassedOver::Private);
    assert_eq!(passed_over(with(&good, "kid", Value::Null)), PassedOver::NoId);
    assert_eq!(passed_over(with(&good, "use", json!("enc"))), PassedOver::Use);
    assert_eq!(passed_over(with(&good, "key_ops", json!(["sign"]))), PassedOver::Use);
    for (jwk, member, value) in [
        (&good, "crv", "X25519"),
        (&good, "crv", "P-256"),
        (&good, "alg", "HS256"),
        (&good, "alg", "none"),
        (&es, "crv", "secp256k1"),
        (&es, "alg", "ES384"),
        (&rs, "alg", "PS256"),
        (&rs, "alg", "RS512"),
        (&rs, "alg", "HS256"),
        (&rs, "kty", "EC"),
    ] {
        assert_eq!(passed_over(with(jwk, member, json!(value))), PassedOver::Unsupported, "{member} {value}");
    }
    let unusable = PassedOver::Unusable(KeyError::Public);
    for jwk in [
        with(&good, "x", json!("AAAA")),
        with(&good, "x", json!("not base64!")),
        with(&good, "x", Value::Null),
        // Weak: of small order.
        with(&good, "x", json!(text(&[0; 32]))),
        with(&es, "y", json!(text(&[1; 32]))),
        with(&es, "y", json!(text(&[1; 31]))),
        with(&rs, "e", json!(text(&[1]))),
        with(&rs, "e", json!("")),
    ] {
        assert_eq!(passed_over(jwk.clone()), unusable, "{jwk}");
    }
    let short = with(&rs, "n", json!(text(&[0xff; 255])));
    assert_eq!(passed_over(short), PassedOver::Unusable(KeyError::RsaBits { bits: 2_040 }));
    let long = with(&rs, "n", json!(text(&[0xff; 513])));
    assert_eq!(passed_over(long), PassedOver::Unusable(KeyError::RsaBits { bits: 4_104 }));
    for (bytes, is_taken) in
        [(KEY_ID_BYTES_MAX - 1, true), (KEY_ID_BYTES_MAX, true), (KEY_ID_BYTES_MAX + 1, false)]
    {
        let read = read(&[with(&good, "kid", json!("k".repeat(bytes)))]).unwrap();
        assert_eq!(read.keys.len(), usize::from(is_taken));
    }
    let read = read(&[secret, good, with(&es, "use", json!("enc"))]).unwrap();
    assert_eq!(read.keys.iter().collect::<Vec<_>>(), [("good", Algorithm::EdDsa)]);
    assert_eq!(read.passed_over, [("s".to_owned(), PassedOver::Secret), ("es".to_owned(), PassedOver::Use)]);
}

#[test]
fn what_is_no_set_is_refused_as_a_whole() {
    for no_set in
        ["", "x", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[1]}"#, r#"{"keys":[{}]}"#, "{\"keys\":[]}x"]
    {
        assert_eq!(Jwks::read(no_set.as_bytes()).unwrap_err(), JwksError::Form, "{no_set}");
    }
    let twice = r#"{"keys":[{"kty":"OKP","kty":"oct"}]}"#;
    assert_eq!(Jwks::read(twice.as_bytes()).unwrap_err(), JwksError::Form);
    assert!(read(&[]).unwrap().keys.is_empty(), "an issuer may have no key");
    let (key, _) = published(Algorithm::EdDsa, "k");
    let same = [key.clone(), key.clone()];
    assert_eq!(read(&same).unwrap_err(), JwksError::Key(KeyError::Twice { id: "k".to_owned() }));
    let many = |prefix: &str, count: usize| -> Vec<Value> {
        (0..count).map(|n| with(&key, "kid", json!(format!("{prefix}{n}")))).collect()
    };
    for count in [KEYS_MAX - 1, KEYS_MAX] {
        assert_eq!(read(&many("k", count)).unwrap().keys.len(), count);
    }
    assert_eq!(read(&many("k", KEYS_MAX + 1)).unwrap_err(), JwksError::Key(KeyError::TooMany));
    let others = |count| vec![json!({ "kty": "unknown" }); count];
    for count in [JWKS_KEYS_MAX - 1, JWKS_KEYS_MAX] {
        assert_eq!(read(&others(count)).unwrap().passed_over.len(), count);
    }
    let too_many = JwksError::TooMany { keys: JWKS_KEYS_MAX + 1 };
    assert_eq!(read(&others(JWKS_KEYS_MAX + 1)).unwrap_err(), too_many);
    let padded = |bytes: usize| {
        let set = json!({ "keys": [key] }).to_string();
        Jwks::read(format!("{set}{}", " ".repeat(bytes - set.len())).as_bytes())
    };
    assert!(padded(JWKS_BYTES_MAX - 1).is_ok() && padded(JWKS_BYTES_MAX).is_ok());
    assert_eq!(padded(JWKS_BYTES_MAX + 1).unwrap_err(), JwksError::TooLong);
}
