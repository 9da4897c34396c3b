//! Presence: an update to a thousand members of one core, and a turn in which all of them set theirs.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherply_engine::feed::{FeedEvent, FeedStart, Feeds, MemberStart, QUANTUM_BYTES, StartAt};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::FIRST_EPOCH;
use etherply_engine::peer::{Peer, SessionId};
use etherply_engine::presence::PresenceTable;
use etherply_engine::segment::Tail;
use etherply_wire::Rights;
use etherply_wire::kinds::Cursor;
use std::hint::black_box;

const MEMBERS: u64 = 1_000;
const HANDLE: u32 = 1;

fn session(id: u64) -> SessionId {
    let mut session = [7; 16];
    session[..8].copy_from_slice(&id.to_be_bytes());
    session
}

struct Room {
    feeds: Feeds,
    home: PresenceTable,
    members: Vec<(u32, Peer)>,
    updates: u64,
}

impl Room {
    fn new() -> Self {
        let mut feeds = Feeds::new();
        let start = FeedStart {
            document: DocumentId::new("bench").unwrap(),
            tail: Tail::new(Cursor { epoch: FIRST_EPOCH, seq: 0, chain: [0; 32] }),
            presence: PresenceTable::default(),
            broadcast_index: 0,
            snapshot: None,
        };
        feeds.start(HANDLE, start);
        let attach = |id| {
            let (peer, at) = (Peer { core: 0, id }, StartAt::Position(0));
            let rights = Rights::PRESENCE;
            let start = MemberStart { stream: id, session: session(id), rights, expires_ms: 0, at };
            (feeds.attach(HANDLE, peer, start).unwrap(), peer)
        };
        let members = (0..MEMBERS).map(attach).collect();
        let mut room = Self { feeds, home: PresenceTable::default(), members, updates: 0 };
        (0..MEMBERS).for_each(|id| room.set(id));
        room.turn();
        room
    }

    fn set(&mut self, id: u64) {
        self.updates += 1;
        let mut state = [0; 32];
        state[..8].copy_from_slice(&self.updates.to_le_bytes());
        let change = self.home.next(session(id), Some(Bytes::copy_from_slice(&state)));
        self.home.apply(&change);
        self.feeds.publish(HANDLE, FeedEvent::Presence(change), |peer, number| {
            black_box((peer, number));
        });
    }

    /// Every member is sent what it lacks.
    fn turn(&mut self) -> usize {
        let mut bytes = 0;
        for (number, peer) in self.members.clone() {
            loop {
                let gathered = self.feeds.gather(HANDLE, number, peer, QUANTUM_BYTES, |frame| {
                    black_box(frame);
                });
                bytes += gathered.bytes;
                if !gathered.more {
                    break;
                }
            }
        }
        bytes
    }
}

fn presence(c: &mut Criterion) {
    let mut group = c.benchmark_group("presence");
    group.throughput(Throughput::Elements(MEMBERS));
    let mut room = Room::new();
    group.bench_function("1 update to 1,000 members", |b| {
        let mut id = 0;
        b.iter(|| {
            id = (id + 1) % MEMBERS;
            room.set(id);
            room.turn()
        });
    });
    group.bench_function("1,000 updates in a turn to 1,000 members", |b| {
        b.iter(|| {
            (0..MEMBERS).for_each(|id| room.set(id));
            room.turn()
        });
    });
    group.finish();
}

criterion_group!(benches, presence);
criterion_main!(benches);
