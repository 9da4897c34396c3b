//! The deterministic heart of EtherPly: documents, admission, cursors, presence.
//!
//! Nothing here knows a clock, randomness, files, sockets, a runtime or the environment. Time comes in as an
//! argument, everything else as inputs; what is to be done comes out as effects.

pub mod chain;
pub mod change;
pub mod ids;
pub mod log;
pub mod record;
