//! How commands fail: a text for people, a stable name for programs, and an exit code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn etherply(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etherply"));
    command.current_dir(folder).args(arguments.split(' ')).output().unwrap()
}

#[test]
fn every_failure_has_a_name_a_text_and_an_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("text"), "not what is looked for").unwrap();
    fs::create_dir_all(folder.path().join("data/quarantine")).unwrap();
    drop(etherply_server::storage::open(&folder.path().join("made")).unwrap());
    assert!(etherply(folder.path(), "keys generate --out keys").status.success());
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md")).unwrap();
    for (arguments, code, name) in [
        ("verify --json --data nothing", 2, "storage_no_data"),
        ("repair --json --data nothing --to new", 2, "storage_no_data"),
        ("export --json --data nothing --out out", 1, "storage_no_data"),
        ("export --json --data data --out out", 1, "storage_no_data"),
        ("backup --json --data nothing --to new", 1, "storage_no_data"),
        ("history list --json --data nothing --document a", 1, "storage_no_data"),
        ("serve --data data", 1, ""),
        ("backup --json --data made --to text", 1, "file_exists"),
        ("backup --json --control http://127.0.0.1:1 --to new", 1, "control_failed"),
        ("backup verify --json text", 1, "backup_not_one"),
        ("backup verify --json nothing", 1, "file_io"),
        ("restore --json text --data new", 1, "backup_not_one"),
        ("restore --json text --data data", 1, "file_exists"),
        ("history list --json --data made", 1, "document_id_invalid"),
        ("history list --json --data made --document a", 1, "document_unknown"),
        ("quarantine list --json --data text", 1, "file_io"),
        ("keys generate --json --name a/b", 1, "usage"),
        ("keys generate --json --out text", 1, "file_io"),
        ("keys generate --json --out keys", 1, "file_exists"),
        ("token --json --key nothing --subject ada --read a", 1, "file_io"),
        ("token --json --key text --subject ada --read a", 1, "key_invalid"),
        ("token --json --key keys/main.private.pem --subject ada", 1, "usage"),
        ("token --json --key keys/main.private.pem --subject ada --read a*", 1, "claims_invalid"),
        ("token inspect --json nothing", 1, "token_invalid"),
        ("token inspect --json --keys nothing e30.e30.AA", 1, "keys_none"),
        ("token inspect --json --keys data e30.e30.AA", 1, "keys_none"),
        ("token inspect --json --keys keys e30.e30.AA", 1, "token_invalid"),
    ] {
        let output = etherply(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!folder.path().join("nothing").exists(), "{arguments} made a directory");
        if name.is_empty() {
            assert!(said.starts_with("etherply: ") && output.stdout.is_empty(), "{said}");
            continue;
        }
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["error"], name, "{arguments}: {said}");
        assert_eq!(
            said.trim_end(),
            format!("etherply: {}", told["message"].as_str().unwrap()),
            "{arguments}"
        );
        assert!(page.contains(&format!("`{name}`")), "docs/errors.md lacks {name}");
    }
    for asked in ["delete a", "revoke --subject ada"] {
        let arguments = format!("{asked} --control http://127.0.0.1:1 --data made");
        let output = etherply(folder.path(), &arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains("operator.key"), "{said}");
    }
    assert_eq!(etherply(folder.path(), "serve --log ,,= --data made").status.code(), Some(1));
    assert_eq!(etherply(folder.path(), "no-such-command").status.code(), Some(2));
}
