//! Hostile CRDT bytes and decompression bombs, as a member would push them: each is refused by its name before
//! anything is built or unpacked, the memory that it takes is bounded by the limit on a change, and the document and
//! its other members go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, unsafe_code)]

#[path = "change/image.rs"]
#[allow(dead_code, reason = "the tests of changes use the rest")]
mod image;

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Host, MEMBER, Writer, peer};
use etherply_wire::ErrorCode;
use etherply_wire::limits::CHANGE_BYTES_MAX;
use image::{Row, frame, frame_as, image, put, with_columns};

/// Counts what this thread has allocated, and the most that it had at once.
struct Counting;

thread_local! {
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = HELD.try_with(|held| {
            let (now, most) = held.get();
            held.set((now + layout.size(), most.max(now + layout.size())));
        });
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let _ = HELD.try_with(|held| {
            let (now, most) = held.get();
            held.set((now.saturating_sub(layout.size()), most));
        });
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that the work held at most, beyond what was held before.
fn most_held(work: impl FnOnce()) -> usize {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    work();
    HELD.with(|held| held.get().1) - before
}

/// The largest count that fits into a signed 64-bit run.
const RUN: [u8; 10] = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0xc0, 0];
/// The largest unsigned number that fits into 64 bits.
const MOST: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
/// Columns of one sound operation: key, insert, action, value's type, predecessors.
const SOUND: [(u64, &[u8]); 5] =
    [(0x15, &[0x7f, 1, b'k']), (0x34, &[1]), (0x42, &[0x7f, 1]), (0x56, &[0x7f, 0]), (0x70, &[0x7f, 0])];

fn altered(spec: u64, column: &[u8]) -> Vec<u8> {
    let columns: Vec<(u64, &[u8])> =
        SOUND.iter().map(|(other, sound)| (*other, if *other == spec { column } else { *sound })).collect();
    with_columns(&columns)
}

/// Every shape, with its name. None is longer than a few hundred bytes, but for the last two.
fn shapes() -> Vec<(&'static str, Vec<u8>)> {
    let list = Row { action: 2, key: Some(b"list".to_vec()), ..Row::default() };
    let insert = Row {
        object: (Some(0), Some(1)),
        element: (None, Some(0)),
        insert: true,
        action: 1,
        ..Row::default()
    };
    let mut rows = vec![list];
    rows.resize(1_000_000, insert);
    let header = |rest: &[u8]| frame(&[&[0, 1, 7, 1, 1, 0], rest].concat());
    let stranger = Row { object: (Some(1), Some(1)), ..put("key") };
    let inserts: Vec<u8> = RUN[..9].iter().map(|byte| byte | 0x80).chain([0]).collect();
    vec![
        ("a million operations in a hundred bytes", image(rows).encode()),
        ("2^62 keys", altered(0x15, &[&RUN[..], &[1, b'k']].concat())),
        ("2^62 inserts", altered(0x34, &inserts)),
        ("2^62 actions", altered(0x42, &[&RUN[..], &[1]].concat())),
        ("2^62 values", altered(0x56, &[&RUN[..], &[0]].concat())),
        ("2^62 counts of predecessors", altered(0x70, &[&RUN[..], &[0]].concat())),
        (
            "2^62 predecessors of one operation",
            altered(0x70, &[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40]),
        ),
        ("2^64 dependencies", frame(&MOST)),
        ("a message of 2^64 bytes", header(&MOST)),
        ("2^64 other actors", header(&[&[0], &MOST[..]].concat())),
        ("2^64 columns", header(&[&[0, 0], &MOST[..]].concat())),
        ("a deflated column", altered(0x42, &[0x63, 0x64, 4, 0])),
        ("a column deflated by its name", with_columns(&[(0x15 | 8, &[0x63, 0x64, 4, 0])])),
        ("a deflated change", frame_as(2, &[0xed, 0xc1, 0x01, 0x0d, 0, 0, 0, 0xc2, 0xa0])),
        ("a whole document", frame_as(0, &MOST)),
        // Automerge 0.12 ends its process on this one: a message of its sync protocol whose filter has 2^32 probes.
        ("a sync message", vec![0x42, 0, 0, 1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("an actor that nobody knows", {
            let mut unknown = image(vec![stranger]);
            unknown.other_actors = vec![vec![9; 16]];
            unknown.encode()
        }),
        ("a value of the whole limit and one byte", {
            let mut large = put("key");
            (large.value_type, large.value) = (7, vec![0; CHANGE_BYTES_MAX + 1]);
            image(vec![large]).encode()
        }),
        ("noise that begins like a change", {
            let mut noise = vec![0x85, 0x6f, 0x4a, 0x83, 1, 2, 3, 4, 1];
            noise.resize(64 * 1024, 0xa5);
            noise
        }),
    ]
}

#[test]
fn every_shape_is_refused_and_takes_no_more_memory_than_a_change_may() {
    let shapes = shapes();
    assert!(shapes.len() >= 16);
    for (name, bytes) in shapes {
        let mut host = Host::default();
        let mut honest = Writer::new(1);
        host.join(1);
        host.join(2);
        host.acked(peer(1), 1, &honest.puts(2));
        host.take(peer(2));
        let before = host.end();
        let sent = bytes.len();
        let push = [bytes];
        let held = most_held(|| host.push(peer(2), 1, 1, &push));
        let (code, ..) = host.take(peer(2)).remove(0).refused();
        assert!(
            !matches!(code, ErrorCode::Internal | ErrorCode::StorageUnavailable | ErrorCode::ReadOnly),
            "{name}: {code}"
        );
        assert!(held <= 2 * CHANGE_BYTES_MAX, "{name}: {held} bytes for {sent}");
        assert_eq!(host.end(), before, "{name}");
        assert_eq!(host.in_flight.get(&peer(2)).copied().unwrap_or(0), 0, "{name}: it is settled");
        // Neither the liar's connection nor anybody else's is worse off.
        host.acked(peer(1), 1, &honest.puts(1));
        host.open(peer(3), MEMBER, None);
        assert_eq!(host.gather_changes(peer(3)).len(), 3, "{name}");
    }
}
