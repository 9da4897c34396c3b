use std::sync::Arc;

use automerge::ReadDoc as _;
use etherply_engine::log::Append;

use super::super::Rebuilds;
use super::super::due::LAG_RECORDS_MAX;
use super::super::inspector::TASKS_MAX;
use super::super::testing::{cut, document, history, store};
use super::*;
use crate::storage::{FjallLog, Gate};

fn worker(log: &FjallLog, bytes_max: u64) -> Worker {
    asking(log, bytes_max, flume::bounded(TASKS_MAX).0)
}

fn asking(log: &FjallLog, bytes_max: u64, inspections: Sender<Task>) -> Worker {
    let due = Arc::new(Due::new(Arc::new(Gate::default()), Arc::new(|| {}), LAG_RECORDS_MAX));
    Worker {
        reader: log.reader().clone(),
        due: Arc::clone(&due),
        tables: Arc::new([due]),
        inspections,
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

fn id(name: usize) -> DocumentId {
    DocumentId::new(&format!("broken/{name}")).unwrap()
}

#[test]
fn a_document_beyond_those_that_may_wait_for_inspection_stays_its_materialiser_s() {
    let directory = tempfile::tempdir().unwrap();
    let log = store(directory.path(), &[]);
    let (inspections, tasks) = flume::bounded(TASKS_MAX);
    let mut worker = asking(&log, 1 << 20, inspections);
    let what = "the test says so".to_owned();
    let poison = Poison { document: document(), first_seq: 1, last_seq: 1, action: "apply", what };
    let (_, records) = history(1);
    for name in 0..=INSPECTIONS_MAX {
        worker.give_away(id(name), &poison);
        assert_eq!(tasks.len(), (name + 1).min(INSPECTIONS_MAX));
        // What comes for it meanwhile is passed over, or the materialiser's.
        worker.due.told(&Append { document: id(name), epoch: 1, records: records.clone() });
        assert_eq!(worker.due.lag().0, u64::from(name == INSPECTIONS_MAX), "{name}");
    }
}

#[test]
fn tasks_beyond_those_that_may_wait_are_refused_and_answered() {
    let (inspections, tasks) = flume::bounded(TASKS_MAX);
    let rebuilds = Rebuilds(Some(inspections.clone()));
    let (send, answers) = flume::unbounded();
    let rebuild = |name| {
        let send = send.clone();
        rebuilds
            .rebuild(id(name), Box::new(move |outcome| send.send(outcome.unwrap_err().to_string()).unwrap()));
    };
    for name in 0..TASKS_MAX - 1 {
        inspections.try_send(Task::Inspect(id(name))).unwrap();
    }
    rebuild(TASKS_MAX - 1);
    assert_eq!((tasks.len(), answers.len()), (TASKS_MAX, 0));
    rebuild(TASKS_MAX);
    assert!(answers.try_recv().unwrap().contains("try again later"));
    let send_squashed = send.clone();
    rebuilds.squash(
        id(0),
        Box::new(move |outcome| send_squashed.send(outcome.unwrap_err().to_string()).unwrap()),
    );
    assert!(answers.try_recv().unwrap().contains("try again later"));
    assert_eq!(tasks.len(), TASKS_MAX);
    drop(tasks);
    rebuild(0);
    assert!(answers.try_recv().unwrap().contains("the server stops"));
}
