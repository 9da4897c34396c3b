//! A program that ends with changes which are not acked, and another one that goes on with what was saved.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use automerge::ActorId;
use automerge::transaction::Transactable as _;
use common::{Member, Server, Told};
use etherply_client::{Client, Document, OpenOptions, Saved, Transport};
use etherply_wire::Rights;
use etherply_wire::kinds::resume;

fn options(document: &str) -> OpenOptions {
    let rights = Rights::READ.with(Rights::WRITE);
    OpenOptions { document: document.to_owned(), rights, token: None, cursor: None }
}

/// Another process: nothing is left of the first one but bytes.
fn restarted(server: &Server, bytes: &[u8], number: u8) -> (Member, etherply_client::StreamId) {
    let saved = Saved::decode(bytes, "ada").unwrap();
    let mut member = Member::connect(server, number % 2 == 1, number);
    let actor = ActorId::from(&[number; 16][..]);
    let document = Document::restore(&mut member.client, &saved, actor, options("")).unwrap();
    let stream = document.stream();
    member.documents.insert(stream, document);
    (member, stream)
}

#[test]
fn edits_made_offline_survive_the_program_and_are_stored_once() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut first = Member::connect(&server, false, 1);
    let stream = first.open("notes");
    first.put_durably(stream, "online", "1");
    drop(server);
    // The server is gone; edits go on, and nobody sends them.
    let document = first.documents.get_mut(&stream).unwrap();
    for number in 0..5 {
        document.doc().put(automerge::ROOT, format!("offline/{number}"), "2").unwrap();
        document.push(&mut first.client, 10 + number).unwrap();
    }
    let bytes = document.save(&mut first.client, "ada", 1).unwrap().encode().unwrap();
    drop(first);

    let server = Server::start(data.path());
    let (mut second, stream) = restarted(&server, &bytes, 2);
    let opened = second.until(|told| matches!(told, Told::Opened { .. }));
    assert!(matches!(opened, Told::Opened { resume: resume::CURSOR, .. }), "{opened:?}");
    for number in 0..5 {
        let acked = second.until(|told| matches!(told, Told::Acked { .. }));
        assert_eq!(acked, Told::Acked { tag: 10 + number, added: 1 });
    }
    // It goes on under its own actor, on top of what the first one wrote.
    second.put_durably(stream, "second", "3");
    assert_eq!(second.contents(stream).len(), 7);
    let mut fresh = Member::connect(&server, true, 3);
    let read = fresh.open("notes");
    assert_eq!(fresh.until_keys(read, 7), second.contents(stream));
    let deps = |member: &mut Member, stream| member.documents.get_mut(&stream).unwrap().doc().get_heads();
    assert_eq!(deps(&mut fresh, read), deps(&mut second, stream));
    assert_eq!(deps(&mut fresh, read).len(), 1, "one history, no branches");

    // The same file once more, as by a clone of the device: the server has it all.
    let (mut third, stream) = restarted(&server, &bytes, 4);
    for number in 0..5 {
        let acked = third.until(|told| matches!(told, Told::Acked { .. }));
        assert_eq!(acked, Told::Acked { tag: 10 + number, added: 0 });
    }
    third.put_durably(stream, "third", "4");
    assert_eq!(third.until_keys(stream, 8).len(), 8);
}

#[test]
fn an_outbox_without_a_copy_of_the_document_is_enough_to_lose_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut first = Member::connect(&server, false, 1);
    let stream = first.open("notes");
    (0..3).for_each(|number| first.put_durably(stream, &format!("online/{number}"), "1"));
    // Sent, and the program dies before it hears of the acks; or never sent at all.
    first.put(stream, "sent", "2");
    let document = first.documents.get_mut(&stream).unwrap();
    document.doc().put(automerge::ROOT, "unsent", "3").unwrap();
    document.push(&mut first.client, 9).unwrap();
    let saved = first.client.save(stream, "ada").unwrap();
    assert_eq!((saved.pushes.len(), saved.copy.is_none()), (2, true));
    let bytes = saved.encode().unwrap();
    drop(first);
    server.kill();

    let server = Server::start(data.path());
    let (mut second, stream) = restarted(&server, &bytes, 2);
    second.until(|told| matches!(told, Told::Acked { tag: 9, added: 1 }));
    // The document comes from the server; the restored edits fit in once their basis is there.
    assert_eq!(second.until_keys(stream, 5).len(), 5);
    second.put_durably(stream, "second", "4");
    let mut fresh = Member::connect(&server, true, 3);
    let read = fresh.open("notes");
    assert_eq!(fresh.until_keys(read, 6), second.contents(stream));
}

#[test]
fn what_one_owner_saved_is_given_to_no_other() {
    let mut client = Client::new(Transport::Tcp, "test", 1);
    let stream = client.open(options("notes")).unwrap();
    let bytes = client.save(stream, "ada").unwrap().encode().unwrap();
    assert!(Saved::decode(&bytes, "ben").unwrap_err().to_string().contains("another owner"));
}
