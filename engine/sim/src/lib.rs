//! A deterministic simulator around the production engine.
//!
//! [`World`] drives the very [`etherply_engine::shard::Shard`] and [`etherply_engine::feed::Feeds`] that the
//! server drives, over a simulated network, disk and clock, with simulated clients that keep real Automerge
//! documents. Everything that may go wrong does, by chance drawn from a seed: connections break, the server
//! crashes, commits fail, an operator restores an older copy, images of clients are cloned, clients push
//! nonsense. At every moment the checkers see to it that nothing leaves the server before it is durable, and
//! that no position is sent twice or left out. In the end all faults stop, everything has to drain within a
//! bounded time, and every member must have what the log has.
//!
//! A seed replays a run exactly. This is a test: it panics where a test would.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "the whole crate is a test: a broken assumption must end the run"
)]

mod act;
mod check;
mod client;
mod device;
mod disk;
mod drive;
mod edits;
mod finish;
mod frames;
mod history;
mod mischief;
mod nemesis;
mod network;
mod process;
mod rights;
mod rng;
mod scenario;
mod server;
mod shrink;
mod trace;
mod world;

pub use scenario::{Scenario, TROUBLES, Trouble};
pub use shrink::shrink;
pub use world::{Config, Failure, Report, World, run, run_scenario};
