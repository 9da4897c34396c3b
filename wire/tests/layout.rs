//! The sizes of the archived structs, which every other codec has to know. The golden vectors pin the bytes;
//! a size that differs here says which struct it was.

use etherply_wire::kinds;
use rkyv::Archive;

const U8: usize = 1;
const U16: usize = 2;
const U32: usize = 4;
const U64: usize = 8;
const BOOL: usize = 1;
const MEMBER: usize = 16;
const HASH: usize = 32;
/// A relative pointer and a length.
const VEC: usize = 4 + 4;
/// The same room as a `Vec`, in which a short string stands itself.
const STRING: usize = 8;
/// A tag before the value.
const OPTION: usize = 1;
const CURSOR: usize = U64 + U64 + HASH;

macro_rules! sizes {
    ($($name:ident = $bytes:expr;)+) => {
        const SIZES: &[(&str, usize, usize, usize)] = &[$((
            stringify!($name),
            size_of::<<kinds::$name as Archive>::Archived>(),
            $bytes,
            align_of::<<kinds::$name as Archive>::Archived>(),
        ),)+];
    };
}

sizes! {
    Cursor = CURSOR;
    ClockEntry = VEC + U64 + HASH;
    LimitEntry = U16 + U64;
    PresenceEntry = MEMBER + VEC;
    Hello = U8 + U8 + U64 + STRING;
    Welcome = U8 + U64 + MEMBER + U64 + STRING + VEC;
    Open = U32 + U16 + STRING + OPTION + STRING + OPTION + CURSOR;
    Opened = U32 + U16 + U8 + U64 + CURSOR;
    Close = U16 + STRING;
    Renew = U32 + STRING;
    RightsChanged = U32 + U16 + U16 + U64;
    Snapshot = CURSOR + U64 + U64;
    Changes = U64 + CURSOR + VEC;
    Push = U64 + U32 + VEC;
    Ack = U64 + U64 + CURSOR + VEC;
    Refused = U64 + U32 + U32 + U16 + U32 + BOOL + VEC + STRING;
    Reconcile = CURSOR + BOOL + VEC;
    PresenceSet = U32;
    PresenceUpdate = U64 + BOOL + VEC;
    PresenceLeave = U64 + VEC;
    BroadcastSend = STRING;
    Broadcast = U64 + MEMBER + STRING;
    BroadcastGap = U64 + U64;
    Ping = U64;
    Pong = U64;
    Error = U32 + U16 + U16 + U32 + STRING;
    GoingAway = U16 + U32 + U32 + STRING;
}

#[test]
fn archived_structs_have_no_padding_and_no_alignment() {
    for &(name, bytes, expected, align) in SIZES {
        assert_eq!((bytes, align), (expected, 1), "{name}");
    }
}

#[test]
fn every_kind_is_in_the_table() {
    for kind in etherply_wire::Kind::ALL {
        assert!(SIZES.iter().any(|(name, ..)| *name == kind.name()), "{} is missing", kind.name());
    }
}
