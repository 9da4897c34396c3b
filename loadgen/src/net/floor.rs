//! A member of the bare relay: length-prefixed messages, a room, and nothing else.
//!
//! The first message names the room and is answered with an empty one. Each later message goes to the room's
//! other members as it is, and an empty one back to its sender, in the place of an ack.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail};
use etherply_client::Next;

use crate::net::Ctx;
use crate::net::session::{MemberOutcome, Session};
use crate::stats::{count, shift};
use crate::writer::Stamp;

/// Bytes before a message: its length, little-endian.
pub const PREFIX_BYTES: usize = 4;
/// Longest message.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// A member of a room.
pub struct FloorSession {
    room: u32,
    member: u32,
    is_ready: bool,
    partial: Vec<u8>,
    out: Vec<u8>,
    due: VecDeque<u64>,
    seen: Vec<u32>,
    made: u32,
    acked: u32,
    received: u64,
    duplicated: u64,
}

impl Session for FloorSession {
    fn new(ctx: &Ctx, connection: u32) -> Self {
        let (room, member) = ctx.plan.place(connection);
        Self {
            room,
            member,
            is_ready: false,
            partial: Vec::new(),
            out: Vec::new(),
            due: VecDeque::new(),
            seen: vec![0; ctx.plan.writers as usize],
            made: 0,
            acked: 0,
            received: 0,
            duplicated: 0,
        }
    }

    fn connect(&mut self, _: &Ctx) -> Result<()> {
        self.out = message(&self.room.to_le_bytes());
        Ok(())
    }

    fn receive(&mut self, bytes: &mut [u8], ctx: &Ctx) -> Result<()> {
        let held = std::mem::take(&mut self.partial);
        let joined;
        let mut rest: &[u8] = if held.is_empty() {
            bytes
        } else {
            joined = [held.as_slice(), bytes].concat();
            &joined
        };
        while let Some((payload, after)) = split(rest)? {
            self.message(payload, ctx)?;
            rest = after;
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    fn output(&mut self, out: &mut Vec<u8>, _: &Ctx) {
        out.append(&mut self.out);
        self.out = Vec::new();
    }

    fn disconnected(&mut self, ctx: &Ctx) -> Next {
        if std::mem::take(&mut self.is_ready) {
            shift(&ctx.gauges.connected, -1);
            shift(&ctx.gauges.opened, -1);
        }
        Next::RECONNECT
    }

    fn is_ready(&self) -> bool {
        self.is_ready
    }

    fn open(&mut self, _: &Ctx) -> Result<()> {
        Ok(())
    }

    fn edit(&mut self, due_us: u64, ctx: &Ctx) -> Result<()> {
        let stamp = Stamp { due_us, writer: u16::try_from(self.member)? };
        self.made += 1;
        let payload = format!("{}{:08x}", stamp.text(16), self.made);
        let payload = format!("{payload:.<width$}", width = ctx.plan.value_bytes);
        self.out.append(&mut message(payload.as_bytes()));
        self.due.push_back(due_us);
        count(&ctx.gauges.sent);
        Ok(())
    }

    fn tick(&mut self, _: &Ctx) {}

    fn outcome(&mut self) -> MemberOutcome {
        MemberOutcome {
            document: self.room,
            member: self.member,
            seen: std::mem::take(&mut self.seen),
            made: self.made,
            acked: self.acked,
            received: self.received,
            duplicated: self.duplicated,
            ..MemberOutcome::default()
        }
    }
}

impl FloorSession {
    fn message(&mut self, payload: &[u8], ctx: &Ctx) -> Result<()> {
        if payload.is_empty() && !self.is_ready {
            self.is_ready = true;
            shift(&ctx.gauges.connected, 1);
            shift(&ctx.gauges.opened, 1);
            return Ok(());
        }
        if payload.is_empty() {
            let due_us = self.due.pop_front().context("an answer to nothing")?;
            self.acked += 1;
            count(&ctx.gauges.acked);
            return ctx.acked(due_us);
        }
        let stamp = Stamp::parse(payload).context("a message that nobody of this run sent")?;
        let number = payload.get(16..24).and_then(|text| std::str::from_utf8(text).ok());
        let number = u32::from_str_radix(number.context("a message without a number")?, 16)?;
        let seen = self.seen.get_mut(usize::from(stamp.writer)).context("a member that this run has not")?;
        if number <= *seen {
            self.duplicated += 1;
            return Ok(());
        }
        *seen = number;
        self.received += 1;
        count(&ctx.gauges.received);
        ctx.delivered(stamp.due_us, ctx.run_us())
    }
}

/// A message with its length before it.
fn message(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes(), payload].concat()
}

/// The first whole message and what follows it.
pub fn split(bytes: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length > MESSAGE_BYTES_MAX {
        bail!("a message of {length} bytes, at most {MESSAGE_BYTES_MAX} are allowed");
    }
    Ok(rest.split_at_checked(length))
}
