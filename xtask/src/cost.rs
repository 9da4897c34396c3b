//! `cargo xtask cost`: what an edit costs the server in system calls, wake-ups and CPU, counted on a running one,
//! for the table in ARCHITECTURE.md. Allocations and the engine's own time are the `fanout` benchmark's.
//!
//! System calls are counted in one half of the time and CPU in the other: a traced process is a slow one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::process;

const SERVER: &str = "target/release/etherply";
const LOADGEN: &str = "target/release/etherply-loadgen";
/// Seconds for which each half is counted, after the generator's own warm-up.
const COUNTED_S: u64 = 8;
/// Seconds until the generator edits at its rate: everybody connects first.
const WARM_UP_S: u64 = 6;
/// Loads: documents of ten members, and edits a second.
const LOADS: [(u32, u32); 2] = [(100, 300), (500, 2_000)];

/// Counts, prints the table, and keeps it in a folder under `results/`.
pub fn run(root: &Path, out: &Path) -> anyhow::Result<()> {
    if process::find("strace").is_none() {
        bail!("system calls are counted with strace: install it (apt-get install strace)");
    }
    process::run(process::cargo(root).args(["build", "--release", "--workspace", "--bins"]))?;
    let mut tables = Vec::new();
    for (documents, rate) in LOADS {
        let table = measure(root, documents, rate)?;
        print!("{table}");
        tables.push(table);
    }
    let folder = root.join(out);
    fs::create_dir_all(&folder)?;
    let head = "# What an edit costs the server\n\n`cargo xtask cost`: an edit is one push of one change of \
                about 100 bytes to a document of 10 members, with 9 deliveries and one ack.\n";
    fs::write(folder.join("README.md"), format!("{head}{}", tables.concat()))?;
    println!("kept in {}", folder.display());
    Ok(())
}

/// A program that is ended when it goes out of scope.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Neither fails but for one that has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(root: &Path, documents: u32, rate: u32) -> anyhow::Result<String> {
    let data = root.join("target/cost");
    // It is not there at the first time.
    let _ = fs::remove_dir_all(&data);
    let mut server = process::command(root, root.join(SERVER));
    server.args(["serve", "--ready-json", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data"]);
    let mut server = Running(server.arg(&data).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    let mut ready = String::new();
    BufReader::new(server.0.stdout.take().context("the server has no output")?).read_line(&mut ready)?;
    let (listen, control) = (address(&ready, "listen")?, address(&ready, "control")?);
    let pid = server.0.id();

    let seconds = (WARM_UP_S + 2 * COUNTED_S + 4).to_string();
    let mut load = process::command(root, root.join(LOADGEN));
    load.args(["edits", "--members", "10", "--ignore-times", "--duration", &seconds]);
    load.args(["--documents", &documents.to_string(), "--rate", &rate.to_string()]);
    load.args(["--url", &format!("tcp://{listen}")]).stdout(Stdio::null()).stderr(Stdio::null());
    let load = Running(load.spawn()?);
    std::thread::sleep(Duration::from_secs(WARM_UP_S));

    let before = Meters::read(pid, &control)?;
    std::thread::sleep(Duration::from_secs(COUNTED_S));
    let plain = Meters::read(pid, &control)?.since(&before);
    let before = Meters::read(pid, &control)?;
    let calls = system_calls(root, pid)?;
    let traced = Meters::read(pid, &control)?.since(&before);
    drop((load, server));
    if plain.edits < 1.0 || traced.edits < 1.0 {
        bail!("no edits came: the load did not begin within {WARM_UP_S} s");
    }
    Ok(table(documents, rate, &plain, &calls, traced.edits))
}

/// The value of a field of the server's line about itself.
fn address(ready: &str, field: &str) -> anyhow::Result<String> {
    let at = ready.split_once(&format!("\"{field}\":\"")).and_then(|(_, rest)| rest.split_once('"'));
    Ok(at.with_context(|| format!("the server did not start: `{}`", ready.trim()))?.0.to_owned())
}

/// What stands on the meters.
struct Meters {
    edits: f64,
    deliveries: f64,
    /// CPU in µs and voluntary switches of each kind of thread.
    threads: BTreeMap<&'static str, (f64, f64)>,
}

impl Meters {
    fn read(pid: u32, control: &str) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(control)?;
        write!(socket, "GET /metrics HTTP/1.1\r\nHost: {control}\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        socket.read_to_string(&mut page)?;
        let metric = |name: &str| -> anyhow::Result<f64> {
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            Ok(line.with_context(|| format!("the server does not count {name}"))?.trim().parse()?)
        };
        let (edits, deliveries) =
            (metric("etherply_operations_total")?, metric("etherply_deliveries_total")?);
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            let name = fs::read_to_string(task.join("comm"))?;
            let kind = match name.trim() {
                "commit" => "the commit thread",
                name if name.starts_with("core-") => "the executors",
                _ => "all other threads",
            };
            let scheduled = fs::read_to_string(task.join("sched"))?;
            let value = |field: &str| -> Option<f64> {
                let line = scheduled.lines().find(|line| line.starts_with(field))?;
                line.rsplit_once(':')?.1.trim().parse().ok()
            };
            let (Some(cpu_ms), Some(switches)) =
                (value("se.sum_exec_runtime"), value("nr_voluntary_switches"))
            else {
                bail!("/proc/PID/task/TID/sched has another form on this kernel");
            };
            let sum: &mut (f64, f64) = threads.entry(kind).or_default();
            sum.0 += cpu_ms * 1_000.0;
            sum.1 += switches;
        }
        Ok(Self { edits, deliveries, threads })
    }

    fn since(&self, before: &Self) -> Self {
        let threads = self.threads.iter().map(|(kind, now)| {
            let was = before.threads.get(kind).copied().unwrap_or_default();
            (*kind, (now.0 - was.0, now.1 - was.1))
        });
        Self {
            edits: self.edits - before.edits,
            deliveries: self.deliveries - before.deliveries,
            threads: threads.collect(),
        }
    }
}

/// System calls of all threads in the counted time, the most frequent first.
fn system_calls(root: &Path, pid: u32) -> anyhow::Result<Vec<(String, f64)>> {
    let seconds = COUNTED_S.to_string();
    let mut strace = Command::new("timeout");
    strace.args(["--signal=INT", &seconds, "strace", "-c", "-f", "-U", "calls,name", "-p", &pid.to_string()]);
    let output = strace.current_dir(root).output().context("strace cannot be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let row = |line: &str| {
        let (count, name) = line.trim().split_once(char::is_whitespace)?;
        Some((name.trim().to_owned(), count.parse::<f64>().ok()?))
    };
    let mut calls: Vec<_> = said.lines().filter_map(row).filter(|(name, _)| name != "total").collect();
    calls.sort_by(|one, other| other.1.total_cmp(&one.1));
    if calls.is_empty() {
        bail!("strace counted nothing; it says:\n{}", said.trim());
    }
    Ok(calls)
}

fn table(documents: u32, rate: u32, plain: &Meters, calls: &[(String, f64)], traced_edits: f64) -> String {
    let mut text = format!(
        "\n## {rate} edits/s, {} connections\n\n| an edit | |\n|---|---|\n| deliveries | {:.1} |\n",
        documents * 10,
        plain.deliveries / plain.edits
    );
    for (name, count) in calls {
        let each = count / traced_edits;
        // What is rarer belongs to something else.
        if each >= 0.05 {
            text.push_str(&format!("| `{name}` | {each:.2} |\n"));
        }
    }
    for (kind, (cpu_us, switches)) in &plain.threads {
        text.push_str(&format!("| wake-ups of {kind} | {:.2} |\n", switches / plain.edits));
        text.push_str(&format!("| CPU of {kind}, µs a delivery | {:.1} |\n", cpu_us / plain.deliveries));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_line_about_itself_is_read() {
        let ready = r#"{"listen":"127.0.0.1:1","control":"127.0.0.1:2","pid":3}"#;
        assert_eq!(address(ready, "control").unwrap(), "127.0.0.1:2");
        assert!(address("", "listen").unwrap_err().to_string().contains("did not start"));
    }

    #[test]
    fn a_table_says_what_each_edit_costs() {
        let threads = BTreeMap::from([("the executors", (1_800.0, 20.0))]);
        let plain = Meters { edits: 10.0, deliveries: 90.0, threads };
        let calls = [("sendto".to_owned(), 40.0), ("brk".to_owned(), 0.1)];
        let table = table(2, 5, &plain, &calls, 4.0);
        assert!(table.contains("## 5 edits/s, 20 connections") && table.contains("| deliveries | 9.0 |"));
        assert!(table.contains("| `sendto` | 10.00 |") && !table.contains("brk"), "{table}");
        assert!(table.contains("| wake-ups of the executors | 2.00 |"));
        assert!(table.contains("| CPU of the executors, µs a delivery | 20.0 |"));
    }
}
