use etherply_engine::ids::DocumentId;

use super::*;
use crate::materialise::squash::squash;
use crate::materialise::testing::{cut, document, history as edits, open as open_log, store};
use crate::storage::versions::Versions;
use crate::storage::{FjallLog, Listeners, Tombstones as _, spawn_committer};

fn open(log: &FjallLog) -> History {
    History::open(log.reader(), &document()).unwrap().unwrap()
}

#[test]
fn versions_are_shown_compared_and_restored_by_name_and_survive_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let (_, records) = edits(300);
    let mut log = store(folder.path(), &records);
    let versions = Versions::new(folder.path());
    let history = open(&log);
    let early = history.create_version(&versions, "early", &At::Position(40), 1).unwrap();
    let late = history.create_version(&versions, "late", &At::Position(200), 2).unwrap();
    assert_eq!((early.epoch, early.position, early.heads.len()), (1, 40, 1));
    assert_eq!(
        history.create_version(&versions, "beyond", &At::Position(301), 3).unwrap_err().code(),
        "history_no_such_position"
    );
    cut(&mut log, &records[249]).unwrap();
    let history = open(&log);
    for version in [&early, &late] {
        let shown = version_json(&versions, &document(), version).unwrap();
        assert_eq!(shown, history.json(&At::Position(version.position)).unwrap());
        assert_eq!(shown, history.json(&history.at_version(version).unwrap()).unwrap());
    }
    let (from, to) = (history.at_version(&early).unwrap(), history.at_version(&late).unwrap());
    assert_eq!(
        history.difference(&from, &to).unwrap(),
        history.difference(&At::Position(40), &At::Position(200)).unwrap()
    );
    let change = history.restoring_change(&from, &[9; 16], "", 0).unwrap();
    assert_eq!(change, history.restoring_change(&At::Position(40), &[9; 16], "", 0).unwrap());
}

#[test]
fn a_version_outlives_a_squash_and_goes_with_its_document() {
    let folder = tempfile::tempdir().unwrap();
    let (_, records) = edits(100);
    let log = store(folder.path(), &records);
    let versions = Versions::new(folder.path());
    let version = open(&log).create_version(&versions, "before", &At::Position(60), 1).unwrap();
    let (reader, stats) = (log.reader().clone(), std::sync::Arc::clone(log.stats()));
    let wanted = open(&log).json(&At::Position(60)).unwrap();
    let (committer, thread) = spawn_committer(log, stats, Listeners::default(), || {}).unwrap();
    squash(&reader, &committer, &document(), ([9; 16], 7)).unwrap().unwrap();
    drop((committer, reader));
    thread.join();
    let mut log = open_log(folder.path());
    let history = open(&log);
    assert_eq!(version_json(&versions, &document(), &version).unwrap(), wanted);
    assert_eq!(history.at_version(&version).unwrap_err().code(), "version_elsewhere");
    // Another document's versions stay.
    let other = DocumentId::new("boards/42").unwrap();
    let others = crate::storage::versions::Version { document: other.to_string(), ..version };
    versions.create(&other, others, b"x").unwrap();
    log.delete(&document()).unwrap();
    while log.tidy() {}
    assert_eq!((versions.list(&document()).unwrap().len(), versions.list(&other).unwrap().len()), (0, 1));
    assert!(log.reader().epoch(&document()).is_err());
}
