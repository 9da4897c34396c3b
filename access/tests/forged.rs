//! Forged, malformed and misused tokens: all refused, and to a client all alike (RFC 8725).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod shapes;

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use etherply_access::{
    Algorithm, CLOCK_LEEWAY_S, Expected, GRANTS_MAX, KeySet, Reason, Refused, SigningKey, TOKEN_LIFETIME_S,
    Verifier, generate, inspect,
};
use etherply_wire::Rights;
use serde_json::json;
use shapes::{ED, Pair, Server, deep, good, shapes, with, without};

const NOW_S: u64 = 1_700_000_000;

fn now_s() -> u64 {
    NOW_S
}

#[test]
fn good_tokens_of_every_algorithm_are_believed() {
    let mut server = Server::new();
    let claims = good().to_string();
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid }).to_string();
    let tokens = [
        server.ed.sign(ED, &claims),
        server.es.sign(&header("ES256", "es"), &claims),
        server.rs.sign(&header("RS256", "rs"), &claims),
        server.hs.sign(&header("HS256", "hs"), &claims),
        server.ed.sign(ED, &with("aud", json!(["other", "etherply"]))),
        server.ed.sign(r#"{"alg":"EdDSA","typ":"at+jwt","kid":"ed","x":1}"#, &with("more", json!({"a": []}))),
        server.ed.sign(ED, &without("jti")),
        // A claim that nobody here knows is passed over, whatever is in it.
        server.ed.sign(ED, &with("x", json!("deep")).replace("\"deep\"", &deep())),
    ];
    for token in tokens {
        // Once by its signature, once from memory.
        for _ in 0..2 {
            let verified = server.verify(&token).unwrap();
            assert_eq!(&*verified.identity.subject, "ada");
            assert_eq!(verified.identity.issued_s, NOW_S - 10);
            assert_eq!(verified.expires_ms, (NOW_S + 600) * 1_000);
            let write = Rights::READ.with(Rights::WRITE).with(Rights::PRESENCE);
            for (document, rights) in [
                ("rooms/1", write),
                ("rooms/2", Rights::READ),
                ("notes/1", Rights::NONE),
                ("rooms", Rights::NONE),
            ] {
                assert_eq!(verified.grant(document).rights, rights, "{document}");
            }
        }
    }
}

#[test]
fn forged_and_malformed_tokens_are_all_refused_alike() {
    let mut server = Server::new();
    let shapes = shapes(&server);
    assert!(shapes.len() >= 40, "{}", shapes.len());
    for (name, token, reason) in shapes {
        let refused = server.verify(&token).expect_err(name);
        let Refused::Invalid(found) = &refused else { panic!("{name} was good once: {refused}") };
        if let Some(reason) = reason {
            assert_eq!(*found, reason, "{name}");
        }
        // It is not remembered as anything else.
        assert_eq!(server.verify(&token).expect_err(name), refused, "{name}");
    }
}

#[test]
fn only_a_token_that_was_good_is_told_to_be_over() {
    let mut server = Server::new();
    let token = server.ed.sign(ED, &good().to_string());
    let end_ms = (NOW_S + 600) * 1_000;
    assert!(server.verifier.verify(&token, end_ms - 1).is_ok());
    for now_ms in [end_ms, end_ms + 1, u64::MAX] {
        assert_eq!(server.verifier.verify(&token, now_ms), Err(Refused::Expired));
    }
    // The clock may go back: then it is good again, and too early before it was made.
    assert!(server.verifier.verify(&token, end_ms - 1).is_ok());
    let begin_ms = (NOW_S - 10 - CLOCK_LEEWAY_S) * 1_000;
    assert!(server.verifier.verify(&token, begin_ms).is_ok());
    assert_eq!(server.verifier.verify(&token, begin_ms - 1), Err(Refused::Invalid(Reason::TooEarly)));
    // Over, and not signed by us: nobody learns that.
    let stranger = Pair::new(Algorithm::EdDsa);
    let token = stranger.sign(ED, &good().to_string());
    assert_eq!(server.verifier.verify(&token, end_ms), Err(Refused::Invalid(Reason::Signature)));
}

#[test]
fn limits_hold_at_their_edges() {
    let mut server = Server::new();
    let grants = |count: usize| {
        let patterns: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        with("etherply", json!({ "read": patterns }))
    };
    for (claims, is_good) in [
        (grants(GRANTS_MAX - 1), true),
        (grants(GRANTS_MAX), true),
        (grants(GRANTS_MAX + 1), false),
        (with("sub", json!("x".repeat(255))), true),
        (with("sub", json!("x".repeat(256))), true),
        (with("sub", json!("x".repeat(257))), false),
        (with("jti", json!("x".repeat(127))), true),
        (with("jti", json!("x".repeat(128))), true),
        (with("jti", json!("x".repeat(129))), false),
        (with("exp", json!(NOW_S - 10 + TOKEN_LIFETIME_S - 1)), true),
        (with("exp", json!(NOW_S - 10 + TOKEN_LIFETIME_S)), true),
        (with("exp", json!(NOW_S - 10 + TOKEN_LIFETIME_S + 1)), false),
    ] {
        let token = server.ed.sign(ED, &claims);
        assert_eq!(server.verify(&token).is_ok(), is_good, "{claims}");
    }
}

#[test]
fn a_single_key_needs_no_name_in_tokens() {
    let pair = Pair::new(Algorithm::Es256);
    let mut keys = KeySet::default();
    keys.add_public("only", pair.public.as_bytes()).unwrap();
    let mut verifier = Verifier::new(Arc::new(keys), Expected::default());
    let token = pair.sign(r#"{"alg":"ES256"}"#, &good().to_string());
    assert!(verifier.verify(&token, NOW_S * 1_000).is_ok());
    let token = pair.sign(r#"{"alg":"ES256","kid":"other"}"#, &good().to_string());
    assert_eq!(verifier.verify(&token, NOW_S * 1_000), Err(Refused::Invalid(Reason::Key)));
}

#[test]
fn keys_are_read_as_what_they_are() {
    use etherply_access::KeyError;
    let mut keys = KeySet::default();
    for algorithm in Algorithm::ALL {
        let made = generate(algorithm).unwrap();
        if let Some(public) = made.public {
            assert_eq!(keys.add_public("k", made.private.as_bytes()), Err(KeyError::Private), "{algorithm}");
            assert_eq!(SigningKey::read("k", &public).unwrap_err(), KeyError::NotPrivate, "{algorithm}");
        }
        assert!(SigningKey::read("k", &made.private).is_ok(), "{algorithm}");
    }
    assert_eq!(keys.add_public("k", b"nothing"), Err(KeyError::Public));
    assert_eq!(keys.add_secret("k", &BASE64_URL_SAFE_NO_PAD.encode([1; 31])), Err(KeyError::Secret));
    assert_eq!(keys.add_secret("", &BASE64_URL_SAFE_NO_PAD.encode([1; 32])), Err(KeyError::Id));
    for n in 0..etherply_access::KEYS_MAX {
        assert!(keys.add_secret(&n.to_string(), &BASE64_URL_SAFE_NO_PAD.encode([1; 32])).is_ok());
    }
    let secret = BASE64_URL_SAFE_NO_PAD.encode([1; 33]);
    assert_eq!(keys.add_secret("0", &secret), Err(KeyError::Twice { id: "0".to_owned() }));
    assert_eq!(keys.add_secret("more", &secret), Err(KeyError::TooMany));
}

/// What looks like a key and is none is refused when it is read, not at the first token.
#[test]
fn public_keys_that_verify_nothing_are_refused() {
    use etherply_access::{KeyError, RSA_BITS_MAX, RSA_BITS_MIN};
    use rsa::pkcs8::{EncodePublicKey as _, LineEnding};
    use rsa::{BigUint, RsaPublicKey};

    let add = |pem: &str| KeySet::default().add_public("k", pem.as_bytes());
    let pem = |der: &[u8]| {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64_STANDARD.encode(der))
    };
    const ED25519: [u8; 7] = [0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
    // A sequence of the algorithm and a bit string, whose first byte says that no bits are unused.
    let ed = |key: &[u8]| {
        let bits = u8::try_from(key.len() + 1).unwrap();
        pem(&[&[0x30, bits + 9][..], &ED25519, &[3, bits, 0], key].concat())
    };
    let whole = Pair::new(Algorithm::EdDsa).public;
    let text: String = whole.lines().filter(|line| !line.starts_with("---")).collect();
    let key = BASE64_STANDARD.decode(text).unwrap()[12..].to_vec();
    assert_eq!((add(&ed(&key)), key.len()), (Ok(Algorithm::EdDsa), 32));
    let longer = [&key[..], &[0]].concat();
    // The second one is of a small order: one signature would fit many tokens.
    for key in [&key[..31], &[0; 32][..], &longer[..], &[]] {
        assert_eq!(add(&ed(key)), Err(KeyError::Public), "{key:?}");
    }
    let p256 =
        [0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let point = [&[0x30, 0x59][..], &p256, &[3, 0x42, 0, 4], &[1; 64]].concat();
    assert_eq!(add(&pem(&point)), Err(KeyError::Public), "a point that is not on the curve");
    for (bits, is_taken) in [
        (1_024, false),
        (RSA_BITS_MIN - 1, false),
        (RSA_BITS_MIN, true),
        (RSA_BITS_MAX, true),
        (RSA_BITS_MAX + 1, false),
    ] {
        let modulus = (BigUint::from(1_u8) << (bits - 1)) + BigUint::from(1_u8);
        let key =
            RsaPublicKey::new_with_max_size(modulus, BigUint::from(65_537_u32), 2 * RSA_BITS_MAX).unwrap();
        let expected = if is_taken { Ok(Algorithm::Rs256) } else { Err(KeyError::RsaBits { bits }) };
        assert_eq!(add(&key.to_public_key_pem(LineEnding::LF).unwrap()), expected);
    }
}

#[test]
fn what_is_signed_here_is_believed_and_can_be_looked_into() {
    for algorithm in Algorithm::ALL {
        let made = generate(algorithm).unwrap();
        let mut keys = KeySet::default();
        match &made.public {
            Some(public) => keys.add_public("k", public.as_bytes()),
            None => keys.add_secret("k", &made.private),
        }
        .unwrap();
        let key = SigningKey::read("k", &made.private).unwrap();
        let token = key.sign(&serde_json::from_value(good()).unwrap()).unwrap();
        let mut verifier = Verifier::new(Arc::new(keys), Expected::default());
        assert!(verifier.verify(&token, NOW_S * 1_000).is_ok(), "{algorithm}");
        let (header, claims) = inspect(&token).unwrap();
        assert_eq!((header["alg"].as_str(), header["kid"].as_str()), (Some(algorithm.name()), Some("k")));
        assert_eq!(claims["sub"], "ada");
    }
    assert_eq!(inspect("x"), Err(Reason::Form));
}
