use super::*;
use crate::websocket::{close_frame, control_into, message_into, write_header};
use proptest::prelude::*;

const KEY: Option<[u8; 4]> = Some([0x9A, 0x01, 0xFE, 0x47]);
const MAX: usize = 300;

/// An event that borrows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Got {
    Message(Vec<u8>),
    Text,
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
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

/// A frame as no helper of this crate writes it: any `fin`, any mask.
fn frame(fin: bool, opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut header = [0; 14];
    let header_bytes = write_header(&mut header, opcode, payload.len(), mask);
    if !fin {
        header[0] &= 0x7F;
    }
    let mut out = header[..header_bytes].to_vec();
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        apply_mask(&mut out[header_bytes..], key, 0);
    }
    out
}

/// Reads `stream` as a socket would bring it, in pieces of the given sizes in turn, and keeps to the rules of
/// a caller: what is consumed is dropped, what is not stays.
fn read_in_pieces(decoder: &mut Decoder, stream: &[u8], pieces: &[usize]) -> Result<Vec<Got>, WsError> {
    let mut got = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut rest = stream;
    for &piece in pieces.iter().cycle() {
        let (now, later) = rest.split_at(piece.clamp(1, rest.len().max(1)).min(rest.len()));
        buffer.extend_from_slice(now);
        rest = later;
        loop {
            let buffer_bytes = buffer.len();
            let decoded = decoder.next(&mut buffer)?;
            let Decoded { consumed, event, need_bytes } = decoded;
            let more = event.is_some();
            if !more {
                assert!(need_bytes > buffer_bytes - consumed, "asks for bytes that are there");
            }
            got.extend(event.map(owned));
            buffer.drain(..consumed);
            if !more {
                break;
            }
        }
        if rest.is_empty() {
            return Ok(got);
        }
    }
    unreachable!("the pieces cycle")
}

fn held_capacity(decoder: &Decoder) -> usize {
    match decoder.partial.as_deref() {
        Some(Partial::Binary(bytes)) => bytes.capacity(),
        Some(Partial::Text(_)) | None => 0,
    }
}

fn server(stream: &[u8]) -> Result<Vec<Got>, WsError> {
    read_in_pieces(&mut Decoder::new(Role::Server, MAX), stream, &[usize::MAX])
}

#[test]
fn an_unfragmented_message_is_not_copied() {
    let mut buffer = frame(true, OpCode::Binary, b"in place", KEY);
    let place = buffer.as_ptr_range();
    let mut decoder = Decoder::new(Role::Server, MAX);
    let decoded = decoder.next(&mut buffer).unwrap();
    let Some(Event::Message(Cow::Borrowed(payload))) = decoded.event else { panic!("{decoded:?}") };
    assert_eq!(payload, b"in place");
    assert!(place.contains(&payload.as_ptr()));
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn each_role_demands_its_masking() {
    let masked = frame(true, OpCode::Binary, b"x", KEY);
    let plain = frame(true, OpCode::Binary, b"x", None);
    let read = |role, stream: &[u8]| read_in_pieces(&mut Decoder::new(role, MAX), stream, &[1]);
    let message = Ok(vec![Got::Message(b"x".to_vec())]);
    assert_eq!(read(Role::Server, &masked), message);
    assert_eq!(read(Role::Client, &plain), message);
    assert_eq!(read(Role::Server, &plain), Err(WsError::MaskMissing));
    assert_eq!(read(Role::Client, &masked), Err(WsError::MaskForbidden));
}

#[test]
fn a_message_over_the_limit_is_refused_from_its_header() {
    for (payload_bytes, fits) in [(MAX - 1, true), (MAX, true), (MAX + 1, false), (1 << 40, false)] {
        let mut header = [0; 14];
        let header_bytes = write_header(&mut header, OpCode::Binary, payload_bytes, KEY);
        let mut decoder = Decoder::new(Role::Server, MAX);
        let decoded = decoder.next(&mut header[..header_bytes]);
        if fits {
            let need_bytes = header_bytes + payload_bytes;
            assert_eq!(decoded, Ok(Decoded { consumed: 0, event: None, need_bytes }));
        } else {
            assert_eq!(decoded, Err(WsError::TooLarge { bytes: payload_bytes as u64, max: MAX }));
        }
    }
}

#[test]
fn fragments_share_one_limit_and_never_hold_more() {
    for (last_bytes, fits) in [(99, true), (100, true), (101, false)] {
        let mut decoder = Decoder::new(Role::Server, MAX);
        for (opcode, fragment) in [(OpCode::Binary, [1; 100]), (OpCode::Continuation, [2; 100])] {
            let mut bytes = frame(false, opcode, &fragment, KEY);
            let decoded = decoder.next(&mut bytes).unwrap();
            let (consumed, event) = (decoded.consumed, decoded.event.map(owned));
            assert_eq!((consumed, event), (bytes.len(), None));
        }
        assert_eq!(decoder.held_bytes(), 200);
        let mut last = frame(true, OpCode::Continuation, &vec![3; last_bytes], KEY);
        let decoded = decoder.next(&mut last[..8]);
        if fits {
            assert!(held_capacity(&decoder) <= MAX);
            let decoded = decoder.next(&mut last).unwrap();
            let Some(Event::Message(message)) = decoded.event else { panic!("{decoded:?}") };
            assert_eq!(message.len(), 200 + last_bytes);
        } else {
            assert_eq!(decoded, Err(WsError::TooLarge { bytes: 301, max: MAX }));
        }
        assert_eq!(decoder.held_bytes(), 0);
    }
}

#[test]
fn the_limit_of_fragments_cannot_be_passed_by_arithmetic() {
    let mut decoder = Decoder::new(Role::Server, usize::MAX);
    decoder.next(&mut frame(false, OpCode::Binary, b"held", KEY)).unwrap();
    let mut header = [0; 14];
    let largest = usize::MAX >> 1;
    let header_bytes = write_header(&mut header, OpCode::Continuation, largest, KEY);
    let decoded = decoder.next(&mut header[..header_bytes]).unwrap();
    assert_eq!(decoded.need_bytes, largest + header_bytes);
}

#[test]
fn a_raised_limit_counts_from_the_next_frame() {
    let mut decoder = Decoder::new(Role::Server, 4);
    let mut message = frame(true, OpCode::Binary, b"12345", KEY);
    decoder.set_message_bytes_max(5);
    assert!(decoder.next(&mut message).unwrap().event.is_some());
    decoder.set_message_bytes_max(4);
    let mut message = frame(true, OpCode::Binary, b"12345", KEY);
    assert_eq!(decoder.next(&mut message), Err(WsError::TooLarge { bytes: 5, max: 4 }));
}

#[test]
fn fragments_must_follow_one_another() {
    let start = frame(false, OpCode::Binary, b"a", KEY);
    let whole = frame(true, OpCode::Binary, b"b", KEY);
    let text = frame(false, OpCode::Text, b"c", KEY);
    let middle = frame(false, OpCode::Continuation, b"d", KEY);
    let end = frame(true, OpCode::Continuation, b"e", KEY);
    assert_eq!(server(&end), Err(WsError::ContinuationWithoutStart));
    assert_eq!(server(&middle), Err(WsError::ContinuationWithoutStart));
    assert_eq!(server(&[&start[..], &whole].concat()), Err(WsError::MessageInterrupted));
    assert_eq!(server(&[&start[..], &text].concat()), Err(WsError::MessageInterrupted));
    assert_eq!(server(&[&start[..], &end, &end].concat()), Err(WsError::ContinuationWithoutStart));
    let message = Ok(vec![Got::Message(b"ade".to_vec())]);
    assert_eq!(server(&[&start[..], &middle, &end].concat()), message);
}

#[test]
fn control_frames_come_between_fragments() {
    let stream = [
        frame(false, OpCode::Binary, b"a", KEY),
        frame(true, OpCode::Ping, b"p", KEY),
        frame(false, OpCode::Continuation, b"", KEY),
        frame(true, OpCode::Pong, b"", KEY),
        frame(true, OpCode::Continuation, b"b", KEY),
    ];
    let expected = vec![Got::Ping(b"p".to_vec()), Got::Pong(Vec::new()), Got::Message(b"ab".to_vec())];
    assert_eq!(server(&stream.concat()), Ok(expected));
}

#[test]
fn text_is_its_own_event_and_must_be_utf8() {
    let euro = "€".as_bytes();
    assert_eq!(server(&frame(true, OpCode::Text, euro, KEY)), Ok(vec![Got::Text]));
    assert_eq!(server(&frame(true, OpCode::Text, &euro[..2], KEY)), Err(WsError::Utf8));
    // A character may be cut by fragments, but must be whole in the end.
    let start = frame(false, OpCode::Text, &euro[..1], KEY);
    let end = frame(true, OpCode::Continuation, &euro[1..], KEY);
    let early_end = frame(true, OpCode::Continuation, &euro[1..2], KEY);
    assert_eq!(server(&[&start[..], &end].concat()), Ok(vec![Got::Text]));
    assert_eq!(server(&[&start[..], &early_end].concat()), Err(WsError::Utf8));
    // What can no longer become text is refused before the message ends.
    let hopeless = frame(false, OpCode::Continuation, b"\xFF", KEY);
    assert_eq!(server(&[&start[..], &hopeless].concat()), Err(WsError::Utf8));
    assert_eq!(WsError::Utf8.close_code(), 1007);
    assert_eq!(crate::ErrorCode::TextNotSupported.close_code(), 1003);
}

#[test]
fn text_is_refused_at_its_first_wrong_byte_and_never_kept() {
    // RFC 6455, 8.1. The second byte of the last character makes it one beyond U+10FFFF.
    let text = b"\xCE\xBA\xF4\x90";
    let bytes = frame(true, OpCode::Text, &[&text[..], b"much more"].concat(), KEY);
    let header_bytes = bytes.len() - text.len() - b"much more".len();
    for chop in 1..=bytes.len() {
        let mut decoder = Decoder::new(Role::Server, MAX);
        let mut arrived = 0;
        let refused_after = loop {
            let mut piece = bytes[arrived..(arrived + chop).min(bytes.len())].to_vec();
            if arrived < header_bytes && arrived + chop < header_bytes {
                // A header is read whole: the caller keeps what there is of it.
                piece = bytes[arrived..header_bytes].to_vec();
            }
            let given = piece.len();
            match decoder.next(&mut piece) {
                Ok(decoded) => {
                    assert_eq!((decoded.consumed, decoded.event, decoded.need_bytes), (given, None, 1))
                }
                Err(error) => {
                    assert_eq!(error, WsError::Utf8);
                    break arrived + given;
                }
            }
            assert_eq!(decoder.held_bytes(), 0);
            arrived += given;
        };
        assert!(refused_after - (header_bytes + text.len()) < chop, "in chops of {chop}");
    }
}

#[test]
fn text_counts_for_the_limit_though_it_is_not_kept() {
    for (last_bytes, fits) in [(99, true), (100, true), (101, false)] {
        let mut decoder = Decoder::new(Role::Server, MAX);
        for (opcode, fragment) in [(OpCode::Text, [b'a'; 100]), (OpCode::Continuation, [b'b'; 100])] {
            let mut bytes = frame(false, opcode, &fragment, KEY);
            assert_eq!(decoder.next(&mut bytes).unwrap().event, None);
            let mut ping = frame(true, OpCode::Ping, b"between", KEY);
            assert_eq!(decoder.next(&mut ping).unwrap().event, Some(Event::Ping(b"between")));
        }
        let mut last = frame(true, OpCode::Continuation, &vec![b'c'; last_bytes], KEY);
        let event = decoder.next(&mut last).map(|decoded| decoded.event);
        assert_eq!(
            event,
            if fits { Ok(Some(Event::Text)) } else { Err(WsError::TooLarge { bytes: 301, max: MAX }) }
        );
    }
}

#[test]
fn close_codes_are_those_that_may_be_sent() {
    let allowed = |code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    for code in 0..=u16::MAX {
        let result = server(&close_frame(code, "why", KEY));
        if allowed(code) {
            assert_eq!(result, Ok(vec![Got::Close(Some(code), "why".into())]));
        } else {
            assert_eq!(result, Err(WsError::CloseCodeInvalid { code }));
        }
    }
    let close = |payload: &[u8]| server(&frame(true, OpCode::Close, payload, KEY));
    assert_eq!(close(b""), Ok(vec![Got::Close(None, String::new())]));
    assert_eq!(close(&[3]), Err(WsError::CloseCodeShort));
    assert_eq!(close(&[3, 0xE8, 0xFF]), Err(WsError::Utf8));
}

#[test]
fn after_a_close_or_an_error_everything_is_discarded() {
    let ping = frame(true, OpCode::Ping, b"", KEY);
    for last in [close_frame(1000, "", KEY), vec![0xFF, 0xFF]] {
        let mut decoder = Decoder::new(Role::Server, MAX);
        decoder.next(&mut frame(false, OpCode::Binary, b"never finished", KEY)).unwrap();
        let _event_or_error = decoder.next(&mut last.clone());
        assert_eq!(decoder.held_bytes(), 0);
        let mut buffer = ping.clone();
        let decoded = decoder.next(&mut buffer).unwrap();
        assert_eq!((decoded.consumed, decoded.event), (ping.len(), None));
    }
}

#[test]
fn every_error_closes_with_a_code_that_may_be_sent() {
    for error in [WsError::ReservedBits, WsError::Utf8, WsError::TooLarge { bytes: 1, max: 0 }] {
        assert!(may_be_sent(error.close_code()));
    }
    assert_eq!(WsError::TooLarge { bytes: 1, max: 0 }.close_code(), 1009);
    assert_eq!(WsError::TooLarge { bytes: 1, max: 0 }.code(), crate::ErrorCode::FrameTooLarge);
    assert_eq!(WsError::MaskMissing.close_code(), 1002);
    assert_eq!(WsError::MaskMissing.code(), crate::ErrorCode::ProtocolViolation);
}

/// What a peer may send, and the frames that say it.
fn exchange() -> impl Strategy<Value = (Got, Vec<Vec<u8>>)> {
    let fragmented =
        (prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 2..5), any::<[u8; 4]>()).prop_map(
            |(parts, key)| {
                let frames = parts.iter().enumerate().map(|(i, part)| {
                    let opcode = if i == 0 { OpCode::Binary } else { OpCode::Continuation };
                    frame(i + 1 == parts.len(), opcode, part, Some(key))
                });
                (Got::Message(parts.concat()), frames.collect())
            },
        );
    let whole = (prop::collection::vec(any::<u8>(), 0..MAX), any::<[u8; 4]>()).prop_map(|(payload, key)| {
        let mut out = Vec::new();
        message_into(&mut out, &payload, Some(key));
        (Got::Message(payload), vec![out])
    });
    let text = (".{0,40}", any::<[u8; 4]>()).prop_map(|(text, key)| {
        let frame = frame(true, OpCode::Text, text.as_bytes(), Some(key));
        (Got::Text, vec![frame])
    });
    prop_oneof![fragmented, whole, text, control()]
}

fn control() -> impl Strategy<Value = (Got, Vec<Vec<u8>>)> {
    let payload = prop::collection::vec(any::<u8>(), 0..=125);
    (payload, any::<[u8; 4]>(), any::<bool>()).prop_map(|(payload, key, is_ping)| {
        let opcode = if is_ping { OpCode::Ping } else { OpCode::Pong };
        let mut out = Vec::new();
        control_into(&mut out, opcode, &payload, Some(key));
        (if is_ping { Got::Ping(payload) } else { Got::Pong(payload) }, vec![out])
    })
}

proptest! {
    #[test]
    fn what_was_sent_is_read_whatever_the_pieces(
        sent in prop::collection::vec((exchange(), prop::option::of(control())), 0..6),
        pieces in prop::collection::vec(1..80_usize, 1..8),
    ) {
        let (mut expected, mut stream) = (Vec::new(), Vec::new());
        for ((event, frames), between) in sent {
            let (first, rest) = frames.split_first().unwrap();
            stream.extend_from_slice(first);
            // A control frame within a message overtakes it, behind one it does not.
            let (overtaking, behind) = if rest.is_empty() { (None, between) } else { (between, None) };
            if let Some((got, frames)) = overtaking {
                expected.push(got);
                stream.extend(frames.concat());
            }
            stream.extend(rest.concat());
            expected.push(event);
            if let Some((got, frames)) = behind {
                expected.push(got);
                stream.extend(frames.concat());
            }
        }
        let mut decoder = Decoder::new(Role::Server, MAX);
        prop_assert_eq!(read_in_pieces(&mut decoder, &stream, &pieces), Ok(expected));
        prop_assert_eq!(decoder.held_bytes(), 0);
    }

    #[test]
    fn bytes_in_pieces_mean_what_they_mean_at_once(
        (_, frames) in exchange(),
        at in any::<prop::sample::Index>(),
        flip in 1..=u8::MAX,
        pieces in prop::collection::vec(1..80_usize, 1..8),
        role in prop::sample::select(vec![Role::Server, Role::Client]),
    ) {
        let mut stream = frames.concat();
        let at = at.index(stream.len());
        stream[at] ^= flip;
        let at_once = read_in_pieces(&mut Decoder::new(role, MAX), &stream, &[usize::MAX]);
        let in_pieces = read_in_pieces(&mut Decoder::new(role, MAX), &stream, &pieces);
        prop_assert_eq!(at_once, in_pieces);
    }

    #[test]
    fn arbitrary_bytes_are_answered(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        pieces in prop::collection::vec(1..80_usize, 1..8),
        role in prop::sample::select(vec![Role::Server, Role::Client]),
    ) {
        let mut decoder = Decoder::new(role, MAX);
        let _events_or_error = read_in_pieces(&mut decoder, &bytes, &pieces);
        prop_assert!(decoder.held_bytes() <= MAX);
    }
}
