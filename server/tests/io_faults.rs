//! The n-th write, sync, truncation, renaming or removal in the data directory fails, for n = 1, 2, and so on until
//! nothing fails any more: nothing that was acknowledged is ever missing, and a restart is clean.
//!
//! `cargo test` takes a sample; with `ETHERPLY_TEST_ALL` it is every n.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Member, Server, Told, command};

/// Changes that are pushed, one after the other.
const CHANGES: usize = 6;
/// Of so many places, one is tried.
const SAMPLE: u64 = 29;

/// The library that lets calls fail, built for this test.
fn library(folder: &Path) -> PathBuf {
    let library = folder.join("libfaults.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/preload.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-o"])
        .arg(&library)
        .arg(source)
        .status()
        .unwrap();
    assert!(built.success());
    library
}

struct Fault<'f> {
    library: &'f Path,
    at: u64,
    kind: &'static str,
    report: PathBuf,
}

/// A server of which a call fails; none if that keeps it from starting.
fn start(data: &Path, fault: &Fault<'_>) -> Option<Server> {
    let mut command = command(data);
    command.env("LD_PRELOAD", fault.library).env("FAULT_DIR", data).env("FAULT_AT", fault.at.to_string());
    command.env("FAULT_KIND", fault.kind).env("FAULT_REPORT", &fault.report);
    command.args(["--cores", "1"]).env("ETHERPLY_LOG", "off");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.starts_with("etherply: "), "{}: {text}", fault.at);
        assert!(!text.contains("panicked"), "{}: {text}", fault.at);
        return None;
    }
    Some(Server::at(child, &line))
}

/// Pushes until something is refused, or all is acked; how many were.
fn push(server: &Server) -> usize {
    let mut member = Member::connect(server, false, 1);
    let Some(stream) = member.try_open("notes") else { return 0 };
    for n in 0..CHANGES {
        member.put(stream, &format!("key {n}"), "value");
        let told = member.until(|told| {
            matches!(told, Told::Acked { .. } | Told::Refused { .. } | Told::Closed(_) | Told::Failed(..))
        });
        if !matches!(told, Told::Acked { .. }) {
            return n;
        }
    }
    CHANGES
}

#[test]
fn whatever_call_fails_nothing_acked_is_missing_and_a_restart_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    let all = std::env::var_os("ETHERPLY_TEST_ALL").is_some();
    let (mut fired, mut refused) = (0, 0);
    let kinds = ["eio", "enospc", "short"];
    let mut is_clean = false;
    let mut at = 1;
    while !is_clean {
        let now: Vec<&'static str> = match all {
            true => kinds.to_vec(),
            false => vec![kinds[usize::try_from(at / SAMPLE % 3).unwrap()]],
        };
        for kind in now {
            let data = folder.path().join(format!("data-{kind}-{at}"));
            let report = folder.path().join(format!("report-{kind}-{at}"));
            let fault = Fault { library: &library, at, kind, report };
            let mut acked = 0;
            if let Some(server) = start(&data, &fault) {
                acked = push(&server);
                server.kill();
            }
            let has_fired = fault.report.exists();
            fired += usize::from(has_fired);
            refused += usize::from(has_fired && acked < CHANGES);
            is_clean = !has_fired;
            assert!(has_fired || acked == CHANGES, "call {at}, {kind}: nothing failed, and yet it did");

            let server = Server::start(&data);
            let mut fresh = Member::connect(&server, false, 2);
            let opened = fresh.try_open("notes");
            let stream = opened.unwrap_or_else(|| panic!("call {at}, {kind}: the document does not open"));
            let there = fresh.until_keys(stream, acked);
            assert!(
                (0..acked).all(|n| there.contains_key(&format!("key {n}"))),
                "call {at}, {kind}: {there:?}"
            );
            fresh.put_durably(stream, "behind", "it");
            drop(fresh);
            server.terminate();
            assert!(server.wait().success());
            let verify = Command::new(env!("CARGO_BIN_EXE_etherply"))
                .args(["verify", "--data"])
                .arg(&data)
                .output()
                .unwrap();
            assert!(verify.status.success(), "call {at}, {kind}: {verify:?}");
            std::fs::remove_dir_all(&data).unwrap();
        }
        at += if all { 1 } else { SAMPLE };
    }
    println!(
        "{fired} calls failed, {refused} of them refused pushes or the start; call {at} was not reached"
    );
    assert!(fired > 0 && refused > 0);
}

#[test]
fn after_a_failed_sync_of_a_commit_the_server_takes_writes_again_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    let data = folder.path().join("data");
    drop(Server::start(&data));
    // The first call that hits a commit: before it, there is only what a start does.
    for at in 1.. {
        let report = folder.path().join(format!("report-{at}"));
        let fault = Fault { library: &library, at, kind: "eio", report };
        let Some(server) = start(&data, &fault) else { continue };
        if fault.report.exists() {
            continue;
        }
        let mut member = Member::connect(&server, true, 1);
        let stream = member.open("notes");
        member.put(stream, "k", "v");
        let told = member.until(|told| matches!(told, Told::Acked { .. } | Told::Refused { .. }));
        assert!(matches!(told, Told::Refused { code: 212, .. }), "{told:?}");
        assert_eq!(server.metric("etherply_storage_failed"), 1.0);
        // Nobody does anything.
        member.until_in_time(|told| matches!(told, Told::Acked { .. }));
        assert_eq!(server.metric("etherply_storage_failed"), 0.0);
        assert_eq!(server.metric("etherply_storage_recoveries_total"), 1.0);
        assert_eq!(server.get("/ready").0, 200);
        let mut fresh = Member::connect(&server, false, 2);
        let seen = fresh.open("notes");
        assert_eq!(fresh.until_keys(seen, 1)["k"], "v");
        member.put_durably(stream, "more", "of it");
        assert_eq!(fresh.until_keys(seen, 2)["more"], "of it");
        drop((member, fresh));
        server.kill();
        let server = Server::start(&data);
        let mut fresh = Member::connect(&server, false, 3);
        let seen = fresh.open("notes");
        assert_eq!(fresh.until_keys(seen, 2).len(), 2);
        return;
    }
}
