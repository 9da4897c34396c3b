//! What a client does not even send, at the edges of each limit; and what it takes from a server.

use etherply_client::limits::SNAPSHOT_BYTES_MAX;
use etherply_client::{ClientError, RequestError, ServerLimits, StreamId};
use etherply_wire::encode_into;
use etherply_wire::kinds::{ClockEntry, Cursor, Snapshot};
use etherply_wire::limits::{
    BROADCAST_BYTES_MAX, BROADCAST_TOPIC_BYTES_MAX, CHANGE_BYTES_MAX, CLOCK_ENTRIES_MAX,
    DOCUMENT_ID_BYTES_MAX, PRESENCE_BYTES_MAX, PUSH_BYTES_MAX, PUSH_CHANGES_MAX, SNAPSHOT_CHUNK_BYTES_MAX,
    STREAMS_MAX, TOKEN_BYTES_MAX,
};

use super::*;

fn client() -> (Client, StreamId) {
    let mut client = Client::new(Transport::Tcp, "test", 1);
    let stream = client.open(options("doc")).unwrap();
    (client, stream)
}

fn options(document: &str) -> OpenOptions {
    OpenOptions { document: document.into(), rights: Rights::READ, token: None, cursor: None }
}

/// One below a limit, at it, and above it.
fn at_edges(max: usize, mut refused: impl FnMut(usize) -> bool) {
    assert_eq!([max - 1, max, max + 1].map(&mut refused), [false, false, true], "around {max}");
}

#[test]
fn names_and_tokens() {
    let open = |document: usize, token: usize| {
        let token = Some("t".repeat(token));
        client().0.open(OpenOptions { token, ..options(&"d".repeat(document)) })
    };
    at_edges(DOCUMENT_ID_BYTES_MAX, |bytes| open(bytes, 1) == Err(RequestError::NameInvalid));
    at_edges(TOKEN_BYTES_MAX, |bytes| open(1, bytes) == Err(RequestError::NameInvalid));
    assert_eq!(open(0, 1), Err(RequestError::NameInvalid));
    // A renewed token waits for no connection.
    let renew = |bytes: usize| {
        let (mut client, stream) = client();
        client.renew(stream, "t".repeat(bytes))
    };
    at_edges(TOKEN_BYTES_MAX, |bytes| renew(bytes) == Err(RequestError::NameInvalid));
}

#[test]
fn open_documents() {
    let mut client = Client::new(Transport::Tcp, "test", 1);
    for _ in 0..STREAMS_MAX {
        client.open(options("doc")).unwrap();
    }
    assert_eq!(client.open(options("doc")), Err(RequestError::TooManyStreams { max: STREAMS_MAX }));
    assert_eq!(ServerLimits::default().streams_max, STREAMS_MAX);
}

#[test]
fn pushes() {
    let push = |changes: &[&[u8]]| {
        let (mut client, stream) = client();
        client.push(stream, changes, 1).is_err()
    };
    assert!(push(&[]));
    at_edges(PUSH_CHANGES_MAX, |changes| push(&vec![&[0u8][..]; changes]));
    at_edges(CHANGE_BYTES_MAX, |bytes| push(&[&vec![0; bytes]]));
    // As many bytes in two changes, neither of which is too long.
    at_edges(PUSH_BYTES_MAX, |bytes| push(&[&vec![0; CHANGE_BYTES_MAX], &vec![0; bytes - CHANGE_BYTES_MAX]]));
}

#[test]
fn presence_and_broadcasts() {
    let too_large = |result: Result<(), RequestError>| matches!(result, Err(RequestError::TooLarge { .. }));
    let (mut client, stream) = client();
    at_edges(PRESENCE_BYTES_MAX, |bytes| too_large(client.set_presence(stream, &vec![0; bytes], 5_000)));
    at_edges(BROADCAST_BYTES_MAX, |bytes| too_large(client.broadcast(stream, "t", &vec![0; bytes])));
    let topic = |bytes: usize| "t".repeat(bytes);
    at_edges(BROADCAST_TOPIC_BYTES_MAX, |bytes| too_large(client.broadcast(stream, &topic(bytes), b"")));
}

#[test]
fn clocks() {
    let clock = |entries: usize| vec![ClockEntry { actor: vec![1], seq: 1, hash: [0; 32] }; entries];
    let (mut client, stream) = client();
    at_edges(CLOCK_ENTRIES_MAX, |entries| {
        // Within the limit it is refused because nobody asked.
        client.reconcile(stream, &clock(entries), &[], 0) != Err(RequestError::NotAsked)
    });
}

#[test]
fn snapshots_of_the_server() {
    let take = |total: usize, piece: usize| {
        let mut world = World::new(1);
        world.connect(0);
        (0..3).for_each(|_| world.exchange(0, usize::MAX));
        let conn = world.conns[0].as_mut().unwrap();
        let cursor = Cursor { epoch: 1, seq: 5, chain: [1; 32] };
        let frame = Snapshot { cursor, total_bytes: total as u64, offset: 0 };
        conn.send(|out| encode_into(out, 7, &frame, &[&vec![0; piece]]));
        let taken = world.members[0].client.input(&mut conn.output, 0, &mut |_| {});
        assert!(matches!(taken, Ok(()) | Err(ClientError::Violation(_))), "{taken:?}");
        taken.is_err()
    };
    at_edges(SNAPSHOT_BYTES_MAX, |total| take(total, 1));
    at_edges(SNAPSHOT_CHUNK_BYTES_MAX, |piece| take(SNAPSHOT_BYTES_MAX, piece));
}
