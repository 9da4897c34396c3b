//! Bytes in: one task a connection, which reads into the core's shared buffer and acts on whole frames.
//!
//! A connection owns a buffer only while part of a frame is there, and no more of it than has arrived.

use std::cell::RefMut;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use etherply_wire::limits::{FRAME_BYTES_MAX, HELLO_FRAME_BYTES_MAX};
use etherply_wire::websocket::handshake::{self, HandshakeError};
use etherply_wire::websocket::{Decoder, Event, OpCode, Role, control_into};
use etherply_wire::{ErrorCode, MAGIC, frame_length};

use super::connection::{Control, Stage, Transport};
use super::core::{Core, State};
use super::limits::{CORE_IN_FLIGHT_BYTES_MAX, DRAIN_TIMEOUT_S, READ_BYTES, READS_PER_TURN_MAX};
use super::session;
use crate::runtime::Stream;

/// Serves one connection to its end.
pub(super) async fn serve(core: Rc<Core>, id: u64, mut stream: Stream) {
    let mut carry = Vec::new();
    poll_fn(|context| {
        let poll =
            catch_unwind(AssertUnwindSafe(|| poll_connection(&core, context, id, &mut stream, &mut carry)));
        poll.unwrap_or_else(|_| {
            core.state.borrow().setup.metrics.panics.inc();
            tracing::error!(peer = id, "a connection's code panicked: the connection ends");
            Poll::Ready(())
        })
    })
    .await;
    core.state.borrow_mut().disconnect(id);
}

fn poll_connection(
    core: &Core,
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
        if connection.stage == Stage::Dead {
            return Poll::Ready(());
        }
        let waker = context.waker();
        if !connection.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            connection.waker = Some(waker.clone());
        }
        let is_draining = connection.stage == Stage::Draining;
        connection.is_paused = !is_draining && (connection.is_at_limit() || is_core_full || stopping);
        if connection.is_paused {
            if is_core_full {
                state.paused.push(id);
            }
            return Poll::Pending;
        }
        let mut scratch = core.scratch.borrow_mut();
        match poll_bytes(stream, context, carry, &mut scratch) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_) | Ok(0)) => return Poll::Ready(()),
            Poll::Ready(Ok(_)) if is_draining => carry.clear(),
            Poll::Ready(Ok(bytes)) => take_in(&mut state, id, carry, scratch, bytes),
        }
    }
    // The others' turn, then this one's again.
    context.waker().wake_by_ref();
    Poll::Pending
}

/// Writes what an earlier send left over. Ready if the connection has ended.
fn poll_unsent(
    state: &mut RefMut<'_, State>,
    context: &mut Context<'_>,
    id: u64,
    stream: &mut Stream,
) -> Poll<()> {
    loop {
        let Some(connection) = state.connections.get_mut(id) else { return Poll::Ready(()) };
        if connection.unsent.is_empty() {
            return Poll::Pending;
        }
        match stream.poll_write(context, &connection.unsent) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(bytes)) => {
                connection.unsent.drain(..bytes.min(connection.unsent.len()));
                if connection.unsent.is_empty() {
                    connection.unsent = Vec::new();
                    connection.is_blocked = false;
                    state.mark_dirty(id);
                }
            }
        }
    }
}

/// Reads behind a part of a frame that is there already, or else into the shared buffer.
fn poll_bytes(
    stream: &mut Stream,
    context: &mut Context<'_>,
    carry: &mut Vec<u8>,
    scratch: &mut [u8],
) -> Poll<std::io::Result<usize>> {
    if carry.is_empty() {
        return stream.poll_read(context, scratch);
    }
    // Grown as bytes arrive, not as a header promises.
    let held = carry.len();
    carry.resize(held + READ_BYTES.min(held.max(1024)), 0);
    let poll = stream.poll_read(context, carry.get_mut(held..).unwrap_or_default());
    let read = match &poll {
        Poll::Ready(Ok(bytes)) => *bytes,
        _ => 0,
    };
    carry.truncate(held + read);
    poll
}

/// Acts on what was read, and keeps what is not a whole frame yet.
fn take_in(
    state: &mut RefMut<'_, State>,
    id: u64,
    carry: &mut Vec<u8>,
    mut scratch: RefMut<'_, Vec<u8>>,
    bytes: usize,
) {
    if carry.is_empty() {
        let Some(read) = scratch.get_mut(..bytes) else { return };
        let consumed = consume(state, id, read);
        carry.extend_from_slice(read.get(consumed..).unwrap_or_default());
    } else {
        let consumed = consume(state, id, carry);
        carry.drain(..consumed.min(carry.len()));
        if carry.is_empty() {
            *carry = Vec::new();
        }
    }
}

/// Acts on all whole frames; how many bytes they were.
fn consume(state: &mut State, id: u64, bytes: &mut [u8]) -> usize {
    let mut consumed = 0;
    loop {
        let Some(rest) = bytes.get_mut(consumed..).filter(|rest| !rest.is_empty()) else { return consumed };
        let Some(connection) = state.connections.get_mut(id) else { return bytes.len() };
        if matches!(connection.stage, Stage::Draining | Stage::Dead) {
            return bytes.len();
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
    if bytes.first() == MAGIC.first() {
        let (magic, _) = bytes.split_first_chunk::<8>()?;
        if *magic == MAGIC {
            connection.transport = Transport::Tcp;
        } else {
            connection.stage = Stage::Dead;
        }
        return Some(MAGIC.len());
    }
    let now_s = state.now_s();
    let connection = state.connections.get_mut(id)?;
    let refused = match handshake::parse_upgrade(bytes) {
        Ok(None) => return None,
        Ok(Some(upgrade)) if !is_local_origin(&upgrade) => HandshakeError::OriginNotAllowed,
        Ok(Some(upgrade)) => {
            let used = upgrade.head_bytes;
            connection.push_control(Control::Raw(Bytes::from(handshake::response(&upgrade))));
            connection.transport = Transport::WebSocket(Decoder::new(Role::Server, HELLO_FRAME_BYTES_MAX));
            state.mark_dirty(id);
            return Some(used);
        }
        Err(error) => error,
    };
    connection.push_control(Control::Raw(Bytes::from(handshake::refusal(&refused))));
    connection.begin_draining(now_s + DRAIN_TIMEOUT_S);
    state.mark_dirty(id);
    Some(bytes.len())
}

/// Any web page can reach a loopback port. Until origins can be configured, pages from this machine may
/// connect, and programs, which send no origin.
fn is_local_origin(upgrade: &handshake::Upgrade<'_>) -> bool {
    let Some(origin) = upgrade.origin else { return true };
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    if host.eq_ignore_ascii_case(upgrade.host) {
        return true;
    }
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The largest frame that a connection may send now.
fn frame_bytes_max(stage: Stage) -> usize {
    if stage == Stage::Ready { FRAME_BYTES_MAX } else { HELLO_FRAME_BYTES_MAX }
}

fn take_frame(state: &mut State, id: u64, bytes: &[u8]) -> Option<usize> {
    let stage = state.connections.get_mut(id)?.stage;
    match frame_length(bytes, frame_bytes_max(stage)) {
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
            // A hello raises what the connection may send.
            let connection = state.connections.get_mut(id)?;
            let max = frame_bytes_max(connection.stage);
            if let Transport::WebSocket(decoder) = &mut connection.transport {
                decoder.set_message_bytes_max(max);
            }
        }
        Some(Event::Text(_)) => {
            let message = "EtherPly speaks binary messages only: set binaryType and send an ArrayBuffer";
            state.fail(id, ErrorCode::TextNotSupported, 0, message);
        }
        Some(Event::Ping(payload)) => {
            let mut pong = Vec::with_capacity(payload.len() + 2);
            control_into(&mut pong, OpCode::Pong, payload, None);
            connection.heard_s = now_s;
            connection.push_control(Control::Raw(Bytes::from(pong)));
            state.mark_dirty(id);
        }
        Some(Event::Pong(_)) => connection.heard_s = now_s,
        Some(Event::Close { code, .. }) => {
            let close = etherply_wire::websocket::close_frame(code.unwrap_or(1000), "", None);
            connection.push_control(Control::Raw(Bytes::from(close)));
            connection.begin_draining(now_s + DRAIN_TIMEOUT_S);
            state.mark_dirty(id);
        }
    }
    Some(consumed)
}
