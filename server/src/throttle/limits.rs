//! What is allowed to clients that are not trusted, unless the operator says otherwise. Rates may be 0: no limit.

/// Networks whose clients nothing here applies to.
pub const TRUSTED_NETWORKS: &str = "127.0.0.0/8,::1/128";
/// Most connections of one address: of an IPv4 address, or of an IPv6 network of 64 bits, which one household has.
pub const CONNECTIONS_PER_ADDRESS: u32 = 1_024;
/// Most that an operator may ask for.
pub const CONNECTIONS_PER_ADDRESS_MAX: u32 = 1_000_000;
/// Most connections that have not said hello yet.
pub const PENDING_CONNECTIONS: u32 = 8_192;
/// Most that an operator may ask for.
pub const PENDING_CONNECTIONS_MAX: u32 = 1_000_000;
/// New connections a second; those beyond are told when to come back.
pub const ACCEPT_RATE: u32 = 1_000;
/// Operations a second of one connection.
pub const CLIENT_RATE: u32 = 1_000;
/// Bytes a second of one connection.
pub const CLIENT_BANDWIDTH: u32 = 2 * 1024 * 1024;
/// Operations a second of all connections of one address.
pub const ADDRESS_RATE: u32 = 10_000;
/// Bytes a second of all connections of one address.
pub const ADDRESS_BANDWIDTH: u32 = 16 * 1024 * 1024;
/// Operations a second of all connections of one subject, whatever their addresses.
pub const SUBJECT_RATE: u32 = 4_000;
/// Bytes a second of all connections of one subject.
pub const SUBJECT_BANDWIDTH: u32 = 8 * 1024 * 1024;
/// Changes a second that are pushed to one document.
pub const DOCUMENT_RATE: u32 = 5_000;
/// Bytes of changes a second that are pushed to one document.
pub const DOCUMENT_BANDWIDTH: u32 = 8 * 1024 * 1024;
/// Highest rate that an operator may ask for, of connections or operations a second.
pub const RATE_MAX: u32 = 1_000_000;
/// Highest bandwidth that an operator may ask for, in bytes a second.
pub const BANDWIDTH_MAX: u32 = 1024 * 1024 * 1024;
/// Seconds of a rate that a bucket holds, so that somebody who was quiet may catch up at once.
pub const BURST_S: u64 = 4;
/// Most seconds for which a connection is not read from, whatever it sent at once: it would take the server for gone.
pub const HOLD_S_MAX: u64 = 5;
/// Latest time in seconds from now at which a connection that is turned away is told to come back.
pub const RETRY_S_MAX: u64 = 30;
/// Over how long in milliseconds those spread who are told the same time.
pub const RETRY_JITTER_MS: u32 = 1_000;
/// Addresses, subjects, and documents, beyond which those are looked for that need not be remembered any more.
pub const REMEMBERED_MIN: usize = 1_024;
