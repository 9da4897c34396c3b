//! The EtherPly wire: frames, their kinds, limits and error codes.
//!
//! ```text
//!  0        4    5    6      8         12              16
//!  +--------+----+----+------+---------+---------------+----------------------+-----------------+
//!  | length |prot|flag| kind | stream  | archive bytes | rkyv archive         | tail (CRDT      |
//!  | u32    | u8 | u8 | u16  | u32     | u32           | of the kind's struct | bytes, opaque)  |
//!  +--------+----+----+------+---------+---------------+----------------------+-----------------+
//! ```
//!
//! All integers are little-endian. `length` counts the whole frame, header included. Over TCP it delimits
//! frames (after [`MAGIC`], which the client sends once); over WebSocket one binary message is one frame and
//! `length` must agree with it. `archive bytes` tells where the tail begins; kinds without a tail have none.
//!
//! A kind's struct is frozen once released: what has to change becomes a new kind. There is no rkyv enum at
//! any root, because an old reader that meets an added variant reads it wrongly and reports success.
//!
//! This crate does no I/O, knows no runtime and nothing of Automerge: change and snapshot bytes are opaque.

// First, so that the others see its macro.
#[macro_use]
pub mod kinds;

pub mod error;
pub mod frame;
#[cfg(feature = "json")]
pub mod json;
pub mod limits;
pub mod proxy;
pub mod rights;
#[cfg(feature = "json")]
pub mod vectors;
pub mod websocket;

pub use error::{ErrorCode, FrameError};
pub use frame::{FLAG_SKIPPABLE, Frame, HEADER_BYTES, PROTOCOL, encode, encode_into, frame_length};
pub use kinds::{Direction, Kind, Message};
pub use rights::Rights;

/// What a raw TCP connection begins with, so that one port can serve raw frames and HTTP upgrades: no HTTP
/// method begins with its first byte, and the line ends in it show a connection that translates them.
pub const MAGIC: [u8; 8] = [0xE7, b'E', b'P', b'L', b'Y', b'\r', b'\n', 0x01];

/// How the names of actors begin that write a document anew without its history, in a new epoch: a squash. A member
/// of an earlier epoch that finds none of its changes in the new one, and such an actor, knows by it that what it
/// wrote and was acked is in there all the same, in other changes.
pub const SQUASH_ACTOR_PREFIX: [u8; 8] = *b"squashed";
