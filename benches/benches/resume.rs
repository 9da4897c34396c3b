//! Members that come back: a thousand of them by cursor and by snapshot, through the production feeds. The log
//! and the snapshot answer from memory, so that what is measured is the engine's and the encoding's.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::{ChangeLimits, parse_header};
use etherply_engine::feed::{FeedStart, Feeds, MemberStart, QUANTUM_BYTES, StartAt};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, FIRST_EPOCH, Log as _, LogReader as _, MemoryLog};
use etherply_engine::peer::Peer;
use etherply_engine::presence::PresenceTable;
use etherply_engine::record::Record;
use etherply_engine::segment::Tail;
use etherply_engine::snapshot::{Chunk, Snapshot};
use etherply_wire::Rights;
use etherply_wire::kinds::Cursor;
use etherply_wire::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use std::hint::black_box;

const MEMBERS: u64 = 1_000;
const EDITS: usize = 10_000;
const HANDLE: u32 = 1;

struct Room {
    document: DocumentId,
    log: MemoryLog,
    end: Cursor,
    snapshot: Snapshot,
    bytes: Vec<u8>,
}

fn room() -> Room {
    let document = DocumentId::new("bench").unwrap();
    let mut chain = chain_start(&document, FIRST_EPOCH);
    let mut records = Vec::with_capacity(EDITS);
    let mut bytes = Vec::new();
    for (seq, change) in (1..).zip(etherply_benches::map_edits(EDITS, 16).unwrap()) {
        let hash = parse_header(&change, &ChangeLimits::DEFAULT).unwrap().hash;
        chain = chain_next(&chain, seq, &hash);
        bytes.extend_from_slice(&change);
        let (change, pusher) = (change.into(), "".into());
        records.push(Record { seq, hash, chain, max_op: seq, time_ms: 0, pusher, change });
    }
    let mut log = MemoryLog::new();
    log.commit(&[Append { document: document.clone(), epoch: FIRST_EPOCH, records }]).unwrap();
    let end = Cursor { epoch: FIRST_EPOCH, seq: EDITS as u64, chain: chain.0 };
    let snapshot = Snapshot::new(end, bytes.len() as u64, bytes.len() as u64, None);
    Room { document, log, end, snapshot, bytes }
}

impl Room {
    fn feeds(&self, at: StartAt, members: u64) -> (Feeds, Vec<(u32, Peer)>) {
        let mut feeds = Feeds::new();
        let start = FeedStart {
            document: self.document.clone(),
            tail: Tail::new(self.end),
            presence: PresenceTable::default(),
            broadcast_index: 0,
            snapshot: Some(self.snapshot),
        };
        feeds.start(HANDLE, start);
        let attach = |id| {
            let peer = Peer { core: 0, id };
            let start = MemberStart { stream: id, session: [0; 16], rights: Rights::READ, expires_ms: 0, at };
            (feeds.attach(HANDLE, peer, start).unwrap(), peer)
        };
        let members = (0..members).map(attach).collect();
        (feeds, members)
    }

    /// Every member has its turns until it has everything; the bytes that they were sent.
    fn serve(&self, feeds: &mut Feeds, members: &[(u32, Peer)]) -> usize {
        let mut sent = 0;
        let mut turn: Vec<(u32, Peer)> = members.to_vec();
        while !turn.is_empty() {
            let mut next = Vec::new();
            for (number, peer) in turn {
                let gathered = feeds.gather(HANDLE, number, peer, QUANTUM_BYTES, |frame| {
                    black_box(frame);
                });
                sent += gathered.bytes;
                if gathered.more {
                    next.push((number, peer));
                }
                if let Some(read) = gathered.read {
                    let (after, through) = (read.after_seq, read.through_seq);
                    let records =
                        self.log.read(&self.document, read.epoch, after, through, read.bytes_max).unwrap();
                    if feeds.fill(HANDLE, number, peer, &records) {
                        next.push((number, peer));
                    }
                }
                if let Some(request) = gathered.snapshot {
                    let from = usize::try_from(request.offset).unwrap();
                    let end = self.bytes.len().min(from + request.bytes_max);
                    let chunks = self.bytes[from..end].chunks(SNAPSHOT_CHUNK_BYTES_MAX);
                    let chunks = (0..).zip(chunks).map(|(n, part)| {
                        let offset = request.offset + n * SNAPSHOT_CHUNK_BYTES_MAX as u64;
                        Chunk::new(HANDLE, &self.snapshot, offset, part)
                    });
                    feeds.snapshot_read(HANDLE, &request.snapshot, chunks.collect(), |peer, number| {
                        next.push((number, peer));
                    });
                }
            }
            turn = next;
        }
        sent
    }
}

fn resume(c: &mut Criterion) {
    let room = room();
    let mut group = c.benchmark_group("resume");
    group.sample_size(10);
    let behind = EDITS as u64 - 100;
    for (name, at, members) in [
        ("1,000 members, 100 changes behind, by cursor", StartAt::Position(behind), MEMBERS),
        ("1,000 new members of 10,000 edits, by snapshot", StartAt::Snapshot, MEMBERS),
        ("1 new member of 10,000 edits, by snapshot", StartAt::Snapshot, 1),
        ("1 new member of 10,000 edits, from the log", StartAt::Position(0), 1),
    ] {
        group.throughput(Throughput::Elements(members));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || room.feeds(at, members),
                |(feeds, members)| room.serve(feeds, members),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, resume);
criterion_main!(benches);
