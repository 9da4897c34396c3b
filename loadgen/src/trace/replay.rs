//! Many documents at once: their connections are dealt out to threads, a document's members always to one, so
//! that what they measure needs no other clock and no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use mio::{Events, Interest, Poll, Token};

use crate::live::Live;
use crate::plan::{Target, TransportChoice};
use crate::stats::{Gauges, Stats, count, level, read};
use crate::trace::member::{Counters, Document, Member, Place};

/// Bytes that are read at once.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Events that are taken from the kernel at once.
const EVENTS_MAX: usize = 1_024;
/// How often a thread looks up while nothing happens; with a speed, how late an edit may be for that.
const IDLE: Duration = Duration::from_millis(20);
const IDLE_WITH_SPEED: Duration = Duration::from_millis(1);
/// How often those who have lost their connection try to come back, in microseconds.
const RETRY_US: u64 = 20_000;
/// How often connections are kept alive, in microseconds.
const TICK_US: u64 = 1_000_000;
/// Time for all documents to be opened.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// Time without any ack or delivery after which a replay is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a recording is replayed.
#[derive(Debug, Clone)]
pub struct Orders {
    pub target: Target,
    pub transport: TransportChoice,
    /// Members of each document; the first ones stand for the recording's agents, the others read.
    pub members: u32,
    pub threads: usize,
    /// Differs between runs and recordings.
    pub seed: u64,
    /// Whether connections may end and come again.
    pub reconnects: bool,
}

/// What came of it.
pub struct Replayed {
    pub stats: Stats,
    pub gauges: Arc<Gauges>,
    pub documents: Vec<Ended>,
    /// From the first edit until everything was everywhere.
    pub took: Duration,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

/// A document and its members at the end.
pub struct Ended {
    pub document: Document,
    pub members: Vec<Member>,
}

/// What the threads and their overseer share.
struct Shared {
    gauges: Arc<Gauges>,
    base: Instant,
    /// When edits begin, in microseconds from `base`; 0 before that is known.
    begin_us: AtomicU64,
    done: AtomicU64,
    /// Nothing more can come of it.
    gives_up: AtomicBool,
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn gives_up(&self) -> bool {
        self.gives_up.load(Ordering::Relaxed)
    }
}

/// Replays documents to their end, or until nothing moves any more. `meanwhile` is called all the time with what
/// has come about so far, and says whether it is done as well; if it fails, the replay ends.
pub fn replay(
    documents: Vec<Document>,
    orders: &Orders,
    live: &Live,
    mut meanwhile: impl FnMut(&Gauges) -> Result<bool>,
) -> Result<Replayed> {
    let asked = u64::from(orders.members) * documents.len() as u64;
    let gauges = Arc::new(Gauges::default());
    let shared = Arc::new(Shared {
        gauges: gauges.clone(),
        base: Instant::now(),
        begin_us: AtomicU64::new(0),
        done: AtomicU64::new(0),
        gives_up: AtomicBool::new(false),
    });
    let all = documents.len() as u64;
    let mut shares: Vec<Vec<Document>> = (0..orders.threads.max(1)).map(|_| Vec::new()).collect();
    let threads = shares.len();
    for (number, document) in documents.into_iter().enumerate() {
        shares.get_mut(number % threads).context("there is a share for each thread")?.push(document);
    }
    let mut workers = Vec::new();
    for (number, share) in shares.into_iter().enumerate() {
        let (shared, orders) = (shared.clone(), orders.clone());
        let name = format!("trace-{number}");
        let work = move || Worker::new(number, share, orders, shared).and_then(Worker::run);
        workers.push(std::thread::Builder::new().name(name).spawn(work)?);
    }
    let opened = || level(&gauges.opened) >= asked || shared.gives_up();
    live.wait("opening documents", &gauges, OPEN_LIMIT, opened);
    shared.begin_us.store(shared.now_us().max(1), Ordering::Relaxed);
    let (mut seen, mut seen_at) = (0, Instant::now());
    let mut failed = None;
    live.wait("replaying", &gauges, Duration::MAX, || {
        let all_done = match meanwhile(&gauges) {
            // After a kill everybody has to be back, also if nothing was left to do.
            Ok(done) => done && shared.done.load(Ordering::Relaxed) >= all && opened(),
            Err(error) => {
                failed = Some(error);
                true
            }
        };
        let now = read(&gauges.acked) + read(&gauges.received) + read(&gauges.sent);
        if now != seen {
            (seen, seen_at) = (now, Instant::now());
        }
        all_done || shared.gives_up() || seen_at.elapsed() > PATIENCE
    });
    shared.gives_up.store(true, Ordering::Relaxed);
    failed.map_or(Ok(()), Err)?;
    let mut all = Replayed {
        stats: Stats::new()?,
        gauges,
        documents: Vec::new(),
        took: Duration::ZERO,
        sent_bytes: 0,
        received_bytes: 0,
    };
    let begin_us = shared.begin_us.load(Ordering::Relaxed);
    for worker in workers {
        let (stats, ended) = worker.join().map_err(|_| anyhow!("a replaying thread panicked"))??;
        all.stats.merge(&stats)?;
        all.documents.extend(ended);
    }
    for Ended { document, members } in &all.documents {
        let ended_us = document.ended_us.unwrap_or_else(|| shared.now_us());
        all.took = all.took.max(Duration::from_micros(ended_us.saturating_sub(begin_us)));
        all.sent_bytes += members.iter().map(|member| member.sent_bytes).sum::<u64>();
        all.received_bytes += members.iter().map(|member| member.received_bytes).sum::<u64>();
    }
    all.documents.sort_by(|a, b| a.document.name.cmp(&b.document.name));
    Ok(all)
}

/// One thread.
struct Worker {
    shared: Arc<Shared>,
    poll: Poll,
    documents: Vec<Document>,
    /// Members of document d stand from d · `per_document` on.
    members: Vec<Member>,
    per_document: usize,
    stats: Stats,
    idle: Duration,
    reconnects: bool,
}

impl Worker {
    fn new(number: usize, documents: Vec<Document>, orders: Orders, shared: Arc<Shared>) -> Result<Self> {
        let has_speed = documents.iter().any(|document| document.speed.is_some());
        let mut worker = Self {
            poll: Poll::new()?,
            members: Vec::new(),
            per_document: orders.members as usize,
            stats: Stats::new()?,
            idle: if has_speed { IDLE_WITH_SPEED } else { IDLE },
            reconnects: orders.reconnects,
            documents,
            shared,
        };
        if let Err(error) = worker.connect(number as u64, &orders) {
            worker.shared.gives_up.store(true, Ordering::Relaxed);
            return Err(error);
        }
        Ok(worker)
    }

    fn connect(&mut self, worker: u64, orders: &Orders) -> Result<()> {
        for (number, document) in self.documents.iter().enumerate() {
            for place in 0..orders.members {
                let index = self.members.len();
                let place_of = Place {
                    target: &orders.target,
                    is_websocket: match orders.transport {
                        TransportChoice::Tcp => false,
                        TransportChoice::Ws => true,
                        TransportChoice::Mixed => index % 2 == 1,
                    },
                    seed: orders.seed ^ (worker << 48 | (index as u64) << 20),
                };
                let agent = (place < document.edits.agents).then_some(place);
                let mut member = Member::connect(&place_of, number, document, agent)
                    .with_context(|| format!("the server at {} was not reached", orders.target.address))?;
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(member.socket(), Token(index), interest)?;
                self.members.push(member);
            }
        }
        Ok(())
    }

    fn run(mut self) -> Result<(Stats, Vec<Ended>)> {
        if let Err(error) = self.serve() {
            self.stats.fail(format!("{error:#}"));
            count(&self.shared.gauges.lost);
            self.shared.gives_up.store(true, Ordering::Relaxed);
        }
        let mut members = self.members.into_iter();
        let per_document = self.per_document;
        let ended = self
            .documents
            .into_iter()
            .map(|document| Ended { document, members: members.by_ref().take(per_document).collect() });
        Ok((self.stats, ended.collect()))
    }

    fn serve(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut scratch = vec![0; SCRATCH_BYTES];
        let (mut ticked_us, mut tried_us, mut has_begun) = (0, 0, false);
        let mut is_due = vec![true; self.documents.len()];
        while !self.shared.gives_up() {
            match self.poll.poll(&mut events, Some(self.idle)) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                self.receive(event.token().0, &mut scratch, &mut is_due)?;
            }
            let (now_us, begin_us) = (self.shared.now_us(), self.shared.begin_us.load(Ordering::Relaxed));
            let ticks = now_us.saturating_sub(ticked_us) >= TICK_US;
            if ticks {
                ticked_us = now_us;
                self.members.iter_mut().for_each(|member| member.tick(now_us));
            }
            if self.reconnects && now_us.saturating_sub(tried_us) >= RETRY_US {
                tried_us = now_us;
                self.connect_again(now_us, &mut is_due)?;
            }
            let all = ticks || (begin_us > 0 && !has_begun);
            has_begun |= begin_us > 0;
            for (document, is_due) in is_due.iter_mut().enumerate() {
                let has_speed = self.documents.get(document).is_some_and(|document| document.speed.is_some());
                if std::mem::take(is_due) || all || has_speed {
                    self.send(document, begin_us)?;
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, scratch: &mut [u8], is_due: &mut [bool]) -> Result<()> {
        let Self { members, documents, stats, shared, reconnects, .. } = self;
        let Some(member) = members.get_mut(index) else { bail!("an event of no connection") };
        if member.is_down() {
            return Ok(());
        }
        let document = documents.get(member.document).context("a member of no document")?;
        let mut counters = Counters { stats, gauges: &shared.gauges };
        if !member.receive(scratch, || shared.now_us(), document, &mut counters)? {
            lost(member, &shared.gauges, *reconnects)?;
        }
        if let Some(is_due) = is_due.get_mut(member.document) {
            *is_due = true;
        }
        Ok(())
    }

    /// Those who have lost their connection try to come back.
    fn connect_again(&mut self, now_us: u64, is_due: &mut [bool]) -> Result<()> {
        let Self { members, poll, .. } = self;
        for (index, member) in members.iter_mut().enumerate().filter(|(_, member)| member.is_down()) {
            if !member.connect_again(now_us)? {
                return Ok(());
            }
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(member.socket(), Token(index), interest)?;
            if let Some(is_due) = is_due.get_mut(member.document) {
                *is_due = true;
            }
        }
        Ok(())
    }

    /// Lets a document's members push what they can, and sends it.
    fn send(&mut self, number: usize, begin_us: u64) -> Result<()> {
        let Self { members, documents, stats, shared, per_document, reconnects, .. } = self;
        let document = documents.get_mut(number).context("a document that is not there")?;
        let from = number * *per_document;
        let members =
            members.get_mut(from..from + *per_document).context("a document without its members")?;
        let mut counters = Counters { stats, gauges: &shared.gauges };
        for member in members.iter_mut() {
            let now_us = shared.now_us();
            if begin_us > 0 {
                member.push(now_us, begin_us, document, &mut counters)?;
            }
            if !member.is_down() && !member.flush(now_us) {
                lost(member, &shared.gauges, *reconnects)?;
            }
        }
        if document.ended_us.is_none() && members.iter().all(Member::has_all) {
            document.ended_us = Some(shared.now_us());
            count(&shared.done);
        }
        Ok(())
    }
}

fn lost(member: &mut Member, gauges: &Gauges, reconnects: bool) -> Result<()> {
    if !reconnects {
        bail!("the server hung up");
    }
    member.lost(gauges);
    Ok(())
}
