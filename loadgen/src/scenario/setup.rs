//! What every scenario needs before it begins: descriptors, a server, the plan's frame.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::args::Common;
use crate::cleanup;
use crate::plan::{Plan, Sampling, Target, TransportChoice};
use crate::report::Settings;
use crate::schedule::{Rhythm, Shape};
use crate::secure::Certificate;
use crate::server::{Program, find_server};

/// Descriptors that the generator needs besides its sockets.
const SPARE_DESCRIPTORS: u64 = 256;

/// Raises the limit of open descriptors as far as it may go, and says so if that is not enough.
pub fn raise_descriptors(connections: u32) -> Result<()> {
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, maximum: limits.maximum })?;
    let needed = u64::from(connections) + SPARE_DESCRIPTORS;
    match limits.maximum {
        Some(maximum) if maximum < needed => bail!(
            "{connections} connections need {needed} open files, this process may have {maximum}: \
             raise the hard limit (ulimit -Hn, LimitNOFILE=) or ask for fewer documents"
        ),
        _ => Ok(()),
    }
}

/// Executors of the generator.
pub fn executors(common: &Common) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    common.executors.unwrap_or(cores).clamp(1, cores)
}

/// A number that no other run has.
pub fn run_number() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(0)
}

/// A run of these edits in which every member of a document writes, at an even pace, and nobody comes back. A
/// scenario changes what is otherwise with it.
pub fn plan(
    common: &Common,
    target: Target,
    transport: TransportChoice,
    value_bytes: usize,
    shape: Shape,
) -> Plan {
    Plan {
        target,
        transport,
        documents: shape.documents,
        members: shape.writers,
        writers: shape.writers,
        value_bytes,
        shape,
        warmup_us: 0,
        executors: executors(common),
        run: run_number(),
        pipeline: 0,
        reconnects: false,
        rhythm: Rhythm::Steady,
        sampling: Sampling::default(),
    }
}

/// What was asked for, for the report.
pub fn settings(common: &Common, plan: &Plan, time: Times, data_filesystem: Option<String>) -> Settings {
    Settings {
        documents: plan.documents,
        members_per_document: plan.members,
        writers_per_document: plan.writers,
        rate: plan.shape.rate,
        value_bytes: plan.value_bytes,
        warmup_s: time.warmup_s,
        duration_s: time.duration_s,
        seed: common.seed,
        server_cores: common.server_cores,
        server_realtime: None,
        generator_executors: plan.executors,
        tls: plan.target.tls.is_some(),
        data_filesystem,
    }
}

/// How long a run was asked to last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub warmup_s: f64,
    pub duration_s: f64,
}

/// A temporary folder for the server's data, its log and what is compared at the end.
pub struct Workspace {
    root: tempfile::TempDir,
    /// The server's certificate, if connections are secured.
    certificate: Option<Certificate>,
}

impl Workspace {
    /// A folder in the system's temporary directory, or where the command line says.
    pub fn new(common: &Common) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("etherply-loadgen-");
        let root = match &common.data {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        };
        let root = root.context("no temporary directory can be made")?;
        cleanup::add_folder(root.path());
        let certificate = if common.tls { Some(Certificate::make(root.path())?) } else { None };
        Ok(Self { root, certificate })
    }

    /// The server that was started here, as a target.
    pub fn target(&self, address: SocketAddr) -> Result<Target> {
        let tls = self.certificate.as_ref().map(Certificate::trusted).transpose()?;
        Ok(Target { tls, ..loopback(address) })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A folder in it, made anew.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Keeps the folder after the run: what failed is to be looked at.
    pub fn keep(self) -> PathBuf {
        self.root.keep()
    }

    /// The kind of file system that it lies on.
    pub fn filesystem(&self) -> Option<String> {
        // The numbers are from statfs(2).
        let kind = rustix::fs::statfs(self.root.path()).ok()?.f_type;
        let name = match kind {
            0xEF53 => "ext4",
            0x5846_5342 => "xfs",
            0x9123_683E => "btrfs",
            0x0102_1994 => "tmpfs",
            0x794C_7630 => "overlayfs",
            0x6969 => "nfs",
            0x2FC1_2FC1 => "zfs",
            _ => return Some(format!("{kind:#x}")),
        };
        Some(name.to_owned())
    }
}

/// The server that is started, on a data directory within the workspace.
pub fn server_program(common: &Common, workspace: &Workspace, listen: SocketAddr) -> Result<Program> {
    let data = text_of(&workspace.path("data"))?;
    let mut arguments: Vec<String> =
        ["serve", "--ready-json", "--control", "127.0.0.1:0"].map(str::to_owned).into();
    arguments.extend(["--listen".into(), listen.to_string(), "--data".into(), data]);
    if let Some(cores) = common.server_cores {
        arguments.extend(["--cores".into(), cores.to_string()]);
    }
    if let Some(Certificate { certificate, key }) = &workspace.certificate {
        arguments.extend(["--tls-cert".into(), text_of(certificate)?, "--tls-key".into(), text_of(key)?]);
    }
    Ok(Program {
        binary: find_server(common.server.as_deref())?,
        arguments,
        log: workspace.path("server.log"),
        environment: Vec::new(),
    })
}

/// Any free port on loopback.
pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A server on loopback as a target, without TLS.
pub fn loopback(address: SocketAddr) -> Target {
    Target { address, host: address.to_string(), path: "/sync".into(), tls: None }
}

/// A path as an argument.
pub fn text_of(path: &Path) -> Result<String> {
    Ok(path.to_str().context("the temporary directory's name is not UTF-8")?.to_owned())
}
