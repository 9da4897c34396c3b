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
            cores: std::thread::available_parallelism().map_or(0, usize::from),
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
        assert_eq!(kilobytes("VmPeak:\t 7 kB\nVmRSS:\t   12 kB\n", "VmRSS:"), Some(12));
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
