use std::sync::Arc;

use automerge::ReadDoc as _;

use super::super::due::LAG_RECORDS_MAX;
use super::super::testing::{cut, document, history, store};
use super::*;
use crate::storage::{FjallLog, Gate};

fn worker(log: &FjallLog, bytes_max: u64) -> Worker {
    let due = Arc::new(Due::new(Arc::new(Gate::default()), Arc::new(|| {}), LAG_RECORDS_MAX));
    Worker {
        reader: log.reader().clone(),
        due: Arc::clone(&due),
        tables: Arc::new([due]),
        inspections: flume::unbounded().0,
        metrics: Arc::new(Metrics::new(None).unwrap()),
        residents: Residents::new(bytes_max),
        bytes_max,
        told: (0, 0),
    }
}

/// Works until nothing is left to do.
fn finish(worker: &Worker, mut slot: Slot) -> Slot {
    loop {
        match worker.work(&document(), slot) {
            Turn::Applied { slot, left: false, .. } => return slot,
            Turn::Applied { slot: next, .. } => slot = next,
            Turn::Poisoned(poison) => panic!("{poison}"),
            Turn::Failed(error) => panic!("{error}"),
            Turn::TooLarge => panic!("too large"),
        }
    }
}

fn changes(slot: &Slot) -> u64 {
    match &slot.progress {
        Progress::Ready(replica) => replica.automerge().stats().num_changes,
        Progress::Opening(_) => panic!("it is not built"),
    }
}

#[test]
fn a_replica_whose_next_records_a_snapshot_took_is_built_from_that() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = history(300);
    let mut log = store(directory.path(), &records);
    let worker = worker(&log, 1 << 20);
    let replica = Replica::new(document(), records[0].seq).apply(&records[..100]).unwrap();
    let behind = Slot { progress: Progress::Ready(Box::new(replica)), verified_seq: 100 };
    cut(&mut log, &records[249]).unwrap();
    let slot = finish(&worker, behind);
    assert_eq!(changes(&slot), 300);
    assert_eq!(slot.verified_seq, 300, "all of it was saved and loaded again");
}

#[test]
fn what_came_from_a_snapshot_counts_as_verified() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = history(2_000);
    let mut log = store(directory.path(), &records);
    let worker = worker(&log, 1 << 20);
    cut(&mut log, &records[1_949]).unwrap();
    let slot = finish(&worker, Slot::new(document()));
    assert_eq!((changes(&slot), slot.verified_seq), (2_000, 1_950), "a fortieth is new: not yet due");
    assert!(slot.unverified().is_some());
}

#[test]
fn a_document_that_would_take_many_times_the_budget_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records) = history(200);
    let log = store(directory.path(), &records);
    let bytes = finish(&worker(&log, 1 << 20), Slot::new(document())).bytes();
    for (bytes_max, is_left) in
        [(bytes / BUDGETS_PER_DOCUMENT_MAX + 1, false), (bytes / BUDGETS_PER_DOCUMENT_MAX - 1, true)]
    {
        let turn = worker(&log, bytes_max).work(&document(), Slot::new(document()));
        assert_eq!(matches!(turn, Turn::TooLarge), is_left, "{bytes_max}");
    }
}
