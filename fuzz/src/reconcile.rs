//! Clocks of members: the shard believes nothing that its log contradicts, and whatever comes, nothing panics and
//! the document's other members go on.

// A panic is how this code reports.
#![allow(clippy::expect_used, clippy::panic)]

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, ROOT};
use etherply_engine::access::Grant;
use etherply_engine::change::{ChangeLimits, parse_header};
use etherply_engine::document::Recovered;
use etherply_engine::document::recover;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Log, LogReader, MemoryLog};
use etherply_engine::peer::{Now, Peer};
use etherply_engine::shard::{Effect, FindFor, Input, Observation, OpenRequest, PushRequest, Shard};
use etherply_wire::kinds::{self, ClockEntry, Cursor};
use etherply_wire::{Frame, Kind, Rights};

/// Changes of each of the document's two actors.
const CHANGES: u64 = 3;
/// The first byte of the input: frames as they travel, or a clock told in few bytes an entry.
const FRAMES: u8 = 0;

/// Drives a shard with one document through what a member says that it has.
pub fn check(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    let mut host = Host::new();
    let liar = Peer { core: 0, id: 2 };
    host.open(liar, Some(Cursor { epoch: 1, seq: 1, chain: [9; 32] }));
    if how == FRAMES {
        let mut rest = data;
        while let Ok(Some(length)) = etherply_wire::frame::frame_length(rest, rest.len()) {
            let Some((bytes, behind)) = rest.split_at_checked(length) else { break };
            rest = behind;
            let Ok(Some(frame)) = Frame::parse(bytes) else { continue };
            if frame.kind() != Some(Kind::Reconcile) {
                continue;
            }
            let Ok(body) = frame.body::<kinds::Reconcile>() else { continue };
            let entry = |entry: &kinds::ArchivedClockEntry| ClockEntry {
                actor: entry.actor.as_slice().to_vec(),
                seq: entry.seq.to_native(),
                hash: entry.hash,
            };
            host.reconcile(liar, body.more, body.clock.iter().map(entry).collect());
        }
    } else {
        for part in data.chunks(64) {
            let clock = part.chunks(4).map(|entry| host.entry(entry)).collect();
            host.reconcile(liar, part.len() == 64, clock);
        }
    }
    // Whoever tells the truth is believed, whatever came before.
    let honest = Peer { core: 0, id: 3 };
    host.open(honest, Some(Cursor { epoch: 1, seq: 1, chain: [9; 32] }));
    host.reconciled.clear();
    host.reconcile(honest, false, host.clock.clone());
    assert_eq!(host.reconciled, [honest], "an honest clock is taken");
}

struct Host {
    shard: Shard,
    log: MemoryLog,
    document: DocumentId,
    handle: u32,
    /// What is stored, actor by actor.
    clock: Vec<ClockEntry>,
    reconciled: Vec<Peer>,
}

impl Host {
    /// A shard with a document that two actors have written.
    fn new() -> Self {
        let document = DocumentId::new("d").expect("a name");
        let mut host = Self {
            shard: Shard::new(0, 1, ChangeLimits::DEFAULT),
            log: MemoryLog::new(),
            document,
            handle: 0,
            clock: Vec::new(),
            reconciled: Vec::new(),
        };
        let writer = Peer { core: 0, id: 1 };
        host.open(writer, None);
        for name in [1_u8, 2] {
            let mut doc = AutoCommit::new().with_actor(ActorId::from(&[name; 16][..]));
            for n in 0..CHANGES {
                doc.put(ROOT, "key", n).expect("the root takes a key");
                doc.commit_with(CommitOptions::default().with_time(0));
            }
            for change in doc.get_changes(&[]) {
                host.push(writer, change.raw_bytes());
            }
            let last = doc.get_last_local_change().expect("it wrote");
            host.clock.push(ClockEntry { actor: vec![name; 16], seq: CHANGES, hash: last.hash().0 });
        }
        assert!(recover(&host.log, &host.document).is_ok_and(|found| found.committed().seq == 2 * CHANGES));
        host
    }

    /// An entry told by which actor, which number, and whether its hash is right.
    fn entry(&self, told: &[u8]) -> ClockEntry {
        let byte = |at: usize| told.get(at).copied().unwrap_or(0);
        let actor = match byte(0) {
            name @ (1 | 2) => vec![name; 16],
            other => vec![other; usize::from(byte(3)) % 80],
        };
        let records = self.log.records(&self.document);
        let header = |at: usize| {
            let record = records.get(at)?;
            let header = parse_header(&record.change, &ChangeLimits::DEFAULT).ok()?;
            (header.actor == actor && header.seq == u64::from(byte(1))).then_some(record.hash.0)
        };
        let right = (0..records.len()).find_map(header).filter(|_| byte(2).is_multiple_of(2));
        let seq = if byte(1) == u8::MAX { u64::MAX } else { u64::from(byte(1)) };
        ClockEntry { actor, seq, hash: right.unwrap_or([byte(2); 32]) }
    }

    fn open(&mut self, peer: Peer, cursor: Option<Cursor>) {
        let rights = Rights::READ.with(Rights::WRITE);
        let (session, document, grant) = ([1; 16], self.document.clone(), Grant::anonymous());
        self.step(Input::Open(OpenRequest { peer, session, request: 1, document, rights, grant, cursor }));
    }

    fn push(&mut self, peer: Peer, changes: &[u8]) {
        let lengths = [u32::try_from(changes.len()).expect("short")];
        let (handle, push, generation) = (self.handle, 1, 1);
        self.step(Input::Push(PushRequest { peer, handle, push, generation, lengths: &lengths, changes }));
    }

    fn reconcile(&mut self, peer: Peer, more: bool, clock: Vec<ClockEntry>) {
        let handle = self.handle;
        self.step(Input::Reconcile { peer, handle, more, clock });
    }

    fn step(&mut self, input: Input<'_>) {
        let now = Now { mono_us: 1, wall_ms: 1 };
        let mut effects = Vec::new();
        self.shard.step(input, now, &mut effects);
        self.shard.flush(&mut effects);
        for effect in effects {
            match effect {
                Effect::Load { handle, document } => {
                    self.handle = handle;
                    let document = recover(&self.log, &document).expect("what it stored");
                    let result = Box::new(Ok(Recovered { document, snapshot: None }));
                    self.step(Input::Loaded { handle, result });
                }
                Effect::Commit { batch, appends } => {
                    self.log.commit(&appends).expect("a log in memory does not fail");
                    self.step(Input::Committed { batch });
                }
                Effect::Find { handle, peer, document, epoch, asked_for, hashes } => {
                    assert!(matches!(asked_for, FindFor::Reconcile(_)) || hashes.len() <= 4_096);
                    let find = |hash| (hash, self.log.find(&document, epoch, &hash).unwrap_or_default());
                    let result = Ok(hashes.into_iter().map(find).collect());
                    self.step(Input::Found { handle, peer, asked_for, result });
                }
                Effect::ReadChain { handle, peer, document, at } => {
                    let result = self.log.chain_at(&document, at.epoch, at.seq);
                    self.step(Input::ChainRead { handle, peer, result });
                }
                Effect::Reconciled { peer, known, .. } => {
                    assert!(known.len() <= etherply_wire::limits::CLOCK_ENTRIES_MAX);
                    self.reconciled.push(peer);
                }
                Effect::Observe(Observation::Panicked) => panic!("the work on a clock panicked"),
                _ => {}
            }
        }
    }
}
