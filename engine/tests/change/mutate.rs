//! Alterations of a change, from flipped bits to operations that look honest but are not.

use super::{
    image::{Cell, Image, Row, body, frame},
    rng::Rng,
};

/// An altered copy of a change, with length and checksum made to fit.
pub fn mutate(rng: &mut Rng, chunk: &[u8]) -> Vec<u8> {
    if rng.one_in(3) {
        return frame(&mutate_bytes(rng, body(chunk)));
    }
    let mut image = Image::decode(chunk);
    for _ in 0..1 + rng.below(3) {
        mutate_image(rng, &mut image);
    }
    if rng.one_in(2) {
        mend(&mut image);
    }
    image.encode()
}

fn mutate_bytes(rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(bytes.len());
        let len = 1 + rng.below((bytes.len() - at).clamp(1, 8));
        match rng.below(7) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.next().to_le_bytes()[0]),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at + len <= bytes.len() => {
                let run = bytes[at..at + len].to_vec();
                bytes.splice(at..at, run);
            }
            4 if at + len <= bytes.len() => drop(bytes.drain(at..at + len)),
            5 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(*rng.pick(&[1, 0xff, 2, 0x7f])),
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            _ => bytes.push(0),
        }
    }
    bytes
}

fn mutate_image(rng: &mut Rng, image: &mut Image) {
    if image.rows.is_empty() || rng.one_in(6) {
        mutate_header(rng, image);
    } else {
        mutate_rows(rng, image);
    }
}

fn mutate_header(rng: &mut Rng, image: &mut Image) {
    match rng.below(12) {
        0 => image.seq = nearby(rng, image.seq),
        1 => image.start_op = nearby(rng, image.start_op),
        2 => image.time = *rng.pick(&[i64::MIN, i64::MAX, -1, 0, 1 << 62, -(1 << 62), (1 << 62) - 1]),
        3 => image.message = rng.pick(&[&b""[..], b"\xff", b"hello"]).to_vec(),
        4 => drop(image.deps.pop()),
        5 => image.deps.push([rng.next().to_le_bytes()[0]; 32]),
        6 => image.deps.reverse(),
        7 => image.other_actors.reverse(),
        8 => drop(image.other_actors.pop()),
        9 => image.other_actors.push(image.actor.clone()),
        10 => {
            if let Some(other) = image.other_actors.first_mut() {
                std::mem::swap(other, &mut image.actor);
            }
        }
        _ => image.extra = rng.pick(&[&[1, 1, 7][..], &[1, 0], &[2, 1, 7], &[0]]).to_vec(),
    }
}

fn mutate_rows(rng: &mut Rng, image: &mut Image) {
    let rows = image.rows.len();
    let (at, other) = (rng.below(rows), rng.below(rows));
    match rng.below(20) {
        0 => drop(image.rows.remove(at)),
        1 => {
            let row = image.rows[other].clone();
            image.rows.insert(at, row);
        }
        2 => image.rows.swap(at, other),
        3 => image.rows.truncate(at),
        4 => {
            let from = image.rows[other].clone();
            copy_cell(rng, &mut image.rows[at], from);
        }
        _ => {
            let own = image.start_op.wrapping_add(rng.below(rows + 1) as u64);
            mutate_row(rng, &mut image.rows[at], own, image.other_actors.len() as u64);
        }
    }
}

fn copy_cell(rng: &mut Rng, row: &mut Row, from: Row) {
    match rng.below(5) {
        0 => row.object = from.object,
        1 => (row.element, row.key) = (from.element, from.key),
        2 => row.preds = from.preds,
        3 => (row.value_type, row.value) = (from.value_type, from.value),
        _ => (row.action, row.insert) = (from.action, from.insert),
    }
}

fn mutate_row(rng: &mut Rng, row: &mut Row, own: u64, other_actors: u64) {
    let own: Cell = (Some(0), Some(own.cast_signed()));
    match rng.below(16) {
        0 => row.object = id(rng, row.object, own, other_actors),
        1 => row.object = (None, None),
        2 => row.element = id(rng, row.element, own, other_actors),
        3 => (row.element, row.key) = ((None, Some(0)), None),
        4 => (row.element, row.key) = ((None, None), Some(rng.pick(&[&b"a"[..], b"", b"list"]).to_vec())),
        5 => (row.element, row.key) = (own, None),
        6 => row.insert = !row.insert,
        7 => row.action = rng.below(9) as u64,
        8 => (row.value_type, row.value) = value(rng),
        9 => row.preds.push(own),
        10 => drop(row.preds.pop()),
        11 => {
            let pred = row.preds.first().copied().unwrap_or(own);
            let pred = id(rng, pred, own, other_actors);
            row.preds.push(pred);
        }
        12 => {
            if let Some(pred) = row.preds.first_mut() {
                *pred = id(rng, *pred, own, other_actors);
            }
        }
        13 => row.expand = !row.expand,
        14 => row.mark_name = if row.mark_name.is_some() { None } else { Some(b"bold".to_vec()) },
        _ => row.preds.clear(),
    }
}

fn id(rng: &mut Rng, (actor, counter): Cell, own: Cell, other_actors: u64) -> Cell {
    let counter = counter.unwrap_or(1);
    match rng.below(8) {
        0 => own,
        1 => (actor, Some(counter.wrapping_add(1))),
        2 => (actor, Some(counter.wrapping_sub(1))),
        3 => (Some(rng.below(other_actors as usize + 2) as u64), Some(counter)),
        4 => (actor, Some(*rng.pick(&[0, 1, -1, i64::MAX, 1 << 31, (1 << 31) - 1, 1 << 32]))),
        5 => (None, Some(counter)),
        6 => (actor, None),
        _ => (actor, Some(1 + rng.below(own.1.map_or(1, |own| own as usize)) as i64)),
    }
}

fn nearby(rng: &mut Rng, value: u64) -> u64 {
    match rng.below(6) {
        0 => value.wrapping_add(1),
        1 => value.wrapping_sub(1),
        2 => 0,
        3 => u64::from(u32::MAX) - rng.below(3) as u64,
        4 => (1 << 31) - rng.below(3) as u64,
        _ => rng.next() >> rng.below(64),
    }
}

fn value(rng: &mut Rng) -> (u64, Vec<u8>) {
    let raw =
        rng.pick(&[&[][..], &[0], &[1], &[0x80, 0], &[0xff, 0x7f], b"text", &[0xff; 8], &[0x7f]]).to_vec();
    (rng.below(16) as u64, raw)
}

/// Makes the rows' order of predecessors and the actor table what an encoder would write, so that what was
/// altered is not refused for that alone.
fn mend(image: &mut Image) {
    let actors: Vec<Vec<u8>> = std::iter::once(&image.actor).chain(&image.other_actors).cloned().collect();
    let valid = |cell: &Cell| cell.0.is_none_or(|actor| (actor as usize) < actors.len());
    if !image.rows.iter().all(|row| {
        valid(&row.object)
            && valid(&row.element)
            && row.preds.iter().all(|pred| valid(pred) && pred.0.is_some())
    }) {
        return;
    }
    let mut used: Vec<Vec<u8>> = image
        .rows
        .iter()
        .flat_map(|row| row.preds.iter().chain([&row.object, &row.element]))
        .filter_map(|cell| cell.0)
        .map(|actor| actors[actor as usize].clone())
        .filter(|actor| *actor != image.actor)
        .collect();
    used.sort();
    used.dedup();
    let index = |actor: u64| {
        let actor = &actors[actor as usize];
        if *actor == image.actor { 0 } else { 1 + used.binary_search(actor).unwrap() as u64 }
    };
    for row in &mut image.rows {
        row.object.0 = row.object.0.map(index);
        row.element.0 = row.element.0.map(index);
        let mut preds: Vec<(i64, Vec<u8>, Cell)> = row
            .preds
            .iter()
            .map(|pred| {
                let actor = pred.0.unwrap();
                (pred.1.unwrap_or(0), actors[actor as usize].clone(), (Some(index(actor)), pred.1))
            })
            .collect();
        preds.sort();
        preds.dedup();
        row.preds = preds.into_iter().map(|pred| pred.2).collect();
    }
    image.other_actors = used;
    image.deps.sort_unstable();
    image.deps.dedup();
}
