//! A panic ends what it was about, and nothing else: a connection, or a document's members on this core.
//!
//! The engine contains panics in the work on a document by itself. What is left is this core's own: the
//! connections, and the feeds that they read.

use std::panic::{AssertUnwindSafe, catch_unwind};

use etherply_engine::peer::Peer;
use etherply_engine::shard::{Input, Shard};
use etherply_wire::ErrorCode;

use super::connection::{Connection, Stage};
use super::core::State;

/// What a piece of work is about, and what its panic ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// A connection of this core, by its number.
    Connection(u64),
    /// A document's feed on this core, by the document's handle.
    Feed(u32),
    /// Neither. The core goes on: there is nothing to end.
    Core,
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Self::Connection(_) => "connection",
            Self::Feed(_) => "feed",
            Self::Core => "none",
        }
    }
}

/// Does a piece of work on the core's state.
pub(super) fn run(state: &mut State, scope: Scope, work: impl FnOnce(&mut State)) {
    if catch_unwind(AssertUnwindSafe(|| work(state))).is_err() {
        count(state, scope);
        end(state, scope);
    }
}

/// Counts a panic, and says what it ends.
pub(super) fn count(state: &State, scope: Scope) {
    state.setup.metrics.panics.with_label_values(&[scope.name()]).inc();
    match scope {
        Scope::Connection(id) => tracing::error!(peer = id, "a panic: the connection ends"),
        Scope::Feed(handle) => {
            tracing::error!(handle, "a panic: the document's members on this core have to open it again");
        }
        Scope::Core => tracing::error!("a panic: nothing ends by it"),
    }
}

fn end(state: &mut State, scope: Scope) {
    match scope {
        Scope::Connection(id) => {
            if let Some(connection) = state.connections.get_mut(id) {
                connection.stage = Stage::Dead;
                connection.wake();
            }
        }
        Scope::Feed(handle) => end_feed(state, handle),
        Scope::Core => {}
    }
}

/// Lets every member of a feed be told by the document's home that its stream has ended.
fn end_feed(state: &mut State, handle: u32) {
    let is_member = |connection: &&mut Connection| connection.stream(handle).is_some();
    let members: Vec<Peer> =
        state.connections.iter_mut().filter(is_member).map(|connection| connection.peer).collect();
    let home = Shard::home_of(handle, state.setup.cores);
    for peer in members {
        let message = "a fault of the server's ended this stream: open the document again".to_owned();
        let fail = Input::Fail { peer, handle, code: ErrorCode::Internal, message };
        // Even to this core's own shard: the panic may have come between two effects of one step of it, and
        // what follows from another step must not overtake the second.
        state.send_request(home, fail);
    }
}
