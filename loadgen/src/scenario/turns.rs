//! The turns of a run in which members that never read come and go, and what is seen of the server meanwhile.
//! What it means is the scenario's.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::live::Live;
use crate::net::deaf::DeafSession;
use crate::net::{Command, Fleet};
use crate::plan::Plan;
use crate::procfs;
use crate::scenario::run::Crowd;
use crate::schedule::Phases;
use crate::server::Server;
use crate::stats::level;

/// How often the server's memory is read.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// When a turn ends, in microseconds from the start: a phase without them, and one with them.
pub fn turns_us(phases: &Phases, turns: u32) -> u64 {
    phases.begin_us.saturating_add(phases.span_us.saturating_mul(2 * u64::from(turns)))
}

/// What was seen of the server and of those who never read. `None` where the server cannot be looked into.
#[derive(Debug, Default)]
pub struct Seen {
    pub rss_before_bytes: Option<u64>,
    pub rss_with_bytes: Option<u64>,
    pub connected_min: u64,
    pub blocked_at_first_min: Option<u64>,
    pub blocked_at_last_min: Option<u64>,
}

/// The turns of a run that has begun.
pub struct Turns<'t> {
    pub start: Instant,
    pub phases: Phases,
    pub crowd: &'t Crowd,
    pub server: Option<&'t Server>,
    pub live: &'t Live,
    pub seen: Seen,
}

impl Turns<'_> {
    /// All turns. Those of the last one are still there.
    pub fn all(&mut self, turns: u32, plan: &Plan) -> Result<Fleet> {
        self.seen.connected_min = u64::from(plan.connections());
        let mut turn = 1;
        loop {
            let end_us = turns_us(&self.phases, turn);
            let begin_us = end_us - self.phases.span_us;
            let peak = self.watch("editing without those who never read", begin_us);
            if turn == 1 {
                self.seen.rss_before_bytes = peak;
            }
            let fleet = self.with(plan, begin_us, end_us)?;
            if turn >= turns {
                return Ok(fleet);
            }
            fleet.finish()?;
            turn += 1;
        }
    }

    /// One turn with them.
    fn with(&mut self, plan: &Plan, begin_us: u64, end_us: u64) -> Result<Fleet> {
        let fleet = Fleet::start::<DeafSession>(plan.clone(), None)?;
        fleet.command(&Command::Connect)?;
        let (gauges, asked) = (fleet.gauges.clone(), u64::from(plan.connections()));
        let limit = Duration::from_micros(self.phases.span_us);
        let all = || level(&gauges.connected) >= asked;
        self.live.wait("connecting those who never read", &gauges, limit, all);
        fleet.command(&Command::Open)?;
        let filling = self.watch("their sockets fill up", begin_us + self.phases.settle_us);
        let at_first = self.blocked();
        let measuring = self.watch("editing with those who never read", end_us);
        let at_last = self.blocked();
        let connected = level(&gauges.connected).min(self.connected_deaf().unwrap_or(u64::MAX));
        let seen = &mut self.seen;
        seen.connected_min = seen.connected_min.min(connected);
        seen.blocked_at_first_min = seen.blocked_at_first_min.into_iter().chain(at_first).min();
        seen.blocked_at_last_min = seen.blocked_at_last_min.into_iter().chain(at_last).min();
        seen.rss_with_bytes = seen.rss_with_bytes.into_iter().chain(filling).chain(measuring).max();
        Ok(fleet)
    }

    /// Waits until so many microseconds after the start. The server's most resident memory meanwhile, but for what
    /// it takes to cut snapshots, or if it cuts all the time, the least.
    fn watch(&self, what: &str, until_us: u64) -> Option<u64> {
        let until = self.start + Duration::from_micros(until_us);
        let (mut peak, mut least, mut next) = (None, None, Instant::now());
        let limit = until.saturating_duration_since(next);
        self.live.wait(what, &self.crowd.fleet.gauges, limit, || {
            let now = Instant::now();
            if now >= next {
                next = now + SAMPLE_EVERY;
                let rss = self.server.and_then(|server| procfs::rss_bytes(server.pid()).ok());
                least = least.into_iter().chain(rss).min();
                peak = peak.into_iter().chain(rss.filter(|_| self.cuts_nothing())).max();
            }
            now >= until
        });
        peak.or(least)
    }

    /// Whether the server says that no snapshot is due, nor being cut.
    fn cuts_nothing(&self) -> bool {
        self.server.is_some_and(|server| server.metrics().get("etherply_snapshots_due") == Some(0.0))
    }

    /// Connections of which the server says that they take no more.
    fn blocked(&self) -> Option<u64> {
        whole(self.server?.metrics().get("etherply_connections_blocked")?)
    }

    /// Connections that the server has, besides those who read.
    fn connected_deaf(&self) -> Option<u64> {
        let all = whole(self.server?.metrics().get("etherply_connections_active")?)?;
        Some(all.saturating_sub(level(&self.crowd.fleet.gauges.connected)))
    }
}

/// A gauge that counts things.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count far below 2^53")]
fn whole(value: f64) -> Option<u64> {
    (value >= 0.0).then_some(value as u64)
}
