//! Connections of a server that has a certificate: who does not speak TLS is told so, what comes by TLS is opened.
//!
//! Until its hello such a connection is held to the same time as any other, its handshake included.

use std::cell::RefMut;
use std::task::{Context, Poll};

use bytes::Bytes;
use etherply_wire::limits::HANDSHAKE_BYTES_MAX;
use etherply_wire::{ErrorCode, MAGIC};

use super::connection::{Connection, Control, Transport};
use super::core::State;
use super::flush;
use super::limits::{DRAIN_TIMEOUT_S, READ_BYTES};
use super::receive;
use super::tls::{HANDSHAKE_RECORD, Security, Tls, TlsFault};
use crate::runtime::Stream;
use crate::tls::{ALPN_FRAMES, ALPN_HTTP};

/// What a client is told that does not speak TLS.
const REQUIRED: &str = "this port speaks TLS only: connect with TLS, as wss:// from a browser";

/// What came of reading.
pub(super) enum Read {
    /// Something, and it was acted upon.
    More,
    /// The other side sends nothing more.
    AtEnd,
    /// The connection has ended.
    Ended,
}

/// Reads from a connection that speaks TLS, or has to, and acts on what it says.
pub(super) fn poll(
    state: &mut RefMut<'_, State>,
    context: &mut Context<'_>,
    id: u64,
    stream: &mut Stream,
    carry: &mut Vec<u8>,
    scratch: &mut [u8],
) -> Poll<Read> {
    let read = match stream.poll_read(context, scratch) {
        Poll::Pending => return Poll::Pending,
        Poll::Ready(Err(_)) => return Poll::Ready(Read::Ended),
        Poll::Ready(Ok(0)) => {
            *carry = Vec::new();
            return Poll::Ready(Read::AtEnd);
        }
        Poll::Ready(Ok(bytes)) => scratch.get_mut(..bytes).unwrap_or_default(),
    };
    let mut opened = std::mem::take(&mut state.opened);
    opened.clear();
    let is_large = carry.len() >= READ_BYTES / 2;
    if !is_large {
        // What is there already stands in front, as it does without TLS.
        opened.append(carry);
        *carry = Vec::new();
    }
    let result = open(state, id, read, &mut opened);
    let outcome = match result {
        Ok(is_closed) => {
            if is_large {
                carry.extend_from_slice(&opened);
                opened.clear();
            }
            receive::take_in(state, id, carry, &mut opened);
            if is_closed { Read::AtEnd } else { Read::More }
        }
        Err(error) => {
            *carry = Vec::new();
            give_up(state, id, &error);
            Read::More
        }
    };
    if opened.capacity() > 2 * READ_BYTES {
        opened = Vec::new();
    }
    state.opened = opened;
    Poll::Ready(outcome)
}

/// Appends what these bytes carry to `opened`; whether the other side said that nothing more follows.
fn open(state: &mut State, id: u64, read: &mut [u8], opened: &mut Vec<u8>) -> Result<bool, TlsFault> {
    let now_s = state.now_s();
    let State { connections, setup, sealed, .. } = state;
    let Some(connection) = connections.get_mut(id) else { return Ok(false) };
    if matches!(connection.security, Security::Expected) {
        match &setup.tls {
            Some(config) if read.first() == Some(&HANDSHAKE_RECORD) => {
                connection.security = Security::Tls(Box::new(Tls::new(config)?));
            }
            _ => {
                setup.metrics.rejected.with_label_values(&["plaintext"]).inc();
                refuse_plaintext(connection, read, now_s);
                state.mark_dirty(id);
                return Ok(false);
            }
        }
    }
    let Security::Tls(tls) = &mut connection.security else { return Ok(false) };
    sealed.clear();
    let before = opened.len();
    let result = tls.receive(read, opened, sealed);
    // What TLS itself takes counts as well: records may be empty.
    connection.pace.count_bytes(read.len().saturating_sub(opened.len() - before));
    let is_closed = tls.is_closed;
    if !sealed.is_empty() {
        flush::transmit(connection, setup, now_s, sealed, &[]);
    }
    result.map(|()| is_closed)
}

/// Tells somebody in the clear that this port speaks TLS, as far as that can be told in what they speak.
fn refuse_plaintext(connection: &mut Connection, read: &[u8], now_s: u32) {
    connection.security = Security::Plain;
    let end_by_s = now_s + DRAIN_TIMEOUT_S;
    if read.first() == MAGIC.first() {
        connection.transport = Transport::Tcp;
        return connection.fail(ErrorCode::TlsRequired, 0, REQUIRED, end_by_s);
    }
    if read.first().is_some_and(u8::is_ascii_uppercase) && read.len() <= HANDSHAKE_BYTES_MAX {
        let text = format!("EtherPly: {REQUIRED}\n");
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: {}\r\n\r\n\
             {text}",
            text.len()
        );
        connection.push_control(Control::Raw(Bytes::from(answer)));
    }
    connection.begin_draining(end_by_s);
}

/// TLS has failed: what the other side has to know is on its way, and nothing more is said.
fn give_up(state: &mut State, id: u64, error: &TlsFault) {
    let now_s = state.now_s();
    state.setup.metrics.rejected.with_label_values(&["tls"]).inc();
    tracing::debug!(peer = id, "TLS fails: {error}");
    if let Some(connection) = state.connections.get_mut(id) {
        connection.begin_draining(now_s + DRAIN_TIMEOUT_S);
    }
    state.mark_dirty(id);
}

/// Whether a connection begins with what its TLS agreed upon, if that agreed upon something.
pub(super) fn is_agreed(connection: &Connection, bytes: &[u8]) -> bool {
    let Security::Tls(tls) = &connection.security else { return true };
    let is_frames = bytes.first() == MAGIC.first();
    match tls.protocol() {
        Some(protocol) if protocol == ALPN_FRAMES => is_frames,
        Some(protocol) if protocol == ALPN_HTTP => !is_frames,
        _ => true,
    }
}
