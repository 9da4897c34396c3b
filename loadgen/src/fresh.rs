//! A client that holds nothing: what it is given is what the server has. Old clients would bring back what
//! was lost, and hide the loss.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etherply_client::{Client, Event, OpenOptions, StreamId, Transport};
use etherply_wire::Rights;

/// Documents that are read over one connection at a time.
const OPEN_MAX: usize = 256;
/// Time without any progress after which a read is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads documents from their beginning: for each name the bytes of a snapshot, if the server sent one, and of
/// all changes.
pub fn read(address: SocketAddr, names: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::with_capacity(names.len());
    for names in names.chunks(OPEN_MAX) {
        found.extend(Reader::connect(address)?.read(names)?);
    }
    Ok(found)
}

struct Reader {
    client: Client,
    socket: TcpStream,
    base: Instant,
}

#[derive(Default)]
struct Reading {
    bytes: Vec<u8>,
    /// Up to where the document went when it was opened.
    until: Option<u64>,
}

impl Reader {
    fn connect(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let client = Client::new(Transport::Tcp, "etherply-loadgen/fresh", 1);
        Ok(Self { client, socket, base: Instant::now() })
    }

    fn read(mut self, names: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut readings: HashMap<StreamId, Reading> = HashMap::new();
        let mut order = Vec::new();
        for name in names {
            let rights = Rights::READ;
            let options = OpenOptions { document: name.clone(), rights, token: None, cursor: None };
            let stream = self.client.open(options)?;
            readings.insert(stream, Reading::default());
            order.push((stream, name.clone()));
        }
        self.client.connect(0)?;
        let mut scratch = vec![0; 256 * 1024];
        let mut out = Vec::new();
        loop {
            self.client.output(&mut out, self.now_ms());
            self.socket.write_all(&out)?;
            out.clear();
            let all_read = readings.iter().all(|(&stream, reading)| self.has_all(stream, reading));
            if all_read {
                break;
            }
            let bytes = self.socket.read(&mut scratch).context("the server sends nothing more")?;
            if bytes == 0 {
                bail!("the server hung up on a fresh client");
            }
            let now_ms = self.now_ms();
            let mut fault = None;
            let received = scratch.get_mut(..bytes).unwrap_or_default();
            self.client.input(received, now_ms, &mut |event| {
                if let Err(error) = take(event, &mut readings) {
                    fault.get_or_insert(error);
                }
            })?;
            fault.map_or(Ok(()), Err)?;
        }
        let bytes = |(stream, name)| (name, readings.remove(&stream).unwrap_or_default().bytes);
        Ok(order.into_iter().map(bytes).collect())
    }

    fn has_all(&self, stream: StreamId, reading: &Reading) -> bool {
        let has = self.client.cursor(stream).map_or(0, |cursor| cursor.seq);
        reading.until.is_some_and(|until| has >= until)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
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
