//! The runs of a release that docs/reliability.md tells of: what they are, and all of them one after the other.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail};

use crate::process;

/// Where what they say is kept.
const FOLDER: &str = "results/reliability";
/// The runs: a name, the arguments of `cargo xtask`, and about how many minutes it takes on two cores.
const RUNS: &[(&str, &str, u32)] = &[
    ("kills", "chaos --kills 200", 25),
    ("sigterm", "chaos --sigterm 50", 7),
    ("power-loss", "chaos --power-loss 50", 10),
    ("clock-jumps", "chaos --clock-jumps 50", 7),
    ("disk-full", "chaos --disk-full", 3),
    ("sim", "sim --seeds 100000", 45),
    ("planted", "sim --planted --seeds 2000", 4),
    ("fuzz", "fuzz --seconds 600", 50),
    ("slowloris", "slowloris --each 1000", 5),
    ("admission", "admission --changes 1000000", 10),
];

/// Prints the runs; does those with these names, or all of them, if it is to.
pub fn run(root: &Path, does: bool, only: &[String]) -> anyhow::Result<()> {
    let chosen: Vec<_> = RUNS
        .iter()
        .filter(|(name, ..)| only.is_empty() || only.iter().any(|wanted| wanted == name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = RUNS.iter().map(|(name, ..)| *name).collect();
        bail!("there is no such run; the runs are {}", names.join(", "));
    }
    if !does {
        for (name, command, minutes) in chosen {
            println!("{name:<12} {minutes:>3} min  cargo xtask {command}");
        }
        return Ok(());
    }
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder).context("cannot make the folder of recorded runs")?;
    let revision = process::output(process::command(root, "git").args(["describe", "--always", "--dirty"]));
    let revision = revision.unwrap_or_default();
    let mut failed = Vec::new();
    for (name, command, _) in chosen {
        println!("\n== cargo xtask {command} ==");
        let file = fs::File::create(folder.join(format!("{name}.txt")))?;
        let mut child = process::cargo(root);
        child.arg("xtask").args(command.split(' ')).stdout(Stdio::from(file.try_clone()?)).stderr(file);
        let status = child.status().context("cannot start cargo")?;
        let path = folder.join(format!("{name}.txt"));
        let said = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = said.lines().filter(|line| is_for_keeping(line)).collect();
        let tail = lines.get(lines.len().saturating_sub(200)..).unwrap_or_default().join("\n");
        let head = format!("$ cargo xtask {command}\nrevision {}\n{status}\n\n", revision.trim());
        fs::write(&path, head + &tail + "\n")?;
        println!("{}", lines.last().copied().unwrap_or_default());
        if !status.success() {
            failed.push(*name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("these runs failed: {}", failed.join(", ")) }
}

/// Progress is not, nor what a fuzzer says of itself: its dictionary alone would push out how each target ended.
fn is_for_keeping(line: &str) -> bool {
    let of_fuzzer = ["\"", "#", "INFO:", "\tNEW_FUNC"];
    !line.contains('\r') && !of_fuzzer.iter().any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_targets_ended_is_kept_and_what_a_fuzzer_says_of_itself_is_not() {
        for kept in ["-- frame: exit status: 0", "stat::number_of_executed_units: 12", "FAILED: seed 7"] {
            assert!(is_for_keeping(kept), "{kept}");
        }
        for left_out in [
            "\"seq\" # Uses: 987",
            "###### End of recommended dictionary. ######",
            "#12\tNEW    cov: 7 ft: 8",
            "INFO: Running with entropic power schedule (0xFF, 100).",
            "\tNEW_FUNC[1/4]: 0x562e in core::ptr::drop_in_place",
            "12 of 100\r13 of 100",
        ] {
            assert!(!is_for_keeping(left_out), "{left_out}");
        }
    }
}
