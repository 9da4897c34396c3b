//! What the engine wants done, carried out: sent to a connection, a feed, another core, or storage.

use std::sync::Arc;

use etherply_engine::change::ChangeHash;
use etherply_engine::document::Recovery;
use etherply_engine::feed::{FeedEvent, ReadRequest};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Found, LogError, LogReader as _};
use etherply_engine::peer::{Now, Peer};
use etherply_engine::record::Record;
use etherply_engine::shard::{Attach, Effect, Input, Observation, Shard};
use etherply_engine::snapshot::{Snapshot, SnapshotRequest};
use etherply_wire::ErrorCode;
use etherply_wire::kinds::{Cursor, resume};

use super::connection::{Connection, Control, OpenStream};
use super::contain::{self, Scope};
use super::core::State;
use super::due::{Due, DueQueues};
use super::mailbox::Message;
use super::slab::Slab;
use crate::events::{Event, Who};
use crate::materialise::cut::Cut;
use crate::storage::cover::{Cover, CoverError};
use crate::storage::snapshot::SnapshotRead;
use crate::storage::{Handles, Job, LOOKUPS_PER_STEP_MAX, Question, Reader, Refused};

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
        Some(core) if core != state.setup.core => state.send_to(core, Message::Effect(effect)),
        _ => apply(state, effect),
    }
}

/// Carries out one effect that belongs to this core. If that panics, the connection or the feed that it was
/// for ends.
pub(super) fn apply(state: &mut State, effect: Effect) {
    let scope = match &effect {
        Effect::Publish { handle, .. } | Effect::StopFeed { handle, .. } => Scope::Feed(*handle),
        Effect::Attach(attach) => Scope::Feed(attach.handle),
        Effect::Detach { handle, .. } | Effect::Reconciled { handle, .. } | Effect::Rights { handle, .. } => {
            Scope::Feed(*handle)
        }
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
        Effect::Rights { peer, handle, rights, expires_ms } => {
            let Some(connection) = state.connections.get_mut(peer.id) else { return };
            let Some(stream) = connection.stream(handle) else { return };
            if state.feeds.set_rights(handle, stream.number, peer, rights, expires_ms) {
                make_ready(state, peer, handle);
            }
        }
        Effect::Publish { handle, event, .. } => publish(state, handle, event),
        Effect::StopFeed { handle, .. } => state.feeds.stop(handle),
        Effect::Load { handle, document } => load(state, handle, document),
        Effect::Rebuild { handle, document } => {
            let (mailbox, name) = (own_mailbox(state), document.clone());
            let rebuilt = move |result| mailbox.send(Message::Rebuilt { handle, document: name, result });
            state.setup.rebuilds.rebuild(document, Box::new(rebuilt));
        }
        Effect::Verify { handle, number, document, after, records } => {
            let mailbox = own_mailbox(state);
            let answer = move |result| mailbox.send(Message::Verified { handle, number, result });
            state.setup.verifier.ask(document, after, records, Box::new(answer));
        }
        Effect::Delete { document } => {
            state.waiting_deletions.push_back(document);
            retry_storage(state);
        }
        Effect::DeletionAnswered { token, result } => {
            if let Some(answer) = state.deletions.remove(&token) {
                // An error means that nobody waits any more.
                drop(answer.try_send(result));
            }
        }
        Effect::Find { handle, peer, document, epoch, asked_for, hashes } => {
            let mailbox = own_mailbox(state);
            let work = find(document, epoch, hashes);
            let answer = move |result| mailbox.send(Message::Found { handle, peer, asked_for, result });
            ask(state, Question::new(work, answer));
        }
        Effect::ReadChain { handle, peer, document, at } => {
            let mailbox = own_mailbox(state);
            let work = move |reader: &Reader| reader.chain_at(&document, at.epoch, at.seq).map(Some);
            let answer = move |result| mailbox.send(Message::ChainRead { handle, peer, result });
            ask(state, Question::new(work, answer));
        }
        Effect::CutSnapshot { handle, document, through } => cut_snapshot(state, handle, document, through),
        Effect::Commit { batch, appends } => {
            let mailbox = own_mailbox(state);
            let reply = move |batch, outcome| mailbox.send(Message::Committed { batch, outcome });
            state.jobs.push_back(Job {
                appends,
                token: batch,
                era: state.storage_era,
                reply: Arc::new(reply),
            });
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
        connection.add_stream(OpenStream { handle, number });
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
    let State { feeds, connections, due, .. } = state;
    let how = Due::for_members(feeds.members(handle));
    feeds.publish(handle, event, |peer, _| wake(connections, due, peer, handle, how));
    state.request_flush();
}

/// A member has something to be sent at the end of the turn.
fn wake(connections: &mut Slab<Connection>, due: &mut DueQueues, peer: Peer, handle: u32, how: Due) {
    if let Some(connection) = connections.get_mut(peer.id)
        && connection.make_ready(handle)
    {
        due.add(connection, how);
    }
}

/// A document has begun anew, or could not.
pub(super) fn rebuilt(
    state: &mut State,
    handle: u32,
    document: DocumentId,
    result: Result<(), LogError>,
    now: Now,
) {
    match result {
        Ok(()) => load(state, handle, document),
        Err(error) => state.step(Input::Loaded { handle, result: Box::new(Err(error)) }, now),
    }
}

fn load(state: &mut State, handle: u32, document: DocumentId) {
    let mailbox = own_mailbox(state);
    let mut recovery: Option<Recovery> = None;
    let work =
        move |reader: &Reader| recovery.get_or_insert_with(|| Recovery::new(document.clone())).step(reader);
    let answer = move |result| mailbox.send(Message::Loaded { handle, result: Box::new(result) });
    ask(state, Question::new(work, answer));
}

/// Changes, and where they stand.
type Places = Vec<(ChangeHash, Option<Found>)>;

/// Looks changes up, as many at a time as do not hold up other questions for long.
fn find(
    document: DocumentId,
    epoch: u64,
    hashes: Vec<ChangeHash>,
) -> impl FnMut(&Reader) -> Result<Option<Places>, LogError> {
    let mut found = Vec::with_capacity(hashes.len());
    let mut hashes = hashes.into_iter();
    move |reader| {
        for hash in hashes.by_ref().take(LOOKUPS_PER_STEP_MAX) {
            found.push((hash, reader.find(&document, epoch, &hash)?));
        }
        Ok((hashes.len() == 0).then(|| std::mem::take(&mut found)))
    }
}

fn cut_snapshot(state: &mut State, handle: u32, document: DocumentId, through: Cursor) {
    let mailbox = own_mailbox(state);
    let Some(storage) = &state.setup.storage else { return };
    state.setup.metrics.snapshots_due.inc();
    let mut cut = Cut::new(document.clone(), through).within(&state.setup.cuts);
    let mut committer = storage.committer.clone();
    let work = move |reader: &Reader| cut.step(reader, &mut committer);
    let answer = move |result| mailbox.send(Message::SnapshotCut { handle, document, result });
    if let Err(Refused::Full(question) | Refused::Ended(question)) =
        storage.background.ask(Question::new(work, answer))
    {
        let why = "too many snapshots wait to be cut".to_owned();
        question.fail(LogError::Unavailable { why });
    }
}

/// A snapshot was cut, or could not be.
pub(super) fn snapshot_cut(
    state: &mut State,
    handle: u32,
    document: DocumentId,
    result: Result<Snapshot, LogError>,
    now: Now,
) {
    if let Err(error) = &result {
        tracing::warn!("no snapshot was cut, the log stays as it is: {error}");
    }
    let outcome = if result.is_ok() { "cut" } else { "failed" };
    state.setup.metrics.snapshots_due.dec();
    state.setup.metrics.snapshots.with_label_values(&[outcome]).inc();
    if result.is_ok() {
        cover(state, document);
    }
    state.step(Input::SnapshotCut { handle, result }, now);
}

/// Lets the records go that a document's snapshot covers, in the background: nobody waits for it.
pub(super) fn cover(state: &State, document: DocumentId) {
    let Some(storage) = &state.setup.storage else { return };
    let mut committer = storage.committer.clone();
    let (mut covering, named): (Option<Cover>, _) = (None, document.clone());
    let work = move |reader: &Reader| {
        let cover = match &mut covering {
            Some(cover) => cover,
            None => match Cover::resume(reader, &document)? {
                Some(cover) => covering.insert(cover),
                None => return Ok(Some(())),
            },
        };
        match cover.step(reader, &mut committer) {
            Ok(is_done) => Ok(is_done.then_some(())),
            Err(CoverError::Log(error)) => Err(error),
            Err(CoverError::Superseded(_)) => Ok(Some(())),
        }
    };
    let answer = move |result: Result<(), LogError>| {
        if let Err(error) = result {
            tracing::warn!("records of {named} stay that its snapshot covers: {error}");
        }
    };
    // Without room for it now, the next snapshot's covering goes on from here.
    drop(storage.background.ask(Question::new(work, answer)));
}

/// Reads a piece of a snapshot for all members of a feed that are being sent it.
pub(super) fn ask_for_snapshot(state: &mut State, handle: u32, request: SnapshotRequest) {
    let mailbox = own_mailbox(state);
    let asked = request.clone();
    let work = move |reader: &Reader| reader.read_snapshot(handle, &asked).map(Some);
    let answer = move |result| mailbox.send(Message::SnapshotRead { handle, request, result });
    ask(state, Question::new(work, answer));
}

/// A piece of a snapshot was read, or cannot be: what it covers is nowhere else, so members that wait for it are
/// told.
pub(super) fn snapshot_read(
    state: &mut State,
    handle: u32,
    request: &SnapshotRequest,
    result: Result<SnapshotRead, LogError>,
    now: Now,
) {
    let snapshot = request.snapshot;
    let State { feeds, connections, due, .. } = state;
    let wake = |peer, _| wake(connections, due, peer, handle, Due::Bulk);
    match result {
        Ok(SnapshotRead::Chunks(chunks)) => feeds.snapshot_read(handle, &snapshot, chunks, wake),
        Ok(SnapshotRead::Replaced(newer)) => feeds.snapshot_replaced(handle, newer, wake),
        Err(error) => {
            tracing::error!("members cannot be sent their document: {error}");
            state.setup.metrics.snapshots.with_label_values(&["lost"]).inc();
            for (peer, number) in state.feeds.snapshot_failed(handle, &snapshot) {
                fail_member(state, (handle, number), peer, &error, now);
            }
        }
    }
    state.request_flush();
    retry_storage(state);
}

/// What was read of the log for a member.
#[derive(Debug)]
pub enum Fill {
    /// These records.
    Records(Vec<Record>),
    /// They went when this snapshot took their place.
    Covered(Snapshot),
}

/// Reads a piece of the log for a member.
pub(super) fn read_fill(reader: &Reader, request: &ReadRequest) -> Result<Fill, LogError> {
    let ReadRequest { document, epoch, after_seq, through_seq, bytes_max } = request;
    match reader.read(document, *epoch, *after_seq, *through_seq, *bytes_max) {
        Ok(records) => Ok(Fill::Records(records)),
        Err(error @ LogError::Covered { .. }) => {
            let anchor = reader.anchor_row(document, *epoch)?;
            anchor.map(|anchor| Fill::Covered(anchor.anchor.snapshot)).ok_or(error)
        }
        Err(error) => Err(error),
    }
}

/// The log was read for a member.
pub(super) fn filled(
    state: &mut State,
    handle: u32,
    number: u32,
    peer: Peer,
    result: Result<Fill, LogError>,
    now: Now,
) {
    match result {
        Ok(fill) => {
            let mut woken = Vec::new();
            match fill {
                Fill::Records(records) => {
                    woken.extend(state.feeds.fill(handle, number, peer, &records).then_some(peer));
                }
                Fill::Covered(snapshot) => {
                    state.feeds.covered(handle, number, peer, snapshot, |peer, _| woken.push(peer));
                }
            }
            for peer in woken {
                make_ready(state, peer, handle);
            }
        }
        Err(error) => {
            tracing::error!("a member cannot be sent its document: {error}");
            fail_member(state, (handle, number), peer, &error, now);
        }
    }
    retry_storage(state);
}

/// Ends a member's stream, because its document cannot be read.
fn fail_member(state: &mut State, (handle, number): (u32, u32), peer: Peer, error: &LogError, now: Now) {
    let code = match error {
        LogError::Damaged { .. } => ErrorCode::DocumentDamaged,
        LogError::Covered { .. } => ErrorCode::Internal,
        LogError::Deleted { .. } => ErrorCode::DocumentDeleted,
        LogError::Unavailable { .. } => ErrorCode::StorageUnavailable,
    };
    let is_member =
        |connection: &mut Connection| connection.stream(handle).is_some_and(|stream| stream.number == number);
    if state.connections.get_mut(peer.id).is_some_and(is_member) {
        let home = Shard::home_of(handle, state.setup.cores);
        let message = error.to_string();
        state.request(home, Input::Fail { peer, handle, code, message }, now);
    }
}

/// Asks the reader thread, now or when it has room.
pub(super) fn ask(state: &mut State, question: Question) {
    state.waiting_questions.push_back(question);
    retry_storage(state);
}

/// Hands over what the storage threads had no room for.
pub(super) fn retry_storage(state: &mut State) {
    let Some(Handles { committer, questions, .. }) = &state.setup.storage else { return };
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
    while let Some(document) = state.waiting_deletions.pop_front() {
        let (mailbox, deleted) = (own_mailbox(state), document.clone());
        let answer = move |result| mailbox.send(Message::Deleted { document: deleted, result });
        match committer.delete(document, answer) {
            Ok(()) => {}
            Err(Refused::Full(document)) => {
                state.waiting_deletions.push_front(document);
                break;
            }
            // The server stops: nobody waits for the answer.
            Err(Refused::Ended(_)) => {}
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

fn observe(state: &mut State, observation: Observation) {
    if state.setup.events.is_heard() {
        tell(state, observation);
    }
    let metrics = &state.setup.metrics;
    match observation {
        Observation::Opened { resume } => {
            let how = match resume {
                resume::START => "start",
                resume::CURSOR => "cursor",
                resume::SNAPSHOT => "snapshot",
                resume::RESET => "reset",
                _ => "reconcile",
            };
            metrics.opened.with_label_values(&[how]).inc();
        }
        Observation::Panicked => metrics.panics.with_label_values(&["document"]).inc(),
        Observation::Refused { code, .. } => metrics.refused.with_label_values(&[code.name()]).inc(),
        Observation::Stored { changes, bytes, .. } => {
            metrics.operations.inc_by(u64::from(changes));
            metrics.pushed_bytes.inc_by(bytes);
        }
    }
}

/// Tells whoever reads events. Who it was is known as long as they have the document open.
fn tell(state: &mut State, observation: Observation) {
    let State { shard, updates, setup, .. } = state;
    let who = |handle, peer| {
        let (connection, identity) = shard.member_of(handle, peer)?;
        let subject = Some(&identity.subject).filter(|subject| !subject.is_empty()).cloned();
        Some(Who { connection, subject })
    };
    match observation {
        Observation::Refused { peer, handle, code } => setup.events.tell(|| Event::Refused {
            document: shard.document_of(handle).cloned(),
            who: who(handle, peer),
            code: code.name(),
        }),
        Observation::Stored { peer, handle, is_first, last_seq, changes, .. } => {
            if let Some(document) = shard.document_of(handle).filter(|_| is_first) {
                setup.events.tell(|| Event::Created { document: document.clone(), who: who(handle, peer) });
            }
            updates.note(&setup.events, handle, changes, last_seq, || shard.document_of(handle).cloned());
        }
        Observation::Opened { .. } | Observation::Panicked => {}
    }
}
