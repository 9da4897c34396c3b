//! Every kind: what is written is read again, wherever it lies; what was not written is refused by name.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../../fuzz/src/frame.rs"]
mod check;

use std::fmt::Debug;

use etherply_wire::kinds::*;
use etherply_wire::limits::{FRAME_BYTES_MAX, HELLO_FRAME_BYTES_MAX};
use etherply_wire::vectors::samples;
use etherply_wire::{ErrorCode, FrameError, encode, frame_length};
use etherply_wire::{FLAG_SKIPPABLE, Frame, HEADER_BYTES, Kind, Message, PROTOCOL};
use proptest::prelude::*;
use rkyv::rancor::Failure;

/// Offsets into a buffer at which a frame may lie: all alignments of the largest field, twice.
const OFFSETS: usize = 16;

/// Any value of a field's type.
trait Field: Sized + Debug + 'static {
    fn any() -> BoxedStrategy<Self>;
}

macro_rules! fields {
    ($($type:ty => $strategy:expr;)+) => {
        $(impl Field for $type {
            fn any() -> BoxedStrategy<Self> { $strategy.boxed() }
        })+
    };
}

fields! {
    bool => any::<bool>();
    u8 => any::<u8>();
    u16 => any::<u16>();
    u32 => prop_oneof![any::<u32>(), Just(u32::MAX)];
    u64 => prop_oneof![any::<u64>(), Just(u64::MAX), Just(0)];
    String => prop_oneof![".{0,12}", "[a-z]{55,70}"];
    [u8; 16] => any::<[u8; 16]>();
    [u8; 32] => any::<[u8; 32]>();
    Vec<u8> => prop::collection::vec(any::<u8>(), 0..20);
    Vec<u32> => prop::collection::vec(any::<u32>(), 0..20);
    Vec<u64> => prop::collection::vec(any::<u64>(), 0..20);
    Vec<[u8; 16]> => prop::collection::vec(any::<[u8; 16]>(), 0..5);
    Option<String> => prop::option::of(String::any());
    Option<Cursor> => prop::option::of(Cursor::any());
    Vec<LimitEntry> => prop::collection::vec(LimitEntry::any(), 0..5);
    Vec<ClockEntry> => prop::collection::vec(ClockEntry::any(), 0..5);
    Vec<PresenceEntry> => prop::collection::vec(PresenceEntry::any(), 0..5);
}

/// Any value of a struct, whose fields are named once more; a missing one does not compile.
macro_rules! structs {
    ($($name:ident { $($field:ident)+ })+) => {
        $(impl Field for $name {
            fn any() -> BoxedStrategy<Self> {
                ($(any_of(|value: &$name| &value.$field),)+)
                    .prop_map(|($($field,)+)| $name { $($field),+ })
                    .boxed()
            }
        })+
    };
}

/// Any value of the type that the function leads to.
fn any_of<S, F: Field>(_: fn(&S) -> &F) -> BoxedStrategy<F> {
    F::any()
}

structs! {
    Cursor { epoch seq chain }
    ClockEntry { actor seq hash }
    LimitEntry { limit value }
    PresenceEntry { member state }
    Hello { protocol_min protocol_max capabilities agent }
    Welcome { protocol capabilities session server_time_ms agent limits }
    Open { request rights document token cursor }
    Opened { request rights resume expires_at_ms cursor }
    Close { code message }
    Renew { request token }
    RightsChanged { request rights code expires_at_ms }
    Snapshot { cursor total_bytes offset }
    Changes { after_seq cursor lengths }
    Push { push generation lengths }
    Ack { push after_seq cursor positions }
    Refused { push generation index code retry_after_ms clock_complete clock message }
    Reconcile { cursor more clock }
    PresenceSet { ttl_ms }
    PresenceUpdate { version full entries }
    PresenceLeave { version members }
    BroadcastSend { topic }
    Broadcast { index member topic }
    BroadcastGap { first last }
    Ping { nonce }
    Pong { nonce }
    Error { request code kind retry_after_ms message }
    GoingAway { code retry_after_ms retry_jitter_ms message }
}

macro_rules! round_trip {
    ($kind:ident) => {
        proptest!(ProptestConfig::with_cases(64), |(
            message in $kind::any(),
            stream in any::<u32>(),
            tail in prop::collection::vec(any::<u8>(), 0..40),
        )| {
            let tail = if $kind::KIND.has_tail() { tail } else { Vec::new() };
            let bytes = encode(stream, &message, &[&tail]);
            prop_assert_eq!(frame_length(&bytes, FRAME_BYTES_MAX), Ok(Some(bytes.len())));
            for offset in 0..OFFSETS {
                let buffer = [vec![0xEE; offset], bytes.clone()].concat();
                let frame = Frame::parse(&buffer[offset..]).unwrap().unwrap();
                prop_assert_eq!((frame.kind(), frame.stream()), (Some($kind::KIND), stream));
                prop_assert_eq!(frame.tail(), &tail[..]);
                let body = frame.body::<$kind>().unwrap();
                prop_assert_eq!(&rkyv::deserialize::<$kind, Failure>(body).unwrap(), &message);
            }
        });
    };
}

#[test]
fn every_kind_is_read_as_it_was_written_at_any_offset() {
    etherply_wire::for_each_kind!(round_trip);
}

#[test]
fn a_frame_is_appended_behind_what_is_there() {
    let first = encode(1, &Ping { nonce: 1 }, &[]);
    let push = Push { push: 2, generation: 0, lengths: vec![1, 2] };
    let mut both = first.clone();
    etherply_wire::encode_into(&mut both, 5, &push, &[b"a", b"bc"]);
    assert_eq!(both[..first.len()], first);
    assert_eq!(both[first.len()..], encode(5, &push, &[b"abc"]));
}

#[test]
fn the_length_is_refused_outside_of_its_limits() {
    let length = |field: u32, max| frame_length(&field.to_le_bytes(), max);
    let header = u32::try_from(HEADER_BYTES).unwrap();
    for field in [0, 1, header - 1] {
        assert_eq!(length(field, FRAME_BYTES_MAX), Err(FrameError::LengthTooSmall { length: field }));
    }
    assert_eq!(length(header, FRAME_BYTES_MAX), Ok(Some(HEADER_BYTES)));
    for max in [HELLO_FRAME_BYTES_MAX, FRAME_BYTES_MAX] {
        let field = u32::try_from(max).unwrap();
        assert_eq!(length(field - 1, max), Ok(Some(max - 1)));
        assert_eq!(length(field, max), Ok(Some(max)));
        for field in [field + 1, u32::MAX - 1, u32::MAX] {
            let error = FrameError::TooLarge { length: field, max };
            assert_eq!(length(field, max), Err(error));
            assert_eq!(error.code(), ErrorCode::FrameTooLarge);
        }
    }
    for cut in 0..4 {
        assert_eq!(frame_length(&u32::MAX.to_le_bytes()[..cut], FRAME_BYTES_MAX), Ok(None));
    }
}

#[test]
fn a_length_that_lies_is_refused_for_every_kind() {
    for vector in samples().unwrap() {
        let bytes = vector.bytes;
        let given = bytes.len();
        let real = u32::try_from(given).unwrap();
        for length in [0, 15, real - 1, real + 1, u32::MAX] {
            let mut lying = bytes.clone();
            lying[..4].copy_from_slice(&length.to_le_bytes());
            let error = FrameError::LengthMismatch { length, given };
            assert_eq!(Frame::parse(&lying).unwrap_err(), error, "{}", vector.name);
        }
        for cut in 0..given {
            assert!(Frame::parse(&bytes[..cut]).is_err(), "{} cut at {cut}", vector.name);
        }
    }
}

#[test]
fn an_archive_that_does_not_fit_is_refused_for_every_kind() {
    for vector in samples().unwrap() {
        let Some(kind) = vector.json.and_then(|json| Kind::from_number(json.kind_number)) else { continue };
        let body_bytes = vector.bytes.len() - HEADER_BYTES;
        let fits = u32::try_from(body_bytes).unwrap();
        for archive_bytes in [fits + 1, u32::MAX - 1, u32::MAX] {
            let mut lying = vector.bytes.clone();
            lying[12..16].copy_from_slice(&archive_bytes.to_le_bytes());
            let error = FrameError::ArchiveBounds { archive_bytes, body_bytes };
            assert_eq!(Frame::parse(&lying).unwrap_err(), error, "{}", vector.name);
        }
        let mut shorter = vector.bytes.clone();
        shorter[12..16].copy_from_slice(&(fits - 1).to_le_bytes());
        assert_eq!(Frame::parse(&shorter).is_ok(), kind.has_tail(), "{}", vector.name);
    }
}

#[test]
fn versions_flags_and_kinds_that_are_not_known_are_refused() {
    let ping = encode(0, &Ping { nonce: 1 }, &[]);
    let with = |at: usize, byte: u8| {
        let mut bytes = ping.clone();
        bytes[at] = byte;
        bytes
    };
    for byte in 0..=u8::MAX {
        let bytes = with(4, byte);
        let expected = if byte == PROTOCOL { None } else { Some(FrameError::Protocol { protocol: byte }) };
        assert_eq!(Frame::parse(&bytes).err(), expected);
        let bytes = with(5, byte);
        let known = matches!(byte, 0 | FLAG_SKIPPABLE);
        let expected = if known { None } else { Some(FrameError::Flags { flags: byte }) };
        assert_eq!(Frame::parse(&bytes).err(), expected);
    }
    for number in 0..=u16::MAX {
        let mut bytes = ping.clone();
        bytes[6..8].copy_from_slice(&number.to_le_bytes());
        let unknown = Kind::from_number(number).is_none();
        let expected = if unknown { Some(FrameError::UnknownKind { kind: number }) } else { None };
        assert_eq!(Frame::parse(&bytes).err(), expected);
        bytes[5] = FLAG_SKIPPABLE;
        assert_eq!(Frame::parse(&bytes).unwrap().is_none(), unknown, "kind {number}");
    }
}

#[test]
fn a_body_is_only_read_as_its_own_kind() {
    // The same struct under another number.
    let ping = encode(0, &Ping { nonce: 1 }, &[]);
    let frame = Frame::parse(&ping).unwrap().unwrap();
    assert!(frame.body::<Ping>().is_ok());
    let error = FrameError::Archive { kind: Kind::Ping as u16 };
    assert_eq!(frame.body::<Pong>().err(), Some(error));
    assert_eq!(error.code(), ErrorCode::FrameMalformed);
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check::check(&bytes);
    }

    #[test]
    fn a_mutated_frame_is_answered(
        vector in prop::sample::select(samples().unwrap()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = vector.bytes;
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        check::check(&bytes);
    }
}
