//! Libraries that are preloaded into a server to take something from it: its power, its clock. They are built when
//! they are needed, with plain `rustc`; each says in its file what it does.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::random::Random;

/// A library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Keeps what was synced.
    Power,
    /// A wall clock that can be set.
    Clock,
}

/// Builds a library in a folder.
pub fn build(library: Library, folder: &Path) -> Result<PathBuf> {
    let (name, source) = match library {
        Library::Power => ("power", include_str!("../preload/power.rs")),
        Library::Clock => ("clock", include_str!("../preload/clock.rs")),
    };
    let (input, output) = (folder.join(format!("{name}.rs")), folder.join(format!("lib{name}.so")));
    std::fs::write(&input, source)?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-o"]).arg(&output).arg(&input);
    let built = command.stdin(Stdio::null()).output().context("`rustc` is needed to build a library")?;
    if !built.status.success() {
        bail!("the library `{name}` does not build:\n{}", String::from_utf8_lossy(&built.stderr));
    }
    Ok(output)
}

/// What a program needs so that libraries are preloaded into it.
pub fn environment(libraries: &[PathBuf]) -> Option<(String, OsString)> {
    let mut joined = OsString::new();
    for (at, library) in libraries.iter().enumerate() {
        if at > 0 {
            joined.push(":");
        }
        joined.push(library);
    }
    (!libraries.is_empty()).then(|| ("LD_PRELOAD".to_owned(), joined))
}

/// A server's wall clock.
#[derive(Debug)]
pub struct Clock {
    path: PathBuf,
}

/// Where a clock jumps to, in seconds from now: an hour and a day, both ways, half a century back.
const JUMPS_S: [i64; 6] = [0, 3_600, -3_600, 86_400, -86_400, -50 * 365 * 86_400];

impl Clock {
    /// A clock that is right, by a file in this folder.
    pub fn new(folder: &Path) -> Result<Self> {
        let clock = Self { path: folder.join("clock") };
        clock.set(0)?;
        Ok(clock)
    }

    /// What the preloaded library has to know.
    pub fn environment(&self) -> (String, OsString) {
        ("CLOCK_OFFSET".to_owned(), self.path.clone().into())
    }

    /// Sets the clock somewhere else. By how many seconds it differs now.
    pub fn jump(&self, random: &mut Random) -> Result<i64> {
        let at = usize::try_from(random.below(JUMPS_S.len() as u64))?;
        let to = JUMPS_S.get(at).copied().unwrap_or(0);
        self.set(to)?;
        Ok(to)
    }

    fn set(&self, offset_s: i64) -> Result<()> {
        use std::os::unix::fs::FileExt as _;
        // In place: the server has the file in memory.
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(&self.path)?;
        Ok(file.write_all_at(&offset_s.to_le_bytes(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preloaded_clock_is_set_from_outside() {
        let folder = tempfile::tempdir().unwrap();
        let library = build(Library::Clock, folder.path()).unwrap();
        let clock = Clock::new(folder.path()).unwrap();
        let year = || {
            let mut date = Command::new("date");
            date.args(["-u", "+%Y"]).envs([clock.environment()]);
            let output = date.env("LD_PRELOAD", &library).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<i64>().unwrap()
        };
        let now = year();
        clock.set(-10 * 365 * 86_400).unwrap();
        assert!((now - 11..=now - 9).contains(&year()));
        clock.set(i64::from(i32::MIN) * 2).unwrap();
        assert_eq!(year(), 1970, "no earlier than that");
    }
}
