//! Tokens on a running server: who gets in, what for, for how long, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::Path;
use std::process::Command;

use common::place::{Place, complained, etherply, said};
use common::{Member, Server, Told, command};
use etherply_client::{OpenOptions, StreamId};
use etherply_wire::{ErrorCode, Rights};

const REQUIRED: u16 = ErrorCode::TokenRequired as u16;
const INVALID: u16 = ErrorCode::TokenInvalid as u16;
const FORBIDDEN: u16 = ErrorCode::Forbidden as u16;
const EXPIRED: u16 = ErrorCode::TokenExpired as u16;
const REVOKED: u16 = ErrorCode::TokenRevoked as u16;
const WRITES: Rights = Rights::READ.with(Rights::WRITE);

/// Opens a document by a token; what came of it.
fn open(member: &mut Member, name: &str, rights: Rights, token: Option<&str>) -> (StreamId, Told) {
    let token = token.map(str::to_owned);
    let stream = member.begin_open(OpenOptions { document: name.to_owned(), rights, token, cursor: None });
    let told = member.until(|told| matches!(told, Told::Opened { .. } | Told::OpenFailed(..)));
    (stream, told)
}

fn opened(member: &mut Member, name: &str, rights: Rights, token: &str) -> StreamId {
    let (stream, told) = open(member, name, rights, Some(token));
    assert!(matches!(told, Told::Opened { .. }), "{told:?}");
    stream
}

fn failed(member: &mut Member, name: &str, token: Option<&str>) -> (u16, String) {
    match open(member, name, WRITES, token).1 {
        Told::OpenFailed(code, message) => (code, message),
        other => panic!("{other:?}"),
    }
}

fn rights_changed(member: &mut Member) -> (Rights, u16) {
    match member.until(|told| matches!(told, Told::RightsChanged { .. })) {
        Told::RightsChanged { rights, code } => (rights, code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_tokens_let_in_and_only_to_what_they_grant() {
    let place = Place::new();
    let server = place.start();
    let writer = place.token("ada", "1h", &["--write", "rooms/*"]);
    for websocket in [false, true] {
        let mut ada = Member::connect(&server, websocket, 1 + u8::from(websocket));
        let name = if websocket { "rooms/ws" } else { "rooms/tcp" };
        let stream = opened(&mut ada, name, WRITES.with(Rights::PRESENCE), &writer);
        ada.put_durably(stream, "k", "v");
    }
    let mut eve = Member::connect(&server, false, 9);
    assert_eq!(failed(&mut eve, "rooms/tcp", None).0, REQUIRED);
    let forged = format!("{}x", &writer[..writer.len() - 1]);
    for token in [forged.as_str(), "", "x", &"x".repeat(16 * 1024)] {
        let (code, message) = failed(&mut eve, "rooms/tcp", Some(token));
        assert_eq!((code, message), (INVALID, "the token cannot be used: ask for another one".to_owned()));
    }
    assert_eq!(server.metric("etherply_tokens_refused_total{how=\"invalid\"}"), 4.0);
    assert_eq!(server.metric("etherply_tokens_refused_total{how=\"missing\"}"), 1.0);
    // What is there, and what is not, look alike.
    let elsewhere = place.token("eve", "1h", &["--write", "notes/**"]);
    let there = failed(&mut eve, "rooms/tcp", Some(&elsewhere));
    assert_eq!(there.0, FORBIDDEN);
    assert_eq!(failed(&mut eve, "rooms/nothing", Some(&elsewhere)), there);
    // A connection is one subject's.
    assert_eq!(failed(&mut eve, "rooms/tcp", Some(&writer)).0, INVALID);
    let mut other = Member::connect(&server, false, 10);
    opened(&mut other, "rooms/tcp", WRITES, &writer);
}

#[test]
fn a_connection_that_brings_many_bad_tokens_ends() {
    let place = Place::new();
    let server = place.start();
    let mut eve = Member::connect(&server, false, 1);
    for _ in 1..etherply_server::data_plane::limits::TOKENS_REFUSED_MAX {
        assert_eq!(failed(&mut eve, "rooms/1", Some("x")).0, INVALID);
    }
    let options = OpenOptions {
        document: "rooms/1".to_owned(),
        rights: WRITES,
        token: Some("x".to_owned()),
        cursor: None,
    };
    eve.begin_open(options);
    assert_eq!(eve.until_error(), INVALID);
}

#[test]
fn a_read_only_member_receives_everything_and_keeps_what_is_refused() {
    let place = Place::new();
    let server = place.start();
    let writer = place.token("ada", "1h", &["--write", "rooms/1"]);
    let reader = place.token("eve", "1h", &["--read", "rooms/*"]);
    let mut ada = Member::connect(&server, false, 1);
    let mut eve = Member::connect(&server, true, 2);
    let written = opened(&mut ada, "rooms/1", WRITES, &writer);
    let read = opened(&mut eve, "rooms/1", WRITES, &reader);
    ada.put_durably(written, "k", "v");
    eve.until_keys(read, 1);
    // Written offline, say, by an application that did not look at its rights.
    eve.put(read, "mine", "v");
    let told = eve.until(|told| matches!(told, Told::Refused { .. }));
    assert_eq!(told, Told::Refused { code: ErrorCode::ReadOnly as u16, blocks: true });
    assert_eq!(eve.client.unacked(read).count(), 1);
    ada.put_durably(written, "more", "v");
    assert_eq!(eve.until_keys(read, 3).len(), 3, "its own is in its copy");
    assert_eq!(ada.contents(written).len(), 2);
    // A token that grants more lets it go on by itself.
    let more = place.token("eve", "1h", &["--write", "rooms/1"]);
    eve.client.renew(read, more).unwrap();
    assert_eq!(rights_changed(&mut eve), (WRITES, 0));
    eve.until(|told| matches!(told, Told::Acked { .. }));
    assert_eq!(ada.until_keys(written, 3).len(), 3);
}

#[test]
fn rights_end_in_time_the_socket_stays_and_a_renewal_goes_on() {
    let place = Place::new();
    let server = place.start();
    let long = place.token("ada", "1h", &["--write", "rooms/*"]);
    let mut ada = Member::connect(&server, false, 1);
    let written = opened(&mut ada, "rooms/1", WRITES, &long);
    let mut ben = Member::connect(&server, true, 2);
    // On a busy machine a short token may be over before it is used.
    let (short, read) = ["2s", "8s", "32s"]
        .into_iter()
        .find_map(|ttl| {
            let short = place.token("ben", ttl, &["--write", "rooms/1"]);
            match open(&mut ben, "rooms/1", WRITES, Some(&short)) {
                (stream, Told::Opened { .. }) => Some((short, stream)),
                (stream, told) => {
                    assert!(matches!(told, Told::OpenFailed(EXPIRED, _)), "{told:?}");
                    ben.client.close(stream).unwrap();
                    None
                }
            }
        })
        .expect("a token that is good for as long as it takes to use it");
    let kept = opened(&mut ben, "rooms/2", WRITES, &place.token("ben", "1h", &["--write", "rooms/2"]));
    assert_eq!(rights_changed(&mut ben), (Rights::NONE, EXPIRED));
    ada.put_durably(written, "k", "v");
    ben.put(read, "mine", "v");
    let told = ben.until(|told| matches!(told, Told::Refused { .. }));
    assert_eq!(told, Told::Refused { code: EXPIRED, blocks: true });
    ben.put_durably(kept, "other documents", "go on");
    assert_eq!(ben.contents(read).len(), 1, "nothing came of the document");
    // The old token does not help, and a new one does.
    ben.client.renew(read, short).unwrap();
    assert!(matches!(ben.until(|told| matches!(told, Told::Failed(..))), Told::Failed(EXPIRED, _)));
    ben.client.renew(read, place.token("ben", "1h", &["--write", "rooms/1"])).unwrap();
    assert_eq!(rights_changed(&mut ben), (WRITES, 0));
    ben.until_keys(read, 2);
    ada.until_keys(written, 2);
}

#[test]
fn a_revocation_ends_live_streams_and_outlives_a_restart() {
    let place = Place::new();
    let server = place.start();
    let [ada_token, ben_token] =
        ["ada", "ben"].map(|subject| place.token(subject, "1h", &["--write", "rooms/*"]));
    let mut ada = Member::connect(&server, false, 1);
    let mut ben = Member::connect(&server, true, 2);
    let streams = ["rooms/1", "rooms/2", "rooms/3"].map(|name| opened(&mut ada, name, WRITES, &ada_token));
    let ben_stream = opened(&mut ben, "rooms/1", WRITES, &ben_token);
    assert_eq!(said(place.revoke(&server, &["--subject", "ada"])), "revoked\n");
    for _ in streams {
        assert_eq!(rights_changed(&mut ada), (Rights::NONE, REVOKED));
    }
    ben.put_durably(ben_stream, "k", "v");
    assert_eq!(failed(&mut ada, "rooms/4", Some(&ada_token)).0, REVOKED);
    ada.client.renew(streams[0], ada_token.clone()).unwrap();
    assert!(matches!(ada.until(|told| matches!(told, Told::Failed(..))), Told::Failed(REVOKED, _)));
    // By its id.
    let claims = said(etherply(&["token", "inspect", &ben_token]));
    let id = claims.lines().find_map(|line| line.trim().strip_prefix("\"jti\": \"")?.split('"').next());
    said(place.revoke(&server, &["--token", id.unwrap()]));
    assert_eq!(rights_changed(&mut ben), (Rights::NONE, REVOKED));
    server.kill();
    let server = place.start();
    let mut again = Member::connect(&server, false, 3);
    assert_eq!(failed(&mut again, "rooms/1", Some(&ada_token)).0, REVOKED);
    let mut again = Member::connect(&server, false, 4);
    assert_eq!(failed(&mut again, "rooms/1", Some(&ben_token)).0, REVOKED);
    let new = place.token("ben", "1h", &["--write", "rooms/*"]);
    opened(&mut again, "rooms/1", WRITES, &new);
}

/// `ETHERPLY_REVOCATIONS` of them, and how long each took: from when the operator's command was started until the member
/// was told, on streams that write.
#[test]
fn each_revocation_ends_the_streams_that_it_is_about_and_no_other() {
    let revocations = std::env::var("ETHERPLY_REVOCATIONS").map_or(9, |count| count.parse().unwrap());
    let place = Place::new();
    let server = place.start();
    let mut bystander = Member::connect(&server, false, 1);
    let stays =
        opened(&mut bystander, "halls/1", WRITES, &place.token("cleo", "1h", &["--write", "halls/*"]));
    let mut took_us: Vec<u128> = (0..revocations)
        .map(|number: u32| {
            let (subject, document) = (format!("ada-{number}"), format!("rooms/{number}"));
            let token = place.token(&subject, "1h", &["--write", "rooms/*"]);
            let mut ada =
                Member::connect(&server, number.is_multiple_of(2), 2 + u8::try_from(number % 250).unwrap());
            let stream = opened(&mut ada, &document, WRITES, &token);
            ada.put_durably(stream, "k", "v");
            let claims = said(etherply(&["token", "inspect", &token]));
            let id =
                claims.lines().find_map(|line| line.trim().strip_prefix("\"jti\": \"")?.split('"').next());
            let what = match number % 3 {
                0 => ["--subject", &subject],
                1 => ["--token", id.unwrap()],
                _ => ["--documents", &document],
            };
            let began = std::time::Instant::now();
            said(place.revoke(&server, &what));
            assert_eq!(rights_changed(&mut ada), (Rights::NONE, REVOKED), "{what:?}");
            let took_us = began.elapsed().as_micros();
            ada.put(stream, "k", "refused");
            let told = ada.until(|told| matches!(told, Told::Refused { .. } | Told::Acked { .. }));
            assert!(matches!(told, Told::Refused { code: REVOKED, .. }), "{told:?}");
            bystander.put_durably(stays, "k", &number.to_string());
            took_us
        })
        .collect();
    took_us.sort_unstable();
    let ms = |at: usize| took_us[at] as f64 / 1_000.0;
    let (p50, p99, last) = (took_us.len() / 2, took_us.len() * 99 / 100, took_us.len() - 1);
    println!(
        "{revocations} revocations: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        ms(p50),
        ms(p99),
        ms(last)
    );
}

#[test]
fn a_revocation_needs_the_key_of_the_data_directory_and_has_to_be_one() {
    let place = Place::new();
    let server = place.start();
    let elsewhere = place.root.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("operator.key"), "0".repeat(32)).unwrap();
    let control = format!("http://{}", server.control);
    let args = ["revoke", "--control", &control, "--data", elsewhere.to_str().unwrap(), "--subject", "ada"];
    assert!(complained(etherply(&args)).contains("401"));
    assert!(complained(place.revoke(&server, &["--documents", "room*"])).contains("segment"));
    assert!(complained(place.revoke(&server, &[])).contains("--subject"));
    assert!(
        complained(place.revoke(&server, &["--subject", "a", "--token", "b"]))
            .contains("cannot be used with")
    );
}

#[test]
fn an_actor_of_another_subject_is_refused_and_the_edit_stays() {
    let place = Place::new();
    let server = place.start();
    let [ada_token, eve_token] =
        ["ada", "eve"].map(|subject| place.token(subject, "1h", &["--write", "rooms/*"]));
    // Two members with the same number have the same actor.
    let mut ada = Member::connect(&server, false, 1);
    let stream = opened(&mut ada, "rooms/1", WRITES, &ada_token);
    ada.put_durably(stream, "k", "v");
    let saved = ada.documents.get_mut(&stream).unwrap().doc().save();
    let actor = ada.documents.get_mut(&stream).unwrap().doc().get_actor().clone();
    let mut eve = Member::connect(&server, false, 2);
    let stolen = opened(&mut eve, "rooms/1", WRITES, &eve_token);
    let copy = automerge::AutoCommit::load(&saved).unwrap().with_actor(actor);
    eve.documents.insert(stolen, etherply_client::Document::with(stolen, copy));
    eve.put(stolen, "k", "eve's");
    let told = eve.until(|told| matches!(told, Told::Refused { .. }));
    assert_eq!(told, Told::Refused { code: ErrorCode::ActorNotYours as u16, blocks: true });
    assert_eq!(eve.client.unacked(stolen).count(), 1);
    assert_eq!(ada.contents(stream)["k"], "v");
}

#[test]
fn a_server_for_other_machines_asks_for_keys_and_bad_keys_stop_it() {
    let place = Place::new();
    let serve = |data: &Path, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etherply"));
        command.env("ETHERPLY_CONTROL", "127.0.0.1:0");
        command.args(["serve", "--listen", "0.0.0.0:0", "--data"]).arg(data);
        complained(command.args(more).output().unwrap())
    };
    let text = serve(&place.data(), &[]);
    assert!(text.contains("keys generate") && text.contains("--insecure"), "{text}");
    let text = serve(&place.data(), &["--keys", place.root.path().join("nothing").to_str().unwrap()]);
    assert!(text.contains("nothing"), "{text}");
    let text = serve(&place.data(), &["--keys", place.keys().join("main.private.pem").to_str().unwrap()]);
    assert!(text.contains("private key"), "{text}");
    // With keys it starts; the control plane asks for no tokens, so it has to stay where it is.
    let keys = place.keys();
    let keys = keys.to_str().unwrap();
    let text = serve(&place.data(), &["--keys", keys, "--control", "0.0.0.0:0"]);
    assert!(text.contains("--listen only"), "{text}");
    let mut command = command(&place.data());
    command.args(["--keys", keys]).env("ETHERPLY_LISTEN", "0.0.0.0:0");
    let _server = Server::at_addresses(&mut command);
}

#[test]
fn a_backup_of_a_server_that_asks_for_tokens_asks_for_its_operator() {
    let place = Place::new();
    let server = place.start();
    let (control, file) = (format!("http://{}", server.control), place.root.path().join("backup"));
    let args = ["backup", "--control", &control, "--to", file.to_str().unwrap()];
    assert!(complained(etherply(&args)).contains("--operator-key"));
    let key = place.data().join("operator.key");
    said(etherply(&[&args[..], &["--operator-key", key.to_str().unwrap()]].concat()));
}

#[test]
fn tokens_are_made_and_looked_into() {
    let place = Place::new();
    let keys = place.keys();
    let keys = keys.to_str().unwrap();
    assert!(complained(etherply(&["keys", "generate", "--out", keys])).contains("--name"));
    let key = place.keys().join("main.private.pem");
    let key = key.to_str().unwrap();
    assert!(complained(etherply(&["token", "--key", key, "--subject", "ada"])).contains("grant nothing"));
    assert!(complained(etherply(&["token", "--key", key, "--read", "a"])).contains("--subject"));
    let text = complained(etherply(&["token", "--key", key, "--subject", "ada", "--read", "room*"]));
    assert!(text.contains("room*") && text.contains("segment"), "{text}");
    let token = place.token("ada", "30m", &["--read", "rooms/*,notes/**"]);
    let text = said(etherply(&["token", "inspect", &token, "--keys", keys]));
    assert!(text.contains("\"notes/**\"") && text.contains("genuine"), "{text}");
    let text = said(etherply(&["token", "inspect", &token]));
    assert!(text.contains("not verified"), "{text}");
    let (message, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{message}.{first}{}", &signature[1..]);
    assert!(complained(etherply(&["token", "inspect", &forged, "--keys", keys])).contains("refused"));
    assert!(complained(etherply(&["token", "inspect", "nothing"])).contains("JWT"));
    for algorithm in ["es256", "rs256", "hs256"] {
        said(etherply(&["keys", "generate", "--out", keys, "--name", algorithm, "--algorithm", algorithm]));
        let ending = if algorithm == "hs256" { "secret" } else { "private.pem" };
        let key = place.keys().join(format!("{algorithm}.{ending}"));
        let args = ["token", "--key", key.to_str().unwrap(), "--subject", "ada", "--write", "rooms/*"];
        let token = said(etherply(&args));
        said(etherply(&["token", "inspect", token.trim(), "--keys", keys]));
    }
}

#[test]
fn who_shows_no_good_token_in_time_is_ended() {
    let place = Place::new();
    let server =
        Server::spawn(command(&place.data()).arg("--keys").arg(place.keys()).arg("--token-timeout=3"));
    let token = place.token("ada", "1h", &["--write", "rooms/*"]);
    let mut ada = Member::connect(&server, true, 1);
    let stream = opened(&mut ada, "rooms/1", WRITES, &token);
    let (mut silent, mut guessing) = (Member::connect(&server, false, 2), Member::connect(&server, true, 3));
    assert_eq!(failed(&mut guessing, "rooms/1", Some("x.y.z")).0, INVALID);
    for member in [&mut silent, &mut guessing] {
        assert_eq!(member.until_error(), ErrorCode::IdleTimeout as u16, "one that may come again");
    }
    ada.put_durably(stream, "still", "here");
    assert_eq!(server.metric("etherply_connections_failed_total{code=\"idle_timeout\"}"), 2.0);
    assert!(!server.has_panicked());
}

#[test]
fn connections_of_a_subject_share_what_it_may_take() {
    let place = Place::new();
    let mut asked = command(&place.data());
    // Nobody of this machine is trusted; a bucket holds twenty.
    asked.arg("--keys").arg(place.keys()).args(["--trusted-networks=192.0.2.0/24", "--subject-rate=5"]);
    let server = Server::spawn(&mut asked);
    let held = || server.metric("etherply_reads_held_total{bucket=\"subject\"}");
    let join = |subject: &str, number: u8| {
        let token = place.token(subject, "1h", &["--write", "rooms/*"]);
        let mut member = Member::connect(&server, number.is_multiple_of(2), number);
        let stream = opened(&mut member, &format!("rooms/{number}"), WRITES, &token);
        (member, stream)
    };
    let edit = |(member, stream): &mut (Member, StreamId), edits: u32| {
        (0..edits).for_each(|n| member.put_durably(*stream, &format!("k{n}"), "v"));
    };
    let (mut first, mut eve) = (join("ada", 1), join("eve", 2));
    edit(&mut first, 12);
    edit(&mut eve, 12);
    assert_eq!(held(), 0.0);
    let mut second = join("ada", 3);
    edit(&mut second, 12);
    assert!(held() >= 1.0);
    assert!(!server.has_panicked());
}
