//! Bytes in: one task a connection, which reads into the core's shared buffer and acts on whole frames.
//!
//! A connection owns a buffer only while part of a frame is there, and no more of it than has arrived.

use std::cell::RefMut;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use etherply_wire::limits::{FRAME_BYTES_MAX, HELLO_FRAME_BYTES_MAX};
use etherply_wire::websocket::handshake::{self, HandshakeError};
use etherply_wire::websocket::{Decoder, Event, OpCode, Role, control_into};
use etherply_wire::{ErrorCode, MAGIC, frame_length};

use super::connection::{Connection, Control, Stage, Transport};
use super::contain::{self, Scope};
use super::core::{Core, State};
use super::limits::{
    CORE_IN_FLIGHT_BYTES_MAX, CORE_PARTIAL_BYTES_MAX, DRAIN_TIMEOUT_S, FINISH_TIMEOUT_S, PARTIAL_BYTES_FREE,
    READ_BYTES, READS_PER_TURN_MAX, UNAUTHENTICATED_FRAME_BYTES_MAX,
};
use super::secure::{self, Read};
use super::tls::Security;
use super::{handover, pace, proxy, session};
use crate::allowlist::{Allowlist, Unwelcome};
use crate::runtime::Stream;

/// Answers a close frame without a code.
const CLOSE_NORMAL: u16 = 1000;

/// Serves one connection to its end.
pub(super) async fn serve(core: Rc<Core>, id: u64, mut stream: Stream, mut carry: Vec<u8>) {
    let mut header = core.state.borrow_mut().connections.get_mut(id).and_then(|it| it.proxy_header.take());
    poll_fn(|context| {
        if let Some(header) = &mut header {
            match proxy::poll_header(&core, context, id, &mut stream, header) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(false) => return Poll::Ready(()),
                Poll::Ready(true) => {}
            }
        }
        header = None;
        // The engine contains its own panics: what can be half changed here is the connection's own.
        let poll =
            catch_unwind(AssertUnwindSafe(|| poll_connection(&core, context, id, &mut stream, &mut carry)));
        poll.unwrap_or_else(|_| {
            contain::count(&core.state.borrow(), Scope::Connection(id));
            Poll::Ready(())
        })
    })
    .await;
    if !handover::depart(&core, id, &stream, &mut carry) {
        core.state.borrow_mut().disconnect(id);
    }
}

fn poll_connection(
    core: &Rc<Core>,
    context: &mut Context<'_>,
    id: u64,
    stream: &mut Stream,
    carry: &mut Vec<u8>,
) -> Poll<()> {
    let mut state = core.state.borrow_mut();
    if poll_unsent(&mut state, context, id, stream).is_ready() {
        return Poll::Ready(());
    }
    for _ in 0..READS_PER_TURN_MAX {
        let is_core_full = state.in_flight_bytes >= CORE_IN_FLIGHT_BYTES_MAX;
        let stopping = state.stopping.is_some();
        let Some(connection) = state.connections.get_mut(id) else { return Poll::Ready(()) };
        if connection.stage == Stage::Dead || connection.moving.is_some() {
            return Poll::Ready(());
        }
        let waker = context.waker();
        if !connection.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            connection.waker = Some(waker.clone());
        }
        let is_ending = connection.is_ending();
        if connection.pace.is_held() && !is_ending {
            drop(state);
            if pace::is_held_back(core, id) {
                return Poll::Pending;
            }
            state = core.state.borrow_mut();
            continue;
        }
        let was_paused = connection.is_paused;
        connection.is_paused = !is_ending && (connection.is_at_limit() || is_core_full || stopping);
        if connection.is_paused {
            if is_core_full {
                state.paused.insert(id);
            }
            return Poll::Pending;
        }
        if was_paused {
            // The rest of a frame may have waited meanwhile.
            let now_s = state.now_s();
            if let Some(connection) = state.connections.get_mut(id) {
                connection.partial_since_s = now_s;
            }
        }
        let Some(connection) = state.connections.get_mut(id) else { return Poll::Ready(()) };
        if connection.is_at_end {
            // It ends when everything was said: see `flush`.
            return Poll::Pending;
        }
        if std::mem::take(&mut connection.has_backlog) {
            take_in(&mut state, id, carry, &mut []);
            continue;
        }
        let is_secure = !matches!(connection.security, Security::Plain);
        let mut scratch = core.scratch.borrow_mut();
        if is_secure && !is_ending {
            match secure::poll(&mut state, context, id, stream, carry, &mut scratch) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Read::Ended) => return Poll::Ready(()),
                Poll::Ready(Read::AtEnd) => return reach_end(&mut state, id),
                Poll::Ready(Read::More) => continue,
            }
        }
        match poll_bytes(stream, context, carry, &mut scratch) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(0)) => {
                *carry = Vec::new();
                return reach_end(&mut state, id);
            }
            Poll::Ready(Ok(_)) if is_ending => *carry = Vec::new(),
            Poll::Ready(Ok(bytes)) => {
                take_in(&mut state, id, carry, scratch.get_mut(..bytes).unwrap_or_default());
            }
        }
    }
    // The others' turn, then this one's again: also if it is to move, which it does then.
    context.waker().wake_by_ref();
    Poll::Pending
}

/// The other side has closed its half and may still read: what it asked for is answered. Ready if there is
/// nothing to say.
fn reach_end(state: &mut State, id: u64) -> Poll<()> {
    let now_s = state.now_s();
    let Some(connection) = state.connections.get_mut(id) else { return Poll::Ready(()) };
    connection.is_at_end = true;
    if connection.is_settled() && connection.control.is_empty() && connection.unsent.is_empty() {
        return Poll::Ready(());
    }
    if !connection.is_ending() {
        connection.begin_finishing(None, now_s + FINISH_TIMEOUT_S);
    }
    state.mark_dirty(id);
    Poll::Pending
}

/// Writes what an earlier send left over. Ready if the connection has ended.
fn poll_unsent(
    state: &mut RefMut<'_, State>,
    context: &mut Context<'_>,
    id: u64,
    stream: &mut Stream,
) -> Poll<()> {
    let now_s = state.now_s();
    loop {
        let Some(connection) = state.connections.get_mut(id) else { return Poll::Ready(()) };
        if connection.unsent.is_empty() {
            return Poll::Pending;
        }
        let piece = connection.unsent.front().cloned().unwrap_or_default();
        match stream.poll_write(context, &piece) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(bytes)) => {
                connection.took_s = now_s;
                connection.unsent.pop_front();
                if bytes < piece.len() {
                    connection.unsent.push_front(piece.slice(bytes..));
                }
                if connection.unsent.is_empty() {
                    connection.unsent = VecDeque::new();
                    connection.is_blocked = false;
                    state.setup.metrics.blocked.dec();
                    state.mark_dirty(id);
                }
            }
        }
    }
}

/// Reads behind the part of a frame that is there already. A small part moves to the front of the shared
/// buffer, which then holds both; how many bytes of that buffer are in use comes back.
fn poll_bytes(
    stream: &mut Stream,
    context: &mut Context<'_>,
    carry: &mut Vec<u8>,
    scratch: &mut [u8],
) -> Poll<std::io::Result<usize>> {
    let held = carry.len();
    if held < READ_BYTES / 2 {
        let (front, rest) = scratch.split_at_mut(held);
        front.copy_from_slice(carry);
        let poll = stream.poll_read(context, rest);
        return poll.map_ok(|bytes| {
            if bytes == 0 {
                return 0;
            }
            *carry = Vec::new();
            held + bytes
        });
    }
    // Grown as bytes arrive, not as a header promises.
    let poll = stream.poll_read(context, scratch);
    poll.map_ok(|bytes| {
        carry.extend_from_slice(scratch.get(..bytes).unwrap_or_default());
        // Told apart from an end; the bytes themselves are with the rest.
        bytes.min(1)
    })
}

/// Acts on what was read, and keeps what is not a whole frame yet. If something was kept already, what was
/// read stands behind it.
pub(super) fn take_in(state: &mut RefMut<'_, State>, id: u64, carry: &mut Vec<u8>, read: &mut [u8]) {
    if carry.is_empty() {
        let consumed = consume(state, id, read);
        pace::pay(state, id, consumed);
        carry.extend_from_slice(read.get(consumed..).unwrap_or_default());
    } else {
        let consumed = consume(state, id, carry);
        pace::pay(state, id, consumed);
        carry.drain(..consumed.min(carry.len()));
        if carry.capacity() > READ_BYTES + 2 * carry.len() {
            carry.shrink_to_fit();
        }
    }
    bound_partial_frames(state, id, carry);
}

/// Counts what a connection holds of frames that are not whole. Beyond the core's limit, those that hold much
/// are ended.
fn bound_partial_frames(state: &mut RefMut<'_, State>, id: u64, carry: &Vec<u8>) {
    let State { connections, setup, .. } = &mut **state;
    let Some(connection) = connections.get_mut(id) else { return };
    let fragments_bytes = match &connection.transport {
        Transport::WebSocket(decoder) => decoder.held_bytes(),
        Transport::Unknown | Transport::Tcp => 0,
    };
    let (sealed_bytes, sealed_memory_bytes) = match &connection.security {
        Security::Tls(tls) => tls.held_bytes(),
        Security::Plain | Security::Expected => (0, 0),
    };
    let arrived = carry.len() + fragments_bytes + sealed_bytes;
    if std::mem::replace(&mut connection.arrived_bytes, arrived) == 0 && arrived > 0 {
        connection.partial_since_s = setup.now_s();
    }
    let held = carry.capacity() + fragments_bytes + sealed_memory_bytes;
    let before = std::mem::replace(&mut connection.partial_bytes, held);
    state.partial_bytes = state.partial_bytes.saturating_sub(before) + held;
    if held > PARTIAL_BYTES_FREE && state.partial_bytes > CORE_PARTIAL_BYTES_MAX {
        let message =
            "the server holds too many frames that have arrived in part: send smaller ones, or later";
        state.fail(id, ErrorCode::Overloaded, 0, message);
    }
}

/// Acts on all whole frames; how many bytes they were.
fn consume(state: &mut State, id: u64, bytes: &mut [u8]) -> usize {
    let mut consumed = 0;
    loop {
        let Some(rest) = bytes.get_mut(consumed..).filter(|rest| !rest.is_empty()) else { return consumed };
        let Some(connection) = state.connections.get_mut(id) else { return bytes.len() };
        if connection.is_ending() {
            return bytes.len();
        }
        if connection.moving.is_some() {
            // The rest moves with it.
            return consumed;
        }
        if connection.is_at_limit() {
            // The rest waits until some of what is under way is answered.
            connection.has_backlog = true;
            return consumed;
        }
        let used = match connection.transport {
            Transport::Unknown => greet(state, id, rest),
            Transport::Tcp => take_frame(state, id, rest),
            Transport::WebSocket(_) => take_message(state, id, rest),
        };
        match used {
            Some(used) => consumed += used,
            None => return consumed,
        }
    }
}

/// Finds out what the connection speaks. `None` if that takes more bytes.
fn greet(state: &mut State, id: u64, bytes: &[u8]) -> Option<usize> {
    let connection = state.connections.get_mut(id)?;
    if !secure::is_agreed(connection, bytes) {
        connection.stage = Stage::Dead;
        return Some(bytes.len());
    }
    if bytes.first() == MAGIC.first() {
        let (magic, _) = bytes.split_first_chunk::<8>()?;
        if *magic == MAGIC {
            connection.transport = Transport::Tcp;
            session::turn_away(state, id);
        } else {
            connection.stage = Stage::Dead;
        }
        return Some(MAGIC.len());
    }
    let now_s = state.now_s();
    let State { connections, setup, .. } = state;
    let connection = connections.get_mut(id)?;
    let upgrade = match handshake::parse_upgrade(bytes) {
        Ok(None) => return None,
        Ok(Some(upgrade)) => welcome(&setup.allowlist, upgrade),
        Err(error) => Err(error),
    };
    let refused = match upgrade {
        Ok(upgrade) => {
            let used = upgrade.head_bytes;
            connection.push_control(Control::Raw(Bytes::from(handshake::response(&upgrade))));
            connection.transport = Transport::WebSocket(Decoder::new(Role::Server, HELLO_FRAME_BYTES_MAX));
            session::turn_away(state, id);
            state.mark_dirty(id);
            return Some(used);
        }
        Err(error) => error,
    };
    let reason = match refused {
        HandshakeError::HostNotAllowed => "host",
        HandshakeError::OriginNotAllowed => "origin",
        _ => "handshake",
    };
    setup.metrics.rejected.with_label_values(&[reason]).inc();
    tracing::debug!(peer = id, "an HTTP request is refused: {refused}");
    connection.push_control(Control::Raw(Bytes::from(handshake::refusal(&refused))));
    connection.begin_draining(now_s + DRAIN_TIMEOUT_S);
    state.mark_dirty(id);
    Some(bytes.len())
}

/// An upgrade that the standard allows, if the operator does too.
fn welcome<'b>(
    allowlist: &Allowlist,
    upgrade: handshake::Upgrade<'b>,
) -> Result<handshake::Upgrade<'b>, HandshakeError> {
    let refused = match allowlist.check(upgrade.host, upgrade.origin) {
        Ok(()) => return Ok(upgrade),
        Err(Unwelcome::Host) => HandshakeError::HostNotAllowed,
        Err(Unwelcome::Origin) => HandshakeError::OriginNotAllowed,
    };
    tracing::debug!(host = upgrade.host, origin = upgrade.origin, "{refused}");
    Err(refused)
}

/// The largest frame that a connection may send now.
fn frame_bytes_max(connection: &Connection, asks_for_tokens: bool) -> usize {
    match connection.stage {
        Stage::Ready if asks_for_tokens && connection.subject.is_none() => UNAUTHENTICATED_FRAME_BYTES_MAX,
        Stage::Ready => FRAME_BYTES_MAX,
        _ => HELLO_FRAME_BYTES_MAX,
    }
}

fn take_frame(state: &mut State, id: u64, bytes: &[u8]) -> Option<usize> {
    let asks_for_tokens = state.gate.asks();
    let max = frame_bytes_max(state.connections.get_mut(id)?, asks_for_tokens);
    match frame_length(bytes, max) {
        Ok(None) => None,
        Ok(Some(length)) => {
            let frame = bytes.get(..length)?;
            session::frame(state, id, frame);
            Some(length)
        }
        Err(error) => {
            state.fail(id, error.code(), 0, &error.to_string());
            Some(bytes.len())
        }
    }
}

fn take_message(state: &mut State, id: u64, bytes: &mut [u8]) -> Option<usize> {
    let given = bytes.len();
    let now_s = state.now_s();
    let connection = state.connections.get_mut(id)?;
    let Transport::WebSocket(decoder) = &mut connection.transport else { return None };
    let decoded = match decoder.next(bytes) {
        Ok(decoded) => decoded,
        Err(error) => {
            let close = etherply_wire::websocket::close_frame(error.close_code(), &error.to_string(), None);
            state.setup.metrics.failed.with_label_values(&[error.code().name()]).inc();
            connection.push_control(Control::Raw(Bytes::from(close)));
            connection.begin_draining(now_s + DRAIN_TIMEOUT_S);
            state.mark_dirty(id);
            return Some(given);
        }
    };
    let consumed = decoded.consumed;
    match decoded.event {
        None if consumed == 0 => return None,
        None => {}
        Some(Event::Message(frame)) => {
            session::frame(state, id, &frame);
            // A hello raises what the connection may send, and a token does.
            let asks_for_tokens = state.gate.asks();
            let connection = state.connections.get_mut(id)?;
            let max = frame_bytes_max(connection, asks_for_tokens);
            if let Transport::WebSocket(decoder) = &mut connection.transport {
                decoder.set_message_bytes_max(max);
            }
        }
        Some(Event::Text) => {
            let message = "EtherPly speaks binary messages only: set binaryType and send an ArrayBuffer";
            state.fail(id, ErrorCode::TextNotSupported, 0, message);
        }
        Some(Event::Ping(payload)) => {
            let mut pong = Vec::with_capacity(payload.len() + 2);
            control_into(&mut pong, OpCode::Pong, payload, None);
            connection.hear(now_s);
            connection.push_control(Control::Raw(Bytes::from(pong)));
            state.mark_dirty(id);
        }
        Some(Event::Pong(_)) => connection.hear(now_s),
        Some(Event::Close { code, .. }) => {
            // Answered with its code (RFC 6455, 5.5.1), behind the answers to what came before it.
            connection.begin_finishing(Some(code.unwrap_or(CLOSE_NORMAL)), now_s + FINISH_TIMEOUT_S);
            state.mark_dirty(id);
        }
    }
    Some(consumed)
}
