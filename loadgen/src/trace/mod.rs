//! Recorded editing sessions, replayed by real members: `file` reads a recording, `changes` makes genuine
//! changes of it, `member` is one connection, `replay` drives the connections of one thread,
//! `history` looks into what the server has stored of it.

pub mod changes;
pub mod file;
pub mod history;
pub mod member;
pub mod replay;
