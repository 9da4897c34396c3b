//! Backups of real logs: whole, torn at every byte, flipped at every bit, and back as a data directory.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use automerge::transaction::Transactable as _;
use automerge::{ActorId, AutoCommit, ROOT};
use bytes::Bytes;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::{ActorId as EngineActor, ChangeHash};
use etherply_engine::document::recover;
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::{Append, Deleted, Log as _, LogError, LogReader as _, Past};
use etherply_engine::record::Record;

use super::file::{Source, backup, verify};
use super::format::{RECORDS_SECTION_BYTES, SECTION_BYTES_MAX};
use super::restore::{Step, restore};
use super::take::take;
use super::walk::{CheckOnly, walk};
use super::{BackupError, Summary};
use crate::storage::versions::{Version, Versions};
use crate::storage::{self, FjallLog, Tombstones as _};

/// A document that is written to, with the place where its log ends.
struct Written {
    id: DocumentId,
    epoch: u64,
    copy: AutoCommit,
    seq: u64,
    chain: ChainHash,
}

impl Written {
    fn new(name: &str, epoch: u64) -> Self {
        let id = DocumentId::new(name).unwrap();
        let chain = chain_start(&id, epoch);
        let copy = AutoCommit::new().with_actor(ActorId::from(name.as_bytes()));
        Self { id, epoch, copy, seq: 0, chain }
    }

    fn append(&mut self, changes: usize, value_bytes: usize) -> Append {
        let records = (0..changes).map(|_| {
            let value = "x".repeat(value_bytes);
            self.copy.put(ROOT, format!("k{}", self.seq), value).unwrap();
            self.copy.commit();
            let change = self.copy.get_last_local_change().unwrap();
            self.seq += 1;
            let hash = ChangeHash(change.hash().0);
            self.chain = chain_next(&self.chain, self.seq, &hash);
            Record {
                seq: self.seq,
                hash,
                chain: self.chain,
                max_op: change.max_op(),
                time_ms: 1_700_000_000_000 + self.seq,
                pusher: Arc::from(if self.seq.is_multiple_of(2) { "ada" } else { "" }),
                change: Bytes::copy_from_slice(change.raw_bytes()),
            }
        });
        let records = records.collect();
        Append { document: self.id.clone(), epoch: self.epoch, records }
    }

    fn heads(&mut self) -> Vec<ChangeHash> {
        self.copy.get_heads().into_iter().map(|head| ChangeHash(head.0)).collect()
    }
}

fn open(path: &Path) -> FjallLog {
    loop {
        // Tests beside this one start processes, and such a process has the lock from its fork to its exec.
        match storage::open(path) {
            Err(error) if error.code() == "storage_locked" => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// Three documents, one of them in a later epoch.
fn filled(log: &mut FjallLog) -> [Written; 3] {
    let mut written = [Written::new("a", 1), Written::new("a/b", 7), Written::new("ü", 1)];
    for round in 1..4 {
        let appends: Vec<Append> = written.iter_mut().map(|document| document.append(round, 20)).collect();
        log.commit(&appends).unwrap();
    }
    written
}

fn taken(log: &FjallLog) -> (Vec<u8>, Summary) {
    let mut bytes = Vec::new();
    let summary = take(log.reader(), &mut bytes, Path::new("b"), &mut |_, _| {}).unwrap();
    (bytes, summary)
}

fn checked(bytes: &[u8]) -> Result<Summary, BackupError> {
    walk(bytes, Path::new("b"), &mut CheckOnly, &mut |_| {})
}

fn assert_restored(data: &Path, written: &mut [Written]) {
    let log = open(data);
    for document in written {
        let restored = recover(log.reader(), &document.id).unwrap();
        let heads: Vec<ChangeHash> = restored.heads().iter().map(|head| head.hash).collect();
        assert_eq!(heads, document.heads(), "{}", document.id);
        assert_eq!(restored.committed().epoch, document.epoch + 1, "a new epoch");
        let records = log.reader().read(&document.id, document.epoch + 1, 0, u64::MAX, usize::MAX).unwrap();
        let pusher = |seq: u64| if seq.is_multiple_of(2) { "ada" } else { "" };
        for record in records {
            assert_eq!(
                (&*record.pusher, record.time_ms),
                (pusher(record.seq), 1_700_000_000_000 + record.seq)
            );
        }
    }
}

#[test]
fn a_backup_holds_one_commit_and_what_it_says() {
    let data = tempfile::tempdir().unwrap();
    let mut log = open(data.path());
    let (empty, summary) = taken(&log);
    assert_eq!((summary.commit, summary.documents), (0, 0));
    assert_eq!(checked(&empty).unwrap(), summary);

    let mut written = filled(&mut log);
    let pinned = log.reader().pinned();
    let (bytes, summary) = taken(&log);
    assert_eq!((summary.commit, summary.documents, summary.records, summary.damaged), (3, 3, 18, 0));
    assert_eq!(summary.bytes, bytes.len() as u64);
    assert_eq!(checked(&bytes).unwrap(), summary);
    // What comes later is not in it, also if the reader was made before.
    let more: Vec<Append> = written.iter_mut().map(|document| document.append(1, 5)).collect();
    log.commit(&more).unwrap();
    let mut again = Vec::new();
    let old = take(&pinned, &mut again, Path::new("b"), &mut |_, _| {}).unwrap();
    assert_eq!((old.commit, old.records), (3, 18));
    assert_eq!(taken(&log).1.records, 21);
}

#[test]
fn every_truncation_and_every_flipped_bit_of_a_backup_is_noticed() {
    let data = tempfile::tempdir().unwrap();
    let mut log = open(data.path());
    let appends = [Written::new("a", 1).append(2, 3), Written::new("b", 2).append(1, 3)];
    log.commit(&appends).unwrap();
    let (bytes, _) = taken(&log);
    for len in 0..bytes.len() {
        let error = checked(&bytes[..len]).unwrap_err();
        assert!(matches!(error, BackupError::Torn { .. } | BackupError::NotABackup { .. }), "{len}: {error}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(checked(&bad).is_err(), "bit {bit}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(checked(&longer).unwrap_err().to_string().contains("bytes stand behind its end"));
}

#[test]
fn sections_that_are_out_of_place_and_lengths_that_lie_are_refused_before_they_cost_memory() {
    let data = tempfile::tempdir().unwrap();
    let mut log = open(data.path());
    filled(&mut log);
    let (bytes, _) = taken(&log);
    // The sections, by their lengths.
    let mut at = super::format::MAGIC.len();
    let mut sections = Vec::new();
    while at < bytes.len() {
        let payload = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        sections.push(&bytes[at..at + 5 + payload + 8]);
        at += 5 + payload + 8;
    }
    let head = &bytes[..super::format::MAGIC.len()];
    for index in 0..sections.len() {
        let mut without = sections.clone();
        without.remove(index);
        assert!(checked(&[head, &without.concat()].concat()).is_err(), "without section {index}");
        let mut twice = sections.clone();
        twice.insert(index, sections[index]);
        assert!(checked(&[head, &twice.concat()].concat()).is_err(), "section {index} twice");
    }
    let longest = u32::try_from(SECTION_BYTES_MAX).unwrap();
    for (length, is_damaged) in
        [(longest - 1, false), (longest, false), (longest + 1, true), (u32::MAX, true)]
    {
        let lying = [head, &length.to_le_bytes(), &[2]].concat();
        let error = checked(&lying).unwrap_err();
        assert_eq!(matches!(error, BackupError::Damaged { .. }), is_damaged, "{length}: {error}");
    }
}

#[test]
fn a_backup_of_the_future_names_its_version() {
    let data = tempfile::tempdir().unwrap();
    let log = open(data.path());
    let (mut bytes, _) = taken(&log);
    let at = super::format::MAGIC.len();
    let payload = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    bytes[at + 5..at + 9].copy_from_slice(&3_u32.to_le_bytes());
    let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[at..at + 5 + payload], 0);
    bytes[at + 5 + payload..at + 13 + payload].copy_from_slice(&checksum.to_le_bytes());
    assert!(matches!(checked(&bytes), Err(BackupError::FutureVersion { found: 3, supported: 2, .. })));
}

#[test]
fn what_was_restored_has_the_same_heads_and_new_epochs() {
    let root = tempfile::tempdir().unwrap();
    let (data, file, new) = (root.path().join("data"), root.path().join("backup"), root.path().join("x/new"));
    let mut log = open(&data);
    let mut written = filled(&mut log);
    // More than one section, and more than one commit.
    for _ in 0..3 {
        let append = written[1].append(30, 60_000);
        log.commit(&[append]).unwrap();
    }
    drop(log);
    let taken = backup(Source::Data(&data), &file, &mut |_| {}).unwrap();
    assert_eq!(verify(&file, &mut |_| {}).unwrap(), taken);
    let mut steps = Vec::new();
    let restored = restore(&file, &new, &mut |step, _| steps.push(step)).unwrap();
    assert_eq!(restored, taken);
    assert!(steps.contains(&Step::Writing) && steps.contains(&Step::Comparing));
    assert_restored(&new, &mut written);
    assert!(!root.path().join("x/new.restoring").exists());

    // Nothing is written over; an empty directory may be there.
    let error = restore(&file, &new, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, BackupError::Exists { .. }), "{error}");
    let error = backup(Source::Data(&data), &file, &mut |_| {}).unwrap_err();
    assert!(matches!(error, BackupError::Exists { .. }), "{error}");
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    restore(&file, &empty, &mut |_, _| {}).unwrap();
    assert_restored(&empty, &mut written);
}

#[test]
fn a_backup_that_is_damaged_restores_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (file, new) = (root.path().join("backup"), root.path().join("new"));
    let mut log = open(&root.path().join("data"));
    filled(&mut log);
    let (mut bytes, _) = taken(&log);
    let last = bytes.len() - 100;
    bytes[last] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert!(matches!(restore(&file, &new, &mut |_, _| {}), Err(BackupError::Damaged { .. })));
    assert!(!new.exists() && !root.path().join("new.restoring").exists());
}

#[test]
fn a_damaged_document_is_taken_up_to_its_damage_and_named() {
    let root = tempfile::tempdir().unwrap();
    let (file, new) = (root.path().join("backup"), root.path().join("new"));
    let mut log = open(&root.path().join("data"));
    let mut written = filled(&mut log);
    let mut bad = Written::new("b", 1).append(5, 10);
    bad.records[2].chain = ChainHash([7; 32]);
    log.commit(&[bad]).unwrap();
    let (bytes, summary) = taken(&log);
    assert_eq!((summary.documents, summary.records, summary.damaged), (4, 18 + 2, 1));
    assert_eq!((&*summary.damaged_documents[0].document, summary.damaged_documents[0].seq), ("b", 3));
    fs::write(&file, bytes).unwrap();
    assert_eq!(verify(&file, &mut |_| {}).unwrap(), summary);
    assert_eq!(restore(&file, &new, &mut |_, _| {}).unwrap(), summary);
    assert_restored(&new, &mut written);
    let restored = recover(open(&new).reader(), &DocumentId::new("b").unwrap()).unwrap();
    assert_eq!(restored.committed().seq, 2);
}

#[test]
fn a_document_of_which_nothing_but_its_name_is_known_ends_no_backup() {
    let root = tempfile::tempdir().unwrap();
    let (file, new) = (root.path().join("backup"), root.path().join("new"));
    let mut log = open(&root.path().join("data"));
    let mut written = filled(&mut log);
    log.commit(&[Written::new("b", 1).append(5, 10)]).unwrap();
    storage::testing::spoil_head(&mut log, "b");
    log.commit(&[written[2].append(1, 10)]).unwrap();
    let (bytes, summary) = taken(&log);
    assert_eq!((summary.documents, summary.records, summary.damaged), (4, 19, 1));
    assert_eq!((&*summary.damaged_documents[0].document, summary.damaged_documents[0].seq), ("b", 0));
    fs::write(&file, bytes).unwrap();
    assert_eq!(restore(&file, &new, &mut |_, _| {}).unwrap(), summary);
    assert_restored(&new, &mut written);
    // It is there, and whoever has a copy brings it.
    let restored = recover(open(&new).reader(), &DocumentId::new("b").unwrap()).unwrap();
    assert_eq!(restored.committed().seq, 0);
}

#[test]
fn tombstones_and_what_earlier_epochs_left_behind_come_back() {
    let root = tempfile::tempdir().unwrap();
    let (data, file, new) = (root.path().join("data"), root.path().join("backup"), root.path().join("new"));
    let mut log = open(&data);
    let mut written = filled(&mut log);
    let id = |name: &str| DocumentId::new(name).unwrap();
    log.commit(&[Written::new("gone", 1).append(3, 5)]).unwrap();
    assert_eq!(log.delete(&id("gone")).unwrap(), Deleted::Now);
    let excluded =
        vec![EngineActor::from_slice(&[9; 16]).unwrap(), EngineActor::from_slice(&[8; 3]).unwrap()];
    let past = Past { reset_epoch: 5, excluded };
    log.restore_past(&written[1].id, 7, &past).unwrap();
    // A document that began anew and has no changes since.
    log.restore_past(&id("empty"), 4, &past).unwrap();
    drop(log);
    let taken = backup(Source::Data(&data), &file, &mut |_| {}).unwrap();
    assert_eq!((taken.documents, taken.deleted, taken.records), (4, 1, 18));
    assert_eq!(restore(&file, &new, &mut |_, _| {}).unwrap(), taken);
    assert_restored(&new, &mut written);
    let log = open(&new);
    let reader = log.reader();
    assert!(matches!(reader.epoch(&id("gone")), Err(LogError::Deleted { .. })));
    assert_eq!(reader.past(&written[1].id).unwrap(), past);
    assert_eq!(reader.past(&written[0].id).unwrap(), Past::default());
    assert_eq!((reader.past(&id("empty")).unwrap(), reader.epoch(&id("empty")).unwrap()), (past, Some(5)));
}

#[test]
fn named_versions_come_back_and_damaged_ones_are_named() {
    let root = tempfile::tempdir().unwrap();
    let (data, file, new) = (root.path().join("data"), root.path().join("backup"), root.path().join("new"));
    let mut log = open(&data);
    let mut written = filled(&mut log);
    let id = written[1].id.clone();
    let version = |name: &str| Version {
        document: id.to_string(),
        name: name.to_owned(),
        epoch: 3,
        position: 9,
        heads: vec!["ab".repeat(32)],
        time_ms: 1_700_000_000_000,
        bytes: 0,
        checksum: String::new(),
    };
    let versions = log.reader().snapshots().versions();
    // More than one section, and one byte.
    let files = [vec![7; 2 * RECORDS_SECTION_BYTES + 1], vec![8]];
    for (name, automerge) in ["first / ü", "second"].into_iter().zip(&files) {
        versions.create(&id, version(name), automerge).unwrap();
    }
    let (bytes, summary) = taken(&log);
    assert_eq!((summary.versions, summary.damaged, summary.documents), (2, 0, 3));
    fs::write(&file, &bytes).unwrap();
    assert_eq!(verify(&file, &mut |_| {}).unwrap(), summary);
    assert_eq!(restore(&file, &new, &mut |_, _| {}).unwrap(), summary);
    assert_restored(&new, &mut written);
    let restored = Versions::new(&new);
    assert_eq!(restored.list(&id).unwrap(), versions.list(&id).unwrap());
    for (version, automerge) in restored.list(&id).unwrap().iter().zip(&files) {
        assert_eq!(restored.read(&id, version).unwrap(), *automerge);
    }
    // Torn in a version's sections, or anywhere else.
    for len in (0..bytes.len()).step_by(RECORDS_SECTION_BYTES / 7) {
        assert!(checked(&bytes[..len]).is_err(), "{len}");
    }

    let folder = fs::read_dir(data.join("versions")).unwrap().next().unwrap().unwrap().path();
    let damaged = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let damaged =
        damaged.into_iter().find(|path| fs::read(path).is_ok_and(|bytes| bytes == files[1])).unwrap();
    fs::write(damaged, [9]).unwrap();
    let (bytes, summary) = taken(&log);
    assert_eq!((summary.versions, summary.damaged, summary.records), (1, 1, 18));
    let named = &summary.damaged_documents[0];
    assert_eq!((&*named.document, named.seq), (id.as_str(), 7));
    assert!(named.what.contains("version"), "{}", named.what);
    assert_eq!(checked(&bytes).unwrap(), summary);
}

#[test]
fn what_an_interrupted_restore_left_does_not_stand_in_the_way() {
    let root = tempfile::tempdir().unwrap();
    let (file, new) = (root.path().join("backup"), root.path().join("new"));
    let mut log = open(&root.path().join("data"));
    let mut written = filled(&mut log);
    fs::write(&file, taken(&log).0).unwrap();
    drop(open(&root.path().join("new.restoring")));
    restore(&file, &new, &mut |_, _| {}).unwrap();
    assert_restored(&new, &mut written);
}

#[test]
fn only_its_owner_may_read_a_backup() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    drop(open(&data));
    let file = root.path().join("backup");
    backup(Source::Data(&data), &file, &mut |_| {}).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}
