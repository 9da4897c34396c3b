//! WebSocket streams: the pieces in which bytes arrive change nothing, and nothing over the limit is held.

use etherply_wire::websocket::{Decoded, Decoder, Event, Role, WS_HEADER_BYTES_MAX, WsError};

/// Small, so that inputs of fuzzing's size reach it.
const MESSAGE_BYTES_MAX: usize = 300;
/// Bytes at the input's beginning that say how the rest arrives: the role of the reader, four piece sizes.
const PLAN_BYTES: usize = 5;

/// An event that borrows nothing.
#[derive(Debug, PartialEq)]
enum Got {
    Message(Vec<u8>),
    Text,
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// Checks the bytes behind the plan as a stream of frames.
pub fn check(data: &[u8]) {
    let Some((&[role, plan @ ..], stream)) = data.split_first_chunk::<PLAN_BYTES>() else { return };
    let role = if role & 1 == 0 { Role::Server } else { Role::Client };
    let pieces = plan.map(|bytes| usize::from(bytes).max(1));
    let at_once = read(role, stream, &[stream.len().max(1)]);
    assert_eq!(read(role, stream, &pieces), at_once);
}

fn read(role: Role, stream: &[u8], pieces: &[usize]) -> Result<Vec<Got>, WsError> {
    let mut decoder = Decoder::new(role, MESSAGE_BYTES_MAX);
    let (mut got, mut buffer, mut rest) = (Vec::new(), Vec::new(), stream);
    for &piece in pieces.iter().cycle() {
        let (now, later) = rest.split_at(piece.min(rest.len()));
        buffer.extend_from_slice(now);
        rest = later;
        loop {
            let given_bytes = buffer.len();
            let Decoded { consumed, event, need_bytes } = decoder.next(&mut buffer)?;
            assert!(consumed <= given_bytes, "consumed what was not there");
            let done = event.is_none();
            if done {
                assert!(need_bytes > given_bytes - consumed, "asks for bytes that are there");
                assert!(need_bytes <= MESSAGE_BYTES_MAX + WS_HEADER_BYTES_MAX, "asks for too much");
            }
            got.extend(event.map(owned));
            buffer.drain(..consumed);
            assert!(decoder.held_bytes() <= MESSAGE_BYTES_MAX, "holds too much");
            if done {
                break;
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    Ok(got)
}

fn owned(event: Event<'_>) -> Got {
    match event {
        Event::Message(bytes) => Got::Message(bytes.into_owned()),
        Event::Text => Got::Text,
        Event::Ping(bytes) => Got::Ping(bytes.to_vec()),
        Event::Pong(bytes) => Got::Pong(bytes.to_vec()),
        Event::Close { code, reason } => Got::Close(code, reason.to_owned()),
    }
}
