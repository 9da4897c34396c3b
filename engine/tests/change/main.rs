//! Change admission against Automerge itself: everything that honest clients write passes, and what
//! passes does not break Automerge.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a panic is how a test fails"
)]

mod context;
mod generate;
mod honest;
mod hostile;
mod image;
mod mutate;
mod mutation;
mod report;
mod rng;
