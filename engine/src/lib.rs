//! The deterministic heart of EtherPly: documents, admission, cursors, presence.
//!
//! Nothing here knows a clock, randomness, files, sockets, a runtime or the environment. Time comes in as an
//! argument, everything else as inputs; what is to be done comes out as effects.
//!
//! A [`shard::Shard`] is the home of some documents: it admits pushes, decides their positions and has them
//! stored. A core's [`feed::Feeds`] send its members what is durable. The driver carries effects between
//! shards, feeds, sockets and the log.

pub mod access;
pub mod chain;
pub mod change;
pub mod document;
pub mod faults;
pub mod feed;
pub mod ids;
pub mod log;
pub mod outgoing;
pub mod peer;
pub mod placement;
pub mod presence;
mod recency;
pub mod record;
pub mod segment;
pub mod shard;
pub mod snapshot;
