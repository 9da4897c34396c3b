//! Automerge documents, built in the background from what is durable. The only module that knows Automerge.
//!
//! ```text
//! replica     one document as Automerge has it, up to a position of its log
//! ```

pub mod replica;
#[cfg(test)]
mod replica_tests;

pub use replica::{Opening, OpeningError, Poison, Replica};
