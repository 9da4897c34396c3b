//! What a push is refused for, and that a refused one leaves nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod common;

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, ObjType, ROOT, ReadDoc};
use common::{Host, Told, Writer, actor, altered, document, empty, hash, peer};
use etherply_engine::change::{ChangeLimits, OP_COUNTER_MAX, SEQ_MAX};
use etherply_engine::document::{
    AdmitError, Admitted, DOCUMENT_ACTORS_MAX, DOCUMENT_HEADS_MAX, Document, GENESIS_ACTOR,
    GENESIS_BYTES_MAX, PENDING_CHANGES_MAX, Resolved,
};
use etherply_engine::log::FIRST_EPOCH;
use etherply_wire::limits::PUSH_CHANGES_MAX;
use etherply_wire::{ErrorCode, Rights};

fn admit(document: &mut Document, changes: &[Vec<u8>]) -> Result<Admitted, AdmitError> {
    let changes: Vec<&[u8]> = changes.iter().map(Vec::as_slice).collect();
    let mut resolved = Resolved::default();
    loop {
        match document.admit(&changes, &ChangeLimits::DEFAULT, &resolved) {
            // These documents are shorter than the window: the log has nothing that it has not.
            Err(AdmitError::Lookup(hashes)) => {
                document.asking(&mut resolved);
                resolved.extend(hashes.into_iter().map(|hash| (hash, None)));
            }
            other => return other,
        }
    }
}

fn code(result: Result<Admitted, AdmitError>) -> Option<ErrorCode> {
    match result {
        Ok(_) => None,
        Err(AdmitError::Refused { code, .. }) => Some(code),
        Err(AdmitError::Lookup(hashes)) => panic!("looks for {hashes:?}"),
    }
}

fn genesis(value: i64) -> Vec<u8> {
    let mut author = Writer::new(0);
    author.doc.set_actor(ActorId::from(&GENESIS_ACTOR[..]));
    author.put("title", value)
}

/// Every way in which a change does not fit the document. Each is refused in a push behind a good change,
/// which must not stay; afterwards that good change is still taken.
#[test]
fn each_refusal_has_its_code_and_leaves_nothing_behind() {
    let mut writer = Writer::new(1);
    let base = writer.puts(3);
    let next = writer.put("x", 1);
    let after = writer.put("x", 2);
    let mut other = Writer::new(2);
    other.apply(&base);
    let theirs = other.put("y", 1);
    let mut stranger = Writer::new(3);
    stranger.apply(&base);
    stranger.put("unknown", 1);
    stranger.doc.set_actor(ActorId::from(&actor(4)[..]));
    let upon_unknown = stranger.put("z", 1);
    let mut overwriter = Writer::new(3);
    overwriter.apply(&base);
    overwriter.put("w", 1);
    overwriter.doc.set_actor(ActorId::from(&actor(5)[..]));
    // What it replaces was written by an actor that the server never heard of.
    let replaces = overwriter.put("w", 2);
    let unknown_actor = altered(&replaces, |change| {
        change.deps = vec![automerge::ChangeHash(hash(&base[2]))];
    });
    let last = hash(&base[2]);
    let mut broken = theirs.clone();
    *broken.last_mut().unwrap() ^= 1;
    let mut truncated = theirs.clone();
    truncated.pop();
    let table: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("missing dependency", upon_unknown, ErrorCode::MissingDependencies),
        ("gap in the actor's changes", altered(&theirs, |c| c.seq = 2), ErrorCode::SequenceGap),
        ("gap behind known ones", altered(&after, |c| c.seq = 7), ErrorCode::SequenceGap),
        ("the highest seq", altered(&theirs, |c| c.seq = SEQ_MAX), ErrorCode::SequenceGap),
        ("another last change", altered(&base[2], |c| c.time = 5), ErrorCode::ActorForked),
        ("operations too early", empty(&actor(9), 1, 3, &[last]), ErrorCode::StartOpWrong),
        ("operations too late", empty(&actor(9), 1, 6, &[last]), ErrorCode::StartOpWrong),
        (
            "operations far too late",
            altered(&theirs, |c| c.start_op = (1 << 30).try_into().unwrap()),
            ErrorCode::MissingDependencies,
        ),
        ("an actor nobody knows", unknown_actor, ErrorCode::UnknownActor),
        ("genesis actor goes on", empty(&GENESIS_ACTOR, 1, 4, &[last]), ErrorCode::ActorForked),
        ("genesis actor from its second", empty(&GENESIS_ACTOR, 2, 4, &[last]), ErrorCode::SequenceGap),
        ("a flipped bit", broken, ErrorCode::ChangeChecksum),
        ("a lost byte", truncated, ErrorCode::ChangeMalformed),
        ("no change at all", vec![1, 2, 3], ErrorCode::ChangeMalformed),
        ("nothing", Vec::new(), ErrorCode::ChangeMalformed),
    ];
    for (what, bad, expected) in table {
        let mut document = Document::new(document(), FIRST_EPOCH);
        let admitted = admit(&mut document, &base).unwrap();
        document.commit(admitted.cursor);
        let before = format!("{document:?}");
        assert_eq!(code(admit(&mut document, &[next.clone(), bad])), Some(expected), "{what}");
        assert_eq!(format!("{document:?}"), before, "{what}");
        assert_eq!(admit(&mut document, std::slice::from_ref(&next)).unwrap().positions, [4], "{what}");
    }
}

#[test]
fn a_refusal_names_the_change_and_the_servers_clock() {
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    let changes = writer.puts(4);
    host.acked(peer(1), 1, &changes[..1]);
    let bad = [changes[1].clone(), changes[3].clone()];
    let (code, refused, tail) = host.refusal(peer(1), 1, &bad);
    assert_eq!((code, refused.index), (ErrorCode::SequenceGap, 1));
    assert!(tail.is_empty() && refused.clock_complete);
    assert_eq!(refused.clock[0].hash, hash(&changes[0]));
    assert!(!refused.message.is_empty());
}

#[test]
fn without_the_right_to_write_a_push_is_refused() {
    let mut host = Host::default();
    host.open(peer(1), Rights::READ.with(Rights::PRESENCE), None);
    host.take(peer(1));
    let (code, ..) = host.refusal(peer(1), 1, &[Writer::new(1).put("a", 1)]);
    assert_eq!(code, ErrorCode::ReadOnly);
    assert_eq!(host.in_flight[&peer(1)], 0);
}

#[test]
fn a_push_has_one_change_at_least_and_the_limit_at_most() {
    for (count, fits) in [
        (0, false),
        (1, true),
        (PUSH_CHANGES_MAX - 1, true),
        (PUSH_CHANGES_MAX, true),
        (PUSH_CHANGES_MAX + 1, false),
    ] {
        let mut host = Host::default();
        host.join(1);
        let changes = Writer::new(1).puts(count);
        if fits {
            assert_eq!(host.acked(peer(1), 1, &changes).positions.len(), count);
        } else {
            assert_eq!(host.refusal(peer(1), 1, &changes).0, ErrorCode::PushInvalid, "{count}");
        }
    }
}

#[test]
fn lengths_have_to_agree_with_the_tail() {
    use etherply_engine::shard::{Input, PushRequest};
    let change = Writer::new(1).put("a", 1);
    let length = change.len() as u32;
    for lengths in [vec![length - 1], vec![length + 1], vec![length, 1], vec![u32::MAX, u32::MAX], vec![]] {
        let mut host = Host::default();
        let handle = host.join(1);
        let push = PushRequest {
            peer: peer(1),
            handle,
            push: 1,
            generation: 1,
            lengths: &lengths,
            changes: &change,
        };
        host.in_flight.insert(peer(1), change.len());
        host.turn(Input::Push(push));
        assert_eq!(host.take(peer(1)).remove(0).refused().0, ErrorCode::PushInvalid, "{lengths:?}");
        assert_eq!(host.in_flight[&peer(1)], 0);
    }
}

#[test]
fn the_first_genesis_stays_and_others_are_told_of_it() {
    let mut host = Host::default();
    host.join(1);
    host.join(2);
    let first = genesis(1);
    assert_eq!(host.acked(peer(1), 1, std::slice::from_ref(&first)).positions, [1]);
    assert_eq!(
        host.acked(peer(2), 1, std::slice::from_ref(&first)).positions,
        [1],
        "the same is a duplicate"
    );
    let (code, refused, tail) = host.refusal(peer(2), 1, &[genesis(2)]);
    assert_eq!((code, tail), (ErrorCode::GenesisConflict, first.clone()));
    assert_eq!(refused.index, 0);
    // Also after the document was read from the log.
    let mut host = Host::new(host.log);
    host.join(2);
    let (code, _, tail) = host.refusal(peer(2), 1, &[genesis(2)]);
    assert_eq!((code, tail), (ErrorCode::GenesisConflict, first));
}

#[test]
fn a_genesis_that_was_taken_back_is_no_genesis() {
    let mut document = Document::new(document(), FIRST_EPOCH);
    let admitted = admit(&mut document, &[genesis(1)]).unwrap();
    document.take_back(&admitted);
    assert_eq!(document.genesis(), None);
    assert_eq!(admit(&mut document, &[genesis(2)]).unwrap().positions, [1]);
}

#[test]
fn a_genesis_has_a_size_limit() {
    let sized = |bytes: usize| {
        let mut author = Writer::new(0);
        author.doc.set_actor(ActorId::from(&GENESIS_ACTOR[..]));
        let noise: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        author.doc.put(ROOT, "x", automerge::ScalarValue::Bytes(noise)).unwrap();
        author.commit()
    };
    let overhead = sized(60_000).len() - 60_000;
    for (bytes, expected) in [
        (GENESIS_BYTES_MAX - 1, None),
        (GENESIS_BYTES_MAX, None),
        (GENESIS_BYTES_MAX + 1, Some(ErrorCode::ChangeTooLarge)),
    ] {
        let change = sized(bytes - overhead);
        assert_eq!(change.len(), bytes);
        let mut document = Document::new(document(), FIRST_EPOCH);
        assert_eq!(code(admit(&mut document, &[change])), expected, "{bytes} bytes");
    }
}

#[test]
fn heads_are_limited_and_a_merge_makes_room() {
    let mut document = Document::new(document(), FIRST_EPOCH);
    let head = |n: u64| empty(&actor(n), 1, 1, &[]);
    let max = DOCUMENT_HEADS_MAX as u64;
    for n in 1..=max {
        assert_eq!(code(admit(&mut document, &[head(n)])), None, "head {n}");
    }
    assert_eq!(code(admit(&mut document, &[head(max + 1)])), Some(ErrorCode::DocumentTooLarge));
    assert_eq!(document.heads().len(), DOCUMENT_HEADS_MAX);
    let mut deps = [hash(&head(1)), hash(&head(2))];
    deps.sort_unstable();
    let merge = empty(&actor(1), 2, 1, &deps);
    assert_eq!(code(admit(&mut document, &[merge])), None);
    assert_eq!(document.heads().len(), DOCUMENT_HEADS_MAX - 1);
    assert_eq!(code(admit(&mut document, &[head(max + 1)])), None);
}

#[test]
fn actors_are_limited() {
    let mut document = Document::new(document(), FIRST_EPOCH);
    let mut dep = None;
    let max = DOCUMENT_ACTORS_MAX as u64;
    for n in 1..=max + 1 {
        let deps: Vec<[u8; 32]> = dep.into_iter().collect();
        let change = empty(&actor(n), 1, 1, &deps);
        dep = Some(hash(&change));
        let result = admit(&mut document, std::slice::from_ref(&change));
        if n == max + 1 {
            assert_eq!(code(result), Some(ErrorCode::DocumentTooLarge));
            break;
        }
        document.commit(result.unwrap().cursor);
    }
    assert_eq!(document.actors(), DOCUMENT_ACTORS_MAX);
}

#[test]
fn changes_that_wait_for_the_disk_are_limited() {
    let mut document = Document::new(document(), FIRST_EPOCH);
    let mut dep: Option<[u8; 32]> = None;
    let mut next = |n: u64| {
        let deps: Vec<[u8; 32]> = dep.into_iter().collect();
        let change = empty(&actor(1), n, 1, &deps);
        dep = Some(hash(&change));
        change
    };
    let max = PENDING_CHANGES_MAX as u64;
    let mut first = None;
    for n in 1..=max {
        let admitted = admit(&mut document, &[next(n)]).unwrap();
        first.get_or_insert(admitted.cursor);
    }
    let beyond = next(max + 1);
    assert_eq!(code(admit(&mut document, std::slice::from_ref(&beyond))), Some(ErrorCode::Overloaded));
    document.commit(first.unwrap());
    assert_eq!(code(admit(&mut document, &[beyond])), None, "one was stored, one has room");
}

#[test]
fn operations_are_counted_to_the_limit_and_no_further() {
    // No honest history gets there in a test: a document is made to believe it.
    let mut document = Document::new(document(), FIRST_EPOCH);
    let first = empty(&actor(1), 1, 1, &[]);
    admit(&mut document, std::slice::from_ref(&first)).unwrap();
    let far = empty(&actor(1), 2, OP_COUNTER_MAX + 1, &[hash(&first)]);
    let refused = code(admit(&mut document, &[far])).unwrap();
    assert!(matches!(refused, ErrorCode::ChangeMalformed | ErrorCode::StartOpWrong), "{refused}");
}

#[test]
fn an_honest_edit_of_an_old_version_is_taken() {
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    let list = writer.doc.put_object(ROOT, "list", ObjType::List).unwrap();
    let base = writer.commit();
    let old = writer.doc.get_heads();
    let later = writer.puts(5);
    host.acked(peer(1), 1, &[base]);
    host.acked(peer(1), 1, &later);
    let before = writer.doc.get_heads();
    for n in 0..3 {
        writer.doc.isolate(&old);
        writer.doc.insert(&list, 0, n).unwrap();
        writer.doc.put(ROOT, "n", 100 + n).unwrap();
        writer.doc.commit_with(CommitOptions::default().with_time(0));
        writer.doc.integrate();
    }
    let edits: Vec<Vec<u8>> =
        writer.doc.get_changes(&before).iter().map(|change| change.raw_bytes().to_vec()).collect();
    assert_eq!(edits.len(), 3);
    assert_eq!(host.acked(peer(1), 1, &edits).positions, [7, 8, 9]);
    host.join(2);
    let mut reader = Writer::new(2);
    for told in host.gather(peer(2)) {
        let Told::Changes(_, carried) = told else { panic!("{told:?}") };
        reader.apply(&carried);
    }
    assert_eq!(reader.doc.get_heads(), writer.doc.get_heads());
    assert_eq!(reader.doc.length(&list), 3);
}
