//! The deterministic heart of EtherPly: documents, admission, cursors, presence.
//!
//! Nothing here knows a clock, randomness, files, sockets, a runtime or the environment. Time comes in as an
//! argument, everything else as inputs; what is to be done comes out as effects.
//!
//! A [`shard::Shard`] is the home of some documents: it admits pushes, decides their positions and has them
//! stored. A core's [`feed::Feeds`] send its members what is durable. The driver carries effects between
//! shards, feeds, sockets and the log.

/// Whether a fault is planted; with a block, what it does. Never, and nothing, without the feature `planted`: see
/// `planted.rs`.
#[cfg(feature = "planted")]
macro_rules! planted {
    ($fault:ident) => {
        $crate::planted::is_planted($crate::planted::Fault::$fault)
    };
    ($fault:ident, $what:block) => {
        if planted!($fault) $what
    };
}
#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($fault:ident) => {
        false
    };
    ($fault:ident, $what:block) => {};
}

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
#[cfg(feature = "planted")]
pub mod planted;
pub mod presence;
mod recency;
pub mod record;
pub mod segment;
pub mod shard;
pub mod snapshot;
