//! One change to 10, 100 and 1,000 members, in the engine: a push is admitted, its commit reported durable,
//! the writer acked, and each member handed the frame, which is copied once, as a send does. And what a message
//! to another core costs, there and back.
//!
//! Allocations are counted, and printed before the times: a delivery must not need one of its own.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherply_benches::room::Room;
use etherply_server::data_plane::{Mailbox, Message, StopStage};
use etherply_server::runtime;

/// Changes of one document, after which a new one is begun.
const CHANGES: usize = 1_000;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn fanout(c: &mut Criterion) {
    let changes = etherply_benches::map_edits(CHANGES, 48).unwrap();
    let mut group = c.benchmark_group("fanout");
    for (members, cores) in [(10, 1), (100, 1), (1_000, 1), (10, 2), (1_000, 2)] {
        let mut room = Room::new(members, cores);
        let (warm, counted) = changes.split_at(CHANGES / 2);
        for change in warm {
            room.push(change);
        }
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let deliveries: usize = counted.iter().map(|change| room.push(change)).sum();
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(deliveries, counted.len() * usize::try_from(members - 1).unwrap());
        println!(
            "{members} members on {cores} cores: {:.2} allocations an edit, {:.3} a delivery",
            per(allocations, counted.len()),
            per(allocations, deliveries),
        );
        group.throughput(Throughput::Elements(members - 1));
        group.bench_function(format!("1 change to {members} members on {cores} cores"), |b| {
            b.iter_custom(|iterations| {
                let (mut spent, mut left) = (Duration::ZERO, usize::try_from(iterations).unwrap());
                while left > 0 {
                    let mut room = Room::new(members, cores);
                    let now = left.min(CHANGES);
                    let start = Instant::now();
                    for change in changes.iter().take(now) {
                        room.push(change);
                    }
                    spent += start.elapsed();
                    left -= now;
                }
                spent
            });
        });
    }
    group.finish();
}

#[allow(clippy::cast_precision_loss, reason = "small counts")]
fn per(count: u64, of: usize) -> f64 {
    count as f64 / of as f64
}

/// Messages to an executor that waits for them, and its answer: at least two wake-ups of a thread. What a turn
/// has for another core goes there as one message; sent one by one, it costs a pass through the queue each, and
/// more wake-ups if the other core is quick.
fn cross_core(c: &mut Criterion) {
    const TURN: usize = 64;
    let (mailbox, messages) = Mailbox::new();
    let (answers, answer) = flume::bounded(1);
    let core = runtime::spawn_core("bench", 0, move || async move {
        let mut open = 0;
        while let Ok(message) = messages.recv_async().await {
            open += match message {
                Message::Stop(StopStage::End) => return,
                Message::Several(several) => several.len(),
                Message::Committed { batch, .. } if batch > 0 => TURN,
                _ => 1,
            };
            if open >= TURN {
                open = 0;
                answers.send(()).unwrap();
            }
        }
    })
    .unwrap();
    let committed = |batch| Message::Committed { batch, outcome: Ok(()) };
    let mut bench = |name: &str, send: &dyn Fn()| {
        c.bench_function(name, |b| {
            b.iter(|| {
                send();
                answer.recv().unwrap();
            });
        });
    };
    bench("a message to another core and back", &|| mailbox.send(committed(1)));
    bench("64 messages to another core and back, one by one", &|| {
        (0..TURN).for_each(|_| mailbox.send(committed(0)));
    });
    bench("64 messages to another core and back, in one", &|| {
        mailbox.send(Message::Several((0..TURN).map(|_| committed(0)).collect()));
    });
    mailbox.send(Message::Stop(StopStage::End));
    core.join().unwrap();
}

criterion_group!(benches, fanout, cross_core);
criterion_main!(benches);
