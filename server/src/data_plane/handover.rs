//! A connection that begins to work with a document moves to that document's core, unless that core has many
//! more connections than this one.
//!
//! There its pushes are function calls, and what it is sent needs no message from another core. It moves when
//! it opens its first document: then nobody but its own core knows of it, and what moves is its descriptor,
//! the bytes that were read and not acted upon, and what it was at. A connection that goes on to other
//! documents stays where it is: it would have to be on every core.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use etherply_engine::peer::Peer;
use etherply_engine::shard::OpenRequest;

use super::connection::{Connection, Stage};
use super::core::{Core, State};
use super::due::Due;
use super::limits::{CONNECTIONS_PER_CORE_MAX, HANDOVER_SLACK};
use super::mailbox::Message;
use super::{receive, session};
use crate::runtime::{self, Stream};

/// A connection on its way to another core.
#[derive(Debug)]
pub struct Moving {
    connection: Connection,
    socket: OwnedFd,
    /// Bytes that were read, behind the open.
    carry: Vec<u8>,
}

/// Whether a connection of this core that opens a document at home on another one is to move there; its place
/// there is taken then.
pub(super) fn should_move(state: &mut State, id: u64, home: u16) -> bool {
    let own = state.setup.core;
    let Some(connection) = state.connections.get_mut(id) else { return false };
    let is_new = connection.streams.is_empty() && connection.homes.is_empty() && connection.in_flight == 0;
    let is_whole = connection.unsent.is_empty() && connection.stage == Stage::Ready;
    if home == own || !is_new || !is_whole || state.stopping.is_some() {
        return false;
    }
    let counts = &state.setup.connections_per_core;
    let (Some(here), Some(there)) = (counts.get(usize::from(own)), counts.get(usize::from(home))) else {
        return false;
    };
    if !has_room(there.load(Ordering::Relaxed), here.load(Ordering::Relaxed)) {
        return false;
    }
    there.fetch_add(1, Ordering::Relaxed);
    here.fetch_sub(1, Ordering::Relaxed);
    true
}

/// Whether a core with so many connections takes one more from a core with so many.
fn has_room(there: u64, here: u64) -> bool {
    there <= here + here / 4 + HANDOVER_SLACK && there < CONNECTIONS_PER_CORE_MAX as u64
}

/// Sends a connection on its way, which no task of this core serves any more. `false` if it is not to move.
pub(super) fn depart(core: &Core, id: u64, stream: &Stream, carry: &mut Vec<u8>) -> bool {
    let mut state = core.state.borrow_mut();
    let Some(home) = state.connections.get_mut(id).and_then(|connection| connection.moving.as_ref()) else {
        return false;
    };
    let home = home.0;
    // SAFETY: the stream owns the descriptor and lives until this returns.
    let descriptor = unsafe { BorrowedFd::borrow_raw(stream.descriptor()) };
    // The runtime closes its own descriptor; the socket lives on with this one.
    let socket = match rustix::io::fcntl_dupfd_cloexec(descriptor, 0) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::debug!("a connection cannot move to another core: {error}");
            return false;
        }
    };
    let Some(mut connection) = state.connections.remove(id) else { return false };
    state.partial_bytes = state.partial_bytes.saturating_sub(connection.partial_bytes);
    state.paused.remove(&id);
    (connection.partial_bytes, connection.arrived_bytes) = (0, 0);
    connection.due = Due::No;
    connection.waker = None;
    connection.pace.depart();
    state.setup.metrics.handovers.inc();
    let moving = Moving { connection, socket, carry: std::mem::take(carry) };
    state.send_to(home, Message::Move(Box::new(moving)));
    true
}

/// A connection that was to move to `home` ends here instead: gives its place there back.
pub(super) fn stay(state: &State, home: u16) {
    let counts = &state.setup.connections_per_core;
    if let (Some(here), Some(there)) =
        (counts.get(usize::from(state.setup.core)), counts.get(usize::from(home)))
    {
        there.fetch_sub(1, Ordering::Relaxed);
        here.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes a connection over from another core, and opens the document for which it came.
pub(super) fn arrive(core: &Rc<Core>, moving: Moving) {
    let Moving { mut connection, socket, carry } = moving;
    let mut state = core.state.borrow_mut();
    if state.stopping.is_some() {
        state.setup.metrics.rejected.with_label_values(&["stopping"]).inc();
        state.count_off();
        return;
    }
    let stream = match Stream::new(socket) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::error!("a connection cannot move here: {error}");
            state.count_off();
            return;
        }
    };
    let own = state.setup.core;
    let open = connection.moving.take();
    connection.descriptor = stream.descriptor();
    connection.has_backlog = !carry.is_empty();
    let id = state.connections.insert(|id| {
        connection.peer = Peer { core: own, id };
        connection
    });
    if let Some((_, request)) = open {
        let now = state.now();
        session::begin_open(&mut state, OpenRequest { peer: Peer { core: own, id }, ..*request }, own, now);
    }
    state.mark_dirty(id);
    drop(state);
    runtime::spawn(receive::serve(Rc::clone(core), id, stream, carry));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_takes_connections_until_it_has_many_more_than_the_other() {
        for here in [0, 1_000] {
            let most = here + here / 4 + HANDOVER_SLACK;
            assert!(has_room(most - 1, here) && has_room(most, here));
            assert!(!has_room(most + 1, here));
        }
        let most = CONNECTIONS_PER_CORE_MAX as u64;
        assert!(has_room(most - 1, most));
        assert!(!has_room(most, most) && !has_room(most + 1, most));
    }
}
