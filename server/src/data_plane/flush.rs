//! Bytes out: at the end of a turn, one send for everything that a connection is to get.
//!
//! Answers go first, then what its documents have for it, up to a quantum. Whatever the socket does not take
//! is kept, and nothing more is gathered for that connection until it is gone.

use std::io;
use std::os::fd::BorrowedFd;

use etherply_engine::feed::{QUANTUM_BYTES, ReadRequest};
use etherply_engine::peer::Peer;
use etherply_engine::snapshot::SnapshotRequest;
use etherply_wire::ErrorCode;
use socket2::SockRef;

use super::connection::{Connection, Control, Stage, Transport};
use super::contain::{self, Scope};
use super::core::{CoreSetup, State};
use super::due::Due;
use super::effects;
use super::limits::{DRAIN_TIMEOUT_S, ROUND_SENDS};
use super::mailbox::Message;
use super::tls::Security;
use crate::storage::{Question, Reader};

/// Never wait; a closed socket is an error here, not a signal to the process.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// Commits what was admitted, and sends to every connection that has something.
pub(super) fn flush(state: &mut State) {
    state.shard.flush(&mut state.effects);
    effects::carry_out(state);
    // Before this core's own sends: the others begin with theirs meanwhile.
    state.outbox.send();
    // Nobody is sent anything whose time is over now.
    let wall_ms = state.now().wall_ms;
    state.feeds.expire(wall_ms);
    // Those that become due again while this runs have their next turn after other tasks had theirs.
    let mut round = std::mem::take(&mut state.round);
    for (due, mut count) in state.due.turn() {
        while count > 0 {
            let now = count.min(ROUND_SENDS);
            flush_round(state, &mut round, due, now);
            count -= now;
        }
    }
    state.round = round;
    if !state.due.is_empty() {
        state.request_flush();
    }
}

/// What some connections get, gathered for all of them before the first send: the engine's code and the kernel's each
/// run once for many, which the processor's caches reward.
#[derive(Debug, Default)]
pub(super) struct Round {
    pieces: Vec<bytes::Bytes>,
    parts: Vec<Part>,
}

/// One connection's part.
#[derive(Debug)]
struct Part {
    id: u64,
    pieces: std::ops::Range<usize>,
    has_more: bool,
}

fn flush_round(state: &mut State, round: &mut Round, due: Due, count: usize) {
    for _ in 0..count {
        let Some(id) = state.due.pop(due) else { break };
        let before = round.pieces.len();
        let mut is_whole = false;
        contain::run(state, Scope::Connection(id), |state| {
            prepare(state, round, id, due);
            is_whole = true;
        });
        if !is_whole {
            round.pieces.truncate(before);
        }
    }
    for Part { id, pieces, has_more } in round.parts.drain(..) {
        let pieces = round.pieces.get(pieces).unwrap_or_default();
        contain::run(state, Scope::Connection(id), |state| deliver(state, id, pieces, has_more));
    }
    round.pieces.clear();
}

fn prepare(state: &mut State, round: &mut Round, id: u64, due: Due) {
    // One that is more or less urgent than this stands in the other queue, or was served from there.
    let Some(connection) = state.connections.get_mut(id).filter(|connection| connection.due == due) else {
        return;
    };
    connection.due = Due::No;
    if connection.is_blocked || connection.stage == Stage::Dead {
        return;
    }
    let from = round.pieces.len();
    let has_more = gather(state, id, &mut round.pieces);
    round.parts.push(Part { id, pieces: from..round.pieces.len(), has_more });
}

fn deliver(state: &mut State, id: u64, pieces: &[bytes::Bytes], has_more: bool) {
    if !pieces.is_empty() {
        send(state, id, pieces);
    }
    let Some(connection) = state.connections.get_mut(id) else { return };
    if connection.is_paused && !connection.is_at_limit() {
        connection.wake();
    }
    if connection.is_blocked {
        return;
    }
    if has_more {
        state.mark_due(id, Due::Bulk);
    } else if connection.is_ending() {
        end(state, id);
    }
}

/// Goes on with the end of a connection to which everything was said that there was to say by now.
fn end(state: &mut State, id: u64) {
    let now_s = state.now_s();
    let Some(connection) = state.connections.get_mut(id) else { return };
    match connection.stage {
        Stage::Finishing if connection.is_settled() => {
            if let Some(code) = connection.owed_close.take() {
                let close = etherply_wire::websocket::close_frame(code, "", None);
                connection.push_control(Control::Raw(close.into()));
            }
            connection.begin_draining(now_s + DRAIN_TIMEOUT_S);
            state.mark_dirty(id);
        }
        Stage::Draining if connection.is_at_end => {
            connection.stage = Stage::Dead;
            connection.wake();
        }
        // The other side reads it, closes, and then this end is closed too; one that does not is closed when
        // its time is over (RFC 6455, 7.1.1, but it is as good for TCP).
        Stage::Draining => {
            say_last(connection);
            drop(with_socket(connection, |socket| socket.shutdown(std::net::Shutdown::Write)));
        }
        _ => {}
    }
}

/// Closes a WebSocket of a server that stops (RFC 6455, 7.4.1: 1001), as far as the socket takes that at once.
pub(super) fn say_goodbye(connection: &mut Connection) {
    let may_speak = !matches!(connection.stage, Stage::Draining | Stage::Dead)
        && connection.control.is_empty()
        && connection.unsent.is_empty();
    if may_speak && matches!(connection.transport, Transport::WebSocket(_)) {
        let code = ErrorCode::ShuttingDown.close_code();
        let mut close = etherply_wire::websocket::close_frame(code, "the server stops", None);
        if let Security::Tls(tls) = &mut connection.security {
            let mut sealed = Vec::new();
            if tls.seal(&close, &mut sealed).is_err() {
                return;
            }
            close = sealed;
        }
        drop(with_socket(connection, |socket| socket.send_with_flags(&close, SEND_FLAGS)));
    }
    say_last(connection);
}

/// Says to the other side's TLS that nothing more follows, as far as the socket takes that at once.
fn say_last(connection: &mut Connection) {
    let Security::Tls(tls) = &mut connection.security else { return };
    let mut last = Vec::new();
    if connection.unsent.is_empty() && tls.close(&mut last).is_ok() {
        drop(with_socket(connection, |socket| socket.send_with_flags(&last, SEND_FLAGS)));
    }
}

/// Collects what goes out next; whether there is more behind it.
fn gather(state: &mut State, id: u64, pieces: &mut Vec<bytes::Bytes>) -> bool {
    let now_us = state.now().mono_us;
    let State { connections, feeds, setup, .. } = state;
    let Some(connection) = connections.get_mut(id) else { return false };
    let is_websocket = matches!(connection.transport, Transport::WebSocket(_));
    let mut bytes = connection.control_bytes;
    // Its memory goes as well: most connections wait for a long time after their last answer.
    for control in std::mem::take(&mut connection.control) {
        pieces.push(match control {
            Control::Raw(raw) => raw,
            Control::Frame(frame) if is_websocket => frame.for_websocket(),
            Control::Frame(frame) => frame.for_tcp(),
        });
    }
    connection.control_bytes = 0;
    let peer = connection.peer;
    let mut reads: Vec<(u32, u32, ReadRequest)> = Vec::new();
    let mut snapshots: Vec<(u32, SnapshotRequest)> = Vec::new();
    for _ in 0..connection.ready.len() {
        if bytes >= QUANTUM_BYTES {
            break;
        }
        let Some(handle) = connection.ready.pop_front() else { break };
        let Some(stream) = connection.stream(handle) else { continue };
        let gathered = feeds.gather(handle, stream.number, peer, QUANTUM_BYTES - bytes, |frame| {
            pieces.push(if is_websocket { frame.for_websocket() } else { frame.for_tcp() });
        });
        bytes += gathered.bytes;
        setup.metrics.deliveries.inc_by(u64::from(gathered.segments));
        if gathered.oldest_received_us > 0 {
            let latency_us = now_us.saturating_sub(gathered.oldest_received_us);
            setup.metrics.sync_latency_ms.observe(us_to_ms(latency_us));
        }
        if gathered.more {
            connection.ready.push_back(handle);
        }
        reads.extend(gathered.read.map(|read| (handle, stream.number, read)));
        snapshots.extend(gathered.snapshot.map(|request| (handle, request)));
    }
    let has_more = !connection.ready.is_empty();
    for (handle, number, read) in reads {
        ask_for(state, peer, handle, number, read);
    }
    for (handle, request) in snapshots {
        effects::ask_for_snapshot(state, handle, request);
    }
    has_more
}

#[allow(clippy::cast_precision_loss, reason = "latencies are far below 2^52 µs")]
fn us_to_ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

fn ask_for(state: &mut State, peer: Peer, handle: u32, number: u32, read: ReadRequest) {
    let mailbox = effects::own_mailbox(state);
    let work = move |reader: &Reader| effects::read_fill(reader, &read).map(Some);
    let answer = move |result| mailbox.send(Message::Filled { handle, number, peer, result });
    effects::ask(state, Question::new(work, answer));
}

/// Does something with a connection's socket.
fn with_socket<T>(connection: &Connection, act: impl FnOnce(&SockRef<'_>) -> T) -> T {
    // SAFETY: the connection's task owns the descriptor and removes the connection from the slab before it
    // closes it, so a connection that is found there has an open descriptor.
    let descriptor = unsafe { BorrowedFd::borrow_raw(connection.descriptor) };
    act(&SockRef::from(&descriptor))
}

/// One system call for all pieces.
fn send(state: &mut State, id: u64, pieces: &[bytes::Bytes]) {
    let now_s = state.now_s();
    let State { connections, out, sealed, setup, .. } = state;
    let Some(connection) = connections.get_mut(id) else { return };
    let bytes: &[u8] = match pieces {
        [one] => one,
        several => {
            out.clear();
            for piece in several {
                out.extend_from_slice(piece);
            }
            out
        }
    };
    if let Security::Tls(tls) = &mut connection.security {
        sealed.clear();
        match tls.seal(bytes, sealed) {
            Ok(()) => transmit(connection, setup, now_s, sealed, &[]),
            // Before the handshake is done there is nobody to tell anything.
            Err(error) => {
                tracing::debug!(peer = id, "nothing can be sent by TLS: {error}");
                connection.stage = Stage::Dead;
                connection.wake();
            }
        }
    } else {
        transmit(connection, setup, now_s, bytes, pieces);
    }
}

/// Sends bytes as they are, and keeps what the socket does not take: as parts of these pieces, which others share, or
/// as a copy where there are none.
pub(super) fn transmit(
    connection: &mut Connection,
    setup: &CoreSetup,
    now_s: u32,
    bytes: &[u8],
    pieces: &[bytes::Bytes],
) {
    if connection.is_blocked {
        connection.unsent.push_back(bytes::Bytes::copy_from_slice(bytes));
        return;
    }
    setup.metrics.sends.inc();
    let sent = loop {
        match with_socket(connection, |socket| socket.send_with_flags(bytes, SEND_FLAGS)) {
            Ok(sent) => break sent,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 0,
            Err(_) => {
                connection.stage = Stage::Dead;
                connection.wake();
                return;
            }
        }
    };
    setup.metrics.sent_bytes.inc_by(sent as u64);
    let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) else { return };
    connection.took_s = now_s;
    if pieces.is_empty() {
        connection.unsent.push_back(bytes::Bytes::copy_from_slice(rest));
    }
    let mut skip = sent;
    for piece in pieces {
        if skip < piece.len() {
            connection.unsent.push_back(piece.slice(skip..));
        }
        skip = skip.saturating_sub(piece.len());
    }
    connection.is_blocked = true;
    setup.metrics.blocked.inc();
    // Its task waits for the socket to take more.
    connection.wake();
}
