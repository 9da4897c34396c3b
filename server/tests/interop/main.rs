//! Clients of other makes and languages against a real server: the npm package `ws`, PyPI's `websockets`, and
//! a browser, whose own rules about pages and origins count here.
//!
//! Each script beside this file gets a plan in the environment, opens a document on two connections, pushes a
//! change on one and reads it on the other, sends text, closes, and prints what it was told. What that has to
//! be stands here. `cargo xtask test --stage interop` installs what the scripts need and runs this; plain
//! `cargo test` leaves it out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::exchange::{Exchange, STREAM_AT};
use common::{Member, Server};
use etherply_wire::kinds::Kind;
use serde_json::{Value, json};

const INSTALL: &str = "is not installed: `cargo xtask test --stage interop` does that";
/// Ends a script that hangs. A browser takes long to start on a machine that has other work.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(240);
/// Where a frame's header has the kind.
const KIND_AT: usize = 6;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

fn on_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut files = std::env::split_paths(&path).map(|folder| folder.join(program));
    files.find(|file| file.is_file()).unwrap_or_else(|| panic!("{program} {INSTALL}"))
}

/// What a script was told.
struct Said {
    said: Value,
    server: Server,
    _data: tempfile::TempDir,
}

/// Runs a script against a server of its own and holds what every client has to be told against what it was.
fn run(program: &Path, script: &str, chromium: Option<&Path>) -> Said {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let exchange = Exchange::new("interop", 1);
    let plan = json!({
        "url": format!("ws://{}/", server.listen),
        "control": format!("http://{}", server.control),
        "hello": hex(&exchange.hello),
        "open": hex(&exchange.open),
        "push": hex(&exchange.push(0)),
        "kind_at": KIND_AT,
        "stream_at": STREAM_AT.start,
        "kinds": {
            "welcome": Kind::Welcome as u16,
            "opened": Kind::Opened as u16,
            "ack": Kind::Ack as u16,
            "changes": Kind::Changes as u16,
            "error": Kind::Error as u16,
        },
        "patience_ms": u64::try_from(SCRIPT_PATIENCE.as_millis()).unwrap(),
        "chromium": chromium,
    });
    let mut command = Command::new(program);
    command.arg(folder().join(script)).env("ETHERPLY_INTEROP", plan.to_string()).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed:\n{errors}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["subprotocol"], "etherply.v1");
    assert_eq!(said["extensions"], "", "compression is declined");
    let delivered = said["delivered"].as_str().unwrap();
    assert!(delivered.ends_with(&hex(&exchange.change)), "the change as it was pushed: {delivered}");
    assert_eq!(said["writer_close"], 4321, "the client's own code comes back");
    assert!(said["reader_close"] == 1000 || said["reader_close"] == 1005, "{said}");
    assert_eq!(said["text_close"], 1003);
    assert!(said["text_reason"].as_str().unwrap().contains("binary"), "{said}");
    // A client of this make reads what the other wrote.
    let mut member = Member::connect(&server, true, 9);
    let stream = member.open("interop");
    assert_eq!(member.until_keys(stream, 2)["title"], "written by a client of another make");
    assert!(!server.has_panicked());
    Said { said, server, _data: data }
}

fn node_modules(package: &str) {
    assert!(folder().join("node_modules").join(package).is_dir(), "the npm package {package} {INSTALL}");
}

#[test]
fn ws_of_npm() {
    node_modules("ws");
    let Said { said, .. } = run(&on_path("node"), "ws.mjs", None);
    assert_eq!(said["pong"], "between");
}

#[test]
fn websockets_of_pypi() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/interop/venv/bin/python");
    assert!(python.is_file(), "the Python package websockets {INSTALL}");
    let Said { said, .. } = run(&python, "client.py", None);
    assert_eq!(said["pong"], "between");
}

#[test]
fn a_browser() {
    node_modules("playwright-core");
    let chromium = on_path("chromium");
    let Said { said, server, .. } = run(&on_path("node"), "browser.mjs", Some(&chromium));
    assert_eq!(said["clean"], true);
    assert_eq!(said["control_status"], 200);
    // A page of another site, and one whose name was given this server's address: both are refused, and by
    // the server.
    assert_eq!((&said["other_site"], &said["rebound"]), (&json!(1006), &json!(1006)));
    assert_eq!(server.metric("etherply_connections_rejected_total{reason=\"origin\"}"), 1.0);
    assert_eq!(server.metric("etherply_connections_rejected_total{reason=\"host\"}"), 1.0);
    assert_eq!(said["rebound_control_status"], 403);
}
