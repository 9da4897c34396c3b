//! Reading frames into owned structs, on both sides.

use etherply_wire::{Frame, Message};
use rkyv::api::high::{HighDeserializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::{Archive, Deserialize, Portable, rancor};

/// The body of a frame, owned.
pub fn body<T>(frame: &Frame<'_>) -> Result<T, String>
where
    T: Message + Archive,
    T::Archived: Portable
        + for<'b> CheckBytes<HighValidator<'b, rancor::Failure>>
        + Deserialize<T, HighDeserializer<rancor::Failure>>,
{
    let archived = frame.body::<T>().map_err(|error| error.to_string())?;
    rkyv::deserialize::<T, rancor::Failure>(archived).map_err(|_| "the body cannot be read".to_owned())
}

/// A frame of a kind that both sides know.
pub fn parse(bytes: &[u8]) -> Result<Frame<'_>, String> {
    Frame::parse(bytes)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| "a kind that may be skipped".to_owned())
}

/// Cuts a tail into the changes that it holds.
pub fn split<'a>(mut tail: &'a [u8], lengths: &[u32]) -> Result<Vec<&'a [u8]>, String> {
    let mut changes = Vec::new();
    for &length in lengths {
        let (change, rest) = tail.split_at_checked(length as usize).ok_or("the lengths exceed the tail")?;
        changes.push(change);
        tail = rest;
    }
    if tail.is_empty() { Ok(changes) } else { Err("the tail exceeds the lengths".to_owned()) }
}
