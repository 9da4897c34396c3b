//! The client's side of EtherPly, without I/O: bytes in, events out, bytes out.
//!
//! [`Client`] speaks the protocol for one member over one connection after another: hello, open, push,
//! resume, reconcile. It knows no socket, no runtime and no clock, so that a load generator with thousands of
//! connections, a game server with its own loop and a test drive the same code. [`Document`] puts an Automerge
//! document on top.
//!
//! What it knows of documents is their positions in the server's log; what the changes mean is Automerge's.

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
pub mod saved;
pub mod stream;
mod transport;

pub use backoff::Backoff;
pub use client::{Client, StreamId};
pub use document::{Document, DocumentError, SaveError};
pub use error::{ClientError, Next, RequestError};
pub use event::{Changes, Event, Fault};
pub use limits::ServerLimits;
pub use outbox::{InFlight, Push};
pub use saved::{Saved, SavedCopy, SavedError};
pub use stream::{OpenOptions, StreamState};
pub use transport::Transport;
