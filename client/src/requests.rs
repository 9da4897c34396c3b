//! What an application asks a client for.

use etherply_wire::frame::encode_into;
use etherply_wire::kinds::{BroadcastSend, ClockEntry, Close, Cursor, Open, Ping, Reconcile, Renew};
use etherply_wire::limits::{
    BROADCAST_TOPIC_BYTES_MAX, CLOCK_ENTRIES_MAX, DOCUMENT_ID_BYTES_MAX, RECONCILE_ENTRIES_MAX,
    TOKEN_BYTES_MAX,
};

use crate::client::{Client, Core, Phase, StreamId};
use crate::error::RequestError;
use crate::outbox::Push;
use crate::stream::{OpenOptions, Stream, StreamState};

impl Client {
    /// Opens a document, now or once there is a connection, and again on each later connection.
    ///
    /// # Errors
    /// The name or the token is not one, or as many documents are open as may be.
    pub fn open(&mut self, options: OpenOptions) -> Result<StreamId, RequestError> {
        let token_bytes = options.token.as_ref().map_or(0, String::len);
        let name_fits = (1..=DOCUMENT_ID_BYTES_MAX).contains(&options.document.len());
        if !name_fits || token_bytes > TOKEN_BYTES_MAX {
            return Err(RequestError::NameInvalid);
        }
        let max = self.core.limits.streams_max;
        let free = self.core.streams.iter().position(Option::is_none);
        let index = free.unwrap_or(self.core.streams.len());
        if index >= max {
            return Err(RequestError::TooManyStreams { max });
        }
        if free.is_none() {
            self.core.streams.push(None);
        }
        let id = StreamId(u32::try_from(index).map_err(|_| RequestError::TooManyStreams { max })?);
        if let Some(slot) = self.core.streams.get_mut(index) {
            *slot = Some(Stream::new(options));
        }
        self.core.send_open(id);
        Ok(id)
    }

    /// Opens a stream again that the server refused or ended; with another token, if one is given.
    ///
    /// # Errors
    /// There is no such stream, or it is open.
    pub fn reopen(&mut self, id: StreamId, token: Option<String>) -> Result<(), RequestError> {
        let stream = self.core.stream_mut(id).ok_or(RequestError::NotOpen)?;
        if stream.state != StreamState::Closed {
            return Err(RequestError::NotAsked);
        }
        if let Some(token) = token {
            stream.token = Some(token.into_boxed_str());
        }
        self.core.send_open(id);
        Ok(())
    }

    /// Closes a stream and gives back the pushes that are not acked.
    ///
    /// # Errors
    /// There is no such stream.
    pub fn close(&mut self, id: StreamId) -> Result<Vec<Push>, RequestError> {
        let stream = self.core.stream_mut(id).ok_or(RequestError::NotOpen)?;
        let before = stream.outbox.in_flight();
        stream.outbox.rewind();
        let given = stream.outbox.give_back();
        let after = stream.outbox.in_flight();
        let (state, handle) = (stream.state, stream.handle);
        stream.state = StreamState::Closing;
        self.core.settle(before, after);
        match state {
            StreamState::Closed => {
                if let Some(slot) = self.core.streams.get_mut(id.index()) {
                    *slot = None;
                }
            }
            StreamState::Opening | StreamState::Closing => {}
            StreamState::Open | StreamState::Reconciling => self.core.send_close(handle),
        }
        Ok(given)
    }

    /// Pushes changes, in causal order, all or none; kept until they are acked. `tag` comes back with the
    /// ack. Returns the push's number.
    ///
    /// # Errors
    /// The push is not one that the server takes, or the outbox is full.
    pub fn push(&mut self, id: StreamId, changes: &[&[u8]], tag: u64) -> Result<u64, RequestError> {
        let (lengths, bytes) = self.joined(changes)?;
        let stream = self.core.stream_mut(id).filter(|stream| stream.state != StreamState::Closing);
        let stream = stream.ok_or(RequestError::NotOpen)?;
        if !stream.outbox.has_room(bytes.len()) {
            return Err(RequestError::OutboxFull);
        }
        let number = stream.outbox.add(tag, lengths, bytes);
        self.core.queue(id);
        Ok(number)
    }

    /// Ends a block that [`crate::Event::Refused`] told of: pushes these changes, which the server lacks,
    /// before everything else; with none, tries the refused push again.
    ///
    /// # Errors
    /// The stream is not blocked, or a change is too large.
    pub fn supply(&mut self, id: StreamId, changes: &[&[u8]], tag: u64) -> Result<(), RequestError> {
        let blocked = self.core.stream(id).ok_or(RequestError::NotOpen)?.outbox.blocked();
        if blocked.is_none() {
            return Err(RequestError::NotAsked);
        }
        self.put_first(id, changes, tag)
    }

    /// Ends a block by taking back the refused push and all behind it, which may be built upon it.
    ///
    /// # Errors
    /// The stream is not blocked.
    pub fn give_back(&mut self, id: StreamId) -> Result<Vec<Push>, RequestError> {
        let stream = self.core.stream_mut(id).ok_or(RequestError::NotOpen)?;
        if stream.outbox.blocked().is_none() {
            return Err(RequestError::NotAsked);
        }
        Ok(stream.outbox.give_back())
    }

    /// Answers [`crate::Event::Reconcile`] with this member's clock and with the changes that the server lacks
    /// by its own, in causal order; they are pushed before what waits in the outbox, under `tag`.
    ///
    /// # Errors
    /// The stream did not ask, the clock is too long, or a change too large.
    pub fn reconcile(
        &mut self,
        id: StreamId,
        clock: &[ClockEntry],
        lacking: &[&[u8]],
        tag: u64,
    ) -> Result<(), RequestError> {
        if clock.len() > CLOCK_ENTRIES_MAX {
            return Err(RequestError::TooLarge { given: clock.len(), max: CLOCK_ENTRIES_MAX });
        }
        let stream = self.core.stream(id).ok_or(RequestError::NotOpen)?;
        if stream.state != StreamState::Reconciling || !stream.clock_asked {
            return Err(RequestError::NotAsked);
        }
        self.put_first(id, lacking, tag)?;
        let Some(stream) = self.core.stream_mut(id) else { return Ok(()) };
        stream.clock_asked = false;
        stream.state = StreamState::Open;
        let handle = stream.handle;
        let cursor = stream.other_log.take().unwrap_or(Cursor { epoch: 0, seq: 0, chain: [0; 32] });
        let mut rest = clock;
        loop {
            let (now, later) = rest.split_at(rest.len().min(RECONCILE_ENTRIES_MAX));
            let frame = Reconcile { cursor, more: !later.is_empty(), clock: now.to_vec() };
            encode_into(&mut self.core.frames, handle, &frame, &[]);
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Puts changes before everything in the outbox, in as many pushes as it takes.
    fn put_first(&mut self, id: StreamId, changes: &[&[u8]], tag: u64) -> Result<(), RequestError> {
        let mut pushes = Vec::new();
        let mut rest = changes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.fitting(rest));
            pushes.push(self.joined(now)?);
            rest = later;
        }
        let stream = self.core.stream_mut(id).ok_or(RequestError::NotOpen)?;
        let before = stream.outbox.in_flight();
        stream.outbox.supply(tag, pushes);
        let after = stream.outbox.in_flight();
        self.core.settle(before, after);
        self.core.queue(id);
        Ok(())
    }

    /// How many of these changes fit into one push; at least one, which may still be too large.
    pub(crate) fn fitting(&self, changes: &[&[u8]]) -> usize {
        let limits = self.core.limits;
        let mut bytes = 0;
        let fits = |change: &&&[u8]| {
            bytes += change.len();
            bytes <= limits.push_bytes_max
        };
        changes.iter().take(limits.push_changes_max).take_while(fits).count().max(1)
    }

    /// Brings a new token for an open stream; [`crate::Event::RightsChanged`] repeats the number returned.
    ///
    /// # Errors
    /// The stream is not open, or the token too long.
    pub fn renew(&mut self, id: StreamId, token: String) -> Result<u32, RequestError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(RequestError::NameInvalid);
        }
        let request = self.core.next_request();
        let handle = self.core.open_handle(id)?;
        if let Some(stream) = self.core.stream_mut(id) {
            stream.token = Some(token.clone().into_boxed_str());
        }
        encode_into(&mut self.core.frames, handle, &Renew { request, token }, &[]);
        Ok(request)
    }

    /// Sends a message to the members that are here now. It is not kept.
    ///
    /// # Errors
    /// The stream is not open at the moment, or the message too large.
    pub fn broadcast(&mut self, id: StreamId, topic: &str, payload: &[u8]) -> Result<(), RequestError> {
        fits(topic.len(), BROADCAST_TOPIC_BYTES_MAX)?;
        fits(payload.len(), self.core.limits.broadcast_bytes_max)?;
        let handle = self.core.open_handle(id)?;
        let message = BroadcastSend { topic: topic.to_owned() };
        encode_into(&mut self.core.frames, handle, &message, &[payload]);
        Ok(())
    }

    /// Asks the server for a [`crate::Event::Pong`].
    ///
    /// # Errors
    /// There is no connection.
    pub fn ping(&mut self, nonce: u64) -> Result<(), RequestError> {
        if !self.is_ready() {
            return Err(RequestError::NotConnected);
        }
        encode_into(&mut self.core.frames, 0, &Ping { nonce }, &[]);
        Ok(())
    }

    /// Where a stream stands.
    pub fn state(&self, id: StreamId) -> Option<StreamState> {
        self.core.stream(id).map(|stream| stream.state)
    }

    /// Where a stream stands: to be stored with the copy of the document. At position 0 it says of which epoch the
    /// copy is: own changes may be acked and in it before anything that stands in front of them has come.
    pub fn cursor(&self, id: StreamId) -> Option<Cursor> {
        self.core.stream(id)?.progress.stored()
    }

    /// The pushes of a stream that are not acked: to be stored by those who want to survive their own crash.
    pub fn unacked(&self, id: StreamId) -> impl Iterator<Item = &Push> {
        self.core.stream(id).into_iter().flat_map(|stream| stream.outbox.unacked())
    }

    fn joined(&self, changes: &[&[u8]]) -> Result<(Vec<u32>, Vec<u8>), RequestError> {
        let limits = self.core.limits;
        if changes.is_empty() || changes.len() > limits.push_changes_max {
            return Err(RequestError::PushCount { given: changes.len(), max: limits.push_changes_max });
        }
        let total: usize = changes.iter().map(|change| change.len()).sum();
        fits(total, limits.push_bytes_max)?;
        let mut lengths = Vec::with_capacity(changes.len());
        let mut bytes = Vec::with_capacity(total);
        for change in changes {
            fits(change.len(), limits.change_bytes_max)?;
            lengths.push(u32::try_from(change.len()).unwrap_or(u32::MAX));
            bytes.extend_from_slice(change);
        }
        Ok((lengths, bytes))
    }
}

impl Core {
    /// Asks for a stream's document, if there is a connection.
    pub(crate) fn send_open(&mut self, id: StreamId) {
        if self.phase != Phase::Ready || self.stream(id).is_none() {
            return;
        }
        let request = self.next_request();
        let Some(stream) = self.stream_mut(id) else { return };
        stream.state = StreamState::Opening;
        stream.reopens_at_ms = None;
        stream.request = request;
        let open = Open {
            request,
            rights: stream.rights.0,
            document: stream.document.as_ref().to_owned(),
            token: stream.token.as_deref().map(str::to_owned),
            cursor: stream.progress.resume(),
        };
        encode_into(&mut self.frames, 0, &open, &[]);
    }

    /// Opens streams again that the server refused or ended for a while.
    pub(crate) fn reopen_due(&mut self, now_ms: u64) {
        for index in 0..self.streams.len() {
            let id = StreamId(u32::try_from(index).unwrap_or(u32::MAX));
            let is_due = |stream: &Stream| stream.reopens_at_ms.is_some_and(|at_ms| at_ms <= now_ms);
            if self.stream(id).is_some_and(is_due) {
                self.send_open(id);
            }
        }
    }

    pub(crate) fn send_close(&mut self, handle: u32) {
        encode_into(&mut self.frames, handle, &Close { code: 0, message: String::new() }, &[]);
    }

    fn next_request(&mut self) -> u32 {
        self.last_request = self.last_request.checked_add(1).unwrap_or(1);
        self.last_request
    }

    pub(crate) fn open_handle(&self, id: StreamId) -> Result<u32, RequestError> {
        let stream = self.stream(id).ok_or(RequestError::NotOpen)?;
        match stream.state {
            StreamState::Open => Ok(stream.handle),
            StreamState::Closing => Err(RequestError::NotOpen),
            _ => Err(RequestError::NotConnected),
        }
    }
}

pub(crate) fn fits(given: usize, max: usize) -> Result<(), RequestError> {
    if given <= max { Ok(()) } else { Err(RequestError::TooLarge { given, max }) }
}
