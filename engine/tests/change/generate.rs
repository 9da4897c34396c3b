//! Histories as honest clients make them: several peers, each with its own actor, edit copies of one
//! document through Automerge's own API, and merge now and then.

use automerge::{
    ActorId, Author, AutoCommit, ChangeHash, ObjId, ObjType, ROOT, ReadDoc, ScalarValue, Value, hydrate,
    marks::{ExpandMark, Mark},
    transaction::{CommitOptions, Transactable},
};

use super::rng::Rng;

/// What a history is made of.
#[derive(Clone, Copy)]
pub enum Style {
    /// Everything that Automerge can do.
    Mixed,
    /// Mostly typing into one long text.
    Text,
}

/// A document with its whole history, as one of its peers has it in the end.
pub fn document(seed: u64, edits: usize, style: Style) -> AutoCommit {
    let mut rng = Rng(seed);
    let mut first = AutoCommit::new().with_actor(actor(&mut rng));
    if rng.one_in(4) {
        first.set_author(Some(Author::from(rng.bytes(8))));
    }
    let mut peers = vec![first];
    for _ in 1..1 + rng.below(4) {
        let fork = peers[0].fork();
        peers.push(fork.with_actor(actor(&mut rng)));
    }
    for _ in 0..edits {
        let peer = rng.below(peers.len());
        match style {
            Style::Mixed => edit(&mut rng, &mut peers[peer]),
            Style::Text => type_text(&mut rng, &mut peers[peer]),
        }
        if rng.one_in(3) {
            commit(&mut rng, &mut peers[peer]);
        }
        if rng.one_in(8) {
            let other = rng.below(peers.len());
            merge(&mut peers, peer, other);
        }
        if rng.one_in(40) {
            time_travel(&mut rng, &mut peers[peer]);
        }
        if rng.one_in(30) {
            let renewed = actor(&mut rng);
            peers[peer].set_actor(renewed);
        }
    }
    for other in 1..peers.len() {
        merge(&mut peers, 0, other);
    }
    if rng.one_in(2) {
        peers[0].empty_change(CommitOptions::default().with_message("joined"));
    }
    peers.swap_remove(0)
}

fn merge(peers: &mut [AutoCommit], into: usize, from: usize) {
    if into != from {
        let mut copy = peers[from].fork();
        peers[into].merge(&mut copy).unwrap();
    }
}

fn actor(rng: &mut Rng) -> ActorId {
    let len = *rng.pick(&[16, 16, 16, 4, 8, 32, 33, 48]);
    ActorId::from(rng.bytes(len))
}

fn commit(rng: &mut Rng, doc: &mut AutoCommit) {
    let mut options = CommitOptions::default();
    if rng.one_in(3) {
        options.set_time(*rng.pick(&[0, 1, -1, 1_700_000_000, 1_700_000_000_000_000_000]));
    }
    if rng.one_in(3) {
        options.set_message(*rng.pick(&["", "a message", "eine Änderung ✓"]));
    }
    if rng.one_in(10) {
        doc.empty_change(options);
    } else {
        doc.commit_with(options);
    }
}

/// Edits an old version, as `changeAt` does, under an actor of its own: Automerge 0.12 panics later on if
/// the actor's own last change is not part of that old version, which it does not always notice.
fn time_travel(rng: &mut Rng, doc: &mut AutoCommit) {
    let hashes: Vec<ChangeHash> = doc.get_changes(&[]).iter().map(automerge::Change::hash).collect();
    if hashes.is_empty() {
        return;
    }
    let before = doc.get_actor().clone();
    doc.set_actor(actor(rng));
    let heads = [*rng.pick(&hashes)];
    doc.isolate(&heads);
    for _ in 0..1 + rng.below(3) {
        doc.put(ROOT, *rng.pick(&["a", "b", "old"]), value(rng)).unwrap();
    }
    doc.commit();
    doc.integrate();
    doc.set_actor(before);
}

pub fn value(rng: &mut Rng) -> ScalarValue {
    match rng.below(16) {
        0 => ScalarValue::Null,
        1 => ScalarValue::Boolean(rng.one_in(2)),
        2 => ScalarValue::Uint(rng.next() >> rng.below(64)),
        3 => ScalarValue::Int(rng.next().cast_signed() >> rng.below(64)),
        4 => ScalarValue::F64(*rng.pick(&[0.0, -0.5, 1e300, f64::INFINITY, f64::NAN])),
        5 => ScalarValue::Str("".into()),
        6 => ScalarValue::Str("x".repeat(rng.below(200)).into()),
        7 => ScalarValue::Str("čau 👋🏽".into()),
        8 => {
            let len = rng.below(300);
            ScalarValue::Bytes(rng.bytes(len))
        }
        9 => ScalarValue::counter(i64::from(rng.next().to_le_bytes()[0]) - 128),
        10 => ScalarValue::Timestamp(rng.next().cast_signed() >> rng.below(64)),
        11 => ScalarValue::Int(i64::MIN),
        12 => ScalarValue::Uint(u64::MAX),
        _ => ScalarValue::Int(1),
    }
}

/// Debug builds of Automerge compare marks, and a NaN is not equal to itself.
fn mark_value(rng: &mut Rng) -> ScalarValue {
    match value(rng) {
        ScalarValue::F64(number) if number.is_nan() => ScalarValue::F64(0.0),
        value => value,
    }
}

fn tree(rng: &mut Rng, depth: usize) -> hydrate::Value {
    match rng.below(if depth == 0 { 1 } else { 4 }) {
        0 => hydrate::Value::Scalar(value(rng)),
        1 => {
            let map: Vec<_> =
                (0..rng.below(4)).map(|i| (["x", "y", "z", ""][i], tree(rng, depth - 1))).collect();
            hydrate::Value::Map(map.into_iter().collect::<std::collections::HashMap<_, _>>().into())
        }
        2 => {
            let list: Vec<_> = (0..rng.below(4)).map(|_| tree(rng, depth - 1)).collect();
            hydrate::Value::List(list.into())
        }
        _ => hydrate::Value::text(automerge::TextEncoding::platform_default(), "written at once"),
    }
}

const KEYS: [&str; 8] = ["a", "b", "c", "list", "text", "a longer key that takes more room", "ključ", ""];

/// An object somewhere in the document, at random.
fn object(rng: &mut Rng, doc: &AutoCommit) -> (ObjId, ObjType) {
    let mut object = (ROOT, ObjType::Map);
    for _ in 0..rng.below(5) {
        let next = match object.1 {
            ObjType::Map | ObjType::Table => doc.get(&object.0, *rng.pick(&KEYS)),
            ObjType::List | ObjType::Text => doc.get(&object.0, rng.below(doc.length(&object.0))),
        };
        match next.unwrap() {
            Some((Value::Object(object_type), id)) => object = (id, object_type),
            _ => break,
        }
    }
    object
}

fn new_object(rng: &mut Rng) -> ObjType {
    *rng.pick(&[ObjType::Map, ObjType::List, ObjType::Text])
}

fn edit(rng: &mut Rng, doc: &mut AutoCommit) {
    let (object, object_type) = object(rng, doc);
    match object_type {
        ObjType::Map | ObjType::Table => edit_map(rng, doc, &object),
        ObjType::List => edit_list(rng, doc, &object),
        ObjType::Text => edit_text(rng, doc, &object),
    }
}

fn edit_map(rng: &mut Rng, doc: &mut AutoCommit, object: &ObjId) {
    let key = *rng.pick(&KEYS);
    match rng.below(8) {
        0..=2 => doc.put(object, key, value(rng)).unwrap(),
        3 | 4 => drop(doc.put_object(object, key, new_object(rng)).unwrap()),
        5 => doc.delete(object, key).unwrap(),
        6 => drop(doc.increment(object, key, i64::from(rng.next().to_le_bytes()[0]) - 100)),
        _ => {
            let tree = tree(rng, 3);
            drop(doc.batch_create_object(object, key, &tree, false));
        }
    }
}

fn edit_list(rng: &mut Rng, doc: &mut AutoCommit, object: &ObjId) {
    let len = doc.length(object);
    let at = rng.below(len);
    match rng.below(9) {
        0..=2 => doc.insert(object, rng.below(len + 1), value(rng)).unwrap(),
        3 => drop(doc.insert_object(object, rng.below(len + 1), new_object(rng)).unwrap()),
        4 if len > 0 => doc.put(object, at, value(rng)).unwrap(),
        5 if len > 0 => doc.delete(object, at).unwrap(),
        6 if len > 0 => drop(doc.increment(object, at, 3)),
        7 => {
            let values: Vec<_> = (0..rng.below(6)).map(|_| tree(rng, 2)).collect();
            let delete = rng.below(len - at + 1).min(3).cast_signed();
            doc.splice(object, at, delete, values).unwrap();
        }
        _ => {
            let same = value(rng);
            for _ in 0..rng.below(5) {
                doc.insert(object, 0, same.clone()).unwrap();
            }
        }
    }
}

const EXPAND: [ExpandMark; 4] = [ExpandMark::None, ExpandMark::Before, ExpandMark::After, ExpandMark::Both];

fn edit_text(rng: &mut Rng, doc: &mut AutoCommit, object: &ObjId) {
    let len = doc.length(object);
    let at = rng.below(len + 1);
    match rng.below(10) {
        0..=4 => {
            let delete = rng.below((len - at).min(4) + 1).cast_signed();
            doc.splice_text(object, at, delete, rng.pick::<&str>(&["a", "hello", "", "👋🏽é", "nnnnnnn"]))
                .unwrap();
        }
        5 | 6 => {
            let end = at + rng.below(len - at + 1);
            let mark = Mark::new((*rng.pick(&["bold", "link", ""])).to_owned(), mark_value(rng), at, end);
            doc.mark(object, mark, *rng.pick(&EXPAND)).unwrap();
        }
        7 => {
            let end = at + rng.below(len - at + 1);
            doc.unmark(object, "bold", at, end, *rng.pick(&EXPAND)).unwrap();
        }
        8 => {
            let block = doc.split_block(object, at).unwrap();
            doc.put(&block, "type", "paragraph").unwrap();
        }
        _ => doc.update_text(object, rng.pick(&["hello world", "hallo Welt", ""])).unwrap(),
    }
}

fn type_text(rng: &mut Rng, doc: &mut AutoCommit) {
    let text = match doc.get(ROOT, "text").unwrap() {
        Some((Value::Object(ObjType::Text), id)) => id,
        _ => doc.put_object(ROOT, "text", ObjType::Text).unwrap(),
    };
    let len = doc.length(&text);
    let at = if rng.one_in(3) { len } else { rng.below(len + 1) };
    let delete = if rng.one_in(4) { rng.below((len - at).min(30) + 1) } else { 0 };
    let typed: String =
        (0..rng.below(40)).map(|_| *rng.pick(&['a', 'e', 'n', ' ', 'ž', '字', '\n'])).collect();
    doc.splice_text(&text, at, delete.cast_signed(), &typed).unwrap();
}
