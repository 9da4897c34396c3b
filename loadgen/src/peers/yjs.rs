//! Yjs: updates, made by `yrs` and read without a document, and the sync protocol of `y-protocols` as y-websocket's
//! server and Y-Sweet speak it.

use anyhow::{Context as _, Result, bail};
use yrs::{Doc, Map, MapRef, Transact};

use crate::peers::lib0::{Reader, push_bytes, push_uint};
use crate::peers::link::{Framing, Mouth};
use crate::peers::session::{Hearing, Protocol};
use crate::plan::Plan;

/// A document's members are the clients from here on: 0 is nobody's in some implementations.
const CLIENT_BASE: u64 = 1_000;

// Kinds of messages (y-protocols, PROTOCOL.md), and Y-Sweet's own.
pub const SYNC: u64 = 0;
pub const AWARENESS: u64 = 1;
const Y_SWEET_STATUS: u64 = 102;
// Steps of a sync message.
const STEP_1: u64 = 0;
const STEP_2: u64 = 1;
const UPDATE: u64 = 2;

/// The map that members write into.
pub const MAP: &str = "state";

/// The key under which a member puts its values.
pub fn key(member: u32) -> String {
    format!("writer-{member}")
}

/// The writing half of a member: a genuine document that holds its own edits. Updates only name their own client's
/// operations, so they are the same bytes whatever else the document would hold.
pub struct Writer {
    doc: Doc,
    map: MapRef,
    key: String,
}

impl Writer {
    /// A member's writer; it made nothing yet.
    pub fn new(member: u32) -> Self {
        let doc = Doc::with_client_id(CLIENT_BASE + u64::from(member));
        let map = doc.get_or_insert_map(MAP);
        Self { doc, map, key: key(member) }
    }

    /// Puts a value under the member's own key; the update.
    pub fn edit(&mut self, value: &str) -> Vec<u8> {
        let mut transaction = self.doc.transact_mut();
        self.map.insert(&mut transaction, self.key.as_str(), value);
        transaction.encode_update_v1()
    }
}

/// What an update brings of one client.
#[derive(Debug, PartialEq, Eq)]
pub enum Brought<'u> {
    /// A value that was put.
    Value(&'u [u8]),
    /// Operations of this client before this clock whose values are gone: newer ones took their place.
    Gone { client: u64, end: u64 },
}

/// Reads an update (version 1) as it is written by `Y.encodeStateAsUpdate` and passes on what it brings.
pub fn read_update<'u>(update: &'u [u8], take: &mut dyn FnMut(Brought<'u>) -> Result<()>) -> Result<()> {
    let mut reader = Reader::new(update);
    for _ in 0..reader.uint()? {
        let structs = reader.uint()?;
        let client = reader.uint()?;
        let mut clock = reader.uint()?;
        for _ in 0..structs {
            let info = reader.byte()?;
            clock += match info & 0x1F {
                kind @ (GC | SKIP) => {
                    let length = reader.uint()?;
                    if kind == GC {
                        take(Brought::Gone { client, end: clock + length })?;
                    }
                    length
                }
                kind => {
                    read_place(&mut reader, info)?;
                    read_content(&mut reader, kind, client, clock, take)?
                }
            };
        }
    }
    Ok(())
}

const GC: u8 = 0;
const SKIP: u8 = 10;

/// Where an item stands: next to others, or in a parent.
fn read_place(reader: &mut Reader<'_>, info: u8) -> Result<()> {
    for flag in [0x80, 0x40] {
        if info & flag != 0 {
            reader.uint()?;
            reader.uint()?;
        }
    }
    if info & 0xC0 == 0 {
        if reader.uint()? == 1 {
            reader.bytes()?;
        } else {
            reader.uint()?;
            reader.uint()?;
        }
        if info & 0x20 != 0 {
            reader.bytes()?;
        }
    }
    Ok(())
}

/// An item's content; how many clocks it takes.
fn read_content<'u>(
    reader: &mut Reader<'u>,
    kind: u8,
    client: u64,
    clock: u64,
    take: &mut dyn FnMut(Brought<'u>) -> Result<()>,
) -> Result<u64> {
    match kind {
        1 => {
            let length = reader.uint()?;
            take(Brought::Gone { client, end: clock + length })?;
            Ok(length)
        }
        8 => {
            let length = reader.uint()?;
            for _ in 0..length {
                take(Brought::Value(reader.any_string()?))?;
            }
            Ok(length)
        }
        other => bail!("an item with content of kind {other}, where only values of a map are put"),
    }
}

/// What a sync message is.
pub fn sync_message(step: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    push_uint(&mut out, SYNC);
    push_uint(&mut out, step);
    push_bytes(&mut out, bytes);
    out
}

/// The request for what a document holds, by a client that has nothing: an empty state vector.
pub fn step_1() -> Vec<u8> {
    sync_message(STEP_1, &[0])
}

/// An edit's message.
pub fn update_message(update: &[u8]) -> Vec<u8> {
    sync_message(UPDATE, update)
}

/// An empty update, the answer to the server's own request by a client that made nothing yet.
fn step_2() -> Vec<u8> {
    sync_message(STEP_2, &[0, 0])
}

/// Takes a sync message, whose kind is read already. Returns what answers it.
pub fn hear_sync(reader: &mut Reader<'_>, book: &mut Hearing<'_>) -> Result<Option<Vec<u8>>> {
    let step = reader.uint()?;
    let bytes = reader.bytes()?;
    match step {
        STEP_1 => return Ok(Some(step_2())),
        STEP_2 | UPDATE => {
            book.keep(bytes)?;
            read_update(bytes, &mut |brought| match brought {
                Brought::Value(value) => book.edit(value),
                Brought::Gone { client, end } => {
                    let writer = client.checked_sub(CLIENT_BASE).context("a client that this run has not")?;
                    book.covered(u32::try_from(writer)?, u32::try_from(end)?);
                    Ok(())
                }
            })?;
        }
        other => book.unexpected(&format!("step {other} of a sync message")),
    }
    if step == STEP_2 {
        book.opened();
    }
    Ok(None)
}

/// A member of a document on y-websocket's server, or on Y-Sweet, whose path is another and which answers edits.
pub struct Yjs<const Y_SWEET: bool> {
    document: String,
    writer: Writer,
    made: u64,
}

impl<const Y_SWEET: bool> Protocol for Yjs<Y_SWEET> {
    const ACKS: bool = Y_SWEET;

    fn new(plan: &Plan, document: u32, member: u32) -> Result<Self> {
        let document = plan.document_name(document).replace('/', "-");
        Ok(Self { document, writer: Writer::new(member), made: 0 })
    }

    fn framing(&self, plan: &Plan) -> Framing {
        let name = &self.document;
        let path = if Y_SWEET { format!("/d/{name}/ws/{name}") } else { format!("/{name}") };
        Framing::WebSocket { host: plan.target.host.clone(), path }
    }

    fn hello(&mut self, _: &mut Mouth, book: &mut Hearing<'_>) -> Result<()> {
        book.ready();
        Ok(())
    }

    fn message(&mut self, message: &[u8], mouth: &mut Mouth, book: &mut Hearing<'_>) -> Result<()> {
        let mut reader = Reader::new(message);
        match reader.uint()? {
            SYNC => {
                if let Some(answer) = hear_sync(&mut reader, book)? {
                    mouth.say(&answer);
                }
            }
            AWARENESS => {}
            Y_SWEET_STATUS if Y_SWEET => book.acked()?,
            other => book.unexpected(&format!("a message of kind {other}")),
        }
        Ok(())
    }

    fn open(&mut self, mouth: &mut Mouth) -> Result<()> {
        mouth.say(&step_1());
        Ok(())
    }

    fn edit(&mut self, value: &str, mouth: &mut Mouth) -> Result<()> {
        let update = self.writer.edit(value);
        mouth.say(&update_message(&update));
        if Y_SWEET {
            // Its own client asks after each edit whether the server has it.
            self.made += 1;
            let (mut number, mut status) = (Vec::new(), Vec::new());
            push_uint(&mut number, self.made);
            push_uint(&mut status, Y_SWEET_STATUS);
            push_bytes(&mut status, &number);
            mouth.say(&status);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::vectors::vector;
    use yrs::updates::decoder::Decode as _;
    use yrs::{ReadTxn as _, Update};

    fn brought(update: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        read_update(update, &mut |brought| {
            all.push(match brought {
                Brought::Value(value) => String::from_utf8_lossy(value).into_owned(),
                Brought::Gone { client, end } => format!("{client} before {end}"),
            });
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn edits_are_the_bytes_that_yjs_makes() {
        let mut writer = Writer::new(3);
        for (value, name) in [("first", "update_1"), ("second", "update_2")] {
            let update = writer.edit(value);
            assert_eq!(update, vector("yjs", name), "{name}");
            assert_eq!(brought(&update), [value]);
        }
        assert_eq!(update_message(&vector("yjs", "update_1")), vector("yjs", "message_update"));
        assert_eq!(step_1(), vector("yjs", "message_step_1"));
        assert_eq!(step_2(), vector("yjs", "message_step_2"));
    }

    #[test]
    fn a_document_in_which_values_were_replaced_tells_what_is_gone() {
        assert_eq!(brought(&vector("yjs", "state")), ["1003 before 1", "second"]);
    }

    #[test]
    fn what_others_put_does_not_change_an_edits_bytes() {
        let (mut alone, mut crowded, mut other) = (Writer::new(1), Writer::new(1), Writer::new(2));
        for turn in 0..5 {
            let foreign = other.edit(&format!("other {turn}"));
            let mut transaction = crowded.doc.transact_mut();
            transaction.apply_update(Update::decode_v1(&foreign).unwrap()).unwrap();
            drop(transaction);
            let value = format!("value {turn}");
            assert_eq!(alone.edit(&value), crowded.edit(&value));
        }
        assert_eq!(crowded.map.len(&crowded.doc.transact()), 2);
        assert!(crowded.doc.transact().state_vector().len() == 2);
    }

    #[test]
    fn an_update_that_is_cut_or_odd_is_an_error() {
        let whole = vector("yjs", "update_2");
        // Behind the values stands which operations are deleted, which nobody needs.
        let values_end = whole.len() - 6;
        for end in 0..values_end {
            assert!(read_update(&whole[..end], &mut |_| Ok(())).is_err(), "{end}");
        }
        assert!(read_update(&[1, 1, 1, 0, 7, 1, 0, 0], &mut |_| Ok(())).is_err(), "a nested type");
        assert!(read_update(&[0xFF; 12], &mut |_| Ok(())).is_err(), "a number without an end");
    }
}
