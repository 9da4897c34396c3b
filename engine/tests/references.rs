//! References of a change to operations of others: held against what the document has, as far as it is known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use automerge::legacy::{ElementId, Key, ObjectId, OpId, SortedVec};
use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, ExpandedChange, ObjId, ObjType, ROOT, ReadDoc};
use common::{Writer, actor, altered};
use etherply_engine::change::ChangeLimits;
use etherply_engine::document::{AdmitError, Document, OBJECT_DEPTH_MAX, OP_RUNS_MAX, Resolved};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::FIRST_EPOCH;
use etherply_wire::ErrorCode;

struct Story {
    document: Document,
    /// Knows everything that the document has.
    other: AutoCommit,
    text: ObjId,
    list: ObjId,
}

fn empty() -> Document {
    Document::new(DocumentId::new("references").unwrap(), FIRST_EPOCH)
}

fn admit(document: &mut Document, change: &[u8]) -> Result<(), AdmitError> {
    let admitted = document.admit(&[change], &ChangeLimits::DEFAULT, &Resolved::default())?;
    document.commit(admitted.cursor);
    Ok(())
}

fn is_refused(document: &Document, change: &[u8]) -> bool {
    match document.clone().admit(&[change], &ChangeLimits::DEFAULT, &Resolved::default()) {
        Ok(_) => false,
        Err(AdmitError::Refused { code: ErrorCode::ChangeMalformed, .. }) => true,
        Err(other) => panic!("{other:?}"),
    }
}

/// Actor 1 made: 1 text, 2..=6 "hello", 7 list, 8 and 9 its elements, 10 a key, 11 another.
fn story() -> Story {
    let mut first = Writer::new(1);
    let text = first.doc.put_object(ROOT, "text", ObjType::Text).unwrap();
    first.doc.splice_text(&text, 0, 0, "hello").unwrap();
    let list = first.doc.put_object(ROOT, "list", ObjType::List).unwrap();
    first.doc.insert(&list, 0, 1).unwrap();
    first.doc.insert(&list, 1, 2).unwrap();
    first.doc.put(ROOT, "a", 1).unwrap();
    first.doc.put(ROOT, "b", 1).unwrap();
    let change = first.commit();
    let mut document = empty();
    admit(&mut document, &change).unwrap();
    let other = first.doc.fork().with_actor(ActorId::from(&actor(2)[..]));
    Story { document, other, text, list }
}

fn op(counter: u64) -> OpId {
    OpId::new(counter, &ActorId::from(&actor(1)[..]))
}

fn preds(counter: u64) -> SortedVec<OpId> {
    SortedVec::from(vec![op(counter)])
}

impl Story {
    fn change(&mut self, edit: impl Fn(&mut AutoCommit)) -> Vec<u8> {
        let mut fork = self.other.clone();
        edit(&mut fork);
        fork.commit();
        fork.get_last_local_change().unwrap().raw_bytes().to_vec()
    }

    /// An edit, and whether it is refused with something of its first operation altered.
    fn refuses(&mut self, edit: impl Fn(&mut AutoCommit), alter: impl FnOnce(&mut ExpandedChange)) -> bool {
        let honest = self.change(edit);
        assert!(!is_refused(&self.document, &honest), "the edit itself is fine");
        is_refused(&self.document, &altered(&honest, alter))
    }
}

#[test]
fn objects_have_to_have_been_made_and_to_be_of_the_kind() {
    let mut story = story();
    let text = story.text.clone();
    let put = |doc: &mut AutoCommit| doc.put(ROOT, "c", 1).unwrap();
    for (object, is_wrong) in [(2, true), (10, true), (1, true), (7, true)] {
        let refused = story.refuses(put, |change| change.operations[0].obj = ObjectId::Id(op(object)));
        assert_eq!(refused, is_wrong, "a key in object {object}");
    }
    let insert = |doc: &mut AutoCommit| doc.splice_text(&text, 0, 0, "x").unwrap();
    assert!(story.refuses(insert, |change| change.operations[0].obj = ObjectId::Id(op(3))));
    assert!(!story.refuses(insert, |change| change.operations[0].obj = ObjectId::Id(op(7))), "a list's head");
}

#[test]
fn elements_have_to_stand_in_the_object() {
    let mut story = story();
    let text = story.text.clone();
    let insert = |doc: &mut AutoCommit| doc.splice_text(&text, 3, 0, "x").unwrap();
    for (element, is_wrong) in [(2, false), (6, false), (1, true), (7, true), (8, true), (10, true)] {
        let key = Key::Seq(ElementId::Id(op(element)));
        let refused = story.refuses(insert, |change| change.operations[0].key = key);
        assert_eq!(refused, is_wrong, "behind {element}");
    }
}

#[test]
fn what_is_replaced_has_to_stand_at_the_same_place() {
    let mut story = story();
    let put = |doc: &mut AutoCommit| doc.put(ROOT, "a", 2).unwrap();
    for (pred, is_wrong) in [(10, false), (11, true), (1, true), (2, true), (8, true)] {
        let refused = story.refuses(put, |change| change.operations[0].pred = preds(pred));
        assert_eq!(refused, is_wrong, "instead of {pred}");
    }
    let list = story.list.clone();
    let put = |doc: &mut AutoCommit| doc.put(&list, 0, 2).unwrap();
    for (pred, is_wrong) in [(8, false), (9, true), (7, true), (2, true)] {
        let refused = story.refuses(put, |change| change.operations[0].pred = preds(pred));
        assert_eq!(refused, is_wrong, "instead of {pred}");
    }
    // A value that was replaced stands at the element's place, not in it.
    let replaced = story.change(put);
    admit(&mut story.document, &replaced).unwrap();
    story.other.load_incremental(&replaced).unwrap();
    let again = story.change(put);
    assert!(!is_refused(&story.document, &again));
}

#[test]
fn what_was_taken_back_is_not_there() {
    let mut story = story();
    let text = story.text.clone();
    let first = story.change(|doc| doc.splice_text(&text, 5, 0, "abc").unwrap());
    let admitted = story.document.admit(&[&first], &ChangeLimits::DEFAULT, &Resolved::default()).unwrap();
    story.document.take_back(&admitted);
    // Where it had its elements, the same actor has keys now.
    let other = story.change(|doc| ["x", "y", "z"].iter().for_each(|key| doc.put(ROOT, *key, 1).unwrap()));
    admit(&mut story.document, &other).unwrap();
    story.other.load_incremental(&other).unwrap();
    let mut third = story.other.fork().with_actor(ActorId::from(&actor(3)[..]));
    third.splice_text(&text, 5, 0, "d").unwrap();
    third.put(ROOT, "y", 2).unwrap();
    third.commit();
    let honest = third.get_last_local_change().unwrap().raw_bytes().to_vec();
    assert!(!is_refused(&story.document, &honest));
    let element = OpId::new(13, &ActorId::from(&actor(2)[..]));
    let wrong = altered(&honest, |change| change.operations[0].key = Key::Seq(ElementId::Id(element)));
    assert!(is_refused(&story.document, &wrong));
}

#[test]
fn what_is_not_known_any_more_is_believed() {
    let mut story = story();
    let put = |doc: &mut AutoCommit| doc.put(ROOT, "c", 1).unwrap();
    let wrong = |change: &mut ExpandedChange| change.operations[0].obj = ObjectId::Id(op(2));
    assert!(story.refuses(put, wrong));
    let opened = Document::from_summary(story.document.id().clone(), story.document.summary().unwrap());
    let known = std::mem::replace(&mut story.document, opened);
    assert!(!story.refuses(put, wrong), "opened from its summary, it knows of no operation");
    story.document = known;
    story.document.shrink_window();
    assert!(!story.refuses(put, wrong), "nor when memory is short");
    // What comes from then on is known again.
    let next = story.change(|doc| doc.put(ROOT, "d", 1).unwrap());
    admit(&mut story.document, &next).unwrap();
    story.other.load_incremental(&next).unwrap();
    let last = story.other.get_changes(&[]).last().unwrap().max_op();
    let wrong = |change: &mut ExpandedChange| {
        change.operations[0].obj = ObjectId::Id(OpId::new(last, &ActorId::from(&actor(2)[..])));
    };
    let mut third = story.other.fork().with_actor(ActorId::from(&actor(3)[..]));
    third.put(ROOT, "e", 1).unwrap();
    third.commit();
    let honest = third.get_last_local_change().unwrap().raw_bytes().to_vec();
    assert!(!is_refused(&story.document, &honest) && is_refused(&story.document, &altered(&honest, wrong)));
}

#[test]
fn an_index_has_so_many_entries_and_then_begins_anew() {
    let mut writer = Writer::new(1);
    for n in 0..OP_RUNS_MAX + 1 {
        // A key each, so that no two of them share an entry.
        writer.doc.put(ROOT, format!("k{n}"), 1).unwrap();
        if n % 1_000 == 0 || n + 3 > OP_RUNS_MAX {
            writer.doc.commit();
        }
    }
    writer.doc.commit();
    let changes = writer.doc.get_changes(&[]);
    let mut document = empty();
    let mut entries = 0;
    for change in &changes {
        admit(&mut document, change.raw_bytes()).unwrap();
        entries += change.len();
        if entries < OP_RUNS_MAX - 1 {
            continue;
        }
        let mut other = AutoCommit::new().with_actor(ActorId::from(&actor(2)[..]));
        other.apply_changes(changes.iter().take_while(|one| one.hash() != change.hash()).cloned()).unwrap();
        other.apply_changes([change.clone()]).unwrap();
        other.put(ROOT, "other", 1).unwrap();
        other.commit();
        let honest = other.get_last_local_change().unwrap().raw_bytes().to_vec();
        let wrong = altered(&honest, |change| change.operations[0].obj = ObjectId::Id(op(1)));
        assert!(!is_refused(&document, &honest));
        assert_eq!(is_refused(&document, &wrong), entries <= OP_RUNS_MAX, "{entries}");
    }
    assert_eq!(entries, OP_RUNS_MAX + 1);
}

/// Nests so many objects within one another, and within `outer`.
fn nest(doc: &mut AutoCommit, outer: ObjId, count: usize) -> ObjId {
    let kinds = [ObjType::Map, ObjType::List];
    (0..count).fold(outer, |outer, level| {
        let kind = kinds[level % 2];
        match doc.object_type(&outer).unwrap() {
            ObjType::List => doc.insert_object(&outer, 0, kind).unwrap(),
            _ => doc.put_object(&outer, "within", kind).unwrap(),
        }
    })
}

#[test]
fn objects_are_nested_so_deep_and_no_deeper_in_one_change_or_many() {
    let deepest = usize::from(OBJECT_DEPTH_MAX) - 1;
    for (count, is_deep) in [(deepest - 1, false), (deepest, false), (deepest + 1, true)] {
        let mut writer = Writer::new(1);
        nest(&mut writer.doc, ROOT, count);
        let result = admit(&mut empty(), &writer.commit());
        let code = result.err().map(|error| match error {
            AdmitError::Refused { code, .. } => code,
            other => panic!("{other:?}"),
        });
        assert_eq!(code, is_deep.then_some(ErrorCode::ChangeTooLarge), "{count} in one change");
    }
    // By two authors, change by change.
    let (mut document, mut writer) = (empty(), Writer::new(1));
    let outer = nest(&mut writer.doc, ROOT, deepest - 2);
    admit(&mut document, &writer.commit()).unwrap();
    let mut other = writer.doc.fork().with_actor(ActorId::from(&actor(2)[..]));
    let mut last = |outer: ObjId| {
        let inner = nest(&mut other, outer, 1);
        other.commit();
        let change = other.get_last_local_change().unwrap().raw_bytes().to_vec();
        (inner, admit(&mut document, &change))
    };
    let (outer, first) = last(outer);
    let (outer, second) = last(outer);
    assert!(first.is_ok() && second.is_ok());
    let refused = last(outer).1.unwrap_err();
    assert!(matches!(refused, AdmitError::Refused { code: ErrorCode::ChangeTooLarge, .. }), "{refused:?}");
}
