//! Bytes of a socket to frames and back: raw TCP, or binary WebSocket messages.
//!
//! Nothing is held between two inputs but the beginning of a frame that is not whole yet, so that an idle
//! connection owns no buffer.

use etherply_wire::MAGIC;
use etherply_wire::frame::frame_length;
use etherply_wire::limits::{FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX};
use etherply_wire::websocket::{
    Decoder, Event, OpCode, Role, WS_HEADER_BYTES_MAX, apply_mask, control_into, handshake, write_header,
};

use crate::error::ClientError;

/// How frames travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Length-prefixed frames.
    Tcp,
    /// One frame a binary message.
    WebSocket {
        /// The server's name, with its port where that is not the default one.
        host: String,
        /// The endpoint's path.
        path: String,
    },
}

/// What a link passes up.
pub(crate) enum Incoming<'a> {
    /// Frames may be sent from now on.
    Open,
    /// A whole frame.
    Frame(&'a [u8]),
}

#[derive(Debug)]
enum Codec {
    Tcp,
    Upgrading { key: [u8; 16] },
    WebSocket(Decoder),
}

/// One connection's codec.
#[derive(Debug)]
pub(crate) struct Link {
    codec: Codec,
    partial: Vec<u8>,
    random: Random,
}

impl Link {
    /// Begins a connection: appends what has to be sent before anything else. With TCP, frames may follow at
    /// once; otherwise when [`Incoming::Open`] comes.
    pub(crate) fn start(transport: &Transport, seed: u64, out: &mut Vec<u8>) -> Result<Self, ClientError> {
        let mut random = Random(seed);
        let codec = match transport {
            Transport::Tcp => {
                out.extend_from_slice(&MAGIC);
                Codec::Tcp
            }
            Transport::WebSocket { host, path } => {
                let mut key = [0; 16];
                let (low, high) = key.split_at_mut(8);
                low.copy_from_slice(&random.next().to_le_bytes());
                high.copy_from_slice(&random.next().to_le_bytes());
                out.extend_from_slice(&handshake::request(host, path, &key)?);
                Codec::Upgrading { key }
            }
        };
        Ok(Self { codec, partial: Vec::new(), random })
    }

    /// Whether frames may be sent.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.codec, Codec::Upgrading { .. })
    }

    /// Takes received bytes and passes up each whole frame. `out` gets what the codec itself answers; after an
    /// error, that is the last that may be sent.
    pub(crate) fn receive(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        pass: &mut dyn FnMut(Incoming<'_>) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        if self.partial.is_empty() {
            let used = self.consume(bytes, out, pass)?;
            self.partial.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.partial);
        held.extend_from_slice(bytes);
        let used = self.consume(&mut held, out, pass)?;
        if used < held.len() {
            held.drain(..used);
            self.partial = held;
        }
        Ok(())
    }

    fn consume(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        pass: &mut dyn FnMut(Incoming<'_>) -> Result<(), ClientError>,
    ) -> Result<usize, ClientError> {
        let mut used = 0;
        while let Some(rest) = bytes.get_mut(used..).filter(|rest| !rest.is_empty()) {
            match &mut self.codec {
                Codec::Tcp => {
                    let Some(length) = frame_length(rest, FRAME_BYTES_MAX)? else { break };
                    let Some(frame) = rest.get(..length) else { break };
                    pass(Incoming::Frame(frame))?;
                    used += length;
                }
                Codec::Upgrading { key } => {
                    let Some(length) = handshake::parse_response(rest, key)? else {
                        if rest.len() >= HANDSHAKE_BYTES_MAX {
                            return Err(ClientError::Violation("the upgrade's answer is too long"));
                        }
                        break;
                    };
                    used += length;
                    self.codec = Codec::WebSocket(Decoder::new(Role::Client, FRAME_BYTES_MAX));
                    pass(Incoming::Open)?;
                }
                Codec::WebSocket(decoder) => {
                    let decoded = decoder.next(rest)?;
                    used += decoded.consumed;
                    match decoded.event {
                        None => break,
                        Some(Event::Message(frame)) => pass(Incoming::Frame(&frame))?,
                        Some(Event::Ping(payload)) => {
                            control_into(out, OpCode::Pong, payload, Some(self.random.mask()));
                        }
                        Some(Event::Pong(_)) => {}
                        Some(Event::Text) => {
                            return Err(ClientError::Violation("a text message, where all are binary"));
                        }
                        Some(Event::Close { code, reason }) => {
                            // Answered with the same code, or none (RFC 6455, 5.5.1).
                            let code_bytes = code.map(u16::to_be_bytes);
                            let payload = code_bytes.as_ref().map_or(&[][..], |bytes| &bytes[..]);
                            control_into(out, OpCode::Close, payload, Some(self.random.mask()));
                            return Err(ClientError::Closed { code, reason: reason.to_owned() });
                        }
                    }
                }
            }
        }
        Ok(used)
    }

    /// Appends one frame, which `encode` appends, in the form in which it travels.
    pub(crate) fn send(&mut self, out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        encode(out);
        if matches!(self.codec, Codec::Tcp) {
            return;
        }
        let payload_bytes = out.len() - start;
        let mask = self.random.mask();
        let mut header = [0; WS_HEADER_BYTES_MAX];
        let header_bytes = write_header(&mut header, OpCode::Binary, payload_bytes, Some(mask));
        if let Some(payload) = out.get_mut(start..) {
            apply_mask(payload, mask, 0);
        }
        out.splice(start..start, header.into_iter().take(header_bytes));
    }

    /// Sends frames that stand one behind the other in `frames`, and empties it.
    pub(crate) fn send_all(&mut self, out: &mut Vec<u8>, frames: &mut Vec<u8>) {
        if matches!(self.codec, Codec::Tcp) {
            out.append(frames);
        } else {
            let mut rest = frames.as_slice();
            while let Ok(Some((frame, after))) =
                frame_length(rest, usize::MAX).map(|length| length.and_then(|at| rest.split_at_checked(at)))
            {
                self.send(out, |out| out.extend_from_slice(frame));
                rest = after;
            }
        }
        *frames = Vec::new();
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). Masking keys have
/// to differ, so that no proxy can be made to see a request in them; nothing secret depends on them.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn mask(&mut self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.next().to_le_bytes();
        [a, b, c, d]
    }
}
