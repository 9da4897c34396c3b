//! Every maximum of the wire, in one place.
//!
//! The server tells a client those that matter to it in `Welcome`, as pairs of a [`Limit`] and a value, so
//! that a client never has to guess and a server may be configured below these.

/// Longest frame, header included. A change of [`CHANGE_BYTES_MAX`] fits with room to spare.
pub const FRAME_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest frame that is accepted before a connection said hello.
pub const HELLO_FRAME_BYTES_MAX: usize = 4 * 1024;
/// Longest HTTP upgrade request, or response, with all its headers.
pub const HANDSHAKE_BYTES_MAX: usize = 8 * 1024;
/// Most HTTP headers of an upgrade.
pub const HANDSHAKE_HEADERS_MAX: usize = 64;
/// Longest name of a document.
pub const DOCUMENT_ID_BYTES_MAX: usize = 256;
/// Longest access token.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Longest name of a client or server in hello and welcome.
pub const AGENT_BYTES_MAX: usize = 128;
/// Longest text for people in errors and refusals.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// Longest single change.
pub const CHANGE_BYTES_MAX: usize = 1024 * 1024;
/// Most operations that one change may claim: a valid change of 104 bytes can claim a million.
pub const CHANGE_OPS_MAX: u64 = 262_144;
/// Most operations that one change may replace, over all of its operations.
pub const CHANGE_PREDS_MAX: u64 = 262_144;
/// Most changes that a change depends on directly.
pub const CHANGE_DEPS_MAX: u64 = 4_096;
/// Longest name of an actor.
pub const ACTOR_BYTES_MAX: usize = 64;
/// Most actors, besides its author, that one change refers to: an edit of a long text can refer to everybody
/// who ever wrote in it.
pub const CHANGE_ACTORS_MAX: u64 = 16_384;
/// Longest commit message of a change.
pub const CHANGE_MESSAGE_BYTES_MAX: u64 = 4 * 1024;
/// Longest author id of Automerge's, which stands in an actor's first change.
pub const CHANGE_AUTHOR_BYTES_MAX: u64 = 256;
/// Most changes in one push.
pub const PUSH_CHANGES_MAX: usize = 1_024;
/// Most bytes of changes in one push.
pub const PUSH_BYTES_MAX: usize = FRAME_BYTES_MAX - 64 * 1024;
/// Most documents that one connection has open.
pub const STREAMS_MAX: usize = 1_024;
/// Most pushes of one connection that are not answered yet; beyond, the server stops reading from it.
pub const PUSHES_IN_FLIGHT_MAX: usize = 1_024;
/// Most bytes of pushes of one connection that are not answered yet; one push may always be in flight.
pub const PUSH_BYTES_IN_FLIGHT_MAX: usize = 4 * 1024 * 1024;
/// Most entries of one reconcile frame; a longer clock is sent in several.
pub const RECONCILE_ENTRIES_MAX: usize = 4_096;
/// Most entries of a whole clock that a member may send: bounds what the server keeps while it collects one.
pub const CLOCK_ENTRIES_MAX: usize = 65_536;
/// Most entries of the clock that a refusal carries; beyond, it names only the actors of the refused push.
pub const REFUSED_CLOCK_ENTRIES_MAX: usize = 256;
/// Longest presence state of a member.
pub const PRESENCE_BYTES_MAX: usize = 4 * 1024;
/// Most members of a document that have presence.
pub const PRESENCE_MEMBERS_MAX: usize = 10_000;
/// Shortest time to live of a presence state.
pub const PRESENCE_TTL_MS_MIN: u32 = 1_000;
/// Longest time to live of a presence state.
pub const PRESENCE_TTL_MS_MAX: u32 = 5 * 60 * 1_000;
/// Most bytes of presence states in one frame; a longer table is sent in several.
pub const PRESENCE_FRAME_BYTES_MAX: usize = 256 * 1024;
/// Longest broadcast payload.
pub const BROADCAST_BYTES_MAX: usize = 16 * 1024;
/// Longest topic of a broadcast.
pub const BROADCAST_TOPIC_BYTES_MAX: usize = 128;
/// Most broadcasts that a document keeps for members that fall behind.
pub const BROADCAST_RING_MAX: usize = 256;
/// Most bytes of broadcasts that a document keeps for members that fall behind.
pub const BROADCAST_RING_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of a snapshot in one frame, so that other frames can go between.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 64 * 1024;

/// The number of a limit in `Welcome`. Numbers are never reused; a reader passes over those it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Limit {
    /// [`FRAME_BYTES_MAX`].
    FrameBytes = 1,
    /// [`CHANGE_BYTES_MAX`].
    ChangeBytes = 2,
    /// [`CHANGE_OPS_MAX`].
    ChangeOps = 3,
    /// [`PUSH_CHANGES_MAX`].
    PushChanges = 4,
    /// [`PUSH_BYTES_MAX`].
    PushBytes = 5,
    /// [`STREAMS_MAX`].
    Streams = 6,
    /// [`PUSHES_IN_FLIGHT_MAX`].
    PushesInFlight = 7,
    /// [`PUSH_BYTES_IN_FLIGHT_MAX`].
    PushBytesInFlight = 8,
    /// [`PRESENCE_BYTES_MAX`].
    PresenceBytes = 9,
    /// [`PRESENCE_TTL_MS_MAX`].
    PresenceTtlMs = 10,
    /// [`BROADCAST_BYTES_MAX`].
    BroadcastBytes = 11,
    /// Time without any frame from the client after which the server ends the connection, in milliseconds.
    IdleMs = 12,
}

/// What a server with these limits says in `Welcome`; `idle_ms` is the server's own setting.
pub fn announced(idle_ms: u64) -> Vec<(Limit, u64)> {
    vec![
        (Limit::FrameBytes, FRAME_BYTES_MAX as u64),
        (Limit::ChangeBytes, CHANGE_BYTES_MAX as u64),
        (Limit::ChangeOps, CHANGE_OPS_MAX),
        (Limit::PushChanges, PUSH_CHANGES_MAX as u64),
        (Limit::PushBytes, PUSH_BYTES_MAX as u64),
        (Limit::Streams, STREAMS_MAX as u64),
        (Limit::PushesInFlight, PUSHES_IN_FLIGHT_MAX as u64),
        (Limit::PushBytesInFlight, PUSH_BYTES_IN_FLIGHT_MAX as u64),
        (Limit::PresenceBytes, PRESENCE_BYTES_MAX as u64),
        (Limit::PresenceTtlMs, u64::from(PRESENCE_TTL_MS_MAX)),
        (Limit::BroadcastBytes, BROADCAST_BYTES_MAX as u64),
        (Limit::IdleMs, idle_ms),
    ]
}
