//! Group commit: 1, 10, 100 and 1,000 records with one fsync, on the real log in a temporary directory.
//!
//! The directory is made in `ETHERPLY_BENCH_DIR`, or else under the current one: not in a file system of
//! memory, where an fsync costs nothing.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::{ChangeLimits, parse_header};
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::{Append, FIRST_EPOCH, Log as _};
use etherply_engine::record::Record;

/// Makes records that follow one another. The log does not look into changes, so one serves for all.
struct Author {
    document: DocumentId,
    change: Bytes,
    chain: ChainHash,
    seq: u64,
}

impl Author {
    fn append(&mut self) -> Append {
        let hash = parse_header(&self.change, &ChangeLimits::DEFAULT).unwrap().hash;
        self.seq += 1;
        self.chain = chain_next(&self.chain, self.seq, &hash);
        let (seq, chain, change) = (self.seq, self.chain, self.change.clone());
        let record = Record { seq, hash, chain, max_op: seq, time_ms: 0, pusher: Arc::from(""), change };
        Append { document: self.document.clone(), epoch: FIRST_EPOCH, records: vec![record] }
    }
}

fn commit(c: &mut Criterion) {
    let root = std::env::var_os("ETHERPLY_BENCH_DIR").unwrap_or_else(|| ".".into());
    let directory = tempfile::tempdir_in(root).unwrap();
    let mut log = etherply_server::storage::open(&directory.path().join("data")).unwrap();
    let change = Bytes::from(etherply_benches::map_edits(1, 16).unwrap().remove(0));
    let mut authors: Vec<Author> = (0..1_000)
        .map(|n| {
            let document = DocumentId::new(&format!("bench/{n}")).unwrap();
            let chain = chain_start(&document, FIRST_EPOCH);
            Author { document, change: change.clone(), chain, seq: 0 }
        })
        .collect();
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
