//! A member that speaks EtherPly's protocol.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use etherply_client::change::ChangeView;
use etherply_client::{Client, Event, Next, OpenOptions, Push, StreamId};
use etherply_wire::Rights;

use crate::follow::{Follower, Received};
use crate::net::Ctx;
use crate::net::session::{MemberOutcome, Session};
use crate::stats::{count, shift};
use crate::writer::{Stamp, ThinWriter};

const AGENT: &str = concat!("etherply-loadgen/", env!("CARGO_PKG_VERSION"));

/// A member and its writer, if it writes.
pub struct SyncSession {
    client: Client,
    stream: Option<StreamId>,
    document: u32,
    member: u32,
    follower: Follower,
    writer: Option<ThinWriter>,
    is_ready: bool,
    is_open: bool,
    made: u32,
    acked: u32,
    /// What the shared gauge counts for this connection.
    in_flight: usize,
    standing: Standing,
}

/// Where a member stands with what the server had when it opened the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Away,
    /// It waits for this position, and for the ack of its push with this number and all before.
    Catching {
        seq: u64,
        push: u64,
    },
    InSync,
}

/// What one input brought, besides what the follower took in.
#[derive(Default)]
struct Brought {
    ready: bool,
    /// Where the document stood when it was opened.
    opened: Option<u64>,
    /// Whether the server ended the document for a while; the client opens it again.
    closed: bool,
    blocked: bool,
    fault: Option<anyhow::Error>,
}

impl Session for SyncSession {
    fn new(ctx: &Ctx, connection: u32) -> Self {
        let (_, member) = ctx.plan.place(connection);
        Self::member(ctx, connection, member < ctx.plan.writers)
    }

    fn connect(&mut self, ctx: &Ctx) -> Result<()> {
        Ok(self.client.connect(ctx.now_ms())?)
    }

    fn receive(&mut self, bytes: &mut [u8], ctx: &Ctx) -> Result<()> {
        let Self { client, follower, writer, acked, document, .. } = self;
        let own = writer.as_ref().map(|writer| (writer.actor(), writer.seq()));
        let mut brought = Brought::default();
        let ended = client.input(bytes, ctx.now_ms(), &mut |event| {
            let taken = take(event, ctx, follower, own, &mut brought, &mut |push| {
                *acked += 1;
                note_ack(*document, push, ctx)
            });
            if let Err(fault) = taken {
                brought.fault.get_or_insert(fault);
            }
        });
        self.count_in_flight(ctx);
        if brought.ready && !self.is_ready {
            self.is_ready = true;
            shift(&ctx.gauges.connected, 1);
            if let Some(took_us) = ctx.since_moment_us() {
                ctx.stats.borrow_mut().reconnected.record(took_us)?;
            }
        }
        if brought.closed {
            self.close(ctx);
        }
        if brought.opened.is_some() && !self.is_open {
            self.is_open = true;
            shift(&ctx.gauges.opened, 1);
        }
        self.catch_up(brought.opened, ctx)?;
        if let Some(stream) = self.stream.filter(|_| brought.blocked) {
            self.client.give_back(stream)?;
            bail!("a push was refused for good");
        }
        ended?;
        brought.fault.map_or(Ok(()), Err)?;
        if ctx.makes.get() { self.refill(ctx) } else { Ok(()) }
    }

    fn output(&mut self, out: &mut Vec<u8>, ctx: &Ctx) {
        self.client.output(out, ctx.now_ms());
        self.count_in_flight(ctx);
    }

    fn disconnected(&mut self, ctx: &Ctx) -> Next {
        let next = self.client.disconnected();
        self.count_in_flight(ctx);
        if std::mem::take(&mut self.is_ready) {
            shift(&ctx.gauges.connected, -1);
        }
        self.close(ctx);
        next
    }

    fn is_ready(&self) -> bool {
        self.is_ready
    }

    fn open(&mut self, ctx: &Ctx) -> Result<()> {
        let read = Rights::READ;
        let rights = if self.writer.is_some() { read.with(Rights::WRITE) } else { read };
        let document = ctx.plan.document_name(self.document);
        let options = OpenOptions { document, rights, token: None, cursor: None };
        self.stream = Some(self.client.open(options)?);
        Ok(())
    }

    fn edit(&mut self, due_us: u64, ctx: &Ctx) -> Result<()> {
        let writer = self.writer.as_mut().context("a member that does not write was to make an edit")?;
        let stream = self.stream.context("an edit was due before its document was opened")?;
        let stamp = Stamp { due_us, writer: u16::try_from(self.member)? };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_s = i64::try_from(now.as_secs()).unwrap_or(0);
        let made = writer.edit(&mut self.follower.heads, stamp.text(ctx.plan.value_bytes), unix_s)?;
        self.follower.keep(&made);
        self.client.push(stream, &[&made], due_us)?;
        self.made += 1;
        count(&ctx.gauges.sent);
        Ok(())
    }

    fn begin_pipeline(&mut self, ctx: &Ctx) -> Result<()> {
        self.refill(ctx)
    }

    fn tick(&mut self, ctx: &Ctx) {
        self.client.tick(ctx.now_ms());
    }

    fn outcome(&mut self) -> MemberOutcome {
        MemberOutcome {
            document: self.document,
            member: self.member,
            heads: self.follower.heads.sorted(),
            seen: self.follower.seen().to_vec(),
            made: self.made,
            acked: self.acked,
            received: self.follower.received,
            duplicated: self.follower.duplicated,
            sample: self.follower.sample.take(),
        }
    }
}

/// The client behind a connection.
pub fn client_of(ctx: &Ctx, connection: u32) -> Client {
    let plan = &ctx.plan;
    let seed = plan.run.wrapping_add(u64::from(connection) << 20);
    plan.target.client(plan.is_websocket(connection), AGENT, seed)
}

impl SyncSession {
    /// The member behind a connection, who writes or only reads.
    pub fn member(ctx: &Ctx, connection: u32, writes: bool) -> Self {
        let plan = &ctx.plan;
        let (document, member) = plan.place(connection);
        let writer = || ThinWriter::new(&plan.actor(document, member), format!("writer-{member}"));
        Self {
            client: client_of(ctx, connection),
            stream: None,
            document,
            member,
            follower: Follower::new(plan.writers as usize, plan.is_sample(document, member)),
            writer: writes.then(writer),
            is_ready: false,
            is_open: false,
            made: 0,
            acked: 0,
            in_flight: 0,
            standing: Standing::Away,
        }
    }

    /// Keeps as many pushes unacked as the plan says.
    fn refill(&mut self, ctx: &Ctx) -> Result<()> {
        if self.writer.is_none() || !self.is_open {
            return Ok(());
        }
        while ((self.made - self.acked) as usize) < ctx.plan.pipeline {
            self.edit(ctx.run_us(), ctx)?;
        }
        Ok(())
    }

    /// The document is not open any more.
    fn close(&mut self, ctx: &Ctx) {
        if std::mem::take(&mut self.is_open) {
            shift(&ctx.gauges.opened, -1);
        }
        if std::mem::replace(&mut self.standing, Standing::Away) == Standing::InSync {
            shift(&ctx.gauges.in_sync, -1);
        }
    }

    /// Notices when this member has what the server had when it opened the document, and the server what
    /// this member had.
    fn catch_up(&mut self, opened: Option<u64>, ctx: &Ctx) -> Result<()> {
        let Some(stream) = self.stream else { return Ok(()) };
        if let Some(seq) = opened {
            let push = self.client.unacked(stream).last().map_or(0, |push| push.number);
            self.standing = Standing::Catching { seq, push };
        }
        let Standing::Catching { seq, push } = self.standing else { return Ok(()) };
        let has = self.client.cursor(stream).map_or(0, |cursor| cursor.seq);
        let waits = self.client.unacked(stream).next().is_some_and(|first| first.number <= push);
        if has < seq || waits {
            return Ok(());
        }
        self.standing = Standing::InSync;
        shift(&ctx.gauges.in_sync, 1);
        if let Some(took_us) = ctx.since_moment_us() {
            ctx.stats.borrow_mut().since_moment.record(took_us)?;
            count(&ctx.gauges.resynced);
        }
        Ok(())
    }

    fn count_in_flight(&mut self, ctx: &Ctx) {
        let now = self.client.in_flight().pushes;
        if now != self.in_flight {
            let by = i64::try_from(now).unwrap_or(0) - i64::try_from(self.in_flight).unwrap_or(0);
            shift(&ctx.gauges.in_flight, by);
            self.in_flight = now;
        }
    }
}

fn take(
    event: Event<'_>,
    ctx: &Ctx,
    follower: &mut Follower,
    own: Option<(&[u8], u64)>,
    brought: &mut Brought,
    acked: &mut dyn FnMut(&Push) -> Result<()>,
) -> Result<()> {
    match event {
        Event::Changes { changes, duplicates, .. } => {
            if duplicates > 0 {
                ctx.fail(&format!("{duplicates} positions were delivered a second time"));
            }
            let now_us = ctx.run_us();
            for change in changes.iter() {
                if let Received::New { due_us } = follower.receive(change, own)? {
                    count(&ctx.gauges.received);
                    ctx.delivered(due_us, now_us)?;
                }
            }
        }
        Event::Snapshot { bytes, .. } => {
            let new = follower.snapshot(&bytes, own)?;
            ctx.gauges.received.fetch_add(new, std::sync::atomic::Ordering::Relaxed);
        }
        Event::Acked { push, .. } => {
            count(&ctx.gauges.acked);
            acked(&push)?;
        }
        Event::Refused { fault, blocks, .. } => {
            count(&ctx.gauges.refused);
            ctx.fail(&format!("a push was refused: {fault}"));
            brought.blocked |= blocks;
        }
        Event::OpenFailed { fault, .. } => ctx.fail(&format!("a document could not be opened: {fault}")),
        Event::Closed { fault, retries: true, .. } => {
            ctx.fail(&format!("the server closed a document for a while: {fault}"));
            brought.closed = true;
        }
        Event::Closed { fault, .. } => bail!("the server closed a document: {fault}"),
        Event::Failed { fault, .. } => bail!("the server refused a request: {fault}"),
        Event::Reconcile { .. } => return Err(anyhow!("the server's log is not the one of this run")),
        Event::Reset { .. } => {
            bail!("the server took something out of a document that nothing is wrong with")
        }
        Event::Ready { .. } => brought.ready = true,
        Event::Opened { cursor, .. } => brought.opened = Some(cursor.seq),
        Event::GoingAway { .. }
        | Event::Pong { .. }
        | Event::RightsChanged { .. }
        | Event::Presence { .. }
        | Event::PresenceLeft { .. }
        | Event::Broadcast { .. }
        | Event::BroadcastGap { .. } => {}
    }
    Ok(())
}

fn note_ack(document: u32, push: &Push, ctx: &Ctx) -> Result<()> {
    ctx.acked(push.tag)?;
    let mut rest = push.bytes.as_slice();
    while !rest.is_empty() {
        let (change, after) = ChangeView::parse_first(rest)?;
        ctx.note(document, change.hash());
        rest = after;
    }
    Ok(())
}
