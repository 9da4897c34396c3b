//! Random edits of real Automerge documents.

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, Change, ObjId, ObjType, ROOT, ReadDoc, ScalarValue, Value, hydrate};
use etherply_engine::document::GENESIS_ACTOR;

use crate::rng::Rng;

/// A change and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Its hash.
    pub hash: [u8; 32],
    /// Its bytes, not compressed.
    pub bytes: Vec<u8>,
}

impl Edit {
    /// From Automerge's own.
    pub fn of(change: &Change) -> Self {
        Self { hash: change.hash().0, bytes: change.raw_bytes().to_vec() }
    }
}

/// The same initial content for everybody who begins with this variant.
pub fn genesis(variant: u64) -> Edit {
    let mut doc = AutoCommit::new();
    doc.set_actor(ActorId::from(&GENESIS_ACTOR[..]));
    object(&mut doc, &ROOT, "list", ObjType::List);
    object(&mut doc, &ROOT, "text", ObjType::Text);
    doc.put(ROOT, "title", format!("variant {variant}")).expect("the root takes a key");
    doc.commit_with(CommitOptions::default().with_time(0));
    Edit::of(&doc.get_last_local_change().expect("something was put"))
}

/// Edits a document, or an old version of it, and returns what has to be pushed: as a rule one change.
pub fn edit(doc: &mut AutoCommit, past: Option<[u8; 32]>, rng: &mut Rng, time: i64) -> Vec<Edit> {
    let before = doc.get_heads();
    if let Some(past) = past {
        doc.isolate(&[automerge::ChangeHash(past)]);
    }
    if rng.chance(3) && past.is_none() {
        doc.empty_change(CommitOptions::default().with_time(time));
    } else {
        for _ in 0..rng.range(1, 4) {
            operation(doc, rng);
        }
        doc.commit_with(CommitOptions::default().with_time(time));
    }
    if past.is_some() {
        doc.integrate();
    }
    doc.get_changes(&before).iter().map(Edit::of).collect()
}

fn operation(doc: &mut AutoCommit, rng: &mut Rng) {
    let number = i64::try_from(rng.below(1_000)).unwrap_or(0);
    let key = format!("k{}", rng.below(5));
    match rng.below(10) {
        0 | 1 => doc.put(ROOT, &key, number).expect("the root takes a key"),
        2 => {
            let map = object(doc, &ROOT, "map", ObjType::Map);
            let inner = object(doc, &map, &format!("m{}", rng.below(3)), ObjType::Map);
            doc.put(&inner, &key, format!("v{number}")).expect("a map takes a key");
        }
        3 => {
            if doc.get(ROOT, &key).is_ok_and(|value| value.is_some()) {
                doc.delete(ROOT, &key).expect("the key is there");
            }
        }
        4..=6 => edit_list(doc, rng, number),
        7 | 8 => {
            let text = object(doc, &ROOT, "text", ObjType::Text);
            let length = doc.length(&text);
            let at = rng.index(length + 1);
            let delete = rng.index(4).min(length - at);
            let insert = ["", "a", "bc", "ä€", "def"].get(rng.index(5)).copied().unwrap_or_default();
            let delete = isize::try_from(delete).unwrap_or(0);
            doc.splice_text(&text, at, delete, insert).expect("the range is within the text");
        }
        _ => count(doc, rng),
    }
}

fn edit_list(doc: &mut AutoCommit, rng: &mut Rng, number: i64) {
    let list = object(doc, &ROOT, "list", ObjType::List);
    let length = doc.length(&list);
    match rng.below(4) {
        0 if length > 0 => doc.delete(&list, rng.index(length)).expect("the element is there"),
        1 if length > 0 => doc.put(&list, rng.index(length), number).expect("the element is there"),
        2 => {
            let at = rng.index(length + 1);
            doc.insert_object(&list, at, ObjType::Map).expect("the place is in the list");
        }
        _ => doc.insert(&list, rng.index(length + 1), number).expect("the place is in the list"),
    }
}

fn count(doc: &mut AutoCommit, rng: &mut Rng) {
    let is_counter = doc.get(ROOT, "counter").is_ok_and(|value| {
        value.is_some_and(|(value, _)| matches!(value, Value::Scalar(s) if s.is_counter()))
    });
    if is_counter && rng.chance(90) {
        let by = i64::try_from(rng.below(9)).unwrap_or(0) - 4;
        doc.increment(ROOT, "counter", by).expect("the counter is there");
    } else {
        doc.put(ROOT, "counter", ScalarValue::counter(0)).expect("the root takes a key");
    }
}

/// The object under a key, made if it is not there.
fn object(doc: &mut AutoCommit, parent: &ObjId, key: &str, kind: ObjType) -> ObjId {
    match doc.get(parent, key) {
        Ok(Some((Value::Object(found), id))) if found == kind => id,
        _ => doc.put_object(parent, key, kind).expect("a map takes a key"),
    }
}

/// A document's content, for comparing.
pub fn content(doc: &AutoCommit) -> hydrate::Value {
    doc.hydrate(ROOT, None).expect("there is always a root")
}
