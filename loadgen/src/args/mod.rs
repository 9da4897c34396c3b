//! The command line.

mod compare;
mod scenarios;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::compare::CompareArgs;
pub use self::scenarios::{
    BesideArgs, CutChoice, DeafArgs, FanoutArgs, JoinArgs, PresenceArgs, SoakArgs, StormArgs,
};
use crate::plan::{Target, TransportChoice};
use crate::secure;
use crate::writer::{VALUE_BYTES_MAX, VALUE_BYTES_MIN};

/// Proves what an EtherPly server does under load, with thousands of connections, genuine CRDT changes and
/// latency counted from when each edit was due.
///
/// Without --url it starts a server of its own on a temporary data directory and compares that server's disk
/// with what was acked. It exits with 1 if a claim does not hold, with 2 if it could not be tried.
#[derive(Debug, Parser)]
#[command(name = "etherply-loadgen", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Scenario,
}

/// What is tried.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Members of many documents edit at a fixed rate
    Edits(EditsArgs),
    /// The standing claim: 10,000 connections, p99 delivery under 50 ms, nothing lost or doubled, all converged
    Prove(ProveArgs),
    /// Kills the server again and again while pushes are in flight: no acked change may be missing afterwards
    Crash(CrashArgs),
    /// One document with many members: what a delivery costs, and what its neighbours notice
    Fanout(FanoutArgs),
    /// Rooms whose members tell where they are: latency, conflation, leaves, and everybody's latest state
    Presence(PresenceArgs),
    /// Members that never read, beside others on the same documents: what they cost, and whether they are felt
    Deaf(DeafArgs),
    /// Clients without a copy join a document with a long history
    Join(JoinArgs),
    /// Everybody is cut off at once and comes back: how long until all are in sync again
    Storm(StormArgs),
    /// Connections come and go while edits go on: memory and descriptors have to stay flat
    Soak(SoakArgs),
    /// The yardstick: the same schedule through a bare relay without CRDT, log or frames
    Floor(EditsArgs),
    /// Replays recorded editing sessions, keystroke by keystroke
    Trace(TraceArgs),
    /// Other servers and EtherPly by turns under the same schedule: where each one's limit is, and what it costs
    Compare(CompareArgs),
    /// Writes results/README.md from the runs recorded there
    Results {
        /// The folder with the recorded runs
        #[arg(long, default_value = "results", value_name = "DIR")]
        dir: PathBuf,
    },
    /// Compares stored documents with a ledger of acks
    #[command(hide = true)]
    Verify {
        #[arg(long)]
        export: PathBuf,
        #[arg(long)]
        ledger: PathBuf,
        #[arg(long)]
        samples: Option<PathBuf>,
    },
    /// The relay of `floor`
    #[command(hide = true)]
    FloorRelay {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        threads: usize,
    },
}

/// Options of every scenario.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Use this server (tcp://HOST:PORT or ws://HOST:PORT/PATH; tls:// and wss:// with TLS) instead of starting one
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Start the server with a certificate made for the run, and connect by TLS
    #[arg(long, conflicts_with = "url")]
    pub tls: bool,
    /// Whom to trust with tls:// and wss://: certificates as PEM [default: those that this machine trusts]
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca: Option<PathBuf>,
    /// The server's program [default: `etherply` beside this program]
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub server: Option<PathBuf>,
    /// Cores that the started server uses [default: all]
    #[arg(long, value_name = "N")]
    pub server_cores: Option<usize>,
    /// Where the server's temporary data directory is made [default: the system's temporary directory]
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub data: Option<PathBuf>,
    /// Executors of the generator [default: one a core]
    #[arg(long, value_name = "N")]
    pub executors: Option<usize>,
    /// How connections speak
    #[arg(long, value_enum, default_value = "mixed")]
    pub transport: TransportChoice,
    /// Repeats a schedule exactly
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Print the report as one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    /// Show claims about time, but do not fail for them: for a machine that does other things as well
    #[arg(long)]
    pub ignore_times: bool,
    /// Keep report.json, command.txt and the plots in this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Options of `edits` and `floor`.
#[derive(Debug, Clone, Args)]
pub struct EditsArgs {
    #[command(flatten)]
    pub common: Common,
    /// Documents
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub documents: u32,
    /// Members of each document, one connection each
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub members: u32,
    /// Members of each document that write [default: all]
    #[arg(long, value_name = "N")]
    pub writers: Option<u32>,
    /// Edits a second, over all documents
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub rate: u64,
    /// Bytes of the value that an edit puts
    #[arg(long, default_value_t = 48, value_name = "N")]
    pub value_bytes: usize,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    pub duration: f64,
    /// Seconds before, in which edits are made but not measured
    #[arg(long, default_value_t = 2.0, value_name = "S")]
    pub warmup: f64,
}

/// Options of `prove`.
#[derive(Debug, Clone, Args)]
pub struct ProveArgs {
    #[command(flatten)]
    pub common: Common,
    /// Documents of ten members each
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub documents: u32,
    /// Edits a second, over all documents
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub rate: u64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 30.0, value_name = "S")]
    pub duration: f64,
    /// Seconds before, in which edits are made but not measured
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    pub warmup: f64,
}

impl ProveArgs {
    /// The claim as a run of edits.
    pub fn edits(self) -> EditsArgs {
        EditsArgs {
            common: self.common,
            documents: self.documents,
            members: 10,
            writers: None,
            rate: self.rate,
            value_bytes: 48,
            duration: self.duration,
            warmup: self.warmup,
        }
    }
}

/// Options of `crash`.
#[derive(Debug, Clone, Args)]
pub struct CrashArgs {
    #[command(flatten)]
    pub common: Common,
    /// How often the server is ended
    #[arg(long, default_value_t = 25, value_name = "N")]
    pub kills: u32,
    /// How it is ended
    #[arg(long, value_enum, default_value_t = EndChoice::Kill)]
    pub by: EndChoice,
    /// Sets the server's wall clock somewhere else before each end: an hour, a day, decades. Needs `rustc`
    #[arg(long)]
    pub clock_jumps: bool,
    /// Documents
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub documents: u32,
    /// Members of each document; all write
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub members: u32,
    /// Pushes that each member keeps unacked
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub pipeline: usize,
    /// Bytes of the value that an edit puts
    #[arg(long, default_value_t = 48, value_name = "N")]
    pub value_bytes: usize,
}

/// How `crash` ends the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EndChoice {
    /// SIGKILL: in the middle of whatever it does.
    Kill,
    /// SIGTERM: it tells its clients, stores what is under way and exits.
    Term,
    /// SIGKILL and a power cut: what was not synced is dropped, names in unsynced directories included. Needs `rustc`.
    Power,
}

/// Options of `trace`.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    #[command(flatten)]
    pub common: Common,
    /// Recordings in the formats of josephg/editing-traces, plain or gzipped; replayed one after the other
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Documents into which each recording is replayed at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub documents: u32,
    /// Members of each document: one for each agent of the recording, the others read [default: agents + 1]
    #[arg(long, value_name = "N")]
    pub members: Option<u32>,
    /// Edits a second of each document [default: as fast as it goes]
    #[arg(long, value_name = "N")]
    pub speed: Option<u64>,
    /// Replay only the first N transactions of each recording [default: all]
    #[arg(long, value_name = "N")]
    pub first: Option<usize>,
    /// How often the server is killed (SIGKILL) and started again during each recording, at random moments
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub kills: u32,
    /// At how many random positions of each document's history the text is compared with the recording's, after
    /// the server was stopped
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub history: u32,
}

/// Refuses what no run can be made of.
pub fn check(documents: u32, members: u32, writers: u32, value_bytes: usize) -> Result<()> {
    if documents == 0 || members == 0 || writers == 0 || writers > members || writers > u32::from(u16::MAX) {
        bail!("a run needs at least one document, one member, and between one writer and all members");
    }
    if documents.checked_mul(members).is_none() {
        bail!("{documents} documents of {members} members are more connections than can be counted");
    }
    if !(VALUE_BYTES_MIN..=VALUE_BYTES_MAX).contains(&value_bytes) {
        bail!("a value has {VALUE_BYTES_MIN} to {VALUE_BYTES_MAX} bytes");
    }
    Ok(())
}

/// What a URL names: the target, and the transport if it leaves no choice.
pub fn parse_url(url: &str, ca: Option<&Path>) -> Result<(Target, TransportChoice)> {
    let (scheme, rest) =
        url.split_once("://").context("a URL begins with tcp://, ws://, tls:// or wss://")?;
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/sync"),
    };
    let (transport, is_secure) = match scheme {
        "tcp" => (TransportChoice::Tcp, false),
        "ws" => (TransportChoice::Ws, false),
        "tls" => (TransportChoice::Tcp, true),
        "wss" => (TransportChoice::Ws, true),
        _ => bail!("{scheme}:// is not supported: use tcp://, ws://, tls:// or wss://"),
    };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let tls = if is_secure { Some(secure::trusting(ca, name)?) } else { None };
    let addresses = host.to_socket_addrs().with_context(|| format!("{host} is not HOST:PORT"))?;
    let address = addresses.into_iter().next().with_context(|| format!("{host} has no address"))?;
    Ok((Target { address, host: host.to_owned(), path: path.to_owned(), tls }, transport))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn urls_name_a_target_and_a_transport() {
        let (target, transport) = parse_url("ws://127.0.0.1:7000/a/b", None).unwrap();
        assert_eq!((target.path.as_str(), target.host.as_str()), ("/a/b", "127.0.0.1:7000"));
        assert_eq!(transport, TransportChoice::Ws);
        let (target, transport) = parse_url("tcp://127.0.0.1:7000", None).unwrap();
        assert_eq!((target.address.port(), transport), (7000, TransportChoice::Tcp));
        assert!(target.tls.is_none());
        let folder = tempfile::tempdir().unwrap();
        let made = secure::Certificate::make(folder.path()).unwrap();
        for (url, transport) in
            [("tls://127.0.0.1:7000", TransportChoice::Tcp), ("wss://127.0.0.1:7000", TransportChoice::Ws)]
        {
            let (target, chosen) = parse_url(url, Some(&made.certificate)).unwrap();
            assert!(target.tls.is_some() && chosen == transport);
            let error = parse_url(url, Some(&made.key)).unwrap_err();
            assert!(format!("{error:#}").contains("--ca"), "{error:#}");
        }
        for wrong in ["127.0.0.1:7000", "http://127.0.0.1:7000", "tcp://127.0.0.1", "tcp://"] {
            assert!(parse_url(wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn impossible_runs_are_refused() {
        assert!(check(1, 1, 1, VALUE_BYTES_MIN).is_ok() && check(1, 1, 1, VALUE_BYTES_MAX).is_ok());
        for (documents, members, writers, bytes) in [
            (0, 1, 1, 48),
            (1, 0, 1, 48),
            (1, 1, 0, 48),
            (1, 1, 2, 48),
            (1, 1, 1, VALUE_BYTES_MIN - 1),
            (1, 1, 1, VALUE_BYTES_MAX + 1),
            (u32::MAX, 2, 1, 48),
        ] {
            assert!(check(documents, members, writers, bytes).is_err());
        }
    }
}
