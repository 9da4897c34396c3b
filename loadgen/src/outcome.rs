//! Where a report goes: standard output, a folder, the table of all recorded runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::plot::latency_svg;
use crate::procfs::Machine;
use crate::report::Report;
use crate::timeline::timeline_svg;

/// What makes a figure repeatable.
pub struct Frame {
    pub machine: Machine,
    pub revision: String,
    pub date: String,
    pub command: String,
}

/// The frame of this run.
pub fn report_frame() -> Frame {
    Frame { machine: Machine::here(), revision: revision(), date: today(), command: command_line() }
}

/// Keeps a report in a folder.
pub fn keep(report: &Report, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    std::fs::write(folder.join("report.json"), report.to_json()? + "\n")?;
    std::fs::write(folder.join("command.txt"), format!("{}\n", report.command))?;
    std::fs::write(folder.join("latency.svg"), latency_svg(report))?;
    if let Some(soak) = &report.sections.soak {
        std::fs::write(folder.join("timeline.svg"), timeline_svg(report, soak))?;
    }
    Ok(())
}

/// Where a scenario's report is kept if nobody says otherwise: in the repository that this runs in.
pub fn default_folder(report: &Report) -> Option<PathBuf> {
    let root = git(&["rev-parse", "--show-toplevel"])?;
    let results = Path::new(&root).join("results");
    let name = format!("{}-{}-{}", report.date, report.scenario, report.revision);
    results.is_dir().then(|| results.join(name))
}

/// The source's revision, with `-dirty` if it was changed since. Recorded runs are not source.
fn revision() -> String {
    let Some(revision) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results"]);
    if changed.is_none_or(|changed| changed.is_empty()) { revision } else { format!("{revision}-dirty") }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The command, with absolute paths cut down to their last part: reports are published.
fn command_line() -> String {
    let shown = |argument: String| match argument.rsplit_once('/') {
        Some((_, last)) if argument.starts_with('/') => last.to_owned(),
        _ => argument,
    };
    let arguments = std::env::args().skip(1).map(shown);
    std::iter::once("etherply-loadgen".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn today() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    date_of(now.as_secs() / 86_400)
}

/// The date of a day counted from 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn date_of(days: u64) -> String {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Writes the table of all runs recorded in a folder, and a line for each into `history.ndjson`, for programs.
pub fn write_table(folder: &Path) -> Result<usize> {
    let mut runs = Vec::new();
    for path in entries(folder)? {
        if path.join("report.json").exists() {
            runs.push((name_of(&path), read(&path.join("report.json"))?));
        }
    }
    runs.sort_by(|(a, _), (b, _)| b.cmp(a));
    write_history(folder, &runs)?;
    let mut text = String::from(
        "# Recorded runs\n\n\
         Written by `etherply-loadgen results` from the `report.json` of each folder: do not edit. Each folder\n\
         also holds the command that repeats the run. Milliseconds are from when an edit was due to when a\n\
         member had it: a presence state for `presence`, the last byte of a cold join for `join`.\n\n\
         | scenario | date | revision | transport | connections | edits/s | p50 ms | p99 ms | what it showed | verdict | run |\n\
         |---|---|---|---|--:|--:|--:|--:|---|---|---|\n",
    );
    for (name, report) in &runs {
        text.push_str(&row(name, report));
    }
    std::fs::write(folder.join("README.md"), text)?;
    Ok(runs.len())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let paths: std::io::Result<Vec<PathBuf>> = read.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Result<serde_json::Value> {
    let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} holds a report that cannot be read", path.display()))
}

/// One line for each run, the oldest first, those of EtherPly in comparisons with others included: what can be compared
/// from one revision to the next.
fn write_history(folder: &Path, runs: &[(String, serde_json::Value)]) -> Result<()> {
    let mut lines: Vec<(String, String)> = runs.iter().map(|(name, report)| line(name, report)).collect();
    let contests = folder.join("compare");
    let contests = if contests.is_dir() { entries(&contests)? } else { Vec::new() };
    for contest in contests {
        for probe in entries(&contest.join("raw"))? {
            let name = format!("compare/{}/raw/{}", name_of(&contest), name_of(&probe));
            let probe = read(&probe)?;
            let of_peer = probe.get("peer").and_then(|peer| peer.as_str()).unwrap_or_default();
            if let Some(report) = probe.get("report").filter(|_| of_peer.starts_with("etherply")) {
                lines.push(line(&name, report));
            }
        }
    }
    lines.sort();
    let text: String = lines.into_iter().map(|(_, line)| line + "\n").collect();
    Ok(std::fs::write(folder.join("history.ndjson"), text)?)
}

/// What it is sorted by, and the line.
fn line(run: &str, report: &serde_json::Value) -> (String, String) {
    let field = |path: &str| report.pointer(path).cloned().unwrap_or_default();
    let line = serde_json::json!({
        "date": field("/date"),
        "run": run,
        "revision": field("/revision"),
        "scenario": field("/scenario"),
        "transport": field("/transport"),
        "connections": field("/connections/established"),
        "rate": field("/settings/rate"),
        "delivery_p50_us": field("/delivery_us/p50"),
        "delivery_p99_us": field("/delivery_us/p99"),
        "ack_p99_us": field("/ack_us/p99"),
        "cpu_us_per_delivery": field("/server/cpu_us_per_delivery"),
        "idle_bytes_per_connection": field("/server/idle_bytes_per_connection"),
        "passed": field("/verdict/passed"),
    });
    (format!("{} {run}", field("/date").as_str().unwrap_or_default()), line.to_string())
}

fn row(name: &str, report: &serde_json::Value) -> String {
    let text = |field: &serde_json::Value| field.as_str().unwrap_or("–").to_owned();
    let ms = |field: &serde_json::Value| {
        field.as_u64().map_or("–".to_owned(), |us| format!("{:.2}", us as f64 / 1_000.0))
    };
    let number = |field: &serde_json::Value| field.as_u64().map_or("–".to_owned(), |n| n.to_string());
    let field = |path: &str| report.pointer(path).unwrap_or(&serde_json::Value::Null);
    let passed = field("/verdict/passed").as_bool().unwrap_or(false);
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | [{name}]({name}/report.json) |\n",
        text(field("/scenario")),
        text(field("/date")),
        text(field("/revision")),
        text(field("/transport")),
        number(field("/connections/established")),
        number(field("/settings/rate")),
        ms(field("/delivery_us/p50")),
        ms(field("/delivery_us/p99")),
        text(field("/highlight")),
        if passed { "passed" } else { "failed" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn days_are_dates() {
        for (days, date) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (19_782, "2024-02-29"),
            (20_453, "2025-12-31"),
        ] {
            assert_eq!(date_of(days), date);
        }
    }

    #[test]
    fn the_table_lists_what_was_kept_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = report();
        for (name, p99) in [("2026-01-01-prove-a", 1_234), ("2026-01-02-prove-b", 5_678)] {
            report.delivery_us.p99 = p99;
            keep(&report, &folder.path().join(name)).unwrap();
        }
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        assert_eq!(write_table(folder.path()).unwrap(), 2);
        let table = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| prove")).collect();
        assert!(
            rows[0].contains("| 5.68 | – | passed |") && rows[0].contains("2026-01-02-prove-b/report.json")
        );
        assert!(rows[1].contains("| 1.23 | – | passed |"));
        assert!(folder.path().join("2026-01-01-prove-a/latency.svg").exists());

        let raw = folder.path().join("compare/2026-01-03/raw");
        std::fs::create_dir_all(&raw).unwrap();
        for peer in ["etherply", "nats"] {
            let probe = serde_json::json!({ "peer": peer, "report": report });
            std::fs::write(raw.join(format!("{peer}-1-1000.json")), probe.to_string()).unwrap();
        }
        write_table(folder.path()).unwrap();
        let history = std::fs::read_to_string(folder.path().join("history.ndjson")).unwrap();
        let lines: Vec<serde_json::Value> =
            history.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let runs: Vec<_> = lines.iter().map(|line| line["run"].as_str().unwrap()).collect();
        let expected =
            ["2026-01-01-prove-a", "2026-01-02-prove-b", "compare/2026-01-03/raw/etherply-1-1000.json"];
        assert_eq!(runs, expected);
        assert_eq!(lines[0]["delivery_p99_us"], 1_234);
    }
}
