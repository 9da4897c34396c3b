//! A change taken apart into rows, to be altered and put together again in canonical form with a fitting
//! length and checksum. Written apart from the code under test, so that a mistake is not made twice.

use sha2::{Digest, Sha256};

/// An operation id as it stands in the columns: actor index and counter, either of which may be missing.
pub type Cell = (Option<u64>, Option<i64>);

/// An operation, cell by cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub object: Cell,
    pub element: Cell,
    pub key: Option<Vec<u8>>,
    pub insert: bool,
    pub action: u64,
    pub value_type: u64,
    pub value: Vec<u8>,
    pub preds: Vec<Cell>,
    pub expand: bool,
    pub mark_name: Option<Vec<u8>>,
}

/// A whole change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    pub deps: Vec<[u8; 32]>,
    pub actor: Vec<u8>,
    pub seq: u64,
    pub start_op: u64,
    pub time: i64,
    pub message: Vec<u8>,
    pub other_actors: Vec<Vec<u8>>,
    pub rows: Vec<Row>,
    pub extra: Vec<u8>,
}

/// An operation that puts null under a key of the root.
pub fn put(key: &str) -> Row {
    Row { key: Some(key.as_bytes().to_vec()), action: 1, ..Row::default() }
}

/// The first change of an actor.
pub fn image(rows: Vec<Row>) -> Image {
    Image { actor: vec![7; 16], seq: 1, start_op: 1, rows, ..Image::default() }
}

/// A change with these columns, which need not fit each other.
pub fn with_columns(columns: &[(u64, &[u8])]) -> Vec<u8> {
    let mut bytes = body(&image(Vec::new()).encode());
    assert_eq!(bytes.pop(), Some(0), "an empty table of columns");
    unsigned(&mut bytes, columns.len() as u64);
    for (spec, column) in columns {
        unsigned(&mut bytes, *spec);
        unsigned(&mut bytes, column.len() as u64);
    }
    columns.iter().for_each(|(_, column)| bytes.extend(*column));
    frame(&bytes)
}

/// Puts a chunk of type 1 around a body.
pub fn frame(body: &[u8]) -> Vec<u8> {
    frame_as(1, body)
}

pub fn frame_as(chunk_type: u8, body: &[u8]) -> Vec<u8> {
    let mut hashed = vec![chunk_type];
    unsigned(&mut hashed, body.len() as u64);
    hashed.extend(body);
    let mut out = vec![0x85, 0x6f, 0x4a, 0x83];
    out.extend(&Sha256::digest(&hashed)[..4]);
    out.extend(hashed);
    out
}

/// The body of a well-formed chunk.
pub fn body(chunk: &[u8]) -> Vec<u8> {
    let mut input = &chunk[9..];
    let len = read_unsigned(&mut input);
    assert_eq!(len, input.len() as u64);
    input.to_vec()
}

pub fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn signed(out: &mut Vec<u8>, mut value: i64) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if (value == 0 && byte & 0x40 == 0) || (value == -1 && byte & 0x40 != 0) {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

fn prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    unsigned(out, bytes.len() as u64);
    out.extend(bytes);
}

fn read_unsigned(input: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = read(input, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn read_signed(input: &mut &[u8]) -> i64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = read(input, 1)[0];
        value |= i64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if byte & 0x40 != 0 && shift + 7 < 64 {
                value |= -1 << (shift + 7);
            }
            break;
        }
    }
    value
}

fn read<'a>(input: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(len);
    *input = rest;
    taken
}

fn read_prefixed(input: &mut &[u8]) -> Vec<u8> {
    let len = read_unsigned(input) as usize;
    read(input, len).to_vec()
}

/// The longest-run form of a column, empty if it holds only nulls.
pub fn run_length<T: Clone + PartialEq>(cells: &[Option<T>], write: impl Fn(&mut Vec<u8>, &T)) -> Vec<u8> {
    let mut out = Vec::new();
    if cells.iter().all(Option::is_none) {
        return out;
    }
    let run_at = |at: usize| cells[at..].iter().take_while(|cell| **cell == cells[at]).count();
    let mut at = 0;
    while at < cells.len() {
        let run = run_at(at);
        match &cells[at] {
            None => {
                signed(&mut out, 0);
                unsigned(&mut out, run as u64);
                at += run;
            }
            Some(value) if run > 1 => {
                signed(&mut out, run as i64);
                write(&mut out, value);
                at += run;
            }
            Some(_) => {
                let mut end = at;
                while end < cells.len() && cells[end].is_some() && run_at(end) == 1 {
                    end += 1;
                }
                signed(&mut out, -((end - at) as i64));
                cells[at..end].iter().flatten().for_each(|value| write(&mut out, value));
                at = end;
            }
        }
    }
    out
}

fn read_run_length<T: Clone>(
    mut input: &[u8],
    rows: usize,
    read: impl Fn(&mut &[u8]) -> T,
) -> Vec<Option<T>> {
    if input.is_empty() {
        return vec![None; rows];
    }
    let mut out = Vec::new();
    while !input.is_empty() {
        match read_signed(&mut input) {
            0 => {
                let nulls = read_unsigned(&mut input);
                out.extend((0..nulls).map(|_| None));
            }
            run @ 1.. => {
                let value = read(&mut input);
                out.extend((0..run).map(|_| Some(value.clone())));
            }
            run => out.extend((0..-run).map(|_| Some(read(&mut input)))),
        }
    }
    out
}

fn deltas(cells: &[Option<i64>]) -> Vec<u8> {
    let mut before = 0_i64;
    let deltas: Vec<_> = cells
        .iter()
        .map(|cell| {
            cell.map(|value| {
                let delta = value.wrapping_sub(before);
                before = value;
                delta
            })
        })
        .collect();
    run_length(&deltas, |out, delta| signed(out, *delta))
}

fn read_deltas(input: &[u8], rows: usize) -> Vec<Option<i64>> {
    let mut value = 0;
    let deltas = read_run_length(input, rows, read_signed);
    deltas
        .into_iter()
        .map(|delta| {
            delta.map(|delta| {
                value += delta;
                value
            })
        })
        .collect()
}

fn booleans(cells: &[bool], leave_out_if_false: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if cells.is_empty() || (leave_out_if_false && !cells.contains(&true)) {
        return out;
    }
    let (mut value, mut count) = (false, 0);
    for cell in cells {
        if *cell != value {
            unsigned(&mut out, count);
            (value, count) = (*cell, 0);
        }
        count += 1;
    }
    unsigned(&mut out, count);
    out
}

fn read_booleans(mut input: &[u8], rows: usize) -> Vec<bool> {
    let (mut out, mut value) = (Vec::new(), false);
    while !input.is_empty() {
        let count = read_unsigned(&mut input) as usize;
        out.resize(out.len() + count, value);
        value = !value;
    }
    if out.is_empty() { vec![false; rows] } else { out }
}

impl Image {
    /// Takes a change apart that Automerge wrote.
    pub fn decode(chunk: &[u8]) -> Self {
        let body = body(chunk);
        let mut input = &body[..];
        let deps = (0..read_unsigned(&mut input)).map(|_| read(&mut input, 32).try_into().unwrap()).collect();
        let actor = read_prefixed(&mut input);
        let seq = read_unsigned(&mut input);
        let start_op = read_unsigned(&mut input);
        let time = read_signed(&mut input);
        let message = read_prefixed(&mut input);
        let other_actors = (0..read_unsigned(&mut input)).map(|_| read_prefixed(&mut input)).collect();
        let table: Vec<_> = (0..read_unsigned(&mut input))
            .map(|_| (read_unsigned(&mut input), read_unsigned(&mut input) as usize))
            .collect();
        let columns: Vec<_> = table.into_iter().map(|(spec, len)| (spec, read(&mut input, len))).collect();
        let column = |spec| columns.iter().find(|column| column.0 == spec).map_or(&[][..], |column| column.1);
        let rows = read_rows(column);
        Self { deps, actor, seq, start_op, time, message, other_actors, rows, extra: input.to_vec() }
    }

    /// Puts it together, canonically as far as the cells allow.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        unsigned(&mut out, self.deps.len() as u64);
        out.extend(self.deps.iter().flatten());
        prefixed(&mut out, &self.actor);
        unsigned(&mut out, self.seq);
        unsigned(&mut out, self.start_op);
        signed(&mut out, self.time);
        prefixed(&mut out, &self.message);
        unsigned(&mut out, self.other_actors.len() as u64);
        self.other_actors.iter().for_each(|actor| prefixed(&mut out, actor));
        let columns: Vec<_> = self.columns().into_iter().filter(|(_, column)| !column.is_empty()).collect();
        unsigned(&mut out, columns.len() as u64);
        for (spec, column) in &columns {
            unsigned(&mut out, *spec);
            unsigned(&mut out, column.len() as u64);
        }
        columns.iter().for_each(|(_, column)| out.extend(column));
        out.extend(&self.extra);
        frame(&out)
    }

    fn columns(&self) -> Vec<(u64, Vec<u8>)> {
        let rows = &self.rows;
        let number = |out: &mut Vec<u8>, value: &u64| unsigned(out, *value);
        let string = |out: &mut Vec<u8>, value: &Vec<u8>| prefixed(out, value);
        let numbers = |cell: &dyn Fn(&Row) -> Option<u64>| {
            run_length(&rows.iter().map(cell).collect::<Vec<_>>(), number)
        };
        let strings = |cell: &dyn Fn(&Row) -> Option<Vec<u8>>| {
            run_length(&rows.iter().map(cell).collect::<Vec<_>>(), string)
        };
        let preds: Vec<Cell> = rows.iter().flat_map(|row| row.preds.iter().copied()).collect();
        let values: Vec<u8> = rows.iter().flat_map(|row| row.value.iter().copied()).collect();
        vec![
            (0x01, numbers(&|row| row.object.0)),
            (0x02, numbers(&|row| row.object.1.map(i64::cast_unsigned))),
            (0x11, numbers(&|row| row.element.0)),
            (0x13, deltas(&rows.iter().map(|row| row.element.1).collect::<Vec<_>>())),
            (0x15, strings(&|row| row.key.clone())),
            (0x34, booleans(&rows.iter().map(|row| row.insert).collect::<Vec<_>>(), false)),
            (0x42, numbers(&|row| Some(row.action))),
            (0x56, numbers(&|row| Some((row.value.len() as u64) << 4 | row.value_type))),
            (0x57, values),
            (0x70, numbers(&|row| Some(row.preds.len() as u64))),
            (0x71, run_length(&preds.iter().map(|pred| pred.0).collect::<Vec<_>>(), number)),
            (0x73, deltas(&preds.iter().map(|pred| pred.1).collect::<Vec<_>>())),
            (0x94, booleans(&rows.iter().map(|row| row.expand).collect::<Vec<_>>(), true)),
            (0xa5, strings(&|row| row.mark_name.clone())),
        ]
    }
}

fn read_rows<'a>(column: impl Fn(u64) -> &'a [u8]) -> Vec<Row> {
    let actions = read_run_length(column(0x42), 0, read_unsigned);
    let count = actions.len();
    let numbers = |spec| read_run_length(column(spec), count, read_unsigned);
    let strings = |spec| read_run_length(column(spec), count, read_prefixed);
    let (object_actors, object_counters) = (numbers(0x01), numbers(0x02));
    let (key_actors, key_counters, keys) = (numbers(0x11), read_deltas(column(0x13), count), strings(0x15));
    let (inserts, metadata) = (read_booleans(column(0x34), count), numbers(0x56));
    let pred_counts = numbers(0x70);
    let preds: u64 = pred_counts.iter().flatten().sum();
    let pred_actors = read_run_length(column(0x71), preds as usize, read_unsigned);
    let mut preds = pred_actors.into_iter().zip(read_deltas(column(0x73), preds as usize));
    let (expands, mark_names) = (read_booleans(column(0x94), count), strings(0xa5));
    let mut values = column(0x57);
    (0..count)
        .map(|row| Row {
            object: (object_actors[row], object_counters[row].map(u64::cast_signed)),
            element: (key_actors[row], key_counters[row]),
            key: keys[row].clone(),
            insert: inserts[row],
            action: actions[row].unwrap(),
            value_type: metadata[row].unwrap() & 0xf,
            value: read(&mut values, (metadata[row].unwrap() >> 4) as usize).to_vec(),
            preds: preds.by_ref().take(pred_counts[row].unwrap() as usize).collect(),
            expand: expands[row],
            mark_name: mark_names[row].clone(),
        })
        .collect()
}
