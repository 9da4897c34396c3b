//! The style that no compiler checks: sizes of files, header comments, who may name which dependency.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::process;

/// Longest source file. From 400 lines on, ask whether it has one subject.
const FILE_LINES_MAX: usize = 800;
/// Largest file that belongs into the repository.
const FILE_BYTES_MAX: u64 = 1_500_000;

/// Beginnings of paths that exist on one machine only. In pieces, or this file would be one that has them.
const HOMES: &[&str] = &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];

/// Words that the sources under a folder may not have, except under some of its folders: the architecture's
/// invariants about who knows whom.
struct Invariant {
    folder: &'static str,
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

/// What a part that is moved by its caller must not reach for.
const WORLD: &[&str] = &[
    "std::net",
    "std::fs",
    "std::env",
    "std::thread",
    "SystemTime",
    "Instant::",
    "rand::",
    "tokio::",
    "glommio::",
    "fjall::",
];

const INVARIANTS: &[Invariant] = &[
    Invariant {
        folder: "wire/src/",
        except: &[],
        words: &["std::net", "std::fs", "std::env", "std::thread", "tokio::", "glommio::", "automerge::"],
        why: "the wire knows no I/O, no runtime and no CRDT",
    },
    Invariant {
        folder: "engine/src/",
        except: &[],
        words: WORLD,
        why: "the engine has no clock, randomness, I/O, runtime or environment",
    },
    Invariant {
        folder: "engine/src/",
        except: &[],
        words: &["automerge::"],
        why: "the engine checks changes by their bytes, and builds no document",
    },
    Invariant {
        folder: "access/src/",
        except: &["access/src/generate.rs"],
        words: WORLD,
        why: "tokens are verified without files, clock, randomness or runtime: only keys are made by chance",
    },
    Invariant {
        folder: "client/src/",
        except: &[],
        words: WORLD,
        why: "the client has no clock, randomness, I/O, runtime or environment: its caller brings them",
    },
    Invariant {
        folder: "server/src/",
        except: &["server/src/runtime"],
        words: &["glommio::"],
        why: "only the runtime module names glommio, so that it can be replaced",
    },
    Invariant {
        folder: "server/src/",
        except: &["server/src/storage"],
        words: &["fjall::"],
        why: "only the storage module names fjall",
    },
    Invariant {
        folder: "server/src/",
        except: &[
            "server/src/materialise",
            "server/src/history",
            "server/src/backup/tests",
            "server/src/storage/testing",
        ],
        words: &["automerge::"],
        why: "only what works in the background names Automerge, which is slow and may panic",
    },
];

/// Checks every file that is in the repository, or would be if everything were added.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let listed = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let files = process::output(process::command(root, "git").args(listed))
        .context("`git ls-files` failed; tidy needs the repository")?;
    let mut findings = Vec::new();
    let mut count = 0;
    for name in files.split('\0').filter(|name| !name.is_empty()) {
        let path = root.join(name);
        // Deleted, but not yet so in the index.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if !metadata.is_file() {
            continue;
        }
        count += 1;
        if metadata.len() > FILE_BYTES_MAX {
            findings.push(format!("{name}: {} bytes, at most {FILE_BYTES_MAX} are allowed", metadata.len()));
        }
        let contents = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
        if let Ok(text) = std::str::from_utf8(&contents) {
            findings
                .extend(problems(name, text, root).into_iter().map(|problem| format!("{name}: {problem}")));
        }
    }
    licences(root)?;
    if findings.is_empty() {
        println!("{count} files are tidy");
        return Ok(());
    }
    findings.iter().for_each(|finding| println!("{finding}"));
    bail!("{} findings of tidy", findings.len())
}

/// What is wrong with one text file.
fn problems(name: &str, text: &str, root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let lines = text.lines().count();
    if matches!(extension, "rs" | "ts" | "tsx") && lines > FILE_LINES_MAX {
        problems.push(format!("{lines} lines, at most {FILE_LINES_MAX} are allowed; split it by subject"));
    }
    // A module of unit tests in a file of its own is about its neighbour, which has the header.
    let is_unit_tests = name.ends_with("/tests.rs") || name.ends_with("_tests.rs");
    if extension == "rs" && !is_unit_tests && !text.starts_with("//!") {
        problems.push("the first line must be a `//!` that says what lives in this file".to_owned());
    }
    if extension == "rs" {
        for invariant in INVARIANTS.iter().filter(|invariant| invariant.covers(name)) {
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let word = invariant.words.iter().find(|word| code.clone().any(|line| names(line, word)));
            problems.extend(word.map(|word| format!("`{word}` does not belong here: {}", invariant.why)));
        }
    }
    if name.ends_with("/Cargo.toml")
        && !name.starts_with("fuzz/")
        && !text.contains("[lints]\nworkspace = true")
    {
        problems.push("the crate must take the workspace's lints: [lints] workspace = true".to_owned());
    }
    let here = root.to_string_lossy();
    let is_named = |start: &str| text.lines().any(|line| names(line, start));
    // A checkout at the root of a container would match everything.
    if HOMES.iter().any(|home| is_named(home)) || (root.components().count() > 2 && is_named(&here)) {
        problems.push("an absolute path of one machine".to_owned());
    }
    problems
}

impl Invariant {
    fn covers(&self, file: &str) -> bool {
        file.starts_with(self.folder) && !self.except.iter().any(|except| file.starts_with(except))
    }
}

/// Whether the line has the word, and not as the end of a longer one.
fn names(line: &str, word: &str) -> bool {
    let continues = |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || "_-.".contains(c));
    line.match_indices(word).any(|(at, _)| !line.get(..at).is_some_and(continues))
}

/// Licences and sources of dependencies, as deny.toml allows them, where the tool for it is installed.
fn licences(root: &Path) -> anyhow::Result<()> {
    if process::find("cargo-deny").is_none() {
        println!("cargo-deny is not installed: licences are not checked (cargo install cargo-deny --locked)");
        return Ok(());
    }
    process::run(process::cargo(root).args(["deny", "check", "licenses", "bans", "sources"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> Vec<String> {
        problems(name, text, Path::new("/a/checkout"))
    }

    #[test]
    fn a_good_file_passes() {
        assert_eq!(found("wire/src/a.rs", "//! What lives here.\nuse std::borrow::Cow;\n"), [""; 0]);
        assert_eq!(found("wire/src/a/tests.rs", "use super::*;\n"), [""; 0]);
        assert_eq!(found("docs/a.md", "see /var/lib/etherply and https://example.com/home/x\n"), [""; 0]);
    }

    #[test]
    fn each_problem_is_found() {
        for (name, text, word) in [
            ("wire/src/a.rs", "use x;\n".to_owned(), "first line"),
            ("wire/src/a.rs", "//! A\n".repeat(FILE_LINES_MAX + 1), "lines"),
            ("sdk-ts/src/a.ts", "\n".repeat(FILE_LINES_MAX + 1), "lines"),
            ("wire/src/a.rs", "//! A\nuse std::net::TcpStream;\n".to_owned(), "no I/O"),
            ("engine/src/a.rs", "//! A\nlet now = SystemTime::now();\n".to_owned(), "clock"),
            ("client/src/a.rs", "//! A\nuse tokio::net::TcpStream;\n".to_owned(), "its caller"),
            ("server/src/net.rs", "//! A\nuse glommio::Task;\n".to_owned(), "runtime"),
            ("server/src/net.rs", "//! A\nuse fjall::Database;\n".to_owned(), "storage"),
            ("wire/Cargo.toml", "[package]\n".to_owned(), "lints"),
            ("docs/a.md", format!("see {}me/x\n", "/ho"), "absolute path"),
            ("docs/a.md", "see /a/checkout/docs\n".to_owned(), "absolute path"),
        ] {
            let problems = found(name, &text);
            assert!(problems.iter().any(|problem| problem.contains(word)), "{name} {word}: {problems:?}");
        }
    }

    #[test]
    fn the_longest_file_that_is_allowed_passes() {
        for (lines, passes) in
            [(FILE_LINES_MAX - 1, true), (FILE_LINES_MAX, true), (FILE_LINES_MAX + 1, false)]
        {
            assert_eq!(found("wire/src/a.rs", &"//! A\n".repeat(lines)).is_empty(), passes, "{lines}");
        }
    }

    #[test]
    fn a_module_with_leave_may_name_its_dependency_and_comments_may_name_any() {
        assert!(found("server/src/runtime/mod.rs", "//! A\nuse glommio::Task;\n").is_empty());
        assert!(found("server/src/storage/mod.rs", "//! A\nuse fjall::Database;\n").is_empty());
        assert!(found("engine/src/a.rs", "//! A\n// Unlike fjall::Database.\n").is_empty());
    }
}
