//! One core: its shard, its feeds, its connections, and the tasks that drive them.
//!
//! Everything of a core is in one [`State`] that its tasks borrow for the length of a step; nothing is held
//! over an await. Tasks: one for each connection (reads, and writes when the socket was full), one for the
//! mailbox, one that flushes at the end of a turn, one for the time.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use etherply_engine::change::ChangeLimits;
use etherply_engine::document::Recovered;
use etherply_engine::faults::Faults;
use etherply_engine::feed::Feeds;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Deleted, LogError};
use etherply_engine::outgoing::Outgoing;
use etherply_engine::peer::{Now, Peer};
use etherply_engine::shard::{Effect, Input, Shard};
use etherply_wire::ErrorCode;
use etherply_wire::kinds::GoingAway;

use super::connection::{Connection, Control, Stage};
use super::contain::{self, Scope};
use super::due::{Due, DueQueues};
use super::handover::Moving;
use super::limits::{
    CONNECTIONS_PER_CORE_MAX, CORE_IN_FLIGHT_BYTES_MAX, DRAIN_TIMEOUT_S, MESSAGES_PER_TURN_MAX, READ_BYTES,
    RETRY_AFTER_STOP_MS, RETRY_JITTER_MS,
};
use super::mailbox::{Mailboxes, Message, Outbox, Request, StopStage};
use super::pace::Pace;
use super::slab::Slab;
use super::tls::Security;
use super::{effects, flush, handover, receive};
use crate::access::{Access, Gate};
use crate::allowlist::Allowlist;
use crate::clock;
use crate::events::{Event, Events, Updates};
use crate::materialise::Rebuilds;
use crate::materialise::memory::CutMemory;
use crate::materialise::verify::{Verifier, VerifierThreads};
use crate::metrics::Metrics;
use crate::runtime::{self, Stream};
use crate::storage::{Handles, Job, Question};
use crate::throttle::{Admission, Throttle};

/// What a core needs from the start.
#[derive(Debug, Clone)]
pub struct CoreSetup {
    /// This core's number.
    pub core: u16,
    /// How many there are.
    pub cores: u16,
    /// The ways to all of them.
    pub mailboxes: Mailboxes,
    /// The ways to the storage threads, which end when nobody can ask them any more.
    pub storage: Option<Handles>,
    /// The way to the thread that gives documents a new epoch.
    pub rebuilds: Rebuilds,
    /// What cuts of snapshots may take in memory.
    pub cuts: Arc<CutMemory>,
    /// The way to what verifies changes before they are stored, if anything does.
    pub verifier: Verifier,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where every core's clock begins.
    pub started: Instant,
    /// Connections of all cores, those that are on their way to a core included.
    pub open_connections: Arc<AtomicU64>,
    /// Connections of each core, for the choice whether one is to move.
    pub connections_per_core: Arc<[AtomicU64]>,
    /// Time without a sign of life after which a connection ends.
    pub idle_timeout_s: u32,
    /// Time for a hello.
    pub hello_timeout_s: u32,
    /// Time for a frame to arrive whole, beside what its bytes may take.
    pub frame_timeout_s: u32,
    /// Time for a token, where tokens are asked for.
    pub token_timeout_s: u32,
    /// What happens, for whoever wants to know.
    pub events: Arc<Events>,
    /// What clients may take of the server.
    pub throttle: Arc<Throttle>,
    /// Which pages may connect, and by which names.
    pub allowlist: Arc<Allowlist>,
    /// Keys of tokens, and what was revoked.
    pub access: Access,
    /// TLS, if the server has a certificate.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Most bytes of changes that a document may have.
    pub document_bytes_max: u64,
    /// Panics on purpose, for tests.
    pub faults: Faults,
    /// Told when this core has nothing under way any more during a stop.
    pub drained: flume::Sender<u16>,
}

impl CoreSetup {
    /// Microseconds since every core's clock began.
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whole seconds since then.
    pub(super) fn now_s(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}

/// Everything of one core.
pub(super) struct State {
    pub(super) setup: CoreSetup,
    pub(super) shard: Shard,
    pub(super) feeds: Feeds,
    pub(super) connections: Slab<Connection>,
    pub(super) effects: Vec<Effect>,
    /// Connections that have something to send.
    pub(super) due: DueQueues,
    /// What this turn has for other cores.
    pub(super) outbox: Outbox,
    /// Requests of this core's connections that are under way.
    pub(super) in_flight_bytes: usize,
    /// Connections that wait for the core's own limit.
    pub(super) paused: BTreeSet<u64>,
    /// Jobs that the commit thread's queue had no room for.
    pub(super) jobs: VecDeque<Job>,
    /// How often the log was opened again after a failure, as far as this core has heard.
    pub(super) storage_era: u64,
    /// Questions that the reader thread's queue had no room for.
    pub(super) waiting_questions: VecDeque<Question>,
    /// Deletions that the commit thread's queue had no room for.
    pub(super) waiting_deletions: VecDeque<DocumentId>,
    /// Who asked for deletions, by the tokens that the shard knows.
    pub(super) deletions: BTreeMap<u64, flume::Sender<Result<Deleted, LogError>>>,
    /// What goes out in one send.
    pub(super) out: Vec<u8>,
    /// The same, sealed by TLS.
    pub(super) sealed: Vec<u8>,
    /// What TLS opened of what was read.
    pub(super) opened: Vec<u8>,
    /// What some connections get, while it is gathered and sent.
    pub(super) round: flush::Round,
    pub(super) lengths: Vec<u32>,
    /// Effects of a step that only count: see [`effects::carry_out`].
    pub(super) settled: Vec<Effect>,
    pub(super) stopping: Option<StopStage>,
    /// Bytes of frames that have arrived in part.
    pub(super) partial_bytes: usize,
    /// Changes that are not told of yet.
    pub(super) updates: Updates,
    /// Where tokens are asked for.
    pub(super) gate: Gate,
    flusher: Option<Waker>,
    is_flush_due: bool,
}

pub(super) struct Core {
    pub(super) state: RefCell<State>,
    /// What sockets are read into.
    pub(super) scratch: RefCell<Vec<u8>>,
}

/// A connection for this core.
enum Arrival {
    New(OwnedFd, Admission),
    Moved(Box<Moving>),
}

/// Runs a core until the server stops.
pub async fn run(setup: CoreSetup, messages: flume::Receiver<Message>) {
    let shard = Shard::new(setup.core, setup.cores, ChangeLimits::DEFAULT)
        .with_document_bytes_max(setup.document_bytes_max);
    let mut state = State {
        shard: if setup.verifier.is_on() { shard.with_verification() } else { shard },
        feeds: Feeds::new(),
        connections: Slab::new(),
        effects: Vec::new(),
        due: DueQueues::default(),
        outbox: Outbox::new(Arc::clone(&setup.mailboxes)),
        in_flight_bytes: 0,
        paused: BTreeSet::new(),
        jobs: VecDeque::new(),
        storage_era: 0,
        waiting_questions: VecDeque::new(),
        waiting_deletions: VecDeque::new(),
        deletions: BTreeMap::new(),
        out: Vec::new(),
        sealed: Vec::new(),
        opened: Vec::new(),
        round: flush::Round::default(),
        lengths: Vec::new(),
        settled: Vec::new(),
        stopping: None,
        partial_bytes: 0,
        updates: Updates::default(),
        gate: Gate::new(&setup.access),
        flusher: None,
        is_flush_due: false,
        setup,
    };
    state.shard.set_faults(state.setup.faults.clone());
    state.feeds.set_faults(state.setup.faults.clone());
    let core = Rc::new(Core { state: RefCell::new(state), scratch: RefCell::new(vec![0; READ_BYTES]) });
    let flusher = Rc::clone(&core);
    runtime::spawn(async move { flusher.keep_flushing().await });
    let clock = Rc::clone(&core);
    runtime::spawn(async move { clock.keep_time().await });
    while let Ok(message) = messages.recv_async().await {
        let mut arrivals = Vec::new();
        let mut served = core.handle(message, &mut arrivals);
        // Whatever else is there belongs to the same turn, up to a bound: connections want theirs as well.
        while served < MESSAGES_PER_TURN_MAX {
            let Ok(message) = messages.try_recv() else { break };
            served += core.handle(message, &mut arrivals);
        }
        for arrival in arrivals {
            match arrival {
                Arrival::New(socket, admission) => core.adopt(socket, admission),
                Arrival::Moved(moving) => handover::arrive(&core, *moving),
            }
        }
        if core.state.borrow().stopping == Some(StopStage::End) {
            core.end();
            return;
        }
        if !messages.is_empty() {
            runtime::yield_now().await;
        }
    }
}

impl Core {
    /// Takes one message, which may hold several; how many it was. Connections that it brings are handed back,
    /// because a new task runs at once.
    fn handle(&self, message: Message, arrivals: &mut Vec<Arrival>) -> usize {
        let count = message.count();
        match message {
            Message::Several(messages) => {
                messages.into_iter().for_each(|message| self.handle_one(message, arrivals));
            }
            message => self.handle_one(message, arrivals),
        }
        count
    }

    fn handle_one(&self, message: Message, arrivals: &mut Vec<Arrival>) {
        let mut state = self.state.borrow_mut();
        let now = state.now();
        match message {
            Message::Adopt(socket, admission) => arrivals.push(Arrival::New(socket, admission)),
            Message::Move(moving) => arrivals.push(Arrival::Moved(moving)),
            Message::Request(request) => state.serve(request, now),
            Message::Effect(effect) => effects::apply(&mut state, effect),
            Message::Delete { document, answer } => {
                let token = state.deletions.last_key_value().map_or(1, |(last, _)| last + 1);
                state.deletions.insert(token, answer);
                state.step(Input::Delete { document, token }, now);
            }
            Message::Deleted { document, result } => {
                state.step(Input::Deleted { document, result }, now);
                effects::retry_storage(&mut state);
            }
            Message::Loaded { handle, result } => {
                // A start may have been interrupted while records that a snapshot covers went.
                if let Ok(Recovered { document, snapshot: Some(_) }) = &*result {
                    effects::cover(&state, document.id().clone());
                }
                state.step(Input::Loaded { handle, result }, now);
                effects::retry_storage(&mut state);
            }
            Message::SnapshotCut { handle, document, result } => {
                effects::snapshot_cut(&mut state, handle, document, result, now);
            }
            Message::Quarantine(document) => state.step(Input::Quarantine { document }, now),
            Message::Rebuilt { handle, document, result } => {
                effects::rebuilt(&mut state, handle, document, result, now);
            }
            Message::Revoke(revocation) => {
                state.step(Input::Revoke(&revocation), now);
                for core in 0..state.setup.cores {
                    state.send_to(core, Message::Revoked(Arc::clone(&revocation)));
                }
            }
            Message::Revoked(revocation) => state.step(Input::Revoke(&revocation), now),
            Message::Verified { handle, number, result } => {
                state.step(Input::Verified { handle, number, result }, now);
            }
            Message::Room => effects::retry_storage(&mut state),
            Message::SnapshotRead { handle, request, result } => {
                contain::run(&mut state, Scope::Feed(handle), |state| {
                    effects::snapshot_read(state, handle, &request, result, now);
                });
            }
            Message::Found { handle, peer, asked_for, result } => {
                state.step(Input::Found { handle, peer, asked_for, result }, now);
                effects::retry_storage(&mut state);
            }
            Message::ChainRead { handle, peer, result } => {
                state.step(Input::ChainRead { handle, peer, result }, now);
                effects::retry_storage(&mut state);
            }
            Message::Filled { handle, number, peer, result } => {
                contain::run(&mut state, Scope::Feed(handle), |state| {
                    effects::filled(state, handle, number, peer, result, now);
                });
            }
            Message::Committed { batch, outcome } => {
                let input = match outcome {
                    Ok(()) => Input::Committed { batch },
                    Err(error) => Input::CommitFailed { batch, why: error.to_string() },
                };
                state.step(input, now);
                effects::retry_storage(&mut state);
            }
            Message::StorageRecovered { era, documents } => {
                state.storage_era = era;
                state.step(Input::StorageRecovered { documents: &documents }, now);
                effects::retry_storage(&mut state);
            }
            Message::Stop(StopStage::Drain) => state.drain(),
            Message::Stop(StopStage::End) => state.stopping = Some(StopStage::End),
            // Nothing puts several into several.
            Message::Several(_) => {}
        }
    }

    /// Makes a connection of a socket.
    fn adopt(self: &Rc<Self>, socket: OwnedFd, admission: Admission) {
        let mut state = self.state.borrow_mut();
        if state.connections.len() >= CONNECTIONS_PER_CORE_MAX || state.stopping.is_some() {
            let reason = if state.stopping.is_some() { "stopping" } else { "too_many_connections" };
            state.setup.metrics.rejected.with_label_values(&[reason]).inc();
            state.setup.open_connections.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let mut session = [0; 16];
        if let Err(error) = getrandom::fill(&mut session) {
            tracing::error!("no randomness for a session: {error}");
            state.setup.open_connections.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let now_s = state.now_s();
        let stream = match Stream::new(socket) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::error!("a connection cannot be taken: {error}");
                state.setup.open_connections.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        };
        let (core, descriptor) = (state.setup.core, stream.descriptor());
        let security = if state.setup.tls.is_some() { Security::Expected } else { Security::Plain };
        let Admission { address, ticket, retry_after_ms, has_proxy_header } = admission;
        let id = state.connections.insert(|id| Connection {
            address,
            pace: Pace::new(ticket),
            retry_after_ms,
            proxy_header: has_proxy_header.then(Vec::new),
            ..Connection::new(Peer { core, id }, descriptor, security, session, now_s)
        });
        state.setup.metrics.accepted.inc();
        state.setup.metrics.connections.inc();
        if let Some(count) = state.setup.connections_per_core.get(usize::from(core)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        drop(state);
        let core = Rc::clone(self);
        runtime::spawn(receive::serve(core, id, stream, Vec::new()));
    }

    /// Sends what waits, at the end of each turn that has brought something.
    async fn keep_flushing(&self) {
        loop {
            poll_fn(|context| self.state.borrow_mut().poll_flush_due(context)).await;
            let Some(is_due_again) = self.flush() else { return };
            if is_due_again {
                // What is left goes behind what other tasks have meanwhile.
                runtime::yield_now().await;
            }
        }
    }

    /// Sends what waits; whether there is more. `None` if the core ends.
    fn flush(&self) -> Option<bool> {
        let mut state = self.state.borrow_mut();
        if state.stopping == Some(StopStage::End) {
            return None;
        }
        flush::flush(&mut state);
        state.report_drained();
        Some(state.is_flush_due)
    }

    async fn keep_time(&self) {
        loop {
            runtime::sleep(Duration::from_secs(1)).await;
            let mut state = self.state.borrow_mut();
            if state.stopping == Some(StopStage::End) {
                return;
            }
            let now = state.now();
            state.step(Input::Tick, now);
            state.end_overdue();
            effects::retry_storage(&mut state);
            let State { updates, setup, .. } = &mut *state;
            updates.tell(&setup.events);
            let documents = i64::try_from(state.shard.documents()).unwrap_or(i64::MAX);
            state.setup.metrics.pending.set(i64::from(state.setup.throttle.pending()));
            let core = state.setup.core.to_string();
            state.setup.metrics.documents.with_label_values(&[&core]).set(documents);
        }
    }

    /// Ends every connection's task.
    fn end(&self) {
        let mut state = self.state.borrow_mut();
        for connection in state.connections.iter_mut() {
            flush::say_goodbye(connection);
            connection.stage = Stage::Dead;
            connection.wake();
        }
        if let Some(waker) = state.flusher.take() {
            waker.wake();
        }
        // Tasks may outlive this in a runtime that is shut down; the storage threads must not wait for them.
        state.setup.storage = None;
        state.setup.verifier = VerifierThreads::none().0;
        state.jobs.clear();
        state.waiting_questions.clear();
        state.waiting_deletions.clear();
        state.deletions.clear();
    }
}

impl State {
    pub(super) fn now(&self) -> Now {
        Now { mono_us: self.setup.now_us(), wall_ms: clock::now_ms() }
    }

    pub(super) fn now_s(&self) -> u32 {
        self.setup.now_s()
    }

    /// A step of this core's shard, and what it wants done.
    pub(super) fn step(&mut self, input: Input<'_>, now: Now) {
        self.shard.step(input, now, &mut self.effects);
        effects::carry_out(self);
        // What was admitted goes to the disk at the end of the turn.
        self.request_flush();
    }

    /// A request of one of this core's connections, to the document's home.
    pub(super) fn request(&mut self, home: u16, input: Input<'_>, now: Now) {
        if home == self.setup.core {
            self.step(input, now);
            return;
        }
        self.send_request(home, input);
    }

    /// The same by the home's mailbox, even if the home is this core.
    pub(super) fn send_request(&mut self, home: u16, input: Input<'_>) {
        let Some(request) = Request::of(input) else { return };
        if let Some(bytes) = request.counted_bytes() {
            self.count_in(request.peer(), bytes);
        }
        self.send_to(home, Message::Request(request));
    }

    /// Has a core told something at the end of this turn.
    pub(super) fn send_to(&mut self, core: u16, message: Message) {
        self.outbox.put(core, message);
        self.request_flush();
    }

    /// A request of another core's connection.
    fn serve(&mut self, mut request: Request, now: Now) {
        let (input, settle) = request.input();
        self.shard.step(input, now, &mut self.effects);
        if let Some((peer, bytes)) = settle {
            self.effects.push(Effect::Settle { peer, bytes });
        }
        effects::carry_out(self);
        self.request_flush();
    }

    /// A connection has one more request under way.
    pub(super) fn count_in(&mut self, peer: Peer, bytes: usize) {
        self.in_flight_bytes += bytes;
        if let Some(connection) = self.connections.get_mut(peer.id) {
            connection.in_flight += 1;
            connection.in_flight_bytes += bytes;
        }
    }

    /// A request is done. It counted for the core even if its connection has gone meanwhile.
    pub(super) fn count_out(&mut self, peer: Peer, bytes: usize) {
        let was_full = self.in_flight_bytes >= CORE_IN_FLIGHT_BYTES_MAX;
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
        if let Some(connection) = self.connections.get_mut(peer.id) {
            connection.in_flight = connection.in_flight.saturating_sub(1);
            connection.in_flight_bytes = connection.in_flight_bytes.saturating_sub(bytes);
            if connection.is_paused && !connection.is_at_limit() {
                connection.wake();
            }
            if connection.stage == Stage::Finishing && connection.is_settled() {
                self.mark_dirty(peer.id);
            }
        }
        if was_full && self.in_flight_bytes < CORE_IN_FLIGHT_BYTES_MAX {
            for id in std::mem::take(&mut self.paused) {
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.wake();
                }
            }
        }
    }

    /// Something has to be sent to this connection at the end of the turn.
    pub(super) fn mark_dirty(&mut self, id: u64) {
        self.mark_due(id, Due::Now);
    }

    /// The same, as urgently as said.
    pub(super) fn mark_due(&mut self, id: u64, due: Due) {
        if let Some(connection) = self.connections.get_mut(id) {
            self.due.add(connection, due);
        }
        self.request_flush();
    }

    /// The flusher runs once the tasks that are runnable now have run.
    pub(super) fn request_flush(&mut self) {
        if !self.is_flush_due {
            self.is_flush_due = true;
            // There is none while the flusher is at work, or has its next turn already.
            if let Some(waker) = self.flusher.take() {
                waker.wake();
            }
        }
    }

    /// Ready when the end of a turn has something to send, or the core ends.
    fn poll_flush_due(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.is_flush_due) || self.stopping == Some(StopStage::End) {
            return Poll::Ready(());
        }
        self.flusher = Some(context.waker().clone());
        Poll::Pending
    }

    /// A connection of this core has ended.
    pub(super) fn count_off(&self) {
        self.setup.metrics.connections.dec();
        self.setup.open_connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(count) = self.setup.connections_per_core.get(usize::from(self.setup.core)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets a connection, and tells all who know of it.
    pub(super) fn disconnect(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(id) else { return };
        if let Some((home, _)) = &connection.moving {
            handover::stay(self, *home);
        }
        if connection.has_greeted {
            let code = connection.ended.map(ErrorCode::name);
            self.setup.events.tell(|| Event::Disconnected { who: connection.who(), code });
        }
        self.count_off();
        if connection.is_blocked {
            self.setup.metrics.blocked.dec();
        }
        self.partial_bytes = self.partial_bytes.saturating_sub(connection.partial_bytes);
        self.paused.remove(&id);
        for stream in &connection.streams {
            self.feeds.detach(stream.handle, stream.number, connection.peer);
        }
        let now = self.now();
        for home in connection.homes {
            self.request(home, Input::Disconnected { peer: connection.peer }, now);
        }
        self.request_flush();
    }

    /// Ends connections that did not say hello, that are silent, that show no token, of which a frame does not arrive,
    /// or that do not take their last bytes.
    fn end_overdue(&mut self) {
        let now_s = self.now_s();
        let asks_for_tokens = self.gate.asks();
        let CoreSetup { idle_timeout_s, hello_timeout_s, frame_timeout_s, token_timeout_s, .. } = self.setup;
        let mut overdue: Vec<(u64, ErrorCode, String)> = Vec::new();
        for connection in self.connections.iter_mut() {
            let is_silent_for =
                |limit_s| connection.silent_s(now_s).is_some_and(|silent_s| silent_s > limit_s);
            let (code, why) = match connection.stage {
                Stage::Greeting if is_silent_for(hello_timeout_s) => {
                    (ErrorCode::HelloTimeout, format!("no hello came within {hello_timeout_s} s"))
                }
                Stage::Ready if connection.is_frame_overdue(frame_timeout_s, now_s) => (
                    ErrorCode::IdleTimeout,
                    format!(
                        "a frame has not arrived whole within {frame_timeout_s} s, and more for a long one"
                    ),
                ),
                Stage::Ready if asks_for_tokens && connection.is_token_overdue(token_timeout_s, now_s) => (
                    ErrorCode::IdleTimeout,
                    format!(
                        "no good token came within {token_timeout_s} s: connect when there is a document to open"
                    ),
                ),
                Stage::Ready if is_silent_for(idle_timeout_s) => (
                    ErrorCode::IdleTimeout,
                    format!("no sign of life for {idle_timeout_s} s: send a ping now and then, and read"),
                ),
                Stage::Finishing | Stage::Draining if now_s > connection.end_by_s => {
                    connection.stage = Stage::Dead;
                    connection.wake();
                    continue;
                }
                _ => continue,
            };
            overdue.push((connection.peer.id, code, why));
        }
        for (id, code, why) in overdue {
            self.fail(id, code, 0, &why);
        }
    }

    /// Tells everybody that the server goes away; what is under way is finished.
    fn drain(&mut self) {
        self.stopping = Some(StopStage::Drain);
        let message = GoingAway {
            code: ErrorCode::ShuttingDown as u16,
            retry_after_ms: RETRY_AFTER_STOP_MS,
            retry_jitter_ms: RETRY_JITTER_MS,
            message: "the server stops: what was acked is safe, push the rest again after you reconnect"
                .to_owned(),
        };
        let frame = Outgoing::new(0, &message, &[]);
        let mut ids = Vec::with_capacity(self.connections.len());
        for connection in self.connections.iter_mut() {
            ids.push(connection.peer.id);
            if connection.stage == Stage::Ready {
                connection.push_control(Control::Frame(frame.clone()));
            }
            connection.wake();
        }
        for id in ids {
            self.mark_dirty(id);
        }
        self.request_flush();
    }

    /// During a stop: whether everything that was under way here is durable, answered and sent.
    fn report_drained(&mut self) {
        if self.stopping != Some(StopStage::Drain) || !self.due.is_empty() || !self.outbox.is_empty() {
            return;
        }
        if !self.shard.is_settled() {
            return;
        }
        let is_busy = |connection: &mut Connection| connection.in_flight > 0 || connection.is_blocked;
        if self.connections.iter_mut().any(is_busy) {
            return;
        }
        // An error means that the stop is not waited for any more.
        let _ = self.setup.drained.send(self.setup.core);
    }

    /// Ends a connection for a reason that it is told.
    pub(super) fn fail(&mut self, id: u64, code: ErrorCode, kind: u16, message: &str) {
        let now_s = self.now_s();
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.stage == Stage::Draining || connection.stage == Stage::Dead {
            return;
        }
        self.setup.metrics.failed.with_label_values(&[code.name()]).inc();
        tracing::debug!(code = code.name(), peer = id, "connection ends: {message}");
        connection.ended = Some(code);
        connection.fail(code, kind, message, now_s + DRAIN_TIMEOUT_S);
        connection.wake();
        self.mark_dirty(id);
    }
}
