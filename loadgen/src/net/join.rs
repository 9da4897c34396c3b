//! A client without a copy that opens a document, takes everything that the server sends, and goes. It only
//! keeps the bytes: what it takes to build a document from them is not the server's time.

use anyhow::{Result, bail};
use etherply_client::{Client, Event, Next, OpenOptions, StreamId};
use etherply_wire::Rights;

use crate::net::Ctx;
use crate::net::fleet::Joined;
use crate::net::session::{MemberOutcome, Session};
use crate::net::sync::client_of;
use crate::stats::{count, shift};

/// A client on its way to its first copy.
pub struct JoinSession {
    client: Client,
    stream: Option<StreamId>,
    member: u32,
    due_us: u64,
    is_ready: bool,
    /// Where the document stood when it was opened.
    until: Option<u64>,
    has_first: bool,
    is_done: bool,
    bytes: Vec<u8>,
    changes: u64,
    doubled: u64,
}

impl Session for JoinSession {
    const CONNECTS_WHEN_DUE: bool = true;

    fn new(ctx: &Ctx, connection: u32) -> Self {
        Self {
            client: client_of(ctx, connection),
            stream: None,
            member: connection,
            due_us: 0,
            is_ready: false,
            until: None,
            has_first: false,
            is_done: false,
            bytes: Vec::new(),
            changes: 0,
            doubled: 0,
        }
    }

    fn connect(&mut self, ctx: &Ctx) -> Result<()> {
        if self.stream.is_none() {
            self.open(ctx)?;
        }
        Ok(self.client.connect(ctx.now_ms())?)
    }

    fn receive(&mut self, bytes: &mut [u8], ctx: &Ctx) -> Result<()> {
        // Read before anything is done with the bytes.
        let took_us = ctx.run_us().saturating_sub(self.due_us);
        let was_open = self.until.is_some();
        let Self { client, bytes: copy, changes, doubled, until, is_ready, .. } = self;
        let (mut came, mut fault) = (false, None);
        let ended = client.input(bytes, ctx.now_ms(), &mut |event| match event {
            Event::Ready { .. } => {
                *is_ready = true;
                shift(&ctx.gauges.connected, 1);
            }
            Event::Opened { cursor, .. } => *until = Some(cursor.seq),
            Event::Changes { changes: new, duplicates, .. } => {
                came = true;
                copy.extend_from_slice(new.joined());
                *changes += new.len() as u64;
                *doubled += duplicates;
            }
            Event::Snapshot { bytes, .. } => {
                came = true;
                // What came before is part of it.
                *copy = bytes;
            }
            Event::OpenFailed { fault: why, .. } | Event::Closed { fault: why, .. } => {
                fault = Some(why.to_string());
            }
            _ => {}
        });
        ended?;
        if let Some(fault) = fault {
            bail!("a client could not join: {fault}");
        }
        // Nothing but the document follows the answer to its open.
        let is_first = (came || was_open) && !std::mem::replace(&mut self.has_first, true);
        if is_first && self.due_us >= ctx.plan.warmup_us {
            ctx.stats.borrow_mut().first_byte.record(took_us)?;
        }
        let has = self.stream.and_then(|stream| self.client.cursor(stream)).map_or(0, |cursor| cursor.seq);
        if self.until.is_some_and(|until| has >= until) {
            self.done(took_us, ctx)?;
        }
        Ok(())
    }

    fn output(&mut self, out: &mut Vec<u8>, ctx: &Ctx) {
        self.client.output(out, ctx.now_ms());
    }

    fn disconnected(&mut self, ctx: &Ctx) -> Next {
        if std::mem::take(&mut self.is_ready) {
            shift(&ctx.gauges.connected, -1);
        }
        self.client.disconnected()
    }

    fn is_ready(&self) -> bool {
        self.is_ready
    }

    fn is_done(&self) -> bool {
        self.is_done
    }

    fn open(&mut self, ctx: &Ctx) -> Result<()> {
        let document = ctx.plan.document_name(0);
        let options = OpenOptions { document, rights: Rights::READ, token: None, cursor: None };
        self.stream = Some(self.client.open(options)?);
        Ok(())
    }

    fn edit(&mut self, due_us: u64, ctx: &Ctx) -> Result<()> {
        self.due_us = due_us;
        count(&ctx.gauges.sent);
        Ok(())
    }

    fn tick(&mut self, ctx: &Ctx) {
        self.client.tick(ctx.now_ms());
    }

    fn outcome(&mut self) -> MemberOutcome {
        MemberOutcome {
            member: self.member,
            received: self.changes,
            duplicated: self.doubled,
            ..MemberOutcome::default()
        }
    }
}

impl JoinSession {
    /// The last byte is here.
    fn done(&mut self, took_us: u64, ctx: &Ctx) -> Result<()> {
        self.is_done = true;
        ctx.delivered(self.due_us, self.due_us + took_us)?;
        ctx.gauges.received.fetch_add(self.changes, std::sync::atomic::Ordering::Relaxed);
        shift(&ctx.gauges.in_sync, 1);
        if let Some(joined) = &ctx.controls.joined {
            let bytes = std::mem::take(&mut self.bytes);
            // Whoever looks at the copies may have given up.
            let is_measured = self.due_us >= ctx.plan.warmup_us;
            drop(joined.send(Joined { took_us: is_measured.then_some(took_us), bytes }));
        }
        Ok(())
    }
}
