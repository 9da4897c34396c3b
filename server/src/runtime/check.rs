//! Whether this machine lets the runtime work. glommio itself only panics later, without saying what to do.

use super::readiness;

/// What is in the way, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeProblem {
    /// io_uring cannot be used at all.
    #[error(
        "io_uring is not available here ({reason}).\n\
         EtherPly needs Linux 5.13 or newer with io_uring allowed:\n\
         \x20 - in a container, allow the io_uring_setup, io_uring_enter and io_uring_register system calls \
         (seccomp profile),\n\
         \x20 - on the host, check `sysctl kernel.io_uring_disabled` (0 allows it)"
    )]
    NoIoUring {
        /// What the kernel said.
        reason: String,
    },
    /// The limit on locked memory is too low for the rings.
    #[error(
        "the limit on locked memory is {limit_bytes} bytes, {cores} cores need {needed_bytes}.\n\
         Raise it (`ulimit -l`, LimitMEMLOCK= in a systemd unit), or use fewer cores (--cores)"
    )]
    Memlock {
        /// The limit.
        limit_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
        /// Cores asked for.
        cores: usize,
    },
}

/// Locked memory that one executor needs: the buffers that its ring registers. Rings themselves are not counted.
const MEMLOCK_BYTES_PER_CORE: u64 = 128 * 1024;

/// Looks whether `cores` executors can be started.
pub fn check(cores: usize) -> Result<(), RuntimeProblem> {
    readiness::probe().map_err(|error| RuntimeProblem::NoIoUring { reason: error.to_string() })?;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let needed_bytes = MEMLOCK_BYTES_PER_CORE * cores as u64;
    match limit {
        Some(limit_bytes) if limit_bytes < needed_bytes && !rustix::process::geteuid().is_root() => {
            Err(RuntimeProblem::Memlock { limit_bytes, needed_bytes, cores })
        }
        _ => Ok(()),
    }
}
