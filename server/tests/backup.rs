//! Backups of a running server, and what becomes of its clients when one is restored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Member, PATIENCE, Server};
use etherply_wire::kinds::resume;

fn etherply(args: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etherply"));
    command.args(args);
    for (flag, path) in paths {
        if !flag.is_empty() {
            command.arg(flag);
        }
        command.arg(path);
    }
    command.output().unwrap()
}

fn summary(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn heads(member: &mut Member, stream: etherply_client::StreamId) -> Vec<automerge::ChangeHash> {
    let document = member.documents.get_mut(&stream).unwrap();
    document.apply().unwrap();
    document.doc().get_heads()
}

/// A request to the control plane with these headers; its status.
fn post(server: &Server, path: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(server.control).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "POST {path} HTTP/1.1\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn clients_bring_back_what_was_acked_behind_the_backup() {
    let root = tempfile::tempdir().unwrap();
    let (data, file, new) = (root.path().join("data"), root.path().join("backup"), root.path().join("new"));
    let server = Server::start(&data);
    let mut members: Vec<Member> =
        (1..=3).map(|number| Member::connect(&server, number % 2 == 0, number)).collect();
    let streams: Vec<_> = members.iter_mut().map(|member| member.open("notes")).collect();
    for (n, (member, stream)) in members.iter_mut().zip(&streams).enumerate() {
        member.put_durably(*stream, &format!("before {n}"), "v");
    }

    // The backup is taken while somebody writes without a pause.
    let done = AtomicBool::new(false);
    let control = format!("http://{}", server.control);
    let (taken, pushed) = std::thread::scope(|scope| {
        let backup = scope.spawn(|| {
            let output = etherply(&["backup", "--json", "--control", &control], &[("--to", &file)]);
            done.store(true, Ordering::Release);
            summary(&output)
        });
        let mut pushed = 0;
        while !done.load(Ordering::Acquire) {
            members[0].put_durably(streams[0], &format!("meanwhile {pushed}"), "v");
            pushed += 1;
        }
        (backup.join().unwrap(), pushed)
    });
    assert_eq!(taken["documents"], 1);
    assert!(taken["records"].as_u64().unwrap() >= 3);
    assert_eq!(summary(&etherply(&["backup", "verify", "--json"], &[("", &file)])), taken);
    assert_eq!(server.metric("etherply_backups_total{outcome=\"taken\"}"), 1.0);

    // Edits that the backup lacks: acked, and known to several.
    for (n, (member, stream)) in members.iter_mut().zip(&streams).enumerate() {
        member.put_durably(*stream, &format!("after {n}"), "v");
    }
    let keys = 3 + pushed + 3;
    for (member, stream) in members.iter_mut().zip(&streams) {
        // One that has its connection has everything.
        assert_eq!(member.until_keys(*stream, keys).len(), keys);
    }
    server.kill();

    let restored = etherply(&["restore", "--json"], &[("", &file), ("--data", &new)]);
    assert_eq!(summary(&restored), taken);
    let server = Server::start(&new);
    for member in &mut members {
        assert_eq!(member.resume(&server), resume::RECONCILE);
    }
    // A fresh client holds no copy: what it sees is what the server has.
    let mut fresh = Member::connect(&server, false, 9);
    let copy = fresh.open("notes");
    assert_eq!(fresh.until_keys(copy, keys).len(), keys);
    let expected = heads(&mut fresh, copy);
    for (member, stream) in members.iter_mut().zip(&streams) {
        assert_eq!(heads(member, *stream), expected);
    }
    // They go on together, by cursors of the restored history.
    members[1].put_durably(streams[1], "and on", "v");
    assert_eq!(fresh.until_keys(copy, keys + 1).len(), keys + 1);
    // The ack may come before the last of what it was sent after comparing.
    while members[1].client.cursor(streams[1]).is_none() {
        members[1].receive();
    }
    assert_eq!(members[1].resume(&server), resume::CURSOR);
    assert!(!server.has_panicked());
}

#[test]
fn a_backup_of_a_stopped_server_is_the_same_and_of_a_running_one_needs_its_control_plane() {
    let root = tempfile::tempdir().unwrap();
    let (data, file, other) =
        (root.path().join("data"), root.path().join("backup"), root.path().join("other"));
    let server = Server::start(&data);
    let mut member = Member::connect(&server, false, 1);
    let stream = member.open("notes");
    member.put_durably(stream, "k", "v");
    let control = format!("http://{}", server.control);
    let running = summary(&etherply(&["backup", "--json", "--control", &control], &[("--to", &file)]));
    let refused = etherply(&["backup"], &[("--data", &data), ("--to", &other)]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains("in use") && !other.exists(), "{text}");
    // Nothing is written over.
    let refused = etherply(&["backup", "--control", &control], &[("--to", &file)]);
    assert!(String::from_utf8(refused.stderr).unwrap().contains("exists already"));
    server.terminate();
    assert!(server.wait().success());
    let stopped = summary(&etherply(&["backup", "--json"], &[("--data", &data), ("--to", &other)]));
    for field in ["directory", "commit", "documents", "records", "change_bytes", "bytes"] {
        assert_eq!(stopped[field], running[field], "{field}");
    }
    let refused = etherply(&["backup", "--control", &control], &[("--to", &root.path().join("third"))]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("is the server running"), "{text}");
}

#[test]
fn backups_are_for_programs_on_the_machine_and_one_at_a_time() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut member = Member::connect(&server, false, 1);
    let stream = member.open("notes");
    // More than what waits for a fetcher, and more than sockets hold.
    let value = "x".repeat(900_000);
    for n in 0..16 {
        member.put_durably(stream, &format!("k{n}"), &value);
    }
    let host = format!("Host: {}\r\n", server.control);
    assert_eq!(post(&server, "/backup", &format!("{host}Origin: https://a.test\r\n")), 403);
    assert_eq!(post(&server, "/backup", &format!("{host}Origin: http://localhost\r\n")), 403);
    assert_eq!(post(&server, "/backup", &format!("{host}Origin: null\r\n")), 403);
    assert_eq!(post(&server, "/backup", "Host: a.test\r\n"), 403);
    assert_eq!(server.get("/backup").0, 405);

    // One that is being fetched, slowly, refuses the next; when it is given up, the next is taken.
    let mut slow = TcpStream::connect(server.control).unwrap();
    write!(slow, "POST /backup HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n").unwrap();
    slow.read_exact(&mut [0; 12]).unwrap();
    assert_eq!(post(&server, "/backup", &host), 409);
    drop(slow);
    while post(&server, "/backup", &host) == 409 {
        std::thread::yield_now();
    }
    assert_eq!(server.metric("etherply_backups_total{outcome=\"not_fetched\"}"), 1.0);
}

#[test]
fn what_only_a_snapshot_holds_is_in_the_backup() {
    let root = tempfile::tempdir().unwrap();
    let (data, file, new) = (root.path().join("data"), root.path().join("backup"), root.path().join("new"));
    let server = Server::start(&data);
    let mut member = Member::connect(&server, false, 1);
    let stream = member.open("long");
    let value = "x".repeat(4_000);
    let mut keys = 0;
    while server.metric("etherply_snapshots_total{outcome=\"cut\"}") < 1.0 {
        member.put_durably(stream, &format!("k{keys}"), &value);
        keys += 1;
    }
    let control = format!("http://{}", server.control);
    let taken = summary(&etherply(&["backup", "--json", "--control", &control], &[("--to", &file)]));
    assert_eq!((taken["records"].as_u64(), taken["damaged"].as_u64()), (Some(keys), Some(0)));
    // It was written once more after the backup: another snapshot, and records that it covers.
    member.put_durably(stream, "after", "v");
    server.kill();
    assert_eq!(summary(&etherply(&["restore", "--json"], &[("", &file), ("--data", &new)])), taken);
    let server = Server::start(&new);
    assert_eq!(member.resume(&server), resume::RECONCILE);
    let mut fresh = Member::connect(&server, false, 2);
    let copy = fresh.open("long");
    let keys = usize::try_from(keys).unwrap() + 1;
    assert_eq!(fresh.until_keys(copy, keys).len(), keys);
    assert_eq!(heads(&mut fresh, copy), heads(&mut member, stream));
}
