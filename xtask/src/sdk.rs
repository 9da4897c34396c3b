//! `sdk-ts`: its packages from npm at the versions of its lock file, then its own `npm test` against the server
//! that was built last.

use std::path::Path;

use crate::interop::npm_packages;
use crate::process;
use crate::suite::Count;
use crate::system::{self, Need};

const FOLDER: &str = "sdk-ts";
/// The server that its tests start.
const SERVER: &str = "target/debug/etherply";

const NEEDS: &[Need] = &[
    Need { program: "node", package: "nodejs", why: "runs the SDK" },
    Need { program: "npm", package: "npm", why: "installs what it is built with" },
    Need { program: "chromium", package: "chromium", why: "is the browser of its end-to-end test" },
    Need { program: "openssl", package: "openssl", why: "makes the certificate of its test over TLS" },
];

/// Checks types, builds the package, checks what would be published, and runs every test.
pub fn test(root: &Path) -> anyhow::Result<Count> {
    system::provide(root, NEEDS)?;
    npm_packages(root, FOLDER)?;
    // As one of the workspace, whose dependencies have the same features as in the other stages.
    process::run(process::cargo(root).args(["build", "--workspace", "--bins"]))?;
    let mut npm = process::command(root, "npm");
    npm.args(["test", "--prefix", FOLDER]).env("ETHERPLY_BIN", root.join(SERVER)).env("NO_COLOR", "1");
    let mut count = Count::default();
    let passed = process::run_watched(&mut npm, |line| {
        if let Some(counted) = counted(line) {
            count = counted;
        }
    })?;
    // Types, the build or the package: no test counted it.
    count.failed = count.failed.max(u64::from(!passed));
    Ok(count)
}

/// Reads vitest's `Tests  1 failed | 106 passed (107)`.
fn counted(line: &str) -> Option<Count> {
    let counts = line.trim().strip_prefix("Tests ")?;
    let (counts, _) = counts.split_once('(')?;
    let number = |name: &str| {
        let part = counts.split('|').find_map(|part| part.trim().strip_suffix(name));
        part.map_or(Some(0), |part| part.trim().parse().ok())
    };
    Some(Count { passed: number("passed")?, failed: number("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_vitest_are_counted() {
        let read = |line| counted(line).map(|count| (count.passed, count.failed));
        assert_eq!(read("      Tests  131 passed (131)"), Some((131, 0)));
        assert_eq!(read("      Tests  2 failed | 11 passed | 1 skipped (14)"), Some((11, 2)));
        assert_eq!(read("      Tests  3 failed (3)"), Some((0, 3)));
        assert_eq!(read(" Test Files  6 passed (6)"), None);
        assert_eq!(read("Tests are run"), None);
    }
}
