//! Sets of keys from an issuer that may say anything: no secret is taken, and never more keys than a server has.

use etherply_access::{Algorithm, Jwks, KEYS_MAX};

/// The bytes as a set, and as the members of a set's only key.
pub fn check(data: &[u8]) {
    read(data);
    let member = |before: &str| [before.as_bytes(), data, b"}]}"].concat();
    for kind in [r#""OKP","crv":"Ed25519""#, r#""EC","crv":"P-256""#, r#""RSA""#, r#""oct""#] {
        read(&member(&format!(r#"{{"keys":[{{"kid":"k","kty":{kind},"#)));
    }
}

fn read(text: &[u8]) {
    let Ok(Jwks { keys, passed_over }) = Jwks::read(text) else { return };
    assert!(keys.len() <= KEYS_MAX);
    assert!(keys.iter().all(|(_, algorithm)| algorithm != Algorithm::Hs256), "a secret was taken");
    let again = Jwks::read(text).expect("the same is read again");
    assert!(keys.iter().eq(again.keys.iter()) && passed_over == again.passed_over);
    assert!(
        keys.with(&again.keys).is_ok_and(|both| both.len() == keys.len()),
        "the same keys twice are the same"
    );
}
