//! Bytes made to hurt: bombs, lies about lengths, limits to the byte, and noise.

use automerge::{
    ActorId, AutoCommit, ROOT,
    transaction::{CommitOptions, Transactable},
};
use etherply_engine::change::{
    ACTOR_BYTES_MAX, ChangeError, ChangeLimits, Column, Fault, HeaderPart, OP_COUNTER_MAX, OpFault, SEQ_MAX,
    TIME_ABS_MAX, parse, parse_header,
};
use proptest::prelude::*;

use super::{
    generate::{Style, document},
    image::{Image, Row, body, frame, frame_as, image, put, unsigned, with_columns},
    mutate::mutate,
    rng::Rng,
};

const LIMITS: ChangeLimits = ChangeLimits::DEFAULT;

fn refusal(bytes: &[u8]) -> ChangeError {
    parse(bytes, &LIMITS).unwrap_err()
}

/// `count` equal operations that insert a null at the head of the object that the first one makes, in
/// about 100 bytes.
fn inserts(count: usize) -> Image {
    let list = Row { action: 2, key: Some(b"list".to_vec()), ..Row::default() };
    let insert = Row {
        object: (Some(0), Some(1)),
        element: (None, Some(0)),
        insert: true,
        action: 1,
        ..Row::default()
    };
    let mut rows = vec![list];
    rows.resize(count, insert);
    image(rows)
}

#[test]
fn what_the_tests_build_is_what_automerge_builds() {
    let mut doc = AutoCommit::new().with_actor(ActorId::from(vec![7; 16]));
    doc.put(ROOT, "key", ()).unwrap();
    doc.commit_with(CommitOptions::default().with_time(0));
    let change = doc.get_last_local_change().unwrap();
    assert_eq!(image(vec![put("key")]).encode(), change.raw_bytes());
}

#[test]
fn frames() {
    let honest = image(vec![put("key")]).encode();
    assert!(parse(&honest, &LIMITS).is_ok());
    for len in 0..honest.len() {
        let refused = refusal(&honest[..len]);
        assert_eq!(
            refused,
            ChangeError::Header { part: HeaderPart::Frame, fault: Fault::Truncated },
            "{len}"
        );
        assert_eq!(refused.code(), "change_truncated");
    }
    let mut longer = honest.clone();
    longer.push(0);
    assert_eq!(refusal(&longer), ChangeError::TrailingBytes);
    assert_eq!(refusal(&[&honest[..], &honest].concat()), ChangeError::TrailingBytes);
    assert_eq!(refusal(b"not automerge at all"), ChangeError::BadMagic);
    for at in 0..honest.len() * 8 {
        let mut flipped = honest.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        assert!(parse(&flipped, &LIMITS).is_err(), "bit {at}");
    }
    let content = body(&honest);
    assert_eq!(refusal(&frame_as(2, &content)), ChangeError::Deflated);
    for found in [0, 3, 4, 255] {
        assert_eq!(refusal(&frame_as(found, &content)), ChangeError::NotAChange { found });
    }
}

#[test]
fn declared_lengths_beyond_the_bytes() {
    let lie = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let mut chunk = vec![0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 1];
    chunk.extend(lie);
    assert_eq!(refusal(&chunk).code(), "change_truncated");
    let max = u64::MAX;
    assert_eq!(refusal(&frame(&lie)), ChangeError::TooManyDeps { deps: max, max: LIMITS.deps_max });
    assert_eq!(refusal(&frame(&[&[0], &lie[..]].concat())).code(), "change_truncated");
    let header = |rest: &[u8]| frame(&[&[0, 1, 7, 1, 1, 0], rest].concat());
    assert_eq!(
        refusal(&header(&lie)),
        ChangeError::MessageTooLarge { bytes: max, max: LIMITS.message_bytes_max }
    );
    assert_eq!(
        refusal(&header(&[&[0], &lie[..]].concat())),
        ChangeError::TooManyActors { actors: max, max: LIMITS.other_actors_max }
    );
    assert_eq!(refusal(&header(&[&[0, 0], &lie[..]].concat())), ChangeError::ColumnsOrder);
    assert_eq!(
        refusal(&header(&[&[0, 0, 1, 0x42], &lie[..]].concat())),
        ChangeError::Column { column: Column::Action, fault: Fault::Truncated }
    );
    let overflow = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
    assert_eq!(refusal(&frame(&overflow)).code(), "change_number_too_large");
    assert_eq!(refusal(&frame(&[0x80, 0])).code(), "change_not_canonical");
}

#[test]
fn bombs() {
    let million = inserts(1_000_000).encode();
    assert!(million.len() < 120, "{} bytes", million.len());
    assert_eq!(refusal(&million), ChangeError::TooManyOps { max: LIMITS.ops_max });

    // Runs of 2^62 rows in each column in turn, beside one operation.
    let sound: [(u64, &[u8]); 5] =
        [(0x15, &[0x7f, 1, b'k']), (0x34, &[1]), (0x42, &[0x7f, 1]), (0x56, &[0x7f, 0]), (0x70, &[0x7f, 0])];
    assert!(parse(&with_columns(&sound), &LIMITS).is_ok());
    let run = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0xc0, 0];
    for (at, (spec, _)) in sound.iter().enumerate() {
        let bomb = match spec {
            0x15 => [&run[..], &[1, b'k']].concat(),
            0x34 => run[..9].iter().map(|byte| byte & 0x7f | 0x80).chain([0]).collect::<Vec<_>>(),
            0x42 => [&run[..], &[1]].concat(),
            _ => [&run[..], &[0]].concat(),
        };
        let mut columns = sound;
        columns[at].1 = &bomb;
        assert!(parse(&with_columns(&columns), &LIMITS).is_err(), "{spec:#x}");
    }

    // One operation that replaces 2^62 others.
    let count = [0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
    let mut columns = sound.to_vec();
    columns[4].1 = &count;
    let actors = [&run[..], &[0]].concat();
    let counters = [&run[..], &[1]].concat();
    columns.extend([(0x71, &actors[..]), (0x73, &counters[..])]);
    assert_eq!(refusal(&with_columns(&columns)), ChangeError::TooManyPreds { max: LIMITS.preds_max });

    let deflated = [(0x15, sound[0].1), (0x34, sound[1].1), (0x4a, &[0x63, 0x64, 4, 0][..])];
    assert_eq!(refusal(&with_columns(&deflated)), ChangeError::ColumnDeflated { column: Column::Action });
    assert_eq!(refusal(&with_columns(&[(0x03, &[0])])), ChangeError::ColumnUnknown { spec: 3 });
}

/// Each limit at one less, itself, and one more.
#[test]
fn limits() {
    fn check(limits: &ChangeLimits, make: impl Fn(u64) -> Image, max: u64, code: &str) {
        for within in [max - 1, max] {
            let bytes = make(within).encode();
            parse(&bytes, limits).unwrap_or_else(|error| panic!("{within} of {max}: {error}"));
        }
        let refused = parse(&make(max + 1).encode(), limits).unwrap_err();
        assert_eq!(refused.code(), code);
    }
    let one = || image(vec![put("k")]);
    let count = |count: u64| usize::try_from(count).unwrap();

    check(&LIMITS, |n| inserts(count(n)), LIMITS.ops_max, "change_too_many_ops");
    check(
        &LIMITS,
        |n| Image { message: vec![b'm'; count(n)], ..one() },
        LIMITS.message_bytes_max,
        "change_message_too_large",
    );
    let deps = |n: u64| {
        (0..n)
            .map(|dep| {
                let mut hash = [0; 32];
                hash[..8].copy_from_slice(&dep.to_be_bytes());
                hash
            })
            .collect()
    };
    check(&LIMITS, |n| Image { deps: deps(n), ..one() }, LIMITS.deps_max, "change_too_many_deps");
    let author = |n: u64| {
        let mut extra = vec![1];
        unsigned(&mut extra, n);
        extra.resize(extra.len() + count(n), 9);
        extra
    };
    check(
        &LIMITS,
        |n| Image { extra: author(n), ..one() },
        LIMITS.author_bytes_max,
        "change_author_too_large",
    );
    check(
        &LIMITS,
        |n| Image { actor: vec![7; count(n)], ..one() },
        ACTOR_BYTES_MAX as u64,
        "change_actor_length",
    );
    check(&LIMITS, |seq| Image { seq, ..one() }, SEQ_MAX, "change_seq_range");
    check(&LIMITS, |start_op| Image { start_op, ..one() }, OP_COUNTER_MAX, "change_start_op_range");
    check(&LIMITS, |n| Image { time: n.cast_signed(), ..one() }, TIME_ABS_MAX, "change_time_range");
    check(&LIMITS, |n| Image { time: -n.cast_signed(), ..one() }, TIME_ABS_MAX, "change_time_range");

    // The operations' last counter, not only the first.
    let pair = |start_op| Image { start_op, ..image(vec![put("k"), put("l")]) };
    check(&LIMITS, pair, OP_COUNTER_MAX - 1, "change_start_op_range");

    // One operation that replaces one of each other actor's.
    let replaces = |n: u64| {
        let other_actors = (0..n).map(|actor| [&[9][..], &actor.to_be_bytes()].concat()).collect();
        let preds = (1..=n).map(|actor| (Some(actor), Some(1))).collect();
        Image { start_op: 2, other_actors, ..image(vec![Row { preds, ..put("k") }]) }
    };
    check(&LIMITS, replaces, LIMITS.other_actors_max, "change_too_many_actors");
    let few = ChangeLimits { preds_max: 20, ..LIMITS };
    check(&few, replaces, few.preds_max, "change_too_many_preds");

    let bytes = one().encode();
    for (spare, fits) in [(-1_isize, false), (0, true), (1, true)] {
        let limits = ChangeLimits { change_bytes_max: bytes.len().saturating_add_signed(spare), ..LIMITS };
        assert_eq!(parse(&bytes, &limits).is_ok(), fits);
        assert_eq!(parse_header(&bytes, &limits).is_ok(), fits);
    }
    assert_eq!(refusal(&vec![0; LIMITS.change_bytes_max + 1]).code(), "change_too_large");
    assert_eq!(refusal(&Image { seq: 0, ..one() }.encode()), ChangeError::SeqRange { seq: 0 });
    assert_eq!(refusal(&Image { start_op: 0, ..one() }.encode()), ChangeError::StartOpRange { start_op: 0 });
    assert_eq!(refusal(&Image { actor: Vec::new(), ..one() }.encode()).code(), "change_actor_length");
}

#[test]
fn headers() {
    let one = || image(vec![put("k")]);
    let code = |image: Image| refusal(&image.encode()).code();
    assert_eq!(code(Image { deps: vec![[2; 32], [1; 32]], ..one() }), "change_deps_order");
    assert_eq!(code(Image { deps: vec![[1; 32], [1; 32]], ..one() }), "change_deps_order");
    assert_eq!(code(Image { other_actors: vec![vec![2], vec![1]], ..one() }), "change_actors_order");
    assert_eq!(code(Image { other_actors: vec![vec![2], vec![2]], ..one() }), "change_actors_order");
    assert_eq!(code(Image { other_actors: vec![vec![7; 16]], ..one() }), "change_actors_order");
    assert_eq!(code(Image { other_actors: vec![vec![2]], ..one() }), "change_actor_unused");
    assert_eq!(code(Image { other_actors: vec![vec![2]], ..image(vec![]) }), "change_actor_unused");
    assert_eq!(code(Image { message: vec![0xff], ..one() }), "change_not_utf8");
    for extra in [&[0][..], &[2, 0], &[1], &[1, 2, 3], &[1, 1, 3, 3], &[0x81, 0, 0]] {
        assert_eq!(code(Image { extra: extra.to_vec(), ..one() }), "change_extra_bytes");
    }
    // Automerge panics on an author record that comes later.
    assert!(parse(&Image { extra: vec![1, 1, 3], ..one() }.encode(), &LIMITS).is_ok());
    assert_eq!(code(Image { seq: 2, extra: vec![1, 1, 3], ..one() }), "change_extra_bytes");
}

#[test]
fn operations() {
    let own = |counter| (Some(0), Some(counter));
    let element = |counter| Row { element: own(counter), ..Row::default() };
    let list = Row { action: 2, ..put("list") };
    let text = Row { action: 4, ..put("text") };
    let map = Row { action: 0, ..put("map") };
    let set = || put("k");
    let insert = |object| Row { object, insert: true, action: 1, element: (None, Some(0)), ..Row::default() };
    let begin =
        |after| Row { action: 7, mark_name: Some(b"bold".to_vec()), element: after, ..insert(own(1)) };
    let end = |after| Row { action: 7, element: after, ..insert(own(1)) };
    let int = |row: Row| Row { value_type: 4, value: vec![1], ..row };
    let delete = |preds| Row { action: 3, preds, ..set() };

    let sound: Vec<Vec<Row>> = vec![
        vec![set(), Row { preds: vec![own(1)], ..set() }],
        vec![set(), delete(vec![own(1)])],
        vec![set(), int(Row { action: 5, preds: vec![own(1)], ..set() })],
        vec![
            list.clone(),
            insert(own(1)),
            Row { object: own(1), action: 1, preds: vec![own(2)], ..element(2) },
        ],
        vec![map.clone(), Row { object: own(1), ..set() }],
        vec![text.clone(), insert(own(1)), begin((None, Some(0))), end(own(2))],
        vec![text.clone(), begin((None, Some(0))), end(own(2))],
    ];
    for rows in sound {
        let bytes = image(rows.clone()).encode();
        parse(&bytes, &LIMITS).unwrap_or_else(|error| panic!("{error}: {rows:?}"));
    }

    let invalid: Vec<(Vec<Row>, OpFault)> = vec![
        (vec![Row { object: (None, Some(1)), ..set() }], OpFault::ObjectId),
        (vec![Row { object: own(0), ..set() }], OpFault::ObjectId),
        (vec![Row { key: None, ..set() }], OpFault::Key),
        (vec![Row { element: (None, Some(0)), ..set() }], OpFault::Key),
        (vec![Row { object: own(1), ..set() }], OpFault::Forward),
        (vec![map.clone(), Row { object: own(2), ..set() }], OpFault::Forward),
        (vec![Row { preds: vec![own(1)], ..set() }], OpFault::Forward),
        (vec![list.clone(), Row { element: own(2), ..insert(own(1)) }], OpFault::Forward),
        (vec![set(), Row { object: own(1), ..set() }], OpFault::NotAnObject),
        (vec![list.clone(), Row { object: own(1), ..set() }], OpFault::KeyKind),
        (vec![map.clone(), insert(own(1))], OpFault::KeyKind),
        (vec![insert((None, None))], OpFault::KeyKind),
        (vec![list.clone(), begin((None, Some(0)))], OpFault::KeyKind),
        (vec![list.clone(), Row { element: own(1), ..insert(own(1)) }], OpFault::NotAnElement),
        (
            vec![list.clone(), list.clone(), insert(own(1)), Row { element: own(3), ..insert(own(2)) }],
            OpFault::NotAnElement,
        ),
        (vec![list.clone(), Row { insert: false, ..insert(own(1)) }], OpFault::Head),
        (vec![Row { insert: true, ..set() }], OpFault::Insert),
        (vec![list.clone(), insert(own(1)), Row { action: 3, ..insert(own(1)) }], OpFault::Insert),
        (
            vec![list.clone(), insert(own(1)), Row { preds: vec![own(2)], ..insert(own(1)) }],
            OpFault::InsertPreds,
        ),
        (vec![delete(vec![])], OpFault::NoPreds),
        (vec![int(Row { action: 5, ..set() })], OpFault::NoPreds),
        (vec![set(), set(), Row { preds: vec![own(2), own(1)], ..set() }], OpFault::PredsOrder),
        (vec![set(), set(), Row { preds: vec![own(1), own(1)], ..set() }], OpFault::PredsOrder),
        (vec![put("other"), Row { preds: vec![own(1)], ..set() }], OpFault::PredPlace),
        (vec![set(), delete(vec![own(1)]), delete(vec![own(2)])], OpFault::PredPlace),
        (vec![map.clone(), Row { object: own(1), ..set() }, delete(vec![own(2)])], OpFault::PredPlace),
        (vec![int(Row { action: 0, ..set() })], OpFault::Value),
        (vec![set(), int(delete(vec![own(1)]))], OpFault::Value),
        (vec![set(), Row { action: 5, preds: vec![own(1)], ..set() }], OpFault::Value),
        (vec![Row { expand: true, ..set() }], OpFault::MarkColumns),
        (vec![Row { mark_name: Some(b"bold".to_vec()), ..set() }], OpFault::MarkColumns),
        (vec![text.clone(), end((None, Some(0)))], OpFault::MarkPair),
        (vec![text.clone(), begin((None, Some(0))), end((None, Some(0)))], OpFault::MarkPair),
        (vec![text.clone(), insert(own(1)), begin(own(2)), end(own(2))], OpFault::MarkPair),
        (vec![text.clone(), begin((None, Some(0))), insert(own(1)), end(own(3))], OpFault::MarkPair),
    ];
    for (rows, expected) in invalid {
        let last = rows.len() as u64 - 1;
        let refused = refusal(&image(rows.clone()).encode());
        assert_eq!(refused, ChangeError::Op { index: last, fault: expected }, "{rows:?}");
        assert_eq!(refused.code(), "change_op_invalid");
    }

    let table = image(vec![Row { action: 6, ..set() }]).encode();
    assert_eq!(refusal(&table), ChangeError::Column { column: Column::Action, fault: Fault::Table });
    let unknown = image(vec![Row { action: 8, ..set() }]).encode();
    assert_eq!(refusal(&unknown), ChangeError::Column { column: Column::Action, fault: Fault::Action });
}

proptest! {
    #[test]
    fn noise_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(parse(&bytes, &LIMITS).is_err());
        prop_assert!(parse_header(&bytes, &LIMITS).is_err());
        drop(parse(&frame(&bytes), &LIMITS));
        drop(parse_header(&frame(&bytes), &LIMITS));
    }

    /// What passes is in canonical form: taking it apart and putting it together gives the same bytes.
    #[test]
    fn what_passes_is_canonical(seed: u64) {
        let mut rng = Rng(seed);
        let mut doc = document(rng.next(), 12, Style::Mixed);
        for change in doc.get_changes(&[]) {
            let mutated = mutate(&mut rng, change.raw_bytes());
            if parse(&mutated, &LIMITS).is_ok() {
                prop_assert_eq!(Image::decode(&mutated).encode(), mutated);
            }
        }
    }
}
