//! Every limit of the data plane that is not the wire's or the engine's.

use std::time::Duration;

/// Bytes that are read from a socket at once, into a buffer that all connections of a core share.
pub const READ_BYTES: usize = 64 * 1024;
/// Reads of one connection before the others have their turn.
pub const READS_PER_TURN_MAX: usize = 4;
/// What a socket's send buffer holds in the kernel; without a bound it grows to megabytes a slow reader.
pub const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Most bytes of answers (acks, pongs, errors) that wait for a connection; beyond, it is not read from.
pub const CONTROL_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of pushes and other requests that a core's connections have under way together; beyond, none
/// of them is read from.
pub const CORE_IN_FLIGHT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most bytes of frames that have arrived in part, on all connections of a core together.
pub const CORE_PARTIAL_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What every connection may hold of a frame that has arrived in part, whatever the others hold.
pub const PARTIAL_BYTES_FREE: usize = 64 * 1024;
/// Messages from other cores and from storage before connections have their turn.
pub const MESSAGES_PER_TURN_MAX: usize = 1_024;
/// Members of one document on a core beyond which what it has for them is bulk.
pub const BULK_MEMBERS_MIN: usize = 64;
/// Connections of bulk that are sent to in a turn, behind all others and before anything is read again.
pub const BULK_SENDS_PER_TURN_MAX: usize = 16;
/// Connections that are sent to before anything is read again.
pub const SENDS_PER_TURN_MAX: usize = 512;
/// Connections for which is gathered before the first of them is sent to.
pub const ROUND_SENDS: usize = 64;
/// What an answer counts beside its bytes while it waits.
pub const CONTROL_OVERHEAD_BYTES: usize = 128;
/// What a request counts beside its payload.
pub const REQUEST_OVERHEAD_BYTES: usize = 64;
/// Most connections of one core.
pub const CONNECTIONS_PER_CORE_MAX: usize = 100_000;
/// How many connections more than a quarter above another core's a core may have and still be moved
/// connections from there, which opened a document of its own.
pub const HANDOVER_SLACK: u64 = 64;
/// Time from the accept to a hello, unless the operator says otherwise. Looked at once a second.
pub const HELLO_TIMEOUT_S: u32 = 8;
/// Time for a frame to arrive whole, unless the operator says otherwise, and a second more for each
/// [`FRAME_BYTES_PER_S_MIN`] bytes that are there.
pub const FRAME_TIMEOUT_S: u32 = 8;
/// Shortest time for a hello or a frame that an operator may ask for.
pub const ARRIVAL_TIMEOUT_S_MIN: u32 = 1;
/// Longest such time.
pub const ARRIVAL_TIMEOUT_S_MAX: u32 = 60;
/// Time from the accept to a good token where tokens are asked for, unless the operator says otherwise.
pub const TOKEN_TIMEOUT_S: u32 = 60;
/// Shortest such time that an operator may ask for.
pub const TOKEN_TIMEOUT_S_MIN: u32 = 1;
/// Longest such time.
pub const TOKEN_TIMEOUT_S_MAX: u32 = 3_600;
/// Slowest rate at which a long frame may arrive.
pub const FRAME_BYTES_PER_S_MIN: usize = 16 * 1024;
/// Longest frame of a connection that has shown no token yet, where tokens are asked for.
pub const UNAUTHENTICATED_FRAME_BYTES_MAX: usize = 32 * 1024;
/// Most bytes that TLS holds of a record, or of a message of its handshake, that has not arrived whole.
pub const TLS_HELD_BYTES_MAX: usize = 32 * 1024;
/// Tokens of a connection that are refused before it ends: each costs a signature.
pub const TOKENS_REFUSED_MAX: u8 = 16;
/// Time without a sign of life after which a connection ends, unless the operator says otherwise: a frame from
/// it, or, while it is not read from, bytes that its socket takes.
pub const IDLE_TIMEOUT_S: u32 = 90;
/// Shortest idle timeout that an operator may ask for.
pub const IDLE_TIMEOUT_S_MIN: u32 = 1;
/// Longest idle timeout that an operator may ask for.
pub const IDLE_TIMEOUT_S_MAX: u32 = 3_600;
/// Time for the answers to what was under way when the other side said its last word.
pub const FINISH_TIMEOUT_S: u32 = 10;
/// Time that a connection which is being closed has to take the last bytes.
pub const DRAIN_TIMEOUT_S: u32 = 2;
/// When clients are told to come back after a stop, and over how long they spread.
pub const RETRY_AFTER_STOP_MS: u32 = 500;
/// See [`RETRY_AFTER_STOP_MS`].
pub const RETRY_JITTER_MS: u32 = 2_000;
/// How long a stopping server waits for commits and sends that are under way.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that the kernel holds until they are accepted; it caps it at `net.core.somaxconn`.
pub const BACKLOG: i32 = 65_535;
/// How long the acceptor waits when there are no descriptors left.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
