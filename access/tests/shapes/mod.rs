//! Tokens that are none, for every test that brings them to something that has to refuse them. Whoever includes this
//! says by `now_s` what time it is.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use etherply_access::{
    Algorithm, CLOCK_LEEWAY_S, Expected, GRANTS_MAX, KeySet, Reason, Refused, TOKEN_LIFETIME_S, Verifier,
    generate,
};
use etherply_wire::limits::TOKEN_BYTES_MAX;
use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};

use super::now_s;

/// A key pair in the forms in which it is used and misused.
pub struct Pair {
    encoding: EncodingKey,
    algorithm: jsonwebtoken::Algorithm,
    pub private: String,
    pub public: String,
}

impl Pair {
    pub fn new(algorithm: Algorithm) -> Self {
        let made = generate(algorithm).unwrap();
        let pem = made.private.as_bytes();
        let (encoding, algorithm) = match algorithm {
            Algorithm::EdDsa => (EncodingKey::from_ed_pem(pem).unwrap(), jsonwebtoken::Algorithm::EdDSA),
            Algorithm::Es256 => (EncodingKey::from_ec_pem(pem).unwrap(), jsonwebtoken::Algorithm::ES256),
            Algorithm::Rs256 => (EncodingKey::from_rsa_pem(pem).unwrap(), jsonwebtoken::Algorithm::RS256),
            Algorithm::Hs256 => {
                let secret = BASE64_URL_SAFE_NO_PAD.decode(made.private.trim()).unwrap();
                (EncodingKey::from_secret(&secret), jsonwebtoken::Algorithm::HS256)
            }
        };
        Self { encoding, algorithm, private: made.private, public: made.public.unwrap_or_default() }
    }

    pub fn sign(&self, header: &str, claims: &str) -> String {
        signed(header, claims, &self.encoding, self.algorithm)
    }
}

pub fn part(json: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json)
}

pub fn signed(header: &str, claims: &str, key: &EncodingKey, algorithm: jsonwebtoken::Algorithm) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// A server that knows one key of each kind.
pub struct Server {
    pub ed: Pair,
    pub es: Pair,
    pub rs: Pair,
    pub hs: Pair,
    pub verifier: Verifier,
}

impl Server {
    pub fn new() -> Self {
        let [ed, es, rs, hs] = Algorithm::ALL.map(Pair::new);
        let mut keys = KeySet::default();
        assert_eq!(keys.add_public("ed", ed.public.as_bytes()), Ok(Algorithm::EdDsa));
        assert_eq!(keys.add_public("es", es.public.as_bytes()), Ok(Algorithm::Es256));
        assert_eq!(keys.add_public("rs", rs.public.as_bytes()), Ok(Algorithm::Rs256));
        assert_eq!(keys.add_secret("hs", &hs.private), Ok(Algorithm::Hs256));
        Self { ed, es, rs, hs, verifier: Verifier::new(Arc::new(keys), Expected::default()) }
    }

    pub fn verify(&mut self, token: &str) -> Result<Arc<etherply_access::Verified>, Refused> {
        self.verifier.verify(token, now_s() * 1_000)
    }
}

pub fn good() -> Value {
    json!({
        "sub": "ada", "iss": "etherply", "aud": "etherply", "iat": now_s() - 10, "exp": now_s() + 600, "jti": "t1",
        "etherply": { "read": ["rooms/*"], "write": ["rooms/1"], "presence": ["rooms/1"] },
    })
}

pub fn with(name: &str, value: Value) -> String {
    let mut claims = good();
    claims[name] = value;
    claims.to_string()
}

pub fn without(name: &str) -> String {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(name);
    claims.to_string()
}

pub const ED: &str = r#"{"alg":"EdDSA","typ":"JWT","kid":"ed"}"#;

/// JSON that a reader that calls itself for each level would not survive.
pub fn deep() -> String {
    format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000))
}

/// Each shape, and the reason that the operator is told.
pub fn shapes(server: &Server) -> Vec<(&'static str, String, Option<Reason>)> {
    let claims = good().to_string();
    let token = server.ed.sign(ED, &claims);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let [stranger_ed, stranger_es, stranger_rs] =
        [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256].map(Pair::new);
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid }).to_string();
    let hmac = |key: &[u8], header: &str| {
        signed(header, &claims, &EncodingKey::from_secret(key), jsonwebtoken::Algorithm::HS256)
    };
    let ed = |claims: &str| server.ed.sign(ED, claims);
    let flipped = |at: usize| {
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[at] ^= 1;
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    };
    let other_claims = part(&with("sub", json!("eve")));
    let (head, _) = message.split_once('.').unwrap();
    let spki = |pem: &str| {
        let text: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
        BASE64_STANDARD.decode(text).unwrap()
    };
    let deep = deep();
    let long_subject = "x".repeat(257);
    let many: Vec<String> = (0..=GRANTS_MAX).map(|n| n.to_string()).collect();
    let unsigned = |alg: &str| format!("{}.{}.", part(&header(alg, "ed")), part(&claims));
    let invalid_utf8 = BASE64_URL_SAFE_NO_PAD.encode(b"{\"sub\":\"\xff\"}");
    let signed_raw = |head: &str, body: &str| {
        let message = format!("{head}.{body}");
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &server.ed.encoding, server.ed.algorithm).unwrap();
        format!("{message}.{signature}")
    };
    let form = || Some(Reason::Form);
    let no_header = || Some(Reason::Header);
    let no_claims = || Some(Reason::Claims);
    let algorithm = || Some(Reason::Algorithm);
    let no_signature = || Some(Reason::Signature);
    vec![
        // No algorithm, and algorithms that are not the key's.
        ("alg none", unsigned("none"), algorithm()),
        ("alg None", unsigned("None"), algorithm()),
        ("alg nOnE", unsigned("nOnE"), algorithm()),
        ("alg empty", unsigned(""), algorithm()),
        (
            "alg none, signature kept",
            format!("{}.{}.{signature}", part(&header("none", "ed")), part(&claims)),
            algorithm(),
        ),
        ("no alg", server.ed.sign(r#"{"kid":"ed"}"#, &claims), no_header()),
        ("alg null", server.ed.sign(r#"{"alg":null,"kid":"ed"}"#, &claims), no_header()),
        ("alg a number", server.ed.sign(r#"{"alg":1,"kid":"ed"}"#, &claims), no_header()),
        ("alg twice", server.ed.sign(r#"{"alg":"none","alg":"EdDSA","kid":"ed"}"#, &claims), no_header()),
        ("alg in lower case", server.ed.sign(&header("eddsa", "ed"), &claims), algorithm()),
        (
            "HS256 with the public PEM of RSA",
            hmac(server.rs.public.as_bytes(), &header("HS256", "rs")),
            algorithm(),
        ),
        (
            "HS256 with the public DER of RSA",
            hmac(&spki(&server.rs.public), &header("HS256", "rs")),
            algorithm(),
        ),
        (
            "HS256 with the public PEM of Ed25519",
            hmac(server.ed.public.as_bytes(), &header("HS256", "ed")),
            algorithm(),
        ),
        (
            "HS256 with the public PEM of P-256",
            hmac(server.es.public.as_bytes(), &header("HS256", "es")),
            algorithm(),
        ),
        (
            "HS256 with the public PEM, as RS256",
            hmac(server.rs.public.as_bytes(), &header("RS256", "rs")),
            no_signature(),
        ),
        ("HS256 with an empty secret", hmac(b"", &header("HS256", "hs")), no_signature()),
        (
            "HS256 with the secret's text",
            hmac(server.hs.private.trim().as_bytes(), &header("HS256", "hs")),
            no_signature(),
        ),
        (
            "HS512 with the secret",
            {
                let secret = BASE64_URL_SAFE_NO_PAD.decode(server.hs.private.trim()).unwrap();
                signed(
                    &header("HS512", "hs"),
                    &claims,
                    &EncodingKey::from_secret(&secret),
                    jsonwebtoken::Algorithm::HS512,
                )
            },
            algorithm(),
        ),
        (
            "PS256 with the key of RS256",
            signed(&header("PS256", "rs"), &claims, &server.rs.encoding, jsonwebtoken::Algorithm::PS256),
            algorithm(),
        ),
        (
            "RS512 with the key of RS256",
            signed(&header("RS512", "rs"), &claims, &server.rs.encoding, jsonwebtoken::Algorithm::RS512),
            algorithm(),
        ),
        // Keys.
        (
            "no kid where there are several keys",
            server.ed.sign(r#"{"alg":"EdDSA"}"#, &claims),
            Some(Reason::Key),
        ),
        ("an unknown kid", server.ed.sign(&header("EdDSA", "other"), &claims), Some(Reason::Key)),
        ("an empty kid", server.ed.sign(&header("EdDSA", ""), &claims), Some(Reason::Key)),
        ("kid a path", server.ed.sign(&header("EdDSA", "../../dev/null"), &claims), Some(Reason::Key)),
        ("kid an injection", server.ed.sign(&header("EdDSA", "ed' OR '1'='1"), &claims), Some(Reason::Key)),
        ("kid an array", server.ed.sign(r#"{"alg":"EdDSA","kid":["ed"]}"#, &claims), no_header()),
        ("kid twice", server.ed.sign(r#"{"alg":"EdDSA","kid":"x","kid":"ed"}"#, &claims), no_header()),
        ("another key's kid", server.ed.sign(&header("EdDSA", "es"), &claims), algorithm()),
        ("a stranger's key, Ed25519", stranger_ed.sign(ED, &claims), no_signature()),
        ("a stranger's key, P-256", stranger_es.sign(&header("ES256", "es"), &claims), no_signature()),
        ("a stranger's key, RSA", stranger_rs.sign(&header("RS256", "rs"), &claims), no_signature()),
        (
            "jku to a stranger's keys",
            stranger_ed.sign(r#"{"alg":"EdDSA","kid":"ed","jku":"https://eve.example/keys"}"#, &claims),
            no_signature(),
        ),
        (
            "x5u to a stranger's keys",
            stranger_rs.sign(r#"{"alg":"RS256","kid":"rs","x5u":"https://eve.example/cert"}"#, &claims),
            no_signature(),
        ),
        (
            "x5c with a stranger's certificate",
            stranger_rs.sign(r#"{"alg":"RS256","kid":"rs","x5c":["MIIB"]}"#, &claims),
            no_signature(),
        ),
        (
            "jwk with a stranger's key",
            {
                let x = BASE64_URL_SAFE_NO_PAD.encode(&spki(&stranger_ed.public)[12..]);
                let header =
                    json!({ "alg": "EdDSA", "kid": "ed", "jwk": { "kty": "OKP", "crv": "Ed25519", "x": x } });
                stranger_ed.sign(&header.to_string(), &claims)
            },
            no_signature(),
        ),
        // Headers.
        (
            "crit",
            server.ed.sign(r#"{"alg":"EdDSA","kid":"ed","crit":["b64"],"b64":false}"#, &claims),
            Some(Reason::Critical),
        ),
        (
            "crit empty",
            server.ed.sign(r#"{"alg":"EdDSA","kid":"ed","crit":[]}"#, &claims),
            Some(Reason::Critical),
        ),
        (
            "typ of something else",
            server.ed.sign(r#"{"alg":"EdDSA","kid":"ed","typ":"secevent+jwt"}"#, &claims),
            no_header(),
        ),
        ("header no object", server.ed.sign("[]", &claims), no_header()),
        ("header empty", server.ed.sign("", &claims), no_header()),
        ("header with something behind", server.ed.sign(&format!("{ED} x"), &claims), no_header()),
        // Signatures.
        ("signature cut short", token[..token.len() - 4].to_owned(), None),
        ("signature one bit off", flipped(0), no_signature()),
        ("signature last bit off", flipped(63), no_signature()),
        (
            "signature of zeros",
            format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode([0; 64])),
            no_signature(),
        ),
        ("signature twice", format!("{message}.{signature}{signature}"), None),
        ("signature empty", format!("{message}."), no_signature()),
        ("claims exchanged", format!("{head}.{other_claims}.{signature}"), no_signature()),
        (
            "ES256 signature of zeros",
            format!(
                "{}.{}.{}",
                part(&header("ES256", "es")),
                part(&claims),
                BASE64_URL_SAFE_NO_PAD.encode([0; 64])
            ),
            no_signature(),
        ),
        // Form.
        ("empty", String::new(), form()),
        ("dots", "..".to_owned(), no_header()),
        ("one part", part(&claims), form()),
        ("two parts", message.to_owned(), form()),
        ("four parts", format!("{token}.x"), form()),
        ("five parts, as encrypted ones", format!("{token}.x.y"), form()),
        ("padding", format!("{message}.{signature}="), form()),
        ("a blank before", format!(" {token}"), form()),
        ("a line break behind", format!("{token}\n"), form()),
        ("Bearer before", format!("Bearer {token}"), form()),
        ("standard base64", format!("{head}+/.{}.{signature}", part(&claims)), form()),
        ("not ASCII", format!("{token}é"), form()),
        ("a zero byte", format!("{token}\0"), form()),
        ("too long", format!("{token}{}", "A".repeat(TOKEN_BYTES_MAX)), Some(Reason::TooLong)),
        ("a megabyte", "A".repeat(1024 * 1024), Some(Reason::TooLong)),
        // Claims.
        ("claims no JSON", ed("sub=ada"), no_claims()),
        ("claims no object", ed("[]"), no_claims()),
        ("claims not UTF-8", signed_raw(&part(ED), &invalid_utf8), no_claims()),
        ("a claim nested deeply", ed(&with("aud", json!("deep")).replace("\"deep\"", &deep)), no_claims()),
        ("no sub", ed(&without("sub")), no_claims()),
        ("sub twice", ed(&claims.replacen('{', r#"{"sub":"eve","#, 1)), no_claims()),
        ("sub a number", ed(&with("sub", json!(7))), no_claims()),
        ("sub empty", ed(&with("sub", json!(""))), None),
        ("sub with a line break", ed(&with("sub", json!("a\nb"))), None),
        ("sub too long", ed(&with("sub", json!(long_subject))), None),
        ("no iss", ed(&without("iss")), no_claims()),
        ("another iss", ed(&with("iss", json!("eve"))), Some(Reason::Issuer)),
        ("iss an array", ed(&with("iss", json!(["etherply"]))), no_claims()),
        ("no aud", ed(&without("aud")), no_claims()),
        ("another aud", ed(&with("aud", json!("other"))), Some(Reason::Audience)),
        ("aud empty", ed(&with("aud", json!([]))), Some(Reason::Audience)),
        ("aud null", ed(&with("aud", json!(null))), no_claims()),
        ("aud a part of the name", ed(&with("aud", json!("ether"))), Some(Reason::Audience)),
        ("no exp", ed(&without("exp")), no_claims()),
        ("exp null", ed(&with("exp", json!(null))), no_claims()),
        ("exp a text", ed(&with("exp", json!((now_s() + 600).to_string()))), no_claims()),
        ("exp below zero", ed(&with("exp", json!(-1))), no_claims()),
        ("exp a fraction", ed(&with("exp", json!(1.7e9))), no_claims()),
        ("exp the greatest number", ed(&with("exp", json!(u64::MAX))), None),
        ("exp before iat", ed(&with("exp", json!(now_s() - 10))), None),
        ("exp too far", ed(&with("exp", json!(now_s() - 9 + TOKEN_LIFETIME_S))), Some(Reason::Lifetime)),
        ("no iat", ed(&without("iat")), no_claims()),
        ("iat a text", ed(&with("iat", json!("now"))), no_claims()),
        ("iat in the future", ed(&with("iat", json!(now_s() + CLOCK_LEEWAY_S + 1))), Some(Reason::TooEarly)),
        ("nbf in the future", ed(&with("nbf", json!(now_s() + CLOCK_LEEWAY_S + 1))), Some(Reason::TooEarly)),
        ("nbf a text", ed(&with("nbf", json!("0"))), no_claims()),
        ("nbf the greatest number", ed(&with("nbf", json!(u64::MAX))), None),
        ("jti a number", ed(&with("jti", json!(1))), no_claims()),
        ("jti empty", ed(&with("jti", json!(""))), None),
        ("jti too long", ed(&with("jti", json!("x".repeat(129)))), None),
        ("no grants", ed(&without("etherply")), no_claims()),
        ("grants a text", ed(&with("etherply", json!("write"))), no_claims()),
        ("a grant misspelt", ed(&with("etherply", json!({ "wirte": ["rooms/*"] }))), no_claims()),
        ("a grant a text", ed(&with("etherply", json!({ "write": "rooms/*" }))), no_claims()),
        ("a grant that is no pattern", ed(&with("etherply", json!({ "write": ["room*"] }))), None),
        ("too many grants", ed(&with("etherply", json!({ "read": many }))), None),
    ]
}
