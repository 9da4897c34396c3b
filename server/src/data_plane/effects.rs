//! What the engine wants done, carried out: sent to a connection, a feed, another core, or storage.

use std::sync::Arc;

use etherply_engine::document::recover;
use etherply_engine::feed::FeedEvent;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::LogError;
use etherply_engine::peer::{Now, Peer};
use etherply_engine::record::Record;
use etherply_engine::shard::{Attach, Effect, Input, Observation, Shard};
use etherply_wire::ErrorCode;
use etherply_wire::kinds::resume;

use super::connection::{Control, OpenStream};
use super::contain::{self, Scope};
use super::core::State;
use super::mailbox::Message;
use crate::storage::{Job, Question, Refused};

/// Carries out everything that the last step asked for, in order; but what says that a request is done goes
/// behind its answer. A connection that finishes is closed when nothing is under way for it any more.
pub(super) fn carry_out(state: &mut State) {
    let (mut effects, mut settled) = (std::mem::take(&mut state.effects), std::mem::take(&mut state.settled));
    for effect in effects.drain(..) {
        if matches!(effect, Effect::Settle { .. } | Effect::OpenRefused { .. }) {
            settled.push(effect);
        } else {
            direct(state, effect);
        }
    }
    for effect in settled.drain(..) {
        direct(state, effect);
    }
    (state.effects, state.settled) = (effects, settled);
}

/// Carries an effect out here, or sends it to the core that it belongs to.
fn direct(state: &mut State, effect: Effect) {
    match effect.core() {
        Some(core) if core != state.setup.core => {
            if let Some(mailbox) = state.setup.mailboxes.get(usize::from(core)) {
                mailbox.send(Message::Effect(effect));
            }
        }
        _ => apply(state, effect),
    }
}

/// Carries out one effect that belongs to this core. If that panics, the connection or the feed that it was
/// for ends.
pub(super) fn apply(state: &mut State, effect: Effect) {
    let scope = match &effect {
        Effect::Publish { handle, .. } | Effect::StopFeed { handle, .. } => Scope::Feed(*handle),
        Effect::Attach(attach) => Scope::Feed(attach.handle),
        Effect::Detach { handle, .. } | Effect::Reconciled { handle, .. } => Scope::Feed(*handle),
        Effect::Reply { peer, .. } | Effect::Settle { peer, .. } | Effect::OpenRefused { peer } => {
            Scope::Connection(peer.id)
        }
        _ => Scope::Core,
    };
    contain::run(state, scope, |state| carry_out_one(state, effect));
}

fn carry_out_one(state: &mut State, effect: Effect) {
    match effect {
        Effect::Reply { peer, frame, .. } => {
            if let Some(connection) = state.connections.get_mut(peer.id) {
                connection.push_control(Control::Frame(frame));
                state.mark_dirty(peer.id);
            }
        }
        Effect::Settle { peer, bytes } => state.count_out(peer, bytes),
        Effect::OpenRefused { peer } => {
            if let Some(connection) = state.connections.get_mut(peer.id) {
                connection.opening = connection.opening.saturating_sub(1);
                state.mark_dirty(peer.id);
            }
        }
        Effect::Attach(attach) => attach_member(state, *attach),
        Effect::Detach { peer, handle } => {
            if let Some(connection) = state.connections.get_mut(peer.id)
                && let Some(stream) = connection.remove_stream(handle)
            {
                state.feeds.detach(handle, stream.number, peer);
            }
        }
        Effect::Reconciled { peer, handle, known } => {
            let Some(connection) = state.connections.get_mut(peer.id) else { return };
            let Some(stream) = connection.stream(handle) else { return };
            if state.feeds.reconciled(handle, stream.number, peer, known) {
                make_ready(state, peer, handle);
            }
        }
        Effect::Publish { handle, event, .. } => publish(state, handle, event),
        Effect::StopFeed { handle, .. } => state.feeds.stop(handle),
        Effect::Load { handle, document } => load(state, handle, document),
        Effect::Find { handle, peer, document, epoch, asked_for, hashes } => {
            let mailbox = own_mailbox(state);
            ask(
                state,
                Box::new(move |reader| {
                    let find = |hash| Ok((hash, reader.find(&document, epoch, &hash)?));
                    let result = hashes.into_iter().map(find).collect();
                    mailbox.send(Message::Found { handle, peer, asked_for, result });
                }),
            );
        }
        Effect::ReadChain { handle, peer, document, at } => {
            let mailbox = own_mailbox(state);
            ask(
                state,
                Box::new(move |reader| {
                    let records = reader.read(&document, at.epoch, at.seq.saturating_sub(1), at.seq, 1);
                    let result = records.map(|records| records.first().map(|record| record.chain));
                    mailbox.send(Message::ChainRead { handle, peer, result });
                }),
            );
        }
        Effect::Commit { batch, appends } => {
            let mailbox = own_mailbox(state);
            let reply = move |batch, outcome| mailbox.send(Message::Committed { batch, outcome });
            state.jobs.push_back(Job { appends, token: batch, reply: Arc::new(reply) });
            retry_storage(state);
        }
        Effect::Observe(observation) => observe(state, observation),
    }
}

/// The way back to this core.
pub(super) fn own_mailbox(state: &State) -> super::Mailbox {
    // A core is started with a mailbox of its own among all; a stand-in that nobody reads is never needed.
    state
        .setup
        .mailboxes
        .get(usize::from(state.setup.core))
        .cloned()
        .unwrap_or_else(|| super::Mailbox::new().0)
}

fn attach_member(state: &mut State, attach: Attach) {
    let Attach { peer, handle, member, feed } = attach;
    if let Some(feed) = feed {
        state.feeds.start(handle, *feed);
    }
    // Without a connection: it has gone meanwhile, and the home has been told.
    let Some(connection) = state.connections.get_mut(peer.id) else { return };
    connection.opening = connection.opening.saturating_sub(1);
    if let Some(number) = state.feeds.attach(handle, peer, member) {
        connection.add_stream(OpenStream { handle, number, rights: member.rights });
        connection.make_ready(handle);
        state.mark_dirty(peer.id);
    }
}

fn make_ready(state: &mut State, peer: Peer, handle: u32) {
    if let Some(connection) = state.connections.get_mut(peer.id)
        && connection.make_ready(handle)
    {
        state.mark_dirty(peer.id);
    }
}

fn publish(state: &mut State, handle: u32, event: FeedEvent) {
    let State { feeds, connections, dirty, .. } = state;
    feeds.publish(handle, event, |peer, _| {
        if let Some(connection) = connections.get_mut(peer.id)
            && connection.make_ready(handle)
            && !connection.is_dirty
        {
            connection.is_dirty = true;
            dirty.push_back(peer.id);
        }
    });
    state.request_flush();
}

fn load(state: &mut State, handle: u32, document: DocumentId) {
    let mailbox = own_mailbox(state);
    ask(
        state,
        Box::new(move |reader| {
            let result = Box::new(recover(reader, &document));
            mailbox.send(Message::Loaded { handle, result });
        }),
    );
}

/// The log was read for a member.
pub(super) fn filled(
    state: &mut State,
    handle: u32,
    number: u32,
    peer: Peer,
    result: Result<Vec<Record>, LogError>,
    now: Now,
) {
    match result {
        Ok(records) => {
            if state.feeds.fill(handle, number, peer, &records) {
                make_ready(state, peer, handle);
            }
        }
        Err(error) => {
            tracing::error!("a member cannot be sent its document: {error}");
            let code = match error {
                LogError::Damaged { .. } => ErrorCode::DocumentDamaged,
                LogError::Unavailable { .. } => ErrorCode::StorageUnavailable,
            };
            let is_member = |connection: &mut super::connection::Connection| {
                connection.stream(handle).is_some_and(|stream| stream.number == number)
            };
            if state.connections.get_mut(peer.id).is_some_and(is_member) {
                let home = Shard::home_of(handle, state.setup.cores);
                let message = error.to_string();
                state.request(home, Input::Fail { peer, handle, code, message }, now);
            }
        }
    }
    retry_storage(state);
}

/// Asks the reader thread, now or when it has room.
pub(super) fn ask(state: &mut State, question: Question) {
    state.waiting_questions.push_back(question);
    retry_storage(state);
}

/// Hands over what the storage threads had no room for.
pub(super) fn retry_storage(state: &mut State) {
    let Some((committer, questions)) = &state.setup.storage else { return };
    while let Some(job) = state.jobs.pop_front() {
        match committer.submit(job) {
            Ok(()) => {}
            Err(Refused::Full(job)) => {
                state.jobs.push_front(job);
                break;
            }
            Err(Refused::Ended(job)) => {
                let why = "the storage thread has ended".to_owned();
                job.reply.committed(job.token, Err(LogError::Unavailable { why }));
            }
        }
    }
    while let Some(question) = state.waiting_questions.pop_front() {
        match questions.ask(question) {
            Ok(()) => {}
            Err(Refused::Full(question)) => {
                state.waiting_questions.push_front(question);
                break;
            }
            // The server stops: nobody waits for the answer.
            Err(Refused::Ended(_)) => {}
        }
    }
}

fn observe(state: &State, observation: Observation) {
    let metrics = &state.setup.metrics;
    match observation {
        Observation::Opened { resume } => {
            let how = match resume {
                resume::START => "start",
                resume::CURSOR => "cursor",
                resume::SNAPSHOT => "snapshot",
                _ => "reconcile",
            };
            metrics.opened.with_label_values(&[how]).inc();
        }
        Observation::Panicked => metrics.panics.with_label_values(&["document"]).inc(),
        Observation::Refused { code } => metrics.refused.with_label_values(&[code.name()]).inc(),
        Observation::Stored { changes, bytes, .. } => {
            metrics.operations.inc_by(u64::from(changes));
            metrics.pushed_bytes.inc_by(bytes);
        }
    }
}
