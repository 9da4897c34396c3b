//! Line coverage of what must not be wrong: the wire, the engine, and the storage of the server. The workspace is
//! built once more with counters, its dependencies are not; then the tests run, and LLVM's own tools say which lines
//! they came to. Nothing is installed: what is missing is named.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::process;

/// What is reported, file by file.
const FOLDERS: &[&str] = &["wire/src", "engine/src", "server/src/storage"];
/// Where counters, what they come to and the report are kept.
const OUT: &str = "target/coverage";
/// Puts counters into crates of the workspace alone.
const WRAPPER: &str = "#!/bin/sh\nexec \"$@\" -Cinstrument-coverage\n";

/// Runs `cargo test` with these arguments, all tests of the workspace if there are none, and prints what they cover.
pub fn run(root: &Path, arguments: &[String]) -> anyhow::Result<()> {
    let (profdata, cov) = (tool(root, "llvm-profdata")?, tool(root, "llvm-cov")?);
    let out = root.join(OUT);
    let raw = out.join("raw");
    // What an earlier run counted was of another build.
    if raw.exists() {
        fs::remove_dir_all(&raw).context("cannot remove the counts of an earlier run")?;
    }
    fs::create_dir_all(&raw).context("cannot make the folder for counts")?;
    let wrapper = out.join("rustc");
    fs::write(&wrapper, WRAPPER)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    let everything = ["--workspace".to_owned()];
    let arguments = if arguments.is_empty() { &everything[..] } else { arguments };
    let cargo = |verb: &[&str]| {
        let mut cargo = process::cargo(root);
        cargo.args(verb).args(arguments).env("RUSTC_WORKSPACE_WRAPPER", &wrapper);
        // A file a process: servers that are killed leave none, and do not spoil that of the others.
        cargo.env("LLVM_PROFILE_FILE", raw.join("%p.profraw"));
        cargo
    };
    let mut programs = BTreeSet::new();
    let built = process::output(&mut cargo(&["test", "--no-run", "--message-format=json"]));
    for line in built.context("the tests do not build with counters")?.lines() {
        let message: Value = serde_json::from_str(line)?;
        programs.extend(message.get("executable").and_then(Value::as_str).map(PathBuf::from));
    }
    process::run(&mut cargo(&["test", "--no-fail-fast"]))?;
    let counts: Vec<PathBuf> =
        fs::read_dir(&raw)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    let merged = out.join("merged.profdata");
    let mut merge = process::command(root, &profdata);
    // Of a program that was killed half of a file may be there.
    merge.args(["merge", "--sparse", "--failure-mode=all", "-o"]).arg(&merged).args(counts);
    if process::output(&mut merge).is_none() {
        bail!("{} cannot read what the tests counted", profdata.display());
    }
    let mut export = process::command(root, &cov);
    export.args(["export", "--summary-only", "--instr-profile"]).arg(&merged);
    export.args(programs.iter().flat_map(|program| [OsStr::new("--object"), program.as_os_str()]));
    let report = process::output(&mut export).context("llvm-cov cannot tell what was covered")?;
    fs::write(out.join("summary.json"), &report)?;
    print(&lines(root, &serde_json::from_str(&report)?));
    println!(
        "\nkept in {OUT}; lines: {} show --instr-profile {OUT}/merged.profdata PROGRAM FILE",
        cov.display()
    );
    Ok(())
}

/// One of LLVM's tools, of the version that the compiler has: another one does not read its counts.
fn tool(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let version = process::output(process::command(root, "rustc").arg("-vV")).unwrap_or_default();
    let of = |key| version.lines().find_map(|line| line.strip_prefix(key));
    let (host, llvm) = (of("host: ").unwrap_or_default(), of("LLVM version: ").unwrap_or_default());
    let major = llvm.split('.').next().unwrap_or_default();
    let sysroot =
        process::output(process::command(root, "rustc").args(["--print", "sysroot"])).unwrap_or_default();
    let own = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin").join(name);
    let versioned = process::find(&format!("{name}-{major}"));
    own.is_file().then_some(own).or(versioned).with_context(|| {
        format!(
            "{name} of LLVM {major} is missing: `rustup component add llvm-tools` brings it, or Debian's package \
             llvm-{major}"
        )
    })
}

/// Lines of each file that there are, and that were come to.
type Lines = BTreeMap<String, (u64, u64)>;

fn lines(root: &Path, report: &Value) -> Lines {
    let files = report.pointer("/data/0/files").and_then(Value::as_array).into_iter().flatten();
    let of = |file: &Value| {
        let path = Path::new(file.get("filename")?.as_str()?).strip_prefix(root).ok()?.to_str()?.to_owned();
        let number = |key| file.pointer(&format!("/summary/lines/{key}")).and_then(Value::as_u64);
        // Tests cover themselves.
        let is_test = path.ends_with("tests.rs") || path.ends_with("testing.rs");
        let is_wanted = FOLDERS.iter().any(|folder| path.starts_with(folder)) && !is_test;
        is_wanted.then_some((path, (number("count")?, number("covered")?)))
    };
    files.filter_map(of).collect()
}

fn print(lines: &Lines) {
    let percent = |count: u64, covered: u64| 100.0 * covered as f64 / count.max(1) as f64;
    println!("\n{:<22} {:>8} {:>8} {:>8}", "folder", "lines", "covered", "");
    for folder in FOLDERS {
        let of = lines.iter().filter(|(path, _)| path.starts_with(folder)).map(|(_, lines)| lines);
        let (count, covered) = of.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        println!("{folder:<22} {count:>8} {covered:>8} {:>6.1} %", percent(count, covered));
    }
    println!("\nfiles with most lines that no test comes to:");
    let mut files: Vec<_> =
        lines.iter().map(|(path, (count, covered))| (count - covered, *count, path)).collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    for (missed, count, path) in files.into_iter().take(15).filter(|(missed, ..)| *missed > 0) {
        println!("{missed:>6} of {count:>5}  {path}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_named_folders_are_read_from_the_report() {
        let file = |name: &str, count: u64, covered: u64| serde_json::json!({"filename": name, "summary": {"lines": {"count": count, "covered": covered}}});
        let files = vec![
            file("/a/wire/src/frame.rs", 10, 9),
            file("/a/server/src/storage/log.rs", 20, 5),
            file("/a/server/src/storage/log_tests.rs", 20, 20),
            file("/a/server/src/serve.rs", 20, 5),
            file("/elsewhere/wire/src/frame.rs", 20, 5),
        ];
        let report = serde_json::json!({"data": [{"files": files}]});
        let found = lines(Path::new("/a"), &report);
        let expected = [("server/src/storage/log.rs", (20, 5)), ("wire/src/frame.rs", (10, 9))]
            .map(|(path, of)| (path.to_owned(), of));
        assert_eq!(found, Lines::from(expected));
    }
}
