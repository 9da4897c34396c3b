//! Connections: sockets, the tasks that serve them, the executors. What is said over them is a
//! [`Session`]'s to know.

pub mod alarm;
pub mod deaf;
pub mod executor;
pub mod fleet;
pub mod floor;
pub mod join;
pub mod presence;
pub mod session;
pub mod slot;
pub mod sync;

pub use executor::Ctx;
pub use fleet::{Command, Fleet, Joined, START_DELAY};
pub use session::{MemberOutcome, Outcome, Session};
pub use slot::Cut;
