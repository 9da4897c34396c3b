//! A data directory with very many documents, and members that open some of them: how long a start takes and
//! what memory it needs.
//!
//! ```text
//! million fill DIR --documents 1000000      writes the directory
//! million open HOST:PORT --documents 10000  opens the first of them, says when all are open, and waits
//! million join HOST:PORT --times 100        joins the first one again and again, without a copy
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a tool for measurements")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Instant;

use automerge::transaction::Transactable as _;
use automerge::{AutoCommit, ROOT};
use bytes::Bytes;
use clap::Parser;
use etherply_client::{Client, Event, OpenOptions, Transport};
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::ChangeHash;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, FIRST_EPOCH, Log as _};
use etherply_engine::record::Record;
use etherply_server::storage;
use etherply_wire::Rights;

/// Documents that one connection opens.
const OPEN_PER_CONNECTION: u32 = 1_000;
/// Documents that are written in one commit.
const DOCUMENTS_PER_COMMIT: u32 = 1_000;

/// Says how long members without a copy wait for a document.
fn join(at: SocketAddr, times: usize) {
    let (mut first_ms, mut last_ms, mut bytes) = (Vec::new(), Vec::new(), 0);
    for time in 0..times {
        let (first, last, received) = join_once(at, time as u64);
        first_ms.push(first);
        last_ms.push(last);
        bytes = received;
    }
    println!(
        "{times} joins of {bytes} bytes, in ms from the open to the first byte of the document and to its last"
    );
    for (what, mut took) in [("first", first_ms), ("last", last_ms)] {
        took.sort_by(f64::total_cmp);
        let at = |share: usize| took.get((took.len() * share / 100).min(took.len() - 1)).unwrap();
        println!("{what}: p50 {:.2}  p90 {:.2}  max {:.2}", at(50), at(90), at(100));
    }
}

fn join_once(at: SocketAddr, seed: u64) -> (f64, f64, usize) {
    let mut socket = TcpStream::connect(at).expect("a server");
    socket.set_nodelay(true).unwrap();
    let mut client = Client::new(Transport::Tcp, "million", seed);
    client.connect(0).unwrap();
    let mut buffer = vec![0; 256 * 1024];
    let mut is_ready = false;
    while !is_ready {
        exchange(&mut client, &mut socket, &mut buffer, &mut |event| {
            is_ready |= matches!(event, Event::Ready { .. });
        });
    }
    let options = OpenOptions { document: name(0), rights: Rights::READ, token: None, cursor: None };
    client.open(options).expect("room");
    let started = Instant::now();
    let (mut end, mut has, mut received, mut first) = (None, 0, 0, None);
    while end != Some(has) {
        let read = exchange(&mut client, &mut socket, &mut buffer, &mut |event| match event {
            Event::Opened { cursor, .. } => end = Some(cursor.seq),
            Event::Snapshot { cursor, .. } => has = cursor.seq,
            Event::Changes { changes, .. } => has += changes.len() as u64,
            _ => {}
        });
        received += read;
        // The answer to the open comes first, and has less.
        if received > 512 && first.is_none() {
            first = Some(started.elapsed());
        }
    }
    let ms = |took: std::time::Duration| took.as_secs_f64() * 1_000.0;
    (ms(first.unwrap_or_else(|| started.elapsed())), ms(started.elapsed()), received)
}

fn exchange(
    client: &mut Client,
    socket: &mut TcpStream,
    buffer: &mut [u8],
    on: &mut dyn FnMut(Event<'_>),
) -> usize {
    let mut out = Vec::new();
    client.output(&mut out, 0);
    socket.write_all(&out).unwrap();
    let read = socket.read(buffer).unwrap();
    assert!(read > 0, "the server closed the connection");
    client.input(buffer.get_mut(..read).unwrap(), 0, on).unwrap();
    read
}

#[derive(Debug, Parser)]
enum Arguments {
    /// Writes a data directory.
    Fill {
        /// Where.
        to: PathBuf,
        /// How many documents.
        #[arg(long, default_value_t = 1_000_000)]
        documents: u32,
        /// Changes of each.
        #[arg(long, default_value_t = 3)]
        edits: usize,
    },
    /// Joins a document without a copy, one time after the other.
    Join {
        /// Where the server listens.
        at: SocketAddr,
        /// How often.
        #[arg(long, default_value_t = 100)]
        times: usize,
    },
    /// Opens documents and waits until standard input ends.
    Open {
        /// Where the server listens.
        at: SocketAddr,
        /// How many documents.
        #[arg(long, default_value_t = 10_000)]
        documents: u32,
    },
}

fn name(document: u32) -> String {
    format!("million/{document}")
}

fn main() {
    match Arguments::parse() {
        Arguments::Fill { to, documents, edits } => fill(&to, documents, edits),
        Arguments::Join { at, times } => join(at, times),
        Arguments::Open { at, documents } => open(at, documents),
    }
}

/// The same changes in each document: what a change is does not depend on where it stands.
fn fill(to: &std::path::Path, documents: u32, edits: usize) {
    let mut automerge = AutoCommit::new();
    for edit in 0..edits {
        automerge.put(ROOT, "key", i64::try_from(edit).unwrap()).unwrap();
        automerge.commit();
    }
    let changes: Vec<(ChangeHash, u64, Bytes)> = automerge
        .get_changes(&[])
        .iter()
        .map(|change| {
            (ChangeHash(change.hash().0), change.max_op(), Bytes::copy_from_slice(change.raw_bytes()))
        })
        .collect();
    let started = Instant::now();
    let mut log = storage::open(to).expect("an empty directory");
    let mut first = 0;
    while first < documents {
        let end = documents.min(first + DOCUMENTS_PER_COMMIT);
        let appends: Vec<Append> = (first..end).map(|document| append(&name(document), &changes)).collect();
        log.commit(&appends).expect("room on the disk");
        first = end;
    }
    println!("{documents} documents of {edits} changes in {:.1} s", started.elapsed().as_secs_f64());
}

fn append(name: &str, changes: &[(ChangeHash, u64, Bytes)]) -> Append {
    let document = DocumentId::new(name).unwrap();
    let mut chain = chain_start(&document, FIRST_EPOCH);
    let records = (1..).zip(changes).map(|(seq, (hash, max_op, change))| {
        chain = chain_next(&chain, seq, hash);
        let (max_op, change, pusher) = (*max_op, change.clone(), "".into());
        Record { seq, hash: *hash, chain, max_op, time_ms: 0, pusher, change }
    });
    let records = records.collect();
    Append { document, epoch: FIRST_EPOCH, records }
}

fn open(at: SocketAddr, documents: u32) {
    let started = Instant::now();
    let mut sockets = Vec::new();
    let mut first = 0;
    while first < documents {
        let end = documents.min(first + OPEN_PER_CONNECTION);
        sockets.push(open_some(at, first..end));
        first = end;
    }
    println!("{documents} documents open in {:.1} s", started.elapsed().as_secs_f64());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(sockets);
}

/// Opens documents on one connection, which stays.
fn open_some(at: SocketAddr, documents: std::ops::Range<u32>) -> TcpStream {
    let mut socket = TcpStream::connect(at).expect("a server");
    let mut client = Client::new(Transport::Tcp, "million", u64::from(documents.start));
    client.connect(0).unwrap();
    let mut waiting = documents.len();
    for document in documents {
        let options =
            OpenOptions { document: name(document), rights: Rights::READ, token: None, cursor: None };
        client.open(options).expect("room for one more");
    }
    // What each has is read as well: then it is open and up to date.
    let mut behind = waiting;
    let mut buffer = vec![0; 64 * 1024];
    while waiting > 0 || behind > 0 {
        let mut out = Vec::new();
        client.output(&mut out, 0);
        socket.write_all(&out).unwrap();
        let read = socket.read(&mut buffer).unwrap();
        assert!(read > 0, "the server closed the connection");
        client
            .input(buffer.get_mut(..read).unwrap(), 0, &mut |event| match event {
                Event::Opened { .. } => waiting -= 1,
                Event::Changes { .. } | Event::Snapshot { .. } => behind = behind.saturating_sub(1),
                Event::OpenFailed { fault, .. } => panic!("not opened: {} {}", fault.code, fault.message),
                _ => {}
            })
            .unwrap();
    }
    socket
}
