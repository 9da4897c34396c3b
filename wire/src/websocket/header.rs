//! One frame's header, and the mask on its payload.

use super::error::WsError;
use super::{CONTROL_BYTES_MAX, WS_HEADER_BYTES_MAX};

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0F;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7F;
/// In the length's place: 16 bits follow.
const LENGTH_16: u8 = 126;
/// In the length's place: 64 bits follow.
const LENGTH_64: u8 = 127;

/// Which end of the connection this side is: a server gets masked frames, a client unmasked ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// This side accepted the connection.
    Server,
    /// This side made it.
    Client,
}

/// What a frame carries (RFC 6455, 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OpCode {
    /// A further fragment of a message.
    Continuation = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// The end of the connection.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping, or none.
    Pong = 10,
}

impl OpCode {
    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Whether it may come between the fragments of a message.
    pub const fn is_control(self) -> bool {
        self as u8 & 0x08 != 0
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether this is the last fragment of its message.
    pub fin: bool,
    /// What the frame carries.
    pub opcode: OpCode,
    /// The masking key.
    pub mask: Option<[u8; 4]>,
    /// Bytes of the payload: what the peer says, bounded by nothing but 2^63.
    pub payload_bytes: u64,
    /// Bytes of this header, the masking key included.
    pub header_bytes: usize,
}

/// Reads the header that these bytes begin with, `None` while it is not whole.
///
/// What the first two bytes show to be wrong is refused before the rest is there.
pub fn parse_header(bytes: &[u8]) -> Result<Option<Header>, WsError> {
    let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
    if first & RESERVED != 0 {
        return Err(WsError::ReservedBits);
    }
    let number = first & OPCODE;
    let opcode = OpCode::from_number(number).ok_or(WsError::ReservedOpCode { opcode: number })?;
    let fin = first & FIN != 0;
    let short = second & LENGTH;
    if opcode.is_control() {
        if usize::from(short) > CONTROL_BYTES_MAX {
            return Err(WsError::ControlTooLong);
        }
        if !fin {
            return Err(WsError::ControlFragmented);
        }
    }
    let Some((payload_bytes, rest)) = parse_length(short, rest)? else { return Ok(None) };
    let (mask, rest) = if second & MASKED == 0 {
        (None, rest)
    } else {
        let Some((&key, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        (Some(key), rest)
    };
    let header_bytes = bytes.len() - rest.len();
    Ok(Some(Header { fin, opcode, mask, payload_bytes, header_bytes }))
}

/// The payload's length and what follows it; `short` is the seven bits of the second byte.
fn parse_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, WsError> {
    match short {
        LENGTH_16 => {
            let Some((&field, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            let bytes = u64::from(u16::from_be_bytes(field));
            if bytes < u64::from(LENGTH_16) {
                return Err(WsError::LengthNotMinimal { bytes });
            }
            Ok(Some((bytes, rest)))
        }
        LENGTH_64 => {
            let Some((&field, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            let bytes = u64::from_be_bytes(field);
            if bytes >> 63 != 0 {
                return Err(WsError::LengthTopBit);
            }
            if bytes <= u64::from(u16::MAX) {
                return Err(WsError::LengthNotMinimal { bytes });
            }
            Ok(Some((bytes, rest)))
        }
        _ => Ok(Some((u64::from(short), rest))),
    }
}

/// Writes the header of an unfragmented frame and returns its bytes. The payload is the caller's to mask.
pub fn write_header(
    buf: &mut [u8; WS_HEADER_BYTES_MAX],
    opcode: OpCode,
    payload_bytes: usize,
    mask: Option<[u8; 4]>,
) -> usize {
    let masked = if mask.is_some() { MASKED } else { 0 };
    let mut header = [0; WS_HEADER_BYTES_MAX];
    header[0] = FIN | opcode as u8;
    let key_at = match (u8::try_from(payload_bytes), u16::try_from(payload_bytes)) {
        (Ok(length), _) if length < LENGTH_16 => {
            header[1] = masked | length;
            2
        }
        (_, Ok(length)) => {
            header[1] = masked | LENGTH_16;
            header[2..4].copy_from_slice(&length.to_be_bytes());
            4
        }
        _ => {
            header[1] = masked | LENGTH_64;
            header[2..10].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            10
        }
    };
    let mut header_bytes = key_at;
    if let Some(key) = mask
        && let Some(place) = header.get_mut(key_at..key_at + 4)
    {
        place.copy_from_slice(&key);
        header_bytes += 4;
    }
    *buf = header;
    header_bytes
}

/// Masks or unmasks, which is the same, a piece that begins `offset` bytes into its frame's payload.
pub fn apply_mask(payload: &mut [u8], key: [u8; 4], offset: usize) {
    let turn = u32::try_from(offset % 4).unwrap_or(0) * 8;
    let key = u32::from_be_bytes(key).rotate_left(turn).to_be_bytes();
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Option<Header>, WsError> {
        parse_header(bytes)
    }

    #[test]
    fn examples_of_the_standard() {
        // RFC 6455, 5.7.
        let unmasked = parse(&[0x81, 0x05, 0x48]).unwrap().unwrap();
        assert_eq!((unmasked.opcode, unmasked.payload_bytes, unmasked.header_bytes), (OpCode::Text, 5, 2));
        let mut masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let header = parse(&masked).unwrap().unwrap();
        assert_eq!(header.mask, Some([0x37, 0xfa, 0x21, 0x3d]));
        apply_mask(&mut masked[header.header_bytes..], header.mask.unwrap(), 0);
        assert_eq!(&masked[header.header_bytes..], b"Hello");
        let first = parse(&[0x01, 0x03]).unwrap().unwrap();
        assert!(!first.fin);
        let medium = parse(&[0x82, 0x7E, 0x01, 0x00]).unwrap().unwrap();
        assert_eq!((medium.payload_bytes, medium.header_bytes), (256, 4));
        let long = parse(&[0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]).unwrap().unwrap();
        assert_eq!((long.payload_bytes, long.header_bytes), (65_536, 10));
    }

    #[test]
    fn reserved_bits_and_opcodes_are_refused_in_every_combination() {
        for first in 0..=u8::MAX {
            let parsed = parse(&[first, 0]);
            if first & RESERVED != 0 {
                assert_eq!(parsed, Err(WsError::ReservedBits), "{first:#04x}");
                continue;
            }
            match first & OPCODE {
                0..=2 => assert_eq!(parsed.unwrap().unwrap().fin, first & FIN != 0),
                8..=10 if first & FIN == 0 => assert_eq!(parsed, Err(WsError::ControlFragmented)),
                8..=10 => assert!(parsed.unwrap().unwrap().opcode.is_control()),
                opcode => assert_eq!(parsed, Err(WsError::ReservedOpCode { opcode })),
            }
        }
    }

    #[test]
    fn lengths_must_be_in_their_shortest_form() {
        let sixteen = |bytes: u16| {
            let [a, b] = bytes.to_be_bytes();
            parse(&[0x82, LENGTH_16, a, b])
        };
        assert_eq!(sixteen(125), Err(WsError::LengthNotMinimal { bytes: 125 }));
        assert_eq!(sixteen(126).unwrap().unwrap().payload_bytes, 126);
        assert_eq!(sixteen(u16::MAX).unwrap().unwrap().payload_bytes, 65_535);
        let sixty_four = |bytes: u64| {
            let mut header = vec![0x82, LENGTH_64];
            header.extend(bytes.to_be_bytes());
            parse(&header)
        };
        assert_eq!(sixty_four(65_535), Err(WsError::LengthNotMinimal { bytes: 65_535 }));
        assert_eq!(sixty_four(65_536).unwrap().unwrap().payload_bytes, 65_536);
        let largest = (1 << 63) - 1;
        assert_eq!(sixty_four(largest).unwrap().unwrap().payload_bytes, largest);
        assert_eq!(sixty_four(1 << 63), Err(WsError::LengthTopBit));
        assert_eq!(sixty_four(u64::MAX), Err(WsError::LengthTopBit));
    }

    #[test]
    fn control_frames_are_short() {
        for opcode in [OpCode::Close, OpCode::Ping, OpCode::Pong] {
            for length in [124, 125] {
                let header = parse(&[FIN | opcode as u8, length]).unwrap().unwrap();
                assert_eq!(header.payload_bytes, u64::from(length));
            }
            for length in [126, 127] {
                assert_eq!(parse(&[FIN | opcode as u8, length]), Err(WsError::ControlTooLong));
            }
        }
    }

    proptest! {
        #[test]
        fn written_headers_are_read_back(
            opcode in prop::sample::select(vec![OpCode::Continuation, OpCode::Text, OpCode::Binary]),
            payload_bytes in prop_oneof![0..300_usize, 65_530..65_545_usize, 0..(1_usize << 62)],
            mask in any::<Option<[u8; 4]>>(),
        ) {
            let mut buf = [0xAA; WS_HEADER_BYTES_MAX];
            let header_bytes = write_header(&mut buf, opcode, payload_bytes, mask);
            let expected = Header { fin: true, opcode, mask, payload_bytes: payload_bytes as u64, header_bytes };
            prop_assert_eq!(parse(&buf[..header_bytes]), Ok(Some(expected)));
            for cut in 0..header_bytes {
                prop_assert_eq!(parse(&buf[..cut]), Ok(None));
            }
        }

        #[test]
        fn masking_is_the_standards_whatever_the_pieces(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            key in any::<[u8; 4]>(),
            cut in 0..100_usize,
        ) {
            // RFC 6455, 5.3, byte by byte.
            let expected: Vec<u8> = payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            let cut = cut.min(payload.len());
            let mut masked = payload;
            let (left, right) = masked.split_at_mut(cut);
            apply_mask(right, key, cut);
            apply_mask(left, key, 0);
            prop_assert_eq!(masked, expected);
        }

        #[test]
        fn arbitrary_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.header_bytes <= bytes.len().min(WS_HEADER_BYTES_MAX));
                prop_assert!(header.payload_bytes < 1 << 63);
            }
        }
    }
}
