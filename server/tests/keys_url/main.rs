//! Keys from a URL: rotation, removal, issuers that fail or say what is no set, forged ids, TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
mod issuer;

use std::path::Path;
use std::time::{Duration, Instant};

use common::certificates::Certificates;
use common::{Member, PATIENCE, Server, Told, command};
use etherply_access::JWKS_BYTES_MAX;
use etherply_client::{OpenOptions, StreamId};
use etherply_wire::{ErrorCode, Rights};
use issuer::{Issuer, Key, answer, forged, set};
use serde_json::json;

const INVALID: u16 = ErrorCode::TokenInvalid as u16;
const UNAVAILABLE: u16 = ErrorCode::KeysUnavailable as u16;
/// The least time between two fetches.
const GAP_S: u64 = etherply_server::access::live::KEYS_FETCH_GAP_S;

fn start(data: &Path, url: &str, flags: &[&str]) -> Server {
    Server::spawn(command(data).args(["--keys-url", url]).args(flags))
}

fn fetches(server: &Server, outcome: &str) -> f64 {
    server.metric(&format!("etherply_keys_fetches_total{{outcome=\"{outcome}\"}}"))
}

/// Waits until so many fetches more have ended so.
fn until_fetched(server: &Server, outcome: &str, more: f64) {
    let (before, began) = (fetches(server, outcome), Instant::now());
    while fetches(server, outcome) < before + more {
        assert!(began.elapsed() < PATIENCE, "no fetch was {outcome}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the server has a set.
fn until_ready(server: &Server) {
    let began = Instant::now();
    while server.get("/ready").0 != 200 {
        assert!(began.elapsed() < PATIENCE, "no set came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a token leads to: the open stream, or a code.
fn open(member: &mut Member, name: &str, token: &str) -> Result<StreamId, u16> {
    let rights = Rights::READ.with(Rights::WRITE);
    let token = Some(token.to_owned());
    let stream = member.begin_open(OpenOptions { document: name.to_owned(), rights, token, cursor: None });
    match member.until(|told| matches!(told, Told::Opened { .. } | Told::OpenFailed(..))) {
        Told::OpenFailed(code, _) => Err(code),
        _ => Ok(stream),
    }
}

/// The same on a connection of its own, tried again for as long as the server asks to.
fn judged(server: &Server, token: &str) -> Result<(), u16> {
    let began = Instant::now();
    loop {
        let mut member = Member::connect(server, false, 7);
        match open(&mut member, "judged", token) {
            Err(UNAVAILABLE) => assert!(began.elapsed() < PATIENCE),
            other => return other.map(|_| ()),
        }
    }
}

#[test]
fn keys_are_rotated_by_id_and_tokens_of_removed_ones_end() {
    let (data, issuer) = (tempfile::tempdir().unwrap(), Issuer::start(None));
    let (first, second) = (Key::new("first"), Key::new("second"));
    issuer.says(answer(&set(&[&first])));
    let server = start(data.path(), &issuer.url(), &["--keys-refresh", "1"]);
    until_ready(&server);
    let (ada, eve) = (first.token("ada"), second.token("eve"));
    let mut old = Member::connect(&server, false, 1);
    let stream = open(&mut old, "notes", &ada).unwrap();
    assert_eq!(judged(&server, &eve), Err(INVALID));
    // Both, for as long as tokens of the first one live.
    issuer.says(answer(&set(&[&first, &second])));
    until_fetched(&server, "changed", 1.0);
    assert_eq!((judged(&server, &ada), judged(&server, &eve)), (Ok(()), Ok(())));
    issuer.says(answer(&set(&[&second])));
    until_fetched(&server, "changed", 1.0);
    assert_eq!((judged(&server, &ada), judged(&server, &eve)), (Err(INVALID), Ok(())));
    // On a core that had believed it as well, and for renewals.
    assert!(matches!(open(&mut old, "others", &ada), Err(INVALID | UNAVAILABLE)));
    // What is open stays, until the token's own end.
    old.put_durably(stream, "k", "v");
    assert!(server.metric("etherply_keys_fetched_timestamp_seconds") > 1_700_000_000.0);
    assert!(!server.has_panicked());
}

#[test]
fn a_token_with_a_key_that_is_new_has_the_set_fetched() {
    let (data, issuer) = (tempfile::tempdir().unwrap(), Issuer::start(None));
    let (first, second) = (Key::new("first"), Key::new("second"));
    issuer.says(answer(&set(&[&first])));
    // Nothing but the token asks for another set within the test's time.
    let server = start(data.path(), &issuer.url(), &[]);
    until_ready(&server);
    let began = Instant::now();
    assert_eq!(judged(&server, &second.token("eve")), Err(INVALID), "the set is new: this is for good");
    issuer.says(answer(&set(&[&first, &second])));
    while judged(&server, &second.token("eve")) != Ok(()) {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(issuer.asked(), 2);
}

#[test]
fn forged_ids_make_no_storm() {
    let (data, issuer) = (tempfile::tempdir().unwrap(), Issuer::start(None));
    let key = Key::new("main");
    issuer.says(answer(&set(&[&key])));
    let began = Instant::now();
    let server = start(data.path(), &issuer.url(), &[]);
    until_ready(&server);
    let token = key.token("ada");
    for connection in 0..60 {
        let mut member = Member::connect(&server, connection % 2 == 0, 9);
        for n in 0..15 {
            let code = open(&mut member, "notes", &forged(&token, &format!("{connection}-{n}"))).unwrap_err();
            assert!(code == INVALID || code == UNAVAILABLE, "{code}");
        }
    }
    let most = 1 + usize::try_from(began.elapsed().as_secs() / GAP_S).unwrap();
    assert!((1..=most).contains(&issuer.asked()), "asked {} times, {most} are allowed", issuer.asked());
    assert_eq!(judged(&server, &token), Ok(()));
}

#[test]
fn without_a_first_set_the_server_runs_and_says_try_again() {
    let (data, issuer) = (tempfile::tempdir().unwrap(), Issuer::start(None));
    let (key, local) = (Key::new("main"), Key::new("local"));
    issuer.says("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let server = start(data.path(), &issuer.url(), &["--keys-refresh", "1"]);
    let token = key.token("ada");
    let mut member = Member::connect(&server, true, 1);
    assert_eq!(open(&mut member, "notes", &token), Err(UNAVAILABLE));
    assert_eq!(open(&mut member, "notes", &forged(&token, "other")), Err(UNAVAILABLE));
    let (status, text) = server.get("/ready");
    assert!(status == 503 && text.contains("--keys-url"), "{status} {text}");
    assert_eq!(server.get("/health").0, 200);
    issuer.says(answer(&set(&[&key])));
    until_ready(&server);
    open(&mut member, "notes", &token).unwrap();
    drop(server);
    // Beside keys of files, which need nobody.
    issuer.says("junk");
    let folder = local.folder().to_str().unwrap().to_owned();
    let server = start(data.path(), &issuer.url(), &["--keys", &folder, "--keys-refresh", "1"]);
    assert_eq!(server.get("/ready").0, 200);
    let mut member = Member::connect(&server, false, 2);
    open(&mut member, "notes", &local.token("bob")).unwrap();
    assert_eq!(open(&mut member, "others", &token), Err(UNAVAILABLE));
    issuer.says(answer(&set(&[&key])));
    until_fetched(&server, "changed", 1.0);
    assert_eq!((judged(&server, &token), judged(&server, &local.token("bob"))), (Ok(()), Ok(())));
}

#[test]
fn what_is_no_set_leaves_the_keys_as_they_were() {
    let (data, issuer) = (tempfile::tempdir().unwrap(), Issuer::start(None));
    let (key, other) = (Key::new("main"), Key::new("other"));
    let good = set(&[&key]);
    issuer.says(answer(&good));
    let server = start(data.path(), &issuer.url(), &["--keys-refresh", "1"]);
    until_ready(&server);
    let (ours, theirs) = (key.token("ada"), other.token("eve"));
    assert_eq!(judged(&server, &ours), Ok(()));
    let padded = |bytes: usize| answer(&format!("{good}{}", " ".repeat(bytes - good.len())));
    let elsewhere = Issuer::start(None);
    elsewhere.says(answer(&set(&[&other])));
    let redirect =
        format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", elsewhere.url());
    let mut cut = answer(&set(&[&other]));
    cut.truncate(cut.len() - 1);
    let endless =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n{}", "x".repeat(JWKS_BYTES_MAX));
    let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n{good}", "x".repeat(64 * 1024));
    for (what, bytes) in [
        ("no answer", Vec::new()),
        ("junk", b"\x00\xff junk".to_vec()),
        ("an error", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("not found", [b"HTTP/1.1 404 Not Found\r\n\r\n", good.as_bytes()].concat()),
        ("a redirect", redirect.into_bytes()),
        ("no JSON", answer("<html>")),
        ("no set", answer("{}")),
        ("a key twice", answer(&set(&[&other, &other]))),
        ("an answer that breaks off", cut),
        ("one byte too much", padded(JWKS_BYTES_MAX + 1)),
        ("no end", endless.into_bytes()),
        ("a long head", head.into_bytes()),
    ] {
        issuer.says(bytes);
        // The one that is under way may have had the answer before.
        until_fetched(&server, "failed", 2.0);
        assert_eq!(judged(&server, &ours), Ok(()), "{what}");
        assert!(open(&mut Member::connect(&server, false, 3), "notes", &theirs).is_err(), "{what}");
    }
    assert_eq!(elsewhere.asked(), 0, "redirects are not followed");
    for bytes in [JWKS_BYTES_MAX - 1, JWKS_BYTES_MAX] {
        issuer.says(padded(bytes));
        until_fetched(&server, "changed", 1.0);
        assert_eq!(judged(&server, &ours), Ok(()));
    }
    assert!(!server.has_panicked());
}

#[test]
fn a_published_secret_makes_no_tokens() {
    let (data, issuer) = (tempfile::tempdir().unwrap(), Issuer::start(None));
    let key = Key::new("main");
    let secret = json!({ "kty": "oct", "kid": "main-2", "alg": "HS256", "k": "A".repeat(43) });
    issuer.says(answer(&json!({ "keys": [key.jwk, secret] }).to_string()));
    let server = start(data.path(), &issuer.url(), &[]);
    until_ready(&server);
    let file = data.path().join("main-2.secret");
    std::fs::write(&file, "A".repeat(43)).unwrap();
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_etherply"))
        .args(["token", "--key", file.to_str().unwrap(), "--subject", "eve", "--ttl", "1h", "--write", "*"])
        .output()
        .unwrap();
    assert!(made.status.success());
    let token = String::from_utf8(made.stdout).unwrap();
    let mut member = Member::connect(&server, false, 1);
    assert!(open(&mut member, "notes", token.trim()).is_err());
    assert_eq!(judged(&server, &key.token("ada")), Ok(()));
}

#[test]
fn keys_come_by_tls_from_whom_this_machine_trusts() {
    let (data, key) = (tempfile::tempdir().unwrap(), Key::new("main"));
    let certificates = Certificates::of("localhost");
    let issuer = Issuer::start(Some(certificates.server_config()));
    issuer.says(answer(&set(&[&key])));
    let roots = data.path().join("roots.pem");
    let with = |pem: &str, host: &str| {
        std::fs::write(&roots, pem).unwrap();
        let url = format!("https://{host}:{}/jwks", issuer.address.port());
        let mut asked = command(&data.path().join("data"));
        Server::spawn(
            asked
                .args(["--keys-url", &url, "--keys-refresh", "1"])
                .env("SSL_CERT_FILE", &roots)
                .env_remove("SSL_CERT_DIR"),
        )
    };
    let token = key.token("ada");
    for (pem, host) in [(Certificates::new().root_pem(), "localhost"), (certificates.root_pem(), "127.0.0.1")]
    {
        let server = with(&pem, host);
        until_fetched(&server, "failed", 1.0);
        assert_eq!(open(&mut Member::connect(&server, false, 1), "notes", &token), Err(UNAVAILABLE));
    }
    let server = with(&certificates.root_pem(), "localhost");
    until_ready(&server);
    assert_eq!(judged(&server, &token), Ok(()));
}

#[test]
fn a_url_that_is_not_safe_is_refused_at_the_start() {
    let data = tempfile::tempdir().unwrap();
    for url in ["http://id.test/jwks", "https://ada:secret@id.test/jwks", "id.test"] {
        let output = command(data.path()).args(["--keys-url", url]).output().unwrap();
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("--keys-url"));
    }
}
