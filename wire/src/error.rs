//! Error codes: stable numbers and names, whether trying again can help, and the WebSocket close code.

macro_rules! error_codes {
    ($($(#[$doc:meta])+ $variant:ident = $number:literal, $name:literal, $retry:ident, $close:literal;)+) => {
        /// Why something was refused or ended. Numbers and names never change their meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[$doc])+ $variant = $number,)+
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code with this number, `None` for one of a newer server.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The stable name, as in logs, metrics and the SDKs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Whether the same request may succeed later without being changed.
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$variant => error_codes!(@ $retry),)+ }
            }

            /// The close code of a WebSocket that ends for this reason (RFC 6455, 7.4; 4000 to 4999 are for
            /// applications).
            pub const fn close_code(self) -> u16 {
                match self { $(Self::$variant => $close,)+ }
            }
        }
    };
    (@ retry) => { true };
    (@ fatal) => { false };
}

error_codes! {
    /// Frames in an order or with contents that the protocol does not allow.
    ProtocolViolation = 100, "protocol_violation", fatal, 1002;
    /// No protocol version that both sides speak.
    UnsupportedProtocol = 101, "unsupported_protocol", fatal, 1002;
    /// A frame longer than the limit.
    FrameTooLarge = 102, "frame_too_large", fatal, 1009;
    /// A frame whose header or body cannot be read.
    FrameMalformed = 103, "frame_malformed", fatal, 1002;
    /// A kind that this side does not know and may not skip.
    UnknownKind = 104, "unknown_kind", fatal, 1002;
    /// A kind that does not belong here: wrong direction, or before hello.
    UnexpectedKind = 105, "unexpected_kind", fatal, 1002;
    /// No hello in time.
    HelloTimeout = 106, "hello_timeout", retry, 4006;
    /// Nothing was heard for too long.
    IdleTimeout = 107, "idle_timeout", retry, 4007;
    /// The server holds as many connections as it may.
    TooManyConnections = 108, "too_many_connections", retry, 1013;
    /// The server stops or restarts.
    ShuttingDown = 109, "shutting_down", retry, 1001;
    /// A fault of the server's own.
    Internal = 110, "internal", retry, 1011;
    /// Text where the protocol has only binary messages.
    TextNotSupported = 111, "text_not_supported", fatal, 1003;
    /// The port speaks TLS only.
    TlsRequired = 112, "tls_required", fatal, 4112;

    /// The document's name is empty, too long, or has control characters.
    DocumentIdInvalid = 200, "document_id_invalid", fatal, 4200;
    /// The stream is not open on this connection.
    StreamNotOpen = 201, "stream_not_open", fatal, 4201;
    /// The document is open on this connection already.
    AlreadyOpen = 202, "already_open", fatal, 4202;
    /// As many documents are open as one connection may have.
    TooManyStreams = 203, "too_many_streams", fatal, 4203;
    /// Not allowed, or not there: the two look alike to those who may not know.
    Forbidden = 204, "forbidden", fatal, 4204;
    /// A token is needed.
    TokenRequired = 205, "token_required", fatal, 4205;
    /// The token cannot be used.
    TokenInvalid = 206, "token_invalid", fatal, 4206;
    /// The token's time is over.
    TokenExpired = 207, "token_expired", fatal, 4207;
    /// The token was revoked.
    TokenRevoked = 208, "token_revoked", fatal, 4208;
    /// The document's stored log is damaged; an operator can repair it.
    DocumentDamaged = 209, "document_damaged", fatal, 4209;
    /// The document has reached its size limit.
    DocumentTooLarge = 210, "document_too_large", fatal, 4210;
    /// The document was deleted.
    DocumentDeleted = 211, "document_deleted", fatal, 4211;
    /// The server's storage does not take writes: disk full, or a failed sync.
    StorageUnavailable = 212, "storage_unavailable", retry, 4212;
    /// Too much at once; try again after the time given.
    Overloaded = 213, "overloaded", retry, 1013;
    /// The rights that were asked for are no rights, or none.
    RightsInvalid = 214, "rights_invalid", fatal, 4214;
    /// The document began anew without changes that broke it: open it again, and take it from its beginning.
    DocumentReset = 215, "document_reset", retry, 4215;
    /// The server does not have the key of this token yet, and fetches keys: try again in a moment.
    KeysUnavailable = 216, "keys_unavailable", retry, 4216;

    /// The push has no change, or more than one push may have.
    PushInvalid = 300, "push_invalid", fatal, 4300;
    /// The bytes are not a change in Automerge's format.
    ChangeMalformed = 301, "change_malformed", fatal, 4301;
    /// The change's checksum does not match its bytes.
    ChangeChecksum = 302, "change_checksum", fatal, 4302;
    /// The change has more bytes, dependencies, actors or operations than a change may have.
    ChangeTooLarge = 303, "change_too_large", fatal, 4303;
    /// The change is compressed; on the wire changes travel plain.
    ChangeCompressed = 304, "change_compressed", fatal, 4304;
    /// The change is not encoded as Automerge encodes it.
    ChangeNotCanonical = 305, "change_not_canonical", fatal, 4305;
    /// The change depends on changes that the server does not have.
    MissingDependencies = 306, "missing_dependencies", retry, 4306;
    /// Changes of this actor are missing before this one.
    SequenceGap = 307, "sequence_gap", retry, 4307;
    /// The server has another change of this actor with this number: go on under a fresh actor.
    ActorForked = 308, "actor_forked", fatal, 4308;
    /// The change does not count its operations on from its dependencies.
    StartOpWrong = 309, "start_op_wrong", fatal, 4309;
    /// The change refers to an actor that the document does not know.
    UnknownActor = 310, "unknown_actor", fatal, 4310;
    /// The document began with another genesis, which the refusal carries: adopt it.
    GenesisConflict = 311, "genesis_conflict", fatal, 4311;
    /// The actor belongs to another subject.
    ActorNotYours = 312, "actor_not_yours", fatal, 4312;
    /// The stream may not write.
    ReadOnly = 313, "read_only", fatal, 4313;
    /// The document's operation counter would pass its limit.
    DocumentOpsExhausted = 314, "document_ops_exhausted", fatal, 4314;
    /// A change of this actor broke the document and was excluded: go on under a fresh actor, without it.
    ActorExcluded = 315, "actor_excluded", fatal, 4315;
    /// The document would break with the change, which was not stored: go on under a fresh actor, without it.
    ChangeUnusable = 316, "change_unusable", fatal, 4316;

    /// The presence state is larger than allowed.
    PresenceTooLarge = 400, "presence_too_large", fatal, 4400;
    /// As many members have presence as a document may have.
    PresenceFull = 401, "presence_full", retry, 4401;
    /// The broadcast or its topic is larger than allowed.
    BroadcastTooLarge = 402, "broadcast_too_large", fatal, 4402;
    /// The stream may not take part in presence.
    PresenceForbidden = 403, "presence_forbidden", fatal, 4403;
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why bytes are not a frame that this side takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is below the header's size.
    #[error("the frame's length field says {length} bytes, a frame has at least its header")]
    LengthTooSmall {
        /// What the field says.
        length: u32,
    },
    /// The length field is above the limit.
    #[error("the frame has {length} bytes, at most {max} are allowed")]
    TooLarge {
        /// What the field says.
        length: u32,
        /// The limit that applied.
        max: usize,
    },
    /// The length field and the bytes given do not agree.
    #[error("the frame's length field says {length} bytes, but {given} are there")]
    LengthMismatch {
        /// What the field says.
        length: u32,
        /// Bytes that are there.
        given: usize,
    },
    /// Another protocol version.
    #[error("the frame is of protocol version {protocol}, this side speaks {ours}", ours = crate::PROTOCOL)]
    Protocol {
        /// The version in the frame.
        protocol: u8,
    },
    /// A flag that this version does not define.
    #[error("the frame has unknown flags {flags:#04x}")]
    Flags {
        /// All flags of the frame.
        flags: u8,
    },
    /// A kind that is not known and may not be skipped.
    #[error("the frame's kind {kind} is not known")]
    UnknownKind {
        /// The kind's number.
        kind: u16,
    },
    /// The archive is said to be longer than the frame, or a tail follows where the kind has none.
    #[error("the frame's archive of {archive_bytes} bytes does not fit its body of {body_bytes}")]
    ArchiveBounds {
        /// What the header says.
        archive_bytes: u32,
        /// Bytes after the header.
        body_bytes: usize,
    },
    /// The archive is not what the kind says.
    #[error("the body of a frame of kind {kind} cannot be read")]
    Archive {
        /// The kind's number.
        kind: u16,
    },
}

impl FrameError {
    /// The code with which a connection ends that sent such a frame.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::FrameTooLarge,
            Self::Protocol { .. } => ErrorCode::UnsupportedProtocol,
            Self::UnknownKind { .. } => ErrorCode::UnknownKind,
            Self::LengthTooSmall { .. }
            | Self::LengthMismatch { .. }
            | Self::Flags { .. }
            | Self::ArchiveBounds { .. }
            | Self::Archive { .. } => ErrorCode::FrameMalformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_names_are_unique_and_lead_back() {
        let mut names = HashSet::new();
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code as u16), Some(code));
            assert!(names.insert(code.name()), "{} twice", code.name());
            let close = code.close_code();
            let registered = matches!(close, 1001 | 1002 | 1003 | 1009 | 1011 | 1013);
            assert!(registered || (4000..5000).contains(&close), "{code}: {close}");
        }
        assert_eq!(ErrorCode::from_number(0), None);
        assert_eq!(ErrorCode::from_number(u16::MAX), None);
    }
}
