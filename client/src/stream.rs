//! One document on a client: what survives disconnects, and where the stream stands on this connection.

use etherply_wire::Rights;
use etherply_wire::kinds::{ClockEntry, Cursor};

use crate::outbox::Outbox;
use crate::progress::Progress;

/// What [`crate::Client::open`] needs.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The document's name.
    pub document: String,
    /// The rights wanted.
    pub rights: Rights,
    /// A token that grants them, where the server asks for one.
    pub token: Option<String>,
    /// Where this member's copy stands; `None` without one.
    pub cursor: Option<Cursor>,
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// Not open: no connection, or the server refused or ended it.
    Closed,
    /// Asked for.
    Opening,
    /// Open.
    Open,
    /// The server's clock is arriving, or waits for this member's.
    Reconciling,
    /// Being closed by this side.
    Closing,
}

/// A snapshot of which pieces are missing.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) cursor: Cursor,
    pub(crate) total_bytes: usize,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) document: Box<str>,
    pub(crate) token: Option<Box<str>>,
    pub(crate) rights: Rights,
    pub(crate) state: StreamState,
    /// The request of the last open.
    pub(crate) request: u32,
    /// The server's number for the document on this connection, 0 without one.
    pub(crate) handle: u32,
    pub(crate) progress: Progress,
    /// The cursor of another log that this member came with, while both sides reconcile.
    pub(crate) other_log: Option<Cursor>,
    pub(crate) outbox: Outbox,
    pub(crate) snapshot: Option<Box<Assembly>>,
    /// The server's clock as far as it came.
    pub(crate) clock: Vec<ClockEntry>,
    /// Whether the server's clock is whole and the application's answer is awaited.
    pub(crate) clock_asked: bool,
    /// Whether this stream waits in the client's queue of those that have something to push.
    pub(crate) queued: bool,
    /// When the client opens this stream again by itself, after the server refused or ended it for a while.
    pub(crate) reopens_at_ms: Option<u64>,
    /// What this member set last.
    pub(crate) presence: Option<Box<OwnPresence>>,
}

/// This member's presence: sent once, and again on another connection for what is left of its time.
#[derive(Debug)]
pub(crate) struct OwnPresence {
    pub(crate) state: Box<[u8]>,
    pub(crate) ttl_ms: u32,
    /// When it ends by itself; `None` before it was sent.
    pub(crate) ends_at_ms: Option<u64>,
    /// Whether the stream stands in the client's list of those whose presence is to be sent.
    pub(crate) is_due: bool,
}

impl Stream {
    pub(crate) fn new(options: OpenOptions) -> Self {
        Self {
            document: options.document.into_boxed_str(),
            token: options.token.map(String::into_boxed_str),
            rights: options.rights,
            state: StreamState::Closed,
            request: 0,
            handle: 0,
            progress: options.cursor.map(Progress::at).unwrap_or_default(),
            other_log: None,
            outbox: Outbox::default(),
            snapshot: None,
            clock: Vec::new(),
            clock_asked: false,
            queued: false,
            reopens_at_ms: None,
            presence: None,
        }
    }

    /// Back to what is true without a connection.
    pub(crate) fn disconnected(&mut self) {
        self.state = StreamState::Closed;
        self.handle = 0;
        self.progress.disconnected();
        self.outbox.rewind();
        self.snapshot = None;
        self.clock = Vec::new();
        self.clock_asked = false;
        self.reopens_at_ms = None;
        if let Some(presence) = &mut self.presence {
            presence.is_due = false;
        }
    }
}
