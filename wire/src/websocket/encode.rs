//! Writing frames. Messages go out unfragmented; a client passes a fresh masking key for each frame.

use super::header::{OpCode, apply_mask, write_header};
use super::{CONTROL_BYTES_MAX, WS_HEADER_BYTES_MAX};

/// Longest reason of a close frame: a control frame less the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Appends a binary message to `out`; the payload is copied once.
pub fn message_into(out: &mut Vec<u8>, payload: &[u8], mask: Option<[u8; 4]>) {
    frame_into(out, OpCode::Binary, payload, mask);
}

/// Appends a control frame to `out`. A payload over [`CONTROL_BYTES_MAX`] is cut there; a pong that repeats
/// what the decoder returned never is.
pub fn control_into(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) {
    let payload = payload.get(..CONTROL_BYTES_MAX).unwrap_or(payload);
    frame_into(out, opcode, payload, mask);
}

/// A close frame. A reason over [`CLOSE_REASON_BYTES_MAX`] is cut, between characters.
pub fn close_frame(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let reason_bytes = reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX);
    let mut payload = Vec::with_capacity(CONTROL_BYTES_MAX);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend(reason.bytes().take(reason_bytes));
    let mut out = Vec::with_capacity(WS_HEADER_BYTES_MAX + payload.len());
    control_into(&mut out, OpCode::Close, &payload, mask);
    out
}

fn frame_into(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) {
    let mut header = [0; WS_HEADER_BYTES_MAX];
    let header_bytes = write_header(&mut header, opcode, payload.len(), mask);
    out.reserve(header_bytes + payload.len());
    out.extend_from_slice(header.get(..header_bytes).unwrap_or_default());
    let start = out.len();
    out.extend_from_slice(payload);
    if let (Some(key), Some(payload)) = (mask, out.get_mut(start..)) {
        apply_mask(payload, key, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::{Decoder, Event, Role};

    #[test]
    fn close_reasons_are_cut_between_characters() {
        // 122 bytes and a character of two: the whole would be 124, one more than fits.
        for (reason, expected_bytes) in [
            (String::new(), 0),
            ("x".repeat(122), 122),
            ("x".repeat(123), 123),
            ("x".repeat(124), 123),
            ("x".repeat(122) + "ä", 122),
            ("x".repeat(121) + "ä", 123),
        ] {
            let mut frame = close_frame(4006, &reason, None);
            let mut decoder = Decoder::new(Role::Client, 1024);
            let decoded = decoder.next(&mut frame).unwrap();
            let expected = &reason[..expected_bytes];
            assert_eq!(decoded.event, Some(Event::Close { code: Some(4006), reason: expected }));
        }
    }

    #[test]
    fn control_payloads_are_cut_at_their_limit() {
        for (bytes, kept) in [(124, 124), (125, 125), (126, 125)] {
            let mut out = Vec::new();
            control_into(&mut out, OpCode::Ping, &vec![7; bytes], Some([1, 2, 3, 4]));
            let mut decoder = Decoder::new(Role::Server, 1024);
            let decoded = decoder.next(&mut out).unwrap();
            assert_eq!(decoded.event, Some(Event::Ping(vec![7; kept].as_slice())));
        }
    }
}
