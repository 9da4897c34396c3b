//! What an operator does about damage: the server names it, `verify` says what is whole, `repair` keeps it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{Member, Server, Told, command};
use serde_json::Value;

/// Runs `etherply` with arguments; its exit code and what it printed.
fn etherply(arguments: &[&str], directories: &[(&str, &Path)]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etherply"));
    command.args(arguments);
    for (flag, path) in directories {
        command.arg(flag).arg(path);
    }
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Where a record's bytes begin in a journal.
fn record(journal: &[u8], document: &str, seq: u64) -> usize {
    let key = [document.as_bytes(), &[0], &1_u64.to_be_bytes(), &seq.to_be_bytes()].concat();
    journal.windows(key.len()).position(|window| window == key).unwrap() + key.len()
}

fn verify(data: &Path) -> (i32, Value) {
    let (code, text) = etherply(&["verify", "--json"], &[("--data", data)]);
    (code, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
}

#[test]
fn damage_is_named_by_serve_and_verify_and_repair_keeps_what_is_whole() {
    let root = tempfile::tempdir().unwrap();
    let (data, new) = (root.path().join("data"), root.path().join("new"));
    let server = Server::start(&data);
    let mut member = Member::connect(&server, true, 1);
    for (name, count) in [("notes", 3), ("plans", 2)] {
        let stream = member.open(name);
        for n in 0..count {
            member.put_durably(stream, &format!("key {n}"), "value");
        }
    }
    let (code, report) = verify(&data);
    assert_eq!((code, report["error"].as_str()), (2, Some("storage_locked")), "{report}");
    drop(member);
    server.terminate();
    assert!(server.wait().success());
    let (code, report) = verify(&data);
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["whole"], true);
    assert_eq!((&report["documents"], &report["records"]), (&2.into(), &5.into()));

    // The last change of all, of `plans`: a bit of its bytes flips.
    let journal = data.join("fjall/0.jnl");
    let mut bytes = std::fs::read(&journal).unwrap();
    let at = record(&bytes, "plans", 2);
    bytes[at + 60] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    let refused = command(&data).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success());
    for part in ["plans", "etherply verify --data", "etherply repair --data"] {
        assert!(text.contains(part), "{text}");
    }
    let (code, report) = verify(&data);
    assert_eq!((code, &report["whole"]), (1, &false.into()), "{report}");
    assert_eq!(report["damage"][0]["path"], journal.to_str().unwrap());
    assert_eq!(report["commits"]["missing"], serde_json::json!([[5, 5]]), "{report}");
    assert_eq!(report["damaged_documents"][0]["document"], "plans", "{report}");

    let (code, text) = etherply(&["repair"], &[("--data", &data), ("--to", &new)]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("plans: positions 2 to 2 of epoch 1"), "{text}");
    assert_eq!(verify(&new).0, 0);
    assert_eq!(std::fs::read(&journal).unwrap(), bytes, "the damaged directory is as it was");

    let server = Server::start(&new);
    let mut member = Member::connect(&server, false, 2);
    let notes = member.open("notes");
    assert_eq!(member.until_keys(notes, 3).len(), 3);
    let plans = member.open("plans");
    assert_eq!(member.until_keys(plans, 1)["key 0"], "value");
    member.put_durably(plans, "key 1", "anew");
}

#[test]
fn a_member_that_has_more_than_a_repaired_document_brings_it_back() {
    let root = tempfile::tempdir().unwrap();
    let (data, new) = (root.path().join("data"), root.path().join("new"));
    let server = Server::start(&data);
    let mut member = Member::connect(&server, true, 1);
    let stream = member.open("notes");
    for n in 0..4 {
        member.put_durably(stream, &format!("key {n}"), "value");
    }
    server.terminate();
    server.wait();
    let journal = data.join("fjall/0.jnl");
    let mut bytes = std::fs::read(&journal).unwrap();
    let at = record(&bytes, "notes", 3);
    bytes[at + 60] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    let (code, text) = etherply(&["repair", "--json"], &[("--data", &data), ("--to", &new)]);
    let repaired: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 1, "{repaired}");
    assert_eq!(repaired["kept_all"], false);
    let damage = &repaired["found"]["damaged_documents"][0];
    assert_eq!((&damage["whole_through"], &damage["records_behind"]), (&2.into(), &2.into()), "{repaired}");

    let server = Server::start(&new);
    // Its cursor is beyond the end, so both sides compare what they have, and it pushes what is missing.
    member.reconnect(&server);
    member.until(|told| *told == Told::Reconcile);
    member.until(|told| matches!(told, Told::Acked { .. }));
    let mut fresh = Member::connect(&server, false, 2);
    let stream = fresh.open("notes");
    assert_eq!(fresh.until_keys(stream, 4).len(), 4);
}
