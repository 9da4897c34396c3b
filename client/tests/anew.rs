//! A document that begins anew while a member has nothing of it but its own changes, and again before the new copy
//! is there. The simulator found both.
#![allow(clippy::unwrap_used)]

mod common;

use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, Change, ObjType, ROOT, ReadDoc};
use common::{HANDLE, opens};
use etherply_client::{Client, Document, Event, OpenOptions, Rights, Saved, Transport};
use etherply_wire::encode;
use etherply_wire::kinds::{Ack, Changes, Cursor, resume};

fn cursor(epoch: u64, seq: u64) -> Cursor {
    Cursor { epoch, seq, chain: [u8::try_from(epoch).unwrap(); 32] }
}

/// Connects; the server opens the document at this place, as its beginning.
fn connect(client: &mut Client, document: &mut Document, request: u32, at: Cursor) -> bool {
    connect_by(client, document, request, at, resume::START)
}

fn connect_by(client: &mut Client, document: &mut Document, request: u32, at: Cursor, how: u8) -> bool {
    client.connect(0).unwrap();
    hear(client, document, &opens(request, how, at))
}

/// Takes bytes of the server; whether the copy is thrown away.
fn hear(client: &mut Client, document: &mut Document, bytes: &[u8]) -> bool {
    let mut is_reset = false;
    let mut bytes = bytes.to_vec();
    document
        .input(client, &mut bytes, 0, 1, &mut |event| is_reset |= matches!(event, Event::Reset { .. }))
        .unwrap();
    is_reset
}

/// A member whose own change was acked behind one of another member that never came.
fn member() -> (Client, Document) {
    let mut client = Client::new(Transport::Tcp, "test", 1);
    let rights = Rights::READ.with(Rights::WRITE);
    let options = OpenOptions { document: "d".into(), rights, token: None, cursor: None };
    let mut document = Document::new(client.open(options).unwrap(), ActorId::from([1; 16]));
    assert!(!connect(&mut client, &mut document, 1, cursor(1, 1)));
    document.doc().put(ROOT, "own", "edit").unwrap();
    document.push(&mut client, 1).unwrap();
    client.output(&mut Vec::new(), 0);
    let ack = Ack { push: 1, after_seq: 1, cursor: cursor(1, 2), positions: vec![2] };
    hear(&mut client, &mut document, &encode(HANDLE, &ack, &[]));
    let at = client.cursor(document.stream()).map(|at| (at.epoch, at.seq));
    assert_eq!((at, client.unacked(document.stream()).count()), (Some((1, 0)), 0));
    client.disconnected();
    (client, document)
}

/// Makes the own edits again, and tells how many there were.
fn rewritten(client: &Client, document: &mut Document) -> Option<usize> {
    document.rewrite(client).unwrap().map(|done| done.rewritten)
}

#[test]
fn an_own_change_that_was_acked_and_taken_out_does_not_stay_in_the_copy() {
    let (mut client, mut document) = member();
    assert!(connect(&mut client, &mut document, 2, cursor(2, 0)), "the copy is of an epoch that is over");
    assert_eq!(document.doc().get(ROOT, "own").unwrap(), None);
    assert_eq!(rewritten(&client, &mut document), Some(1));
    assert!(document.doc().get(ROOT, "own").unwrap().is_some());
    assert_eq!(document.doc().get_changes(&[]).len(), 1, "a change of its own, by a fresh actor");
    assert_ne!(document.doc().get_changes(&[])[0].actor_id(), &ActorId::from([1; 16]));
}

#[test]
fn the_same_epoch_keeps_the_copy() {
    let (mut client, mut document) = member();
    assert!(!connect(&mut client, &mut document, 2, cursor(1, 2)));
    assert!(document.doc().get(ROOT, "own").unwrap().is_some());
}

#[test]
fn a_document_that_begins_anew_twice_is_waited_for_where_it_stands_now() {
    let (mut client, mut document) = member();
    assert!(connect(&mut client, &mut document, 2, cursor(2, 3)));
    assert_eq!(rewritten(&client, &mut document), None, "it is not there yet");
    client.disconnected();
    connect(&mut client, &mut document, 3, cursor(3, 1));
    assert_eq!(rewritten(&client, &mut document), None);
    let mut other = AutoCommit::new().with_actor(ActorId::from([9; 16]));
    other.put(ROOT, "others", "edit").unwrap();
    sent(&mut client, &mut document, 3, &other.get_last_local_change().unwrap());
    assert_eq!(rewritten(&client, &mut document), Some(1));
    assert!(document.doc().get(ROOT, "others").unwrap().is_some());
}

#[test]
fn a_document_that_begins_anew_and_loses_its_end_is_waited_for_where_it_stands_now() {
    let (mut client, mut document) = member();
    assert!(connect(&mut client, &mut document, 2, cursor(2, 3)));
    client.disconnected();
    connect(&mut client, &mut document, 3, cursor(2, 1));
    assert_eq!(rewritten(&client, &mut document), None, "it is not there yet");
    let mut other = AutoCommit::new().with_actor(ActorId::from([9; 16]));
    other.put(ROOT, "others", "edit").unwrap();
    sent(&mut client, &mut document, 2, &other.get_last_local_change().unwrap());
    assert_eq!(rewritten(&client, &mut document), Some(1));
}

/// The program ends, and another goes on with what was saved.
fn another_program(client: &mut Client, document: &mut Document) -> (Client, Document) {
    let file = document.save(client, "me", 1).unwrap().encode().unwrap();
    let saved = Saved::decode(&file, "me").unwrap();
    let mut client = Client::new(Transport::Tcp, "test", 2);
    let rights = Rights::READ.with(Rights::WRITE);
    let options = OpenOptions { document: "d".into(), rights, token: None, cursor: None };
    let document = Document::restore(&mut client, &saved, ActorId::from([7; 16]), options).unwrap();
    (client, document)
}

#[test]
fn what_was_saved_without_a_position_knows_its_epoch() {
    let (mut client, mut document) = member();
    let (mut client, mut document) = another_program(&mut client, &mut document);
    assert!(connect(&mut client, &mut document, 1, cursor(2, 0)), "the copy is of an epoch that is over");
    assert_eq!(document.doc().get(ROOT, "own").unwrap(), None, "nobody else has it any more");
    let (mut client, mut document) = member();
    let (mut client, mut document) = another_program(&mut client, &mut document);
    assert!(!connect(&mut client, &mut document, 1, cursor(1, 2)), "the same epoch keeps the copy");
    assert!(document.doc().get(ROOT, "own").unwrap().is_some());
}

/// The server sends one change, which is all that the document has now.
fn sent(client: &mut Client, document: &mut Document, epoch: u64, change: &Change) {
    let lengths = vec![u32::try_from(change.raw_bytes().len()).unwrap()];
    let changes = Changes { after_seq: 0, cursor: cursor(epoch, 1), lengths };
    hear(client, document, &encode(HANDLE, &changes, &[change.raw_bytes()]));
}

/// What a document of one text says in one change by an actor.
fn written_anew(actor: &[u8], text: &str) -> Change {
    let mut doc = AutoCommit::new().with_actor(ActorId::from(actor));
    let id = doc.put_object(ROOT, "text", ObjType::Text).unwrap();
    doc.splice_text(&id, 0, 0, text).unwrap();
    doc.get_last_local_change().unwrap()
}

fn text(document: &mut Document) -> String {
    let (_, id) = document.doc().get(ROOT, "text").unwrap().unwrap();
    document.doc().text(&id).unwrap()
}

/// A member that wrote a text, which was acked, then a key, which was pushed or not, when the document began anew
/// with the text alone, written by this actor.
fn began_anew_with_the_text(actor: &[u8], is_pushed: bool) -> (Client, Document) {
    let (mut client, mut document) = member();
    connect(&mut client, &mut document, 2, cursor(1, 2));
    let mut other = AutoCommit::new().with_actor(ActorId::from([9; 16]));
    other.put(ROOT, "others", "edit").unwrap();
    sent(&mut client, &mut document, 1, &other.get_last_local_change().unwrap());
    document.apply().unwrap();
    let id = document.doc().put_object(ROOT, "text", ObjType::Text).unwrap();
    document.doc().splice_text(&id, 0, 0, "once").unwrap();
    document.push(&mut client, 1).unwrap();
    client.output(&mut Vec::new(), 0);
    let ack = Ack { push: 2, after_seq: 2, cursor: cursor(1, 3), positions: vec![3] };
    hear(&mut client, &mut document, &encode(HANDLE, &ack, &[]));
    document.doc().put(ROOT, "late", "edit").unwrap();
    if is_pushed {
        document.push(&mut client, 1).unwrap();
    }
    client.disconnected();
    assert!(connect_by(&mut client, &mut document, 3, cursor(2, 1), resume::RESET));
    sent(&mut client, &mut document, 2, &written_anew(actor, "once"));
    (client, document)
}

#[test]
fn an_acked_edit_is_not_made_again_in_a_squashed_document() {
    for is_pushed in [false, true] {
        let (client, mut document) = began_anew_with_the_text(b"squashed-by-them", is_pushed);
        assert_eq!(rewritten(&client, &mut document), Some(1), "what the server did not have");
        assert_eq!(text(&mut document), "once");
        assert!(document.doc().get(ROOT, "late").unwrap().is_some());
        assert_eq!(document.doc().get(ROOT, "own").unwrap(), None, "if it is gone, the squash lacked it");
    }
}

#[test]
fn an_acked_edit_is_made_again_where_all_was_taken_out_and_another_was_quicker() {
    let (client, mut document) = began_anew_with_the_text(&[9; 16], true);
    assert_eq!(rewritten(&client, &mut document), Some(3));
    assert!(document.doc().get(ROOT, "own").unwrap().is_some());
    assert!(document.doc().get(ROOT, "late").unwrap().is_some());
}
