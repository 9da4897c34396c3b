//! The server under test as a process of its own: built, started, watched, stopped, killed.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::cleanup;
use crate::procfs;

/// Time for a server to say that it listens.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a server to end after it was asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for an answer of the control plane.
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest output of a server that is kept.
const LAST_WORDS_BYTES_MAX: u64 = 64 * 1024;
/// Longest answer of the control plane that is read.
const HTTP_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a server prints once it listens.
#[derive(Debug, Clone, Deserialize)]
struct Ready {
    listen: SocketAddr,
    control: Option<SocketAddr>,
    realtime: Option<String>,
}

/// A program that serves, and how to start it.
#[derive(Debug, Clone)]
pub struct Program {
    pub binary: PathBuf,
    pub arguments: Vec<String>,
    /// Where its log goes.
    pub log: PathBuf,
    /// What it finds in its environment besides.
    pub environment: Vec<(String, OsString)>,
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// What it prints after its first line; ends with the process.
    last_words: mpsc::Receiver<String>,
    pub listen: SocketAddr,
    control: Option<SocketAddr>,
    /// Which of its threads have a real-time scheduling class, if it says so.
    pub realtime: Option<String>,
    /// From its start until it was ready.
    pub ready_after: Duration,
}

/// A process that was just started.
struct Started {
    child: Child,
    /// Its first line.
    told: mpsc::Receiver<std::io::Result<String>>,
    last_words: mpsc::Receiver<String>,
}

impl Started {
    fn begin(program: &Program) -> Result<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&program.log)?;
        let mut child = Command::new(&program.binary)
            .args(&program.arguments)
            .envs(program.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", name_of(&program.binary)))?;
        cleanup::add_process(child.id());
        let stdout = child.stdout.take().context("the server has no output")?;
        let (tell, told) = mpsc::channel();
        let (tell_rest, last_words) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            let mut line = String::new();
            let read = lines.read_line(&mut line);
            // The receiver is gone if the server took too long.
            drop(tell.send(read.map(|_| line)));
            // What else it prints is read to its end, so that it never waits for a reader.
            let mut rest = String::new();
            drop(lines.by_ref().take(LAST_WORDS_BYTES_MAX).read_to_string(&mut rest));
            drop(std::io::copy(&mut lines, &mut std::io::sink()));
            drop(tell_rest.send(rest));
        });
        Ok(Self { child, told, last_words })
    }
}

impl Server {
    /// Starts a program and waits until it says that it listens, and, where it has a control plane, that it
    /// is ready.
    pub fn start(program: &Program) -> Result<Self> {
        let started = Instant::now();
        let Started { mut child, told, last_words } = Started::begin(program)?;
        let line = told.recv_timeout(START_TIMEOUT);
        let ready = line.ok().and_then(Result::ok).and_then(|line| serde_json::from_str::<Ready>(&line).ok());
        let Some(Ready { listen, control, realtime }) = ready else {
            end(&mut child);
            bail!("{} did not start:\n{}", name_of(&program.binary), tail_of(&program.log));
        };
        let mut server =
            Self { child, last_words, listen, control, realtime, ready_after: started.elapsed() };
        if control.is_some() {
            server.wait_ready(started)?;
        }
        Ok(server)
    }

    /// Starts a program that says nothing of itself, and waits until somebody listens at the address.
    pub fn start_at(program: &Program, listen: SocketAddr) -> Result<Self> {
        let started = Instant::now();
        let Started { child, last_words, .. } = Started::begin(program)?;
        let mut server =
            Self { child, last_words, listen, control: None, realtime: None, ready_after: Duration::ZERO };
        while TcpStream::connect_timeout(&listen, HTTP_TIMEOUT).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended at once with {status}:\n{}", name_of(&program.binary), tail_of(&program.log));
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("{} does not listen:\n{}", name_of(&program.binary), tail_of(&program.log));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        server.ready_after = started.elapsed();
        Ok(server)
    }

    fn wait_ready(&mut self, started: Instant) -> Result<()> {
        loop {
            if self.get("/ready").is_ok_and(|(status, _)| status == 200) {
                self.ready_after = started.elapsed();
                return Ok(());
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("the server listens, but does not become ready");
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended at once: {status}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits; returns what it printed since its first line. An error if it does not end,
    /// or with another code than 0.
    pub fn stop(mut self) -> Result<String> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                cleanup::remove_process(self.pid());
                if status.success() {
                    return Ok(self.last_words.recv_timeout(HTTP_TIMEOUT).unwrap_or_default());
                }
                bail!("the server ended with {status} after it was asked to stop");
            }
            if asked.elapsed() > STOP_TIMEOUT {
                bail!("the server did not stop within {} s", STOP_TIMEOUT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it as a power cut would end the process: SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        cleanup::remove_process(self.pid());
        Ok(())
    }

    /// What the control plane says of itself.
    pub fn metrics(&self) -> Metrics {
        Metrics(self.get("/metrics").map(|(_, body)| body).unwrap_or_default())
    }

    /// CPU time so far, of all its threads and of the processes that it started, in seconds.
    pub fn cpu_s(&self) -> f64 {
        procfs::family_cpu_s(self.pid()).unwrap_or(0.0)
    }

    /// Waits until the server's background work has caught up: its materialisers say so, or else it is quiet.
    /// Returns the CPU time by then, in seconds.
    pub fn settle(&self, limit: Duration) -> f64 {
        let begun = Instant::now();
        let mut cpu_s = self.cpu_s();
        while begun.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(500));
            let now_s = self.cpu_s();
            let is_quiet = now_s - cpu_s < 0.05;
            cpu_s = now_s;
            match self.metrics().get("etherply_materialiser_lag_records") {
                Some(lag) if lag > 0.0 => {}
                Some(_) => break,
                None if is_quiet => break,
                None => {}
            }
        }
        cpu_s
    }

    fn get(&self, path: &str) -> Result<(u16, String)> {
        let control = self.control.context("this server has no control plane")?;
        let mut stream = TcpStream::connect_timeout(&control, HTTP_TIMEOUT)?;
        stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {control}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(HTTP_BYTES_MAX).read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the control plane does not speak HTTP")?;
        let status = head.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
        Ok((status.context("an answer without a status")?, body.to_owned()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A run that fails half-way must not leave its server behind.
        if let Ok(None) = self.child.try_wait() {
            end(&mut self.child);
        }
    }
}

fn end(child: &mut Child) {
    // Neither can fail but for a process that has ended by itself.
    drop(child.kill());
    drop(child.wait());
    cleanup::remove_process(child.id());
}

/// Metrics in Prometheus' text format.
#[derive(Debug, Clone, Default)]
pub struct Metrics(String);

impl Metrics {
    /// A metric's value, over all its labels; `None` if the server has no such metric.
    pub fn get(&self, name: &str) -> Option<f64> {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let rest = match rest.strip_prefix('{') {
                Some(labels) => labels.split_once('}')?.1,
                None => rest,
            };
            rest.strip_prefix(' ')?.split_ascii_whitespace().next()?.parse::<f64>().ok()
        });
        values.reduce(|sum, value| sum + value)
    }

    /// How much a counter grew since `before`, as far as the server has it.
    pub fn growth(&self, before: &Self, name: &str) -> Option<u64> {
        let growth = self.get(name)? - before.get(name).unwrap_or(0.0);
        #[expect(clippy::cast_possible_truncation, reason = "counters hold whole numbers far below 2^53")]
        (growth >= 0.0).then_some(growth as u64)
    }
}

/// Says, if it is set, that every program of the workspace was just built: what `cargo xtask test` does together
/// would be built once more here, because dependencies have other features for one program alone.
const BUILT: &str = "ETHERPLY_BUILT";

/// The server's program: the one that is named, or the one that belongs to this generator. A generator that
/// was built in a workspace builds the server first, so that no older one is measured by mistake.
pub fn find_server(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let own = std::env::current_exe()?;
    let folder = own.parent().context("this program lies nowhere")?;
    let beside = folder.join("etherply");
    let profile = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let manifest = folder.ancestors().map(|folder| folder.join("Cargo.toml")).find(|path| path.exists());
    let is_built = std::env::var_os(BUILT).is_some();
    if let Some(manifest) = manifest.filter(|_| matches!(profile, "release" | "debug") && !is_built) {
        eprintln!("Building the server …");
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "--package", "etherply-server", "--manifest-path"]).arg(manifest);
        if profile == "release" {
            cargo.arg("--release");
        }
        let status = cargo.stdout(Stdio::null()).status().context("cargo cannot be started")?;
        if !status.success() {
            bail!("the server does not build; see above, or name one with --server");
        }
    }
    if !beside.exists() {
        bail!("there is no `etherply` beside this program: build it, or name one with --server");
    }
    Ok(beside)
}

/// Runs a program to its end; its last words are the error if it fails.
pub fn run_to_end(binary: &Path, arguments: &[String]) -> Result<String> {
    let output = Command::new(binary).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{} cannot be started", name_of(binary)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} {} failed: {}", name_of(binary), arguments.first().map_or("", |a| a.as_str()), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn name_of(binary: &Path) -> String {
    binary.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn tail_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text =
            "# TYPE sends counter\nsends 5\nsends_total{core=\"0\"} 7\nsends_total{core=\"1\"} 8 170000\n";
        let metrics = Metrics(text.into());
        assert_eq!((metrics.get("sends"), metrics.get("sends_total")), (Some(5.0), Some(15.0)));
        assert_eq!((metrics.get("send"), metrics.get("other")), (None, None));
        let before = Metrics("sends_total 5\n".into());
        assert_eq!(metrics.growth(&before, "sends_total"), Some(10));
        assert_eq!(before.growth(&metrics, "sends_total"), None);
    }
}
