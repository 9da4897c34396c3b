//! One member of a replayed document: a connection that receives, and for the members that stand for an agent,
//! pushes that agent's changes in their order.
//!
//! A change is pushed once its author has received the changes of others that it was made upon, as it must
//! have in the recording; own changes before it may still wait for their acks.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream as StdTcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use automerge::AutoCommit;
use etherply_client::change::ChangeView;
use etherply_client::{Client, Event, OpenOptions, StreamId};
use etherply_wire::Rights;
use mio::net::TcpStream;

use crate::plan::Target;
use crate::stats::{Gauges, Stats, count, shift};
use crate::trace::changes::Edits;

/// Pushes of one member that are not acked.
pub const PUSHES_AHEAD_MAX: usize = 256;
/// Time for one connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const AGENT: &str = concat!("etherply-loadgen/", env!("CARGO_PKG_VERSION"), " trace");

/// A document that is replayed.
#[derive(Debug)]
pub struct Document {
    pub name: String,
    pub edits: Arc<Edits>,
    /// When each change was due, or, without a speed, handed to its connection; microseconds.
    begun_us: Vec<u64>,
    /// Edits a second; `None` for as fast as it goes.
    pub speed: Option<u64>,
    /// When everything was at every member and acked.
    pub ended_us: Option<u64>,
}

impl Document {
    /// Nothing of it is pushed yet.
    pub fn new(name: String, edits: Arc<Edits>, speed: Option<u64>) -> Self {
        let begun_us = vec![0; edits.made.len()];
        Self { name, edits, begun_us, speed, ended_us: None }
    }

    fn since(&self, change: u32, now_us: u64) -> u64 {
        now_us.saturating_sub(self.begun_us.get(change as usize).copied().unwrap_or(now_us))
    }
}

/// What all members of a thread count into.
pub struct Counters<'c> {
    pub stats: &'c mut Stats,
    pub gauges: &'c Gauges,
}

/// How far a member's connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Connecting,
    /// The server said welcome; whether it has the document open.
    Ready {
        is_open: bool,
    },
}

/// A member.
pub struct Member {
    /// The document, by its place in the thread's list.
    pub document: usize,
    client: Client,
    stream: StreamId,
    socket: TcpStream,
    unsent: Vec<u8>,
    /// Whose changes it pushes, and which those are.
    agent: Option<u32>,
    own: Vec<u32>,
    pushed: usize,
    acked: usize,
    has: Vec<bool>,
    /// Its changes, in the order in which it came by them.
    pub order: Vec<u32>,
    target: Target,
    /// Whether it has a connection, and whether the server said welcome on it.
    link: Link,
    pub duplicated: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

/// How a member is reached.
pub struct Place<'p> {
    pub target: &'p Target,
    pub is_websocket: bool,
    /// Differs between all members.
    pub seed: u64,
}

impl Member {
    /// Connects and asks for the document. `agent` is whose changes this member pushes.
    pub fn connect(place: &Place<'_>, document: usize, of: &Document, agent: Option<u32>) -> Result<Self> {
        let socket = reach(place.target)?;
        let mut client = place.target.client(place.is_websocket, AGENT, place.seed);
        let rights = if agent.is_some() { Rights::READ.with(Rights::WRITE) } else { Rights::READ };
        let options = OpenOptions { document: of.name.clone(), rights, token: None, cursor: None };
        let stream = client.open(options)?;
        client.connect(0)?;
        let is_own = |&(change, _): &(u32, _)| {
            of.edits.made.get(change as usize).is_some_and(|made| Some(made.agent) == agent)
        };
        let own = (0u32..).zip(&of.edits.made).filter(is_own).map(|(change, _)| change).collect();
        Ok(Self {
            document,
            client,
            stream,
            socket,
            target: place.target.clone(),
            link: Link::Connecting,
            unsent: Vec::new(),
            agent,
            own,
            pushed: 0,
            acked: 0,
            has: vec![false; of.edits.made.len()],
            order: Vec::new(),
            duplicated: 0,
            sent_bytes: 0,
            received_bytes: 0,
        })
    }

    /// The socket, to be watched.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Its connection has ended.
    pub fn lost(&mut self, gauges: &Gauges) {
        let link = std::mem::replace(&mut self.link, Link::Down);
        if let Link::Ready { is_open } = link {
            shift(&gauges.connected, -1);
            shift(&gauges.opened, if is_open { -1 } else { 0 });
        }
        self.client.disconnected();
        self.unsent.clear();
    }

    /// Whether it has to connect again.
    pub fn is_down(&self) -> bool {
        self.link == Link::Down
    }

    /// Connects again; `false` while the server cannot be reached.
    pub fn connect_again(&mut self, now_us: u64) -> Result<bool> {
        let Ok(socket) = reach(&self.target) else { return Ok(false) };
        self.socket = socket;
        self.link = Link::Connecting;
        self.client.connect(now_us / 1_000)?;
        Ok(true)
    }

    /// Whether it has everything and knows that all of its own is stored.
    pub fn has_all(&self) -> bool {
        self.order.len() == self.has.len() && self.acked == self.own.len()
    }

    /// How many of its edits are acked.
    pub fn acked(&self) -> u64 {
        self.acked as u64
    }

    /// Its changes that are acked: acks come in the order of the pushes.
    pub fn acked_changes(&self) -> &[u32] {
        self.own.get(..self.acked).unwrap_or_default()
    }

    /// How many edits of others it has received.
    pub fn received(&self) -> u64 {
        (self.order.len() - self.pushed) as u64
    }

    /// How many edits it has made.
    pub fn made(&self) -> u64 {
        self.pushed as u64
    }

    /// Takes in everything that has arrived; `false` if the connection has ended.
    pub fn receive(
        &mut self,
        scratch: &mut [u8],
        now: impl Fn() -> u64,
        document: &Document,
        counters: &mut Counters<'_>,
    ) -> Result<bool> {
        loop {
            let bytes = match self.socket.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Ok(false),
            };
            self.received_bytes += bytes as u64;
            let now_us = now();
            let Self { client, agent, has, order, acked, link, duplicated, .. } = self;
            let mut taking = Taking { agent: *agent, has, order, acked, link, duplicated, document, now_us };
            let mut fault = None;
            let received = scratch.get_mut(..bytes).unwrap_or_default();
            let ended = client.input(received, now_us / 1_000, &mut |event| {
                if let Err(error) = taking.take(event, counters) {
                    fault.get_or_insert(error);
                }
            });
            fault.map_or(Ok(()), Err)?;
            ended?;
        }
    }

    /// Pushes what its author could have written by now.
    pub fn push(
        &mut self,
        now_us: u64,
        begin_us: u64,
        document: &mut Document,
        counters: &mut Counters<'_>,
    ) -> Result<()> {
        while let Some(&change) =
            self.own.get(self.pushed).filter(|_| self.pushed - self.acked < PUSHES_AHEAD_MAX)
        {
            let made = document.edits.made.get(change as usize).context("a change that was not made")?;
            let has = |&change: &u32| self.has.get(change as usize).copied().unwrap_or(false);
            let due_us = match document.speed {
                Some(speed) => begin_us + u64::from(change) * 1_000_000 / speed.max(1),
                None => now_us,
            };
            if due_us > now_us || !made.needs.iter().all(has) {
                break;
            }
            self.client.push(self.stream, &[&made.bytes], u64::from(change))?;
            if document.speed.is_some() {
                counters.stats.lag.record(now_us - due_us)?;
            }
            if let Some(begun_us) = document.begun_us.get_mut(change as usize) {
                *begun_us = due_us;
            }
            if let Some(has) = self.has.get_mut(change as usize) {
                *has = true;
            }
            self.order.push(change);
            self.pushed += 1;
            count(&counters.gauges.sent);
        }
        Ok(())
    }

    /// Keeps an idle connection alive.
    pub fn tick(&mut self, now_us: u64) {
        self.client.tick(now_us / 1_000);
    }

    /// Sends as much as the socket takes; `false` if the connection has ended.
    pub fn flush(&mut self, now_us: u64) -> bool {
        self.client.output(&mut self.unsent, now_us / 1_000);
        let mut sent = 0;
        while let Some(rest) = self.unsent.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.sent_bytes += sent as u64;
        self.unsent.drain(..sent);
        true
    }
}

fn reach(target: &Target) -> Result<TcpStream> {
    let socket = StdTcpStream::connect_timeout(&target.address, CONNECT_LIMIT)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(TcpStream::from_std(socket))
}

/// What an event changes.
struct Taking<'m> {
    agent: Option<u32>,
    has: &'m mut [bool],
    order: &'m mut Vec<u32>,
    acked: &'m mut usize,
    link: &'m mut Link,
    duplicated: &'m mut u64,
    document: &'m Document,
    now_us: u64,
}

impl Taking<'_> {
    fn take(&mut self, event: Event<'_>, counters: &mut Counters<'_>) -> Result<()> {
        match event {
            Event::Ready { .. } => {
                *self.link = Link::Ready { is_open: false };
                shift(&counters.gauges.connected, 1);
            }
            Event::Opened { .. } => {
                *self.link = Link::Ready { is_open: true };
                shift(&counters.gauges.opened, 1);
            }
            Event::Changes { changes, duplicates, .. } => {
                *self.duplicated += duplicates;
                for change in changes.iter() {
                    if let Some(number) = self.change(change, counters)? {
                        counters.stats.delivery.record(self.document.since(number, self.now_us))?;
                    }
                }
            }
            Event::Snapshot { bytes, .. } => {
                let mut doc = AutoCommit::load(&bytes).context("a snapshot that Automerge cannot load")?;
                let before = *self.duplicated;
                for change in doc.get_changes(&[]) {
                    self.change(change.raw_bytes(), counters)?;
                }
                // A snapshot holds what this member has and more.
                *self.duplicated = before;
            }
            Event::Acked { push, .. } => {
                *self.acked += 1;
                count(&counters.gauges.acked);
                let number = u32::try_from(push.tag)?;
                counters.stats.ack.record(self.document.since(number, self.now_us))?;
            }
            Event::Refused { fault, blocks, .. } => {
                count(&counters.gauges.refused);
                counters.stats.fail(format!("a push was refused: {fault}"));
                if blocks {
                    bail!("a push was refused for good: {fault}");
                }
            }
            Event::OpenFailed { fault, retries, .. } | Event::Closed { fault, retries, .. } => {
                counters.stats.fail(format!("the server does not keep a document open: {fault}"));
                if !retries {
                    bail!("the server does not keep a document open: {fault}");
                }
            }
            Event::Failed { fault, .. } => bail!("the server refused a request: {fault}"),
            Event::Reconcile { .. } => bail!("the server's log is not the one of this run"),
            _ => {}
        }
        Ok(())
    }

    /// Notes a change; its number, if it is new.
    fn change(&mut self, bytes: &[u8], counters: &Counters<'_>) -> Result<Option<u32>> {
        let hash = ChangeView::parse(bytes)?.hash();
        let number =
            self.document.edits.number_of(&hash).context("a change that is not of this recording")?;
        let has = self.has.get_mut(number as usize).context("a change that was not made")?;
        if std::mem::replace(has, true) {
            // An own change whose ack was lost with its connection comes back from the log, once.
            let made = self.document.edits.made.get(number as usize);
            let is_own = made.is_some_and(|made| Some(made.agent) == self.agent);
            *self.duplicated += u64::from(!is_own);
            return Ok(None);
        }
        self.order.push(number);
        count(&counters.gauges.received);
        Ok(Some(number))
    }
}
