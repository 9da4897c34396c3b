//! Frames: encode, and parse with validation, for the kinds of the data path.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherply_engine::outgoing::Outgoing;
use etherply_wire::kinds::{Ack, Changes, Cursor, Push};
use etherply_wire::{Frame, encode, encode_into};
use std::hint::black_box;

fn frames(c: &mut Criterion) {
    let change = etherply_benches::map_edits(1, 16).unwrap().remove(0);
    let length = u32::try_from(change.len()).unwrap();
    let cursor = Cursor { epoch: 1, seq: 42, chain: [7; 32] };
    let push = Push { push: 9, generation: 1, lengths: vec![length] };
    let changes = Changes { after_seq: 41, cursor, lengths: vec![length] };
    let ack = Ack { push: 9, after_seq: 41, cursor, positions: vec![42] };
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::with_capacity(4096);
    group.bench_function("encode push", |b| {
        b.iter(|| {
            out.clear();
            encode_into(&mut out, 3, black_box(&push), &[&change]);
        });
    });
    group.bench_function("encode changes for both transports", |b| {
        b.iter(|| Outgoing::new(3, black_box(&changes), &[&change]));
    });
    group.bench_function("encode ack for both transports", |b| {
        b.iter(|| Outgoing::new(3, black_box(&ack), &[]));
    });
    let bytes = encode(3, &push, &[&change]);
    group.bench_function("parse and validate push", |b| {
        b.iter(|| {
            let frame = Frame::parse(black_box(&bytes)).unwrap().unwrap();
            frame.body::<Push>().unwrap().push.to_native()
        });
    });
    let bytes = encode(3, &changes, &[&change]);
    group.bench_function("parse and validate changes", |b| {
        b.iter(|| {
            let frame = Frame::parse(black_box(&bytes)).unwrap().unwrap();
            frame.body::<Changes>().unwrap().after_seq.to_native()
        });
    });
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
