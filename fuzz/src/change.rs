//! Changes: admission reads or refuses whatever arrives, what it takes Automerge reads too, and a document is after
//! every refusal what it was before.

// A panic is how this code reports.
#![allow(clippy::expect_used)]

use bytes::Bytes;
use etherply_engine::change::{ChangeLimits, parse, parse_header};
use etherply_engine::document::{AdmitError, Document, Head, Resolved, recover};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, FIRST_EPOCH, Log as _, MemoryLog};
use etherply_engine::record::Record;
use etherply_wire::kinds::Cursor;
use sha2::{Digest as _, Sha256};

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
const TYPE_CHANGE: u8 = 1;
/// Bytes of magic, checksum and type.
const PREFIX_BYTES: usize = 9;
/// Most changes of one input that are put to one document.
const CHANGES_MAX: usize = 64;

/// Checks the bytes as they are, and the changes that begin in them, one behind the other, with length and checksum
/// put right, so that a mutation gets further than the checksum. These are pushed to one document.
pub fn check(data: &[u8]) {
    check_change(data);
    let changes: Vec<Vec<u8>> = pieces(data).into_iter().filter_map(repaired).take(CHANGES_MAX).collect();
    changes.iter().for_each(|change| check_change(change));
    check_document(&changes);
}

/// The bytes, cut where changes begin.
pub fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let next = rest.get(1..).and_then(|behind| behind.windows(MAGIC.len()).position(|at| at == MAGIC));
        let (piece, behind) = rest.split_at(next.map_or(rest.len(), |at| at + 1));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// Everything of a document that a refused push must leave as it was.
fn state(document: &Document) -> (Cursor, Cursor, Vec<Head>, usize) {
    (document.admitted(), document.committed(), document.heads().to_vec(), document.actors())
}

/// Pushes the changes to one document, each for itself: what is refused or taken back leaves nothing, and what is
/// taken opens from the log as it was admitted.
fn check_document(changes: &[Vec<u8>]) {
    let id = DocumentId::new("d").expect("a name");
    let (mut document, mut log) = (Document::new(id.clone(), FIRST_EPOCH), MemoryLog::new());
    for change in changes {
        let before = state(&document);
        let push =
            |document: &mut Document| document.admit(&[change], &ChangeLimits::DEFAULT, &Resolved::default());
        let first = match push(&mut document) {
            Ok(admitted) => admitted,
            Err(AdmitError::Refused { .. } | AdmitError::Lookup(_)) => {
                assert_eq!(state(&document), before, "a refusal leaves nothing");
                continue;
            }
        };
        document.take_back(&first);
        assert_eq!(state(&document), before, "what is taken back leaves nothing");
        let admitted = push(&mut document).expect("it was admitted a moment ago");
        assert_eq!((admitted.cursor, &admitted.positions), (first.cursor, &first.positions));
        document.commit(admitted.cursor);
        let record = |fresh: &etherply_engine::document::Fresh| Record {
            seq: fresh.seq,
            hash: fresh.hash,
            chain: fresh.chain,
            max_op: fresh.max_op,
            time_ms: 0,
            pusher: "".into(),
            change: Bytes::copy_from_slice(change),
        };
        let records: Vec<Record> = admitted.fresh.iter().map(record).collect();
        if !records.is_empty() {
            let append = Append { document: id.clone(), epoch: FIRST_EPOCH, records };
            log.commit(&[append]).expect("a log in memory does not fail");
        }
    }
    let recovered = recover(&log, &id).expect("what was admitted can be read again");
    assert_eq!(state(&recovered), state(&document), "what opens is what was admitted");
}

fn check_change(bytes: &[u8]) {
    let limits = ChangeLimits::DEFAULT;
    let Ok(change) = parse(bytes, &limits) else { return };
    let header = parse_header(bytes, &limits).expect("a header of a whole change");
    assert_eq!((header.hash, header.seq, header.actor), (change.hash, change.seq, change.actor));
    assert_eq!(change.bytes, bytes);
    change.for_each_reference(|reference| {
        assert!(reference.counter < change.start_op, "a reference to an operation that is not earlier");
        assert!(change.actor_at(reference.actor).is_some(), "a reference to an actor that is not named");
    });
    let theirs = automerge::Change::from_bytes(bytes.to_vec()).expect("a change that admission takes");
    assert_eq!(theirs.hash().0, change.hash.0);
    assert_eq!(theirs.actor_id().to_bytes(), change.actor);
    assert_eq!((theirs.seq(), theirs.start_op().get()), (change.seq, change.start_op));
    assert_eq!((theirs.len() as u64, theirs.max_op()), (change.ops(), change.max_op()));
    let deps: Vec<[u8; 32]> = theirs.deps().iter().map(|hash| hash.0).collect();
    assert_eq!(deps, change.deps.iter().map(|hash| hash.0).collect::<Vec<_>>());
}

/// The same change with the length that its body has and the checksum that belongs to it.
fn repaired(data: &[u8]) -> Option<Vec<u8>> {
    let body = data.get(PREFIX_BYTES..)?;
    if data.first_chunk() != Some(&MAGIC) || data.get(PREFIX_BYTES - 1) != Some(&TYPE_CHANGE) {
        return None;
    }
    let length_bytes = 1 + body.iter().position(|byte| byte & 0x80 == 0)?;
    let body = body.get(length_bytes..)?;
    let mut checked = vec![TYPE_CHANGE];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7F).ok()?;
        length >>= 7;
        checked.push(if length == 0 { low } else { low | 0x80 });
        if length == 0 {
            break;
        }
    }
    checked.extend_from_slice(body);
    let hash = Sha256::digest(&checked);
    Some([&MAGIC[..], hash.get(..4)?, &checked].concat())
}
