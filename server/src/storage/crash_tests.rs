//! The process dies, or the disk refuses, in the middle of commits: in child processes, for real.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etherply_engine::log::{FIRST_EPOCH, Log, LogError, LogReader};

use super::testing::{Author, document};
use super::*;

const DIRECTORY: &str = "ETHERPLY_TEST_CHILD_DIRECTORY";
const ROUND: &str = "ETHERPLY_TEST_CHILD_ROUND";
/// Kills in a run of the tests; the release's count is in the plan of tests.
const KILLS: u64 = 25;

fn child(test: &str, directory: &Path, round: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([&format!("storage::crash_tests::{test}"), "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn child_setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What a child commits in a round, one after the other; the parent makes the same to compare.
fn commits_of(round: u64) -> impl Iterator<Item = Vec<etherply_engine::log::Append>> {
    let mut author = Author::default();
    (0..).map(move |n: usize| {
        let name = format!("round/{round}/{}", n % 5);
        vec![
            author.append_sized(&name, FIRST_EPOCH, 1 + n % 3, 300),
            author.append(&format!("round/{round}"), 1),
        ]
    })
}

fn assert_there(log: &FjallLog, round: u64, commits: usize) {
    for appends in commits_of(round).take(commits) {
        for append in appends {
            let (first, last) = (append.records[0].seq, append.records[append.records.len() - 1].seq);
            let read = log.reader().read(&append.document, FIRST_EPOCH, first - 1, last, usize::MAX).unwrap();
            assert_eq!(read, append.records);
        }
    }
}

/// Lines of a child that begin with `prefix`, as the numbers behind it.
fn reports(child: &mut Child, prefix: &'static str) -> impl Iterator<Item = u64> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map_while(Result::ok).filter_map(move |line| line.strip_prefix(prefix)?.trim().parse().ok())
}

#[test]
#[ignore = "run by the_process_is_killed_while_it_commits"]
fn child_commits_until_it_is_killed() {
    let Some(directory) = child_setting(DIRECTORY) else { return };
    let round: u64 = child_setting(ROUND).unwrap().parse().unwrap();
    let mut log = open(Path::new(&directory)).unwrap();
    for (n, appends) in commits_of(round).enumerate() {
        log.commit(&appends).unwrap();
        println!("acknowledged {}", n + 1);
    }
}

#[test]
fn the_process_is_killed_while_it_commits() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..KILLS {
        let mut child = child("child_commits_until_it_is_killed", directory.path(), round);
        let mut reports = reports(&mut child, "acknowledged ");
        // At another point of the work each time; then whatever was still said before the end.
        let mut last = 0;
        for _ in 0..=(round * 7) % 40 {
            last = reports.next().expect("the child commits until it is killed");
        }
        child.kill().unwrap();
        last = reports.last().unwrap_or(last);
        child.wait().unwrap();
        acknowledged.push(usize::try_from(last).unwrap());
        if round % 5 == 4 {
            let log = open(directory.path()).unwrap();
            acknowledged.iter().zip(0..).for_each(|(commits, round)| assert_there(&log, round, *commits));
        }
    }
    let log = open(directory.path()).unwrap();
    let all: usize = acknowledged.iter().sum();
    assert!(all >= 25, "the test must have committed something: {all}");
    acknowledged.iter().zip(0..).for_each(|(commits, round)| assert_there(&log, round, *commits));
}

/// Makes every write behind this position of any file fail, as a full disk does.
fn limit_file_size(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: plain system calls that read the struct; the signal's default, ending the process, is turned off.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    }
}

#[test]
#[ignore = "run by a_full_disk_ends_writing_and_loses_nothing"]
fn child_fills_the_disk() {
    let Some(directory) = child_setting(DIRECTORY) else { return };
    let round: u64 = child_setting(ROUND).unwrap().parse().unwrap();
    let mut log = open(Path::new(&directory)).unwrap();
    let used = fs::metadata(Path::new(&directory).join("fjall/0.jnl")).unwrap().len();
    limit_file_size(used + 20_000 + 137 * round);
    let mut done = 0;
    let error = loop {
        match log.commit(&commits_of(round).nth(done).unwrap()) {
            Ok(()) => done += 1,
            Err(error) => break error,
        }
    };
    println!("acknowledged {done}");
    let LogError::Unavailable { why } = error else { panic!("{error}") };
    assert!(why.starts_with("cannot write and sync the journal: File too large"), "{why}");
    assert!(why.contains("free space on that disk"), "{why}");
    // Small enough to fit, but refused all the same, and by name.
    let error = log.commit(&[Author::default().append("small", 1)]).unwrap_err();
    assert!(error.to_string().contains("writes stopped after an earlier failure: cannot write"), "{error}");
    // Reads go on, and show what was acknowledged and nothing else.
    assert_there(&log, round, done);
    let last = log.reader().head(&document(&format!("round/{round}"))).unwrap().unwrap().last_seq;
    assert_eq!(last, done as u64);
    println!("checked {done}");
}

#[test]
fn a_full_disk_ends_writing_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let mut acknowledged = Vec::new();
    for round in 0..8 {
        let mut child = child("child_fills_the_disk", directory.path(), round);
        let said: Vec<u64> = reports(&mut child, "checked ").collect();
        assert!(child.wait().unwrap().success());
        let [done] = said[..] else { panic!("{said:?}") };
        assert!(done > 0);
        acknowledged.push(usize::try_from(done).unwrap());
        let log = open(directory.path()).unwrap();
        acknowledged.iter().zip(0..).for_each(|(commits, round)| assert_there(&log, round, *commits));
        // There is room again: writing goes on behind it.
        drop(log);
    }
}

#[test]
#[ignore = "run by a_directory_that_another_process_holds_is_refused"]
fn child_holds_the_directory() {
    let Some(directory) = child_setting(DIRECTORY) else { return };
    let _log = open(Path::new(&directory)).unwrap();
    println!("holding {}", std::process::id());
    let asleep = Instant::now();
    // Until the parent ends it; not for ever, should the parent die.
    while asleep.elapsed() < Duration::from_secs(60) {
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

#[test]
fn a_directory_that_another_process_holds_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = child("child_holds_the_directory", directory.path(), 0);
    let pid = reports(&mut child, "holding ").next().unwrap();
    let error = open(directory.path()).unwrap_err();
    assert_eq!(error.code(), "storage_locked");
    assert!(
        error.to_string().contains(&format!("in use by another etherply (pid {pid}): stop it")),
        "{error}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    open(directory.path()).unwrap();
}
