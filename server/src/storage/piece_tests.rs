use std::sync::atomic::Ordering;

use etherply_engine::log::{FIRST_EPOCH, Log, LogReader};

use super::super::keys::{anchor_key, change_key};
use super::super::open;
use super::super::testing::{Author, document, spoil_head};
use super::*;

#[test]
fn a_piece_is_stored_only_where_it_belongs() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    let mut author = Author::default();
    log.commit(&[author.append("a", 3)]).unwrap();
    let head = log.reader().head(&document("a")).unwrap().unwrap();
    let mut piece = |name, expect| {
        let mut piece = Piece::new(document(name), expect);
        piece.set(KeyspaceId::Meta, anchor_key(&document(name), 7), vec![1, 2, 3]);
        let before = log.stats().commits.load(Ordering::Relaxed);
        let stored = log.store(&piece).unwrap();
        (stored, log.stats().commits.load(Ordering::Relaxed) - before)
    };
    for expect in [Expect::Epoch(FIRST_EPOCH), Expect::Head(head), Expect::Anything] {
        assert_eq!(piece("a", expect), (Stored::Durable, 1), "{expect:?}");
    }
    let later = Head { last_seq: 4, ..head };
    for (name, expect) in [("a", Expect::Epoch(2)), ("a", Expect::Head(later)), ("b", Expect::Epoch(1))] {
        assert_eq!(piece(name, expect), (Stored::Superseded, 0), "{expect:?}");
    }
}

#[test]
fn commits_go_on_behind_pieces_of_every_kind_and_open_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    for round in 0..4_u64 {
        let mut log = open(directory.path()).unwrap();
        log.commit(&[author.append("a", 2)]).unwrap();
        let row = change_key(&document("gone"), 1, round);
        let mut adds = Piece::new(document("a"), Expect::Epoch(1));
        adds.set(KeyspaceId::Changes, row.clone(), vec![9; 40]);
        let mut removes = Piece::new(document("a"), Expect::Epoch(1));
        removes.remove(KeyspaceId::Changes, row);
        let nothing = Piece::new(document("nobody"), Expect::Anything);
        for piece in [&adds, &removes, &nothing] {
            assert_eq!(log.store(piece).unwrap(), Stored::Durable);
            log.commit(&[author.append("a", 1), author.append("b", 1)]).unwrap();
        }
        let read = log.reader().read(&document("a"), 1, 0, u64::MAX, usize::MAX).unwrap();
        assert_eq!(read.len() as u64, 5 * (round + 1));
        // A row without a meaning is no document.
        let names: Vec<_> = log.reader().documents("", None, 10).unwrap();
        assert_eq!(names.iter().map(|entry| entry.document.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }
}

#[test]
fn a_piece_is_full_at_its_limits() {
    let mut piece = Piece::new(document("a"), Expect::Anything);
    for _ in 0..PIECE_ROWS_MAX - 1 {
        piece.remove(KeyspaceId::Hashes, vec![1]);
    }
    assert!(!piece.is_full());
    piece.remove(KeyspaceId::Hashes, vec![1]);
    assert!(piece.is_full());
    let mut piece = Piece::new(document("a"), Expect::Anything);
    piece.set(KeyspaceId::Meta, vec![1], vec![0; PIECE_BYTES_MAX - 2]);
    assert!(!piece.is_full());
    piece.set(KeyspaceId::Meta, vec![1], Vec::new());
    assert!(piece.is_full());
}

#[test]
fn a_piece_for_a_document_whose_head_is_damaged_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::default();
    let mut log = open(directory.path()).unwrap();
    log.commit(&[author.append("a", 1)]).unwrap();
    spoil_head(&mut log, "a");
    log.commit(&[author.append("b", 1)]).unwrap();
    for expect in [Expect::Epoch(1), Expect::Head(Head { epoch: 1, last_seq: 1, flags: 0 })] {
        let error = log.store(&Piece::new(document("a"), expect)).unwrap_err();
        assert!(matches!(error, LogError::Damaged { .. }), "{error}");
    }
    log.commit(&[author.append("b", 1)]).unwrap();
    for piece in [Piece::new(document("b"), Expect::Epoch(1)), Piece::new(document("a"), Expect::Anything)] {
        assert_eq!(log.store(&piece).unwrap(), Stored::Durable);
    }
}
