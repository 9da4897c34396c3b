use super::super::testing::{document, history};
use super::*;
use crate::commands::Done;
use crate::commands::quarantine::{QuarantineCommand, QuarantineExportArgs, QuarantineListArgs, answer};

/// As many exclusions, each of one change. Bytes of all descriptions, and of all changes.
fn exclude(quarantine: &Quarantine, times: usize) -> [u64; 2] {
    let (_, records) = history(times as u64);
    for (epoch, record) in (1..).zip(&records) {
        let why = vec!["it panicked".to_owned()];
        let mut excluding = quarantine.begin(&document(), (epoch, epoch + 1), 1_000 + epoch, why).unwrap();
        excluding.add(record, true).unwrap();
        assert_eq!(excluding.finish().unwrap().changes_count, 1);
    }
    let files = quarantine.files().unwrap();
    assert_eq!(files.len(), times);
    [0, 1].map(|kind| files.iter().map(|files| files.bytes[kind]).sum())
}

/// Descriptions that are there, and changes that are, by their epochs.
fn left(quarantine: &Quarantine) -> (Vec<u64>, Vec<u64>) {
    let all = quarantine.list().unwrap().exclusions;
    let epochs = all.iter().map(|(_, exclusion)| exclusion.epoch).collect();
    let with_changes = all.iter().filter(|(changes, _)| changes.exists());
    (epochs, with_changes.map(|(_, exclusion)| exclusion.epoch).collect())
}

#[test]
fn the_oldest_changes_go_first_and_their_descriptions_stay() {
    let folder = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::new(folder.path());
    let all: u64 = exclude(&quarantine, 3).iter().sum();
    for (bytes_max, gone, with_changes) in
        [(all + 1, 0, vec![1, 2, 3]), (all, 0, vec![1, 2, 3]), (all - 1, 1, vec![2, 3])]
    {
        assert_eq!(quarantine.trim(bytes_max, 3).unwrap(), gone, "{bytes_max}");
        assert_eq!(left(&quarantine), (vec![1, 2, 3], with_changes));
    }
    // What is left can be exported.
    let out = folder.path().join("out");
    let (data, document) = (folder.path().to_owned(), None);
    let export = QuarantineCommand::Export(QuarantineExportArgs { data, document, out: out.clone() });
    assert!(matches!(answer(&export, &mut Vec::new()).unwrap(), Done::Whole));
    let exported = |name: &str| out.join(name).exists();
    assert!(exported("00000000.json") && !exported("00000000.automerge"));
    assert!(exported("00000002.json") && exported("00000002.automerge"));
}

#[test]
fn descriptions_go_when_they_are_too_many_or_too_large_but_for_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::new(folder.path());
    let [descriptions, _] = exclude(&quarantine, 4);
    for (descriptions_max, gone) in [(5, 0), (4, 0), (3, 2)] {
        assert_eq!(quarantine.trim(u64::MAX, descriptions_max).unwrap(), gone, "{descriptions_max}");
    }
    assert_eq!(left(&quarantine), (vec![2, 3, 4], vec![2, 3, 4]));
    assert_eq!(quarantine.trim(descriptions / 4 * 2 + 1, 3).unwrap(), 4, "all changes, one description");
    assert_eq!(left(&quarantine), (vec![3, 4], vec![]));
    quarantine.trim(0, 3).unwrap();
    assert_eq!(left(&quarantine).0, [4]);
}

#[test]
fn a_description_that_cannot_be_read_is_named_and_the_others_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::new(folder.path());
    exclude(&quarantine, 3);
    let broken = quarantine.files().unwrap()[1].description.clone();
    fs::write(&broken, "{").unwrap();
    assert_eq!(left(&quarantine).0.len(), 2);
    let list = QuarantineCommand::List(QuarantineListArgs { data: folder.path().to_owned(), json: true });
    let mut told = Vec::new();
    let Done::Damaged(message) = answer(&list, &mut told).unwrap() else {
        panic!("it says that all is well")
    };
    assert!(message.contains(broken.to_str().unwrap()), "{message}");
    assert_eq!(serde_json::from_slice::<Vec<Exclusion>>(&told).unwrap().len(), 2);
}
