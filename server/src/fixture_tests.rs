//! Data directories of every released format, which every later server must open with the same contents.
//!
//! `server/fixtures/format-N.pack` holds a directory, `format-N.json` what is in it. They are never made again:
//! another format gets files of its own. A format's were made once, by the code that wrote it:
//! `cargo test -p etherply-server --lib -- --ignored fixture_tests::make`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use etherply_engine::document::recover;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, Deleted, Log as _, LogError, LogReader as _, Past};
use serde::{Deserialize, Serialize};

use crate::materialise::testing::{cut, history};
use crate::materialise::whole::WholeLog;
use crate::storage::cover::Cover;
use crate::storage::directory::FORMAT;
use crate::storage::epoch::{Epochs as _, Turn};
use crate::storage::inspect::Inspection;
use crate::storage::inspect::walk::Nobody;
use crate::storage::testing::{RealAuthor, document, files, unlocked};
use crate::storage::{self, FjallLog, Tombstones as _};

/// Largest fixture: they stay in the repository for good.
const FIXTURE_BYTES_MAX: usize = 60 * 1024;

/// What a directory holds.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Contents {
    documents: BTreeMap<String, Holds>,
    deleted: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Holds {
    epoch: u64,
    seq: u64,
    chain: String,
    heads: Vec<String>,
    /// Each change, whether a snapshot covers it or not.
    changes: Vec<String>,
    reset_epoch: u64,
    excluded: Vec<String>,
}

fn fixture(format: u32, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/format-{format}.{extension}"))
}

/// Files one behind the other: `u16 length of path | path | u64 bytes | u32 bytes without the zeroes at the end |
/// those`, because journals are allocated ahead.
fn pack(root: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, bytes) in files(root) {
        let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        out.extend_from_slice(&u16::try_from(path.len()).unwrap().to_le_bytes());
        out.extend_from_slice(path.as_bytes());
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(&u32::try_from(used).unwrap().to_le_bytes());
        out.extend_from_slice(&bytes[..used]);
    }
    out
}

fn unpack(mut packed: &[u8], root: &Path) {
    while !packed.is_empty() {
        let mut take = |bytes: usize| packed.split_off(..bytes).unwrap();
        let path_bytes = u16::from_le_bytes(take(2).try_into().unwrap());
        let path = root.join(std::str::from_utf8(take(path_bytes.into())).unwrap());
        let bytes = u64::from_le_bytes(take(8).try_into().unwrap());
        let used = u32::from_le_bytes(take(4).try_into().unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, take(used as usize)).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap();
    }
}

fn open(path: &Path) -> FjallLog {
    unlocked(|| storage::open(path)).unwrap()
}

fn contents(log: &FjallLog) -> Contents {
    let reader = log.reader();
    let mut contents = Contents { documents: BTreeMap::new(), deleted: Vec::new() };
    for entry in reader.documents("", None, 100).unwrap() {
        let name = entry.document.to_string();
        if entry.is_deleted() {
            contents.deleted.push(name);
            continue;
        }
        let recovered = recover(reader, &entry.document).unwrap();
        let end = recovered.committed();
        let mut whole = WholeLog::new(entry.document.clone(), end.epoch);
        let mut changes = Vec::new();
        while whole.seq() < end.seq {
            let records = whole.next(reader, end.seq, usize::MAX).unwrap();
            changes.extend(records.iter().map(|record| record.hash.to_string()));
        }
        let Past { reset_epoch, excluded } = reader.past(&entry.document).unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let holds = Holds {
            epoch: end.epoch,
            seq: end.seq,
            chain: hex(&end.chain),
            heads: recovered.heads().iter().map(|head| head.hash.to_string()).collect(),
            changes,
            reset_epoch,
            excluded: excluded.iter().map(|actor| hex(actor.as_bytes())).collect(),
        };
        contents.documents.insert(name, holds);
    }
    contents
}

#[test]
fn directories_of_every_format_open_with_the_same_contents() {
    for format in 1..=FORMAT {
        let root = tempfile::tempdir().unwrap();
        let packed = fs::read(fixture(format, "pack")).unwrap();
        assert!(packed.len() <= FIXTURE_BYTES_MAX);
        unpack(&packed, root.path());
        let expected: Contents = serde_json::from_slice(&fs::read(fixture(format, "json")).unwrap()).unwrap();
        assert!(expected.documents.len() >= 3 && expected.deleted.len() >= 2);

        let report =
            unlocked(|| Inspection::open(root.path())).unwrap().walk(&mut Nobody, &mut |_| {}).unwrap();
        assert!(report.whole, "{report}");
        let mut log = open(root.path());
        assert_eq!(contents(&log), expected, "format {format}");
        assert!(matches!(log.reader().epoch(&document("going")), Err(LogError::Deleted { .. })));
        // It goes on: what was under way is finished, and new changes are taken.
        while log.tidy() {}
        log.commit(&[RealAuthor::new().append("new", 2)]).unwrap();
        drop(log);
        let after = contents(&open(root.path()));
        assert_eq!(after.documents["new"].seq, 2);
        assert_eq!(after.deleted, expected.deleted);
        for (name, holds) in &expected.documents {
            assert_eq!(&after.documents[name], holds);
        }
    }
}

/// Taken by the first server that took backups, of the fixture of format 1.
#[test]
fn a_backup_of_the_first_version_is_restored_with_the_same_contents() {
    let root = tempfile::tempdir().unwrap();
    let (file, data) = (fixture(1, "").with_file_name("backup-1.bin"), root.path().join("data"));
    let taken = crate::backup::file::verify(&file, &mut |_| {}).unwrap();
    assert_eq!((taken.documents, taken.deleted, taken.versions), (3, 2, 0));
    assert_eq!(crate::backup::restore::restore(&file, &data, &mut |_, _| {}).unwrap(), taken);
    let text = fs::read(fixture(1, "json")).unwrap();
    let expected: Contents = serde_json::from_slice(&text).unwrap();
    let restored = contents(&open(&data));
    assert_eq!(restored.deleted, expected.deleted);
    for (name, expected) in expected.documents {
        let restored = &restored.documents[&name];
        assert_eq!((restored.epoch, restored.seq), (expected.epoch + 1, expected.seq), "{name}");
        assert_eq!(
            (&restored.heads, &restored.changes, &restored.excluded),
            (&expected.heads, &expected.changes, &expected.excluded),
            "{name}"
        );
    }
}

/// A directory with everything that the format has: tables, several journals, a snapshot with records that it
/// covers and others behind it, an epoch behind another, a deleted document and one that is being deleted.
#[test]
#[ignore = "makes the fixture of this code's format, once"]
fn make() {
    assert!(!fixture(FORMAT, "pack").exists(), "a format's fixture is never made again");
    let root = tempfile::tempdir().unwrap();
    let mut author = RealAuthor::new();
    let mut log = open(root.path());
    log.commit(&[author.append("plain", 3), author.append("gone", 2), author.append("anew", 2)]).unwrap();
    let (_, records) = history(60);
    let notes = DocumentId::new("notes").unwrap();
    log.commit(&[Append { document: notes.clone(), epoch: 1, records: records[..50].to_vec() }]).unwrap();
    cut(&mut log, &records[44]).unwrap();
    let reader = log.reader().clone();
    let mut cover = Cover::resume(&reader, &notes).unwrap().unwrap();
    while !cover.step(&reader, &mut log).unwrap() {}
    assert_eq!(log.delete(&document("gone")).unwrap(), Deleted::Now);
    while log.tidy() {}
    log.reader().keyspaces().flush_and_compact().unwrap();
    drop((log, reader));

    let mut log = open(root.path());
    log.commit(&[Append { document: notes, epoch: 1, records: records[50..].to_vec() }]).unwrap();
    let turned = RealAuthor::in_epoch(2).append("anew", 3);
    let excluded = vec![etherply_engine::change::ActorId::from_slice(&[9; 16]).unwrap()];
    let past = Past { reset_epoch: 2, excluded };
    log.turn(&Turn { document: document("anew"), from: (1, 2), append: turned, past }).unwrap();
    log.commit(&[author.append("going", 4)]).unwrap();
    assert_eq!(log.delete(&document("going")).unwrap(), Deleted::Now);
    log.commit(&[author.append("plain", 2)]).unwrap();
    let contents = contents(&log);
    drop(log);

    let packed = pack(root.path());
    assert!(packed.len() <= FIXTURE_BYTES_MAX, "{} bytes", packed.len());
    fs::write(fixture(FORMAT, "pack"), packed).unwrap();
    let mut text = serde_json::to_string_pretty(&contents).unwrap();
    text.push('\n');
    fs::write(fixture(FORMAT, "json"), text).unwrap();
}
