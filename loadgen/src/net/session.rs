//! What a connection of the generator does: the sync protocol, or the bare relay's.

use anyhow::{Result, bail};
use etherply_client::Next;
use etherply_client::change::ChangeHash;

use crate::net::Ctx;
use crate::stats::Stats;

/// One member, over one connection after another.
pub trait Session: Sized + 'static {
    /// Whether connections are made when the schedule says so, the n-th for its n-th item, instead of all at
    /// the beginning.
    const CONNECTS_WHEN_DUE: bool = false;

    /// The member behind this connection.
    fn new(ctx: &Ctx, connection: u32) -> Self;
    /// A socket is open.
    fn connect(&mut self, ctx: &Ctx) -> Result<()>;
    /// Bytes came. An error ends the connection.
    fn receive(&mut self, bytes: &mut [u8], ctx: &Ctx) -> Result<()>;
    /// Appends what is to be sent.
    fn output(&mut self, out: &mut Vec<u8>, ctx: &Ctx);
    /// The socket is gone. What the server said about the time after it.
    fn disconnected(&mut self, ctx: &Ctx) -> Next;
    /// Whether the server said welcome.
    fn is_ready(&self) -> bool;
    /// Opens the member's document.
    fn open(&mut self, ctx: &Ctx) -> Result<()>;
    /// Does what was due at this time, in microseconds from the start: an edit, a state, a join.
    fn edit(&mut self, due_us: u64, ctx: &Ctx) -> Result<()>;
    /// Makes the first edits of a pipeline, which acks keep going.
    fn begin_pipeline(&mut self, _: &Ctx) -> Result<()> {
        bail!("this session has no pipeline");
    }
    /// Whether the session has what it came for, and its connection may end.
    fn is_done(&self) -> bool {
        false
    }
    /// Whether what comes for it is read.
    fn reads(&self) -> bool {
        true
    }
    /// Reads again, if it had stopped.
    fn wake(&mut self) {}
    /// Called every second.
    fn tick(&mut self, ctx: &Ctx);
    /// What has become of the member. A sample of its changes is given once.
    fn outcome(&mut self) -> MemberOutcome;
}

/// What one member ended with.
#[derive(Debug, Default)]
pub struct MemberOutcome {
    pub document: u32,
    pub member: u32,
    /// Its heads, sorted.
    pub heads: Vec<ChangeHash>,
    /// Number of the last change received, writer by writer.
    pub seen: Vec<u32>,
    /// Edits that it made.
    pub made: u32,
    /// Those of them that were acked.
    pub acked: u32,
    /// Changes received, each counted once.
    pub received: u64,
    /// Changes received again.
    pub duplicated: u64,
    /// All its changes, if it is sampled.
    pub sample: Option<Vec<u8>>,
}

/// What one executor ended with.
#[derive(Debug)]
pub struct Outcome {
    pub stats: Stats,
    pub members: Vec<MemberOutcome>,
    /// Acked changes with their documents.
    pub acked: Vec<(u32, ChangeHash)>,
}
