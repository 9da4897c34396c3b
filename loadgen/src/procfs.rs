//! What the kernel says about a process and about this machine.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// CPU time that a process used, in seconds, its ended threads included.
pub fn cpu_s(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (user, system) = cpu_ticks(&stat).context("the kernel's process status has another form")?;
    Ok((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// CPU time that a process and those that it started used, in seconds. What ended and was not waited for is missing.
pub fn family_cpu_s(pid: u32) -> Result<f64> {
    let ticks: u64 = family(pid)?.iter().filter_map(|&pid| stat(pid)).map(|stat| stat.ticks).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// A process, those that it started, and those that they started.
fn family(pid: u32) -> Result<Vec<u32>> {
    let names =
        std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parents: Vec<(u32, u32)> = names.filter_map(|pid| Some((pid, stat(pid)?.parent))).collect();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|&&(_, of)| of == parent).map(|&(child, _)| child));
        next += 1;
    }
    Ok(family)
}

struct Stat {
    parent: u32,
    /// Time of its own and of its children that ended.
    ticks: u64,
}

/// `None` if it has ended.
fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The parent is the 4th field, the times of children that ended are the 16th and 17th.
fn parse_stat(stat: &str) -> Option<Stat> {
    let (user, system) = cpu_ticks(stat)?;
    let (_, fields) = stat.rsplit_once(')')?;
    let parent = fields.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let ended = fields.split_ascii_whitespace().skip(13).take(2);
    let ended: u64 = ended.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Some(Stat { parent, ticks: user + system + ended })
}

/// Resident memory of a process, in bytes.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// Most resident memory that a process ever had, in bytes.
pub fn rss_peak_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmHWM:")
}

/// Resident memory of a process that is not backed by files, in bytes.
pub fn anonymous_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "RssAnon:")
}

/// Threads of a process.
pub fn threads(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok());
    threads.context("the process has no threads any more")
}

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> Result<u64> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

fn status_bytes(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    kilobytes(&status, field).map(|kilobytes| kilobytes * 1024).context("the process has no memory any more")
}

/// User and system time, the 14th and 15th field. The second is a name in parentheses, which may hold blanks.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What a figure was measured on. Without names of hosts or users: reports are published.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
}

impl Machine {
    /// This machine; what cannot be found out is empty.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            cpu: model.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
            // The machine's, not those that `taskset` left to this process.
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_bytes: kilobytes(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_an_odd_process_name() {
        let stat = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_ticks(stat), Some((250, 50)));
        assert_eq!(cpu_ticks("42 (a"), None);
        let stat = parse_stat("42 (a ) b) S 7 2 3 4 5 6 7 8 9 10 250 50 20 4 20").unwrap();
        assert_eq!((stat.parent, stat.ticks), (7, 324));
        assert_eq!(kilobytes("VmPeak:\t 7 kB\nVmRSS:\t   12 kB\n", "VmRSS:"), Some(12));
    }

    #[test]
    fn what_a_process_started_belongs_to_it() {
        use std::io::BufRead as _;
        use std::process::{Command, Stdio};
        let mut shell = Command::new("sh");
        // The inner one says that it is there, and ends with its input.
        shell.args(["-c", "sh -c 'echo $$; read line'; true"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut outer = shell.spawn().unwrap();
        let mut said = String::new();
        std::io::BufReader::new(outer.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let inner: u32 = said.trim().parse().unwrap();
        assert_eq!(family(outer.id()).unwrap(), [outer.id(), inner]);
        assert!(family(std::process::id()).unwrap().contains(&inner));
        assert!(family_cpu_s(outer.id()).is_ok());
        drop(outer.stdin.take());
        outer.wait().unwrap();
    }

    #[test]
    fn this_process_has_memory_and_has_run() {
        let pid = std::process::id();
        assert!(rss_bytes(pid).unwrap() > 0 && rss_peak_bytes(pid).unwrap() >= rss_bytes(pid).unwrap());
        assert!(cpu_s(pid).unwrap() >= 0.0);
        assert!((1..=rss_bytes(pid).unwrap()).contains(&anonymous_bytes(pid).unwrap()));
        assert!(threads(pid).unwrap() >= 1);
        // Standard streams, and the directory that is being read.
        assert!(descriptors(pid).unwrap() >= 4);
        assert!(Machine::here().cores > 0);
    }
}
