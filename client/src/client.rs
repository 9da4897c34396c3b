//! One member's side of the protocol, over one connection after another. What comes in lives in
//! `incoming.rs`, what an application asks for in `requests.rs`.

use std::collections::VecDeque;

use etherply_wire::frame::encode_into;
use etherply_wire::kinds::{Hello, Ping};
use etherply_wire::{PROTOCOL, limits};

use crate::error::{ClientError, Next};
use crate::event::Event;
use crate::limits::ServerLimits;
use crate::outbox::InFlight;
use crate::stream::{Stream, StreamState};
use crate::transport::{Incoming, Link, Random, Transport};

/// A document on one client: its number there, kept over reconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(crate) u32);

impl StreamId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Disconnected,
    Hello,
    Ready,
}

/// The client. It does no I/O and has no clock: the caller moves bytes and tells the time, in milliseconds
/// from any fixed moment.
///
/// 1. [`Client::connect`], then send what [`Client::output`] gives.
/// 2. Received bytes go into [`Client::input`]; then again send what `output` gives.
/// 3. On an error of `input`, send what `output` gives once more, as far as the socket takes it: a WebSocket's
///    close is answered. Then, or when the socket ends: close it, [`Client::disconnected`], wait as long as
///    [`crate::Backoff`] makes of its answer, and begin with 1 again.
/// 4. [`Client::tick`] once a second or so: it keeps an idle connection alive, and opens streams again that the
///    server refused for a while.
///
/// From one connection to the next a client keeps its open documents with their cursors, the pushes that are
/// not acked (sent again under a higher generation; the server acks those that it has and stores them no second
/// time), and this member's presence for what is left of its time. The session is a new one each time. What the
/// server sent in part, pushes in flight, broadcasts and pings end with their connection.
#[derive(Debug)]
pub struct Client {
    pub(crate) core: Core,
    link: Option<Link>,
    transport: Transport,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Tls>,
    /// This connection's TLS. It outlives the link by its last words.
    #[cfg(feature = "tls")]
    session: Option<Box<crate::tls::Session>>,
    agent: Box<str>,
    seed: u64,
    /// Bytes to be sent, in the form in which they travel.
    out: Vec<u8>,
    last_output_ms: u64,
}

/// The part of a client that does not depend on how frames travel.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) phase: Phase,
    /// This connection's name among members, from `Welcome`.
    pub(crate) session: [u8; 16],
    pub(crate) streams: Vec<Option<Stream>>,
    /// Handles of open streams with the stream's number, sorted.
    pub(crate) handles: Vec<(u32, StreamId)>,
    /// Frames to be sent, one behind the other.
    pub(crate) frames: Vec<u8>,
    pub(crate) limits: ServerLimits,
    pub(crate) in_flight: InFlight,
    /// What the server said on this connection about the time after it.
    pub(crate) next: Next,
    pub(crate) random: Random,
    /// Streams whose presence is to be sent.
    pub(crate) presence_due: Vec<StreamId>,
    /// Streams that may have something to push, in turn.
    pub(crate) pushing: VecDeque<StreamId>,
    pub(crate) last_request: u32,
}

impl Client {
    /// A client that is not connected. `agent` is its name and version, for the server's logs. `seed` has to
    /// differ between clients: masking keys and the spread of their retries come from it.
    pub fn new(transport: Transport, agent: &str, seed: u64) -> Self {
        let end = agent.floor_char_boundary(limits::AGENT_BYTES_MAX);
        Self {
            core: Core {
                phase: Phase::Disconnected,
                session: [0; 16],
                streams: Vec::new(),
                handles: Vec::new(),
                frames: Vec::new(),
                limits: ServerLimits::default(),
                in_flight: InFlight::default(),
                next: Next::RECONNECT,
                random: Random(seed),
                presence_due: Vec::new(),
                pushing: VecDeque::new(),
                last_request: 0,
            },
            link: None,
            transport,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            session: None,
            agent: agent.get(..end).unwrap_or_default().into(),
            seed,
            out: Vec::new(),
            last_output_ms: 0,
        }
    }

    /// The same client, whose connections are secured by TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: crate::tls::Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Begins a connection on a socket that is just open.
    ///
    /// # Errors
    /// [`ClientError::Handshake`] if the WebSocket's host or path cannot be sent, [`ClientError::Tls`] if TLS cannot
    /// begin.
    pub fn connect(&mut self, now_ms: u64) -> Result<(), ClientError> {
        self.disconnected();
        self.core.next = Next::RECONNECT;
        self.seed = self.seed.wrapping_add(1);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            self.session = Some(Box::new(tls.start(&self.transport)?));
        }
        let link = Link::start(&self.transport, self.seed, &mut self.out)?;
        if link.is_open() {
            self.core.hello(&self.agent);
        }
        self.core.phase = Phase::Hello;
        self.link = Some(link);
        self.last_output_ms = now_ms;
        Ok(())
    }

    /// The connection is gone, or did not come about. Tells what to do next, by what the server said on it: its
    /// error, that it is going away, when it wants to see this client again.
    pub fn disconnected(&mut self) -> Next {
        self.link = None;
        #[cfg(feature = "tls")]
        {
            self.session = None;
        }
        self.out = Vec::new();
        self.core.disconnected();
        self.core.next
    }

    /// Takes received bytes, and passes on what they bring. The bytes are scratch space afterwards.
    ///
    /// # Errors
    /// Why the connection has to end. Nothing more is taken in then, and [`Client::output`] gives nothing but the
    /// last answer, if there is one.
    pub fn input(
        &mut self,
        bytes: &mut [u8],
        now_ms: u64,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ClientError> {
        #[cfg(feature = "tls")]
        if let Some(session) = self.session.as_mut().filter(|_| self.link.is_some()) {
            let mut plain = Vec::new();
            let opened = session.open(bytes, &mut plain);
            // What came before the fault counts.
            self.plain_input(&mut plain, now_ms, on_event)?;
            if let Err(error) = &opened {
                self.core.next = self.core.next.and(error.next());
                self.link = None;
            }
            return opened;
        }
        self.plain_input(bytes, now_ms, on_event)
    }

    fn plain_input(
        &mut self,
        bytes: &mut [u8],
        now_ms: u64,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ClientError> {
        let Self { core, link: ours, out, agent, .. } = self;
        let Some(link) = ours else { return Ok(()) };
        let done = link.receive(bytes, out, &mut |incoming| match incoming {
            Incoming::Open => {
                core.hello(agent);
                Ok(())
            }
            Incoming::Frame(bytes) => core.frame(bytes, now_ms, on_event),
        });
        if let Err(error) = &done {
            core.next = core.next.and(error.next());
            *ours = None;
        }
        done
    }

    /// Appends to `out` everything that may be sent now: answers first, then pushes within the server's
    /// window, one of each document in turn.
    pub fn output(&mut self, out: &mut Vec<u8>, now_ms: u64) {
        #[cfg(feature = "tls")]
        if let Some(mut session) = self.session.take() {
            self.plain_output(&mut session.plain, now_ms);
            session.seal(out);
            self.session = Some(session);
            return;
        }
        self.plain_output(out, now_ms);
    }

    fn plain_output(&mut self, out: &mut Vec<u8>, now_ms: u64) {
        let before = out.len();
        if out.is_empty() {
            std::mem::swap(out, &mut self.out);
        } else {
            out.append(&mut self.out);
        }
        self.out = Vec::new();
        let Some(link) = &mut self.link else { return };
        self.core.presences(now_ms);
        if link.is_open() && !self.core.frames.is_empty() {
            link.send_all(out, &mut self.core.frames);
        }
        self.core.pushes(link, out, now_ms);
        if out.len() > before {
            self.last_output_ms = now_ms;
        }
    }

    /// Keeps the connection alive, and opens streams again whose time has come; call it at least once a second.
    /// Afterwards ask for output.
    pub fn tick(&mut self, now_ms: u64) {
        self.core.reopen_due(now_ms);
        let idle_ms = self.core.limits.idle_ms;
        let silent_ms = now_ms.saturating_sub(self.last_output_ms);
        if self.is_ready() && idle_ms > 0 && silent_ms >= idle_ms / 3 {
            encode_into(&mut self.core.frames, 0, &Ping { nonce: 0 }, &[]);
        }
    }

    /// Whether the server said welcome on this connection.
    pub fn is_ready(&self) -> bool {
        self.core.phase == Phase::Ready
    }

    /// The server's limits, as far as it told them.
    pub fn limits(&self) -> &ServerLimits {
        &self.core.limits
    }

    /// What is in flight on this connection.
    pub fn in_flight(&self) -> InFlight {
        self.core.in_flight
    }
}

impl Core {
    fn hello(&mut self, agent: &str) {
        let hello = Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            capabilities: 0,
            agent: agent.to_owned(),
        };
        encode_into(&mut self.frames, 0, &hello, &[]);
    }

    fn disconnected(&mut self) {
        self.phase = Phase::Disconnected;
        self.frames = Vec::new();
        self.handles.clear();
        self.presence_due = Vec::new();
        self.in_flight = InFlight::default();
        self.limits = ServerLimits::default();
        for slot in &mut self.streams {
            // What the application has closed needs no answer any more.
            slot.take_if(|stream| stream.state == StreamState::Closing);
            slot.iter_mut().for_each(Stream::disconnected);
        }
    }

    pub(crate) fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(id.index())?.as_ref()
    }

    pub(crate) fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(id.index())?.as_mut()
    }

    /// The stream that a handle names on this connection.
    pub(crate) fn by_handle(&self, handle: u32) -> Option<StreamId> {
        let at = self.handles.binary_search_by_key(&handle, |&(handle, _)| handle).ok()?;
        self.handles.get(at).map(|&(_, id)| id)
    }

    /// Notes that a stream may have something to push.
    pub(crate) fn queue(&mut self, id: StreamId) {
        let Some(stream) = self.stream_mut(id) else { return };
        if !stream.queued {
            stream.queued = true;
            self.pushing.push_back(id);
        }
    }

    fn pushes(&mut self, link: &mut Link, out: &mut Vec<u8>, now_ms: u64) {
        if self.phase != Phase::Ready {
            return;
        }
        let mut waiting = 0;
        while waiting < self.pushing.len() {
            let Some(id) = self.pushing.pop_front() else { break };
            let (limits, in_flight) = (self.limits, self.in_flight);
            let Some(stream) = self.stream_mut(id) else { continue };
            let wakes_at_ms = stream.outbox.wakes_at_ms();
            if stream.state != StreamState::Open || wakes_at_ms.is_none() {
                stream.queued = false;
                continue;
            }
            let bytes = stream.outbox.next_bytes();
            let window = in_flight.pushes < limits.pushes_in_flight_max
                && (in_flight.pushes == 0 || in_flight.bytes + bytes <= limits.push_bytes_in_flight_max);
            if !window {
                self.pushing.push_front(id);
                break;
            }
            let handle = stream.handle;
            if let Some((body, tail)) = stream.outbox.send(now_ms) {
                link.send(out, |out| encode_into(out, handle, &body, &[tail]));
                self.in_flight.pushes += 1;
                self.in_flight.bytes += bytes;
                waiting = 0;
            } else {
                waiting += 1;
            }
            self.pushing.push_back(id);
        }
    }
}
