//! All executors of a run, driven from an ordinary thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use etherply_client::change::ChangeHash;

use crate::net::executor;
use crate::net::session::{Outcome, Session};
use crate::plan::Plan;
use crate::stats::Gauges;

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
    /// Tell what became of everyone, and end.
    Finish { outcome: flume::Sender<Outcome> },
}

/// A command and where its completion is told.
pub struct Order {
    pub command: Command,
    pub done: flume::Sender<()>,
}

/// What all executors look at.
pub struct Controls {
    /// The moment from which all clocks of the fleet count.
    pub base: Instant,
    /// Executors that have made all their edits.
    pub schedules_done: AtomicU64,
    /// Where acked changes go at once; kept in memory without it.
    pub ledger: Option<flume::Sender<(u32, ChangeHash)>>,
    held: AtomicBool,
    over: AtomicBool,
}

impl Controls {
    /// Whether connections are not to be made for the moment.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
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
        let plan = Arc::new(plan);
        let gauges = Arc::new(Gauges::default());
        let controls = Arc::new(Controls {
            base: Instant::now(),
            schedules_done: AtomicU64::new(0),
            ledger,
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
        let start = self.controls.base.elapsed() + Duration::from_millis(100);
        self.command(&Command::Run { start_us: u64::try_from(start.as_micros())? })
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
