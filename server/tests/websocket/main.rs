//! The WebSocket side of a real server, over real sockets, held against RFC 6455.
//!
//! | module | what it holds it against |
//! |---|---|
//! | `autobahn`, `text` | the cases of the Autobahn test suite, by their numbers |
//! | `ending` | ends of connections: half-closed, reset, without an answer, with answers under way |
//! | `upgrade` | the HTTP request: what is refused how, and whose pages may connect |
//! | `others` | a client of another make |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod autobahn;
mod ending;
mod others;
mod raw;
mod text;
mod upgrade;
