//! The sample of seeds that every run of the tests takes; `cargo run -p etherply-sim -- --seeds N` takes more.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of the sample.
const SEEDS: u64 = 200;
/// Threads that share it.
const THREADS: usize = 2;

#[test]
fn no_seed_of_the_sample_fails() {
    let (next, failures) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    if let Err(failure) = etherply_sim::run(seed, false) {
                        failures.lock().unwrap().push(failure.to_string());
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "replay with `cargo run -p etherply-sim -- --seed N`:\n{}",
        failures.join("\n")
    );
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 8, 21] {
        let (first, second) =
            (etherply_sim::run(seed, false).unwrap(), etherply_sim::run(seed, false).unwrap());
        assert_eq!(first, second);
        assert!(first.events > 0 && first.acks > 0 && first.deliveries > 0);
    }
    let hashes = [3, 8, 21].map(|seed| etherply_sim::run(seed, false).unwrap().trace_hash);
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2], "seeds differ");
}
