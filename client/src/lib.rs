//! The client's side of EtherPly, without I/O: bytes in, events out, bytes out.
//!
//! [`Client`] speaks the protocol for one member over one connection after another: hello, open, push,
//! resume, reconcile. It knows no socket, no runtime, no clock and no randomness of its own, so that a load
//! generator with thousands of connections, a game server with its own loop and a test drive the same code.
//! [`Document`] puts an Automerge document on top; what changes mean is Automerge's.
//!
//! # Walk-through
//!
//! A client that opens a document, writes into it and waits until that is on the server's disk:
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//!
//! use automerge::{ActorId, ROOT, transaction::Transactable};
//! use etherply_client::{Client, Document, Event, OpenOptions, Rights, Transport};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // 1. A client, and a document on it. Neither needs a connection: edits wait in the outbox.
//! let mut client = Client::new(Transport::Tcp, "my-game/1.0", 7);
//! let rights = Rights::READ.with(Rights::WRITE);
//! let stream =
//!     client.open(OpenOptions { document: "rooms/lobby".into(), rights, token: None, cursor: None })?;
//! let mut room = Document::new(stream, ActorId::random());
//! room.doc().put(ROOT, "motto", "hello")?;
//! room.push(&mut client, 1)?;
//!
//! // 2. A connection: the caller moves the bytes and tells the time.
//! let mut socket = TcpStream::connect("127.0.0.1:7400")?;
//! client.connect(0)?;
//! let (mut bytes, mut out, mut stored) = (vec![0; 64 * 1024], Vec::new(), false);
//! while !stored {
//!     let now_ms = 0; // milliseconds from any fixed moment
//!     client.output(&mut out, now_ms);
//!     socket.write_all(&out)?;
//!     out.clear();
//!     let read = socket.read(&mut bytes)?;
//!     // 3. What came: the document takes what is its own, the application looks at the rest. A program with
//!     //    several documents gives each event to `Document::take`, and then what it returns to `answer`.
//!     room.input(&mut client, &mut bytes[..read], now_ms, 0, &mut |event| {
//!         stored |= matches!(event, Event::Acked { .. });
//!     })?;
//! }
//! // 4. Everything received is applied at once, when it is wanted.
//! room.apply()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Connections come and go
//!
//! When `input` returns an error or the socket ends, [`Client::disconnected`] tells what the server's last words
//! mean, and [`Backoff`] makes a wait of it. Documents, cursors, unacked pushes and presence are carried over:
//! see [`Client`].
//!
//! ```
//! use etherply_client::{Backoff, Client, Transport};
//!
//! let mut client = Client::new(Transport::Tcp, "my-game/1.0", 7);
//! let mut backoff = Backoff::default();
//! // … the connection ended; `random` comes from wherever the program has randomness.
//! let (now_ms, random) = (1_000, 0x1234_5678_9ABC_DEF0);
//! match backoff.wait_ms(client.disconnected(), now_ms, random) {
//!     Some(wait_ms) => assert!(wait_ms <= etherply_client::backoff::BACKOFF_BASE_MS),
//!     None => println!("of no use: configuration or version has to change"),
//! }
//! ```
//!
//! | what the server does | the client | the application |
//! |---|---|---|
//! | ends the connection with a retryable code, goes away, hangs up | resumes on the next connection | connects again after [`Backoff::wait_ms`] |
//! | ends it with another code, breaks the protocol | [`Next::Stop`] | changes configuration or version |
//! | refuses to open, or closes a document with a retryable code | opens again by itself in [`Client::tick`] | nothing |
//! | refuses to open, or closes it with another code | keeps the outbox; the next connection asks once more | [`Client::reopen`] with another token, or [`Client::close`] |
//! | refuses a push with a retryable code | sends again by itself under a higher generation | nothing |
//! | refuses a push because it lacks what it builds upon | holds the outbox | [`Document::answer`] |
//! | refuses a push for good | holds the outbox | [`Client::give_back`] |
//! | acks a push with `added: 0` | it had the push already: an ack was lost | nothing |
//!
//! # The program's own restart
//!
//! [`Client::save`] and [`Document::save`] give what has to survive as [`Saved`], which encodes to bytes with a
//! version and a checksum; [`Document::restore`] goes on with it under a fresh actor:
//!
//! ```
//! use automerge::{ActorId, ROOT, transaction::Transactable};
//! use etherply_client::{Client, Document, OpenOptions, Rights, Saved, Transport};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rights = Rights::READ.with(Rights::WRITE);
//! let options = OpenOptions { document: "notes".into(), rights, token: None, cursor: None };
//! let mut client = Client::new(Transport::Tcp, "notes/1.0", 7);
//! let mut notes = Document::new(client.open(options.clone())?, ActorId::random());
//! notes.doc().put(ROOT, "title", "written offline")?;
//! let file = notes.save(&mut client, "ada", 1)?.encode()?;
//!
//! // … the program ends, and another one begins.
//! let mut client = Client::new(Transport::Tcp, "notes/1.0", 8);
//! let saved = Saved::decode(&file, "ada")?;
//! let notes = Document::restore(&mut client, &saved, ActorId::random(), options)?;
//! assert_eq!(client.unacked(notes.stream()).count(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//!
//! Everything is bounded: the outbox by [`outbox::OUTBOX_PUSHES_MAX`] and [`outbox::OUTBOX_BYTES_MAX`], what is
//! saved by these and [`saved::COPY_BYTES_MAX`], own changes ahead of the cursor by [`progress::OWN_RANGES_MAX`],
//! snapshots by [`limits::SNAPSHOT_BYTES_MAX`]; requests by what the server announces ([`ServerLimits`]).
//! `examples/` has a game's loop and a sensor as whole programs.

#![deny(missing_docs)]

pub mod backoff;
pub mod change;
pub mod client;
pub mod document;
pub mod error;
pub mod event;
mod incoming;
pub mod limits;
pub mod outbox;
mod presence;
pub mod progress;
mod requests;
pub mod rewrite;
pub mod saved;
pub mod stream;
#[cfg(feature = "tls")]
pub mod tls;
mod transport;

pub use backoff::Backoff;
pub use client::{Client, StreamId};
pub use document::{Answer, Document, DocumentError, ExchangeError};
pub use error::{ClientError, Next, RequestError};
pub use event::{Changes, Event, Fault};
pub use limits::ServerLimits;
pub use outbox::{InFlight, Push};
pub use rewrite::{Lost, Rewritten};
pub use saved::{Saved, SavedCopy, SavedError};
pub use stream::{OpenOptions, StreamState};
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use transport::Transport;

pub use etherply_wire::Rights;
