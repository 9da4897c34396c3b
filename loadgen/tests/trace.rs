//! Recorded sessions through a real server, and what makes none.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn trace(files: &[&Path], options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etherply-loadgen"));
    command.arg("trace").args(files).args(options).output().unwrap()
}

/// Typing, corrections in the middle, characters of one to four bytes.
fn sequential() -> String {
    let (mut text, mut transactions) = (vec!['é', '🦀'], Vec::new());
    for number in 0..300usize {
        let position = number * 7 % text.len();
        let letter = ['a', 'ß', '語', '🙂'][number % 4];
        let deleted = usize::from(number % 5 == 4);
        text.splice(position..position + deleted, [letter]);
        transactions.push(format!(r#"{{"time":"2020","patches":[[{position},{deleted},"{letter}"]]}}"#));
    }
    let end: String = text.into_iter().collect();
    format!(r#"{{"startContent":"é🦀","endContent":"{end}","txns":[{}]}}"#, transactions.join(","))
}

/// Two people at the two ends of one text; every tenth time they read each other.
fn concurrent() -> String {
    let mut transactions =
        vec![r#"{"parents":[],"numChildren":1,"agent":0,"time":"","patches":[[0,0,"<>"]]}"#.to_owned()];
    // The last transaction of each, how long its text is, and how much of it each of them wrote.
    let (mut last, mut seen, mut wrote) = ([0, 0], [[0usize; 2]; 2], [0usize; 2]);
    for round in 0..100usize {
        for agent in 0..2usize {
            let merges = round % 10 == 9 && round > 0;
            let mut parents = vec![last[agent]];
            if merges && last[1 - agent] != last[agent] {
                parents.push(last[1 - agent]);
                seen[agent][1 - agent] = wrote[1 - agent];
            }
            parents.sort_unstable();
            let known = seen[agent];
            // One writes before the brackets, the other behind.
            let position = if agent == 0 { known[0] } else { known[0] + 2 + known[1] };
            let letter = if agent == 0 { 'l' } else { 'r' };
            let mut line = String::new();
            write!(line, r#"{{"parents":{parents:?},"numChildren":1,"agent":{agent},"time":"","#).unwrap();
            write!(line, r#""patches":[[{position},0,"{letter}"]]}}"#).unwrap();
            last[agent] = transactions.len();
            transactions.push(line);
            wrote[agent] += 1;
            seen[agent][agent] = wrote[agent];
        }
    }
    let end = format!("{}<>{}", "l".repeat(100), "r".repeat(100));
    let transactions = transactions.join(",");
    format!(r#"{{"kind":"concurrent","endContent":"{end}","numAgents":2,"txns":[{transactions}]}}"#)
}

#[test]
fn both_kinds_of_session_end_with_the_recorded_text_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("sequential.json"), folder.path().join("concurrent.json"));
    std::fs::write(&one, sequential()).unwrap();
    std::fs::write(&two, concurrent()).unwrap();
    let out = folder.path().join("out");
    let options = ["--documents", "3", "--members", "3", "--json", "--out", out.to_str().unwrap()];
    let output = trace(&[&one, &two], &options);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap();
    // 301 and 202 changes, those included that make the text, in three documents each.
    let edits = 3 * (301 + 202);
    assert_eq!((count("/edits/sent"), count("/edits/acked")), (edits, edits));
    assert_eq!((count("/deliveries/received"), count("/deliveries/lost")), (2 * edits, 0));
    assert_eq!(count("/deliveries/duplicated"), 0);
    assert_eq!((count("/documents/total"), count("/documents/converged")), (6, 6));
    assert_eq!((count("/connections/established"), count("/connections/lost")), (18, 0));
    assert_eq!((count("/traces/0/changes"), count("/traces/1/agents")), (301, 2));
    assert_eq!(count("/traces/1/delivery_us/count"), 2 * 3 * 202);
    assert!(count("/traces/0/sent_bytes") > 3 * count("/traces/0/change_bytes"));
    assert!(out.join("report.json").exists());
}

#[test]
fn a_session_goes_on_over_kills_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("concurrent.json");
    std::fs::write(&file, concurrent()).unwrap();
    let output = trace(&[&file], &["--kills", "3", "--documents", "2", "--history", "20", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap();
    assert_eq!((count("/traces/0/kills"), count("/edits/acked")), (3, 2 * 202));
    assert_eq!((count("/traces/0/history_positions"), count("/traces/0/history_right")), (40, 40));
    assert_eq!((count("/deliveries/received"), count("/deliveries/duplicated")), (2 * 2 * 202, 0));
    assert_eq!((count("/connections/established"), count("/documents/converged")), (6, 2));
}

#[test]
fn a_part_of_a_session_is_replayed_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sequential.json");
    std::fs::write(&file, sequential()).unwrap();
    let output = trace(&[&file], &["--first", "40", "--documents", "3", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap();
    assert_eq!((count("/traces/0/changes"), count("/traces/0/transactions")), (41, 40));
    assert_eq!((count("/edits/acked"), count("/documents/converged")), (3 * 41, 3));
}

#[test]
fn a_speed_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("concurrent.json");
    std::fs::write(&file, concurrent()).unwrap();
    let output = trace(&[&file], &["--speed", "400", "--transport", "ws", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let took_s = report.pointer("/traces/0/replayed_in_s").and_then(Value::as_f64).unwrap();
    // The last of 202 changes is due at 201 / 400 s; nothing may come before it is due.
    assert!(took_s >= 0.5, "{took_s}");
    assert_eq!(report.pointer("/send_lag_us/count").and_then(Value::as_u64), Some(202));
}

#[test]
fn a_server_that_is_not_there_is_named_as_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sequential.json");
    std::fs::write(&file, sequential()).unwrap();
    // Bound and dropped: nobody listens there now.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = trace(&[&file], &["--url", &format!("tcp://{address}")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("the server at {address} was not reached")), "{said}");
}

#[test]
fn what_is_no_session_is_refused_before_a_server_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let (broken, good) = (folder.path().join("broken.json.gz"), folder.path().join("good.json"));
    std::fs::write(&broken, [0x1F, 0x8B, 1, 2, 3]).unwrap();
    std::fs::write(&good, concurrent()).unwrap();
    for (file, options, reason) in [
        (&broken, vec![], "broken.json.gz cannot be unpacked"),
        (&folder.path().join("none"), vec![], "cannot be read"),
        (&good, vec!["--members", "1"], "has 2 agents"),
        (&good, vec!["--documents", "0"], "at least one"),
        (&good, vec!["--speed", "0"], "from 1 on"),
        (&good, vec!["--kills", "1", "--url", "tcp://127.0.0.1:9"], "leave --url out"),
        (&good, vec!["--history", "1", "--url", "tcp://127.0.0.1:9"], "leave --url out"),
    ] {
        let output = trace(&[file], &options);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reason), "{said}");
    }
}
