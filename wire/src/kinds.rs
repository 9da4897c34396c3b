//! The kinds of frames: one frozen struct each.
//!
//! A stream in the header is the server's handle of a document: the same number for every member, so that a
//! frame for all members is encoded once. `0` means the connection itself. Positions count a document's
//! changes from 1; a range `(after, through]` tells which part of the log a frame brings a member through,
//! even if it carries fewer changes because the member has the others.

use rkyv::{Archive, Deserialize, Serialize};

/// Which side sends a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Only a client.
    ToServer,
    /// Only a server.
    ToClient,
    /// Both.
    Both,
}

/// A struct that is the body of a kind.
pub trait Message {
    /// The kind it belongs to.
    const KIND: Kind;
}

/// Archived types whose bytes are checked when they are accessed.
macro_rules! kinds {
    ($(
        $(#[$doc:meta])+
        $kind:ident = $number:literal, $direction:ident, tail: $tail:literal {
            $($(#[$field_doc:meta])+ $(@$json:literal)? $field:ident: $type:ty,)*
        }
    )+) => {
        /// The number of a kind.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[$doc])+ $kind = $number,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// The kind with this number.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$kind),)+
                    _ => None,
                }
            }

            /// The kind's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)+ }
            }

            /// Which side sends it.
            pub const fn direction(self) -> Direction {
                match self { $(Self::$kind => Direction::$direction,)+ }
            }

            /// Whether bytes may follow the archive.
            pub const fn has_tail(self) -> bool {
                match self { $(Self::$kind => $tail,)+ }
            }
        }

        $(
            $(#[$doc])+
            #[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
            #[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
            pub struct $kind {
                $(
                    $(#[$field_doc])+
                    $(#[cfg_attr(feature = "json", serde(with = $json))])?
                    pub $field: $type,
                )*
            }

            impl Message for $kind {
                const KIND: Kind = Kind::$kind;
            }
        )+

        /// Calls `$each!(Kind, Struct)` for every kind.
        #[macro_export]
        macro_rules! for_each_kind {
            ($each:ident) => { $($each!($kind);)+ };
        }
    };
}

/// A place in a document's log.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
pub struct Cursor {
    /// The document's epoch: a new one begins where the log was replaced.
    #[cfg_attr(feature = "json", serde(with = "crate::json::number"))]
    pub epoch: u64,
    /// Position of the last change that counts as seen; 0 before the first.
    #[cfg_attr(feature = "json", serde(with = "crate::json::number"))]
    pub seq: u64,
    /// The chain hash at that position.
    #[cfg_attr(feature = "json", serde(with = "crate::json::hex"))]
    pub chain: [u8; 32],
}

/// What a side has of one actor.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
pub struct ClockEntry {
    /// The actor.
    #[cfg_attr(feature = "json", serde(with = "crate::json::hex_vec"))]
    pub actor: Vec<u8>,
    /// Number of its last change.
    #[cfg_attr(feature = "json", serde(with = "crate::json::number"))]
    pub seq: u64,
    /// Hash of that change.
    #[cfg_attr(feature = "json", serde(with = "crate::json::hex"))]
    pub hash: [u8; 32],
}

/// One limit of the server's: see [`crate::limits::Limit`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
pub struct LimitEntry {
    /// The limit's number.
    pub limit: u16,
    /// Its value.
    #[cfg_attr(feature = "json", serde(with = "crate::json::number"))]
    pub value: u64,
}

/// A member's presence.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
pub struct PresenceEntry {
    /// The member's session, as in its `Welcome`.
    #[cfg_attr(feature = "json", serde(with = "crate::json::hex"))]
    pub member: [u8; 16],
    /// The state that it set; the bytes mean what the application says.
    #[cfg_attr(feature = "json", serde(with = "crate::json::hex_vec"))]
    pub state: Vec<u8>,
}

/// Values of [`Opened::resume`].
pub mod resume {
    /// No cursor was given: the document is sent from its beginning.
    pub const START: u8 = 0;
    /// The cursor fits: what lies after it is sent.
    pub const CURSOR: u8 = 1;
    /// The member gets a snapshot first, then what lies after it.
    pub const SNAPSHOT: u8 = 2;
    /// The cursor belongs to another log: the server's clock follows as [`super::Reconcile`], and nothing
    /// else is sent until the member answers with its own.
    pub const RECONCILE: u8 = 3;
    /// The copy that the cursor belongs to holds changes that the document has no longer, and cannot be mended:
    /// the member throws it away. The document is sent from its beginning, by a snapshot or by its log.
    pub const RESET: u8 = 4;
}

kinds! {
    /// First frame of a client.
    Hello = 1, ToServer, tail: false {
        /// Lowest protocol version that the client speaks.
        protocol_min: u8,
        /// Highest protocol version that the client speaks.
        protocol_max: u8,
        /// Optional abilities, as bits; none is defined yet.
        @"crate::json::number" capabilities: u64,
        /// Name and version of the client, for logs.
        agent: String,
    }

    /// Answer to [`Hello`].
    Welcome = 2, ToClient, tail: false {
        /// The protocol version from here on.
        protocol: u8,
        /// Abilities of the client that the server will use.
        @"crate::json::number" capabilities: u64,
        /// Names this connection, and the member in presence and broadcasts.
        @"crate::json::hex" session: [u8; 16],
        /// The server's clock, in milliseconds since 1970.
        @"crate::json::number" server_time_ms: u64,
        /// Name and version of the server.
        agent: String,
        /// The server's limits.
        limits: Vec<LimitEntry>,
    }

    /// Opens a document.
    Open = 10, ToServer, tail: false {
        /// Number that the answer repeats; the client's choice, not 0.
        request: u32,
        /// The rights wanted: see [`crate::Rights`].
        rights: u16,
        /// The document's name.
        document: String,
        /// A token that grants the rights, where the server asks for one.
        token: Option<String>,
        /// Where the client's copy stands, if it has one.
        cursor: Option<Cursor>,
    }

    /// The document is open; the header's stream is its handle from now on.
    Opened = 11, ToClient, tail: false {
        /// The request that this answers.
        request: u32,
        /// The rights granted.
        rights: u16,
        /// How the member is brought up to date: see [`resume`].
        resume: u8,
        /// When the grant ends, in milliseconds since 1970; 0 for never.
        @"crate::json::number" expires_at_ms: u64,
        /// The document's last durable position.
        cursor: Cursor,
    }

    /// Ends a stream. The server answers a client's with its own, after which the handle is free.
    Close = 12, Both, tail: false {
        /// 0, or an error code that says why.
        code: u16,
        /// The same for people.
        message: String,
    }

    /// Brings a new token for an open stream.
    Renew = 13, ToServer, tail: false {
        /// Number that the answer repeats.
        request: u32,
        /// The token.
        token: String,
    }

    /// The stream's rights from now on.
    RightsChanged = 14, ToClient, tail: false {
        /// The [`Renew`] that this answers, 0 if none.
        request: u32,
        /// The rights.
        rights: u16,
        /// 0, or the error code that says why rights ended.
        code: u16,
        /// When they end, in milliseconds since 1970; 0 for never.
        @"crate::json::number" expires_at_ms: u64,
    }

    /// A piece of a document's snapshot, in Automerge's format, in the tail. Other frames may come between.
    Snapshot = 20, ToClient, tail: true {
        /// What the whole snapshot covers; the member's cursor once all pieces are there.
        cursor: Cursor,
        /// Bytes of the whole snapshot.
        @"crate::json::number" total_bytes: u64,
        /// Where this piece begins.
        @"crate::json::number" offset: u64,
    }

    /// Changes of others, in the tail one behind the other.
    Changes = 21, ToClient, tail: true {
        /// The range begins after this position.
        @"crate::json::number" after_seq: u64,
        /// The member's cursor behind this frame.
        cursor: Cursor,
        /// Bytes of each change.
        lengths: Vec<u32>,
    }

    /// New changes of this client, in the tail one behind the other, in causal order; all or none are taken.
    Push = 30, ToServer, tail: true {
        /// Number of this push, counted by the client.
        @"crate::json::number" push: u64,
        /// The generation that it belongs to: see [`Refused`].
        generation: u32,
        /// Bytes of each change.
        lengths: Vec<u32>,
    }

    /// A push is on disk.
    Ack = 31, ToClient, tail: false {
        /// The push.
        @"crate::json::number" push: u64,
        /// The changes that it added stand in the range after this position; they are not sent to this member.
        @"crate::json::number" after_seq: u64,
        /// End of that range; the same as `after_seq` if the server had them all.
        cursor: Cursor,
        /// Position of each change of the push, those included that the server had.
        @"crate::json::numbers" positions: Vec<u64>,
    }

    /// A push was not taken, nor is any later one of its generation. The client begins a higher generation
    /// from the state that this names. The tail holds the server's genesis where that is in conflict.
    Refused = 32, ToClient, tail: true {
        /// The push.
        @"crate::json::number" push: u64,
        /// Its generation.
        generation: u32,
        /// Which change of the push, counted from 0.
        index: u32,
        /// The error code.
        code: u16,
        /// Earliest time for another try, in milliseconds from now; 0 for at once.
        retry_after_ms: u32,
        /// Whether `clock` names every actor of the document, or only those of the push.
        clock_complete: bool,
        /// What the server has.
        clock: Vec<ClockEntry>,
        /// The reason for people.
        message: String,
    }

    /// What this side has, actor by actor. Each side then sends what the other lacks.
    Reconcile = 33, Both, tail: false {
        /// Where the sender's log stands; a client without one says epoch 0, position 0.
        cursor: Cursor,
        /// Whether more entries follow in a further frame.
        more: bool,
        /// The entries.
        clock: Vec<ClockEntry>,
    }

    /// Sets this member's presence, in the tail.
    PresenceSet = 40, ToServer, tail: true {
        /// How long it holds unless it is set again.
        ttl_ms: u32,
    }

    /// Presence of members as it is now; states in between are never sent. A member is not told of its own state
    /// alone; in a frame that it shares with others it may find it, and passes it over.
    PresenceUpdate = 41, ToClient, tail: false {
        /// Version of the table behind this frame.
        @"crate::json::number" version: u64,
        /// Whether the entries are the whole table; members that are not in it are gone.
        full: bool,
        /// Members whose state is new.
        entries: Vec<PresenceEntry>,
    }

    /// Members that are gone; from a client, without names: itself.
    PresenceLeave = 42, Both, tail: false {
        /// Version of the table behind this frame, 0 from a client.
        @"crate::json::number" version: u64,
        /// The sessions.
        @"crate::json::hex_list" members: Vec<[u8; 16]>,
    }

    /// Sends the tail to the members that are here now. Nothing is stored.
    BroadcastSend = 50, ToServer, tail: true {
        /// What it is about.
        topic: String,
    }

    /// A broadcast of a member, in the tail.
    Broadcast = 51, ToClient, tail: true {
        /// Its number in this document, counted from 1.
        @"crate::json::number" index: u64,
        /// The session that sent it.
        @"crate::json::hex" member: [u8; 16],
        /// What it is about.
        topic: String,
    }

    /// Broadcasts that this member was too slow for and will not get.
    BroadcastGap = 52, ToClient, tail: false {
        /// The first that is missing.
        @"crate::json::number" first: u64,
        /// The last that is missing.
        @"crate::json::number" last: u64,
    }

    /// Asks for a [`Pong`].
    Ping = 60, Both, tail: false {
        /// What the answer repeats.
        @"crate::json::number" nonce: u64,
    }

    /// Answer to [`Ping`].
    Pong = 61, Both, tail: false {
        /// The ping's.
        @"crate::json::number" nonce: u64,
    }

    /// Something was refused. On stream 0 without a request, the connection ends.
    Error = 62, ToClient, tail: false {
        /// The request that this answers, 0 if none.
        request: u32,
        /// The error code.
        code: u16,
        /// Kind of the frame that caused it, 0 if none.
        kind: u16,
        /// Earliest time for another try, in milliseconds from now; 0 for at once, where it may help.
        retry_after_ms: u32,
        /// What was wrong and what to do, for people.
        message: String,
    }

    /// The server is about to close this connection; what is acked is safe.
    GoingAway = 63, ToClient, tail: false {
        /// Why.
        code: u16,
        /// Earliest time to come back, in milliseconds from now.
        retry_after_ms: u32,
        /// Add a random time up to this, so that not all come at once.
        retry_jitter_ms: u32,
        /// The reason for people.
        message: String,
    }
}
