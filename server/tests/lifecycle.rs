//! Start, stop, and what stands in the way of a start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::process::Stdio;

use common::{Member, Server, Told, command};

/// Starts a server that cannot start; what it says.
fn refused(command: &mut std::process::Command) -> String {
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn health_and_metrics_answer() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    assert_eq!(server.get("/health").0, 200);
    assert_eq!(server.get("/ready"), (200, "ready\n".to_owned()));
    assert_eq!(server.get("/nothing").0, 404);
    let (status, text) = server.get("/metrics");
    assert_eq!(status, 200);
    for name in ["etherply_connections_active", "etherply_operations_total", "etherply_sync_latency_ms_count"]
    {
        assert!(text.contains(name), "{name} is missing");
    }
}

#[test]
fn a_stop_says_goodbye_and_keeps_what_was_acked() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut member = Member::connect(&server, true, 1);
    let stream = member.open("notes");
    member.put_durably(stream, "k", "v");
    server.terminate();
    member.until(|told| *told == Told::GoingAway);
    assert!(server.wait().success());

    let server = Server::start(data.path());
    let mut member = Member::connect(&server, false, 2);
    let stream = member.open("notes");
    assert_eq!(member.until_keys(stream, 1)["k"], "v");
    drop(member);
    server.terminate();
    assert!(server.wait().success());
    let out = data.path().join("out");
    let exported = std::process::Command::new(env!("CARGO_BIN_EXE_etherply"))
        .args(["export", "--json", "--data"])
        .arg(data.path())
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("index.json")).unwrap()).unwrap();
    assert_eq!(index[0]["document"], "notes");
    let file = std::fs::read(out.join(index[0]["file"].as_str().unwrap())).unwrap();
    let mut document = automerge::AutoCommit::load(&file).unwrap();
    let heads: Vec<String> = document.get_heads().iter().map(ToString::to_string).collect();
    assert_eq!(serde_json::json!(heads), index[0]["heads"]);
}

#[test]
fn a_taken_port_or_directory_is_refused_with_advice() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let text = refused(&mut command(data.path()));
    assert!(text.contains(&server.pid().to_string()) && text.contains("--data"), "{text}");
    let other = tempfile::tempdir().unwrap();
    let text = refused(command(other.path()).args(["--listen", &server.listen.to_string()]));
    assert!(text.contains(&server.listen.to_string()) && text.contains("--listen"), "{text}");
}

#[test]
fn what_others_could_reach_needs_to_be_wanted() {
    let data = tempfile::tempdir().unwrap();
    for flag in ["--listen", "--control"] {
        let text = refused(command(data.path()).args([flag, "0.0.0.0:0"]));
        assert!(text.contains("--insecure"), "{text}");
    }
}

#[test]
fn more_cores_than_there_are_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let text = refused(command(data.path()).args(["--cores", "1000"]));
    assert!(text.contains("--cores"), "{text}");
}

#[test]
fn too_few_descriptors_are_refused_with_advice() {
    let data = tempfile::tempdir().unwrap();
    let mut shell = std::process::Command::new("sh");
    shell
        .arg("-c")
        .arg("ulimit -n 100 && exec \"$0\" serve --listen 127.0.0.1:0 --control 127.0.0.1:0 --data \"$1\"");
    shell.arg(env!("CARGO_BIN_EXE_etherply")).arg(data.path());
    let text = refused(&mut shell);
    assert!(text.contains("ulimit -n"), "{text}");
}
