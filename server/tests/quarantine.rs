//! Changes that pass admission and break a document: members recover by themselves, nobody else notices, and what
//! honest members wrote is kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::Path;
use std::process::Command;

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::Transactable as _;
use automerge::{ActorId, AutoCommit, Automerge, Change, ObjType, ROOT, ReadDoc as _};
use common::{Member, Server, Told, command};
use etherply_client::StreamId;
use etherply_engine::document::recover;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::LogReader as _;
use etherply_wire::ErrorCode;
use etherply_wire::kinds::resume;

/// What makes a change poison in servers that are told so.
const POISON: &str = "this is poison";

fn poisonable(data: &Path) -> Command {
    let mut command = command(data);
    command.env("ETHERPLY_POISON", POISON).env("RUST_BACKTRACE", "0");
    command
}

/// A server whose panics, which are forced, go into a file.
fn quiet(command: &mut Command, directory: &Path) -> Server {
    Server::spawn(command.stderr(std::fs::File::create(directory.join("stderr")).unwrap()))
}

/// Pushes changes as they are.
fn push(member: &mut Member, stream: StreamId, changes: &[&[u8]]) {
    member.client.push(stream, changes, 6).unwrap();
    member.until(|told| matches!(told, Told::Acked { tag: 6, .. }));
}

fn copy(member: &mut Member, stream: StreamId) -> AutoCommit {
    member.documents.get_mut(&stream).unwrap().doc().clone()
}

fn rewritten(member: &mut Member) -> (usize, usize) {
    match member.until(|told| matches!(told, Told::Rewritten { .. })) {
        Told::Rewritten { changes, lost } => (changes, lost),
        _ => unreachable!(),
    }
}

fn until_keys(member: &mut Member, stream: StreamId, keys: &[&str]) {
    loop {
        let contents = member.contents(stream);
        if contents.keys().map(String::as_str).eq(keys.iter().copied()) {
            return;
        }
        member.receive();
    }
}

/// A change that marks a text from a place to one before it: admission, which does not build texts, lets it pass,
/// and Automerge cannot load what it saves with it.
fn backwards(doc: &mut AutoCommit, text: &automerge::ObjId) -> Vec<u8> {
    doc.mark(text, Mark::new("bold".into(), true, 1, 3), ExpandMark::None).unwrap();
    doc.commit();
    let mut expanded = doc.get_last_local_change().unwrap().decode();
    let begin = expanded.operations[0].key.clone();
    expanded.operations[0].key = std::mem::replace(&mut expanded.operations[1].key, begin);
    expanded.hash = None;
    Change::from(expanded).raw_bytes().to_vec()
}

#[test]
fn a_real_change_that_breaks_automerge_is_taken_out_and_members_recover() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("data");
    let server = quiet(&mut command(&directory), data.path());
    let mut ada = Member::connect(&server, false, 1);
    let mut bob = Member::connect(&server, true, 2);
    let (a, b) = (ada.open("notes"), bob.open("notes"));
    ada.put_durably(a, "a1", "x");
    bob.until_keys(b, 1);
    bob.put_durably(b, "b1", "x");
    ada.until_keys(a, 2);

    let mut evil = Member::connect(&server, false, 3);
    let e = evil.open("notes");
    evil.until_keys(e, 2);
    let text = evil.documents.get_mut(&e).unwrap().doc().put_object(ROOT, "text", ObjType::Text).unwrap();
    evil.documents.get_mut(&e).unwrap().doc().splice_text(&text, 0, 0, "hello").unwrap();
    evil.documents.get_mut(&e).unwrap().push(&mut evil.client, 7).unwrap();
    evil.until(|told| matches!(told, Told::Acked { tag: 7, .. }));
    let mut doc = copy(&mut evil, e);
    let poison = backwards(&mut doc, &text);
    push(&mut evil, e, &[&poison]);
    // They write on, whether the poison has reached them or not.
    ada.documents.get_mut(&a).unwrap().doc().put(ROOT, "a2", "x").unwrap();
    ada.documents.get_mut(&a).unwrap().push(&mut ada.client, 7).unwrap();
    for member in [&mut ada, &mut bob] {
        member.until(|told| *told == Told::Closed(ErrorCode::DocumentReset as u16));
        let opened = member.until(|told| matches!(told, Told::Opened { resume: resume::RESET, .. }));
        assert!(matches!(opened, Told::Opened { cursor, .. } if cursor.epoch == 2), "{opened:?}");
    }
    until_keys(&mut bob, b, &["a1", "a2", "b1"]);
    until_keys(&mut ada, a, &["a1", "a2", "b1"]);
    bob.put_durably(b, "b2", "x");
    until_keys(&mut ada, a, &["a1", "a2", "b1", "b2"]);

    // Whoever brought it cannot bring it again.
    evil.until(|told| matches!(told, Told::Opened { resume: resume::RESET, .. }));
    evil.client.push(e, &[&poison], 6).unwrap();
    let refused = Told::Refused { code: ErrorCode::ActorExcluded as u16, blocks: true };
    evil.until(|told| *told == refused);

    assert_eq!(server.metric("etherply_quarantined_documents_total"), 1.0);
    assert_eq!(server.metric("etherply_quarantined_changes_total"), 1.0);
    assert!(!server.has_panicked(), "no connection and no core was harmed");
    server.kill();

    // The directory shows what happened, and the document does not have it.
    let list = Command::new(env!("CARGO_BIN_EXE_etherply"))
        .args(["quarantine", "list", "--json", "--data"])
        .arg(&directory)
        .output()
        .unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!((&list[0]["document"], &list[0]["changes_count"]), (&"notes".into(), &1.into()));
    let out = data.path().join("out");
    let exported = Command::new(env!("CARGO_BIN_EXE_etherply"))
        .args(["quarantine", "export", "--data"])
        .arg(&directory)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert!(exported.status.success(), "{exported:?}");
    assert_eq!(std::fs::read(out.join("00000000.automerge")).unwrap(), poison);
    let log = etherply_server::storage::open(&directory).unwrap();
    let document = recover(log.reader(), &DocumentId::new("notes").unwrap()).unwrap();
    assert_eq!((document.committed().epoch, document.committed().seq), (2, 5));
}

#[test]
fn what_honest_members_built_upon_it_is_written_anew() {
    let data = tempfile::tempdir().unwrap();
    let server = quiet(&mut poisonable(&data.path().join("data")), data.path());
    let mut ada = Member::connect(&server, false, 1);
    let mut bob = Member::connect(&server, true, 2);
    let (a, b) = (ada.open("notes"), bob.open("notes"));
    ada.put_durably(a, "a1", "x");
    bob.until_keys(b, 1);
    let mut evil = Member::connect(&server, false, 3);
    let e = evil.open("notes");
    evil.until_keys(e, 1);
    evil.put_durably(e, "evil", POISON);
    // Their own Automerge takes it, so what they write now depends on it. It may be taken out before it is pushed.
    bob.until_keys(b, 2);
    bob.put(b, "b1", "x");
    ada.until_keys(a, 2);
    ada.put(a, "a2", "x");
    assert_eq!(rewritten(&mut bob), (1, 0));
    assert_eq!(rewritten(&mut ada), (1, 0));
    until_keys(&mut bob, b, &["a1", "a2", "b1"]);
    until_keys(&mut ada, a, &["a1", "a2", "b1"]);
    // Who wrote it loses it. It takes part again, as somebody else.
    assert_eq!(rewritten(&mut evil), (1, 0));
    ada.put_durably(a, "a3", "x");
    server.kill();
}

#[test]
fn a_document_of_which_nothing_is_left_begins_anew_as_an_empty_one() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("data");
    let server = quiet(&mut poisonable(&directory), data.path());
    let mut evil = Member::connect(&server, false, 3);
    let e = evil.open("notes");
    let mut doc = AutoCommit::new().with_actor(ActorId::from(&[9; 16][..]));
    doc.put(ROOT, "evil", POISON).unwrap();
    let poison = doc.get_changes(&[]).remove(0);
    push(&mut evil, e, &[poison.raw_bytes()]);
    evil.until(|told| *told == Told::Closed(ErrorCode::DocumentReset as u16));
    evil.until(|told| matches!(told, Told::Opened { cursor, .. } if cursor.epoch == 2 && cursor.seq == 0));
    evil.put_durably(e, "good", "x");
    server.kill();
    // What the old epoch left behind goes, beside what members do.
    let server = quiet(poisonable(&directory).args(["--retain-days", "0"]), data.path());
    let mut fresh = Member::connect(&server, false, 4);
    let f = fresh.open("notes");
    until_keys(&mut fresh, f, &["good"]);
    // It is known after the restart as well who may not write.
    fresh.client.push(f, &[poison.raw_bytes()], 6).unwrap();
    let refused = Told::Refused { code: ErrorCode::ActorExcluded as u16, blocks: true };
    fresh.until(|told| *told == refused);
    // A record, its hash, and the note of the epoch.
    while server.metric("etherply_retired_rows_total") < 3.0 {
        fresh.put_durably(f, "more", "x");
    }
    server.kill();
    let verified = Command::new(env!("CARGO_BIN_EXE_etherply"))
        .args(["verify", "--json", "--data"])
        .arg(&directory)
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&report["whole"], &report["records_of_other_epochs"]), (&true.into(), &0.into()), "{report}");
}

#[test]
fn panics_that_no_change_is_to_blame_for_take_nothing_out() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("data");
    let mut shaky = command(&directory);
    let server = quiet(shaky.env("ETHERPLY_APPLY_FAULTS", "notes:2").env("RUST_BACKTRACE", "0"), data.path());
    let mut ada = Member::connect(&server, false, 1);
    let a = ada.open("notes");
    let mut keys = 0;
    while server.metric("etherply_materialiser_failures_total{kind=\"transient\"}") < 5.0 {
        keys += 1;
        ada.put_durably(a, &format!("k{}", keys % 100), &keys.to_string());
    }
    assert_eq!(server.metric("etherply_quarantined_documents_total"), 0.0);
    let closed = |told: &&Told| matches!(told, Told::Closed(_));
    assert_eq!(ada.told.iter().find(closed), None, "its members notice nothing");
}

#[test]
fn where_changes_are_verified_first_nobody_ever_sees_what_breaks_the_document() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("data");
    let mut verifying = poisonable(&directory);
    let server = quiet(verifying.args(["--admission", "verified"]), data.path());
    let mut ada = Member::connect(&server, false, 1);
    let mut evil = Member::connect(&server, true, 3);
    let (a, e) = (ada.open("notes"), evil.open("notes"));
    ada.put_durably(a, "a1", "x");
    evil.until_keys(e, 1);
    let text = evil.documents.get_mut(&e).unwrap().doc().put_object(ROOT, "text", ObjType::Text).unwrap();
    evil.documents.get_mut(&e).unwrap().doc().splice_text(&text, 0, 0, "hello").unwrap();
    evil.documents.get_mut(&e).unwrap().push(&mut evil.client, 7).unwrap();
    evil.until(|told| matches!(told, Told::Acked { tag: 7, .. }));
    // One that can be applied and not loaded again, and one that panics.
    let mut doc = copy(&mut evil, e);
    let mut panicking = AutoCommit::new().with_actor(ActorId::random());
    panicking.put(ROOT, "evil", POISON).unwrap();
    let panicking = panicking.get_changes(&[]).remove(0).raw_bytes().to_vec();
    for poison in [backwards(&mut doc, &text), panicking] {
        let mut evil = Member::connect(&server, false, 4);
        let stream = evil.open("notes");
        evil.client.push(stream, &[&poison], 6).unwrap();
        let refused = Told::Refused { code: ErrorCode::ChangeUnusable as u16, blocks: true };
        evil.until(|told| *told == refused);
    }
    ada.put_durably(a, "a2", "x");
    until_keys(&mut evil, e, &["a1", "a2"]);
    let closed = |told: &&Told| matches!(told, Told::Closed(_));
    assert_eq!(ada.told.iter().find(closed), None, "its members notice nothing");
    assert_eq!(server.metric("etherply_verifications_total{outcome=\"breaks\"}"), 2.0);
    assert_eq!(server.metric("etherply_verifications_total{outcome=\"sound\"}"), 3.0);
    assert_eq!(server.metric("etherply_quarantined_documents_total"), 0.0);
    assert!(!server.has_panicked());
    server.kill();
    let log = etherply_server::storage::open(&directory).unwrap();
    let document = recover(log.reader(), &DocumentId::new("notes").unwrap()).unwrap();
    assert_eq!((document.committed().epoch, document.committed().seq), (1, 3));
}

/// Times that poison is pushed: a thousand in the recorded run.
fn poisonings() -> u32 {
    std::env::var("ETHERPLY_POISONINGS").ok().and_then(|count| count.parse().ok()).unwrap_or(24)
}

#[test]
fn poison_again_and_again_harms_no_neighbour_and_is_never_kept() {
    const SHAKY: u32 = 8;
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("data");
    let server = quiet(&mut poisonable(&directory), data.path());
    let total = poisonings();
    std::thread::scope(|scope| {
        let shaky: Vec<_> = (0..SHAKY)
            .map(|n| {
                let server = &server;
                let rounds = total / SHAKY;
                scope.spawn(move || {
                    let name = format!("shaky/{n}");
                    let mut honest = Member::connect(server, n % 2 == 0, u8::try_from(n).unwrap());
                    let stream = honest.open(&name);
                    for round in 0..rounds {
                        honest.put_durably(stream, &format!("honest {round}"), "x");
                        let mut evil = Member::connect(server, false, 100);
                        let e = evil.open(&name);
                        let mut doc = AutoCommit::new().with_actor(ActorId::random());
                        doc.put(ROOT, "evil", POISON).unwrap();
                        let change = doc.get_changes(&[]).remove(0);
                        push(&mut evil, e, &[change.raw_bytes()]);
                        honest.until(|told| matches!(told, Told::Rewritten { .. }));
                    }
                    let keys = usize::try_from(rounds).unwrap();
                    assert_eq!(honest.until_keys(stream, keys).len(), keys, "the honest work is kept");
                })
            })
            .collect();
        let mut steady = Member::connect(&server, false, 200);
        let stream = steady.open("steady/1");
        let mut puts = 0;
        while shaky.iter().any(|thread| !thread.is_finished()) {
            steady.put_durably(stream, &format!("k{}", puts % 50), &puts.to_string());
            puts += 1;
        }
        let ended = |told: &&Told| matches!(told, Told::Closed(_) | Told::Failed(..));
        assert_eq!(steady.told.iter().find(ended), None, "a neighbour was harmed");
        assert!(puts > 0);
        for thread in shaky {
            thread.join().unwrap();
        }
    });
    assert_eq!(server.metric("etherply_quarantined_documents_total"), f64::from(total / SHAKY * SHAKY));
    assert!(!server.has_panicked());
    server.terminate();
    assert!(server.wait().success());
    // Neither the log nor a snapshot has it.
    let log = etherply_server::storage::open(&directory).unwrap();
    for n in 0..SHAKY {
        let id = DocumentId::new(&format!("shaky/{n}")).unwrap();
        let mut doc = Automerge::new();
        let epoch = log.reader().epoch(&id).unwrap().unwrap();
        let records = log.reader().read(&id, epoch, 0, u64::MAX, usize::MAX).unwrap();
        let changes: Vec<Change> =
            records.iter().map(|record| Change::from_bytes(record.change.to_vec()).unwrap()).collect();
        doc.apply_changes(changes).unwrap();
        assert!(doc.get(ROOT, "evil").unwrap().is_none());
        assert!(log.reader().snapshot(&id, epoch).unwrap().is_none());
    }
}
