//! A member that speaks a peer's protocol: what all peers have in common. Who may be called when, what is counted,
//! and what a value carries; the words are each [`Protocol`]'s.

use std::collections::VecDeque;

use anyhow::{Context as _, Result};
use etherply_client::Next;

use crate::net::Ctx;
use crate::net::session::{MemberOutcome, Session};
use crate::peers::link::{Framing, Incoming, Link, Mouth};
use crate::peers::witness;
use crate::plan::Plan;
use crate::stats::{count, shift};
use crate::writer::Stamp;

/// Digits of an edit's number, behind the stamp.
const NUMBER_BYTES: usize = 8;
const STAMP_BYTES: usize = 16;
/// Shortest value of an edit that goes through a peer.
pub const VALUE_BYTES_MIN: usize = STAMP_BYTES + NUMBER_BYTES;

/// One member's side of a peer's protocol, without sockets and clocks.
pub trait Protocol: Sized + 'static {
    /// Whether the server answers each edit. Where it does not, an edit counts as made once it was sent.
    const ACKS: bool;

    /// The member of a document.
    fn new(plan: &Plan, document: u32, member: u32) -> Result<Self>;
    /// How messages travel.
    fn framing(&self, plan: &Plan) -> Framing;
    /// The connection is there.
    fn hello(&mut self, mouth: &mut Mouth, book: &mut Hearing<'_>) -> Result<()>;
    /// A whole message came.
    fn message(&mut self, message: &[u8], mouth: &mut Mouth, book: &mut Hearing<'_>) -> Result<()>;
    /// Asks for the member's document.
    fn open(&mut self, mouth: &mut Mouth) -> Result<()>;
    /// Makes an edit that puts this value.
    fn edit(&mut self, value: &str, mouth: &mut Mouth) -> Result<()>;
}

/// An edit's value: when it was due, who made it, its number, and letters that hardly compress.
pub fn value_of(stamp: Stamp, number: u32, bytes: usize) -> String {
    let mut value = stamp.text(bytes.max(VALUE_BYTES_MIN));
    value.replace_range(STAMP_BYTES..VALUE_BYTES_MIN, &format!("{number:08x}"));
    value
}

/// The stamp and the number of a value.
pub fn parse_value(value: &[u8]) -> Option<(Stamp, u32)> {
    let number = std::str::from_utf8(value.get(STAMP_BYTES..VALUE_BYTES_MIN)?).ok()?;
    Some((Stamp::parse(value)?, u32::from_str_radix(number, 16).ok()?))
}

/// What a member keeps count of.
#[derive(Debug)]
pub struct Book {
    member: u32,
    /// Number of the last edit received, writer by writer.
    seen: Box<[u32]>,
    /// When the edits were due that are not acked.
    due: VecDeque<u64>,
    made: u32,
    acked: u32,
    received: u64,
    duplicated: u64,
    /// The updates that came, if the member is sampled.
    sample: Option<Vec<u8>>,
    is_ready: bool,
    is_open: bool,
}

/// Where a protocol tells what it heard.
pub struct Hearing<'a> {
    book: &'a mut Book,
    ctx: &'a Ctx,
}

impl Hearing<'_> {
    /// The server knows the member.
    pub fn ready(&mut self) {
        if !std::mem::replace(&mut self.book.is_ready, true) {
            shift(&self.ctx.gauges.connected, 1);
        }
    }

    /// The member has what its document holds, and is sent what others make.
    pub fn opened(&mut self) {
        if !std::mem::replace(&mut self.book.is_open, true) {
            shift(&self.ctx.gauges.opened, 1);
        }
    }

    /// The server answered the oldest edit that it had not answered.
    pub fn acked(&mut self) -> Result<()> {
        let due_us = self.book.due.pop_front().context("an answer to nothing")?;
        self.book.acked += 1;
        count(&self.ctx.gauges.acked);
        self.ctx.acked(due_us)
    }

    /// Number of the last edit of this writer that the member received, or made.
    pub fn seen(&self, writer: u32) -> u32 {
        if writer == self.book.member {
            return self.book.made;
        }
        self.book.seen.get(writer as usize).copied().unwrap_or(0)
    }

    /// Somebody's edit came, with this value.
    pub fn edit(&mut self, value: &[u8]) -> Result<()> {
        let Some((stamp, number)) = parse_value(value) else {
            self.unexpected("a value that no writer of this run made");
            return Ok(());
        };
        let writer = u32::from(stamp.writer);
        if writer == self.book.member {
            return Ok(());
        }
        let seen =
            self.book.seen.get_mut(usize::from(stamp.writer)).context("a writer that this run has not")?;
        if number <= *seen {
            self.book.duplicated += 1;
            return Ok(());
        }
        *seen = number;
        self.book.received += 1;
        count(&self.ctx.gauges.received);
        self.ctx.delivered(stamp.due_us, self.ctx.run_us())
    }

    /// The member has this writer's edits up to this number, without the values that later ones took the place of.
    /// They are no losses; when they came is not measured.
    pub fn covered(&mut self, writer: u32, number: u32) {
        if writer == self.book.member {
            return;
        }
        let Some(seen) = self.book.seen.get_mut(writer as usize) else { return };
        while *seen < number {
            *seen += 1;
            self.book.received += 1;
            count(&self.ctx.gauges.received);
            self.ctx.stats.borrow_mut().covered += 1;
        }
    }

    /// Keeps an update for the comparison at the end, if the member is sampled.
    pub fn keep(&mut self, update: &[u8]) -> Result<()> {
        self.book.sample.as_mut().map_or(Ok(()), |sample| witness::push_update(sample, update))
    }

    /// Something came that the protocol does not have, or that this run has no use for. Counted and reported.
    pub fn unexpected(&mut self, what: &str) {
        self.ctx.stats.borrow_mut().unexpected += 1;
        self.ctx.fail(&format!("not expected: {what}"));
    }
}

/// A member and its connection.
pub struct PeerSession<P> {
    document: u32,
    protocol: Option<P>,
    link: Option<Link>,
    book: Book,
    seed: u64,
}

impl<P: Protocol> Session for PeerSession<P> {
    fn new(ctx: &Ctx, connection: u32) -> Self {
        let (document, member) = ctx.plan.place(connection);
        let book = Book {
            member,
            seen: vec![0; ctx.plan.writers as usize].into_boxed_slice(),
            due: VecDeque::new(),
            made: 0,
            acked: 0,
            received: 0,
            duplicated: 0,
            sample: ctx.plan.is_sample(document, member).then(Vec::new),
            is_ready: false,
            is_open: false,
        };
        let seed = ctx.plan.run.wrapping_add(u64::from(connection) << 20);
        Self { document, protocol: None, link: None, book, seed }
    }

    fn connect(&mut self, ctx: &Ctx) -> Result<()> {
        let protocol = self.protocol.insert(P::new(&ctx.plan, self.document, self.book.member)?);
        let framing = protocol.framing(&ctx.plan);
        let link = self.link.insert(Link::begin(&framing, self.seed)?);
        if matches!(framing, Framing::Stream(_)) {
            protocol.hello(&mut link.mouth, &mut Hearing { book: &mut self.book, ctx })?;
        }
        Ok(())
    }

    fn receive(&mut self, bytes: &mut [u8], ctx: &Ctx) -> Result<()> {
        let Self { protocol, link, book, .. } = self;
        let (Some(protocol), Some(link)) = (protocol, link) else { return Ok(()) };
        link.receive(bytes, &mut |incoming, mouth| {
            let mut hearing = Hearing { book: &mut *book, ctx };
            match incoming {
                Incoming::Open => protocol.hello(mouth, &mut hearing),
                Incoming::Message(message) => protocol.message(message, mouth, &mut hearing),
                Incoming::Text => {
                    hearing.unexpected("a text message");
                    Ok(())
                }
            }
        })
    }

    fn output(&mut self, out: &mut Vec<u8>, _: &Ctx) {
        if let Some(link) = self.link.as_mut().filter(|link| !link.mouth.out.is_empty()) {
            out.append(&mut link.mouth.out);
            // An idle connection holds none.
            link.mouth.out = Vec::new();
        }
    }

    fn disconnected(&mut self, ctx: &Ctx) -> Next {
        if std::mem::take(&mut self.book.is_ready) {
            shift(&ctx.gauges.connected, -1);
        }
        if std::mem::take(&mut self.book.is_open) {
            shift(&ctx.gauges.opened, -1);
        }
        self.link = None;
        Next::RECONNECT
    }

    fn is_ready(&self) -> bool {
        self.book.is_ready
    }

    fn open(&mut self, _: &Ctx) -> Result<()> {
        match (&mut self.protocol, &mut self.link) {
            (Some(protocol), Some(link)) if self.book.is_ready => protocol.open(&mut link.mouth),
            // It failed, which is counted.
            _ => Ok(()),
        }
    }

    fn edit(&mut self, due_us: u64, ctx: &Ctx) -> Result<()> {
        let (Some(protocol), Some(link)) = (&mut self.protocol, &mut self.link) else {
            anyhow::bail!("an edit was due on a connection that is gone");
        };
        let stamp = Stamp { due_us, writer: u16::try_from(self.book.member)? };
        let value = value_of(stamp, self.book.made + 1, ctx.plan.value_bytes);
        protocol.edit(&value, &mut link.mouth)?;
        self.book.made += 1;
        count(&ctx.gauges.sent);
        if P::ACKS {
            self.book.due.push_back(due_us);
        } else {
            self.book.acked += 1;
            count(&ctx.gauges.acked);
        }
        Ok(())
    }

    fn tick(&mut self, _: &Ctx) {}

    fn outcome(&mut self) -> MemberOutcome {
        MemberOutcome {
            document: self.document,
            member: self.book.member,
            seen: self.book.seen.to_vec(),
            made: self.book.made,
            acked: self.book.acked,
            received: self.book.received,
            duplicated: self.book.duplicated,
            sample: self.book.sample.take(),
            ..MemberOutcome::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_back_and_has_its_length() {
        for (due_us, writer, number, bytes) in [(0, 0, 1, VALUE_BYTES_MIN), (1 << 40, 9, u32::MAX, 48)] {
            let stamp = Stamp { due_us, writer };
            let value = value_of(stamp, number, bytes);
            assert_eq!((value.len(), parse_value(value.as_bytes())), (bytes, Some((stamp, number))));
        }
        assert_eq!(parse_value(&[b'0'; VALUE_BYTES_MIN - 1]), None);
        assert_eq!(parse_value(&[b'x'; VALUE_BYTES_MIN]), None);
    }
}
