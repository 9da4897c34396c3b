//! A stream that ends right behind a question. The simulator found it.
#![allow(clippy::unwrap_used)]

mod common;

use automerge::ActorId;
use automerge::transaction::Transactable;
use common::{HANDLE, opens};
use etherply_client::{Client, Document, Event, OpenOptions, Rights, StreamState, Transport};
use etherply_wire::kinds::{Close, Cursor, Reconcile, Refused, resume};
use etherply_wire::{ErrorCode, encode};

const EMPTY: Cursor = Cursor { epoch: 1, seq: 0, chain: [1; 32] };

/// A member with an edit of its own, whose document the server opens in this way, and ends behind what it says.
fn ended(how: u8, question: &[u8]) -> Result<Vec<&'static str>, String> {
    let mut client = Client::new(Transport::Tcp, "test", 1);
    let rights = Rights::READ.with(Rights::WRITE);
    let options = OpenOptions { document: "d".into(), rights, token: None, cursor: None };
    let mut document = Document::new(client.open(options).unwrap(), ActorId::from([1; 16]));
    document.doc().put(automerge::ROOT, "own", "edit").unwrap();
    document.push(&mut client, 1).unwrap();
    client.connect(0).unwrap();
    let close = Close { code: ErrorCode::DocumentDeleted as u16, message: String::new() };
    let mut heard = Vec::new();
    let mut hear = |client: &mut Client, document: &mut Document, frames: &[Vec<u8>]| {
        let mut on = |event: &Event<'_>| match event {
            Event::Reconcile { .. } => heard.push("reconcile"),
            Event::Refused { .. } => heard.push("refused"),
            Event::Closed { .. } => heard.push("closed"),
            _ => {}
        };
        document.input(client, &mut frames.concat(), 0, 1, &mut on).map_err(|error| error.to_string())
    };
    hear(&mut client, &mut document, &[opens(1, how, EMPTY)])?;
    client.output(&mut Vec::new(), 0);
    hear(&mut client, &mut document, &[question.to_vec(), encode(HANDLE, &close, &[])])?;
    assert_eq!(client.state(document.stream()), Some(StreamState::Closed));
    Ok(heard)
}

#[test]
fn what_is_asked_right_before_the_end_needs_no_answer() {
    let question = encode(HANDLE, &Reconcile { cursor: EMPTY, more: false, clock: Vec::new() }, &[]);
    assert_eq!(ended(resume::RECONCILE, &question), Ok(vec!["reconcile", "closed"]));
    let refused = Refused {
        push: 1,
        // It was numbered anew when the document was opened.
        generation: 2,
        index: 0,
        code: ErrorCode::MissingDependencies as u16,
        retry_after_ms: 0,
        message: String::new(),
        clock_complete: true,
        clock: Vec::new(),
    };
    assert_eq!(ended(resume::START, &encode(HANDLE, &refused, &[])), Ok(vec!["refused", "closed"]));
}
