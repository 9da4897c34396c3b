//! Damage to every byte: the result is a refusal, or everything that was acknowledged is there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use etherply_engine::log::{Append, FIRST_EPOCH, Log, LogReader};

use super::super::open;
use super::super::testing::{Author, document, files};
use super::*;

const COMMITS: u64 = 30;
/// Zeroes behind the journal's last batch, as where the database allocated the file ahead.
const ZEROES: usize = 512;
/// Set it to flip every bit instead of one of each byte, and to open for real at many more places.
const ALL: &str = "ETHERPLY_TEST_ALL";

fn all() -> bool {
    std::env::var_os(ALL).is_some()
}

/// One of how many damaged directories is opened for real although the scan refuses it.
fn opened_each(sampled: usize) -> usize {
    if all() { 101 } else { sampled }
}

/// A data directory with some commits, closed cleanly, and what it was told.
struct Sample {
    root: tempfile::TempDir,
    made: &'static Made,
    journal: PathBuf,
    ledger: PathBuf,
}

/// What all samples are copies of: making one takes many syncs.
struct Made {
    id: DirectoryId,
    ledger_end: Mark,
    files: Vec<(PathBuf, Vec<u8>)>,
    used: usize,
    /// Where each commit's batch ends.
    ends: Vec<usize>,
    commits: Vec<Vec<Append>>,
}

const JOURNAL: &str = "fjall/0.jnl";
const LEDGER: &str = "ledger/0000000002.ledger";

impl Made {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut author = Author::default();
        let mut log = open(root.path()).unwrap();
        let mut commits = Vec::new();
        for commit in 0..COMMITS {
            let mut appends = vec![author.append(&format!("doc/{}", commit % 3), 1)];
            if commit % 4 == 0 {
                appends.push(author.append("shared", 2));
            }
            log.commit(&appends).unwrap();
            commits.push(appends);
        }
        drop(log);
        let path = root.path().join(JOURNAL);
        let mut bytes = fs::read(&path).unwrap();
        let mut ends = Vec::new();
        let mut used = 0;
        while bytes.get(used).is_some_and(|&byte| byte != 0) {
            used += journal::parse_batch(&bytes[used..]).unwrap().len;
            ends.push(used);
        }
        assert_eq!(ends.len() as u64, COMMITS);
        bytes.resize(used + ZEROES, 0);
        fs::write(&path, &bytes).unwrap();
        let directory = DataDirectory::open(root.path(), |_| panic!("the directory is complete")).unwrap();
        let ledger_end = ledger::scan(&directory.ledger_path(), directory.id()).unwrap().last;
        let relative = |path: PathBuf| path.strip_prefix(root.path()).unwrap().to_owned();
        let files = files(root.path()).into_iter().map(|(path, bytes)| (relative(path), bytes)).collect();
        Self { id: directory.id(), ledger_end, files, used, ends, commits }
    }
}

impl std::ops::Deref for Sample {
    type Target = Made;
    fn deref(&self) -> &Made {
        self.made
    }
}

impl Sample {
    fn new() -> Self {
        static MADE: LazyLock<Made> = LazyLock::new(Made::new);
        Self::of(&MADE)
    }

    fn of(made: &'static Made) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (journal, ledger) = (root.path().join(JOURNAL), root.path().join(LEDGER));
        let sample = Self { root, made, journal, ledger };
        sample.restore();
        for folder in 0..=4 {
            let tables = sample.root.path().join(format!("fjall/keyspaces/{folder}/tables"));
            fs::create_dir_all(tables).unwrap();
        }
        sample
    }

    /// What the scan says of these bytes as the only journal.
    fn judge(&self, journal: &[u8]) -> Result<bool, Damage> {
        let mut walk = Walk::new(self.id, self.ledger_end);
        let walked = walk.journal(&self.journal, journal, true);
        match walked.and_then(|(_, torn)| walk.finish(&self.journal, || false).map(|()| torn)) {
            Ok(torn) => Ok(torn),
            Err(OpenError::Damaged(damage)) => Err(*damage),
            Err(other) => panic!("{other}"),
        }
    }

    fn bytes(&self, path: &Path) -> Vec<u8> {
        let (_, bytes) = self.files.iter().find(|(file, _)| self.root.path().join(file) == path).unwrap();
        bytes.clone()
    }

    /// Puts everything back after an open that succeeded.
    fn restore(&self) {
        let root = self.root.path();
        for (path, _) in files(root) {
            if !self.files.iter().any(|(file, _)| root.join(file) == path) {
                fs::remove_file(path).unwrap();
            }
        }
        for (path, bytes) in &self.files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    fn scan(&self) -> Result<Scan, OpenError> {
        scan(&DataDirectory::open(self.root.path(), |_| panic!("the directory is complete"))?)
    }

    /// Opens for real: refused with every file as it was, or whole up to a commit not before `acknowledged`.
    /// Says which.
    fn open_and_check(&self, acknowledged: u64) -> Option<u64> {
        let before = files(self.root.path());
        let mut log = match open(self.root.path()) {
            Ok(log) => log,
            Err(error) => {
                let OpenError::Damaged(damage) = &error else { panic!("{error}") };
                assert!(!damage.after_open, "{error}");
                assert_eq!(files(self.root.path()), before, "{error}");
                return None;
            }
        };
        let found = self.commits_found(&log);
        assert!(found >= acknowledged, "{found} of {acknowledged}");
        // What was found can be continued, and opens again.
        let mut author = Author::default();
        log.commit(&[author.append("new", 1)]).unwrap();
        drop(log);
        let log = open(self.root.path()).unwrap();
        assert_eq!(self.commits_found(&log), found);
        assert!(log.reader().epoch(&document("new")).unwrap().is_some());
        Some(found)
    }

    /// How many commits are there; panics if it is not a prefix.
    fn commits_found(&self, log: &super::super::FjallLog) -> u64 {
        let found = |append: &Append| {
            append.records.iter().all(|record| {
                let read =
                    log.reader().read(&append.document, FIRST_EPOCH, record.seq - 1, record.seq, 1).unwrap();
                let found = log.reader().find(&append.document, FIRST_EPOCH, &record.hash).unwrap();
                assert_eq!(read.is_empty(), found.is_none());
                read.first() == Some(record)
            })
        };
        let whole: Vec<bool> = self.commits.iter().map(|appends| appends.iter().all(found)).collect();
        let count = whole.iter().take_while(|whole| **whole).count();
        assert!(whole[count..].iter().all(|whole| !whole), "not a prefix: {whole:?}");
        count as u64
    }

    /// The ledger as it was after `commits` commits.
    fn cut_ledger(&self, commits: u64) {
        let whole = self.bytes(&self.ledger);
        fs::write(&self.ledger, &whole[..64 + 32 * usize::try_from(commits).unwrap()]).unwrap();
    }

    /// Commits whose batches are whole in the journal's first `len` bytes.
    fn commits_within(&self, len: usize) -> u64 {
        self.ends.iter().filter(|end| **end <= len).count() as u64
    }
}

#[test]
fn a_clean_directory_scans_and_opens() {
    let sample = Sample::new();
    let scan = sample.scan().unwrap();
    assert_eq!(scan.last.map(|row| row.commit), Some(COMMITS));
    assert_eq!(scan.ledger.last.commit, COMMITS);
    assert_eq!(scan.unsettled, []);
    assert_eq!(sample.open_and_check(COMMITS), Some(COMMITS));
}

#[test]
fn a_flipped_bit_anywhere_in_the_journal_is_refused_or_harmless() {
    let sample = Sample::new();
    let whole = sample.bytes(&sample.journal);
    let mut bad = whole.clone();
    let mut accepted = 0;
    for at in 0..whole.len() {
        let bits = if all() { 0..8 } else { at % 8..at % 8 + 1 };
        for bit in bits {
            bad[at] ^= 1 << bit;
            let judged = sample.judge(&bad);
            accepted += usize::from(judged.is_ok());
            if let Err(damage) = &judged {
                // A sequence number that went up is noticed by the batch behind it.
                let batch_end = sample.ends.iter().copied().find(|end| at < *end).unwrap();
                assert!(damage.offset.is_some_and(|offset| offset <= batch_end as u64), "byte {at}");
            }
            // Opening takes long: whatever is accepted, but of the zeroes only the first few and the last,
            // and some of what is refused.
            let zero = (sample.used + 4..whole.len() - 1).contains(&at);
            if (judged.is_ok() && (!zero || all())) || at.is_multiple_of(opened_each(2503)) {
                fs::write(&sample.journal, &bad).unwrap();
                let expected = judged.is_ok().then_some(COMMITS);
                assert_eq!(sample.open_and_check(COMMITS), expected, "byte {at}");
                sample.restore();
            }
            bad[at] ^= 1 << bit;
        }
    }
    // The zeroes, and the last batch's sequence number, which may go up a little and changes nothing.
    let zeroes = if all() { 8 * ZEROES } else { ZEROES };
    assert!(accepted >= zeroes && accepted <= zeroes + 21, "{accepted}");
}

#[test]
fn a_journal_cut_zeroed_or_overwritten_below_the_ledger_is_refused() {
    let sample = Sample::new();
    let whole = sample.bytes(&sample.journal);
    let (mut zeroed, mut overwritten) = (whole.clone(), whole.clone());
    for at in (0..whole.len()).rev() {
        zeroed[at] = 0;
        overwritten[at] = (at.wrapping_mul(0x9e37_79b1) >> 7).to_le_bytes()[0] | 1;
        for (kind, bytes) in [("cut", &whole[..at]), ("zeroed", &zeroed), ("overwritten", &overwritten)] {
            let judged = sample.judge(bytes);
            let intact = at >= sample.used;
            match &judged {
                Ok(torn) => assert!(intact && *torn == (kind == "overwritten"), "{kind} at {at}"),
                Err(damage) => {
                    let first = sample.commits_within(at) + 1;
                    assert!(!intact, "{kind} at {at}: {damage}");
                    assert_eq!(damage.lost, Some(first..=COMMITS), "{kind} at {at}: {damage}");
                }
            }
            if at == sample.used || at.is_multiple_of(opened_each(5003)) {
                fs::write(&sample.journal, bytes).unwrap();
                assert_eq!(
                    sample.open_and_check(COMMITS),
                    judged.is_ok().then_some(COMMITS),
                    "{kind} at {at}"
                );
                sample.restore();
            }
        }
    }
}

#[test]
fn behind_the_ledger_one_interrupted_batch_may_be_missing() {
    // As after a power loss: the ledger lags, and the journal's last batch is anything.
    let sample = Sample::new();
    let whole = sample.bytes(&sample.journal);
    for acknowledged in [COMMITS - 1, COMMITS - 4, 0] {
        let step = if all() { 13 } else { 61 };
        let near_ends = sample.ends.iter().flat_map(|end| [end - 1, *end, end + 1]);
        let mut cuts: Vec<usize> = (0..=sample.used).step_by(step).chain(near_ends).collect();
        cuts.retain(|at| all() || *at + 1500 > sample.used || at % 11 == 0);
        for at in cuts.into_iter().filter(|at| *at <= sample.used) {
            sample.cut_ledger(acknowledged);
            fs::write(&sample.journal, &whole[..at]).unwrap();
            let there = sample.commits_within(at);
            let expected = (there >= acknowledged).then_some(there);
            assert_eq!(sample.open_and_check(acknowledged), expected, "cut at {at}");
            sample.restore();
        }
    }
}

#[test]
fn damage_with_a_later_commit_behind_it_is_refused_even_if_the_ledger_lags() {
    let sample = Sample::new();
    let mut bad = sample.bytes(&sample.journal);
    let before_last = sample.ends[sample.ends.len() - 2];
    for at in 0..before_last {
        bad[at] ^= 1 << (at % 8);
        let mut walk = Walk::new(sample.id, Mark::default());
        let Err(OpenError::Damaged(damage)) = walk.journal(&sample.journal, &bad, true) else {
            panic!("byte {at} is not noticed");
        };
        assert_eq!(damage.lost.map(|lost| *lost.end()), Some(COMMITS), "byte {at}");
        bad[at] ^= 1 << (at % 8);
    }
    // Damage to the last batch of all cannot be told from an interrupted one. Nothing else is lost by it.
    sample.cut_ledger(COMMITS - 5);
    bad[before_last + 80] ^= 1;
    fs::write(&sample.journal, &bad).unwrap();
    assert_eq!(sample.open_and_check(COMMITS - 5), Some(COMMITS - 1));
    assert_eq!(fs::read(sample.root.path().join("replaced.jnl")).unwrap(), bad);
}

#[test]
fn a_missing_batch_is_refused_wherever_it_was() {
    let sample = Sample::new();
    let whole = sample.bytes(&sample.journal);
    let mut start = 0;
    for (index, end) in sample.ends.iter().enumerate() {
        let without = [&whole[..start], &whole[*end..]].concat();
        fs::write(&sample.journal, &without).unwrap();
        let error = sample.scan().unwrap_err();
        assert_eq!(error.code(), "storage_damaged", "{index}");
        let twice = [&whole[..*end], &whole[start..]].concat();
        fs::write(&sample.journal, &twice).unwrap();
        assert_eq!(sample.scan().unwrap_err().code(), "storage_damaged", "{index}");
        start = *end;
    }
}

#[test]
fn a_report_names_the_file_the_place_the_commits_and_the_documents() {
    let sample = Sample::new();
    let at = sample.ends[9] + 80;
    let file = File::options().write(true).open(&sample.journal).unwrap();
    file.write_all_at(&[0xee], at as u64).unwrap();
    let error = open(sample.root.path()).unwrap_err();
    let expected = format!(
        "{}: the data directory is damaged at byte {}: a batch's checksum does not match its bytes; not \
         whole: commits 11 to 30; documents concerned, as far as they can be read: ",
        sample.journal.display(),
        sample.ends[9]
    );
    let text = error.to_string();
    let rest = text.strip_prefix(&expected).unwrap_or_else(|| panic!("{text}"));
    assert!(rest.contains("doc/2") && rest.contains("shared"), "{rest}");
    assert!(rest.contains("; nothing was changed: keep a copy of the directory; "), "{rest}");
    assert!(rest.ends_with("or keep what is whole with `etherply repair --data DIR --to NEW`"), "{rest}");
}

#[test]
fn a_damaged_or_missing_ledger_is_refused_or_harmless() {
    let sample = Sample::new();
    let whole = sample.bytes(&sample.ledger);
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&sample.ledger, &bad).unwrap();
        let last_entry = at >= whole.len() - 32;
        assert_eq!(sample.scan().is_ok(), last_entry, "byte {at}");
        if at % 97 == 0 || at + 1 == whole.len() {
            assert_eq!(sample.open_and_check(COMMITS), last_entry.then_some(COMMITS), "byte {at}");
            sample.restore();
        }
    }
    // The first file alone says nothing was committed, so the end of the journal is unknown, but all of it
    // is there.
    fs::remove_file(&sample.ledger).unwrap();
    assert_eq!(sample.open_and_check(COMMITS), Some(COMMITS));
    sample.restore();
    fs::remove_dir_all(sample.ledger.parent().unwrap()).unwrap();
    assert_eq!(sample.open_and_check(COMMITS), None);
}

#[test]
fn a_ledger_and_a_journal_of_different_histories_are_refused() {
    let sample = Sample::new();
    let other = Sample::of(Box::leak(Box::new(Made::new())));
    fs::write(&sample.ledger, other.bytes(&other.ledger)).unwrap();
    assert_eq!(sample.open_and_check(COMMITS), None);
    sample.restore();
    fs::write(&sample.journal, other.bytes(&other.journal)).unwrap();
    assert_eq!(sample.open_and_check(COMMITS), None);
}

#[test]
fn files_of_the_database_that_it_would_act_on_are_checked_first() {
    let sample = Sample::new();
    let database = sample.root.path().join("fjall");
    for (path, bytes) in &sample.files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let path = sample.root.path().join(path);
        let is_manifest = name == "current" || name == "version" || name.starts_with('v');
        if !path.starts_with(&database) || !is_manifest {
            continue;
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&path, &bad).unwrap();
            assert_eq!(sample.scan().unwrap_err().code(), "storage_damaged", "{}", path.display());
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(sample.open_and_check(COMMITS), None, "{}", path.display());
        fs::write(&path, bytes).unwrap();
    }
    // fjall would remove a folder that it does not know.
    fs::create_dir(database.join("keyspaces/7")).unwrap();
    fs::write(database.join("keyspaces/7/tables"), "somebody's").unwrap();
    assert_eq!(sample.open_and_check(COMMITS), None);
    fs::remove_dir_all(database.join("keyspaces/7")).unwrap();
    fs::remove_file(&sample.journal).unwrap();
    assert_eq!(sample.open_and_check(COMMITS), None);
    fs::remove_dir_all(&database).unwrap();
    let error = sample.scan().unwrap_err();
    assert_eq!(error.code(), "storage_damaged", "{error}");
}

#[test]
fn a_missing_journal_is_refused() {
    let sample = Sample::new();
    let whole = sample.bytes(&sample.journal);
    let journal = |number: u32| sample.journal.with_file_name(format!("{number}.jnl"));
    let (first, second) = whole[..sample.used].split_at(sample.ends[9]);
    let second = [second, &[0; 100]].concat();
    fs::write(journal(0), first).unwrap();
    fs::write(journal(1), &second).unwrap();
    assert_eq!(sample.open_and_check(COMMITS), Some(COMMITS), "two journals are as good as one");
    sample.restore();
    // A gap in the numbers.
    fs::write(journal(0), first).unwrap();
    fs::write(journal(2), &second).unwrap();
    assert_eq!(sample.open_and_check(COMMITS), None);
    // The newest is missing.
    fs::remove_file(journal(2)).unwrap();
    assert_eq!(sample.open_and_check(COMMITS), None);
    // A closed journal with rubble at its end.
    fs::write(journal(0), [first, b"rubble"].concat()).unwrap();
    fs::write(journal(1), &second).unwrap();
    assert_eq!(sample.open_and_check(COMMITS), None);
    // The oldest is missing, and no tables hold what it held.
    fs::remove_file(journal(0)).unwrap();
    assert_eq!(sample.open_and_check(COMMITS), None);
    // There are tables, but they do not go that far: only the database can tell.
    let tables = |id: u64| sample.root.path().join(format!("fjall/keyspaces/{id}/tables/0"));
    (1..=4).for_each(|id| fs::write(tables(id), "a table that no list names").unwrap());
    let error = open(sample.root.path()).unwrap_err();
    let OpenError::Damaged(damage) = &error else { panic!("{error}") };
    assert_eq!((damage.after_open, damage.lost.clone()), (true, Some(1..=10)), "{error}");
}
