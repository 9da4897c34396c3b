//! Frames in: what each kind does.

use etherply_engine::access::Grant;
use etherply_engine::ids::DocumentId;
use etherply_engine::peer::Now;
use etherply_engine::placement::shard_of;
use etherply_engine::shard::{Input, OpenRequest, PushRequest, Shard};
use etherply_engine::{outgoing::Outgoing, peer::Peer};
use etherply_wire::kinds::{
    BroadcastSend, ClockEntry, Cursor, Error, GoingAway, Hello, LimitEntry, Open, Ping, Pong, PresenceSet,
    Push, Reconcile, Renew, Welcome,
};
use etherply_wire::limits::{
    self, ACTOR_BYTES_MAX, AGENT_BYTES_MAX, PUSH_CHANGES_MAX, RECONCILE_ENTRIES_MAX, STREAMS_MAX,
};
use etherply_wire::{Direction, ErrorCode, Frame, FrameError, Kind, PROTOCOL, Rights};

use super::connection::{Control, Stage};
use super::core::State;
use super::limits::{DRAIN_TIMEOUT_S, TOKENS_REFUSED_MAX};
use super::{handover, pace};
use crate::access::Denied;
use crate::events::Event;
use crate::throttle::limits::RETRY_JITTER_MS;

/// What this server calls itself.
const AGENT: &str = concat!("etherply/", env!("CARGO_PKG_VERSION"));
/// Why a frame ends the connection.
struct Fatal(ErrorCode, String);

impl From<FrameError> for Fatal {
    fn from(error: FrameError) -> Self {
        Self(error.code(), error.to_string())
    }
}

/// Acts on one frame.
pub(super) fn frame(state: &mut State, id: u64, bytes: &[u8]) {
    state.setup.metrics.frames.inc();
    let now_s = state.now_s();
    let Some(connection) = state.connections.get_mut(id) else { return };
    connection.pace.count(1);
    if connection.stage == Stage::Ready {
        connection.heard_s = now_s;
    }
    let (peer, stage) = (connection.peer, connection.stage);
    let frame = match Frame::parse(bytes) {
        Ok(Some(frame)) => frame,
        Ok(None) => return,
        Err(error) => return state.fail(id, error.code(), 0, &error.to_string()),
    };
    let kind = frame.kind();
    if let Err(Fatal(code, message)) = dispatch(state, peer, stage, kind, &frame) {
        state.fail(id, code, kind.map_or(0, |kind| kind as u16), &message);
    }
}

fn dispatch(
    state: &mut State,
    peer: Peer,
    stage: Stage,
    kind: Option<Kind>,
    frame: &Frame<'_>,
) -> Result<(), Fatal> {
    let Some(kind) = kind else { return Ok(()) };
    if kind.direction() == Direction::ToClient {
        let message = format!("{} frames come from servers only", kind.name());
        return Err(Fatal(ErrorCode::UnexpectedKind, message));
    }
    if (stage == Stage::Greeting) != (kind == Kind::Hello) {
        let message = "the first frame is a hello, and no other is";
        return Err(Fatal(ErrorCode::UnexpectedKind, message.to_owned()));
    }
    let now = state.now();
    match kind {
        Kind::Hello => hello(state, peer, now, frame),
        Kind::Open => open(state, peer, now, frame),
        Kind::Ping => {
            let nonce = frame.body::<Ping>()?.nonce.to_native();
            reply(state, peer, Outgoing::new(0, &Pong { nonce }, &[]));
            Ok(())
        }
        Kind::Pong => Ok(()),
        Kind::Renew => renew(state, peer, now, frame),
        Kind::Close
        | Kind::Push
        | Kind::Reconcile
        | Kind::PresenceSet
        | Kind::PresenceLeave
        | Kind::BroadcastSend => on_stream(state, peer, now, kind, frame),
        _ => Err(Fatal(ErrorCode::UnexpectedKind, format!("{} frames do not belong here", kind.name()))),
    }
}

fn reply(state: &mut State, peer: Peer, frame: Outgoing) {
    if let Some(connection) = state.connections.get_mut(peer.id) {
        connection.push_control(Control::Frame(frame));
        state.mark_dirty(peer.id);
    }
}

/// An error that ends nothing.
fn complain(
    state: &mut State,
    peer: Peer,
    stream: u32,
    request: u32,
    kind: Kind,
    code: ErrorCode,
    text: &str,
) {
    let (code, kind) = (code as u16, kind as u16);
    let error = Error { request, code, kind, retry_after_ms: 0, message: text.to_owned() };
    reply(state, peer, Outgoing::new(stream, &error, &[]));
}

fn hello(state: &mut State, peer: Peer, now: Now, frame: &Frame<'_>) -> Result<(), Fatal> {
    let hello = frame.body::<Hello>()?;
    if hello.agent.len() > AGENT_BYTES_MAX {
        let message = format!("an agent's name has at most {AGENT_BYTES_MAX} bytes");
        return Err(Fatal(ErrorCode::ProtocolViolation, message));
    }
    if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL) {
        let message = format!(
            "this server speaks protocol {PROTOCOL}, the client {} to {}: update the older one",
            hello.protocol_min, hello.protocol_max
        );
        return Err(Fatal(ErrorCode::UnsupportedProtocol, message));
    }
    let announced = limits::announced(u64::from(state.setup.idle_timeout_s) * 1_000);
    let Some(connection) = state.connections.get_mut(peer.id) else { return Ok(()) };
    connection.stage = Stage::Ready;
    connection.has_greeted = true;
    let address = connection.address;
    state.setup.events.tell(|| Event::Connected { who: connection.who(), address });
    if let Some(ticket) = &mut connection.pace.ticket {
        ticket.greeted();
    }
    let welcome = Welcome {
        protocol: PROTOCOL,
        capabilities: 0,
        session: connection.session,
        server_time_ms: now.wall_ms,
        agent: AGENT.to_owned(),
        limits: announced
            .into_iter()
            .map(|(limit, value)| LimitEntry { limit: limit as u16, value })
            .collect(),
    };
    reply(state, peer, Outgoing::new(0, &welcome, &[]));
    Ok(())
}

/// Tells a connection that came when too many did when to come back, if it is one.
pub(super) fn turn_away(state: &mut State, id: u64) {
    let now_s = state.now_s();
    let Some(connection) = state.connections.get_mut(id) else { return };
    let Some(retry_after_ms) = connection.retry_after_ms else { return };
    let code = ErrorCode::Overloaded;
    let message = GoingAway {
        code: code as u16,
        retry_after_ms,
        retry_jitter_ms: RETRY_JITTER_MS,
        message: "too many connect at once: come back then".to_owned(),
    };
    connection.push_control(Control::Frame(Outgoing::new(0, &message, &[])));
    connection.push_close_frame(code, &message.message);
    connection.begin_draining(now_s + DRAIN_TIMEOUT_S);
    state.setup.metrics.rejected.with_label_values(&["rate"]).inc();
    state.mark_dirty(id);
}

fn open(state: &mut State, peer: Peer, now: Now, frame: &Frame<'_>) -> Result<(), Fatal> {
    let open = frame.body::<Open>()?;
    let request = open.request.to_native();
    let Some(connection) = state.connections.get_mut(peer.id) else { return Ok(()) };
    let (session, streams) = (connection.session, connection.streams.len() + connection.opening as usize);
    let rights = Rights(open.rights.to_native());
    let document = match DocumentId::new(&open.document) {
        Ok(document) => document,
        Err(error) => {
            let text = error.to_string();
            complain(state, peer, 0, request, Kind::Open, ErrorCode::DocumentIdInvalid, &text);
            return Ok(());
        }
    };
    let wrong = if request == 0 {
        Some((ErrorCode::ProtocolViolation, "a request's number is not 0".to_owned()))
    } else if !rights.is_known() || rights.is_empty() {
        Some((
            ErrorCode::RightsInvalid,
            "ask for read, write, presence, import, or several of them".to_owned(),
        ))
    } else if streams >= STREAMS_MAX {
        let text = format!("a connection may have {STREAMS_MAX} documents open: close some, or use another");
        Some((ErrorCode::TooManyStreams, text))
    } else {
        None
    };
    if let Some((code, text)) = wrong {
        complain(state, peer, 0, request, Kind::Open, code, &text);
        return Ok(());
    }
    let cursor = open.cursor.as_ref().map(|cursor| Cursor {
        epoch: cursor.epoch.to_native(),
        seq: cursor.seq.to_native(),
        chain: cursor.chain,
    });
    state.setup.faults.pass(&document, "a connection opens it");
    let token = open.token.as_ref().map(|token| token.as_str());
    let grant = match ask_for_grant(state, peer, token, &document, rights, now)? {
        Ok(grant) => grant,
        Err(Denied { code, message, .. }) => {
            complain(state, peer, 0, request, Kind::Open, code, message);
            return Ok(());
        }
    };
    let home = shard_of(&document, state.setup.cores);
    let open = OpenRequest { peer, session, request, document, rights, grant, cursor };
    if handover::should_move(state, peer.id, home) {
        if let Some(connection) = state.connections.get_mut(peer.id) {
            connection.moving = Some((home, Box::new(open)));
        }
    } else {
        begin_open(state, open, home, now);
    }
    Ok(())
}

/// What a token grants on a document. The connection ends that had too many refused.
fn ask_for_grant(
    state: &mut State,
    peer: Peer,
    token: Option<&str>,
    document: &DocumentId,
    wanted: Rights,
    now: Now,
) -> Result<Result<Grant, Denied>, Fatal> {
    let State { gate, connections, setup, .. } = state;
    let Some(connection) = connections.get_mut(peer.id) else {
        return Err(Fatal(ErrorCode::Internal, "the connection is gone".to_owned()));
    };
    let asked = gate.grant(token, &mut connection.subject, document, wanted, now.wall_ms);
    if let Some(subject) = &connection.subject {
        connection.pace.belongs_to(subject, now.mono_us);
    }
    if let Err(Denied { code, .. }) = &asked {
        let who = || Some(connection.who());
        setup.events.tell(|| Event::Refused {
            document: Some(document.clone()),
            who: who(),
            code: code.name(),
        });
    }
    if let Err(Denied { code, counted: Some(counted), message }) = &asked {
        setup.metrics.tokens_refused.with_label_values(&[counted]).inc();
        connection.tokens_refused += 1;
        if connection.tokens_refused >= TOKENS_REFUSED_MAX {
            return Err(Fatal(*code, (*message).to_owned()));
        }
    }
    Ok(asked)
}

/// Asks the document's home.
pub(super) fn begin_open(state: &mut State, open: OpenRequest, home: u16, now: Now) {
    // It may have been revoked while the connection moved here.
    if state.gate.is_revoked(&open.grant, &open.document) {
        let (code, text) = (ErrorCode::TokenRevoked, "the token was revoked: ask for another one");
        return complain(state, open.peer, 0, open.request, Kind::Open, code, text);
    }
    let Some(connection) = state.connections.get_mut(open.peer.id) else { return };
    connection.opening += 1;
    if !connection.homes.contains(&home) {
        connection.homes.push(home);
    }
    state.request(home, Input::Open(open), now);
}

fn renew(state: &mut State, peer: Peer, now: Now, frame: &Frame<'_>) -> Result<(), Fatal> {
    let renew = frame.body::<Renew>()?;
    let (request, handle) = (renew.request.to_native(), frame.stream());
    let is_open =
        state.connections.get_mut(peer.id).is_some_and(|connection| connection.stream(handle).is_some());
    let document = state.feeds.document(handle).filter(|_| is_open).cloned();
    let Some(document) = document else {
        complain(state, peer, handle, request, Kind::Renew, ErrorCode::StreamNotOpen, NOT_OPEN);
        return Ok(());
    };
    // What of it was wanted is for the document's home to know.
    match ask_for_grant(state, peer, Some(&renew.token), &document, Rights::ALL, now)? {
        Ok(grant) => {
            let home = Shard::home_of(handle, state.setup.cores);
            state.request(home, Input::Renew { peer, handle, request, grant }, now);
        }
        Err(Denied { code, message, .. }) => {
            complain(state, peer, handle, request, Kind::Renew, code, message)
        }
    }
    Ok(())
}

const NOT_OPEN: &str = "this stream is not open on this connection: open the document first";

/// Frames that belong to an open document.
fn on_stream(state: &mut State, peer: Peer, now: Now, kind: Kind, frame: &Frame<'_>) -> Result<(), Fatal> {
    let handle = frame.stream();
    let is_open =
        state.connections.get_mut(peer.id).is_some_and(|connection| connection.stream(handle).is_some());
    if !is_open {
        complain(state, peer, handle, 0, kind, ErrorCode::StreamNotOpen, NOT_OPEN);
        return Ok(());
    }
    let home = Shard::home_of(handle, state.setup.cores);
    match kind {
        Kind::Push => push(state, peer, home, now, frame)?,
        Kind::Reconcile => {
            let body = frame.body::<Reconcile>()?;
            let is_too_long =
                |entry: &<ClockEntry as rkyv::Archive>::Archived| entry.actor.len() > ACTOR_BYTES_MAX;
            if body.clock.len() > RECONCILE_ENTRIES_MAX || body.clock.iter().any(is_too_long) {
                let message = format!(
                    "a clock has at most {RECONCILE_ENTRIES_MAX} entries a frame, with actors of at most \
                     {ACTOR_BYTES_MAX} bytes"
                );
                return Err(Fatal(ErrorCode::ProtocolViolation, message));
            }
            let read = |entry: &<ClockEntry as rkyv::Archive>::Archived| ClockEntry {
                actor: entry.actor.to_vec(),
                seq: entry.seq.to_native(),
                hash: entry.hash,
            };
            let clock = body.clock.iter().map(read).collect();
            state.request(home, Input::Reconcile { peer, handle, more: body.more, clock }, now);
        }
        Kind::PresenceSet => {
            let ttl_ms = frame.body::<PresenceSet>()?.ttl_ms.to_native();
            state.request(home, Input::PresenceSet { peer, handle, ttl_ms, state: frame.tail() }, now);
        }
        Kind::PresenceLeave => state.request(home, Input::PresenceLeave { peer, handle }, now),
        Kind::BroadcastSend => {
            let topic = &frame.body::<BroadcastSend>()?.topic;
            state.request(home, Input::Broadcast { peer, handle, topic, payload: frame.tail() }, now);
        }
        _ => state.request(home, Input::Close { peer, handle }, now),
    }
    Ok(())
}

fn push(state: &mut State, peer: Peer, home: u16, now: Now, frame: &Frame<'_>) -> Result<(), Fatal> {
    let body = frame.body::<Push>()?;
    let changes = frame.tail();
    if body.lengths.len() > PUSH_CHANGES_MAX {
        let message = format!("a push has at most {PUSH_CHANGES_MAX} changes");
        return Err(Fatal(ErrorCode::ProtocolViolation, message));
    }
    let mut lengths = std::mem::take(&mut state.lengths);
    lengths.clear();
    lengths.extend(body.lengths.iter().map(|length| length.to_native()));
    pace::pay_document(state, peer.id, frame.stream(), lengths.len(), changes.len());
    // Counted until the engine settles it: acked, refused, or passed over.
    state.count_in(peer, changes.len());
    let request = PushRequest {
        peer,
        handle: frame.stream(),
        push: body.push.to_native(),
        generation: body.generation.to_native(),
        lengths: &lengths,
        changes,
    };
    state.request(home, Input::Push(request), now);
    state.lengths = lengths;
    Ok(())
}
