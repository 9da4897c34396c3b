//! What the tests need of the machine beside Rust, in one place.

use std::path::Path;

use anyhow::{Context as _, bail};

use crate::process;

/// A program, and the Debian package that has it.
pub struct Need {
    /// What is looked for on the path.
    pub program: &'static str,
    /// What has it.
    pub package: &'static str,
    /// What it is for.
    pub why: &'static str,
}

const NEEDS: &[Need] = &[
    Need { program: "cc", package: "gcc", why: "links everything" },
    Need { program: "c++", package: "g++", why: "builds libFuzzer" },
    Need { program: "git", package: "git", why: "glommio's build and `tidy` run it" },
];

/// Provides what building and testing needs.
pub fn ensure(root: &Path) -> anyhow::Result<()> {
    provide(root, NEEDS)
}

/// Installs what is missing, or says what to install.
pub fn provide(root: &Path, needs: &[Need]) -> anyhow::Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| process::find(need.program).is_none()).collect();
    if missing.is_empty() {
        let programs: Vec<&str> = needs.iter().map(|need| need.program).collect();
        println!("found {}", programs.join(", "));
        return Ok(());
    }
    install(root, &missing)
}

/// Installs these, or says so.
pub fn install(root: &Path, missing: &[&Need]) -> anyhow::Result<()> {
    for need in missing {
        println!("missing: {} ({})", need.program, need.why);
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let by_hand = format!("install them as root: apt-get install {}", packages.join(" "));
    let is_root = process::output(process::command(root, "id").arg("-u")).is_some_and(|id| id.trim() == "0");
    if !is_root || process::find("apt-get").is_none() {
        bail!("{by_hand} (or what your distribution calls them)");
    }
    let apt = || {
        let mut command = process::command(root, "apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    process::run(apt().arg("update")).context(by_hand.clone())?;
    process::run(apt().args(["install", "-y", "--no-install-recommends"]).args(&packages)).context(by_hand)
}
