//! `cargo xtask compare`: installs the servers that EtherPly is compared with, and lets the load generator measure
//! all of them by turns.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::interop::once;
use crate::process;
use crate::suite::BUILT;
use crate::system::{self, Need};

/// What Debian has.
const NEEDS: &[Need] = &[
    Need { program: "taskset", package: "util-linux", why: "gives server and load a core each" },
    Need {
        program: "npm",
        package: "npm",
        why: "installs the servers in JavaScript, and the Node that they run on",
    },
    Need { program: "mosquitto", package: "mosquitto", why: "is measured" },
    Need { program: "nats-server", package: "nats-server", why: "is measured" },
];
/// The servers that npm has, at the versions of its lock file.
const PACKAGES: &str = "loadgen/peers";
/// What of that folder is needed beside the installed packages.
const FILES: [&str; 3] = ["package.json", "package-lock.json", "hocuspocus.mjs"];
const TOOLS: &str = "target/tools";
const Y_SWEET: &str = "0.9.1";
const LOADGEN: &str = "target/release/etherply-loadgen";
/// The load's core; the server's is the load generator's to give.
const LOAD_CPUS: &str = "1";

/// Installs what is missing, unless it is a sample of what is there, and measures. `arguments` are the load
/// generator's.
pub fn run(root: &Path, sample: bool, arguments: &[String]) -> anyhow::Result<()> {
    if !sample {
        system::provide(root, NEEDS)?;
        packages(root)?;
        y_sweet(root)?;
    }
    let binaries = ["build", "--release", "-p", "etherply-server", "-p", "etherply-loadgen"];
    process::run(process::cargo(root).args(binaries))?;
    let mut load = process::command(root, "taskset");
    load.args(["-c", LOAD_CPUS]).arg(root.join(LOADGEN)).args(["compare", "--tools", TOOLS]);
    // Otherwise every probe would ask cargo.
    load.env(BUILT.0, BUILT.1);
    load.args(sample.then_some("--sample")).args(arguments);
    process::run(&mut load)
}

/// Packages are only unpacked: none of them needs a script of its own to run. Peers that a package would like to have
/// are not installed, since those that are needed are named.
fn packages(root: &Path) -> anyhow::Result<()> {
    let folder = root.join(TOOLS).join("peers");
    fs::create_dir_all(&folder)?;
    for file in FILES {
        fs::copy(root.join(PACKAGES).join(file), folder.join(file))
            .with_context(|| format!("{file} is not there"))?;
    }
    once(&folder.join("package-lock.json"), &folder.join("node_modules/.installed"), || {
        let mut npm = process::command(root, "npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps", "--prefix"]);
        process::run(npm.arg(&folder)).context("the servers cannot be installed by npm")
    })
}

fn y_sweet(root: &Path) -> anyhow::Result<()> {
    let tools = root.join(TOOLS);
    let program = tools.join("bin/y-sweet");
    if program.is_file() {
        return Ok(());
    }
    let arguments = ["install", "y-sweet", "--locked", "--version", Y_SWEET, "--root"].map(OsStr::new);
    process::run(process::cargo(root).args(arguments).arg(&tools)).context("Y-Sweet does not build")
}
