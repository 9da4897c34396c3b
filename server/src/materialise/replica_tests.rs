use automerge::{Automerge, ReadDoc};
use bytes::Bytes;
use etherply_engine::log::FIRST_EPOCH;

use super::replica::{Opening, OpeningError, Replica};
use super::testing::{cut, document, history, store};
use crate::storage::{self, FjallLog};

fn open(log: &FjallLog, mut opening: Opening) -> (Result<Replica, OpeningError>, usize) {
    for steps in 1..10_000 {
        match opening.step(log.reader()) {
            Ok(None) => {}
            Ok(Some(replica)) => return (Ok(replica), steps),
            Err(error) => return (Err(error), steps),
        }
    }
    panic!("it does not end");
}

#[test]
fn a_replica_is_what_the_log_says() {
    let directory = tempfile::tempdir().unwrap();
    let (automerge, records) = history(5_000);
    let log = store(directory.path(), &records);
    let (replica, steps) = open(&log, Opening::new(document()));
    let replica = replica.unwrap();
    assert!(steps > 3, "{steps} steps: a long log is read in pieces");
    assert_eq!(replica.heads(), automerge.get_heads());
    assert_eq!((replica.cursor().seq, replica.cursor().chain), (5_000, records[4_999].chain.0));
    let loaded = Automerge::load(&replica.save_verified().unwrap()).unwrap();
    assert_eq!(loaded.hydrate(None), automerge.hydrate(None));
    let (half, _) = open(&log, Opening::through(document(), 2_500));
    assert_eq!(half.unwrap().automerge().stats().num_changes, 2_500);
}

#[test]
fn a_document_that_nobody_wrote_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let log = storage::open(directory.path()).unwrap();
    let replica = open(&log, Opening::new(document())).0.unwrap();
    assert!(replica.automerge().is_empty());
    assert_eq!((replica.cursor().epoch, replica.cursor().seq), (FIRST_EPOCH, 0));
}

#[test]
fn a_snapshot_saves_reading_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (automerge, records) = history(5_000);
    let mut log = store(directory.path(), &records);
    cut(&mut log, &records[3_999]).unwrap();
    let replica = open(&log, Opening::new(document())).0.unwrap();
    assert_eq!(replica.heads(), automerge.get_heads());
    assert_eq!(replica.cursor().seq, 5_000);
    // One that lies beyond what is wanted is of no use.
    let replica = open(&log, Opening::through(document(), 3_000)).0.unwrap();
    assert_eq!(replica.automerge().stats().num_changes, 3_000);
}

#[test]
fn what_automerge_keeps_back_without_a_word_is_poison() {
    let (_, records) = history(10);
    let without_first = Replica::new(document(), FIRST_EPOCH).apply(&records[1..]);
    assert_eq!((without_first.unwrap_err().first_seq), 2);
    // In order by position, but the third was replaced by a copy of the first.
    let mut doubled = records.clone();
    doubled[2].change = records[0].change.clone();
    let poison = Replica::new(document(), FIRST_EPOCH).apply(&doubled).unwrap_err();
    assert!(poison.what.contains("of 10 changes"), "{poison}");
}

#[test]
fn bytes_that_are_no_change_are_named_by_their_position() {
    let (_, mut records) = history(10);
    records[6].change = Bytes::from_static(b"no change");
    let poison = Replica::new(document(), FIRST_EPOCH).apply(&records).unwrap_err();
    assert_eq!((poison.first_seq, poison.last_seq), (7, 7));
    let saved = Replica::from_saved(document(), Replica::new(document(), 1).cursor(), 0, b"no document");
    assert_eq!(saved.unwrap_err().action, "load");
}

#[test]
fn what_was_saved_small_counts_by_the_bytes_that_it_came_in() {
    let (_, records) = history(10);
    let replica = Replica::new(document(), FIRST_EPOCH).apply(&records).unwrap();
    let saved = replica.save_verified().unwrap();
    let of =
        |log_bytes| Replica::from_saved(document(), replica.cursor(), log_bytes, &saved).unwrap().bytes();
    assert_eq!(of(64 << 20), 64 << 20);
    assert_eq!(of(0), replica.bytes(), "small values count by their number");
}
