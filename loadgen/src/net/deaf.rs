//! A member that says hello, opens its document, and then reads nothing more until it is woken. What it asks to
//! be alive is still said: a client like this is not idle, it is slow.

use anyhow::{Result, bail};
use etherply_client::Next;

use crate::net::Ctx;
use crate::net::session::{MemberOutcome, Session};
use crate::net::sync::SyncSession;

/// A reader that does not read.
pub struct DeafSession {
    inner: SyncSession,
    is_deaf: bool,
}

impl Session for DeafSession {
    fn new(ctx: &Ctx, connection: u32) -> Self {
        Self { inner: SyncSession::member(ctx, connection, false), is_deaf: false }
    }

    fn connect(&mut self, ctx: &Ctx) -> Result<()> {
        self.inner.connect(ctx)
    }

    fn receive(&mut self, bytes: &mut [u8], ctx: &Ctx) -> Result<()> {
        self.inner.receive(bytes, ctx)
    }

    fn output(&mut self, out: &mut Vec<u8>, ctx: &Ctx) {
        self.inner.output(out, ctx);
    }

    fn disconnected(&mut self, ctx: &Ctx) -> Next {
        self.inner.disconnected(ctx)
    }

    fn is_ready(&self) -> bool {
        self.inner.is_ready()
    }

    fn open(&mut self, ctx: &Ctx) -> Result<()> {
        self.is_deaf = true;
        self.inner.open(ctx)
    }

    fn edit(&mut self, _: u64, _: &Ctx) -> Result<()> {
        bail!("a member that does not read was to make an edit");
    }

    fn reads(&self) -> bool {
        !self.is_deaf
    }

    fn wake(&mut self) {
        self.is_deaf = false;
    }

    fn tick(&mut self, ctx: &Ctx) {
        self.inner.tick(ctx);
    }

    fn outcome(&mut self) -> MemberOutcome {
        self.inner.outcome()
    }
}
