//! Admission: a change by itself, and a change into a document, whatever the document's size.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use etherply_engine::change::{ChangeLimits, parse, parse_header};
use etherply_engine::document::{Document, Resolved};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::FIRST_EPOCH;
use std::hint::black_box;

fn changes(c: &mut Criterion) {
    let limits = ChangeLimits::DEFAULT;
    let mut group = c.benchmark_group("change");
    for (name, change) in [
        ("1 put, 16 B", etherply_benches::map_edits(1, 16).unwrap().remove(0)),
        ("1 put, 1 KiB", etherply_benches::map_edits(1, 1024).unwrap().remove(0)),
        ("text of 120 characters", etherply_benches::text_edit(120).unwrap()),
        ("text of 12,000 characters", etherply_benches::text_edit(12_000).unwrap()),
    ] {
        group.bench_function(format!("parse header: {name}"), |b| {
            b.iter(|| parse_header(black_box(&change), &limits).unwrap().seq);
        });
        group.bench_function(format!("parse and check all: {name}"), |b| {
            b.iter(|| parse(black_box(&change), &limits).unwrap().ops());
        });
    }
    group.finish();
}

fn admit(c: &mut Criterion) {
    let limits = ChangeLimits::DEFAULT;
    let resolved = Resolved::default();
    let mut group = c.benchmark_group("admit");
    for held in [0, 100, 10_000] {
        let changes = etherply_benches::map_edits(held + 1, 16).unwrap();
        let mut document = Document::new(DocumentId::new("bench").unwrap(), FIRST_EPOCH);
        for change in &changes[..held] {
            let admitted = document.admit(&[change], &limits, &resolved).unwrap();
            document.commit(admitted.cursor);
        }
        group.bench_function(format!("1 change into a document of {held}"), |b| {
            b.iter_batched_ref(
                || document.clone(),
                |document| document.admit(&[&changes[held]], &limits, &resolved).unwrap().cursor.seq,
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, changes, admit);
criterion_main!(benches);
