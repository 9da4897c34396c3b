//! What can be tried, and what each has to prove.

pub mod crash;
pub mod edits;
pub mod floor;
pub mod run;
pub mod setup;
pub mod tally;
pub mod trace;
