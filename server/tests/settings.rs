//! Settings of the real program, from a file, the environment and flags.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::certificates::Certificates;
use common::{Member, Server, command};
use serde_json::Value;

fn config(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etherply"));
    command.current_dir(folder).arg("config").args(arguments).envs(environment.iter().copied());
    command.output().unwrap()
}

/// The settings by their names, as `--json` says them.
fn settings(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn setting<'s>(settings: &'s [Value], name: &str) -> &'s Value {
    settings.iter().find(|setting| setting["setting"] == name).unwrap()
}

#[test]
fn a_server_serves_by_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("etherply.toml");
    fs::write(&file, "idle-timeout = 7\ndocument-bytes-max = 1_048_576\n").unwrap();
    let mut asked = command(&folder.path().join("data"));
    let server = Server::spawn(asked.arg("--config").arg(&file));
    let mut member = Member::connect(&server, false, 1);
    member.open("notes");
    drop(member);
    server.terminate();
    assert!(server.wait().success());
}

#[test]
fn every_value_is_shown_with_its_source_and_bounds() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("etherply.toml"), "\nidle-timeout = 7\nscrub-days = 8\n").unwrap();
    // Only a file that is named is read.
    let untouched = settings(&config(folder.path(), &["--json"], &[]));
    assert!(untouched.iter().all(|setting| setting["source"] == "default"));
    let asked = ["--json", "--config", "etherply.toml", "--cores", "1"];
    let told = settings(&config(folder.path(), &asked, &[("ETHERPLY_SCRUB_DAYS", "9")]));
    for (name, value, source, line) in [
        ("idle-timeout", Value::from(7), "file", Value::from(2)),
        ("scrub-days", Value::from(9), "environment", Value::Null),
        ("cores", Value::from(1), "flag", Value::Null),
        ("insecure", Value::from(false), "default", Value::Null),
        ("allow-host", Value::Array(Vec::new()), "default", Value::Null),
        ("keys", Value::Null, "default", Value::Null),
    ] {
        let setting = setting(&told, name);
        assert_eq!((&setting["value"], &setting["line"]), (&value, &line), "{name}");
        assert_eq!(setting["source"], source, "{name}");
        assert!(!setting["meaning"].as_str().unwrap().is_empty());
        assert!(setting["variable"].as_str().unwrap().starts_with("ETHERPLY_"));
    }
    let timeout = setting(&told, "idle-timeout");
    assert_eq!(
        (&timeout["min"], &timeout["max"], &timeout["default"]),
        (&1.into(), &3_600.into(), &90.into())
    );
    assert_eq!(timeout["unit"], "seconds");
    assert_eq!(setting(&told, "realtime")["choices"], serde_json::json!(["off", "auto", "all"]));
}

#[test]
fn what_is_shown_is_a_file_that_means_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let given = ["--idle-timeout", "11", "--insecure", "--allow-origin", "https://a.test,https://b.test"];
    let shown = config(folder.path(), &given, &[]);
    fs::write(folder.path().join("shown.toml"), &shown.stdout).unwrap();
    let values = |output: &Output| -> Vec<Value> {
        let of = |setting: Value| (setting["setting"] != "config").then(|| setting["value"].clone());
        settings(output).into_iter().filter_map(of).collect()
    };
    let again = config(folder.path(), &["--json", "--config", "shown.toml"], &[]);
    let direct = config(folder.path(), &[&["--json"][..], &given].concat(), &[]);
    assert_eq!(values(&again), values(&direct));
}

#[test]
fn a_check_names_everything_that_is_wrong_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| fs::write(folder.path().join("etherply.toml"), text).unwrap();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md")).unwrap();
    write("# fine\nidle-timeout = 7\n");
    let fine = config(folder.path(), &["--check", "etherply.toml"], &[]);
    assert!(fine.status.success() && String::from_utf8_lossy(&fine.stdout).starts_with("all is well"));
    for (text, name, told) in [
        (
            "idle-timout = 7\n",
            "setting_unknown",
            "etherply.toml:1: there is no setting idle-timout; did you mean idle-timeout?",
        ),
        (
            "\n\nidle-timeout = 0\n",
            "setting_invalid",
            "etherply.toml:3: idle-timeout = 0: it is a whole number from 1 to 3600",
        ),
        ("idle-timeout\n", "config_malformed", "etherply.toml:1: "),
        ("keys = \"nothing\"\n", "keys_none", "nothing"),
        ("keys = \"nothing.pem\"\n", "file_io", "nothing.pem"),
        ("listen = \"0.0.0.0:0\"\n", "not_started", "--insecure"),
        ("log = \",,=\"\n", "usage", "--log"),
        ("tls-key = \"server.key\"\n", "not_started", "tls-cert is not"),
        ("tls-cert = \"server.pem\"\n", "not_started", "tls-key is not"),
        ("tls-cert = \"no.pem\"\ntls-key = \"no.key\"\n", "not_started", "no.pem"),
    ] {
        write(text);
        let output = config(folder.path(), &["--json", "--check", "etherply.toml"], &[]);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let failure: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(failure["error"], name, "{text}");
        assert!(failure["message"].as_str().unwrap().contains(told), "{failure}");
        assert!(page.contains(&format!("`{name}`")), "docs/errors.md lacks {name}");
    }
    write("idle_timeout = 7\ncores = 0\n");
    let output = config(folder.path(), &["--check", "etherply.toml"], &[("ETHERPLY_CORE", "1")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(said.contains("did you mean ETHERPLY_CORES?"), "{said}");
    let unread = config(folder.path(), &["--check", "nothing.toml"], &[]);
    assert!(
        unread.status.code() == Some(1) && String::from_utf8_lossy(&unread.stderr).contains("nothing.toml")
    );
    assert!(!folder.path().join("etherply-data").exists());
}

#[test]
fn a_certificate_and_its_key_may_be_said_in_different_places() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::of("localhost");
    let (certificate, key) = certificates.files();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    fs::write(folder.path().join("etherply.toml"), format!("tls-cert = '{certificate}'\n")).unwrap();
    let check = ["--check", "etherply.toml"];
    assert!(config(folder.path(), &check, &[("ETHERPLY_TLS_KEY", key)]).status.success());
    assert!(config(folder.path(), &[&check[..], &["--tls-key", key]].concat(), &[]).status.success());
    let half = config(folder.path(), &check, &[]);
    assert!(String::from_utf8_lossy(&half.stderr).contains("tls-key is not"));
}

#[test]
fn a_server_does_not_start_on_what_it_does_not_understand() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let output = command(&data).env("ETHERPLY_IDLE_TIMEOTU", "7").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && said.contains("did you mean ETHERPLY_IDLE_TIMEOUT?"),
        "{said}"
    );
    assert!(!data.exists() && output.stdout.is_empty());
}
