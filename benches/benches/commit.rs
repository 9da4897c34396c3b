//! Group commit: 1, 10, 100 and 1,000 records with one fsync, on the real log in a temporary directory.
//!
//! The directory is made in `ETHERPLY_BENCH_DIR`, or else under the current one: not in a file system of
//! memory, where an fsync costs nothing.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use etherply_benches::author::Author;
use etherply_engine::log::Log as _;

fn commit(c: &mut Criterion) {
    let root = std::env::var_os("ETHERPLY_BENCH_DIR").unwrap_or_else(|| ".".into());
    let directory = tempfile::tempdir_in(root).unwrap();
    let mut log = etherply_server::storage::open(&directory.path().join("data")).unwrap();
    let mut authors = Author::several(1_000);
    let mut group = c.benchmark_group("commit");
    group.sample_size(20);
    for records in [1, 10, 100, 1_000] {
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(format!("{records} records, 1 fsync"), |b| {
            b.iter_batched(
                || authors.iter_mut().take(records).map(Author::append).collect::<Vec<_>>(),
                |appends| log.commit(&appends).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, commit);
criterion_main!(benches);
