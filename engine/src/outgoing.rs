//! A frame on its way out, in bytes that serve every transport.
//!
//! A WebSocket message is the same frame behind a header of 2 to 10 bytes. Room for it is kept in front of
//! the frame, so that one encoding is shared by the members on TCP and those on WebSocket.

use bytes::Bytes;
use etherply_wire::websocket;
use etherply_wire::{HEADER_BYTES, Message, encode_into};
use rkyv::api::high::HighSerializer;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;

/// Longest WebSocket header that a server writes: it masks nothing.
const WEBSOCKET_HEADER_BYTES_MAX: usize = 10;

/// An encoded frame, cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The WebSocket header, then the frame.
    bytes: Bytes,
    frame_start: usize,
}

impl Outgoing {
    /// Encodes a frame; `tails` follow the archive in their order.
    pub fn new<T>(stream: u32, message: &T, tails: &[&[u8]]) -> Self
    where
        T: Message + for<'a> rkyv::Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, rancor::Panic>>,
    {
        let tail_bytes: usize = tails.iter().map(|tail| tail.len()).sum();
        let mut out = Vec::with_capacity(WEBSOCKET_HEADER_BYTES_MAX + HEADER_BYTES + 96 + tail_bytes);
        out.extend_from_slice(&[0; WEBSOCKET_HEADER_BYTES_MAX]);
        encode_into(&mut out, stream, message, tails);
        let mut header = [0; websocket::WS_HEADER_BYTES_MAX];
        let payload_bytes = out.len() - WEBSOCKET_HEADER_BYTES_MAX;
        let header_bytes =
            websocket::write_header(&mut header, websocket::OpCode::Binary, payload_bytes, None);
        let start = WEBSOCKET_HEADER_BYTES_MAX.saturating_sub(header_bytes);
        for (to, from) in out.iter_mut().skip(start).zip(header.iter().take(header_bytes)) {
            *to = *from;
        }
        Self { bytes: Bytes::from(out).slice(start..), frame_start: header_bytes }
    }

    /// The bare frame, as TCP carries it.
    pub fn frame(&self) -> &[u8] {
        self.bytes.get(self.frame_start..).unwrap_or_default()
    }

    /// The frame as one WebSocket message.
    pub fn websocket(&self) -> &[u8] {
        &self.bytes
    }

    /// What goes out over TCP, shared.
    pub fn for_tcp(&self) -> Bytes {
        self.bytes.slice(self.frame_start..)
    }

    /// What goes out over WebSocket, shared.
    pub fn for_websocket(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The last `bytes` of the frame, which is its tail, without copying it.
    pub fn tail(&self, bytes: usize) -> Bytes {
        self.bytes.slice(self.bytes.len().saturating_sub(bytes)..)
    }

    /// Bytes on the wire, the larger of both forms.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a frame has a header.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherply_wire::kinds::{BroadcastSend, Ping};

    #[test]
    fn one_encoding_serves_both_transports() {
        for tail_bytes in [0, 60, 61, 62, 63, 64, 125, 126, 70_000] {
            let tail = vec![7; tail_bytes];
            let out = Outgoing::new(3, &BroadcastSend { topic: "t".into() }, &[&tail]);
            let expected = etherply_wire::encode(3, &BroadcastSend { topic: "t".into() }, &[&tail]);
            assert_eq!(out.frame(), expected);
            let header = websocket::parse_header(out.websocket()).unwrap().unwrap();
            assert_eq!(header.payload_bytes, expected.len() as u64);
            assert_eq!(&out.websocket()[header.header_bytes..], expected);
            assert_eq!(out.tail(tail_bytes), tail);
        }
        assert!(!Outgoing::new(0, &Ping { nonce: 1 }, &[]).is_empty());
    }
}
