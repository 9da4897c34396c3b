use std::sync::Arc;

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, Automerge, Change, ObjType, ROOT, ReadDoc, ScalarValue};
use bytes::Bytes;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::ChangeHash;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, FIRST_EPOCH, Log};
use etherply_engine::record::Record;
use serde_json::json;

use super::*;
use crate::storage::{self, FjallLog};

fn document() -> DocumentId {
    DocumentId::new("boards/42").unwrap()
}

/// Two authors who write beside each other and merge now and then: every kind of value, in the order in which
/// a server might have stored the changes.
fn session() -> Vec<Change> {
    let mut ada = AutoCommit::new().with_actor(ActorId::from(vec![1; 16]));
    let cards = ada.put_object(ROOT, "cards", ObjType::List).unwrap();
    let text = ada.put_object(ROOT, "text", ObjType::Text).unwrap();
    ada.put(ROOT, "votes", ScalarValue::counter(3)).unwrap();
    ada.commit_with(CommitOptions::default().with_message("begin").with_time(1_700_000_000));
    let mut bob = ada.fork().with_actor(ActorId::from(vec![2; 16]));
    for round in 0..12_i64 {
        let length = ada.length(&text);
        ada.splice_text(&text, length, 0, &format!("ä{round} ")).unwrap();
        ada.increment(ROOT, "votes", round).unwrap();
        ada.commit();
        bob.insert(&cards, 0, round).unwrap();
        if round % 3 == 2 {
            bob.delete(&cards, 1).unwrap();
            bob.splice_text(&text, 0, 1, "B").unwrap();
        }
        bob.put(ROOT, "last", ScalarValue::Bytes(vec![1, 2, 3])).unwrap();
        bob.commit();
        if round % 4 == 3 {
            ada.merge(&mut bob).unwrap();
            bob.merge(&mut ada).unwrap();
        }
    }
    ada.delete(ROOT, "last").unwrap();
    ada.commit_with(CommitOptions::default().with_message("tidy up"));
    ada.merge(&mut bob).unwrap();
    ada.get_changes(&[])
}

fn store(path: &std::path::Path, changes: &[Change]) -> FjallLog {
    let mut chain = chain_start(&document(), FIRST_EPOCH);
    let records = changes.iter().zip(1..).map(|(change, seq)| {
        let hash = ChangeHash(change.hash().0);
        chain = chain_next(&chain, seq, &hash);
        let (max_op, pusher, time_ms) = (change.max_op(), Arc::from("ada@example.org"), 1_000 + seq);
        let change = Bytes::copy_from_slice(change.raw_bytes());
        Record { seq, hash, chain, max_op, time_ms, pusher, change }
    });
    let append = Append { document: document(), epoch: FIRST_EPOCH, records: records.collect() };
    let mut log = storage::open(path).unwrap();
    log.commit(&[append]).unwrap();
    log
}

/// A document with the first changes alone.
fn prefix(changes: &[Change], position: usize) -> Automerge {
    let mut prefix = Automerge::new();
    prefix.apply_changes(changes[..position].to_vec()).unwrap();
    prefix
}

fn open(log: &FjallLog) -> History {
    History::open(log.reader(), &document()).unwrap().unwrap()
}

#[test]
fn every_position_is_what_the_first_changes_make() {
    let folder = tempfile::tempdir().unwrap();
    let changes = session();
    let log = store(folder.path(), &changes);
    let history = open(&log);
    assert_eq!((history.last_position(), history.epoch()), (changes.len() as u64, FIRST_EPOCH));
    for position in 0..=changes.len() {
        let expected = prefix(&changes, position);
        let at = At::Position(position as u64);
        assert_eq!(history.heads(&at).unwrap(), expected.get_heads(), "position {position}");
        assert_eq!(history.json(&at).unwrap(), json::value(&expected.hydrate(None)), "position {position}");
        let by_heads = At::Heads(expected.get_heads());
        assert_eq!(history.json(&by_heads).unwrap(), history.json(&at).unwrap());
        let loaded = Automerge::load(&history.automerge(&at).unwrap()).unwrap();
        assert_eq!(loaded.get_heads(), expected.get_heads());
    }
    let last = history.json(&At::Position(history.last_position())).unwrap();
    assert_eq!(last["votes"], json!(3 + (0..12).sum::<i64>()));
    assert!(last["text"].as_str().unwrap().contains("ä11"));
    let before = history.json(&At::Position(history.last_position() - 1)).unwrap();
    assert_eq!(before["last"], json!({ "$bytes": "AQID" }));
}

#[test]
fn entries_say_who_changed_what_when() {
    let folder = tempfile::tempdir().unwrap();
    let changes = session();
    let log = store(folder.path(), &changes);
    let history = open(&log);
    let mut entries = Vec::new();
    loop {
        let page = history.entries(entries.len() as u64, 10).unwrap();
        assert!(page.len() <= 10);
        if page.is_empty() {
            break;
        }
        entries.extend(page);
    }
    assert_eq!(entries.len(), changes.len());
    for ((entry, change), position) in entries.iter().zip(&changes).zip(1..) {
        assert_eq!((entry.position, entry.time_ms), (position, 1_000 + position));
        assert_eq!(
            (entry.hash.as_str(), entry.pusher.as_str()),
            (change.hash().to_string().as_str(), "ada@example.org")
        );
        assert_eq!(
            (entry.author.as_str(), entry.author_seq),
            (change.actor_id().to_hex_string().as_str(), change.seq())
        );
        assert_eq!((entry.message.as_deref(), entry.author_time_s), (change.message(), change.timestamp()));
        assert_eq!(entry.operations, change.len() as u64);
    }
    let page = history.entries(0, usize::MAX).unwrap();
    assert_eq!(page.len(), changes.len().min(ENTRIES_PER_PAGE_MAX));
}

#[test]
fn a_difference_leads_forwards_and_backwards() {
    let folder = tempfile::tempdir().unwrap();
    let mut doc = AutoCommit::new().with_actor(ActorId::from(vec![1; 16]));
    let cards = doc.put_object(ROOT, "cards", ObjType::List).unwrap();
    doc.commit();
    let card = doc.insert_object(&cards, 0, ObjType::Map).unwrap();
    doc.put(&card, "title", "hi").unwrap();
    doc.commit();
    doc.put(&card, "title", "hello").unwrap();
    doc.commit();
    let log = store(folder.path(), &doc.get_changes(&[]));
    let history = open(&log);
    let difference = |from, to| history.difference(&At::Position(from), &At::Position(to)).unwrap();
    assert_eq!(
        difference(1, 2),
        json!([
            { "path": ["cards", 0], "action": "insert", "values": [{}] },
            { "path": ["cards", 0, "title"], "action": "put", "value": "hi" },
        ])
    );
    assert_eq!(
        difference(2, 3),
        json!([{ "path": ["cards", 0, "title"], "action": "put", "value": "hello" }])
    );
    assert_eq!(difference(3, 2), json!([{ "path": ["cards", 0, "title"], "action": "put", "value": "hi" }]));
    assert_eq!(difference(3, 1), json!([{ "path": ["cards", 0], "action": "delete", "count": 1 }]));
    assert_eq!(difference(2, 2), json!([]));
}

#[test]
fn an_old_state_comes_back_as_one_more_change() {
    let folder = tempfile::tempdir().unwrap();
    let changes = session();
    let log = store(folder.path(), &changes);
    let history = open(&log);
    let last = history.last_position();
    for position in 0..last {
        let wanted = history.json(&At::Position(position)).unwrap();
        let made = history.restoring_change(&At::Position(position), &[9; 16], "back", 1_700_000_001);
        if wanted == history.json(&At::Position(last)).unwrap() {
            assert_eq!(made.unwrap_err().code(), "history_unchanged");
            continue;
        }
        let change = Change::from_bytes(made.unwrap()).unwrap();
        assert_eq!(change.deps(), history.heads(&At::Position(last)).unwrap());
        assert_eq!((change.message().unwrap(), change.timestamp()), ("back", 1_700_000_001));
        let mut restored = prefix(&changes, changes.len());
        restored.apply_changes([change]).unwrap();
        assert_eq!(json::value(&restored.hydrate(None)), wanted, "position {position}");
        assert_eq!(restored.get_changes(&[]).len(), changes.len() + 1);
    }
    assert_eq!(
        history.restoring_change(&At::Position(last), &[9; 16], "", 0).unwrap_err().code(),
        "history_unchanged"
    );
}

#[test]
fn what_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let changes = session();
    let log = store(folder.path(), &changes);
    let nothing = DocumentId::new("nothing").unwrap();
    assert!(History::open(log.reader(), &nothing).unwrap().is_none());
    let history = open(&log);
    let last = history.last_position();
    let error = history.json(&At::Position(last + 1)).unwrap_err();
    assert_eq!(error.code(), "history_no_such_position");
    assert_eq!(
        error.to_string(),
        format!("document boards/42 has no position {}: its last one is {last}", last + 1)
    );
    let strange = At::Heads(vec![automerge::ChangeHash([7; 32])]);
    assert_eq!(history.automerge(&strange).unwrap_err().code(), "history_no_such_change");
    assert_eq!(history.entries(last + 1, 1).unwrap_err().code(), "history_no_such_position");
}

#[test]
fn objects_nested_too_deep_are_an_error_and_nothing_recurses_into_them() {
    let mut doc = AutoCommit::new();
    let mut object = doc.put_object(ROOT, "in", ObjType::Map).unwrap();
    doc.commit();
    for _ in 0..20_000 {
        object = doc.put_object(&object, "in", ObjType::Map).unwrap();
    }
    doc.commit();
    doc.delete(ROOT, "in").unwrap();
    doc.commit();
    let folder = tempfile::tempdir().unwrap();
    let log = store(folder.path(), &doc.get_changes(&[]));
    let history = open(&log);
    let (before, deep, after) = (At::Position(1), At::Position(2), At::Position(3));
    assert_eq!(history.json(&deep).unwrap_err().code(), "history_too_deep");
    assert_eq!(history.difference(&before, &deep).unwrap_err().code(), "history_too_deep");
    assert_eq!(history.difference(&deep, &after).unwrap_err().code(), "history_too_deep");
    let restored = history.restoring_change(&At::Position(2), &[9; 16], "", 0);
    assert_eq!(restored.unwrap_err().code(), "history_too_deep");
    // The others are read as always, and the file holds it.
    assert_eq!(history.json(&before).unwrap(), json!({ "in": {} }));
    assert_eq!(history.json(&after).unwrap(), json!({}));
    assert_eq!(
        Automerge::load(&history.automerge(&deep).unwrap()).unwrap().get_heads(),
        history.heads(&deep).unwrap()
    );
}
