//! Own edits are made again in a document that began anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, Change, ObjId, ObjType, ROOT, ReadDoc, ScalarValue, hydrate};
use etherply_client::rewrite::rewrite;
use proptest::prelude::*;

const OWN: [u8; 16] = [1; 16];
const POISON: [u8; 16] = [2; 16];
const FRESH: [u8; 16] = [3; 16];
const OTHER: [u8; 16] = [4; 16];

/// A document that others have begun, with one change of somebody's that is to be taken out.
struct Story {
    base: AutoCommit,
    old: AutoCommit,
    text: ObjId,
    list: ObjId,
}

fn story() -> Story {
    let mut base = AutoCommit::new().with_actor(ActorId::from(&OTHER[..]));
    let text = base.put_object(ROOT, "text", ObjType::Text).unwrap();
    base.splice_text(&text, 0, 0, "hello world").unwrap();
    let list = base.put_object(ROOT, "list", ObjType::List).unwrap();
    for n in 0..5 {
        base.insert(&list, n, n as i64).unwrap();
    }
    base.put(ROOT, "count", ScalarValue::counter(10)).unwrap();
    base.commit();
    let mut poisoned = base.fork().with_actor(ActorId::from(&POISON[..]));
    poisoned.put(ROOT, "poison", true).unwrap();
    poisoned.splice_text(&text, 5, 0, "<poison>").unwrap();
    poisoned.insert(&list, 2, "poison").unwrap();
    poisoned.commit();
    let old = poisoned.fork().with_actor(ActorId::from(&OWN[..]));
    Story { base, old, text, list }
}

fn own(old: &mut AutoCommit) -> Vec<Change> {
    let changes = old.get_changes(&[]);
    changes.into_iter().filter(|change| *change.actor_id() == ActorId::from(&OWN[..])).collect()
}

fn fresh(base: &mut AutoCommit) -> AutoCommit {
    base.fork().with_actor(ActorId::from(&FRESH[..]))
}

fn value(doc: &AutoCommit) -> hydrate::Value {
    doc.hydrate(ROOT, None).unwrap()
}

#[test]
fn edits_behind_what_was_taken_out_keep_their_places() {
    let Story { mut base, mut old, text, list } = story();
    old.splice_text(&text, 19, 0, "!").unwrap();
    old.commit();
    old.splice_text(&text, 0, 1, "J").unwrap();
    old.commit();
    old.splice_text(&text, 8, 8, "").unwrap();
    old.insert(&list, 6, "last").unwrap();
    old.commit();
    old.delete(&list, 0).unwrap();
    old.put(&list, 2, "two").unwrap();
    old.increment(ROOT, "count", 5).unwrap();
    old.commit();
    // Somebody else has gone on meanwhile.
    base.splice_text(&text, 0, 0, "> ").unwrap();
    base.insert(&list, 0, "first").unwrap();
    base.increment(ROOT, "count", 100).unwrap();
    base.commit();
    let mut new = fresh(&mut base);
    let changes = own(&mut old);
    let done = rewrite(&mut old, &mut new, &changes);
    assert_eq!((done.rewritten, done.lost), (4, vec![]));
    // It was "Jello<poison> world!" before "ison> wo" was deleted; its first letter stands before what another
    // member wrote there meanwhile.
    assert_eq!(new.text(&text).unwrap(), "J> ellorld!");
    let items: Vec<String> =
        (0..new.length(&list)).map(|at| new.get(&list, at).unwrap().unwrap().0.to_string()).collect();
    assert_eq!(
        items,
        ["\"first\"", "1", "2", "3", "4", "\"last\""].map(|item| match item {
            "2" => "\"two\"".to_owned(),
            item => item.to_owned(),
        })
    );
    assert_eq!(new.get(ROOT, "count").unwrap().unwrap().0.as_i64(), Some(115));
    assert!(new.get_changes(&[]).iter().all(|change| *change.actor_id() != ActorId::from(&POISON[..])));
}

#[test]
fn objects_made_and_filled_are_made_and_filled_again() {
    let Story { mut base, mut old, text, .. } = story();
    let todo = old.put_object(ROOT, "todo", ObjType::List).unwrap();
    old.commit();
    let item = old.insert_object(&todo, 0, ObjType::Map).unwrap();
    old.put(&item, "title", "write").unwrap();
    let notes = old.put_object(&item, "notes", ObjType::Text).unwrap();
    old.splice_text(&notes, 0, 0, "abc").unwrap();
    old.commit();
    old.splice_text(&notes, 1, 1, "ß").unwrap();
    old.delete(&item, "title").unwrap();
    old.mark(&text, Mark::new("bold".into(), true, 0, 5), ExpandMark::None).unwrap();
    old.commit();
    let mut new = fresh(&mut base);
    let changes = own(&mut old);
    let done = rewrite(&mut old, &mut new, &changes);
    assert_eq!((done.rewritten, done.lost), (3, vec![]));
    let (_, todo) = new.get(ROOT, "todo").unwrap().unwrap();
    let (_, item) = new.get(&todo, 0).unwrap().unwrap();
    assert_eq!(new.keys(&item).collect::<Vec<_>>(), ["notes"]);
    let (_, notes) = new.get(&item, "notes").unwrap().unwrap();
    assert_eq!(new.text(&notes).unwrap(), "aßc");
    let marks = new.marks(&text).unwrap();
    assert_eq!((marks.len(), marks[0].start, marks[0].end), (1, 0, 5));
}

#[test]
fn what_needs_what_was_taken_out_is_told_and_the_rest_is_kept() {
    let Story { mut base, mut old, text, .. } = story();
    let mut poisoned = old.fork().with_actor(ActorId::from(&POISON[..]));
    let map = poisoned.put_object(ROOT, "poisoned", ObjType::Map).unwrap();
    poisoned.commit();
    old.merge(&mut poisoned).unwrap();
    old.put(&map, "mine", 1).unwrap();
    old.put(ROOT, "kept", 1).unwrap();
    old.commit();
    old.splice_text(&text, 5, 8, "").unwrap();
    old.commit();
    let mut new = fresh(&mut base);
    let changes = own(&mut old);
    let done = rewrite(&mut old, &mut new, &changes);
    assert_eq!((done.rewritten, done.lost.len()), (1, 1), "to delete what is gone is done");
    assert_eq!(done.lost[0].change, changes[0].raw_bytes());
    assert_eq!(new.get(ROOT, "kept").unwrap().unwrap().0.as_i64(), Some(1));
    assert_eq!(new.text(&text).unwrap(), "hello world");
}

#[test]
fn messages_and_times_are_those_of_before() {
    use automerge::transaction::CommitOptions;
    let Story { mut base, mut old, .. } = story();
    old.put(ROOT, "a", 1).unwrap();
    old.commit_with(CommitOptions::default().with_message("why").with_time(77));
    let mut new = fresh(&mut base);
    let changes = own(&mut old);
    rewrite(&mut old, &mut new, &changes);
    let last = new.get_last_local_change().unwrap();
    assert_eq!((last.message(), last.timestamp()), (Some("why"), 77));
}

#[derive(Debug, Clone)]
enum Edit {
    Insert { at: usize, text: String },
    Delete { at: usize, count: usize },
    Put { key: u8, value: i64 },
    DeleteKey { key: u8 },
    InsertItem { at: usize, value: i64 },
    PutItem { at: usize, value: i64 },
    DeleteItem { at: usize },
    Increment { by: i64 },
    Commit,
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<usize>(), "[a-zäß☃]{1,6}").prop_map(|(at, text)| Edit::Insert { at, text }),
        3 => (any::<usize>(), 1..6_usize).prop_map(|(at, count)| Edit::Delete { at, count }),
        2 => (0..4_u8, any::<i64>()).prop_map(|(key, value)| Edit::Put { key, value }),
        1 => (0..4_u8).prop_map(|key| Edit::DeleteKey { key }),
        2 => (any::<usize>(), any::<i64>()).prop_map(|(at, value)| Edit::InsertItem { at, value }),
        1 => (any::<usize>(), any::<i64>()).prop_map(|(at, value)| Edit::PutItem { at, value }),
        1 => any::<usize>().prop_map(|at| Edit::DeleteItem { at }),
        1 => (-9..9_i64).prop_map(|by| Edit::Increment { by }),
        3 => Just(Edit::Commit),
    ]
}

fn make(doc: &mut AutoCommit, text: &ObjId, list: &ObjId, edit: &Edit) {
    let within = |at: usize, len: usize| if len == 0 { 0 } else { at % len };
    match edit {
        Edit::Insert { at, text: new } => {
            let at = within(*at, doc.length(text) + 1);
            doc.splice_text(text, at, 0, new).unwrap();
        }
        Edit::Delete { at, count } => {
            let len = doc.length(text);
            let at = within(*at, len);
            doc.splice_text(text, at, (*count).min(len - at) as isize, "").unwrap();
        }
        Edit::Put { key, value } => doc.put(ROOT, format!("k{key}"), *value).unwrap(),
        Edit::DeleteKey { key } => drop(doc.delete(ROOT, format!("k{key}"))),
        Edit::InsertItem { at, value } => {
            let at = within(*at, doc.length(list) + 1);
            doc.insert(list, at, *value).unwrap();
        }
        Edit::PutItem { at, value } if doc.length(list) > 0 => {
            doc.put(list, within(*at, doc.length(list)), *value).unwrap();
        }
        Edit::DeleteItem { at } if doc.length(list) > 0 => {
            doc.delete(list, within(*at, doc.length(list))).unwrap()
        }
        Edit::PutItem { .. } | Edit::DeleteItem { .. } => {}
        Edit::Increment { by } => doc.increment(ROOT, "count", *by).unwrap(),
        Edit::Commit => drop(doc.commit()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// If what was taken out touched nothing else, the own edits give what they gave.
    #[test]
    fn edits_made_again_give_the_same_document(edits in proptest::collection::vec(edit(), 1..40)) {
        let Story { mut base, text, list, .. } = story();
        let mut poisoned = base.fork().with_actor(ActorId::from(&POISON[..]));
        poisoned.put(ROOT, "poison", 1).unwrap();
        poisoned.commit();
        let mut old = poisoned.fork().with_actor(ActorId::from(&OWN[..]));
        for edit in &edits {
            make(&mut old, &text, &list, edit);
        }
        old.commit();
        let mut new = fresh(&mut base);
        let changes = own(&mut old);
        let done = rewrite(&mut old, &mut new, &changes);
        prop_assert_eq!(&done.lost, &vec![]);
        prop_assert_eq!(done.rewritten, changes.len());
        let mut expected = old.fork().with_actor(ActorId::from(&[9; 16][..]));
        expected.delete(ROOT, "poison").unwrap();
        prop_assert_eq!(value(&new), value(&expected));
        prop_assert_eq!(value(&AutoCommit::load(&new.save()).unwrap()), value(&new));
    }
}
