//! A WebSocket client that sends whatever a test wants, and reads what a server may send and nothing else.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use etherply_wire::kinds::{Error, Hello, Kind, Ping, Pong};
use etherply_wire::websocket::apply_mask;
use etherply_wire::websocket::handshake::{parse_response, request};
use etherply_wire::{ErrorCode, FLAG_SKIPPABLE, Frame, HEADER_BYTES, encode};

use crate::common::{PATIENCE, Server};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

const KEY: [u8; 16] = *b"a key of a test.";
const MASK: [u8; 4] = [0x9C, 0x00, 0xFF, 0x31];

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// A frame of this kind, which is not one of the next two.
    Frame(Kind),
    /// EtherPly's own pong.
    Answer(u64),
    /// An error frame.
    Refusal(ErrorCode),
    /// A WebSocket's pong.
    Pong(Vec<u8>),
    /// A close frame; whether it says why.
    Close { code: u16, says_why: bool },
    /// The server has closed its half of the connection.
    End,
}

/// An upgraded connection.
pub struct Raw {
    pub socket: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects and upgrades.
    pub fn upgraded(server: &Server) -> Self {
        let mut socket = TcpStream::connect(server.listen).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.write_all(&request(&server.listen.to_string(), "/", &KEY).unwrap()).unwrap();
        let mut raw = Self { socket, buffer: Vec::new() };
        let head_bytes = loop {
            match parse_response(&raw.buffer, &KEY).unwrap() {
                Some(bytes) => break bytes,
                None => assert!(raw.fill(), "the server closed the connection instead of an upgrade"),
            }
        };
        raw.buffer.drain(..head_bytes);
        raw
    }

    /// Connects, upgrades and says hello.
    pub fn greeted(server: &Server) -> Self {
        let mut raw = Self::upgraded(server);
        raw.send(&frame(true, 0, BINARY, &hello()));
        assert_eq!(raw.get(), Got::Frame(Kind::Welcome));
        raw
    }

    /// Sends. That the server has closed is not an error here: what it said before is to be read.
    pub fn send(&mut self, bytes: &[u8]) {
        match self.socket.write_all(bytes) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                panic!("{error}")
            }
            _ => {}
        }
    }

    /// Sends in pieces of this many bytes, each a segment of its own as far as TCP lets it.
    pub fn send_in_chops(&mut self, bytes: &[u8], chop_bytes: usize) {
        for piece in bytes.chunks(chop_bytes) {
            self.send(piece);
        }
    }

    /// What the server says next.
    pub fn get(&mut self) -> Got {
        let Some((opcode, payload)) = self.next_frame() else { return Got::End };
        match opcode {
            BINARY => {
                let frame = Frame::parse(&payload).unwrap().unwrap();
                match frame.kind().unwrap() {
                    Kind::Pong => Got::Answer(frame.body::<Pong>().unwrap().nonce.to_native()),
                    Kind::Error => {
                        let code = frame.body::<Error>().unwrap().code.to_native();
                        Got::Refusal(ErrorCode::from_number(code).unwrap())
                    }
                    kind => Got::Frame(kind),
                }
            }
            PONG => Got::Pong(payload),
            CLOSE => {
                let (code, reason) = payload.split_first_chunk::<2>().expect("a server says why it closes");
                let says_why = !std::str::from_utf8(reason).unwrap().is_empty();
                Got::Close { code: u16::from_be_bytes(*code), says_why }
            }
            opcode => panic!("a server sends no frame with opcode {opcode}"),
        }
    }

    /// The next frame's opcode and payload: whole, unmasked, without extensions (RFC 6455, 5.1 and 5.2).
    pub fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let [first, second, rest @ ..] = self.buffer.as_slice() {
                assert_eq!(first & 0xF0, 0x80, "the last fragment, and no reserved bits");
                assert_eq!(second & 0x80, 0, "unmasked");
                let length = match second {
                    126 => rest.first_chunk().map(|field| (2, u16::from_be_bytes(*field).into())),
                    127 => rest.first_chunk().map(|field| (8, u64::from_be_bytes(*field))),
                    _ => Some((0, u64::from(*second))),
                };
                if let Some((field_bytes, payload_bytes)) = length
                    && let Some(payload) = rest[field_bytes..].get(..usize::try_from(payload_bytes).unwrap())
                {
                    let (opcode, payload) = (first & 0x0F, payload.to_vec());
                    self.buffer.drain(..2 + field_bytes + payload.len());
                    return Some((opcode, payload));
                }
            }
            if !self.fill() {
                assert!(self.buffer.is_empty(), "the connection ends within a frame");
                return None;
            }
        }
    }

    /// Reads more; `false` at the end.
    fn fill(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match self.socket.read(&mut bytes) {
            Ok(read) => {
                self.buffer.extend_from_slice(&bytes[..read]);
                read > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing more came: {error}"),
        }
    }
}

/// A masked frame, any at all: `rsv` are the three reserved bits.
pub fn frame(fin: bool, rsv: u8, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::from(fin) << 7 | rsv << 4 | opcode];
    match payload.len() {
        length @ ..126 => out.push(0x80 | u8::try_from(length).unwrap()),
        length => match u16::try_from(length) {
            Ok(length) => {
                out.push(0x80 | 126);
                out.extend(length.to_be_bytes());
            }
            Err(_) => {
                out.push(0x80 | 127);
                out.extend((length as u64).to_be_bytes());
            }
        },
    }
    out.extend(MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], MASK, 0);
    out
}

/// A close frame's payload.
pub fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

pub fn hello() -> Vec<u8> {
    encode(0, &Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent: "raw".to_owned() }, &[])
}

/// EtherPly's own ping, which is answered by [`Got::Answer`].
pub fn question(nonce: u64) -> Vec<u8> {
    encode(0, &Ping { nonce }, &[])
}

/// A frame of exactly this many bytes that a server passes over without an answer.
pub fn passed_over(bytes: usize) -> Vec<u8> {
    assert!(bytes >= HEADER_BYTES);
    let mut frame = vec![0xA5; bytes];
    frame[..4].copy_from_slice(&u32::try_from(bytes).unwrap().to_le_bytes());
    frame[4..6].copy_from_slice(&[1, FLAG_SKIPPABLE]);
    frame[6..8].copy_from_slice(&u16::MAX.to_le_bytes());
    frame[8..16].fill(0);
    frame
}
