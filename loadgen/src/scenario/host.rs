//! The server of a scenario: one that it starts, and may stop, kill and start again, or one that runs
//! elsewhere.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::args::{Common, parse_url};
use crate::live::Live;
use crate::plan::{Plan, Target, TransportChoice};
use crate::report::Settings;
use crate::scenario::setup::{self, Times, Workspace, any_port, server_program, text_of};
use crate::schedule::Shape;
use crate::server::{Program, Server, run_to_end};

/// A server, its data, and how it is reached.
pub struct Host {
    pub workspace: Workspace,
    pub target: Target,
    pub transport: TransportChoice,
    /// How it is started, on the port that it has.
    program: Option<Program>,
    /// `None` elsewhere, and while it is down.
    server: Option<Server>,
}

impl Host {
    /// See [`setup::plan`].
    pub fn plan(&self, common: &Common, value_bytes: usize, shape: Shape) -> Plan {
        setup::plan(common, self.target.clone(), self.transport, value_bytes, shape)
    }

    /// See [`setup::settings`].
    pub fn settings(&self, common: &Common, plan: &Plan, time: Times) -> Settings {
        let server_realtime = self.realtime();
        Settings { server_realtime, ..setup::settings(common, plan, time, self.filesystem()) }
    }

    /// The server that the command line names, or a new one.
    pub fn start(common: &Common, live: &Live) -> Result<Self> {
        Self::start_with(common, live, &[])
    }

    /// See [`Host::start`]; a new one has these arguments besides.
    pub fn start_with(common: &Common, live: &Live, arguments: &[&str]) -> Result<Self> {
        let workspace = Workspace::new(common)?;
        if let Some(url) = &common.url {
            let (target, transport) = parse_url(url, common.ca.as_deref())?;
            return Ok(Self { workspace, target, transport, program: None, server: None });
        }
        let program = |listen| -> Result<Program> {
            let mut program = server_program(common, &workspace, listen)?;
            program.arguments.extend(arguments.iter().copied().map(str::to_owned));
            Ok(program)
        };
        live.stage("starting the server");
        let server = Server::start(&program(any_port())?)?;
        let again = program(server.listen)?;
        let target = workspace.target(server.listen)?;
        Ok(Self {
            workspace,
            target,
            transport: common.transport,
            program: Some(again),
            server: Some(server),
        })
    }

    /// Whether the server is this scenario's own.
    pub fn is_local(&self) -> bool {
        self.program.is_some()
    }

    /// The process, while it runs here.
    pub fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// Which of the server's threads have a real-time scheduling class, where that is known.
    pub fn realtime(&self) -> Option<String> {
        self.server.as_ref()?.realtime.clone()
    }

    /// Ends the server by SIGKILL, or asks it to end, and starts it again. From its new start until it was
    /// ready.
    pub fn restart(&mut self, kills: bool) -> Result<Duration> {
        let (Some(program), Some(server)) = (&self.program, self.server.take()) else {
            bail!("a server that runs elsewhere cannot be restarted from here");
        };
        if kills {
            server.kill()?;
        } else {
            server.stop()?;
        }
        let server = Server::start(program).context("the server did not come back")?;
        let ready_after = server.ready_after;
        self.server = Some(server);
        Ok(ready_after)
    }

    /// Stops the server.
    pub fn stop(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), |server| server.stop().map(drop))
    }

    /// Runs a command of the server's program on the stopped server's data; what it prints.
    pub fn ask(&self, command: &[&str]) -> Result<String> {
        let program = self.program.as_ref().context("a server that runs elsewhere cannot be asked")?;
        let data = text_of(&self.workspace.path("data"))?;
        let arguments: Vec<String> =
            command.iter().copied().chain(["--data", &data]).map(str::to_owned).collect();
        run_to_end(&program.binary, &arguments)
    }

    /// Stops the server and takes its data out.
    pub fn export(&mut self, folder: &Path) -> Result<()> {
        self.stop()?;
        self.ask(&["export", "--out", &text_of(folder)?]).map(drop)
    }

    /// The file system of the data, where it lies here.
    pub fn filesystem(&self) -> Option<String> {
        self.workspace.filesystem().filter(|_| self.is_local())
    }
}
