//! Ctrl-C, and what it must not leave behind: a server that nobody stops, data that nobody looks at.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};

#[derive(Debug)]
enum Left {
    Process(u32),
    Folder(PathBuf),
}

static LEFT: Mutex<Vec<Left>> = Mutex::new(Vec::new());

/// Code with which a program ends that was interrupted, by custom of shells.
const EXIT_INTERRUPTED: i32 = 130;

/// Cleans up and ends when this process is asked to end.
pub fn watch() -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        signals.forever().next();
        let left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        // Folders come before the servers that write into them; so backwards.
        for left in left.iter().rev() {
            match left {
                Left::Process(id) => {
                    let pid = i32::try_from(*id).ok().and_then(Pid::from_raw);
                    let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
                }
                Left::Folder(path) => drop(std::fs::remove_dir_all(path)),
            }
        }
        std::process::exit(EXIT_INTERRUPTED);
    })?;
    Ok(())
}

/// A process was started.
pub fn add_process(id: u32) {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(Left::Process(id));
}

/// A process has ended and was waited for: its number may be another's from now on.
pub fn remove_process(id: u32) {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|left| !matches!(left, Left::Process(known) if *known == id));
}

/// A temporary folder was made.
pub fn add_folder(path: &Path) {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(Left::Folder(path.to_owned()));
}
