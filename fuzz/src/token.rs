//! Tokens from strangers: whatever they say, they are refused, and refused again.

use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use etherply_access::{Expected, KeySet, Refused, Verifier, inspect};

/// A key whose other half is nowhere.
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
    -----END PUBLIC KEY-----\n";

static VERIFIER: LazyLock<Mutex<Verifier>> = LazyLock::new(|| {
    let mut keys = KeySet::default();
    keys.add_public("ed", PUBLIC.as_bytes()).expect("a key");
    keys.add_secret("hs", &BASE64_URL_SAFE_NO_PAD.encode([7; 32])).expect("a secret");
    Mutex::new(Verifier::new(Arc::new(keys), Expected::default()))
});

/// The bytes as a token, and as a token's claims behind a header that leads to each key.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    refused(text);
    for header in [r#"{"alg":"EdDSA","kid":"ed"}"#, r#"{"alg":"HS256","kid":"hs"}"#, text] {
        let [header, claims] = [header, text].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        for signature in ["", "AAAA", &"A".repeat(86)] {
            refused(&format!("{header}.{claims}.{signature}"));
        }
    }
    // What a token says once its signature fits.
    if let Ok(claims) = serde_json::from_str::<etherply_access::Claims>(text)
        && let Ok(verified) = claims.resolve()
    {
        let again = serde_json::to_string(&claims).expect("claims can be written");
        let again: etherply_access::Claims = serde_json::from_str(&again).expect("and read again");
        assert_eq!(again, claims);
        verified.grant(&claims.sub);
    }
}

fn refused(token: &str) {
    let _ = inspect(token);
    let mut verifier = VERIFIER.lock().expect("nothing panics while it holds this");
    for _ in 0..2 {
        let answer = verifier.verify(token, 1_700_000_000_000);
        assert!(matches!(answer, Err(Refused::Invalid(_))), "{token:?} was believed");
    }
}
