//! Connections on glommio: sockets, the tasks that serve them, the executors. What is said over them is a
//! [`Session`]'s to know.

pub mod executor;
pub mod fleet;
pub mod floor;
pub mod session;
pub mod slot;
pub mod sync;

pub use executor::Ctx;
pub use fleet::{Command, Fleet};
pub use session::{MemberOutcome, Outcome, Session};
