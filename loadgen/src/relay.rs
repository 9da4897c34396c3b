//! The floor: what relaying costs when nothing but relaying is done. It accepts, reads, finds the room, and
//! sends the same bytes to the other members: no CRDT, no log, no frames to speak of. One epoll and one
//! listener a thread; a message is sent by the thread that read it, whoever the member's socket belongs to.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::floor::{PREFIX_BYTES, split};

const LISTENER: Token = Token(usize::MAX);
const BACKLOG: i32 = 4_096;
const SCRATCH_BYTES: usize = 64 * 1024;

#[derive(Default)]
struct Room {
    members: RwLock<Vec<Arc<TcpStream>>>,
}

#[derive(Default)]
struct Rooms {
    rooms: RwLock<HashMap<u32, Arc<Room>>>,
    sends: AtomicU64,
}

struct Conn {
    stream: Arc<TcpStream>,
    room: Option<Arc<Room>>,
    partial: Vec<u8>,
}

/// Serves until it is asked to end; then prints how many sends it made.
pub fn serve(listen: SocketAddr, threads: usize) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([libc::SIGTERM, libc::SIGINT])?;
    let rooms = Arc::new(Rooms::default());
    let first = bind(listen)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..threads {
        listeners.push(bind(address)?);
    }
    for listener in listeners {
        let rooms = rooms.clone();
        std::thread::spawn(move || {
            if let Err(error) = Worker::run(listener, &rooms) {
                eprintln!("a relay thread ended: {error}");
                std::process::exit(1);
            }
        });
    }
    println!("{}", serde_json::json!({ "listen": address }));
    signals.forever().next();
    let sends = rooms.sends.load(Ordering::Relaxed);
    println!("{}", serde_json::json!({ "sends": sends }));
    Ok(())
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

struct Worker<'r> {
    rooms: &'r Rooms,
    poll: Poll,
    conns: HashMap<usize, Conn>,
    next: usize,
    scratch: Vec<u8>,
}

impl Worker<'_> {
    fn run(mut listener: TcpListener, rooms: &Rooms) -> Result<()> {
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let mut worker =
            Worker { rooms, poll, conns: HashMap::new(), next: 0, scratch: vec![0; SCRATCH_BYTES] };
        let mut events = Events::with_capacity(1_024);
        loop {
            match worker.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                if event.token() == LISTENER {
                    worker.accept(&listener)?;
                } else {
                    worker.read(event.token());
                }
            }
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accepting failed"),
            };
            stream.set_nodelay(true)?;
            self.next += 1;
            self.poll.registry().register(&mut stream, Token(self.next), Interest::READABLE)?;
            let conn = Conn { stream: Arc::new(stream), room: None, partial: Vec::new() };
            self.conns.insert(self.next, conn);
        }
    }

    fn read(&mut self, token: Token) {
        let Some(conn) = self.conns.get_mut(&token.0) else { return };
        loop {
            match (&*conn.stream).read(&mut self.scratch) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(bytes) if bytes > 0 => {
                    let received = self.scratch.get(..bytes).unwrap_or_default();
                    if conn.receive(received, self.rooms).is_err() {
                        break;
                    }
                    if bytes < SCRATCH_BYTES {
                        return;
                    }
                }
                _ => break,
            }
        }
        if let Some(conn) = self.conns.remove(&token.0)
            && let Some(room) = conn.room
        {
            let mut members = room.members.write().unwrap_or_else(PoisonError::into_inner);
            members.retain(|member| !Arc::ptr_eq(member, &conn.stream));
        }
    }
}

impl Conn {
    fn receive(&mut self, bytes: &[u8], rooms: &Rooms) -> Result<()> {
        let joined;
        let mut rest = bytes;
        if !self.partial.is_empty() {
            joined = [self.partial.as_slice(), bytes].concat();
            rest = &joined;
        }
        if self.room.is_none() {
            let Some((payload, after)) = split(rest)? else {
                self.partial = rest.to_vec();
                return Ok(());
            };
            self.join(u32::from_le_bytes(payload.try_into()?), rooms)?;
            rest = after;
        }
        let (whole, count) = whole_messages(rest)?;
        let (messages, left) = rest.split_at(whole);
        if count > 0 {
            self.relay(messages, count, rooms)?;
        }
        self.partial = left.to_vec();
        Ok(())
    }

    fn join(&mut self, number: u32, rooms: &Rooms) -> Result<()> {
        let mut all = rooms.rooms.write().unwrap_or_else(PoisonError::into_inner);
        let room = all.entry(number).or_default().clone();
        room.members.write().unwrap_or_else(PoisonError::into_inner).push(self.stream.clone());
        self.room = Some(room);
        send(&self.stream, &[0; PREFIX_BYTES], rooms)
    }

    /// Messages that came together leave together: one send a member.
    fn relay(&self, messages: &[u8], count: usize, rooms: &Rooms) -> Result<()> {
        let Some(room) = &self.room else { return Ok(()) };
        for member in room.members.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if !Arc::ptr_eq(member, &self.stream) && send(member, messages, rooms).is_err() {
                // It is cut off by its own thread, which reads the end of the connection.
                drop(member.shutdown(std::net::Shutdown::Both));
            }
        }
        send(&self.stream, &vec![0; PREFIX_BYTES * count], rooms)
    }
}

/// A member whose socket is full is cut off: the relay keeps nothing for anyone.
fn send(mut stream: &TcpStream, bytes: &[u8], rooms: &Rooms) -> Result<()> {
    rooms.sends.fetch_add(1, Ordering::Relaxed);
    let sent = stream.write(bytes)?;
    anyhow::ensure!(sent == bytes.len(), "the socket is full");
    Ok(())
}

/// Bytes and number of the whole messages at the beginning.
fn whole_messages(bytes: &[u8]) -> Result<(usize, usize)> {
    let (mut rest, mut count) = (bytes, 0);
    while let Some((_, after)) = split(rest)? {
        rest = after;
        count += 1;
    }
    Ok((bytes.len() - rest.len(), count))
}
