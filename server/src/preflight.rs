//! What must be so before anything starts, and what to do if it is not.

use std::io;
use std::net::SocketAddr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that the server needs beside its connections: files of the log, rings, the control plane.
const OWN_DESCRIPTORS: u64 = 256;
/// A limit on descriptors below this is refused: not even small use would work reliably.
const DESCRIPTORS_MIN: u64 = 512;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// See [`crate::runtime::RuntimeProblem`].
    #[error(transparent)]
    Runtime(#[from] crate::runtime::RuntimeProblem),
    /// See [`crate::storage::OpenError`].
    #[error(transparent)]
    Storage(#[from] crate::storage::OpenError),
    /// See [`crate::access::keys::KeysError`].
    #[error(transparent)]
    Keys(#[from] crate::access::keys::KeysError),
    /// See [`crate::access::revocations::RevocationsError`].
    #[error(transparent)]
    Revocations(#[from] crate::access::revocations::RevocationsError),
    /// See [`crate::tls::TlsError`].
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// A certificate without its key, or a key without its certificate.
    #[error("{given} is set and {missing} is not: a certificate and its key come together")]
    HalfTls {
        /// The setting that is there.
        given: &'static str,
        /// The other one.
        missing: &'static str,
    },
    /// Too few descriptors.
    #[error(
        "only {limit} open files are allowed, at least {DESCRIPTORS_MIN} are needed, and one more for each \
         connection.\nRaise the limit (`ulimit -n 65536`, LimitNOFILE= in a systemd unit)"
    )]
    Descriptors {
        /// The hard limit.
        limit: u64,
    },
    /// The port cannot be used.
    #[error("cannot listen on {address} for {what}: {reason}.\n{advice}")]
    Port {
        /// Where.
        address: SocketAddr,
        /// For what.
        what: &'static str,
        /// What the kernel said.
        reason: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// Listening for the world without any access control.
    #[error(
        "{address} can be reached from other machines, and nobody there is asked for a token: anybody could \
         read and change every document.\nGive clients' tokens a key (`etherply keys generate`, --keys; they are \
         for --listen only), or listen on a loopback address (127.0.0.1 or [::1]), or add --insecure if the \
         network itself is trusted"
    )]
    Exposed {
        /// Where.
        address: SocketAddr,
    },
    /// More executors than processors.
    #[error("--cores {asked} is more than the {available} processors that this process may use")]
    Cores {
        /// What was asked for.
        asked: usize,
        /// What there is.
        available: usize,
    },
    /// Something that the operating system refuses.
    #[error("cannot {what}: {reason}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        reason: io::Error,
    },
}

impl Problem {
    /// For `map_err`: what was tried when the operating system refused.
    pub fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |reason| Self::System { what, reason }
    }

    /// For `map_err`: why a port cannot be used.
    pub fn port(address: SocketAddr, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |reason| {
            let advice = match reason.kind() {
                io::ErrorKind::AddrInUse => {
                    "Another program listens there, perhaps another etherply: stop it, or choose another \
                     port (--listen, --control; port 0 takes any free one)"
                }
                io::ErrorKind::PermissionDenied => {
                    "Ports below 1024 need a privilege (CAP_NET_BIND_SERVICE): choose a higher one, or grant it"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "This machine has no such address: check it with `ip addr`"
                }
                _ => "Choose another address (--listen, --control)",
            };
            Self::Port { address, what, reason, advice }
        }
    }
}

/// Raises the soft limit on descriptors to the hard one; how many connections fit then.
pub fn raise_descriptors() -> Result<u64, Problem> {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|soft| soft < hard) {
        // Refused only where a sandbox forbids it; then the soft limit stands, which is looked at below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < DESCRIPTORS_MIN {
        return Err(Problem::Descriptors { limit });
    }
    Ok(limit.saturating_sub(OWN_DESCRIPTORS))
}

/// The processors that this process may use.
pub fn processors() -> Result<Vec<usize>, Problem> {
    let set = rustix::thread::sched_getaffinity(None).map_err(|error| Problem::System {
        what: "ask for this process's processors",
        reason: error.into(),
    })?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Refuses what anybody could reach, unless that is wanted.
pub fn check_exposure(address: SocketAddr, insecure: bool) -> Result<(), Problem> {
    if address.ip().is_loopback() || insecure { Ok(()) } else { Err(Problem::Exposed { address }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_open_by_default() {
        for (address, is_fine) in [
            ("127.0.0.1:1", true),
            ("127.8.9.1:1", true),
            ("[::1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(check_exposure(address, false).is_ok(), is_fine, "{address}");
            assert!(check_exposure(address, true).is_ok());
        }
    }

    #[test]
    fn a_taken_port_is_named_with_advice() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = crate::data_plane::Listener::bind(address).map_err(Problem::port(address, "sync"));
        let text = error.unwrap_err().to_string();
        assert!(text.contains(&address.to_string()) && text.contains("--listen"), "{text}");
    }
}
