//! WebSocket (RFC 6455) without I/O: the server, the Rust client and the load generator feed it bytes.
//!
//! What lives here: frame headers and masking ([`header`]), reading messages in place ([`decoder`]), writing
//! frames ([`encode`]) and the HTTP upgrade ([`handshake`]). What does not: sockets, timers, who may connect.
//! Extensions are never negotiated, so a frame that uses one is an error.

pub mod decoder;
pub mod encode;
pub mod error;
pub mod handshake;
pub mod header;
mod utf8;

pub use decoder::{Decoded, Decoder, Event};
pub use encode::{close_frame, control_into, message_into};
pub use error::WsError;
pub use header::{Header, OpCode, Role, apply_mask, parse_header, write_header};

/// Longest payload of a control frame (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// Longest header of a frame: two bytes, a length of 64 bits, a masking key.
pub const WS_HEADER_BYTES_MAX: usize = 14;
