//! What the connections of one executor share, and the executor's own tasks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use etherply_client::Backoff;
use etherply_client::change::ChangeHash;
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, coop, spawn_local};
use tokio::time::sleep;

use crate::net::alarm::Alarm;
use crate::net::fleet::{Command, Controls, Order};
use crate::net::session::{MemberOutcome, Outcome, Session};
use crate::net::slot::{Cut, Detached, Slot};
use crate::plan::Plan;
use crate::random::Random;
use crate::schedule::{Phase, Rhythm, Schedule};
use crate::stats::{Gauges, Stats, count, read};

/// By how much the threads yield whose load goes on and off beside others that are measured: the members of the
/// load are not to keep the processor from those, nor from the server.
const LOAD_NICE: i32 = 5;
/// Real-time priority of the threads that are measured beside the load, above those that a server may take
/// (`--realtime all`): they stand for clients elsewhere, who note at once that a delivery has come, and do not
/// first wait for a thousand readers of the load.
const WATCH_PRIORITY: i32 = 3;
/// Bytes that are read at once.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Connections of one executor that are being made at the same time: a storm, but one that a listener with an
/// ordinary backlog survives without dropped SYNs, each of which costs a second.
const CONNECTING_MAX: usize = 256;
/// Attempts in a row after which a client counts as failed. The waits between them grow to half a minute.
const ATTEMPTS_MAX: u32 = 10;
/// The same before the server has ever welcomed it: it may not be there at all.
const FIRST_ATTEMPTS_MAX: u32 = 5;
/// Time for one attempt, until the server's welcome.
const ATTEMPT_MS: u64 = 10_000;

/// What the connections of one executor share.
pub struct Ctx {
    pub plan: Arc<Plan>,
    pub gauges: Arc<Gauges>,
    pub controls: Arc<Controls>,
    pub stats: RefCell<Stats>,
    /// Whether members of a pipeline make a new edit for each that is acked.
    pub makes: Cell<bool>,
    /// Number of the churn that was ordered last.
    churn: Cell<u64>,
    /// Spreads the clients' retries.
    random: RefCell<Random>,
    pub scratch_in: RefCell<Vec<u8>>,
    pub scratch_out: RefCell<Vec<u8>>,
    base: Instant,
    /// When edits begin, in microseconds from `base`.
    start_us: Cell<u64>,
    acked: RefCell<Vec<(u32, ChangeHash)>>,
}

impl Ctx {
    /// Milliseconds from a fixed moment.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Microseconds since edits began.
    pub fn run_us(&self) -> u64 {
        let now_us = u64::try_from(self.base.elapsed().as_micros()).unwrap_or(u64::MAX);
        now_us.saturating_sub(self.start_us.get())
    }

    /// Notes that something went wrong.
    pub fn fail(&self, reason: &dyn std::fmt::Display) {
        self.stats.borrow_mut().fail(reason.to_string());
    }

    /// A member received what was due at this time.
    pub fn delivered(&self, due_us: u64, now_us: u64) -> Result<()> {
        if due_us < self.plan.warmup_us {
            return Ok(());
        }
        let (mut stats, took_us) = (self.stats.borrow_mut(), now_us.saturating_sub(due_us));
        stats.delivery.record(took_us)?;
        if let Rhythm::Watching(phases) = self.plan.rhythm {
            match phases.counted(due_us) {
                Some(Phase::Idle) => stats.idle.record(took_us)?,
                Some(Phase::Active) => stats.active.record(took_us)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Microseconds since the fleet's moment, if there was one.
    pub fn since_moment_us(&self) -> Option<u64> {
        let moment_us = self.controls.moment_us()?;
        let now_us = u64::try_from(self.base.elapsed().as_micros()).unwrap_or(u64::MAX);
        Some(now_us.saturating_sub(moment_us))
    }

    /// An edit that was due at this time is acked.
    pub fn acked(&self, due_us: u64) -> Result<()> {
        if due_us >= self.plan.warmup_us {
            self.stats.borrow_mut().ack.record(self.run_us().saturating_sub(due_us))?;
        }
        Ok(())
    }

    /// A change is acked.
    pub fn note(&self, document: u32, hash: ChangeHash) {
        match &self.controls.ledger {
            // The receiver writes and fsyncs; it ends only after this executor.
            Some(ledger) => drop(ledger.send((document, hash))),
            None => self.acked.borrow_mut().push((document, hash)),
        }
    }
}

/// Runs an executor's part of a fleet until it is told to finish.
pub fn run<S: Session>(
    index: usize,
    plan: Arc<Plan>,
    gauges: Arc<Gauges>,
    controls: Arc<Controls>,
    orders: flume::Receiver<Order>,
) -> Result<()> {
    let base = controls.base;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seed = plan.run.wrapping_add(index as u64 + 1);
    take_place(plan.rhythm);
    let run = async move {
        let ctx = Rc::new(Ctx {
            plan,
            gauges,
            controls,
            stats: RefCell::new(Stats::new()?),
            makes: Cell::new(false),
            churn: Cell::new(0),
            random: RefCell::new(Random::new(seed)),
            scratch_in: RefCell::new(vec![0; SCRATCH_BYTES]),
            scratch_out: RefCell::new(Vec::with_capacity(SCRATCH_BYTES)),
            base,
            start_us: Cell::new(0),
            acked: RefCell::new(Vec::new()),
        });
        obey::<S>(&ctx, index, orders).await
    };
    LocalSet::new().block_on(&runtime, run)
}

async fn obey<S: Session>(ctx: &Rc<Ctx>, index: usize, orders: flume::Receiver<Order>) -> Result<()> {
    let connections = ctx.plan.of_executor(index);
    let slots: Rc<Vec<_>> = Rc::new(connections.map(|number| Slot::new(S::new(ctx, number))).collect());
    spawn_local(tick(ctx.clone(), slots.clone()));
    while let Ok(Order { command, done }) = orders.recv_async().await {
        match command {
            Command::Connect => connect_all(ctx, &slots).await,
            Command::Open => {
                for slot in slots.iter() {
                    act(ctx, slot, |session| session.open(ctx));
                    coop::consume_budget().await;
                }
            }
            Command::Run { start_us } => {
                ctx.start_us.set(start_us);
                spawn_local(schedule(ctx.clone(), slots.clone(), index));
            }
            Command::Pipeline { on } => {
                ctx.makes.set(on);
                for slot in slots.iter().filter(|_| on) {
                    act(ctx, slot, |session| session.begin_pipeline(ctx));
                }
            }
            Command::Cut { how, one_in } => cut(ctx, &slots, index, how, one_in),
            Command::Churn { per_s } => {
                ctx.churn.set(ctx.churn.get() + 1);
                if per_s > 0.0 {
                    let every = Duration::from_secs_f64(ctx.plan.executors as f64 / per_s);
                    spawn_local(churn(ctx.clone(), slots.clone(), index, every));
                }
            }
            Command::Wake { one_in } => {
                let numbered = ctx.plan.of_executor(index).zip(slots.iter());
                let woken = numbered.filter(|(connection, _)| connection.is_multiple_of(one_in.max(1)));
                woken.for_each(|(_, slot)| slot.rouse());
            }
            Command::Look { members } => drop(members.send(outcomes(ctx, &slots))),
            Command::Finish { outcome } => {
                let stats = std::mem::replace(&mut *ctx.stats.borrow_mut(), Stats::new()?);
                let acked = ctx.acked.take();
                let members = outcomes(ctx, &slots);
                drop(outcome.send(Outcome { stats, members, acked }));
                slots.iter().for_each(|slot| slot.abort());
                let _ = done.send(());
                return Ok(());
            }
        }
        // Whoever gave the command may have given up waiting.
        let _ = done.send(());
    }
    Ok(())
}

/// Gives the calling thread its place beside others. Where the system refuses it, the ratio of a load on to a load
/// off comes out higher.
fn take_place(rhythm: Rhythm) {
    match rhythm {
        Rhythm::Steady => {}
        Rhythm::Pulsing(_) => _ = rustix::process::nice(LOAD_NICE),
        Rhythm::Watching(_) => {
            let priority = libc::sched_param { sched_priority: WATCH_PRIORITY };
            // SAFETY: the call reads the parameter block, which lives until it returns; 0 is the calling thread.
            let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const priority) };
        }
    }
}

fn outcomes<S: Session>(ctx: &Ctx, slots: &[Rc<Slot<S>>]) -> Vec<MemberOutcome> {
    slots.iter().filter_map(|slot| slot.act(ctx, |session| Ok(session.outcome())).ok()).collect()
}

/// Cuts one in so many members of each document.
fn cut<S: Session>(ctx: &Ctx, slots: &[Rc<Slot<S>>], index: usize, how: Cut, one_in: u32) {
    for (connection, slot) in ctx.plan.of_executor(index).zip(slots) {
        let (_, member) = ctx.plan.place(connection);
        if member.is_multiple_of(one_in.max(1)) && slot.cut(how) {
            count(&ctx.gauges.cut);
        }
    }
}

/// Cuts connections drawn at random at a fixed rate, by turns with and without a farewell, until another
/// churn is ordered. What is not connected when its turn comes is passed over.
async fn churn<S: Session>(ctx: Rc<Ctx>, slots: Rc<Vec<Rc<Slot<S>>>>, index: usize, every: Duration) {
    let (order, begun) = (ctx.churn.get(), Instant::now());
    let mut random = Random::new(ctx.plan.shape.seed ^ (index as u64 + 1) << 32);
    for turn in 1u32.. {
        sleep((every * turn).saturating_sub(begun.elapsed())).await;
        if ctx.churn.get() != order || ctx.controls.is_over() {
            return;
        }
        let drawn = usize::try_from(random.below(slots.len() as u64)).unwrap_or(0);
        let how = if turn.is_multiple_of(2) { Cut::Reset } else { Cut::Close };
        if slots.get(drawn).is_some_and(|slot| slot.cut(how)) {
            count(&ctx.gauges.cut);
        }
    }
}

fn act<S: Session>(ctx: &Ctx, slot: &Slot<S>, act: impl FnOnce(&mut S) -> Result<()>) {
    if let Err(error) = slot.act(ctx, act) {
        ctx.fail(&error);
    }
}

async fn connect_all<S: Session>(ctx: &Rc<Ctx>, slots: &[Rc<Slot<S>>]) {
    let permits = Arc::new(Semaphore::new(CONNECTING_MAX));
    for slot in slots {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let (task_ctx, slot) = (ctx.clone(), slot.clone());
        spawn_local(async move { serve(&task_ctx, &slot, Some(permit)).await });
    }
}

/// Keeps one connection: makes it, serves it, and where the plan says so makes it again, after the waits that
/// the client's own backoff asks for.
async fn serve<S: Session, P>(ctx: &Rc<Ctx>, slot: &Rc<Slot<S>>, mut permit: Option<P>) {
    let (mut backoff, mut attempt, mut attempts_max) = (Backoff::default(), 0, FIRST_ATTEMPTS_MAX);
    loop {
        while ctx.controls.is_held() && !ctx.controls.is_over() {
            sleep(Duration::from_millis(5)).await;
        }
        let mut was_ready = false;
        let ended = match slot.attach(ctx.plan.target.address, ctx) {
            Err(error) => Err(error),
            Ok(()) => {
                let mut ready = || {
                    if !was_ready {
                        backoff.ready(ctx.now_ms());
                    }
                    was_ready = true;
                    permit = None;
                };
                std::future::poll_fn(|cx| slot.poll(cx, ctx, &mut ready)).await
            }
        };
        let Detached { was_cut, next } = slot.detach(ctx);
        let Err(error) = ended else { return };
        if ctx.controls.is_over() {
            return;
        }
        let is_held = ctx.controls.is_held();
        if was_ready {
            attempts_max = ATTEMPTS_MAX;
        }
        attempt = if was_ready || is_held { 0 } else { attempt + 1 };
        if was_ready && !is_held && !was_cut {
            count(&ctx.gauges.lost);
        }
        if was_ready && !ctx.plan.reconnects {
            ctx.fail(&format!("a connection was lost: {error}"));
            return;
        }
        if is_held {
            continue;
        }
        let random = ctx.random.borrow_mut().next();
        let wait_ms = backoff.wait_ms(next, ctx.now_ms(), random).filter(|_| attempt < attempts_max);
        let Some(wait_ms) = wait_ms else {
            count(&ctx.gauges.failed);
            ctx.fail(&format!("a connection failed: {error}"));
            return;
        };
        if !was_ready {
            count(&ctx.gauges.retried);
        }
        sleep(Duration::from_millis(wait_ms)).await;
    }
}

/// Makes this executor's part of the schedule's edits when they are due.
async fn schedule<S: Session>(ctx: Rc<Ctx>, slots: Rc<Vec<Rc<Slot<S>>>>, executor_index: usize) {
    let alarm = match Alarm::new() {
        Ok(alarm) => alarm,
        Err(error) => return ctx.fail(&error),
    };
    let done = Schedule::new(ctx.plan.shape).filter(|edit| ctx.plan.rhythm.does(edit.due_us));
    for (number, edit) in (0u32..).zip(done) {
        let (document, member) =
            if S::CONNECTS_WHEN_DUE { ctx.plan.place(number) } else { (edit.document, edit.writer) };
        let (owner, place) = ctx.plan.locate(document, member);
        if owner != executor_index {
            continue;
        }
        loop {
            let wait_us = edit.due_us.saturating_sub(ctx.run_us());
            // Before the start, time stands at 0: then edits that are due at once must wait as well.
            let wait_us = wait_us.max(ctx.until_start_us());
            if wait_us == 0 {
                break;
            }
            if let Err(error) = alarm.after(Duration::from_micros(wait_us)).await {
                return ctx.fail(&error);
            }
        }
        let Some(slot) = slots.get(place) else { continue };
        if let Err(error) = slot.act(&ctx, |session| session.edit(edit.due_us, &ctx)) {
            ctx.fail(&error);
        }
        if S::CONNECTS_WHEN_DUE {
            let (task_ctx, slot) = (ctx.clone(), slot.clone());
            spawn_local(async move { serve::<S, ()>(&task_ctx, &slot, None).await });
        }
        if edit.due_us >= ctx.plan.warmup_us {
            let lag_us = ctx.run_us().saturating_sub(edit.due_us);
            if let Err(error) = ctx.stats.borrow_mut().lag.record(lag_us) {
                ctx.fail(&error);
            }
        }
        coop::consume_budget().await;
    }
    count(&ctx.controls.schedules_done);
}

impl Ctx {
    fn until_start_us(&self) -> u64 {
        let now_us = u64::try_from(self.base.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.start_us.get().saturating_sub(now_us)
    }
}

/// Once a second: keep-alive, and an end to attempts that take too long.
async fn tick<S: Session>(ctx: Rc<Ctx>, slots: Rc<Vec<Rc<Slot<S>>>>) {
    while !ctx.controls.is_over() {
        sleep(Duration::from_secs(1)).await;
        for slot in slots.iter() {
            slot.check_timeout(&ctx, ATTEMPT_MS);
            let ticked = slot.act(&ctx, |session| {
                session.tick(&ctx);
                Ok(())
            });
            if let Err(error) = ticked {
                ctx.fail(&error);
            }
            coop::consume_budget().await;
        }
    }
}

/// Whether every executor has made all its edits.
pub fn schedules_done(controls: &Controls, executors: usize) -> bool {
    read(&controls.schedules_done) >= executors as u64
}
