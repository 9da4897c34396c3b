//! The whole generator against its own relay: sockets, executors, schedule, counting, report.

#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_etherply-loadgen")).args(arguments).output().unwrap()
}

fn floor(out: &Path) -> Output {
    let shape =
        ["--documents", "6", "--members", "5", "--rate", "400", "--duration", "1", "--warmup", "0.25"];
    let mut arguments = vec!["floor", "--json", "--out", out.to_str().unwrap()];
    arguments.extend(shape);
    loadgen(&arguments)
}

#[test]
fn every_message_through_the_relay_is_counted_once() {
    let out = tempfile::tempdir().unwrap();
    let output = floor(out.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept: Value =
        serde_json::from_slice(&std::fs::read(out.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(report, kept);
    let count = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap();
    assert_eq!((count("/connections/asked"), count("/connections/established")), (30, 30));
    assert_eq!((count("/edits/sent"), count("/edits/acked")), (500, 500));
    assert_eq!((count("/deliveries/expected"), count("/deliveries/received")), (2_000, 2_000));
    assert_eq!((count("/deliveries/lost"), count("/deliveries/duplicated")), (0, 0));
    // The warm-up's 100 edits are counted, but not measured.
    assert_eq!(
        (count("/delivery_us/count"), count("/ack_us/count"), count("/send_lag_us/count")),
        (1_600, 400, 400)
    );
    let sends = report.pointer("/server/sends_per_delivery").and_then(Value::as_f64).unwrap();
    // Four members and the sender's answer; fewer only if several messages came together.
    assert!(sends > 0.0 && sends <= 1.25, "{sends}");
    let command = std::fs::read_to_string(out.path().join("command.txt")).unwrap();
    assert!(command.starts_with("etherply-loadgen floor ") && !command.contains("/tmp"), "{command}");
    assert!(std::fs::read_to_string(out.path().join("latency.svg")).unwrap().contains("polyline"));
}

#[test]
fn a_server_that_is_not_there_fails_the_claims() {
    // Bound and dropped: nobody listens there now.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("tcp://{address}");
    let output = loadgen(&[
        "edits",
        "--url",
        &url,
        "--documents",
        "1",
        "--members",
        "2",
        "--rate",
        "10",
        "--duration",
        "0.1",
        "--warmup",
        "0",
        "--json",
    ]);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_makes_no_run_is_refused_with_a_reason() {
    for (arguments, reason) in [
        (vec!["edits", "--url", "http://x"], "not supported"),
        (vec!["floor", "--members", "0"], "at least one"),
        (vec!["crash", "--url", "tcp://127.0.0.1:1"], "takes no --url"),
    ] {
        let output = loadgen(&arguments);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(reason), "{said}");
    }
}
