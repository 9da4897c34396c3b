//! History of a document that real members wrote, by the command and by the library, and an old state that comes
//! back as one more push.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{Member, Server, Told};
use etherply_engine::ids::DocumentId;
use etherply_server::history::{At, History};
use serde_json::{Value, json};

fn history(data: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etherply"));
    command.arg("history").args(args).arg("--data").arg(data).output().unwrap()
}

fn lines(output: Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn an_old_state_comes_back_by_an_ordinary_push() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let server = Server::start(&data);
    let mut ada = Member::connect(&server, false, 1);
    let mut bob = Member::connect(&server, true, 2);
    let (hers, his) = (ada.open("notes"), bob.open("notes"));
    ada.put_durably(hers, "title", "draft");
    bob.until_keys(his, 1);
    bob.put_durably(his, "body", "text");
    ada.until_keys(hers, 2);
    ada.put_durably(hers, "title", "final");
    server.terminate();
    assert!(server.wait().success());

    let listed = lines(history(&data, &["list", "--document", "notes", "--json"]));
    let authors: Vec<&str> = listed.iter().map(|line| &line["author"].as_str().unwrap()[..2]).collect();
    assert_eq!(authors, ["01", "02", "01"]);
    assert!(listed.iter().all(|line| line["time_ms"].as_u64().unwrap() > 1_700_000_000_000));
    let page =
        lines(history(&data, &["list", "--document", "notes", "--json", "--after", "1", "--count", "1"]));
    assert_eq!(page, listed[1..2]);
    let shown = lines(history(&data, &["show", "--document", "notes", "--at", "0,1,2,3"]));
    let draft = json!({ "title": "draft", "body": "text" });
    assert_eq!(shown[..3], [json!({}), json!({ "title": "draft" }), draft.clone()]);
    assert_eq!(lines(history(&data, &["show", "--document", "notes"])), shown[3..]);
    let difference = lines(history(&data, &["diff", "--document", "notes", "--from", "2"]));
    assert_eq!(difference, [json!([{ "path": ["title"], "action": "put", "value": "final" }])]);
    let file = root.path().join("notes.automerge");
    let saved =
        history(&data, &["save", "--document", "notes", "--at", "2", "--out", file.to_str().unwrap()]);
    assert!(saved.status.success());
    assert!(automerge::AutoCommit::load(&std::fs::read(&file).unwrap()).is_ok());
    for (args, said) in [
        (vec!["show", "--document", "nothing"], "not in this data directory"),
        (vec!["show", "--document", "notes", "--at", "4"], "has no position 4: its last one is 3"),
        (vec!["show"], "is no document's name"),
    ] {
        let output = history(&data, &args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(said), "{error}");
    }

    // Versions by name, on the same directory.
    let version = |args: &[&str]| {
        let all: Vec<&str> = [&["version"], args, &["--document", "notes"]].concat();
        history(&data, &all)
    };
    assert!(version(&["create", "the draft", "--at", "2"]).status.success());
    assert_eq!(lines(version(&["show", "the draft"])), std::slice::from_ref(&draft));
    assert_eq!(lines(version(&["list", "--json"]))[0]["position"], 2);
    assert_eq!(lines(version(&["diff", "--from", "the draft"])), difference);
    let (saved, restoring) = (root.path().join("draft.automerge"), root.path().join("restoring.change"));
    assert!(version(&["save", "the draft", "--out", saved.to_str().unwrap()]).status.success());
    assert!(automerge::AutoCommit::load(&std::fs::read(&saved).unwrap()).is_ok());
    assert!(version(&["restore", "the draft", "--out", restoring.to_str().unwrap()]).status.success());
    assert!(automerge::Change::from_bytes(std::fs::read(&restoring).unwrap()).is_ok());
    assert!(version(&["delete", "the draft"]).status.success());
    let gone = version(&["show", "the draft"]);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("has no version \"the draft\""));

    let change = {
        let log = etherply_server::storage::open(&data).unwrap();
        let notes = History::open(log.reader(), &DocumentId::new("notes").unwrap()).unwrap().unwrap();
        assert_eq!(notes.json(&At::Position(2)).unwrap(), draft);
        notes.restoring_change(&At::Position(2), &[9; 16], "back to the draft", 0).unwrap()
    };
    let server = Server::start(&data);
    let mut carol = Member::connect(&server, false, 3);
    let theirs = carol.open("notes");
    carol.client.push(theirs, &[&change], 5).unwrap();
    carol.send();
    carol.until(|told| matches!(told, Told::Acked { tag: 5, added: 1 }));
    ada.resume(&server);
    ada.until(|told| matches!(told, Told::Changes { count: 1, .. }));
    let contents = ada.contents(hers);
    assert_eq!((contents["title"].as_str(), contents["body"].as_str()), ("draft", "text"));
    server.terminate();
    assert!(server.wait().success());
    let last = lines(history(&data, &["list", "--document", "notes", "--json", "--after", "3"]));
    assert_eq!((last.len(), last[0]["message"].as_str()), (1, Some("back to the draft")));
}
