//! One shard, one core's feeds and a log in memory, driven step by step: commits and answers of the log can
//! be held back. The engine decides everything; this only carries effects out.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use std::collections::{BTreeMap, VecDeque};

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, Change, ExpandedChange, ROOT};
use etherply_engine::access::Grant;
use etherply_engine::change::ChangeLimits;
use etherply_engine::document::{Anchor, Recovery, Summary, recover};
use etherply_engine::feed::{Feeds, QUANTUM_BYTES, ReadRequest};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, Deleted, Log, LogError, LogReader, MemoryLog};
use etherply_engine::peer::{Now, Peer, SessionId};
use etherply_engine::record::Record;
use etherply_engine::shard::{Budget, Effect, Input, OpenRequest, PushRequest, Shard, Unverified};
use etherply_engine::snapshot::{Chunk, Snapshot, SnapshotRequest};
use etherply_wire::kinds::{
    self, Ack, Broadcast, BroadcastGap, Changes, ClockEntry, Close, Cursor, Error, Opened, PresenceLeave,
    PresenceUpdate, Reconcile, Refused, RightsChanged,
};
use etherply_wire::{ErrorCode, Frame, Kind, Message, Rights};
use rkyv::api::high::{HighDeserializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::{Archive, Deserialize, Portable, rancor};

/// Everything that a member usually may.
pub const MEMBER: Rights = Rights(0b111);

/// A frame that a connection was sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Opened(Opened),
    Ack(Ack),
    Refused(Refused, Vec<u8>),
    Changes(Changes, Vec<Vec<u8>>),
    Reconcile(Reconcile),
    Close(Close),
    Error(Error),
    PresenceUpdate(PresenceUpdate),
    PresenceLeave(PresenceLeave),
    Broadcast(Broadcast),
    BroadcastGap(BroadcastGap),
    Snapshot(kinds::Snapshot, Vec<u8>),
    RightsChanged(RightsChanged),
}

impl Told {
    fn parse(bytes: &[u8]) -> Self {
        let frame = Frame::parse(bytes).unwrap().unwrap();
        match frame.kind().unwrap() {
            Kind::Opened => Self::Opened(body(&frame)),
            Kind::Ack => Self::Ack(body(&frame)),
            Kind::Refused => Self::Refused(body(&frame), frame.tail().to_vec()),
            Kind::Changes => {
                let changes: Changes = body(&frame);
                let mut rest = frame.tail();
                let cut = |length: &u32| rest.split_off(..*length as usize).unwrap().to_vec();
                let carried = changes.lengths.iter().map(cut).collect();
                assert!(rest.is_empty());
                Self::Changes(changes, carried)
            }
            Kind::Reconcile => Self::Reconcile(body(&frame)),
            Kind::Close => Self::Close(body(&frame)),
            Kind::Error => Self::Error(body(&frame)),
            Kind::PresenceUpdate => Self::PresenceUpdate(body(&frame)),
            Kind::PresenceLeave => Self::PresenceLeave(body(&frame)),
            Kind::Broadcast => Self::Broadcast(body(&frame)),
            Kind::BroadcastGap => Self::BroadcastGap(body(&frame)),
            Kind::Snapshot => Self::Snapshot(body(&frame), frame.tail().to_vec()),
            Kind::RightsChanged => Self::RightsChanged(body(&frame)),
            other => panic!("an unexpected {other:?}"),
        }
    }

    pub fn opened(self) -> Opened {
        match self {
            Self::Opened(opened) => opened,
            other => panic!("not opened, but {other:?}"),
        }
    }

    pub fn ack(self) -> Ack {
        match self {
            Self::Ack(ack) => ack,
            other => panic!("not an ack, but {other:?}"),
        }
    }

    pub fn refused(self) -> (ErrorCode, Refused, Vec<u8>) {
        match self {
            Self::Refused(refused, tail) => (ErrorCode::from_number(refused.code).unwrap(), refused, tail),
            other => panic!("not refused, but {other:?}"),
        }
    }

    pub fn close(self) -> Close {
        match self {
            Self::Close(close) => close,
            other => panic!("not closed, but {other:?}"),
        }
    }

    pub fn error(self) -> Error {
        match self {
            Self::Error(error) => error,
            other => panic!("no error, but {other:?}"),
        }
    }

    pub fn changes(self) -> (Changes, Vec<Vec<u8>>) {
        match self {
            Self::Changes(changes, carried) => (changes, carried),
            other => panic!("no changes, but {other:?}"),
        }
    }
}

fn body<T>(frame: &Frame<'_>) -> T
where
    T: Message + Archive,
    T::Archived: Portable
        + for<'b> CheckBytes<HighValidator<'b, rancor::Failure>>
        + Deserialize<T, HighDeserializer<rancor::Failure>>,
{
    rkyv::deserialize::<T, rancor::Failure>(frame.body::<T>().unwrap()).unwrap()
}

/// A shard and what is around it.
pub struct Host {
    pub shard: Shard,
    pub feeds: Feeds,
    pub log: MemoryLog,
    /// Commits stay in `commits` until [`Host::commit`].
    pub hold_commits: bool,
    pub commits: VecDeque<(u64, Vec<Append>)>,
    /// Questions to the log stay in `questions` until [`Host::answer`].
    pub hold_questions: bool,
    pub questions: VecDeque<Effect>,
    pub now: Now,
    pub told: BTreeMap<Peer, Vec<Told>>,
    /// Bytes of pushes that are not settled, by connection.
    pub in_flight: BTreeMap<Peer, usize>,
    effects: VecDeque<Effect>,
    is_carrying_out: bool,
    members: BTreeMap<(Peer, u32), u32>,
    pub woken: Vec<(Peer, u32)>,
    pub finds: usize,
    /// What feeds asked for of snapshots.
    pub asked_snapshots: VecDeque<(u32, SnapshotRequest)>,
    /// What was cut: a snapshot is the log's changes, one behind the other.
    pub snapshots: BTreeMap<DocumentId, (Snapshot, Vec<u8>)>,
    /// Cuts stay in `cuts` until [`Host::cut`].
    pub hold_cuts: bool,
    pub cuts: VecDeque<(u32, DocumentId, Cursor)>,
    /// Length of a chunk.
    pub chunk_bytes: usize,
    /// Tombstones stay in `tombstones` until [`Host::bury`].
    pub hold_tombstones: bool,
    pub tombstones: VecDeque<DocumentId>,
    /// What became of requests to delete.
    pub deletions: Vec<(u64, Result<Deleted, LogError>)>,
    /// Groups that wait for [`Host::verify`]: handle, number, what they follow, records.
    pub verifications: VecDeque<(u32, u64, Cursor, Vec<Record>)>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new(MemoryLog::new())
    }
}

pub fn document() -> DocumentId {
    DocumentId::new("rooms/1").unwrap()
}

pub fn peer(id: u64) -> Peer {
    Peer { core: 0, id }
}

pub fn session(peer: Peer) -> SessionId {
    let mut session = [7; 16];
    session[..8].copy_from_slice(&peer.id.to_le_bytes());
    session
}

impl Host {
    pub fn new(log: MemoryLog) -> Self {
        Self {
            shard: Shard::new(0, 1, ChangeLimits::DEFAULT),
            feeds: Feeds::new(),
            log,
            hold_commits: false,
            commits: VecDeque::new(),
            hold_questions: false,
            questions: VecDeque::new(),
            now: Now { mono_us: 1, wall_ms: 1_700_000_000_000 },
            told: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            effects: VecDeque::new(),
            is_carrying_out: false,
            members: BTreeMap::new(),
            woken: Vec::new(),
            finds: 0,
            asked_snapshots: VecDeque::new(),
            snapshots: BTreeMap::new(),
            hold_cuts: false,
            cuts: VecDeque::new(),
            chunk_bytes: 1_000,
            hold_tombstones: false,
            tombstones: VecDeque::new(),
            deletions: Vec::new(),
            verifications: VecDeque::new(),
        }
    }

    /// The same host, which has changes verified before they are stored.
    pub fn with_verification(mut self) -> Self {
        self.shard = self.shard.with_verification();
        self
    }

    /// Answers the oldest group that waits.
    pub fn verify(&mut self, result: Result<(), Unverified>) {
        let (handle, number, ..) = self.verifications.pop_front().expect("a group waits");
        self.turn(Input::Verified { handle, number, result });
    }

    /// The same host with another budget.
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.shard = self.shard.with_budget(budget);
        self
    }

    /// Cuts the oldest snapshot that was asked for.
    pub fn cut(&mut self) {
        let (handle, snapshot) = self.cut_unheard();
        self.turn(Input::SnapshotCut { handle, result: Ok(snapshot) });
    }

    /// Cuts the oldest snapshot that was asked for; the document's home has not heard of it yet.
    pub fn cut_unheard(&mut self) -> (u32, Snapshot) {
        let (handle, document, through) = self.cuts.pop_front().expect("a cut waits");
        let mut recovery = Recovery::through(document.clone(), through.seq);
        let recovered = loop {
            if let Some(recovered) = recovery.step(&self.log).unwrap() {
                break recovered;
            }
        };
        let summary = recovered.document.summary().unwrap();
        assert_eq!(summary.cursor, through);
        let records = &self.log.records(&document)[..through.seq as usize];
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.change.to_vec()).collect();
        let total_bytes = bytes.len() as u64;
        assert_eq!(summary.log_bytes(), total_bytes);
        let snapshot = Snapshot::new(through, total_bytes, total_bytes, recovered.snapshot.as_ref());
        self.snapshots.insert(document.clone(), (snapshot, bytes));
        let summary = Summary::decode(&summary.encode()).unwrap();
        self.log.cover(&document, Anchor { snapshot, summary });
        (handle, snapshot)
    }

    /// Answers a feed's question for a piece of a snapshot. The members that cannot be served are told.
    pub fn read_snapshot(&mut self, handle: u32, request: &SnapshotRequest) {
        let woken = &mut self.woken;
        let wake = |peer, _| woken.push((peer, handle));
        let Some((snapshot, bytes)) = self.snapshots.get(&request.document) else {
            let (code, message) = (ErrorCode::DocumentDamaged, "the snapshot is missing".to_owned());
            for (peer, _) in self.feeds.snapshot_failed(handle, &request.snapshot) {
                self.turn(Input::Fail { peer, handle, code, message: message.clone() });
            }
            return;
        };
        if *snapshot != request.snapshot {
            return self.feeds.snapshot_replaced(handle, *snapshot, wake);
        }
        let mut chunks: Vec<Chunk> = Vec::new();
        for (n, part) in bytes.chunks(self.chunk_bytes).enumerate() {
            let offset = (n * self.chunk_bytes) as u64;
            let is_wanted = chunks.is_empty() || chunks.len() * self.chunk_bytes < request.bytes_max;
            if offset >= request.offset && is_wanted {
                chunks.push(Chunk::new(handle, snapshot, offset, part));
            }
        }
        self.feeds.snapshot_read(handle, &request.snapshot, chunks, wake);
    }

    /// One input, and everything that follows from it.
    pub fn step(&mut self, input: Input<'_>) {
        let mut effects = Vec::new();
        self.shard.step(input, self.now, &mut effects);
        self.carry_out(effects);
    }

    /// One input as of a driver that flushes after each.
    pub fn turn(&mut self, input: Input<'_>) {
        self.step(input);
        self.flush();
    }

    pub fn flush(&mut self) {
        let mut effects = Vec::new();
        self.shard.flush(&mut effects);
        self.carry_out(effects);
    }

    /// In their order: what follows from one step does not overtake what is left of another.
    fn carry_out(&mut self, effects: Vec<Effect>) {
        self.effects.extend(effects);
        if std::mem::replace(&mut self.is_carrying_out, true) {
            return;
        }
        while let Some(effect) = self.effects.pop_front() {
            // Members of other cores are only heard: their feeds are not simulated.
            let is_reply = matches!(effect, Effect::Reply { .. });
            if effect.core().is_some_and(|core| core != 0) && !is_reply {
                continue;
            }
            match effect {
                Effect::Commit { batch, appends } => {
                    self.commits.push_back((batch, appends));
                    if !self.hold_commits {
                        self.commit();
                    }
                }
                Effect::CutSnapshot { handle, document, through } => {
                    self.cuts.push_back((handle, document, through));
                    if !self.hold_cuts {
                        self.cut();
                    }
                }
                Effect::Load { .. }
                | Effect::Rebuild { .. }
                | Effect::Find { .. }
                | Effect::ReadChain { .. } => {
                    self.finds += usize::from(matches!(effect, Effect::Find { .. }));
                    self.questions.push_back(effect);
                    if !self.hold_questions {
                        self.answer();
                    }
                }
                Effect::Delete { document } => {
                    self.tombstones.push_back(document);
                    if !self.hold_tombstones {
                        self.bury();
                    }
                }
                Effect::Verify { handle, number, document: _, after, records } => {
                    self.verifications.push_back((handle, number, after, records));
                }
                Effect::DeletionAnswered { token, result } => self.deletions.push((token, result)),
                Effect::Reply { peer, frame, .. } => {
                    self.told.entry(peer).or_default().push(Told::parse(frame.frame()));
                }
                Effect::Settle { peer, bytes } => {
                    let in_flight = self.in_flight.entry(peer).or_default();
                    *in_flight = in_flight.checked_sub(bytes).expect("settled once");
                }
                Effect::Attach(attach) => {
                    if let Some(feed) = attach.feed {
                        self.feeds.start(attach.handle, *feed);
                    }
                    let number = self.feeds.attach(attach.handle, attach.peer, attach.member).unwrap();
                    self.members.insert((attach.peer, attach.handle), number);
                }
                Effect::Detach { peer, handle } => {
                    let number = self.members.remove(&(peer, handle)).unwrap();
                    self.feeds.detach(handle, number, peer);
                }
                Effect::Reconciled { peer, handle, known } => {
                    let number = self.members[&(peer, handle)];
                    self.feeds.reconciled(handle, number, peer, known);
                }
                Effect::Rights { peer, handle, rights, expires_ms } => {
                    let number = self.members[&(peer, handle)];
                    if self.feeds.set_rights(handle, number, peer, rights, expires_ms) {
                        self.woken.push((peer, handle));
                    }
                }
                Effect::Publish { handle, event, .. } => {
                    let woken = &mut self.woken;
                    self.feeds.publish(handle, event, |peer, _| woken.push((peer, handle)));
                }
                Effect::StopFeed { handle, .. } => self.feeds.stop(handle),
                Effect::OpenRefused { .. } | Effect::Observe(_) => {}
            }
        }
        self.is_carrying_out = false;
    }

    /// Stores the oldest commit that is held back.
    pub fn commit(&mut self) {
        let (batch, appends) = self.commits.pop_front().expect("a commit waits");
        self.log.commit(&appends).unwrap();
        self.step(Input::Committed { batch });
    }

    /// Fails the oldest commit that is held back.
    pub fn fail_commit(&mut self) {
        let (batch, _) = self.commits.pop_front().expect("a commit waits");
        self.step(Input::CommitFailed { batch, why: "no space left".to_owned() });
    }

    /// Stores the oldest tombstone that is held back.
    pub fn bury(&mut self) {
        let document = self.tombstones.pop_front().expect("a tombstone waits");
        let result = Ok(self.log.delete(&document));
        self.turn(Input::Deleted { document, result });
    }

    /// Answers the oldest question that is held back.
    pub fn answer(&mut self) {
        match self.questions.pop_front().expect("a question waits") {
            // Whoever asks for a rebuild holds it back, and puts the new epoch into the log.
            Effect::Load { handle, document } | Effect::Rebuild { handle, document } => {
                let mut recovery = Recovery::new(document);
                let result = loop {
                    match recovery.step(&self.log).transpose() {
                        Some(result) => break Box::new(result),
                        None => continue,
                    }
                };
                self.turn(Input::Loaded { handle, result });
            }
            Effect::Find { handle, peer, document, epoch, asked_for, hashes } => {
                let find = |hash| Ok((hash, self.log.find(&document, epoch, &hash)?));
                let result = hashes.into_iter().map(find).collect();
                self.turn(Input::Found { handle, peer, asked_for, result });
            }
            Effect::ReadChain { handle, peer, document, at } => {
                let result = self.log.chain_at(&document, at.epoch, at.seq);
                self.turn(Input::ChainRead { handle, peer, result });
            }
            other => panic!("{other:?} is no question"),
        }
    }

    pub fn open(&mut self, peer: Peer, rights: Rights, cursor: Option<Cursor>) {
        self.open_in(document(), peer, rights, cursor);
    }

    pub fn open_in(&mut self, document: DocumentId, peer: Peer, rights: Rights, cursor: Option<Cursor>) {
        self.open_as(Grant::anonymous(), document, peer, rights, cursor);
    }

    /// The same by a grant.
    pub fn open_as(
        &mut self,
        grant: Grant,
        document: DocumentId,
        peer: Peer,
        rights: Rights,
        cursor: Option<Cursor>,
    ) {
        let session = session(peer);
        self.turn(Input::Open(OpenRequest { peer, session, request: 1, document, rights, grant, cursor }));
    }

    /// Opens the document for a new member and returns its handle.
    pub fn join(&mut self, id: u64) -> u32 {
        self.open(peer(id), MEMBER, None);
        let handle = self.handle(peer(id));
        self.take(peer(id)).remove(0).opened();
        handle
    }

    pub fn has_stream(&self, peer: Peer) -> bool {
        self.members.keys().any(|(other, _)| *other == peer)
    }

    pub fn handle(&self, peer: Peer) -> u32 {
        self.members.keys().find(|(other, _)| *other == peer).expect("it has a stream").1
    }

    /// Pushes without letting the batch go.
    pub fn push_open(&mut self, peer: Peer, push: u64, generation: u32, changes: &[Vec<u8>]) {
        let handle = self.handle(peer);
        let lengths: Vec<u32> = changes.iter().map(|change| change.len() as u32).collect();
        let bytes = changes.concat();
        *self.in_flight.entry(peer).or_default() += bytes.len();
        let push = PushRequest { peer, handle, push, generation, lengths: &lengths, changes: &bytes };
        self.step(Input::Push(push));
    }

    pub fn push(&mut self, peer: Peer, push: u64, generation: u32, changes: &[Vec<u8>]) {
        self.push_open(peer, push, generation, changes);
        self.flush();
    }

    /// Pushes something that has to be refused, in a generation of its own, and returns how.
    pub fn refusal(
        &mut self,
        peer: Peer,
        generation: u32,
        changes: &[Vec<u8>],
    ) -> (ErrorCode, Refused, Vec<u8>) {
        self.push(peer, 1, generation, changes);
        let mut told = self.take(peer);
        assert_eq!(told.len(), 1, "{told:?}");
        told.remove(0).refused()
    }

    /// Pushes something that has to be taken, and returns the ack.
    pub fn acked(&mut self, peer: Peer, generation: u32, changes: &[Vec<u8>]) -> Ack {
        self.push(peer, 1, generation, changes);
        let mut told = self.take(peer);
        assert_eq!(told.len(), 1, "{told:?}");
        told.remove(0).ack()
    }

    pub fn reconcile(&mut self, peer: Peer, clock: Vec<ClockEntry>) {
        let handle = self.handle(peer);
        self.turn(Input::Reconcile { peer, handle, more: false, clock });
    }

    pub fn close(&mut self, peer: Peer) {
        let handle = self.handle(peer);
        self.turn(Input::Close { peer, handle });
    }

    /// What a connection was sent since the last call, without what its feeds have.
    pub fn take(&mut self, peer: Peer) -> Vec<Told> {
        self.told.remove(&peer).unwrap_or_default()
    }

    /// One turn of a member: what it is sent, and what it waits for.
    pub fn gather_turn(&mut self, peer: Peer, budget_bytes: usize) -> (Vec<Told>, bool, Option<ReadRequest>) {
        let handle = self.handle(peer);
        let number = self.members[&(peer, handle)];
        let mut told = Vec::new();
        self.feeds.expire(self.now.wall_ms);
        let gathered = self
            .feeds
            .gather(handle, number, peer, budget_bytes, |frame| told.push(Told::parse(frame.frame())));
        self.asked_snapshots.extend(gathered.snapshot.map(|request| (handle, request)));
        (told, gathered.more, gathered.read)
    }

    /// Answers what a member waits for.
    pub fn fill(&mut self, peer: Peer, read: &ReadRequest) -> bool {
        let handle = self.handle(peer);
        let number = self.members[&(peer, handle)];
        let (after, through) = (read.after_seq, read.through_seq);
        match self.log.read(&read.document, read.epoch, after, through, read.bytes_max) {
            Ok(records) => self.feeds.fill(handle, number, peer, &records),
            Err(LogError::Covered { .. }) => {
                let anchor = self.log.anchor(&read.document, read.epoch).unwrap().unwrap();
                let woken = &mut self.woken;
                let before = woken.len();
                self.feeds.covered(handle, number, peer, anchor.snapshot, |peer, number| {
                    woken.push((peer, number));
                });
                woken.iter().skip(before).any(|(other, _)| *other == peer)
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Everything that a member lacks, in as many turns as it takes.
    pub fn gather(&mut self, peer: Peer) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            let (told, more, read) = self.gather_turn(peer, QUANTUM_BYTES);
            all.extend(told);
            let mut filled = read.is_some_and(|read| self.fill(peer, &read));
            if let Some((handle, request)) = self.asked_snapshots.pop_front() {
                self.read_snapshot(handle, &request);
                filled = true;
            }
            if !more && !filled {
                return all;
            }
        }
    }

    /// The changes that a member is sent.
    pub fn gather_changes(&mut self, peer: Peer) -> Vec<Vec<u8>> {
        self.gather(peer).into_iter().flat_map(|told| told.changes().1).collect()
    }

    pub fn wait_us(&mut self, us: u64) {
        self.now.mono_us += us;
        self.turn(Input::Tick);
    }

    /// The place behind the last durable change.
    pub fn end(&self) -> Cursor {
        recover(&self.log, &document()).unwrap().committed()
    }
}

/// Somebody who writes with Automerge.
pub struct Writer {
    pub doc: AutoCommit,
}

pub fn actor(n: u64) -> [u8; 16] {
    let mut actor = [3; 16];
    actor[..8].copy_from_slice(&n.to_be_bytes());
    actor
}

impl Writer {
    pub fn new(n: u64) -> Self {
        Self { doc: AutoCommit::new().with_actor(ActorId::from(&actor(n)[..])) }
    }

    /// Puts a value and returns the change.
    pub fn put(&mut self, key: &str, value: i64) -> Vec<u8> {
        self.doc.put(ROOT, key, value).unwrap();
        self.commit()
    }

    pub fn commit(&mut self) -> Vec<u8> {
        self.doc.commit_with(CommitOptions::default().with_time(0)).expect("something changed");
        self.doc.get_last_local_change().unwrap().raw_bytes().to_vec()
    }

    pub fn apply(&mut self, changes: &[Vec<u8>]) {
        let changes = changes.iter().map(|bytes| Change::from_bytes(bytes.clone()).unwrap());
        self.doc.apply_changes(changes).unwrap();
    }

    /// So many changes, each upon the one before.
    pub fn puts(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|n| self.put("n", n as i64)).collect()
    }
}

/// The same change with something about it altered, as Automerge never writes it.
pub fn altered(change: &[u8], alter: impl FnOnce(&mut ExpandedChange)) -> Vec<u8> {
    let mut expanded = Change::from_bytes(change.to_vec()).unwrap().decode();
    alter(&mut expanded);
    expanded.hash = None;
    Change::from(expanded).raw_bytes().to_vec()
}

/// A change without operations, made by hand: cheap where very many are needed.
pub fn empty(actor: &[u8], seq: u64, start_op: u64, deps: &[[u8; 32]]) -> Vec<u8> {
    let expanded = ExpandedChange {
        operations: Vec::new(),
        actor_id: ActorId::from(actor),
        hash: None,
        seq,
        start_op: start_op.try_into().unwrap(),
        time: 0,
        message: None,
        deps: deps.iter().map(|dep| automerge::ChangeHash(*dep)).collect(),
        extra_bytes: Vec::new(),
        author: None,
    };
    Change::from(expanded).raw_bytes().to_vec()
}

pub fn hash(change: &[u8]) -> [u8; 32] {
    Change::from_bytes(change.to_vec()).unwrap().hash().0
}

/// What a copy has, as a client says it.
pub fn clock(doc: &mut AutoCommit) -> Vec<ClockEntry> {
    let mut latest = BTreeMap::new();
    for change in doc.get_changes_meta(&[]) {
        latest.insert(change.actor.to_bytes().to_vec(), (change.seq, change.hash.0));
    }
    latest.into_iter().map(|(actor, (seq, hash))| ClockEntry { actor, seq, hash }).collect()
}
