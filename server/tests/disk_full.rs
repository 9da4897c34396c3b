//! The disk is full, and later it is not: writes are refused by name, the rest goes on, and nobody has to do
//! anything. A real file system, in a mount namespace of the server's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Member, Server, Told};

/// Times that the disk is filled; with `ETHERPLY_TEST_ALL` 20.
const ROUNDS: usize = 2;
const DISK_BYTES: usize = 12 * 1024 * 1024;

/// A server whose data lies on a small file system that only it sees; where others find that, by its process.
/// None where this is not allowed to make one.
fn start(mount: &Path) -> Option<(Server, PathBuf)> {
    let is_root = rustix::process::geteuid().is_root();
    let own = if is_root { "--mount" } else { "--map-root-user" };
    let mut unshare = Command::new("unshare");
    unshare.args([own, "--mount", "--propagation", "private"]);
    if !unshare.arg("true").status().is_ok_and(|status| status.success()) {
        return None;
    }
    let script = format!("mount -t tmpfs -o size={DISK_BYTES} none \"$0\" && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args([own, "--mount", "--propagation", "private", "sh", "-c", &script]).arg(mount);
    command.arg(env!("CARGO_BIN_EXE_etherply")).args(["serve", "--ready-json", "--data"]);
    command.arg(mount.join("data")).env("ETHERPLY_LOG", "off");
    let server = Server::spawn(&mut command);
    let inside = mount.strip_prefix("/").unwrap();
    let seen = PathBuf::from(format!("/proc/{}/root", server.pid())).join(inside);
    Some((server, seen))
}

/// Takes all room there is.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for bytes in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![7; bytes]).is_ok() {}
    }
}

#[test]
fn a_full_disk_refuses_writes_by_name_and_recovers_without_a_hand() {
    let mount = tempfile::tempdir().unwrap();
    let Some((server, disk)) = start(mount.path()) else {
        println!("not tried: this user may not make a mount namespace");
        return;
    };
    let all = std::env::var_os("ETHERPLY_TEST_ALL").is_some();
    let mut writer = Member::connect(&server, false, 1);
    let stream = writer.open("notes");
    let mut other = Member::connect(&server, true, 2);
    let seen = other.open("notes");
    let mut keys = 0;
    let value = "x".repeat(3_000);
    for round in 0..if all { 20 } else { ROUNDS } {
        writer.put_durably(stream, &format!("key {keys}"), &value);
        keys += 1;
        let filler = disk.join("filler");
        fill(&filler);
        // A part of the journal's last page may still be free.
        let told = loop {
            writer.put(stream, &format!("key {keys}"), &value);
            keys += 1;
            let told = writer.until(|told| matches!(told, Told::Acked { .. } | Told::Refused { .. }));
            if !matches!(told, Told::Acked { .. }) {
                break told;
            }
        };
        assert!(matches!(told, Told::Refused { code: 212, blocks: false }), "{told:?}");
        assert_eq!(server.metric("etherply_storage_failed"), 1.0);
        let (status, text) = server.get("/ready");
        assert_eq!(status, 503);
        assert!(text.contains("storage takes no writes"), "{text}");

        // Reading goes on: what was acked, and nothing else. So does presence.
        let number = u8::try_from(3 + round).unwrap();
        let mut fresh = Member::connect(&server, false, number);
        let read = fresh.open("notes");
        assert_eq!(fresh.until_keys(read, keys - 1).len(), keys - 1);
        fresh.client.set_presence(read, b"here", 60_000).unwrap();
        fresh.send();
        other.until(|told| matches!(told, Told::Presence { .. }));
        drop(fresh);

        fs::remove_file(&filler).unwrap();
        // Nobody does anything: the client pushes again what was refused.
        writer.until_in_time(|told| matches!(told, Told::Acked { .. }));
        assert_eq!(server.metric("etherply_storage_failed"), 0.0);
        assert_eq!(server.get("/ready").0, 200);
        writer.put_durably(stream, &format!("key {keys}"), &value);
        keys += 1;
        // Nobody could know what became of the last commit, so who had the document open opens it again.
        other.until(|told| *told == Told::Closed(212));
        other.until_in_time(|told| matches!(told, Told::Opened { .. }));
        assert_eq!(other.until_keys(seen, keys).len(), keys);
    }
    assert!(!server.has_panicked());
}
