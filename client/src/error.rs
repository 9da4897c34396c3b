//! Why a connection ended, why a push was not taken in, and what to do next.

use etherply_wire::websocket::{WsError, handshake::HandshakeError};
use etherply_wire::{ErrorCode, FrameError};

use crate::progress::RangeError;

/// Why a connection cannot go on. The socket is to be closed; [`ClientError::next`] says what then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server sent something that is no frame.
    #[error("the server sent an unreadable frame: {0}")]
    Frame(#[from] FrameError),
    /// The server broke the WebSocket standard.
    #[error("the server sent an unreadable WebSocket message: {0}")]
    WebSocket(#[from] WsError),
    /// The upgrade to WebSocket failed.
    #[error("the WebSocket could not be opened: {0}")]
    Handshake(#[from] HandshakeError),
    /// The server left changes out, or told of positions that cannot be.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The server did something that the protocol does not allow.
    #[error("the server broke the protocol: {0}")]
    Violation(&'static str),
    /// The server ended the connection, and said why.
    #[error("the server ended the connection ({code}): {message}", code = code_name(*.code))]
    Server {
        /// The error code.
        code: u16,
        /// Earliest time for another try, in milliseconds from then.
        retry_after_ms: u32,
        /// The reason for people.
        message: String,
    },
    /// TLS failed.
    #[error("no secure connection to the server: {0}")]
    Tls(String),
    /// The server closed the WebSocket.
    #[error("the server closed the WebSocket{}{}", .code.map(|code| format!(" with {code}")).unwrap_or_default(),
        if .reason.is_empty() { String::new() } else { format!(": {reason}") })]
    Closed {
        /// The WebSocket close code, if it gave one.
        code: Option<u16>,
        /// The reason for people.
        reason: String,
    },
}

/// What to do after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Connect again; what is not acked is pushed again. [`crate::Backoff`] makes a wait of it.
    Reconnect {
        /// Milliseconds to wait at least, as the server asked.
        after_ms: u32,
        /// Milliseconds of random time that the server asked to be added, so that not all clients come at once.
        jitter_ms: u32,
    },
    /// Connecting again leads to the same error: configuration or version has to change.
    Stop,
}

impl Next {
    /// Connect again, without a wish of the server's as to when.
    pub const RECONNECT: Self = Self::after(0);

    const fn after(after_ms: u32) -> Self {
        Self::Reconnect { after_ms, jitter_ms: 0 }
    }

    /// Both together: the longer times, and no connection if one says so.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (
                Self::Reconnect { after_ms, jitter_ms },
                Self::Reconnect { after_ms: other_ms, jitter_ms: other_jitter_ms },
            ) => Self::Reconnect {
                after_ms: after_ms.max(other_ms),
                jitter_ms: jitter_ms.max(other_jitter_ms),
            },
            _ => Self::Stop,
        }
    }
}

/// Whether the same request may succeed later: the wire's table of codes says so. A code that this version does
/// not know is tried again.
pub(crate) fn is_retryable(code: u16) -> bool {
    ErrorCode::from_number(code).is_none_or(ErrorCode::is_retryable)
}

impl ClientError {
    /// The stable code.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Frame(error) => Some(error.code()),
            Self::WebSocket(error) => Some(error.code()),
            Self::Handshake(_) | Self::Range(_) | Self::Violation(_) => Some(ErrorCode::ProtocolViolation),
            Self::Tls(_) => None,
            Self::Server { code, .. } => ErrorCode::from_number(*code),
            Self::Closed { code, .. } => {
                let code = (*code)?;
                ErrorCode::ALL.iter().copied().find(|known| known.close_code() == code)
            }
        }
    }

    /// What to do next: the wire's `retryable` codes, a gap, and an upgrade that failed with a status from 500
    /// on (a proxy whose server is away) lead to another connection. All else is final, because the same bytes
    /// would be exchanged again.
    pub fn next(&self) -> Next {
        match self {
            // A gap is mended by resuming from the cursor.
            Self::Range(_) => Next::RECONNECT,
            Self::Server { code, retry_after_ms, .. } if is_retryable(*code) => Next::after(*retry_after_ms),
            Self::Server { .. } => Next::Stop,
            Self::Handshake(HandshakeError::Refused { status }) if *status >= 500 => Next::after(1_000),
            Self::Closed { .. } => match self.code() {
                Some(code) if !code.is_retryable() => Next::Stop,
                _ => Next::RECONNECT,
            },
            Self::Frame(_) | Self::WebSocket(_) | Self::Handshake(_) | Self::Violation(_) | Self::Tls(_) => {
                Next::Stop
            }
        }
    }
}

/// Why a request was not taken in. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no such stream, or it is being closed.
    #[error("the document is not open on this client")]
    NotOpen,
    /// There is no connection, or the document is not open on it: broadcasts, pings and new tokens are not kept
    /// for later, as edits and presence are.
    #[error("there is no connection to the server at the moment")]
    NotConnected,
    /// The document has as many streams open as the server allows.
    #[error("{max} documents are open, the most that one connection may have: close one, or connect again")]
    TooManyStreams {
        /// The limit.
        max: usize,
    },
    /// The name is empty, too long, or the token is.
    #[error("the document's name has to have 1 to {name_max} bytes, a token at most {token_max}",
        name_max = etherply_wire::limits::DOCUMENT_ID_BYTES_MAX, token_max = etherply_wire::limits::TOKEN_BYTES_MAX)]
    NameInvalid,
    /// A push without a change, or with too many.
    #[error("a push holds 1 to {max} changes, this one has {given}: split it")]
    PushCount {
        /// Changes of the push.
        given: usize,
        /// The limit.
        max: usize,
    },
    /// A change, a push or a payload is too large.
    #[error("{given} bytes are more than the {max} that the server takes")]
    TooLarge {
        /// Bytes given.
        given: usize,
        /// The limit.
        max: usize,
    },
    /// The outbox holds as much as it may: wait for acks.
    #[error("too many pushes wait for the server: wait until some are acked")]
    OutboxFull,
    /// The stream does not wait for such an answer.
    #[error("the stream did not ask for this")]
    NotAsked,
}

fn code_name(code: u16) -> String {
    ErrorCode::from_number(code).map_or_else(|| code.to_string(), |code| code.name().to_owned())
}
