//! Who is at the other end of a stream, as far as the engine cares.

/// A connection, named by the core that holds it and a number that is never used twice on that core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// The core that owns the connection.
    pub core: u16,
    /// The connection's number on that core.
    pub id: u64,
}

/// One opening of one document by one connection: a number that its shard never uses twice. A document that
/// is closed and opened again on the same connection is another stream, which did not push what the first did.
pub type StreamNumber = u64;

/// A session's public name: what members see of one another in presence and broadcasts.
pub type SessionId = [u8; 16];

/// The time, as the driver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// A clock that only moves forward, in microseconds from any origin.
    pub mono_us: u64,
    /// Wall clock, in milliseconds since 1970. It is recorded, and only the ends of grants are compared with it.
    pub wall_ms: u64,
}
