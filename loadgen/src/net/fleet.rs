//! All executors of a run, driven from an ordinary thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use etherply_client::change::ChangeHash;

use crate::net::executor;
use crate::net::session::{MemberOutcome, Outcome, Session};
use crate::net::slot::Cut;
use crate::plan::Plan;
use crate::stats::Gauges;

/// Time for every executor to hear of a start before it comes.
pub const START_DELAY: Duration = Duration::from_millis(100);

/// What an executor is told to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Make all connections.
    Connect,
    /// Open every member's document.
    Open,
    /// Make the schedule's edits, which begins so many microseconds from the fleet's base.
    Run { start_us: u64 },
    /// Keep every writer's pipeline full, or let it run dry.
    Pipeline { on: bool },
    /// Cut one in so many members of each document off.
    Cut { how: Cut, one_in: u32 },
    /// Cut connections at random, so many a second over all executors, until the next churn is ordered.
    Churn { per_s: f64 },
    /// Let one in so many connections read again, if they had stopped.
    Wake { one_in: u32 },
    /// Tell how everyone stands, and go on.
    Look { members: flume::Sender<Vec<MemberOutcome>> },
    /// Tell what became of everyone, and end.
    Finish { outcome: flume::Sender<Outcome> },
}

/// A command and where its completion is told.
pub struct Order {
    pub command: Command,
    pub done: flume::Sender<()>,
}

/// A document as a joiner was given it.
#[derive(Debug)]
pub struct Joined {
    /// From when the join was due to its last byte; `None` in the warm-up.
    pub took_us: Option<u64>,
    /// A snapshot, if there was one, and all changes.
    pub bytes: Vec<u8>,
}

const NEVER: u64 = u64::MAX;

/// What all executors look at.
pub struct Controls {
    /// The moment from which all clocks of the fleet count.
    pub base: Instant,
    /// Executors that have made all their edits.
    pub schedules_done: AtomicU64,
    /// Where acked changes go at once; kept in memory without it.
    pub ledger: Option<flume::Sender<(u32, ChangeHash)>>,
    /// Where joiners put the documents that they were given.
    pub joined: Option<flume::Sender<Joined>>,
    /// Microseconds from the base to the moment from which effects are counted.
    moment_us: AtomicU64,
    held: AtomicBool,
    over: AtomicBool,
}

impl Controls {
    /// Whether connections are not to be made for the moment.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// The moment from which effects are counted, in microseconds from the base.
    pub fn moment_us(&self) -> Option<u64> {
        let moment_us = self.moment_us.load(Ordering::Relaxed);
        (moment_us != NEVER).then_some(moment_us)
    }

    /// Whether the run is over.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// All executors.
pub struct Fleet {
    pub plan: Arc<Plan>,
    pub gauges: Arc<Gauges>,
    pub controls: Arc<Controls>,
    executors: Vec<(flume::Sender<Order>, JoinHandle<Result<()>>)>,
}

impl Fleet {
    /// Starts the plan's executors. They do nothing until they are told.
    pub fn start<S: Session>(plan: Plan, ledger: Option<flume::Sender<(u32, ChangeHash)>>) -> Result<Self> {
        Self::launch::<S>(plan, ledger, None)
    }

    /// Starts executors of joiners, which give away what they were given.
    pub fn start_joiners<S: Session>(plan: Plan, joined: flume::Sender<Joined>) -> Result<Self> {
        Self::launch::<S>(plan, None, Some(joined))
    }

    fn launch<S: Session>(
        plan: Plan,
        ledger: Option<flume::Sender<(u32, ChangeHash)>>,
        joined: Option<flume::Sender<Joined>>,
    ) -> Result<Self> {
        let plan = Arc::new(plan);
        let gauges = Arc::new(Gauges::default());
        let controls = Arc::new(Controls {
            base: Instant::now(),
            schedules_done: AtomicU64::new(0),
            ledger,
            joined,
            moment_us: AtomicU64::new(NEVER),
            held: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let mut executors = Vec::new();
        for index in 0..plan.executors {
            let (tell, orders) = flume::unbounded();
            let (plan, gauges, controls) = (plan.clone(), gauges.clone(), controls.clone());
            let run = move || executor::run::<S>(index, plan, gauges, controls, orders);
            let thread = std::thread::Builder::new().name(format!("load-{index}")).spawn(run)?;
            executors.push((tell, thread));
        }
        Ok(Self { plan, gauges, controls, executors })
    }

    /// Tells every executor the same, and waits until each has done it.
    pub fn command(&self, command: &Command) -> Result<()> {
        let (done, dones) = flume::unbounded();
        for (tell, _) in &self.executors {
            let order = Order { command: command.clone(), done: done.clone() };
            tell.send(order).map_err(|_| anyhow!("an executor has ended early"))?;
        }
        drop(done);
        for _ in &self.executors {
            dones.recv().context("an executor has ended early")?;
        }
        Ok(())
    }

    /// Begins the schedule a moment from now.
    pub fn begin(&self) -> Result<()> {
        self.begin_at(Instant::now() + START_DELAY)
    }

    /// Begins the schedule at this time, which lies ahead: so that several fleets begin together.
    pub fn begin_at(&self, start: Instant) -> Result<()> {
        let start = start.saturating_duration_since(self.controls.base);
        self.command(&Command::Run { start_us: u64::try_from(start.as_micros())? })
    }

    /// From now on, effects are counted from now.
    pub fn mark(&self) {
        let now_us = u64::try_from(self.controls.base.elapsed().as_micros()).unwrap_or(NEVER);
        self.controls.moment_us.store(now_us, Ordering::Relaxed);
    }

    /// How everyone stands.
    pub fn look(&self) -> Result<Vec<MemberOutcome>> {
        let (members, told) = flume::unbounded();
        self.command(&Command::Look { members })?;
        Ok(told.drain().flatten().collect())
    }

    /// Whether all edits of the schedule are made.
    pub fn is_schedule_done(&self) -> bool {
        executor::schedules_done(&self.controls, self.executors.len())
    }

    /// Holds connections that end back from being made again, or lets them.
    pub fn hold(&self, held: bool) {
        self.controls.held.store(held, Ordering::Relaxed);
    }

    /// Ends the run.
    pub fn finish(self) -> Result<Vec<Outcome>> {
        let (outcome, outcomes) = flume::unbounded();
        self.controls.over.store(true, Ordering::Relaxed);
        self.command(&Command::Finish { outcome })?;
        for (tell, thread) in self.executors {
            drop(tell);
            thread.join().map_err(|_| anyhow!("an executor panicked"))??;
        }
        Ok(outcomes.drain().collect())
    }
}
