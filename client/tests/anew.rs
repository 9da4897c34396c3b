//! A document that begins anew while a member has nothing of it but its own changes, and again before the new copy
//! is there. The simulator found both.
#![allow(clippy::unwrap_used)]

use automerge::transaction::Transactable;
use automerge::{ActorId, ROOT, ReadDoc};
use etherply_client::{Client, Document, Event, OpenOptions, Rights, Transport};
use etherply_wire::kinds::{Ack, Changes, Cursor, Opened, Welcome, resume};
use etherply_wire::{PROTOCOL, encode};

const HANDLE: u32 = 5;

fn cursor(epoch: u64, seq: u64) -> Cursor {
    Cursor { epoch, seq, chain: [u8::try_from(epoch).unwrap(); 32] }
}

/// Connects; the server opens the document at this place, as its beginning.
fn connect(client: &mut Client, document: &mut Document, request: u32, at: Cursor) -> bool {
    client.connect(0).unwrap();
    let welcome = Welcome {
        protocol: PROTOCOL,
        capabilities: 0,
        session: [1; 16],
        server_time_ms: 0,
        agent: String::new(),
        limits: Vec::new(),
    };
    let rights = Rights::READ.with(Rights::WRITE).0;
    let opened = Opened { request, rights, resume: resume::START, expires_at_ms: 0, cursor: at };
    hear(client, document, &[encode(0, &welcome, &[]), encode(HANDLE, &opened, &[])].concat())
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
    assert_eq!((client.cursor(document.stream()), client.unacked(document.stream()).count()), (None, 0));
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
    let mut other = automerge::AutoCommit::new().with_actor(ActorId::from([9; 16]));
    other.put(ROOT, "others", "edit").unwrap();
    let change = other.get_last_local_change().unwrap();
    let lengths = vec![u32::try_from(change.raw_bytes().len()).unwrap()];
    let changes = Changes { after_seq: 0, cursor: cursor(3, 1), lengths };
    hear(&mut client, &mut document, &encode(HANDLE, &changes, &[change.raw_bytes()]));
    assert_eq!(rewritten(&client, &mut document), Some(1));
    assert!(document.doc().get(ROOT, "others").unwrap().is_some());
}
