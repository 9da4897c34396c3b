//! Frames: whatever arrives is read or refused, and what was read can be written and read again.

// A panic is how this code reports.
#![allow(clippy::expect_used)]

use etherply_wire::json::FrameJson;
use etherply_wire::limits::FRAME_BYTES_MAX;
use etherply_wire::{FLAG_SKIPPABLE, Frame, HEADER_BYTES, PROTOCOL, encode, frame_length, kinds};
use rkyv::rancor::Failure;

/// Checks the bytes as they are, and as the body of a frame whose length and version are right, which few
/// inputs would get by chance.
pub fn check(data: &[u8]) {
    if let Ok(Some(length)) = frame_length(data, FRAME_BYTES_MAX) {
        assert!((HEADER_BYTES..=FRAME_BYTES_MAX).contains(&length), "a length that is not allowed");
        if let Some(frame) = data.get(..length) {
            check_frame(frame);
        }
    }
    check_frame(data);
    let mut repaired = data.to_vec();
    if let (Some(header), Ok(length)) = (repaired.first_chunk_mut::<6>(), u32::try_from(data.len())) {
        let flags = header[5] & FLAG_SKIPPABLE;
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&[PROTOCOL, flags]);
        check_frame(&repaired);
    }
}

fn check_frame(bytes: &[u8]) {
    let Ok(Some(frame)) = Frame::parse(bytes) else { return };
    let mut bodies = 0;
    macro_rules! check_kind {
        ($kind:ident) => {
            if let Ok(body) = frame.body::<kinds::$kind>() {
                bodies += 1;
                assert_eq!(frame.kind(), Some(etherply_wire::Kind::$kind), "a body of another kind");
                let message: kinds::$kind = rkyv::deserialize::<_, Failure>(body).expect("a checked body");
                let again = encode(frame.stream(), &message, &[frame.tail()]);
                let again = Frame::parse(&again).expect("what was written").expect("a known kind");
                let body = again.body::<kinds::$kind>().expect("what was written");
                let read: kinds::$kind = rkyv::deserialize::<_, Failure>(body).expect("a checked body");
                assert_eq!(read, message);
                assert_eq!((again.stream(), again.tail()), (frame.stream(), frame.tail()));
            }
        };
    }
    etherply_wire::for_each_kind!(check_kind);
    assert!(bodies <= 1, "a frame of two kinds");
    match FrameJson::from_bytes(bytes) {
        Ok(json) => {
            let written = json.to_bytes().expect("what was read");
            assert_eq!(FrameJson::from_bytes(&written).expect("what was written"), json);
        }
        Err(_) => assert_eq!(bodies, 0, "a body that JSON does not show"),
    }
}
