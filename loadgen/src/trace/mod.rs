//! Recorded editing sessions, replayed by real members: `file` reads a recording, `changes` makes genuine
//! changes of it, `member` is one connection, `replay` drives the connections of one thread.

pub mod changes;
pub mod file;
pub mod member;
pub mod replay;
