//! What can be tried, and what each has to prove.

pub mod beside;
pub mod claims;
pub mod compare;
pub mod conclude;
pub mod crash;
pub mod deaf;
pub mod edits;
pub mod fanout;
pub mod floor;
pub mod history;
pub mod host;
pub mod join;
pub mod presence;
pub mod run;
pub mod setup;
pub mod soak;
pub mod storm;
pub mod tally;
pub mod trace;
pub mod turns;
