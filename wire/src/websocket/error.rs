//! What a peer can do wrong once the connection is a WebSocket.

use crate::error::ErrorCode;

/// Why bytes are not a WebSocket stream that this side takes. The connection ends with [`Self::close_code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WsError {
    /// One of the bits that only extensions use.
    #[error("the WebSocket frame has reserved bits set, but no extension was agreed")]
    ReservedBits,
    /// An opcode that the standard does not define.
    #[error("the WebSocket frame has the undefined opcode {opcode}")]
    ReservedOpCode {
        /// The opcode.
        opcode: u8,
    },
    /// A length in more bytes than it needs.
    #[error("the WebSocket frame's length {bytes} is not in its shortest form")]
    LengthNotMinimal {
        /// The length.
        bytes: u64,
    },
    /// A length of 2^63 or more.
    #[error("the WebSocket frame's length has its highest bit set")]
    LengthTopBit,
    /// A control frame with more than [`super::CONTROL_BYTES_MAX`] bytes.
    #[error("a WebSocket control frame has at most {max} bytes", max = super::CONTROL_BYTES_MAX)]
    ControlTooLong,
    /// A control frame in pieces.
    #[error("a WebSocket control frame must not be fragmented")]
    ControlFragmented,
    /// A client's frame without a masking key.
    #[error("a WebSocket client must mask its frames")]
    MaskMissing,
    /// A server's frame with a masking key.
    #[error("a WebSocket server must not mask its frames")]
    MaskForbidden,
    /// A continuation of nothing.
    #[error("a WebSocket continuation frame came without a message to continue")]
    ContinuationWithoutStart,
    /// A new message before the last fragment of the one before.
    #[error("a new WebSocket message began before the fragmented one ended")]
    MessageInterrupted,
    /// A message over the limit; known from the header, before its bytes are here.
    #[error("the WebSocket message has {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// Bytes of the message, or of its fragments so far.
        bytes: u64,
        /// The limit that applied.
        max: usize,
    },
    /// Text or a close reason that is not UTF-8.
    #[error("text in a WebSocket frame is not UTF-8")]
    Utf8,
    /// A close frame with half a code.
    #[error("the WebSocket close frame has one byte, a close code has two")]
    CloseCodeShort,
    /// A close code that must not be sent.
    #[error("the WebSocket close code {code} must not be sent")]
    CloseCodeInvalid {
        /// The code.
        code: u16,
    },
}

impl WsError {
    /// The code of the close frame that answers it (RFC 6455, 7.4.1).
    pub const fn close_code(&self) -> u16 {
        match self {
            Self::TooLarge { .. } => 1009,
            Self::Utf8 => 1007,
            _ => 1002,
        }
    }

    /// The code for logs, metrics and SDKs.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::FrameTooLarge,
            _ => ErrorCode::ProtocolViolation,
        }
    }
}
