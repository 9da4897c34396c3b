use std::sync::atomic::{AtomicUsize, Ordering};

use etherply_engine::log::FIRST_EPOCH;
use etherply_engine::record::Record;

use super::*;

fn document(n: usize) -> DocumentId {
    DocumentId::new(&format!("rooms/{n}")).unwrap()
}

fn append(n: usize, seqs: std::ops::RangeInclusive<u64>) -> Append {
    let record = |seq| Record {
        seq,
        hash: etherply_engine::change::ChangeHash([0; 32]),
        chain: etherply_engine::ids::ChainHash([0; 32]),
        max_op: 1,
        time_ms: 0,
        pusher: Arc::from(""),
        change: bytes::Bytes::new(),
    };
    Append { document: document(n), epoch: FIRST_EPOCH, records: seqs.map(record).collect() }
}

struct Table {
    due: Due,
    gate: Arc<Gate>,
    rooms: Arc<AtomicUsize>,
}

fn table() -> Table {
    let (gate, rooms) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
    let told = Arc::clone(&rooms);
    let room: Room = Arc::new(move || {
        told.fetch_add(1, Ordering::Relaxed);
    });
    let mut due = Due::new(Arc::clone(&gate), room, LAG_RECORDS_MAX);
    due.gather_few = GATHER;
    Table { due, gate, rooms }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn next(due: &Due) -> (DocumentId, Waiting) {
    match due.next(Duration::ZERO, PATIENCE, |_, _| false) {
        Next::Turn(document, waiting) => (document, waiting),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_document_is_one_entry_however_often_it_changes_and_each_gets_its_turn() {
    let Table { due, .. } = table();
    due.told(&append(1, 1..=3));
    due.told(&append(2, 1..=1));
    due.told(&append(1, 4..=5));
    assert_eq!(due.lag().0, 6);
    let (first, waiting) = next(&due);
    assert_eq!((first.clone(), waiting.records, waiting.newest_seq), (document(1), 5, 5));
    // It has more to do, and changed meanwhile: still one entry, behind the other.
    due.told(&append(1, 6..=6));
    due.done(first, waiting, 2, true);
    assert_eq!(due.lag().0, 5);
    let (second, waiting) = next(&due);
    assert_eq!(second, document(2));
    due.done(second, waiting, 1, false);
    let (again, waiting) = next(&due);
    assert_eq!((again.clone(), waiting.records), (document(1), 4));
    due.done(again, waiting, 4, false);
    assert_eq!(due.lag(), (0, Duration::ZERO));
    assert_eq!(due.next(Duration::ZERO, Duration::ZERO, |_, _| false), Next::Idle);
}

#[test]
fn who_has_to_be_built_waits_longer_and_holds_nobody_up() {
    let Table { mut due, .. } = table();
    due.gather_cold = 4 * GATHER;
    due.told(&append(1, 1..=1));
    due.told(&append(2, 1..=1));
    let is_cold = |asked: &DocumentId, _: &Waiting| *asked == document(1);
    match due.next(Duration::ZERO, PATIENCE, is_cold) {
        Next::Turn(found, waiting) => {
            assert_eq!(found, document(2));
            due.done(found, waiting, 1, false);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(due.next(Duration::ZERO, GATHER, is_cold), Next::Idle);
    due.told(&append(1, 2..=2));
    assert_eq!(due.lag().0, 2);
    match due.next(Duration::ZERO, PATIENCE, is_cold) {
        Next::Turn(found, waiting) => {
            assert_eq!((found, waiting.records), (document(1), 2));
            assert!(waiting.since.elapsed() > 3 * GATHER);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_has_few_changes_waits_longer_unless_much_waits() {
    let Table { mut due, .. } = table();
    due.gather_few = 4 * GATHER;
    due.told(&append(1, 1..=1));
    due.told(&append(2, 1..=GATHER_RECORDS_MIN - 1));
    due.told(&append(3, 1..=GATHER_RECORDS_MIN));
    let (first, waiting) = next(&due);
    assert_eq!((first.clone(), waiting.records), (document(3), GATHER_RECORDS_MIN));
    due.done(first, waiting, GATHER_RECORDS_MIN, false);
    assert_eq!(due.next(Duration::ZERO, GATHER, |_, _| false), Next::Idle);
    let (second, waiting) = next(&due);
    assert_eq!(second, document(1));
    assert!(waiting.since.elapsed() > 3 * GATHER);
    due.done(second, waiting, 1, false);
    assert_eq!(next(&due).0, document(2));
    // Who waits already does not any longer once much waits.
    due.told(&append(4, 1..=1));
    assert_eq!(due.next(Duration::ZERO, GATHER + GATHER / 2, |_, _| false), Next::Idle);
    due.told(&append(5, 1..=LAG_RECORDS_MAX / 4));
    let (pressed, waiting) = next(&due);
    assert_eq!(pressed, document(4));
    assert!(waiting.since.elapsed() < 3 * GATHER);
}

#[test]
fn too_many_changes_hold_commits_back_until_a_quarter_is_done() {
    let Table { due, gate, rooms } = table();
    due.told(&append(1, 1..=LAG_RECORDS_MAX - 1));
    due.told(&append(2, 1..=1));
    assert!(!gate.is_closed(), "as many as may wait");
    due.told(&append(2, 2..=2));
    assert!(gate.is_closed() && due.is_pressing());
    let (first, waiting) = next(&due);
    due.done(first, waiting, LAG_RECORDS_MAX / 4, true);
    assert!(gate.is_closed() && rooms.load(Ordering::Relaxed) == 0, "one is missing");
    let (second, waiting) = next(&due);
    due.done(second, waiting, 2, false);
    assert!(!gate.is_closed());
    assert_eq!(rooms.load(Ordering::Relaxed), 1);
}

#[test]
fn a_document_that_was_given_away_holds_nobody_back() {
    let Table { due, gate, rooms } = table();
    due.told(&append(1, 1..=LAG_RECORDS_MAX + 1));
    assert!(gate.is_closed() && due.holds() == 1);
    due.give_away(&document(1));
    assert!(!gate.is_closed() && rooms.load(Ordering::Relaxed) == 1);
}

#[test]
fn too_many_documents_hold_commits_back_as_well() {
    let Table { due, gate, .. } = table();
    for n in 0..LAG_DOCUMENTS_MAX {
        due.told(&append(n, 1..=1));
    }
    assert!(!gate.is_closed());
    due.told(&append(LAG_DOCUMENTS_MAX, 1..=1));
    assert!(gate.is_closed());
    due.stop();
    assert!(!gate.is_closed(), "a stop waits for nobody");
    due.told(&append(0, 2..=2));
    assert!(!gate.is_closed());
    assert_eq!(due.next(Duration::ZERO, PATIENCE, |_, _| false), Next::Stop);
}

#[test]
fn what_comes_for_a_document_that_was_given_away_is_passed_over_until_it_is_back() {
    let Table { due, .. } = table();
    due.told(&append(1, 1..=4));
    due.give_away(&document(1));
    due.told(&append(1, 5..=6));
    assert_eq!(due.lag().0, 0);
    assert_eq!(due.next(Duration::ZERO, 2 * GATHER, |_, _| false), Next::Idle);
    due.give_back(&document(1), false);
    assert_eq!(due.next(Duration::ZERO, 2 * GATHER, |_, _| false), Next::Idle);
    due.give_back(&document(1), true);
    assert_eq!(next(&due).0, document(1));
}
