//! This member's presence: the state it set last, sent when there is room for it, and again on another
//! connection. Presence of others goes to the application as it comes.

use etherply_wire::ErrorCode;
use etherply_wire::frame::encode_into;
use etherply_wire::kinds::{PresenceLeave, PresenceSet};
use etherply_wire::limits::PRESENCE_TTL_MS_MIN;

use crate::client::{Client, Core, StreamId};
use crate::error::RequestError;
use crate::event::Fault;
use crate::requests::fits;
use crate::stream::{OwnPresence, Stream, StreamState};

impl Client {
    /// Sets this member's presence, which holds for `ttl_ms` from when it is sent, unless it is set again. Only
    /// the state that was set last before an output is sent. Without a connection it is kept for the next one;
    /// on later connections it is set again for what is left of its time.
    ///
    /// # Errors
    /// There is no such stream, or the state is too large.
    pub fn set_presence(&mut self, id: StreamId, state: &[u8], ttl_ms: u32) -> Result<(), RequestError> {
        fits(state.len(), self.core.limits.presence_bytes_max)?;
        let stream = self.core.stream_mut(id).filter(|stream| stream.state != StreamState::Closing);
        let stream = stream.ok_or(RequestError::NotOpen)?;
        let was_due = stream.presence.as_ref().is_some_and(|presence| presence.is_due);
        let is_due = matches!(stream.state, StreamState::Open | StreamState::Reconciling);
        let presence = OwnPresence { state: state.into(), ttl_ms, ends_at_ms: None, is_due };
        stream.presence = Some(Box::new(presence));
        if is_due && !was_due {
            self.core.presence_due.push(id);
        }
        Ok(())
    }

    /// Ends this member's presence, now and for later connections.
    ///
    /// # Errors
    /// There is no such stream.
    pub fn leave_presence(&mut self, id: StreamId) -> Result<(), RequestError> {
        let stream = self.core.stream_mut(id).filter(|stream| stream.state != StreamState::Closing);
        stream.ok_or(RequestError::NotOpen)?.presence = None;
        self.core.presence_due.retain(|&due| due != id);
        if let Ok(handle) = self.core.open_handle(id) {
            let leave = PresenceLeave { version: 0, members: Vec::new() };
            encode_into(&mut self.core.frames, handle, &leave, &[]);
        }
        Ok(())
    }
}

impl Core {
    /// Sends each presence that is due.
    pub(crate) fn presences(&mut self, now_ms: u64) {
        for id in std::mem::take(&mut self.presence_due) {
            let Some(stream) = self.streams.get_mut(id.index()).and_then(Option::as_mut) else { continue };
            let Some(presence) = &mut stream.presence else { continue };
            match stream.state {
                StreamState::Open => presence.is_due = false,
                StreamState::Reconciling => {
                    self.presence_due.push(id);
                    continue;
                }
                _ => continue,
            }
            let left_ms =
                presence.ends_at_ms.map_or(u64::from(presence.ttl_ms), |at| at.saturating_sub(now_ms));
            let ttl_ms = u32::try_from(left_ms).unwrap_or(u32::MAX);
            // What is left may be less than the server takes; a wrong time of the caller's is the server's to refuse.
            let ttl_ms = if presence.ends_at_ms.is_some() { ttl_ms.max(PRESENCE_TTL_MS_MIN) } else { ttl_ms };
            presence.ends_at_ms = Some(now_ms.saturating_add(u64::from(ttl_ms)));
            encode_into(&mut self.frames, stream.handle, &PresenceSet { ttl_ms }, &[&presence.state]);
        }
    }
}

impl Stream {
    /// Whether there is a presence to be set on a connection that just opened this stream; forgets one whose
    /// time is over.
    pub(crate) fn carries_presence(&mut self, now_ms: u64) -> bool {
        let is_over = |own: &mut Box<OwnPresence>| own.ends_at_ms.is_some_and(|at_ms| at_ms <= now_ms);
        self.presence.take_if(is_over);
        self.presence.as_mut().is_some_and(|presence| !std::mem::replace(&mut presence.is_due, true))
    }

    /// What the server will refuse on every connection is not sent again.
    pub(crate) fn forget_presence(&mut self, fault: &Fault<'_>) {
        if matches!(fault.known(), Some(ErrorCode::PresenceTooLarge | ErrorCode::PresenceForbidden)) {
            self.presence = None;
        }
    }
}
