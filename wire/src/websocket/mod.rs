//! WebSocket (RFC 6455) without I/O: the server, the Rust client and the load generator feed it bytes.
//!
//! What lives here: frame headers and masking ([`header`]), reading messages in place ([`decoder`]), writing
//! frames ([`encode`]) and the HTTP upgrade ([`handshake`]). What does not: sockets, timers, who may connect.
//! Extensions are never negotiated, so a frame that uses one is an error.
//!
//! | RFC 6455 | what is done about it | where |
//! |---|---|---|
//! | 1.9, 4.1 | the subprotocol `etherply.v1` is named if it was offered, and no other | `handshake` |
//! | 4.2.1 | GET, HTTP/1.1, Host, Upgrade, Connection, a key of 16 bytes, a target of the same host; no body | `handshake` |
//! | 4.2.2, 4.4 | refusals are HTTP responses: 400, 403, 405, 426 with the version, 431, 505 | `handshake` |
//! | 5.1, 5.3 | clients mask, servers do not: anything else is 1002 | `decoder` |
//! | 5.2 | reserved bits and opcodes, lengths not in their shortest form or of 2^63 and more: 1002 | `header` |
//! | 5.4 | fragments in order, control frames between them; one limit for the whole message: 1009 | `decoder` |
//! | 5.5 | control frames are whole and have at most 125 bytes: 1002 | `header` |
//! | 5.5.1, 7.4 | a close code is one that may be sent, alone or with a reason in UTF-8: 1002, 1007 | `decoder` |
//! | 5.5.1, 7.1 | a close is answered with its code; the server ends its half, reads the rest, closes | the server |
//! | 5.5.2, 5.5.3 | a ping is answered with its bytes; a pong is a sign of life | the server |
//! | 7.1.7, 7.2.2 | what fails is told by a close frame; what follows is discarded | `decoder`, the server |
//! | 8.1 | text is refused at the first byte that cannot be UTF-8: 1007; all other text: 1003 | `utf8`, the server |
//! | 9 | offers of extensions are passed over, which declines them | `handshake` |
//! | 10.2 | whose pages may connect | the server |
//! | 10.4 | a message's limit holds when its header is there, before anything is allocated | `decoder` |

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
