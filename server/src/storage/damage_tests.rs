//! Every byte of a data directory flipped, cut, zeroed and overwritten: nothing is ever lost in silence.
//!
//! The directory has flushed tables, two journals, a snapshot that took over records, and a tail. For each way to
//! damage it, `verify` must not panic, and opening it must either be refused, or every acknowledged record is there, or its document says that it is
//! damaged, and the others are served. What is refused or damaged, `verify` must have seen. `cargo test` takes
//! samples that reach every file; `cargo xtask damage` takes all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etherply_engine::document::recover;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, FIRST_EPOCH, Log, LogError, LogReader};
use etherply_engine::record::Record;

use super::inspect::Inspection;
use super::inspect::report::Report;
use super::inspect::walk::Nobody;
use super::testing::{RealAuthor, document, files, unlocked};
use super::*;
use crate::materialise::whole::unpack;

/// Set it to try every byte instead of a sample.
const ALL: &str = "ETHERPLY_TEST_ALL";
/// Of so many places, one is tried.
const SAMPLE: usize = 509;
/// Of so many damaged directories, one is repaired.
const REPAIRED: usize = 23;
/// Directories that are damaged at the same time.
const THREADS: usize = 2;

/// The directory that is damaged, and what was acknowledged.
pub(super) struct Made {
    pub(super) files: Vec<(PathBuf, Vec<u8>)>,
    pub(super) folders: Vec<PathBuf>,
    pub(super) acknowledged: Vec<Append>,
}

pub(super) static MADE: LazyLock<Made> = LazyLock::new(Made::new);

impl Made {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut author = RealAuthor::new();
        let mut log = open(root.path()).unwrap();
        let mut acknowledged = Vec::new();
        let mut commit = |log: &mut FjallLog, appends: Vec<Append>| {
            log.commit(&appends).unwrap();
            acknowledged.extend(appends);
        };
        let long = "a text that takes some room, so that the rows fill several blocks of a table. ".repeat(6);
        commit(&mut log, vec![author.append_text("old", 12, &long)]);
        cut_and_cover(&mut log, "old");
        for n in 0..4 {
            commit(
                &mut log,
                vec![author.append_text("long", 3, &long), author.append(&format!("doc/{n}"), 2)],
            );
        }
        log.flush_tables();
        let (_, in_tables) = log.reader().commit().unwrap();
        let dropped = usize::try_from(in_tables.commit).unwrap();
        for n in 0..3 {
            commit(
                &mut log,
                vec![author.append(&format!("doc/{n}"), 1), author.append_text("long", 1, &long)],
            );
        }
        log.flush_tables();
        for n in 0..4 {
            commit(&mut log, vec![author.append(&format!("doc/{n}"), 1), author.append("young", 2)]);
        }
        commit(&mut log, vec![author.append("old", 2)]);
        drop(log);
        split_journal(&root.path().join("fjall"), dropped, 5);
        let relative = |path: &Path| path.strip_prefix(root.path()).unwrap().to_owned();
        let files = files(root.path()).into_iter().map(|(path, bytes)| (relative(&path), bytes)).collect();
        let folders = (0..=4).map(|id| PathBuf::from(format!("fjall/keyspaces/{id}/tables"))).collect();
        Self { files, folders, acknowledged }
    }

    /// Makes the directory anew in `root`, with `bytes` in place of one file, which is left out if there are none.
    pub(super) fn write(&self, root: &Path, changed: usize, bytes: Option<&[u8]>) {
        if root.exists() {
            fs::remove_dir_all(root).unwrap();
        }
        for folder in &self.folders {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for (index, (path, whole)) in self.files.iter().enumerate() {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match bytes {
                Some(bytes) if index == changed => fs::write(path, bytes).unwrap(),
                None if index == changed => {}
                _ => fs::write(path, whole).unwrap(),
            }
        }
    }

    /// Whether all files are as [`Self::write`] wrote them, and there are no others but the lock.
    fn is_as_written(&self, root: &Path, changed: usize, bytes: &[u8]) -> bool {
        let found = files(root);
        found.len() == self.files.len()
            && found.iter().zip(self.files.iter().enumerate()).all(
                |((path, found), (index, (name, whole)))| {
                    let written = if index == changed { bytes } else { whole };
                    path.strip_prefix(root) == Ok(name) && found == written
                },
            )
    }

    /// As [`Self::write`], where nothing but one file was changed since that was done last.
    fn rewrite(&self, root: &Path, before: usize, changed: usize, bytes: &[u8]) {
        let (path, whole) = &self.files[before];
        fs::write(root.join(path), whole).unwrap();
        fs::write(root.join(&self.files[changed].0), bytes).unwrap();
    }

    /// Makes the directory anew in `root`, with one flipped bit in a file, at the byte that `at` gives for its length.
    pub(super) fn write_flipped(&self, root: &Path, file: &str, at: impl FnOnce(usize) -> usize) {
        let index = self.files.iter().position(|(path, _)| path == Path::new(file)).unwrap();
        let mut bad = self.files[index].1.clone();
        let at = at(bad.len());
        bad[at] ^= 4;
        self.write(root, index, Some(&bad));
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.acknowledged.iter().map(|append| append.document.to_string()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn records(&self, name: &str) -> Vec<Record> {
        let of_it = self.acknowledged.iter().filter(|append| append.document.as_str() == name);
        of_it.flat_map(|append| append.records.clone()).collect()
    }
}

/// Lets a snapshot take over what a document has so far.
pub(super) fn cut_and_cover(log: &mut FjallLog, name: &str) {
    use crate::materialise::cut::Cut;
    let (id, reader) = (document(name), log.reader().clone());
    let end = recover(&reader, &id).unwrap().committed();
    let mut cut = Cut::new(id.clone(), end);
    while cut.step(&reader, log).unwrap().is_none() {}
    let mut cover = cover::Cover::resume(&reader, &id).unwrap().unwrap();
    while !cover.step(&reader, log).unwrap() {}
}

/// All records of a document, covered ones too.
pub(super) fn whole(log: &FjallLog, id: &DocumentId) -> Result<Vec<Record>, LogError> {
    let mut whole = crate::materialise::whole::WholeLog::new(id.clone(), FIRST_EPOCH);
    let mut records = Vec::new();
    loop {
        let page = whole.next(log.reader(), u64::MAX, usize::MAX)?;
        if page.is_empty() {
            return Ok(records);
        }
        records.extend(page);
    }
}

/// As when the journal had been closed twice, and its first part dropped because tables hold it.
fn split_journal(database: &Path, dropped: usize, second: usize) {
    let bytes = fs::read(database.join("0.jnl")).unwrap();
    let mut ends = vec![0];
    while bytes.get(*ends.last().unwrap()).is_some_and(|&byte| byte != 0) {
        let at = *ends.last().unwrap();
        ends.push(at + journal::parse_batch(&bytes[at..]).unwrap().len);
    }
    let (from, middle, end) = (ends[dropped], ends[dropped + second], *ends.last().unwrap());
    fs::remove_file(database.join("0.jnl")).unwrap();
    fs::write(database.join("1.jnl"), &bytes[from..middle]).unwrap();
    fs::write(database.join("2.jnl"), [&bytes[middle..end], &[0; 64]].concat()).unwrap();
}

/// A place for a directory that is made and thrown away ten thousands of times.
pub(super) fn scratch() -> tempfile::TempDir {
    match tempfile::tempdir_in("/dev/shm") {
        Ok(directory) => directory,
        Err(_) => tempfile::tempdir().unwrap(),
    }
}

pub(super) fn verify(root: &Path) -> Report {
    unlocked(|| Inspection::open(root)).unwrap().walk(&mut Nobody, &mut |_| {}).unwrap()
}

#[derive(Debug, PartialEq, Eq, Clone, Copy, PartialOrd, Ord)]
enum Outcome {
    /// Everything acknowledged is served, and `verify` finds nothing.
    Harmless,
    /// Everything acknowledged is served, and `verify` names the damage.
    Named,
    /// Documents are refused by name, and all others served.
    DocumentsDamaged,
    /// The directory is not opened.
    Refused,
    /// Nor is it, but only the database could tell, which had changed files by then.
    RefusedLate,
}

const OUTCOMES: usize = Outcome::RefusedLate as usize + 1;

/// How often what came of it, by the kind of the damaged file.
#[derive(Default)]
struct Counts {
    outcomes: BTreeMap<&'static str, [usize; OUTCOMES]>,
    repaired: usize,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        for (kind, counts) in &other.outcomes {
            let sums = self.outcomes.entry(kind).or_default();
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        self.repaired += other.repaired;
    }

    fn of(&self, outcome: Outcome) -> usize {
        self.outcomes.values().map(|counts| counts[outcome as usize]).sum()
    }

    /// A table for people.
    fn print(&self, damage: &str, took: Duration) {
        println!(
            "| {damage}: file | cases | equal | equal, and named | documents refused | start refused before the database opens | refused by the database |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|");
        for (kind, counts) in &self.outcomes {
            let [harmless, named, documents, refused, late] = counts;
            let all: usize = counts.iter().sum();
            println!("| {kind} | {all} | {harmless} | {named} | {documents} | {refused} | {late} |");
        }
        println!("{} of them repaired and compared; {:.0} s\n", self.repaired, took.as_secs_f64());
    }
}

fn kind_of(path: &Path) -> &'static str {
    let part = |name: &str| path.components().any(|part| part.as_os_str() == name);
    match path {
        _ if part("tables") => "table",
        _ if part("keyspaces") => "list of tables",
        _ if part("ledger") => "ledger",
        _ if part("snapshots") => "snapshot",
        _ if path.extension().is_some_and(|extension| extension == "jnl") => "journal",
        _ => "format and version",
    }
}

/// Opens a damaged directory and judges what it says; panics at a silent loss.
fn judge(root: &Path, made: &Made, case: &str) -> Outcome {
    let before = case.len().is_multiple_of(7).then(|| files(root));
    let report = verify(root);
    assert!(before.is_none_or(|before| before == files(root)), "{case}: verify changed something");
    let log = match unlocked(|| open(root)) {
        Ok(log) => log,
        Err(error) => {
            let is_named = ["storage_damaged", "storage_future_format"].contains(&error.code());
            assert!(is_named, "{case}: {error}");
            assert!(!report.whole, "{case}: refused, but verify says it is whole: {error}");
            let is_late = match &error {
                OpenError::Damaged(damage) => damage.after_open,
                _ => false,
            };
            return if is_late { Outcome::RefusedLate } else { Outcome::Refused };
        }
    };
    let mut damaged = 0;
    for name in made.names() {
        let (id, records) = (document(&name), made.records(&name));
        let reported = report.damaged_documents.iter().any(|damaged| damaged.document == name);
        match served(&log, &id, &records) {
            Ok(()) => {}
            Err(LogError::Damaged { document, .. }) if document == id => {
                damaged += 1;
                // Where a table's index is damaged, its records are whole, and yet the database cannot read them.
                let seen = reported || !report.damage.is_empty();
                assert!(seen, "{case}: {name} is damaged, but verify has not seen it:\n{report}");
            }
            Err(other) => panic!("{case}: {name}: {other}"),
        }
    }
    assert!(!report.whole || damaged == 0, "{case}");
    if damaged > 0 {
        assert!(damaged < made.names().len(), "{case}: damage of one table's block stops all documents");
        return Outcome::DocumentsDamaged;
    }
    if report.whole { Outcome::Harmless } else { Outcome::Named }
}

/// Everything that was acknowledged of a document, by all ways to ask; panics if it is less and nothing says so.
fn served(log: &FjallLog, id: &DocumentId, records: &[Record]) -> Result<(), LogError> {
    let document = recover(log.reader(), id)?;
    assert_eq!(document.committed().seq, records.len() as u64, "{id} is shorter, and nothing says so");
    assert_eq!(whole(log, id)?, records, "{id}");
    for record in records {
        let found = log.reader().find(id, FIRST_EPOCH, &record.hash)?;
        assert_eq!(found.map(|found| found.seq), Some(record.seq), "{id}");
    }
    Ok(())
}

/// Repairs a damaged directory: every document keeps a prefix, the undamaged ones all, and the result is whole.
fn repair_and_check(root: &Path, made: &Made, case: &str) {
    let to = root.with_extension("repaired");
    let repaired = unlocked(|| repair::repair(root, &to, unpack, &mut |_| {}))
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(verify(&to).whole, "{case}");
    let log = unlocked(|| open(&to)).unwrap();
    for name in made.names() {
        let records = made.records(&name);
        let kept = whole(&log, &document(&name)).unwrap();
        let damage = repaired.found.damaged_documents.iter().find(|damaged| damaged.document == name);
        let made_anew =
            kept.iter().zip(&records).filter(|(kept, record)| kept != record).map(|(kept, record)| {
                // Only who sent it when is not known any more.
                let expected = Record { time_ms: 0, pusher: std::sync::Arc::from(""), ..record.clone() };
                assert_eq!(*kept, expected, "{case}: {name}");
            });
        assert_eq!(made_anew.count() as u64, damage.map_or(0, |damage| damage.made_anew), "{case}: {name}");
        // As a server does when the document is opened.
        let end = recover(log.reader(), &document(&name)).unwrap().committed();
        assert_eq!(end.seq, kept.len() as u64, "{case}: {name}");
        if damage.is_none_or(|damage| !damage.lost_changes()) && repaired.found.commits.missing.is_empty() {
            assert_eq!(kept.len(), records.len(), "{case}: {name} lost changes, and nothing says so");
        }
        if let Some(damage) = damage {
            assert_eq!(damage.whole_through, kept.len() as u64, "{case}: {damage}");
        }
        assert!(!repaired.kept_all || kept.len() == records.len(), "{case}: {name}");
    }
    drop(log);
    fs::remove_dir_all(&to).unwrap();
}

/// Damages each file at each place that is due, and counts outcomes.
fn damage_everywhere(kind: &str, damage: impl Fn(&[u8], usize) -> Option<Vec<u8>> + Sync) -> Counts {
    let begun = Instant::now();
    let all = std::env::var_os(ALL).is_some();
    let made = &*MADE;
    let places: Vec<(usize, usize)> = made
        .files
        .iter()
        .enumerate()
        .flat_map(|(file, (_, bytes))| {
            // Small files are tried as densely as large ones: each has its own first place.
            let step = if all { 1 } else { SAMPLE.min(bytes.len() / 2).max(1) };
            let ends = [0, bytes.len().saturating_sub(1)];
            let mut places: Vec<usize> = (file % step..bytes.len()).step_by(step).chain(ends).collect();
            places.sort_unstable();
            places.dedup();
            places.into_iter().map(move |at| (file, at))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let scratch = scratch();
        let root = scratch.path().join("data");
        let (mut counts, mut untouched) = (Counts::default(), None);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(&(file, at)) = places.get(index) else { return counts };
            let (path, whole) = &made.files[file];
            let Some(bad) = damage(whole, at).filter(|bad| bad != whole) else { continue };
            let case = format!("{} at {at}", path.display());
            match untouched {
                Some(before) => made.rewrite(&root, before, file, &bad),
                None => made.write(&root, file, Some(&bad)),
            }
            if index.is_multiple_of(REPAIRED) {
                repair_and_check(&root, made, &case);
                counts.repaired += 1;
            }
            let outcome = judge(&root, made, &case);
            let is_refused = outcome == Outcome::Refused;
            assert!(!is_refused || made.is_as_written(&root, file, &bad), "{case}: refused, and changed");
            untouched = is_refused.then_some(file);
            counts.outcomes.entry(kind_of(path)).or_default()[outcome as usize] += 1;
        }
    };
    let mut counts = Counts::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| counts.add(&thread.join().unwrap()));
    });
    counts.print(kind, begun.elapsed());
    counts
}

#[test]
fn what_is_not_damaged_is_whole_and_served() {
    let scratch = scratch();
    let root = scratch.path().join("data");
    MADE.write(&root, usize::MAX, None);
    let report = verify(&root);
    assert!(report.whole, "{report}");
    let documents = MADE.names().len() as u64;
    let records: usize = MADE.acknowledged.iter().map(|append| append.records.len()).sum();
    assert_eq!((report.documents, report.records), (documents, records as u64));
    assert_eq!(judge(&root, &MADE, "nothing"), Outcome::Harmless);
    repair_and_check(&root, &MADE, "nothing");
}

#[test]
fn a_flipped_bit_anywhere_loses_nothing_in_silence() {
    let counts = damage_everywhere("one bit flipped", |whole, at| {
        let mut bad = whole.to_vec();
        *bad.get_mut(at)? ^= 1 << (at % 8);
        Some(bad)
    });
    assert!(counts.of(Outcome::DocumentsDamaged) > 0 && counts.of(Outcome::Refused) > 0);
}

#[test]
fn a_file_cut_anywhere_loses_nothing_in_silence() {
    let counts = damage_everywhere("cut here", |whole, at| Some(whole[..at].to_vec()));
    assert!(counts.of(Outcome::Refused) > 0);
}

#[test]
fn a_file_zeroed_from_anywhere_loses_nothing_in_silence() {
    let counts = damage_everywhere("zeroed from here", |whole, at| {
        let mut bad = whole.to_vec();
        bad[at..].fill(0);
        Some(bad)
    });
    assert!(counts.of(Outcome::Refused) > 0);
}

#[test]
fn garbage_anywhere_loses_nothing_in_silence() {
    // A disk's sector, or the rest of the file.
    let counts = damage_everywhere("garbled from here", |whole, at| {
        let mut bad = whole.to_vec();
        let end = if at % 2 == 0 { whole.len() } else { whole.len().min(at + 512) };
        for (index, byte) in bad.iter_mut().enumerate().take(end).skip(at) {
            *byte = (index.wrapping_mul(0x9e37_79b1) >> 11).to_le_bytes()[0];
        }
        Some(bad)
    });
    assert!(counts.of(Outcome::DocumentsDamaged) > 0 && counts.of(Outcome::Refused) > 0);
}

#[test]
fn a_missing_file_loses_nothing_in_silence() {
    let scratch = scratch();
    let root = scratch.path().join("data");
    for (index, (path, _)) in MADE.files.iter().enumerate() {
        MADE.write(&root, index, None);
        let case = format!("without {}", path.display());
        let outcome = judge(&root, &MADE, &case);
        println!("{case}: {outcome:?}");
    }
}
