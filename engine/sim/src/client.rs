//! A small client: what a member does with frames, and with a real Automerge document.
//!
//! This is a model, written from the wire's documentation, and it is strict: what a server may not do is an
//! error. It stands in one file so that the production client can take its place. It knows no clock and no
//! chance but what it is given, and nothing of the server.

mod clock;
mod opening;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use automerge::{ActorId, AutoCommit, Change, ReadDoc};
use etherply_engine::ids::DocumentId;
use etherply_wire::kinds::{
    Ack, Broadcast, BroadcastGap, Changes, ClockEntry, Close, Cursor, Error, Open, PresenceLeave,
    PresenceUpdate, Push, Refused, Renew, RightsChanged, Snapshot,
};
use etherply_wire::{ErrorCode, Frame, Kind, Rights, encode};

use crate::edits::{self, Edit};
use crate::frames::{body, split};
use crate::rng::Rng;

/// What an honest push may be refused for if what it builds upon was taken out of the document.
const WITHOUT_HISTORY: [ErrorCode; 7] = [
    ErrorCode::ActorExcluded,
    ErrorCode::ActorForked,
    ErrorCode::MissingDependencies,
    ErrorCode::SequenceGap,
    ErrorCode::UnknownActor,
    ErrorCode::ChangeMalformed,
    ErrorCode::StartOpWrong,
];

/// What a push is for, and so what may become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Own changes that are not acked.
    Outbox,
    /// Changes that the server has.
    Duplicate,
    /// Something that no honest client sends, to be refused with this code.
    Mischief(ErrorCode),
}

/// What the checkers want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server said that these changes are on disk, there.
    Acked {
        /// The document.
        document: DocumentId,
        /// Its epoch then.
        epoch: u64,
        /// Hashes and positions.
        changes: Vec<([u8; 32], u64)>,
    },
    /// A push was refused.
    Refused {
        /// Why.
        code: ErrorCode,
    },
    /// A stream's rights have ended, and its presence with them.
    RightsEnded {
        /// The document's handle.
        handle: u32,
        /// Which opening of it.
        openings: u64,
    },
    /// A copy was given up, or a part of it, for a fork, another genesis, or a server that went back.
    Rebuilt,
    /// A broadcast came, or a notice that these will not.
    Broadcasts {
        /// The document's handle.
        handle: u32,
        /// The first one.
        first: u64,
        /// The last one.
        last: u64,
    },
}

/// What came of an input.
#[derive(Debug, Default)]
pub struct Output {
    /// Frames to be sent, in order.
    pub frames: Vec<Vec<u8>>,
    /// What happened.
    pub events: Vec<Event>,
}

/// What the world knows and a client may have to put up with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context {
    /// The time, in microseconds.
    pub now_us: u64,
    /// An operator restored an older copy of a document at some time.
    pub restored: bool,
    /// Two clients began from the same image at some time.
    pub cloned: bool,
    /// A document began anew without some of its changes at some time.
    pub quarantined: bool,
    /// Rights end.
    pub tokens: bool,
}

/// Whether something is refused because rights have ended.
fn is_end(code: Option<ErrorCode>, context: Context) -> bool {
    context.tokens && matches!(code, Some(ErrorCode::TokenExpired | ErrorCode::TokenRevoked))
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not open.
    Closed,
    /// Asked for.
    Opening {
        /// The request's number.
        request: u32,
    },
    /// The server's clock is on its way.
    Reconciling {
        /// The handle.
        handle: u32,
        /// As much as came.
        clock: Vec<ClockEntry>,
    },
    /// Open.
    Open {
        /// The handle.
        handle: u32,
    },
    /// The server's `Close` is on its way.
    Closing {
        /// The handle.
        handle: u32,
    },
}

#[derive(Debug, Clone)]
struct InFlight {
    push: u64,
    generation: u32,
    purpose: Purpose,
    hashes: Vec<[u8; 32]>,
}

#[derive(Debug, Clone)]
struct Own {
    edit: Edit,
    sent: bool,
}

/// One document of one client.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The document.
    pub document: DocumentId,
    /// What it asks for.
    pub rights: Rights,
    /// The copy, without what only arrived: see [`Replica::doc`].
    doc: AutoCommit,
    /// Changes of others that nobody looked at yet. Automerge's cost grows with the copy and hardly with the number
    /// of changes, so they are applied together; what they build upon is checked as they come.
    arrived: Vec<Change>,
    actor: [u8; 16],
    /// Number and hash of every change in `doc`.
    known: BTreeMap<(Vec<u8>, u64), [u8; 32]>,
    /// The hashes in `known`.
    hashes: BTreeSet<[u8; 32]>,
    /// Every change in `doc`, in the order in which they came into it.
    history: Vec<Edit>,
    /// It edited an old version. Automerge may then write a change that does not follow its actor's previous
    /// one, which the server calls a fork.
    edited_past: bool,
    outbox: VecDeque<Own>,
    /// Edits that were given up with a copy, to be made anew.
    pub edits_to_redo: usize,
    /// Everything up to here was received.
    pub position: Option<Cursor>,
    ahead: BTreeMap<u64, Cursor>,
    /// A cursor that fits nothing, to make the server compare clocks.
    force_reconcile: bool,
    /// Where the stream stands.
    pub state: State,
    generation: u32,
    next_push: u64,
    in_flight: VecDeque<InFlight>,
    /// Every push on this stream that was not acked.
    unacked: BTreeMap<u64, Vec<[u8; 32]>>,
    /// How often it was opened: tells streams with the same handle apart.
    pub openings: u64,
    /// Its rights have ended.
    pub has_ended: bool,
    /// When they end, 0 for never.
    pub expires_ms: u64,
    /// A renewal that is not answered.
    renewing: Option<u32>,
    /// Clocks that were sent on this stream.
    clocks: usize,
    /// One of them without being asked for, which ends the stream.
    is_out_of_turn: bool,
    /// A snapshot, as far as it came.
    snapshot: Vec<u8>,
    /// No push before this time.
    pub not_before_us: u64,
    /// Not opened before this time.
    pub opens_at_us: u64,
    /// The document was deleted for good.
    pub is_deleted: bool,
    /// Who is here, as far as this member was told.
    pub presence: BTreeMap<[u8; 16], Vec<u8>>,
    presence_version: u64,
}

impl Replica {
    /// An empty copy.
    pub fn new(document: DocumentId, rights: Rights, actor: [u8; 16]) -> Self {
        Self {
            document,
            rights,
            doc: AutoCommit::new().with_actor(ActorId::from(&actor[..])),
            arrived: Vec::new(),
            actor,
            known: BTreeMap::new(),
            hashes: BTreeSet::new(),
            history: Vec::new(),
            edited_past: false,
            outbox: VecDeque::new(),
            edits_to_redo: 0,
            position: None,
            ahead: BTreeMap::new(),
            force_reconcile: false,
            state: State::Closed,
            generation: 1,
            next_push: 1,
            in_flight: VecDeque::new(),
            unacked: BTreeMap::new(),
            openings: 0,
            has_ended: false,
            expires_ms: 0,
            renewing: None,
            clocks: 0,
            is_out_of_turn: false,
            snapshot: Vec::new(),
            not_before_us: 0,
            opens_at_us: 0,
            is_deleted: false,
            presence: BTreeMap::new(),
            presence_version: 0,
        }
    }

    /// Whether the server has everything of this copy, and said so.
    pub fn is_drained(&self) -> bool {
        self.outbox.is_empty() && self.in_flight.is_empty() && self.edits_to_redo == 0
    }

    /// What keeps [`Replica::is_drained`] from being true.
    pub fn backlog(&self) -> (usize, usize, usize) {
        (self.outbox.len(), self.in_flight.len(), self.edits_to_redo)
    }

    /// Whether it may write.
    pub fn may_write(&self) -> bool {
        self.rights.has(Rights::WRITE)
    }

    /// The handle, while the stream is open and not reconciling.
    pub fn open_handle(&self) -> Option<u32> {
        match self.state {
            State::Open { handle } => Some(handle),
            _ => None,
        }
    }

    /// The copy, with everything that came.
    pub fn doc(&mut self) -> Result<&mut AutoCommit, String> {
        if !self.arrived.is_empty() {
            let arrived = std::mem::take(&mut self.arrived);
            let last = arrived.last().map(Change::hash);
            self.doc
                .apply_changes(arrived)
                .map_err(|error| format!("changes up to {last:?} do not apply: {error}"))?;
            let missing = self.doc.get_missing_deps(&[]);
            if !missing.is_empty() {
                return Err(format!("the copy of {} lacks {missing:?}", self.document));
            }
        }
        Ok(&mut self.doc)
    }

    /// Goes on as another actor, as a process that was started does.
    pub fn take_actor(&mut self, actor: [u8; 16]) {
        self.actor = actor;
        self.doc.set_actor(ActorId::from(&actor[..]));
    }

    /// Gives a copy without any change its initial content.
    pub fn begin(&mut self, variant: u64) {
        if self.known.is_empty() && self.may_write() {
            let genesis = edits::genesis(variant);
            let change = Change::from_bytes(genesis.bytes.clone()).expect("Automerge wrote it");
            self.doc.apply_changes([change]).expect("Automerge wrote it");
            self.own(vec![genesis]);
        }
    }

    /// Makes a random edit.
    pub fn edit(&mut self, rng: &mut Rng, now_us: u64) -> Result<(), String> {
        if self.may_write() {
            let time = i64::try_from(now_us / 1_000).unwrap_or(0);
            let past = if rng.chance(6) { rng.pick(&self.history).map(|edit| edit.hash) } else { None };
            self.edited_past |= past.is_some();
            let edits = edits::edit(self.doc()?, past, rng, time);
            self.own(edits);
        }
        Ok(())
    }

    fn own(&mut self, edits: Vec<Edit>) {
        for edit in edits {
            let change = Change::from_bytes(edit.bytes.clone()).expect("Automerge wrote it");
            self.known.insert((change.actor_id().to_bytes().to_vec(), change.seq()), edit.hash);
            self.hashes.insert(edit.hash);
            self.history.push(edit.clone());
            self.outbox.push_back(Own { edit, sent: false });
        }
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.state = State::Closed;
        self.end_stream();
    }

    fn end_stream(&mut self) {
        self.ahead.clear();
        self.in_flight.clear();
        self.unacked.clear();
        self.generation = 1;
        self.not_before_us = 0;
        (self.has_ended, self.expires_ms, self.renewing) = (false, 0, None);
        self.clocks = 0;
        self.is_out_of_turn = false;
        self.snapshot.clear();
        self.presence.clear();
        self.presence_version = 0;
        for own in &mut self.outbox {
            own.sent = false;
        }
    }

    /// Asks for the stream.
    pub fn open(&mut self, request: u32, out: &mut Output) {
        let cursor = if self.force_reconcile {
            Some(Cursor { epoch: 0, seq: 0, chain: [0; 32] })
        } else {
            self.position.filter(|cursor| cursor.seq > 0)
        };
        let document = self.document.as_str().to_owned();
        let open = Open { request, rights: self.rights.0, document, token: None, cursor };
        out.frames.push(encode(0, &open, &[]));
        self.state = State::Opening { request };
    }

    /// Asks for new rights.
    pub(crate) fn renew(&mut self, request: u32, out: &mut Output) {
        let (State::Open { handle } | State::Reconciling { handle, .. }) = self.state else { return };
        if self.renewing.is_none() {
            self.renewing = Some(request);
            out.frames.push(encode(handle, &Renew { request, token: "a new one".to_owned() }, &[]));
        }
    }

    /// Asks for the stream to be closed.
    pub fn close(&mut self, out: &mut Output) {
        if let State::Open { handle } | State::Reconciling { handle, .. } = self.state {
            out.frames.push(encode(handle, &Close { code: 0, message: String::new() }, &[]));
            self.state = State::Closing { handle };
        }
    }

    /// Pushes what is not on its way, with at most so many pushes in flight.
    pub fn pump(&mut self, in_flight_max: usize, changes_max: usize, now_us: u64, out: &mut Output) {
        while self.open_handle().is_some() && now_us >= self.not_before_us && !self.has_ended {
            let edits: Vec<Edit> = self
                .outbox
                .iter()
                .filter(|own| !own.sent)
                .take(changes_max)
                .map(|own| own.edit.clone())
                .collect();
            if edits.is_empty() || self.in_flight.len() >= in_flight_max {
                return;
            }
            for own in self.outbox.iter_mut().filter(|own| !own.sent).take(changes_max) {
                own.sent = true;
            }
            self.push(&edits, Purpose::Outbox, out);
        }
    }

    /// Pushes these changes.
    pub fn push(&mut self, edits: &[Edit], purpose: Purpose, out: &mut Output) {
        let Some(handle) = self.open_handle() else { return };
        let (push, generation) = (self.next_push, self.generation);
        self.next_push += 1;
        let hashes: Vec<[u8; 32]> = edits.iter().map(|edit| edit.hash).collect();
        self.unacked.insert(push, hashes.clone());
        self.in_flight.push_back(InFlight { push, generation, purpose, hashes });
        let lengths = edits.iter().map(|edit| u32::try_from(edit.bytes.len()).unwrap_or(0)).collect();
        let tails: Vec<&[u8]> = edits.iter().map(|edit| edit.bytes.as_slice()).collect();
        out.frames.push(encode(handle, &Push { push, generation, lengths }, &tails));
    }

    /// Changes of this copy that the server has, as far as this client knows.
    pub fn stored(&self) -> Vec<Edit> {
        let outbox: Vec<[u8; 32]> = self.outbox.iter().map(|own| own.edit.hash).collect();
        self.history.iter().filter(|edit| !outbox.contains(&edit.hash)).cloned().collect()
    }

    /// Everything of this copy that the server lacks goes into the outbox. False if the copies contradict
    /// each other.
    fn resync(&mut self, clock: &[ClockEntry]) -> bool {
        for entry in clock {
            let ours = self.known.get(&(entry.actor.clone(), entry.seq));
            if ours.is_some_and(|hash| *hash != entry.hash) {
                return false;
            }
        }
        let server: BTreeMap<&[u8], u64> =
            clock.iter().map(|entry| (entry.actor.as_slice(), entry.seq)).collect();
        let lacks =
            |change: &Change| server.get(change.actor_id().to_bytes()).is_none_or(|seq| change.seq() > *seq);
        // Any order that respects dependencies would do, but for this: an edit of an old version counts on from
        // operations that it does not depend on: those have to be there before it, too.
        let read = |edit: &Edit| Change::from_bytes(edit.bytes.clone()).expect("it is in the copy");
        let mut changes: Vec<Change> = self.history.iter().map(read).collect();
        changes.sort_by_key(Change::start_op);
        // Only an ack ends a change's stay in the outbox, so those that the server seems to have stay too.
        let waiting: Vec<[u8; 32]> = self.outbox.iter().map(|own| own.edit.hash).collect();
        self.outbox = changes
            .iter()
            .filter(|change| lacks(change) || waiting.contains(&change.hash().0))
            .map(|change| Own { edit: Edit::of(change), sent: false })
            .collect();
        self.generation += 1;
        self.may_write() || self.outbox.is_empty()
    }

    /// Gives up what is not stored, and goes on as a fresh actor on what is left.
    fn rebuild(&mut self, genesis: Option<&[u8]>, rng: &mut Rng, out: &mut Output) {
        if self.clocks > 0 {
            // The server was told that this copy has what is about to be given up, and will not send it.
            self.start_over(rng, out);
            return;
        }
        out.events.push(Event::Rebuilt);
        let stored = self.stored();
        let given_up = self.outbox.len();
        let mut changes: Vec<Change> = Vec::new();
        for bytes in genesis.into_iter().chain(stored.iter().map(|edit| edit.bytes.as_slice())) {
            changes.push(Change::from_bytes(bytes.to_vec()).expect("it was applied before"));
        }
        let mut history: Vec<Edit> = changes.iter().map(Edit::of).collect();
        let mut seen = BTreeSet::new();
        history.retain(|edit| seen.insert(edit.hash));
        let actor = rng.name();
        let mut doc = AutoCommit::new().with_actor(ActorId::from(&actor[..]));
        if doc.apply_changes(changes).is_err() || !doc.get_missing_deps(&[]).is_empty() {
            self.start_over(rng, out);
            return;
        }
        self.doc = doc;
        self.arrived.clear();
        self.history = history;
        self.actor = actor;
        self.outbox.clear();
        self.edits_to_redo += given_up;
        // Pushes that are under way are of the old actor and will be refused.
        self.generation += 1;
        self.known = self
            .doc
            .get_changes_meta(&[])
            .iter()
            .map(|change| ((change.actor.to_bytes().to_vec(), change.seq), change.hash.0))
            .collect();
        self.hashes = self.known.values().copied().collect();
    }

    /// Gives the whole copy up.
    pub fn start_over(&mut self, rng: &mut Rng, out: &mut Output) {
        out.events.push(Event::Rebuilt);
        self.actor = rng.name();
        self.doc = AutoCommit::new().with_actor(ActorId::from(&self.actor[..]));
        self.arrived.clear();
        self.known.clear();
        self.hashes.clear();
        self.history.clear();
        self.edits_to_redo += self.outbox.len();
        self.outbox.clear();
        self.position = None;
        self.ahead.clear();
        self.force_reconcile = false;
        self.close(out);
    }

    fn covered(&mut self, after_seq: u64, cursor: Cursor) -> Result<(), String> {
        let Some(position) = &mut self.position else { return Err("a range before `Opened`".to_owned()) };
        if cursor.epoch != position.epoch {
            return Err(format!("a range of epoch {} in one of {}", cursor.epoch, position.epoch));
        }
        self.ahead.insert(after_seq, cursor);
        while let Some((&after_seq, &cursor)) = self.ahead.first_key_value() {
            if after_seq > position.seq {
                break;
            }
            self.ahead.pop_first();
            if cursor.seq > position.seq {
                *position = cursor;
            }
        }
        Ok(())
    }

    /// Takes a frame of this stream.
    pub(crate) fn on_frame(
        &mut self,
        frame: &Frame<'_>,
        context: Context,
        rng: &mut Rng,
        out: &mut Output,
    ) -> Result<(), String> {
        match frame.kind() {
            Some(Kind::Changes) => {
                let changes: Changes = body(frame)?;
                // If a snapshot was on its way, the server goes on without it.
                self.snapshot.clear();
                let carried = split(frame.tail(), &changes.lengths)?;
                self.receive(&carried, changes.after_seq, changes.cursor, rng, out)
            }
            Some(Kind::Snapshot) => self.on_snapshot(&body(frame)?, frame.tail(), rng, out),
            Some(Kind::Ack) => self.on_ack(&body(frame)?, out),
            Some(Kind::Refused) => self.on_refused(&body(frame)?, frame.tail(), context, rng, out),
            Some(Kind::Reconcile) => self.on_reconcile(body(frame)?, rng, out),
            Some(Kind::Close) => self.on_close(&body(frame)?, context, rng, out),
            Some(Kind::PresenceUpdate) => {
                let update: PresenceUpdate = body(frame)?;
                if update.full {
                    self.presence.clear();
                }
                self.presence.extend(update.entries.into_iter().map(|entry| (entry.member, entry.state)));
                self.presence_at(update.version)
            }
            Some(Kind::PresenceLeave) => {
                let leave: PresenceLeave = body(frame)?;
                self.presence.retain(|member, _| !leave.members.contains(member));
                self.presence_at(leave.version)
            }
            Some(Kind::Broadcast) => {
                let Broadcast { index, .. } = body(frame)?;
                out.events.push(Event::Broadcasts { handle: frame.stream(), first: index, last: index });
                Ok(())
            }
            Some(Kind::BroadcastGap) => {
                let BroadcastGap { first, last } = body(frame)?;
                out.events.push(Event::Broadcasts { handle: frame.stream(), first, last });
                Ok(())
            }
            Some(Kind::RightsChanged) => {
                let changed: RightsChanged = body(frame)?;
                let had_ended = std::mem::replace(&mut self.has_ended, changed.rights == 0);
                self.expires_ms = changed.expires_at_ms;
                self.renewing.take_if(|request| *request == changed.request);
                if self.has_ended {
                    self.presence.clear();
                    let (handle, openings) = (frame.stream(), self.openings);
                    out.events.push(Event::RightsEnded { handle, openings });
                } else if changed.rights != self.rights.0 {
                    return Err(format!("rights {} instead of {}", changed.rights, self.rights.0));
                }
                if had_ended && self.has_ended { Err("rights end twice".to_owned()) } else { Ok(()) }
            }
            Some(Kind::Error) => {
                let error: Error = body(frame)?;
                // A new token may be over when it arrives: the next one is asked for.
                self.renewing.take_if(|request| *request == error.request);
                if is_end(ErrorCode::from_number(error.code), context) {
                    return Ok(());
                }
                Err(format!("error {} for {}: {}", error.code, self.document, error.message))
            }
            other => Err(format!("an unexpected frame {other:?}")),
        }
    }

    fn presence_at(&mut self, version: u64) -> Result<(), String> {
        if version < self.presence_version {
            return Err(format!("presence went back from {} to {version}", self.presence_version));
        }
        self.presence_version = version;
        Ok(())
    }

    fn on_snapshot(
        &mut self,
        piece: &Snapshot,
        tail: &[u8],
        rng: &mut Rng,
        out: &mut Output,
    ) -> Result<(), String> {
        if piece.offset == 0 {
            self.snapshot.clear();
        }
        if self.snapshot.len() as u64 != piece.offset || tail.is_empty() {
            return Err(format!("a piece of a snapshot at {} after {}", piece.offset, self.snapshot.len()));
        }
        self.snapshot.extend_from_slice(tail);
        if (self.snapshot.len() as u64) < piece.total_bytes {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.snapshot);
        let mut whole = AutoCommit::load(&bytes).map_err(|error| format!("a snapshot: {error}"))?;
        let changes = whole.get_changes(&[]);
        let carried: Vec<&[u8]> = changes.iter().map(|change| change.raw_bytes()).collect();
        if carried.len() as u64 != piece.cursor.seq {
            return Err(format!("a snapshot of {} holds {} changes", piece.cursor.seq, carried.len()));
        }
        self.receive(&carried, 0, piece.cursor, rng, out)
    }

    /// Takes changes of the range after a position, up to a cursor.
    fn receive(
        &mut self,
        carried: &[&[u8]],
        after_seq: u64,
        cursor: Cursor,
        rng: &mut Rng,
        out: &mut Output,
    ) -> Result<(), String> {
        if matches!(self.state, State::Reconciling { .. }) {
            return Err("changes before this member said what it has".to_owned());
        }
        let mut fresh = Vec::new();
        for bytes in carried {
            let change = Change::from_bytes(bytes.to_vec()).map_err(|error| error.to_string())?;
            let name = (change.actor_id().to_bytes().to_vec(), change.seq());
            let hash = change.hash().0;
            if self.known.get(&name).is_some_and(|ours| *ours != hash) {
                let ours = self.known.get(&name).copied().unwrap_or_default();
                // What is in flight may be taken, and would never be sent to its writer.
                if self.in_flight.is_empty() && self.outbox.iter().any(|own| own.edit.hash == ours) {
                    self.rebuild(None, rng, out);
                }
                if self.known.get(&name).is_some_and(|ours| *ours != hash) {
                    self.start_over(rng, out);
                    return Ok(());
                }
                if !matches!(self.state, State::Open { .. } | State::Closing { .. })
                    || self.position.is_none()
                {
                    return Ok(());
                }
            }
            self.outbox.retain(|own| own.edit.hash != hash);
            fresh.push((name, hash, change));
        }
        if self.position.is_none() {
            // The copy was given up; what still comes on this stream is for the old one.
            return Ok(());
        }
        self.hashes.extend(fresh.iter().map(|(_, hash, _)| *hash));
        let deps = fresh.iter().flat_map(|(_, _, change)| change.deps());
        let missing: Vec<_> = deps.filter(|dep| !self.hashes.contains(&dep.0)).collect();
        if !missing.is_empty() {
            return Err(format!(
                "changes after {after_seq} through {} lack {missing:?}; rights {}, position {:?}, ahead {:?}",
                cursor.seq,
                self.rights.0,
                self.position.map(|cursor| cursor.seq),
                self.ahead.iter().map(|(after, cursor)| (*after, cursor.seq)).collect::<Vec<_>>(),
            ));
        }
        for (name, hash, change) in fresh {
            if self.known.insert(name, hash).is_none() {
                self.history.push(Edit::of(&change));
                self.arrived.push(change);
            }
        }
        self.covered(after_seq, cursor)
    }

    fn on_ack(&mut self, ack: &Ack, out: &mut Output) -> Result<(), String> {
        let Some(hashes) = self.unacked.remove(&ack.push) else {
            return Err(format!("push {} is acked twice, or was never sent on this stream", ack.push));
        };
        if hashes.len() != ack.positions.len() {
            return Err(format!("push {} is acked with {} positions", ack.push, ack.positions.len()));
        }
        if let Some(at) = self.in_flight.iter().position(|push| push.push == ack.push) {
            if at != 0 {
                return Err(format!("push {} is acked before an earlier one", ack.push));
            }
            let acked = self.in_flight.pop_front();
            if acked.is_some_and(|acked| matches!(acked.purpose, Purpose::Mischief(_))) {
                return Err(format!("push {} was to be refused, and was acked", ack.push));
            }
        }
        self.outbox.retain(|own| !hashes.contains(&own.edit.hash));
        let changes = hashes.into_iter().zip(ack.positions.iter().copied()).collect();
        let epoch = ack.cursor.epoch;
        out.events.push(Event::Acked { document: self.document.clone(), epoch, changes });
        if self.position.is_none() {
            return Ok(());
        }
        if ack.cursor.seq > ack.after_seq { self.covered(ack.after_seq, ack.cursor) } else { Ok(()) }
    }

    fn on_refused(
        &mut self,
        refused: &Refused,
        tail: &[u8],
        context: Context,
        rng: &mut Rng,
        out: &mut Output,
    ) -> Result<(), String> {
        let code = ErrorCode::from_number(refused.code).ok_or("an unknown code")?;
        let is_it = |push: &InFlight| push.push == refused.push && push.generation == refused.generation;
        let Some(at) = self.in_flight.iter().position(is_it) else { return Ok(()) };
        if at != 0 {
            return Err(format!("push {} is refused before an earlier one is answered", refused.push));
        }
        let taken_back = self.in_flight.split_off(at);
        let is_same = |push: &InFlight| push.generation == refused.generation;
        // Pushes of a later generation may be taken all the same.
        let all_refused = taken_back.iter().all(is_same);
        for push in &taken_back {
            for own in self.outbox.iter_mut().filter(|own| push.hashes.contains(&own.edit.hash)) {
                own.sent = false;
            }
        }
        self.generation = self.generation.max(refused.generation) + 1;
        out.events.push(Event::Refused { code });
        let purpose = taken_back.front().map(|push| push.purpose.clone());
        if let Some(Purpose::Mischief(expected)) = purpose {
            let excused = matches!(
                code,
                ErrorCode::StorageUnavailable | ErrorCode::MissingDependencies | ErrorCode::SequenceGap
            ) || (context.quarantined && WITHOUT_HISTORY.contains(&code))
                || is_end(Some(code), context);
            // The genesis actor may hear of the server's genesis first.
            let is_genesis = (code, expected) == (ErrorCode::GenesisConflict, ErrorCode::ActorForked);
            let fits = code == expected || excused || is_genesis;
            return if fits { Ok(()) } else { Err(format!("refused with {code}, not with {expected}")) };
        }
        match code {
            ErrorCode::StorageUnavailable | ErrorCode::Overloaded => {
                self.not_before_us = context.now_us + u64::from(refused.retry_after_ms) * 1_000;
            }
            // What it would write stays with it until it may.
            _ if is_end(Some(code), context) => {}
            _ if context.quarantined && WITHOUT_HISTORY.contains(&code) => self.start_over(rng, out),
            ErrorCode::ActorForked if !context.cloned && !context.restored && !self.edited_past => {
                return Err(format!("push {} of {} is called forked", refused.push, self.document));
            }
            ErrorCode::GenesisConflict => {
                if Change::from_bytes(tail.to_vec()).is_err() {
                    return Err("a genesis conflict without the server's genesis".to_owned());
                }
                if all_refused {
                    self.rebuild(Some(tail), rng, out);
                } else {
                    self.start_over(rng, out);
                }
            }
            ErrorCode::ActorForked if all_refused => self.rebuild(None, rng, out),
            ErrorCode::ActorForked => self.start_over(rng, out),
            ErrorCode::MissingDependencies | ErrorCode::SequenceGap if context.restored => {
                if !refused.clock_complete {
                    self.force_reconcile = true;
                    self.close(out);
                } else if !self.resync(&refused.clock) {
                    self.start_over(rng, out);
                }
            }
            _ => {
                return Err(format!(
                    "an honest push {} of {} was refused at {}: {code}: {}",
                    refused.push, self.document, refused.index, refused.message
                ));
            }
        }
        Ok(())
    }
}
