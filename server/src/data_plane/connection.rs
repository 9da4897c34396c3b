//! One connection: transport, session, what waits to be sent.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use etherply_engine::outgoing::Outgoing;
use etherply_engine::peer::{Peer, SessionId};
use etherply_engine::shard::OpenRequest;
use etherply_wire::ErrorCode;
use etherply_wire::kinds::Error;
use etherply_wire::limits::{MESSAGE_BYTES_MAX, PUSH_BYTES_IN_FLIGHT_MAX, PUSHES_IN_FLIGHT_MAX};
use etherply_wire::websocket::Decoder;

use super::due::Due;
use super::limits::{CONTROL_BYTES_MAX, CONTROL_OVERHEAD_BYTES, FRAME_BYTES_PER_S_MIN};
use super::pace::Pace;
use super::tls::Security;
use crate::events::Who;

/// What a connection speaks.
#[derive(Debug)]
pub(super) enum Transport {
    /// Nothing came yet that would tell.
    Unknown,
    /// Frames, one behind the other.
    Tcp,
    /// A frame a message.
    WebSocket(Decoder),
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Accepted, no hello yet.
    Greeting,
    /// Open for business.
    Ready,
    /// The other side has said its last word: what it asked for is answered, then it is closed. What still
    /// comes in is dropped, and documents have nothing for it any more.
    Finishing,
    /// It gets what waits for it, then it is closed. What still comes in is dropped.
    Draining,
    /// To be closed at once.
    Dead,
}

/// Something that goes before what feeds have.
#[derive(Debug)]
pub(super) enum Control {
    Frame(Outgoing),
    /// Bytes of the transport's own: an upgrade's answer, a WebSocket control frame.
    Raw(Bytes),
}

/// A document that the connection has open.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenStream {
    pub(super) handle: u32,
    /// The member's number in this core's feed.
    pub(super) number: u32,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) descriptor: RawFd,
    pub(super) security: Security,
    pub(super) transport: Transport,
    pub(super) stage: Stage,
    pub(super) session: SessionId,
    /// Where it comes from.
    pub(super) address: IpAddr,
    /// It has said hello.
    pub(super) has_greeted: bool,
    /// The error that it ended with.
    pub(super) ended: Option<ErrorCode>,
    /// Whose it is, since its first token.
    pub(super) subject: Option<Arc<str>>,
    /// Tokens of it that were refused.
    pub(super) tokens_refused: u8,
    pub(super) control: VecDeque<Control>,
    pub(super) control_bytes: usize,
    /// What a write left over: shared with other connections where it is the same for them.
    pub(super) unsent: VecDeque<Bytes>,
    /// Open documents, sorted by handle.
    pub(super) streams: Vec<OpenStream>,
    /// Opens that are not answered.
    pub(super) opening: u32,
    /// Shards that know of this connection.
    pub(super) homes: Vec<u16>,
    /// Documents that have something for it.
    pub(super) ready: VecDeque<u32>,
    pub(super) in_flight: u32,
    pub(super) in_flight_bytes: usize,
    /// It is on the list of those to be flushed.
    pub(super) due: Due,
    /// The socket takes no more.
    pub(super) is_blocked: bool,
    /// It is not read from, because of what it has under way.
    pub(super) is_paused: bool,
    /// Frames that have arrived wait, because of what it has under way.
    pub(super) has_backlog: bool,
    /// Bytes that it holds of frames that have not arrived whole.
    pub(super) partial_bytes: usize,
    /// Bytes that are there of a frame that has not arrived whole.
    pub(super) arrived_bytes: usize,
    /// Since when part of a frame is there.
    pub(super) partial_since_s: u32,
    /// How fast it is read from.
    pub(super) pace: Pace,
    /// It came when too many did: it is told to come back in so many milliseconds.
    pub(super) retry_after_ms: Option<u32>,
    /// What is there of the header by which it says whose it is, if it has to; its task takes it.
    pub(super) proxy_header: Option<Vec<u8>>,
    /// When it was accepted.
    pub(super) accepted_s: u32,
    /// When something was heard last; for a new connection, when it was accepted.
    pub(super) heard_s: u32,
    /// When its socket took bytes last, or was found to take none.
    pub(super) took_s: u32,
    /// When finishing or draining ends at the latest.
    pub(super) end_by_s: u32,
    /// The other side will send nothing more: its half of the connection is closed.
    pub(super) is_at_end: bool,
    /// The code of the close frame that is owed to a WebSocket that finishes.
    pub(super) owed_close: Option<u16>,
    pub(super) waker: Option<Waker>,
    /// The core to which it is to move, and the open that it moves for.
    pub(super) moving: Option<(u16, Box<OpenRequest>)>,
}

impl Connection {
    pub(super) fn new(
        peer: Peer,
        descriptor: RawFd,
        security: Security,
        session: SessionId,
        now_s: u32,
    ) -> Self {
        Self {
            peer,
            descriptor,
            security,
            transport: Transport::Unknown,
            stage: Stage::Greeting,
            session,
            address: Ipv4Addr::UNSPECIFIED.into(),
            has_greeted: false,
            ended: None,
            subject: None,
            tokens_refused: 0,
            control: VecDeque::new(),
            control_bytes: 0,
            unsent: VecDeque::new(),
            streams: Vec::new(),
            opening: 0,
            homes: Vec::new(),
            ready: VecDeque::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            due: Due::No,
            is_blocked: false,
            is_paused: false,
            has_backlog: false,
            partial_bytes: 0,
            arrived_bytes: 0,
            partial_since_s: now_s,
            pace: Pace::default(),
            retry_after_ms: None,
            proxy_header: None,
            accepted_s: now_s,
            heard_s: now_s,
            took_s: now_s,
            end_by_s: 0,
            is_at_end: false,
            owed_close: None,
            waker: None,
            moving: None,
        }
    }

    /// Whose it is, for events.
    pub(super) fn who(&self) -> Who {
        Who { connection: self.session, subject: self.subject.clone() }
    }

    pub(super) fn stream(&self, handle: u32) -> Option<OpenStream> {
        let at = self.streams.binary_search_by_key(&handle, |stream| stream.handle).ok()?;
        self.streams.get(at).copied()
    }

    pub(super) fn add_stream(&mut self, stream: OpenStream) {
        let at = self.streams.partition_point(|other| other.handle < stream.handle);
        self.streams.insert(at, stream);
    }

    pub(super) fn remove_stream(&mut self, handle: u32) -> Option<OpenStream> {
        let at = self.streams.binary_search_by_key(&handle, |stream| stream.handle).ok()?;
        let stream = self.streams.remove(at);
        if self.streams.is_empty() {
            self.streams = Vec::new();
        }
        self.ready.retain(|other| *other != handle);
        self.pace.forget(handle);
        Some(stream)
    }

    /// Queues an answer. Behind the last word of a connection that ends, nothing is said any more.
    pub(super) fn push_control(&mut self, control: Control) {
        if matches!(self.stage, Stage::Draining | Stage::Dead) {
            return;
        }
        self.control_bytes += CONTROL_OVERHEAD_BYTES;
        self.control_bytes += match &control {
            Control::Frame(frame) => frame.len(),
            Control::Raw(bytes) => bytes.len(),
        };
        self.control.push_back(control);
    }

    /// A sign of life of the transport. It does not count before the hello, nor in the middle of a message:
    /// pings must not keep a connection open that says nothing.
    pub(super) fn hear(&mut self, now_s: u32) {
        if self.stage == Stage::Ready && self.arrived_bytes == 0 {
            self.heard_s = now_s;
        }
    }

    /// For how long it has given no sign of life: nothing was heard from it, or, while it is not read from, its
    /// socket took nothing. `None` while it waits for the server.
    pub(super) fn silent_s(&self, now_s: u32) -> Option<u32> {
        let since_s = match (self.is_paused, self.is_blocked) {
            (false, _) => self.heard_s,
            (true, true) => self.heard_s.max(self.took_s),
            (true, false) => return None,
        };
        Some(now_s.saturating_sub(since_s))
    }

    /// Whether a frame takes too long to arrive: the timeout, and what its bytes take at the slowest rate. Nobody is
    /// to hold a place by one byte now and then.
    pub(super) fn is_frame_overdue(&self, timeout_s: u32, now_s: u32) -> bool {
        let by_bytes_s = u32::try_from(self.arrived_bytes / FRAME_BYTES_PER_S_MIN).unwrap_or(u32::MAX);
        let since_s = self.partial_since_s.max(self.heard_s);
        let took_s = now_s.saturating_sub(since_s);
        self.arrived_bytes > 0 && !self.is_paused && took_s > timeout_s.saturating_add(by_bytes_s)
    }

    /// Whether it has shown no token for too long.
    pub(super) fn is_token_overdue(&self, timeout_s: u32, now_s: u32) -> bool {
        self.subject.is_none() && now_s.saturating_sub(self.accepted_s) > timeout_s
    }

    /// Whether it has as much under way as it may.
    pub(super) fn is_at_limit(&self) -> bool {
        self.in_flight as usize >= PUSHES_IN_FLIGHT_MAX
            || self.in_flight_bytes >= PUSH_BYTES_IN_FLIGHT_MAX
            || self.control_bytes >= CONTROL_BYTES_MAX
    }

    /// Notes that a document has something for it; whether there is any point in that.
    pub(super) fn make_ready(&mut self, handle: u32) -> bool {
        let is_open = matches!(self.stage, Stage::Greeting | Stage::Ready);
        if is_open {
            self.ready.push_back(handle);
        }
        is_open
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The close frame of a WebSocket, after which nothing is sent.
    pub(super) fn push_close_frame(&mut self, code: ErrorCode, reason: &str) {
        if matches!(self.transport, Transport::WebSocket(_)) {
            let frame = etherply_wire::websocket::close_frame(code.close_code(), reason, None);
            self.push_control(Control::Raw(Bytes::from(frame)));
        }
    }

    /// Tells the other side why this ends; everything that still comes in is dropped.
    pub(super) fn fail(&mut self, code: ErrorCode, kind: u16, message: &str, end_by_s: u32) {
        if !matches!(self.transport, Transport::Unknown) {
            let message = message.get(..message.floor_char_boundary(MESSAGE_BYTES_MAX)).unwrap_or_default();
            let error =
                Error { request: 0, code: code as u16, kind, retry_after_ms: 0, message: message.to_owned() };
            self.push_control(Control::Frame(Outgoing::new(0, &error, &[])));
            self.push_close_frame(code, message);
        }
        self.begin_draining(end_by_s);
    }

    /// Sends what waits, then closes.
    pub(super) fn begin_draining(&mut self, end_by_s: u32) {
        self.stage = Stage::Draining;
        self.end_by_s = end_by_s;
        self.ready.clear();
    }

    /// Answers what is under way, then closes: a WebSocket with this code.
    pub(super) fn begin_finishing(&mut self, owed_close: Option<u16>, end_by_s: u32) {
        self.stage = Stage::Finishing;
        self.owed_close = owed_close;
        self.end_by_s = end_by_s;
        self.ready.clear();
    }

    /// Whether nothing that it asked for waits for an answer.
    pub(super) fn is_settled(&self) -> bool {
        self.in_flight == 0 && self.opening == 0
    }

    /// Whether it has said its last word.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.stage, Stage::Finishing | Stage::Draining | Stage::Dead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_its_timeout_and_the_time_of_its_bytes() {
        let mut connection = Connection::new(Peer { core: 0, id: 1 }, -1, Security::Plain, [0; 16], 10);
        assert!(!connection.is_frame_overdue(8, 1_000), "nothing of it is there");
        (connection.arrived_bytes, connection.partial_since_s) = (1, 20);
        assert!(!connection.is_frame_overdue(8, 28) && connection.is_frame_overdue(8, 29));
        connection.arrived_bytes = FRAME_BYTES_PER_S_MIN - 1;
        assert!(connection.is_frame_overdue(8, 29));
        connection.arrived_bytes = FRAME_BYTES_PER_S_MIN;
        assert!(!connection.is_frame_overdue(8, 29) && connection.is_frame_overdue(8, 30));
        connection.heard_s = 21;
        assert!(!connection.is_frame_overdue(8, 30) && connection.is_frame_overdue(8, 31));
        connection.is_paused = true;
        assert!(!connection.is_frame_overdue(8, 1_000), "the server does not read it");
    }

    #[test]
    fn a_token_has_its_timeout_from_the_accept() {
        let mut connection = Connection::new(Peer { core: 0, id: 1 }, -1, Security::Plain, [0; 16], 10);
        connection.heard_s = 69;
        assert!(!connection.is_token_overdue(60, 69) && !connection.is_token_overdue(60, 70));
        assert!(connection.is_token_overdue(60, 71));
        connection.subject = Some("ada".into());
        assert!(!connection.is_token_overdue(60, 1_000));
    }

    #[test]
    fn silence_is_counted_from_the_last_sign_of_life() {
        let mut connection = Connection::new(Peer { core: 0, id: 1 }, -1, Security::Plain, [0; 16], 10);
        assert_eq!(connection.silent_s(15), Some(5));
        connection.heard_s = 14;
        assert_eq!(connection.silent_s(15), Some(1));
        // A socket that takes nothing more says nothing about who is read from and heard.
        connection.is_blocked = true;
        assert_eq!(connection.silent_s(20), Some(6));
        // Not read from, because it has not taken its answers: whether it still takes any is what counts.
        connection.is_paused = true;
        assert_eq!(connection.silent_s(20), Some(6));
        connection.took_s = 18;
        assert_eq!(connection.silent_s(20), Some(2));
        // Not read from, because the server owes it answers: that is no silence of its own.
        connection.is_blocked = false;
        assert_eq!(connection.silent_s(1_000), None);
    }
}
