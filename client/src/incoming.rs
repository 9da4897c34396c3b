//! What the server sends: each frame to the stream it belongs to, and to the application as an event.

use etherply_wire::kinds::{self, ArchivedClockEntry, ArchivedCursor, ClockEntry, Cursor, resume};
use etherply_wire::limits::{CLOCK_ENTRIES_MAX, SNAPSHOT_CHUNK_BYTES_MAX};
use etherply_wire::{ErrorCode, Frame, Kind, Rights, encode_into};

use crate::backoff::below;
use crate::client::{Core, Phase, StreamId};
use crate::error::{ClientError, Next, is_retryable};
use crate::event::{Changes, Event, Fault, Presences};
use crate::limits::{OPEN_RETRY_MS, SNAPSHOT_BYTES_MAX};
use crate::outbox::{InFlight, Refusal};
use crate::stream::{Assembly, Stream, StreamState};

type OnEvent<'f> = &'f mut dyn FnMut(Event<'_>);

impl Core {
    /// Takes one frame.
    pub(crate) fn frame(&mut self, bytes: &[u8], now_ms: u64, on: OnEvent<'_>) -> Result<(), ClientError> {
        let Some(frame) = Frame::parse(bytes)? else { return Ok(()) };
        let Some(kind) = frame.kind() else { return Ok(()) };
        match (self.phase, kind) {
            (Phase::Hello, Kind::Welcome) => return self.welcome(&frame, on),
            (Phase::Ready, Kind::Welcome) => return Err(ClientError::Violation("a second welcome")),
            (_, Kind::Error) => return self.error(&frame, now_ms, on),
            (_, Kind::GoingAway) => return self.going_away(&frame, on),
            (Phase::Ready, _) => {}
            _ => return Err(ClientError::Violation("a frame before the welcome")),
        }
        match kind {
            Kind::Ping => {
                let nonce = frame.body::<kinds::Ping>()?.nonce.to_native();
                encode_into(&mut self.frames, 0, &kinds::Pong { nonce }, &[]);
                Ok(())
            }
            Kind::Pong => {
                let nonce = frame.body::<kinds::Pong>()?.nonce.to_native();
                on(Event::Pong { nonce });
                Ok(())
            }
            Kind::Opened => self.opened(&frame, now_ms, on),
            _ => self.stream_frame(kind, &frame, now_ms, on),
        }
    }

    fn welcome(&mut self, frame: &Frame<'_>, on: OnEvent<'_>) -> Result<(), ClientError> {
        let welcome = frame.body::<kinds::Welcome>()?;
        if welcome.protocol != etherply_wire::PROTOCOL {
            return Err(ClientError::Violation("a protocol version that this side did not offer"));
        }
        for entry in welcome.limits.iter() {
            self.limits.announce(entry.limit.to_native(), entry.value.to_native());
        }
        self.phase = Phase::Ready;
        self.session = welcome.session;
        for index in 0..self.streams.len() {
            self.send_open(StreamId(u32::try_from(index).unwrap_or(u32::MAX)));
        }
        on(Event::Ready { session: welcome.session, server_time_ms: welcome.server_time_ms.to_native() });
        Ok(())
    }

    fn error(&mut self, frame: &Frame<'_>, now_ms: u64, on: OnEvent<'_>) -> Result<(), ClientError> {
        let error = frame.body::<kinds::Error>()?;
        let (request, code) = (error.request.to_native(), error.code.to_native());
        let fault =
            Fault { code, retry_after_ms: error.retry_after_ms.to_native(), message: error.message.as_str() };
        if request == 0 && frame.stream() == 0 {
            let message = fault.message.to_owned();
            return Err(ClientError::Server { code, retry_after_ms: fault.retry_after_ms, message });
        }
        let opening = |stream: &Stream| stream.state == StreamState::Opening && stream.request == request;
        let index = self.streams.iter().position(|slot| slot.as_ref().is_some_and(opening));
        if let Some(index) = index {
            let id = StreamId(u32::try_from(index).unwrap_or(u32::MAX));
            if let Some(stream) = self.stream_mut(id) {
                stream.state = StreamState::Closed;
            }
            let retries = self.retry_open(id, &fault, now_ms);
            on(Event::OpenFailed { stream: id, fault, retries });
            return Ok(());
        }
        let stream = self.by_handle(frame.stream());
        if let Some(stream) = stream.and_then(|id| self.stream_mut(id)) {
            stream.forget_presence(&fault);
        }
        on(Event::Failed { stream, request, fault });
        Ok(())
    }

    fn opened(&mut self, frame: &Frame<'_>, now_ms: u64, on: OnEvent<'_>) -> Result<(), ClientError> {
        let opened = frame.body::<kinds::Opened>()?;
        let (request, handle) = (opened.request.to_native(), frame.stream());
        let asked = |stream: &Stream| {
            matches!(stream.state, StreamState::Opening | StreamState::Closing) && stream.request == request
        };
        let index = self.streams.iter().position(|slot| slot.as_ref().is_some_and(asked));
        let index = index.ok_or(ClientError::Violation("a document was opened that was not asked for"))?;
        let id = StreamId(u32::try_from(index).unwrap_or(u32::MAX));
        let Err(at) = self.handles.binary_search_by_key(&handle, |&(handle, _)| handle) else {
            return Err(ClientError::Violation("a handle that another document has"));
        };
        if handle == 0 {
            return Err(ClientError::Violation("a document's handle is 0"));
        }
        self.handles.insert(at, (handle, id));
        let Some(stream) = self.stream_mut(id) else { return Ok(()) };
        stream.handle = handle;
        if stream.state == StreamState::Closing {
            // It was closed before the answer to its open came.
            self.send_close(handle);
            return Ok(());
        }
        let cursor = owned_cursor(&opened.cursor);
        stream.state = StreamState::Open;
        // Own changes may be acked before anything that stands in front of them has come. Then there is no cursor that
        // would tell the server of the epoch that they were written in, and that epoch may be over.
        let (before, had_cursor) = (stream.progress.epoch(), stream.progress.resume().is_some());
        let begins_anew = match opened.resume {
            resume::RESET => had_cursor,
            resume::START | resume::SNAPSHOT => !had_cursor && before != 0 && before != cursor.epoch,
            _ => false,
        };
        match opened.resume {
            _ if begins_anew => {
                stream.progress.restart(cursor.epoch);
                stream.outbox.rewind();
                let unacked = stream.outbox.give_back();
                on(Event::Reset { stream: id, cursor, unacked });
            }
            resume::CURSOR if stream.progress.epoch() == cursor.epoch && stream.progress.seq() > 0 => {}
            resume::START | resume::SNAPSHOT => stream.progress.restart(cursor.epoch),
            resume::RECONCILE => {
                stream.other_log = stream.progress.resume();
                stream.progress.restart(cursor.epoch);
                stream.state = StreamState::Reconciling;
            }
            _ => return Err(ClientError::Violation("a way to resume that this side did not ask for")),
        }
        let rights = Rights(opened.rights.to_native());
        let Some(stream) = self.stream_mut(id) else { return Ok(()) };
        if rights.has(Rights::WRITE) {
            stream.outbox.may_write();
        }
        if stream.carries_presence(now_ms) {
            self.presence_due.push(id);
        }
        self.queue(id);
        on(Event::Opened {
            stream: id,
            rights,
            resume: opened.resume,
            expires_at_ms: opened.expires_at_ms.to_native(),
            cursor,
        });
        Ok(())
    }

    fn stream_frame(
        &mut self,
        kind: Kind,
        frame: &Frame<'_>,
        now_ms: u64,
        on: OnEvent<'_>,
    ) -> Result<(), ClientError> {
        let id = self.by_handle(frame.stream());
        let id = id.ok_or(ClientError::Violation("a frame for a document that is not open"))?;
        if kind == Kind::Close {
            return self.closed(id, frame, now_ms, on);
        }
        let session = self.session;
        let Some(stream) = self.stream_mut(id) else { return Ok(()) };
        if stream.state == StreamState::Closing {
            return Ok(());
        }
        let before = stream.outbox.in_flight();
        let done = match kind {
            Kind::Changes => stream.changes(id, frame, on),
            Kind::Snapshot => stream.snapshot(id, frame, on),
            Kind::Ack => stream.ack(id, frame, on),
            Kind::Refused => stream.refused(id, frame, now_ms, on),
            Kind::Reconcile => stream.reconcile(id, frame, on),
            Kind::RightsChanged => stream.rights_changed(id, frame, on),
            Kind::PresenceUpdate | Kind::PresenceLeave | Kind::Broadcast | Kind::BroadcastGap => {
                members(id, session, kind, frame, on)
            }
            _ => Err(ClientError::Violation("a frame that only clients send")),
        };
        let after = stream.outbox.in_flight();
        let is_changed = before != after || kind == Kind::RightsChanged;
        let may_push = is_changed && stream.outbox.wakes_at_ms().is_some();
        // Its presence ended with its rights; they may be back.
        let has_presence =
            |body: &kinds::ArchivedRightsChanged| Rights(body.rights.to_native()).has(Rights::PRESENCE);
        let is_present = kind == Kind::RightsChanged
            && frame.body::<kinds::RightsChanged>().is_ok_and(has_presence)
            && stream.carries_presence(now_ms);
        self.settle(before, after);
        if is_present {
            self.presence_due.push(id);
        }
        if may_push {
            self.queue(id);
        }
        done
    }

    /// Follows a change of one outbox in the whole connection's window.
    pub(crate) fn settle(&mut self, before: InFlight, after: InFlight) {
        self.in_flight.pushes = (self.in_flight.pushes + after.pushes).saturating_sub(before.pushes);
        self.in_flight.bytes = (self.in_flight.bytes + after.bytes).saturating_sub(before.bytes);
    }

    fn closed(
        &mut self,
        id: StreamId,
        frame: &Frame<'_>,
        now_ms: u64,
        on: OnEvent<'_>,
    ) -> Result<(), ClientError> {
        let close = frame.body::<kinds::Close>()?;
        self.handles.retain(|&(_, other)| other != id);
        let Some(stream) = self.stream_mut(id) else { return Ok(()) };
        let by_us = stream.state == StreamState::Closing;
        let before = stream.outbox.in_flight();
        stream.disconnected();
        let after = stream.outbox.in_flight();
        self.settle(before, after);
        if by_us && let Some(slot) = self.streams.get_mut(id.index()) {
            *slot = None;
        }
        let fault =
            Fault { code: close.code.to_native(), retry_after_ms: 0, message: close.message.as_str() };
        let retries = !by_us && self.retry_open(id, &fault, now_ms);
        on(Event::Closed { stream: id, fault, retries });
        Ok(())
    }

    /// Plans to open a stream again that the server refused or ended, if that may help. The time is spread, so
    /// that a document's members do not all come back at once.
    fn retry_open(&mut self, id: StreamId, fault: &Fault<'_>, now_ms: u64) -> bool {
        let retries = is_retryable(fault.code);
        let wait_ms = u64::from(fault.retry_after_ms).max(OPEN_RETRY_MS);
        let at_ms = now_ms.saturating_add(wait_ms).saturating_add(below(wait_ms, self.random.next()));
        if let Some(stream) = self.stream_mut(id) {
            stream.reopens_at_ms = retries.then_some(at_ms);
        }
        retries
    }

    fn going_away(&mut self, frame: &Frame<'_>, on: OnEvent<'_>) -> Result<(), ClientError> {
        let body = frame.body::<kinds::GoingAway>()?;
        let (after_ms, jitter_ms) = (body.retry_after_ms.to_native(), body.retry_jitter_ms.to_native());
        let fault =
            Fault { code: body.code.to_native(), retry_after_ms: after_ms, message: body.message.as_str() };
        self.next = self.next.and(Next::Reconnect { after_ms, jitter_ms });
        on(Event::GoingAway { fault, retry_jitter_ms: jitter_ms });
        Ok(())
    }
}

impl Stream {
    fn changes(&mut self, id: StreamId, frame: &Frame<'_>, on: OnEvent<'_>) -> Result<(), ClientError> {
        let body = frame.body::<kinds::Changes>()?;
        let total: u64 = body.lengths.iter().map(|length| u64::from(length.to_native())).sum();
        if total != frame.tail().len() as u64 {
            return Err(ClientError::Violation("changes whose lengths are not those of their bytes"));
        }
        if self.state == StreamState::Reconciling {
            return Err(ClientError::Violation("changes before this side's clock"));
        }
        // If a snapshot was on its way, the server could not go on with it, and sends the log instead.
        self.snapshot = None;
        let (cursor, count) = (owned_cursor(&body.cursor), body.lengths.len() as u64);
        let duplicates = self.progress.changes(body.after_seq.to_native(), cursor, count)?;
        self.outbox.passed(self.progress.seq());
        on(Event::Changes { stream: id, changes: Changes { body, tail: frame.tail() }, duplicates });
        Ok(())
    }

    fn snapshot(&mut self, id: StreamId, frame: &Frame<'_>, on: OnEvent<'_>) -> Result<(), ClientError> {
        let body = frame.body::<kinds::Snapshot>()?;
        let (cursor, offset) = (owned_cursor(&body.cursor), body.offset.to_native());
        let total_bytes = usize::try_from(body.total_bytes.to_native()).unwrap_or(usize::MAX);
        if total_bytes > SNAPSHOT_BYTES_MAX || frame.tail().len() > SNAPSHOT_CHUNK_BYTES_MAX {
            return Err(ClientError::Violation("a snapshot that is larger than this side takes"));
        }
        let assembly = self.snapshot.get_or_insert_with(|| {
            Box::new(Assembly { cursor, total_bytes, bytes: Vec::with_capacity(total_bytes.min(1 << 20)) })
        });
        if offset == 0 {
            // A newer snapshot took the place of one that was under way.
            *assembly.as_mut() = Assembly { cursor, total_bytes, bytes: Vec::new() };
        }
        let fits = assembly.cursor == cursor
            && assembly.total_bytes == total_bytes
            && assembly.bytes.len() as u64 == offset
            && assembly.bytes.len() + frame.tail().len() <= total_bytes;
        if !fits {
            return Err(ClientError::Violation("pieces of a snapshot that do not fit together"));
        }
        assembly.bytes.extend_from_slice(frame.tail());
        if assembly.bytes.len() < total_bytes {
            return Ok(());
        }
        self.progress.snapshot(cursor);
        self.outbox.passed(self.progress.seq());
        if let Some(whole) = self.snapshot.take() {
            on(Event::Snapshot { stream: id, cursor, bytes: whole.bytes });
        }
        Ok(())
    }

    fn ack(&mut self, id: StreamId, frame: &Frame<'_>, on: OnEvent<'_>) -> Result<(), ClientError> {
        let body = frame.body::<kinds::Ack>()?;
        let (after_seq, cursor) = (body.after_seq.to_native(), owned_cursor(&body.cursor));
        self.progress.ack(after_seq, cursor)?;
        let is_ahead = cursor.seq > after_seq && cursor.seq > self.progress.seq();
        let acked = self.outbox.acked(body.push.to_native(), is_ahead.then_some(cursor.seq));
        let (push, is_news) =
            acked.ok_or(ClientError::Violation("an ack for a push that is not in flight"))?;
        self.outbox.passed(self.progress.seq());
        if !is_news {
            return Ok(());
        }
        on(Event::Acked { stream: id, push, added: cursor.seq.saturating_sub(after_seq) });
        Ok(())
    }

    fn refused(
        &mut self,
        id: StreamId,
        frame: &Frame<'_>,
        now_ms: u64,
        on: OnEvent<'_>,
    ) -> Result<(), ClientError> {
        let body = frame.body::<kinds::Refused>()?;
        let fault = Fault {
            code: body.code.to_native(),
            retry_after_ms: body.retry_after_ms.to_native(),
            message: body.message.as_str(),
        };
        let (push, generation) = (body.push.to_native(), body.generation.to_native());
        let not_before_ms = now_ms.saturating_add(u64::from(fault.retry_after_ms));
        let refusal =
            self.outbox.refused(push, generation, ErrorCode::from_number(fault.code), not_before_ms);
        if refusal == Refusal::Stale {
            return Ok(());
        }
        on(Event::Refused {
            stream: id,
            push,
            index: body.index.to_native(),
            fault,
            blocks: refusal == Refusal::Blocks,
            clock: body.clock.iter().map(owned_entry).collect(),
            clock_complete: body.clock_complete,
            genesis: frame.tail(),
        });
        Ok(())
    }

    fn reconcile(&mut self, id: StreamId, frame: &Frame<'_>, on: OnEvent<'_>) -> Result<(), ClientError> {
        let body = frame.body::<kinds::Reconcile>()?;
        if self.state != StreamState::Reconciling || self.clock_asked {
            return Err(ClientError::Violation("a clock that this side does not wait for"));
        }
        if self.clock.len() + body.clock.len() > CLOCK_ENTRIES_MAX {
            return Err(ClientError::Violation("a clock with more entries than a clock may have"));
        }
        self.clock.extend(body.clock.iter().map(owned_entry));
        if !body.more {
            self.clock_asked = true;
            on(Event::Reconcile { stream: id, clock: std::mem::take(&mut self.clock) });
        }
        Ok(())
    }

    fn rights_changed(
        &mut self,
        id: StreamId,
        frame: &Frame<'_>,
        on: OnEvent<'_>,
    ) -> Result<(), ClientError> {
        let body = frame.body::<kinds::RightsChanged>()?;
        let rights = Rights(body.rights.to_native());
        if rights.has(Rights::WRITE) {
            self.outbox.may_write();
        }
        on(Event::RightsChanged {
            stream: id,
            request: body.request.to_native(),
            rights,
            code: body.code.to_native(),
            expires_at_ms: body.expires_at_ms.to_native(),
        });
        Ok(())
    }
}

/// Presence and broadcasts: passed on as they are.
fn members(
    id: StreamId,
    own: [u8; 16],
    kind: Kind,
    frame: &Frame<'_>,
    on: OnEvent<'_>,
) -> Result<(), ClientError> {
    match kind {
        Kind::PresenceUpdate => {
            let body = frame.body::<kinds::PresenceUpdate>()?;
            on(Event::Presence {
                stream: id,
                full: body.full,
                entries: Presences { entries: body.entries.as_slice(), own },
            });
        }
        Kind::PresenceLeave => {
            let body = frame.body::<kinds::PresenceLeave>()?;
            on(Event::PresenceLeft { stream: id, members: body.members.as_slice() });
        }
        Kind::BroadcastGap => {
            let body = frame.body::<kinds::BroadcastGap>()?;
            let (first, last) = (body.first.to_native(), body.last.to_native());
            let missing = last.saturating_sub(first).saturating_add(1);
            on(Event::BroadcastGap { stream: id, missing });
        }
        _ => {
            let body = frame.body::<kinds::Broadcast>()?;
            let (member, topic) = (body.member, body.topic.as_str());
            on(Event::Broadcast { stream: id, member, topic, payload: frame.tail() });
        }
    }
    Ok(())
}

fn owned_cursor(cursor: &ArchivedCursor) -> Cursor {
    Cursor { epoch: cursor.epoch.to_native(), seq: cursor.seq.to_native(), chain: cursor.chain }
}

fn owned_entry(entry: &ArchivedClockEntry) -> ClockEntry {
    ClockEntry { actor: entry.actor.as_slice().to_vec(), seq: entry.seq.to_native(), hash: entry.hash }
}
