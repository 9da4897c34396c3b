//! A folder with a data directory and keys, and the commands that an operator has for them.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::{Server, command};

pub fn etherply(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_etherply")).args(args).output().unwrap()
}

pub fn said(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn complained(output: Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

pub struct Place {
    pub root: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Self { root: tempfile::tempdir().unwrap() };
        said(etherply(&["keys", "generate", "--out", place.keys().to_str().unwrap()]));
        place
    }

    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub fn keys(&self) -> PathBuf {
        self.root.path().join("keys")
    }

    pub fn start(&self) -> Server {
        Server::spawn(command(&self.data()).arg("--keys").arg(self.keys()))
    }

    pub fn token(&self, subject: &str, ttl: &str, grants: &[&str]) -> String {
        let key = self.keys().join("main.private.pem");
        let mut args = vec!["token", "--key", key.to_str().unwrap(), "--subject", subject, "--ttl", ttl];
        args.extend(grants);
        said(etherply(&args)).trim().to_owned()
    }

    pub fn revoke(&self, server: &Server, what: &[&str]) -> Output {
        let (control, data) = (format!("http://{}", server.control), self.data());
        let mut args = vec!["revoke", "--control", &control, "--data", data.to_str().unwrap()];
        args.extend(what);
        etherply(&args)
    }
}
