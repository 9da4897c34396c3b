//! Whether this machine lets the runtime work. glommio itself only panics later, without saying what to do.

use std::io;

/// What is in the way, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeProblem {
    /// io_uring cannot be used at all.
    #[error(
        "io_uring is not available here ({reason}).\n\
         EtherPly needs Linux 5.8 or newer with io_uring allowed:\n\
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

/// Locked memory that one executor needs for its registered buffers.
const BUFFERS_BYTES_PER_CORE: u64 = 128 * 1024;
/// The same for its three rings, where the kernel still counts those: before 5.12.
const RINGS_BYTES_PER_CORE: u64 = 3 * 512 * 1024;
/// The first kernel that does not.
const RINGS_UNCOUNTED: (u32, u32) = (5, 12);

/// Looks whether `cores` executors can be started.
pub fn check(cores: usize) -> Result<(), RuntimeProblem> {
    probe_io_uring().map_err(|error| RuntimeProblem::NoIoUring { reason: error.to_string() })?;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let needed_bytes = memlock_bytes_per_core(&release) * cores as u64;
    match limit {
        Some(limit_bytes) if limit_bytes < needed_bytes && !rustix::process::geteuid().is_root() => {
            Err(RuntimeProblem::Memlock { limit_bytes, needed_bytes, cores })
        }
        _ => Ok(()),
    }
}

/// What an executor needs on a kernel of this release; of one whose name says nothing, as on an old one.
fn memlock_bytes_per_core(release: &str) -> u64 {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let rings = if version < RINGS_UNCOUNTED { RINGS_BYTES_PER_CORE } else { 0 };
    BUFFERS_BYTES_PER_CORE + rings
}

/// Sets up a small ring and closes it again.
fn probe_io_uring() -> io::Result<()> {
    // `struct io_uring_params` has 120 bytes (linux/io_uring.h); all zero asks for the defaults.
    let mut params = [0_u64; 15];
    // SAFETY: the kernel writes at most the 120 bytes of the parameter block, which lives until the call
    // returns.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, params.as_mut_ptr()) };
    let Ok(ring) = i32::try_from(ring) else { return Err(io::Error::other("no descriptor")) };
    if ring < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made by the kernel and belongs to nobody else.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(ring) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_counted_where_the_kernel_counts_them() {
        let both = BUFFERS_BYTES_PER_CORE + RINGS_BYTES_PER_CORE;
        for release in ["5.8.0", "5.11.22-generic", "5.4.0-150", "what"] {
            assert_eq!(memlock_bytes_per_core(release), both, "{release}");
        }
        for release in ["5.12.0", "5.15.0-91-generic", "6.1.0-18-amd64", "6.18", "10.0.1"] {
            assert_eq!(memlock_bytes_per_core(release), BUFFERS_BYTES_PER_CORE, "{release}");
        }
    }
}
