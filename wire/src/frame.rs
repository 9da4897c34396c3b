//! One frame: its header, its archive, its tail.
//!
//! Reading copies nothing: a [`Frame`] borrows the bytes that it was parsed from, at any alignment, and a
//! body is validated in place.

use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::{Archive, Portable, Serialize};

use crate::error::FrameError;
use crate::kinds::{Kind, Message};

/// The protocol version of this crate.
pub const PROTOCOL: u8 = 1;
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 16;
/// A receiver that does not know the frame's kind passes over it instead of ending the connection.
pub const FLAG_SKIPPABLE: u8 = 1;

/// A frame in someone else's bytes.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    kind: u16,
    stream: u32,
    archive: &'a [u8],
    tail: &'a [u8],
}

/// The length of the frame that begins with these bytes, `None` while too few are there to tell.
///
/// A length that is not allowed is an error before anything is allocated for it.
pub fn frame_length(bytes: &[u8], bytes_max: usize) -> Result<Option<usize>, FrameError> {
    let Some(&field) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(field);
    let bytes = length as usize;
    if bytes < HEADER_BYTES {
        return Err(FrameError::LengthTooSmall { length });
    }
    if bytes > bytes_max {
        return Err(FrameError::TooLarge { length, max: bytes_max });
    }
    Ok(Some(bytes))
}

impl<'a> Frame<'a> {
    /// Reads one whole frame. `None` is a frame of an unknown kind that says it may be skipped.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, FrameError> {
        let (header, body) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(FrameError::LengthMismatch { length: 0, given: bytes.len() })?;
        let &[l0, l1, l2, l3, protocol, flags, k0, k1, s0, s1, s2, s3, a0, a1, a2, a3] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length as usize != bytes.len() {
            return Err(FrameError::LengthMismatch { length, given: bytes.len() });
        }
        if protocol != PROTOCOL {
            return Err(FrameError::Protocol { protocol });
        }
        if flags & !FLAG_SKIPPABLE != 0 {
            return Err(FrameError::Flags { flags });
        }
        let number = u16::from_le_bytes([k0, k1]);
        let Some(kind) = Kind::from_number(number) else {
            let skip = flags & FLAG_SKIPPABLE != 0;
            return if skip { Ok(None) } else { Err(FrameError::UnknownKind { kind: number }) };
        };
        let archive_bytes = u32::from_le_bytes([a0, a1, a2, a3]);
        let bounds = FrameError::ArchiveBounds { archive_bytes, body_bytes: body.len() };
        let (archive, tail) = body.split_at_checked(archive_bytes as usize).ok_or(bounds)?;
        if !tail.is_empty() && !kind.has_tail() {
            return Err(bounds);
        }
        let stream = u32::from_le_bytes([s0, s1, s2, s3]);
        Ok(Some(Self { kind: number, stream, archive, tail }))
    }

    /// The kind.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_number(self.kind)
    }

    /// The stream that it belongs to, 0 for the connection.
    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// The bytes behind the archive.
    pub fn tail(&self) -> &'a [u8] {
        self.tail
    }

    /// The body, validated. An error if it is not a well-formed `T`, or the frame is of another kind.
    pub fn body<T>(&self) -> Result<&'a T::Archived, FrameError>
    where
        T: Message + Archive,
        T::Archived: Portable + for<'b> CheckBytes<HighValidator<'b, rancor::Failure>>,
    {
        let wrong = FrameError::Archive { kind: self.kind };
        if self.kind != T::KIND as u16 {
            return Err(wrong);
        }
        rkyv::access::<T::Archived, rancor::Failure>(self.archive).map_err(|_| wrong)
    }
}

/// Appends a frame to `out`: everything in one buffer, the tail copied once.
///
/// # Panics
/// Never: the serialisation of these structs into memory cannot fail, and a frame over 4 GiB cannot be built
/// from inputs within [`crate::limits`]; callers keep those.
pub fn encode_into<T>(out: &mut Vec<u8>, stream: u32, message: &T, tails: &[&[u8]])
where
    T: Message + for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, rancor::Panic>>,
{
    let start = out.len();
    let mut bytes = std::mem::take(out);
    bytes.extend_from_slice(&[0; HEADER_BYTES]);
    bytes = match rkyv::api::high::to_bytes_in::<_, rancor::Panic>(message, bytes) {
        Ok(bytes) => bytes,
        Err(never) => match never {},
    };
    let archive_bytes = bytes.len() - start - HEADER_BYTES;
    for tail in tails {
        bytes.extend_from_slice(tail);
    }
    let length = bytes.len() - start;
    if let Some(header) = bytes.get_mut(start..).and_then(|frame| frame.first_chunk_mut::<HEADER_BYTES>()) {
        let [l0, l1, l2, l3] = field(length);
        let [k0, k1] = (T::KIND as u16).to_le_bytes();
        let [s0, s1, s2, s3] = stream.to_le_bytes();
        let [a0, a1, a2, a3] = field(archive_bytes);
        *header = [l0, l1, l2, l3, PROTOCOL, 0, k0, k1, s0, s1, s2, s3, a0, a1, a2, a3];
    }
    *out = bytes;
}

/// A frame in a buffer of its own.
pub fn encode<T>(stream: u32, message: &T, tails: &[&[u8]]) -> Vec<u8>
where
    T: Message + for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, rancor::Panic>>,
{
    let tail_bytes: usize = tails.iter().map(|tail| tail.len()).sum();
    let mut out = Vec::with_capacity(HEADER_BYTES + 128 + tail_bytes);
    encode_into(&mut out, stream, message, tails);
    out
}

fn field(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}
