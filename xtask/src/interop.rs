//! What `server/tests/interop` needs: clients of other makes, from npm, PyPI and Debian, at the versions that
//! its lock file and its requirements.txt name.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::process;
use crate::system::{self, Need};

const FOLDER: &str = "server/tests/interop";
const VENV: &str = "target/interop/venv";

const NEEDS: &[Need] = &[
    Need { program: "node", package: "nodejs", why: "runs the clients in JavaScript" },
    Need { program: "npm", package: "npm", why: "installs them" },
    Need { program: "python3", package: "python3", why: "runs the client in Python" },
    Need { program: "chromium", package: "chromium", why: "is the browser" },
];

/// Python's module that makes a virtual environment with pip in it, which Debian has in a package of its own.
const VENV_NEED: Need = Need { program: "ensurepip", package: "python3-venv", why: "isolates its packages" };

/// Installs what is missing or of another version, and lints the test, which `--all-targets` leaves out.
pub fn prepare(root: &Path) -> anyhow::Result<()> {
    system::provide(root, NEEDS)?;
    let has_venv =
        process::output(process::command(root, "python3").args(["-c", "import ensurepip"])).is_some();
    if !has_venv {
        system::install(root, &[&VENV_NEED])?;
    }
    let folder = root.join(FOLDER);
    npm_packages(root, FOLDER)?;
    let venv = root.join(VENV);
    once(&folder.join("requirements.txt"), &venv.join("installed"), || {
        process::run(process::command(root, "python3").args(["-m", "venv", "--clear", VENV]))?;
        let mut pip = process::command(root, venv.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        process::run(pip.arg(folder.join("requirements.txt")))
            .context("the packages of PyPI cannot be installed")
    })?;
    let lint = ["clippy", "--workspace", "--test", "interop", "--", "-D", "warnings"];
    process::run(process::cargo(root).args(lint))
}

/// Installs a folder's packages from npm, at the versions of its lock file.
pub fn npm_packages(root: &Path, folder: &str) -> anyhow::Result<()> {
    let path = root.join(folder);
    once(&path.join("package-lock.json"), &path.join("node_modules/.installed"), || {
        let mut npm = process::command(root, "npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder]);
        process::run(&mut npm).context("the packages of npm cannot be installed")
    })
}

/// Runs `install` unless it was run with the same `pins`, which `stamp` keeps.
pub fn once(pins: &Path, stamp: &Path, install: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let wanted = fs::read(pins).with_context(|| format!("cannot read {}", pins.display()))?;
    if fs::read(stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    install()?;
    fs::write(stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}
