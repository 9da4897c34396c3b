//! Automerge documents, built in the background from what is durable. The only module that knows Automerge.
//!
//! ```text
//! replica     one document as Automerge has it, up to a position of its log
//! cut         a snapshot is made of a document
//! whole       the log as if no snapshot covered any of it
//! ```

pub mod cut;
pub mod replica;
#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod testing;
pub mod whole;

pub use replica::{Opening, OpeningError, Poison, Replica};
