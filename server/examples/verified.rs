//! What `--admission verified` adds to a change: how long a group of one change, and of a hundred, takes to be held
//! against documents of several lengths.
//!
//! ```text
//! cargo run --release -p etherply-server --example verified -- --changes 100,1000,10000,100000
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a tool for measurements")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use automerge::transaction::Transactable as _;
use automerge::{AutoCommit, ROOT};
use bytes::Bytes;
use clap::Parser;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::ChangeHash;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, FIRST_EPOCH, Log as _};
use etherply_engine::record::Record;
use etherply_server::materialise::verify::{Verifier, VerifierThreads};
use etherply_server::metrics::Metrics;
use etherply_server::storage;
use etherply_wire::kinds::Cursor;

#[derive(Debug, Parser)]
struct Arguments {
    /// Changes that the documents have before.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000,100000")]
    changes: Vec<usize>,
    /// How often each group is verified.
    #[arg(long, default_value_t = 100)]
    times: usize,
}

/// Memory for replicas: none of them has to go.
const BYTES_MAX: u64 = 1 << 30;
const GROUPS: [usize; 2] = [1, 100];

fn main() {
    let arguments = Arguments::parse();
    println!("ms from asking to the answer, p50 and p99 of {}", arguments.times);
    println!("{:>9} {:>9} {:>9} {:>9}", "changes", "group of", "p50", "p99");
    for changes in arguments.changes {
        measure(changes, arguments.times);
    }
}

fn measure(changes: usize, times: usize) {
    let directory = tempfile::tempdir().unwrap();
    let document = DocumentId::new("verified").unwrap();
    let all = records(&document, changes + times * GROUPS.iter().sum::<usize>() + 1);
    let (stored, mut rest) = all.split_at(changes);
    let mut log = storage::open(directory.path()).unwrap();
    let append = |records: &[Record]| {
        let records = records.to_vec();
        Append { document: document.clone(), epoch: FIRST_EPOCH, records }
    };
    log.commit(&[append(stored)]).unwrap();
    let metrics = Arc::new(Metrics::new(None).unwrap());
    let (verifier, threads) = VerifierThreads::start(1, BYTES_MAX, log.reader(), &metrics).unwrap();
    let mut after = behind(stored.last().unwrap());
    let mut next = |group: usize| {
        let (records, left) = rest.split_at(group);
        rest = left;
        let took = ask(&verifier, &document, after, records);
        after = behind(records.last().unwrap());
        took
    };
    // The first one builds the replica.
    next(1);
    for group in GROUPS {
        let mut took: Vec<f64> = (0..times).map(|_| next(group).as_secs_f64() * 1_000.0).collect();
        took.sort_by(f64::total_cmp);
        let at = |share: usize| took.get((took.len() * share / 100).min(took.len() - 1)).unwrap();
        println!("{changes:>9} {group:>9} {:>9.3} {:>9.3}", at(50), at(99));
    }
    drop(verifier);
    threads.join();
}

fn ask(verifier: &Verifier, document: &DocumentId, after: Cursor, records: &[Record]) -> Duration {
    let (answer, answered) = flume::bounded(1);
    let started = Instant::now();
    let answer = Box::new(move |result| answer.send(result).unwrap());
    verifier.ask(document.clone(), after, records.to_vec(), answer);
    answered.recv().unwrap().expect("sound changes");
    started.elapsed()
}

fn behind(record: &Record) -> Cursor {
    Cursor { epoch: FIRST_EPOCH, seq: record.seq, chain: record.chain.0 }
}

/// A map of 200 keys that are put again and again.
fn records(document: &DocumentId, count: usize) -> Vec<Record> {
    let mut automerge = AutoCommit::new();
    for edit in 0..count {
        automerge.put(ROOT, format!("key {}", edit % 200), i64::try_from(edit).unwrap()).unwrap();
        automerge.commit();
    }
    let mut chain = chain_start(document, FIRST_EPOCH);
    let records = automerge.get_changes(&[]).into_iter().zip(1..).map(|(change, seq)| {
        let hash = ChangeHash(change.hash().0);
        chain = chain_next(&chain, seq, &hash);
        let (max_op, pusher) = (change.max_op(), "".into());
        let change = Bytes::copy_from_slice(change.raw_bytes());
        Record { seq, hash, chain, max_op, time_ms: 0, pusher, change }
    });
    records.collect()
}
