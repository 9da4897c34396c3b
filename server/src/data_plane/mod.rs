//! The data plane: one core's share of connections and documents, and how cores talk.
//!
//! ```text
//! accept      takes connections and deals them out to the cores
//! core        one core: its shard, feeds and connections, and the tasks that drive them
//! mailbox     what cores and storage threads send one another
//! connection  one connection: transport, session, what waits to be sent
//! receive     bytes in: preamble, upgrade, frames
//! session     frames in: what each kind does
//! contain     what a panic ends
//! due         who is sent to in which order
//! effects     what the engine wants done
//! handover    a connection moves to its document's core
//! proxy       whose a connection is, if a load balancer says so
//! pace        how fast a connection is read from
//! flush       bytes out: one send for everything that a connection is to get
//! tls         what comes in is opened, what goes out is sealed
//! secure      a connection that has to speak TLS: its first bytes, what it reads, its last word
//! ```

mod accept;
mod connection;
mod contain;
mod core;
mod due;
mod effects;
mod flush;
mod handover;
pub mod limits;
mod mailbox;
mod pace;
mod proxy;
mod receive;
mod secure;
mod session;
mod slab;
mod tls;

pub use accept::{Acceptor, Listener, Room};
pub use core::{CoreSetup, run};
pub use mailbox::{Mailbox, Mailboxes, Message, StopStage};
