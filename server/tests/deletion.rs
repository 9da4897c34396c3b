//! Documents deleted of a running server: who hears of it, that nobody brings them back, and who may ask for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use automerge::transaction::Transactable as _;
use common::{Member, Server, Told};
use etherply_client::OpenOptions;
use etherply_wire::{ErrorCode, Rights};

const DELETED: u16 = ErrorCode::DocumentDeleted as u16;

fn delete(control: &str, data: &Path, document: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etherply"));
    command.args(["delete", "--control", control, "--data"]).arg(data).arg(document).output().unwrap()
}

fn deleted(server: &Server, data: &Path, document: &str) -> String {
    let output = delete(&format!("http://{}", server.control), data, document);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(server: &Server, data: &Path, document: &str) -> String {
    let output = delete(&format!("http://{}", server.control), data, document);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// Asks for a document; whether it is refused as deleted.
fn is_refused(member: &mut Member, name: &str) -> bool {
    let rights = Rights::READ.with(Rights::WRITE);
    let options = OpenOptions { document: name.to_owned(), rights, token: None, cursor: None };
    member.client.open(options).unwrap();
    match member.until(|told| matches!(told, Told::Opened { .. } | Told::OpenFailed(..) | Told::Closed(_))) {
        Told::OpenFailed(code, _) | Told::Closed(code) => code == DELETED,
        _ => false,
    }
}

#[test]
fn a_deleted_document_is_gone_for_all_and_does_not_come_back() {
    let root = tempfile::tempdir().unwrap();
    let (data, file, new) = (root.path().join("data"), root.path().join("backup"), root.path().join("new"));
    let server = Server::start(&data);
    let mut ada = Member::connect(&server, false, 1);
    let mut ben = Member::connect(&server, true, 2);
    let mut offline = Member::connect(&server, false, 3);
    let streams = [ada.open("gone"), ben.open("gone"), offline.open("gone")];
    ada.put_durably(streams[0], "k", "v");
    ben.until_keys(streams[1], 1);
    offline.until_keys(streams[2], 1);
    let kept = ada.open("kept");
    ada.put_durably(kept, "k", "v");
    // This one edits while nobody hears it.
    offline.client.disconnected();
    let document = offline.documents.get_mut(&streams[2]).unwrap();
    document.doc().put(automerge::ROOT, "offline", "edit").unwrap();
    document.push(&mut offline.client, 9).unwrap();

    assert_eq!(deleted(&server, &data, "gone"), "gone deleted\n");
    for member in [&mut ada, &mut ben] {
        assert_eq!(member.until(|told| matches!(told, Told::Closed(_))), Told::Closed(DELETED));
    }
    offline.reconnect(&server);
    let told =
        offline.until(|told| matches!(told, Told::OpenFailed(..) | Told::Closed(_) | Told::Opened { .. }));
    assert!(matches!(told, Told::OpenFailed(DELETED, _) | Told::Closed(DELETED)), "{told:?}");
    assert!(is_refused(&mut Member::connect(&server, false, 4), "gone"));
    assert_eq!(deleted(&server, &data, "gone"), "gone was deleted before\n");
    assert_eq!(server.metric("etherply_documents_deleted_total"), 1.0);
    ada.put_durably(kept, "and on", "v");

    // A crash, and a backup, keep it deleted.
    server.kill();
    let server = Server::start(&data);
    assert!(is_refused(&mut Member::connect(&server, false, 5), "gone"));
    let control = format!("http://{}", server.control);
    let etherply = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_etherply")).args(args).output().unwrap();
    let taken = etherply(&["backup", "--json", "--control", &control, "--to", file.to_str().unwrap()]);
    let taken: serde_json::Value = serde_json::from_slice(&taken.stdout).unwrap();
    assert_eq!((&taken["documents"], &taken["deleted"]), (&1.into(), &1.into()));
    server.kill();
    let restored = etherply(&["restore", file.to_str().unwrap(), "--data", new.to_str().unwrap()]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let server = Server::start(&new);
    let mut fresh = Member::connect(&server, false, 6);
    assert!(is_refused(&mut fresh, "gone"));
    let copy = fresh.open("kept");
    assert_eq!(fresh.until_keys(copy, 2).len(), 2);
    assert!(!server.has_panicked());
}

#[test]
fn deleting_asks_for_the_key_in_the_data_directory() {
    let root = tempfile::tempdir().unwrap();
    let (data, other) = (root.path().join("data"), root.path().join("other"));
    let server = Server::start(&data);
    let mut member = Member::connect(&server, false, 1);
    let stream = member.open("kept");
    member.put_durably(stream, "k", "v");
    // Of another server, of none, and of an earlier start.
    let elsewhere = Server::start(&other);
    assert!(refused(&server, &other, "kept").contains("asks for the key"));
    assert!(refused(&server, root.path(), "kept").contains("--data"));
    let old = std::fs::read(data.join("operator.key")).unwrap();
    server.terminate();
    assert!(server.wait().success());
    let server = Server::start(&data);
    let now = std::fs::read(data.join("operator.key")).unwrap();
    std::fs::write(data.join("operator.key"), old).unwrap();
    assert!(refused(&server, &data, "kept").contains("asks for the key"));
    std::fs::write(data.join("operator.key"), now).unwrap();
    assert!(refused(&server, &data, "").contains("at least one character"));
    assert!(refused(&server, &data, &"x".repeat(257)).contains("413"));
    assert!(refused(&server, &data, "nothing").contains("no document of this name"));
    let mut fresh = Member::connect(&server, false, 2);
    let copy = fresh.open("kept");
    assert_eq!(fresh.until_keys(copy, 1).len(), 1);
    assert_eq!(deleted(&server, &data, "kept"), "kept deleted\n");
    drop(elsewhere);
}

#[test]
fn writers_that_do_not_stop_end_up_with_nothing_and_their_neighbours_notice_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut writer = Member::connect(&server, false, 1);
    let mut neighbour = Member::connect(&server, true, 2);
    let (stream, beside) = (writer.open("gone"), neighbour.open("kept"));
    writer.put_durably(stream, "k", "v");
    std::thread::scope(|scope| {
        let deleting = scope.spawn(|| deleted(&server, data.path(), "gone"));
        let mut n = 0;
        // Acked or not, until the end is told.
        while !writer.told.iter().any(|told| matches!(told, Told::Closed(_))) {
            writer.put(stream, &format!("k{n}"), "v");
            writer.receive();
            neighbour.put_durably(beside, &format!("k{n}"), "v");
            n += 1;
        }
        assert_eq!(deleting.join().unwrap(), "gone deleted\n");
        let mut fresh = Member::connect(&server, false, 3);
        let copy = fresh.open("kept");
        assert_eq!(fresh.until_keys(copy, n).len(), n);
        assert!(is_refused(&mut fresh, "gone"));
    });
    assert!(!server.has_panicked());
}
