//! Each scenario for a few seconds against a real server. What they claim about time is not asked for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The server that was built beside the generator; without one, the generator builds it.
fn server() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_etherply-loadgen")).with_file_name("etherply");
    beside.exists().then_some(beside)
}

/// Runs a scenario, which has to pass, and returns its report. Checks what every report has.
fn run(arguments: &str, connections: u64) -> (Value, tempfile::TempDir) {
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_etherply-loadgen"));
    command.args(arguments.split(' ')).args(["--json", "--ignore-times", "--out"]).arg(out.path());
    if let Some(server) = server() {
        command.arg("--server").arg(server);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept = std::fs::read(out.path().join("report.json")).unwrap();
    assert_eq!(report, serde_json::from_slice::<Value>(&kept).unwrap());
    assert!(out.path().join("latency.svg").exists() && out.path().join("command.txt").exists());
    assert_eq!(report["verdict"]["passed"], true, "{said}");
    assert!(report["highlight"].is_string());
    assert_eq!((number(&report, "/connections/asked"), number(&report, "/connections/established")), {
        (connections, connections)
    });
    assert_eq!(number(&report, "/connections/failed"), 0, "{said}");
    (report, out)
}

fn number(report: &Value, pointer: &str) -> u64 {
    report.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} is missing"))
}

#[test]
fn fanout_reaches_every_member_and_looks_at_the_neighbours() {
    let (report, _) = run(
        "fanout --members 40 --writers 3 --rate 60 --warmup 0.5 --duration 2 --beside 3 --beside-rate 60 --phase 1",
        40,
    );
    // The warm-up and one of two phases: 1.5 s of edits.
    assert_eq!((number(&report, "/edits/sent"), number(&report, "/edits/acked")), (90, 90));
    assert_eq!(number(&report, "/deliveries/received"), 90 * 39);
    assert_eq!(number(&report, "/delivery_us/count"), 60 * 39);
    assert_eq!(number(&report, "/beside/edits_acked"), 150);
    assert_eq!(number(&report, "/beside/deliveries/received"), 150 * 9);
    assert_eq!(number(&report, "/beside/converged"), 3);
    let (idle, active) =
        (number(&report, "/beside/idle_us/count"), number(&report, "/beside/active_us/count"));
    // Of each second the first fifth does not count.
    assert_eq!((idle, active), (48 * 9, 48 * 9));
}

#[test]
fn members_that_never_read_are_not_felt_and_catch_up() {
    // 64 KiB and more, 15 times a second a document: sockets are full at once.
    let (report, _) = run(
        "deaf --deaf 40 --documents 2 --members 5 --rate 30 --value-bytes 65536 --turns 1 --phase 1.5 --warmup 0.5",
        10,
    );
    // The warm-up, a phase without and one with them, and two fifths of one to wake up.
    assert_eq!((number(&report, "/edits/sent"), number(&report, "/edits/acked")), (123, 123));
    assert_eq!(number(&report, "/deliveries/received"), 123 * 4);
    // Of each phase of 45 edits the first 18 do not count.
    let (idle, active) = (number(&report, "/deaf/idle_us/count"), number(&report, "/deaf/active_us/count"));
    assert_eq!((idle, active), (27 * 4, 27 * 4));
    assert_eq!(
        (number(&report, "/deaf/connected_min"), number(&report, "/deaf/blocked_at_last_min")),
        (40, 40)
    );
    assert_eq!((number(&report, "/deaf/woken"), number(&report, "/deaf/woken_converged")), (40, 40));
    assert_eq!(number(&report, "/documents/converged"), 2);
    assert!(number(&report, "/deaf/rss_with_bytes") > 0 && number(&report, "/deaf/rss_before_bytes") > 0);
}

#[test]
fn presence_ends_with_everybody_seeing_everybody() {
    let (report, _) = run("presence --rooms 6 --members 6 --updates 3 --warmup 0.5 --duration 2", 36);
    // 36 members, 3 states a second each for 2.5 s, and the one that each begins with.
    assert_eq!(number(&report, "/presence/states_set"), 270 + 36);
    assert_eq!(number(&report, "/presence/pairs"), 6 * 6 * 5);
    let seen = number(&report, "/presence/states_seen") + number(&report, "/presence/conflated");
    assert_eq!(seen, number(&report, "/presence/states_expected"));
    // Two of six leave each room, and four see it.
    assert_eq!((number(&report, "/presence/cut"), number(&report, "/presence/leaves")), (12, 6 * 2 * 4));
    assert!(number(&report, "/presence/leave_us/count") >= 6 * 2 * 4);
    for nothing in ["pairs_without_latest", "stale", "leaves_missing", "pairs_without_latest_after_return"] {
        assert_eq!(number(&report, &format!("/presence/{nothing}")), 0, "{nothing}");
    }
}

#[test]
fn joins_bring_the_whole_history() {
    let (report, _) = run("join --edits 700 --rate 15 --warmup 0.4 --duration 2", 36);
    assert_eq!((number(&report, "/join/edits"), number(&report, "/join/joins")), (700, 36));
    assert_eq!(number(&report, "/deliveries/received"), 700 * 36);
    for times in ["first_byte_us", "last_byte_us", "loaded_us"] {
        assert_eq!(number(&report, &format!("/join/{times}/count")), 30, "{times}");
    }
    let at = |pointer: &str| number(&report, pointer);
    assert!(at("/join/first_byte_us/p50") <= at("/join/last_byte_us/p50"));
    assert!(at("/join/last_byte_us/max") < at("/join/loaded_us/max") && at("/join/load_us") > 0);
}

#[test]
fn joins_look_at_the_neighbours() {
    let (report, _) =
        run("join --edits 300 --rate 10 --warmup 0.5 --duration 2 --beside 2 --beside-rate 50 --phase 1", 15);
    assert_eq!(number(&report, "/beside/edits_acked"), 125);
    assert_eq!(number(&report, "/beside/converged"), 2);
}

#[test]
fn a_storm_of_each_kind_passes_and_everybody_is_back() {
    for cut in ["kill", "restart", "reset"] {
        let (report, _) = run(
            &format!("storm --cut {cut} --documents 8 --members 6 --rate 80 --warmup 0.5 --duration 2"),
            48,
        );
        assert_eq!(report["storm"]["cut"], cut);
        assert_eq!(number(&report, "/storm/in_sync_us/count"), 48);
        assert!(number(&report, "/storm/edits_meanwhile") > 0);
        assert_eq!(report["storm"]["restart_ms"].is_u64(), cut != "reset");
        assert_eq!(number(&report, "/edits/acked"), 200);
        assert_eq!((number(&report, "/edits/lost"), number(&report, "/deliveries/lost")), (0, 0));
        assert_eq!(number(&report, "/documents/converged"), 8);
        assert_eq!(number(&report, "/connections/lost"), 0);
    }
}

#[test]
fn a_soak_churns_and_draws_what_it_saw() {
    let (report, out) = run("soak --documents 12 --members 5 --rate 100 --churn 10 --duration 4", 60);
    // Six a second; what is on its way back is passed over.
    assert!((12..=24).contains(&number(&report, "/soak/cut")));
    assert!(report["soak"]["samples"].as_array().unwrap().len() >= 4);
    for trend in ["rss", "anonymous", "descriptors", "threads"] {
        assert!(report["soak"][trend]["mean"].as_f64().unwrap() > 0.0, "{trend}");
    }
    assert_eq!(number(&report, "/deliveries/received"), 400 * 4);
    assert_eq!(number(&report, "/documents/converged"), 12);
    assert!(std::fs::read_to_string(out.path().join("timeline.svg")).unwrap().contains("polyline"));
}

#[test]
fn what_makes_no_scenario_is_refused_with_a_reason() {
    for (arguments, reason) in [
        ("storm --url tcp://127.0.0.1:1", "use --cut reset"),
        ("fanout --members 2 --writers 3", "at least one"),
        ("fanout --beside 1 --duration 3 --phase 2", "at least twice --phase"),
        ("deaf --deaf 15 --documents 10", "a multiple of 10"),
        ("deaf --deaf 0", "a multiple of 10"),
        ("deaf --turns 0", "at least 1"),
        ("presence --members 1", "at least two members"),
        ("presence --state-bytes 23", "24 to 4096 bytes"),
        ("presence --updates 0", "more than 0"),
        ("join --edits 0", "at least one edit"),
        ("soak --churn 101", "between 0 and 100 percent"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_etherply-loadgen")).args(arguments.split(' ')).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(reason), "{arguments}: {said}");
    }
}

#[test]
fn a_server_that_loses_its_power_and_its_clock_keeps_what_it_acked() {
    // The first cut comes a moment after the data directory was made: all names have to be on disk by then.
    let (report, _) = run("crash --by power --clock-jumps --kills 3 --documents 4 --members 2", 8);
    assert_eq!(number(&report, "/edits/lost"), 0);
    assert_eq!(report["kills"].as_array().unwrap().len(), 3);
    let claims = report["verdict"]["claims"].as_array().unwrap();
    let dropped = |claim: &&Value| claim.to_string().contains("dropped what was not synced");
    assert!(claims.iter().any(|claim| dropped(&claim)), "{claims:?}");
}
