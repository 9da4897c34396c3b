//! A server that goes on with an older copy of its log, as its operator put it back. The simulator found each.
#![allow(clippy::unwrap_used)]

mod common;

use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, Change, ROOT, ReadDoc};
use common::{HANDLE, opens};
use etherply_client::{Client, Document, DocumentError, Event, OpenOptions, Rights, Transport};
use etherply_wire::frame::frame_length;
use etherply_wire::kinds::{Ack, Changes, Cursor, Push, resume};
use etherply_wire::{Frame, Kind, MAGIC, encode};

fn cursor(seq: u64) -> Cursor {
    Cursor { epoch: 1, seq, chain: [1; 32] }
}

fn options() -> OpenOptions {
    let rights = Rights::READ.with(Rights::WRITE);
    OpenOptions { document: "d".into(), rights, token: None, cursor: None }
}

/// Takes bytes of the server; how many acks were told.
fn hear(client: &mut Client, document: &mut Document, bytes: &[u8]) -> usize {
    let (mut acks, mut bytes) = (0, bytes.to_vec());
    let on = &mut |event: &Event<'_>| acks += usize::from(matches!(event, Event::Acked { .. }));
    document.input(client, &mut bytes, 0, 1, on).unwrap();
    acks
}

/// Numbers of the pushes that the client sends now.
fn pushes(client: &mut Client) -> Vec<u64> {
    let mut bytes = Vec::new();
    client.output(&mut bytes, 0);
    let mut numbers = Vec::new();
    let mut rest = bytes.strip_prefix(&MAGIC).unwrap_or(&bytes);
    while let Some(length) = frame_length(rest, 1 << 20).unwrap() {
        let (frame, behind) = rest.split_at(length);
        rest = behind;
        let frame = Frame::parse(frame).unwrap().unwrap();
        if frame.kind() == Some(Kind::Push) {
            numbers.push(frame.body::<Push>().unwrap().push.to_native());
        }
    }
    numbers
}

/// A member with an edit that is acked behind one of another member, which has not come.
fn member() -> (Client, Document) {
    let mut client = Client::new(Transport::Tcp, "test", 1);
    let mut document = Document::new(client.open(options()).unwrap(), ActorId::from([1; 16]));
    client.connect(0).unwrap();
    hear(&mut client, &mut document, &opens(1, resume::START, cursor(1)));
    document.doc().put(ROOT, "own", "edit").unwrap();
    document.push(&mut client, 1).unwrap();
    assert_eq!(pushes(&mut client), [1]);
    let ack = Ack { push: 1, after_seq: 1, cursor: cursor(2), positions: vec![2] };
    assert_eq!(hear(&mut client, &mut document, &encode(HANDLE, &ack, &[])), 1);
    (client, document)
}

fn changes(change: &Change) -> Vec<u8> {
    let lengths = vec![u32::try_from(change.raw_bytes().len()).unwrap()];
    encode(HANDLE, &Changes { after_seq: 0, cursor: cursor(1), lengths }, &[change.raw_bytes()])
}

fn edit(actor: [u8; 16], key: &str) -> Change {
    let mut doc = AutoCommit::new().with_actor(ActorId::from(actor));
    doc.put(ROOT, key, "edit").unwrap();
    doc.get_last_local_change().unwrap()
}

#[test]
fn an_edit_that_was_acked_behind_what_never_came_is_there_again() {
    let (mut client, mut document) = member();
    client.disconnected();
    client.connect(0).unwrap();
    // Nothing tells the member that the log is another one: what it has come to is in it.
    hear(&mut client, &mut document, &opens(2, resume::START, cursor(0)));
    assert_eq!(pushes(&mut client), [1]);
    let ack = Ack { push: 1, after_seq: 0, cursor: cursor(1), positions: vec![1] };
    assert_eq!(hear(&mut client, &mut document, &encode(HANDLE, &ack, &[])), 0, "it was told before");
    assert_eq!(client.unacked(document.stream()).count(), 0);
    client.disconnected();
    client.connect(0).unwrap();
    hear(&mut client, &mut document, &opens(3, resume::CURSOR, cursor(1)));
    assert_eq!(pushes(&mut client), [0; 0], "the member has come to it");
}

#[test]
fn an_edit_that_was_acked_is_not_sent_again_once_everything_before_it_has_come() {
    let (mut client, mut document) = member();
    hear(&mut client, &mut document, &changes(&edit([9; 16], "others")));
    client.disconnected();
    client.connect(0).unwrap();
    hear(&mut client, &mut document, &opens(2, resume::CURSOR, cursor(2)));
    assert_eq!(pushes(&mut client), [0; 0]);
}

#[test]
fn a_copy_that_the_server_contradicts_starts_over_and_keeps_its_edits() {
    let (mut client, mut document) = member();
    client.disconnected();
    client.connect(0).unwrap();
    hear(&mut client, &mut document, &opens(2, resume::START, cursor(1)));
    // Somebody else came first with a change of the same actor and number.
    let other = edit([1; 16], "others");
    hear(&mut client, &mut document, &changes(&other));
    assert!(matches!(document.apply(), Err(DocumentError::Contradicts(_))));
    let before = document.stream();
    document.start_over(&mut client, options()).unwrap();
    assert!(document.is_resetting() && document.stream() != before);
    assert!(document.rewrite(&client).unwrap().is_none(), "nobody knows yet how far the document goes");
    client.disconnected();
    client.connect(0).unwrap();
    hear(&mut client, &mut document, &opens(4, resume::START, cursor(1)));
    assert!(document.rewrite(&client).unwrap().is_none(), "it is not there yet");
    hear(&mut client, &mut document, &changes(&other));
    assert_eq!(document.rewrite(&client).unwrap().map(|done| done.rewritten), Some(1));
    for key in ["own", "others"] {
        assert!(document.doc().get(ROOT, key).unwrap().is_some(), "{key}");
    }
    assert_eq!(document.push(&mut client, 2), Ok(1));
}
