//! A client that holds nothing: what it is given is what the server has. Old clients would bring back what
//! was lost, and hide the loss.

use std::collections::HashMap;

use anyhow::{Result, bail};
use etherply_client::{Event, OpenOptions, StreamId};
use etherply_wire::Rights;

use crate::blocking::Blocking;
use crate::plan::Target;

/// Documents that are read over one connection at a time.
const OPEN_MAX: usize = 256;

/// Reads documents from their beginning: for each name the bytes of a snapshot, if the server sent one, and of
/// all changes.
pub fn read(target: &Target, names: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::with_capacity(names.len());
    for names in names.chunks(OPEN_MAX) {
        found.extend(read_some(Blocking::connect(target, "etherply-loadgen/fresh")?, names)?);
    }
    Ok(found)
}

#[derive(Default)]
struct Reading {
    bytes: Vec<u8>,
    /// Up to where the document went when it was opened.
    until: Option<u64>,
}

fn read_some(mut connection: Blocking, names: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut readings: HashMap<StreamId, Reading> = HashMap::new();
    let mut order = Vec::new();
    for name in names {
        let rights = Rights::READ;
        let options = OpenOptions { document: name.clone(), rights, token: None, cursor: None };
        let stream = connection.client.open(options)?;
        readings.insert(stream, Reading::default());
        order.push((stream, name.clone()));
    }
    loop {
        connection.send()?;
        let has_all = |(&stream, reading): (&StreamId, &Reading)| {
            let has = connection.client.cursor(stream).map_or(0, |cursor| cursor.seq);
            reading.until.is_some_and(|until| has >= until)
        };
        if readings.iter().all(has_all) {
            break;
        }
        connection.receive(&mut |event| take(event, &mut readings))?;
    }
    let bytes = |(stream, name)| (name, readings.remove(&stream).unwrap_or_default().bytes);
    Ok(order.into_iter().map(bytes).collect())
}

fn take(event: Event<'_>, readings: &mut HashMap<StreamId, Reading>) -> Result<()> {
    match event {
        Event::Opened { stream, cursor, .. } => readings.entry(stream).or_default().until = Some(cursor.seq),
        Event::Changes { stream, changes, duplicates, .. } => {
            if duplicates > 0 {
                bail!("{duplicates} positions were sent to a fresh client twice");
            }
            readings.entry(stream).or_default().bytes.extend_from_slice(changes.joined());
        }
        Event::Snapshot { stream, bytes, .. } => {
            let reading = readings.entry(stream).or_default();
            // What came before is part of it.
            reading.bytes = bytes;
        }
        Event::OpenFailed { fault, .. } | Event::Closed { fault, .. } => bail!("a fresh client: {fault}"),
        _ => {}
    }
    Ok(())
}
