//! Takes connections and deals them out to the cores, one after the other.
//!
//! A thread of its own that blocks in `accept`: one listening socket, so a second server on the same port is
//! refused by the kernel, and every core gets the same share whatever the kernel's hashing does.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::limits::{ACCEPT_BACKOFF, BACKLOG, SEND_BUFFER_BYTES};
use super::mailbox::{Mailboxes, Message};
use crate::metrics::Metrics;
use crate::throttle::Throttle;

/// A bound port that is not served yet.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Binds and listens.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for connections of the last run to time out.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self(socket.into()))
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Which connections are taken. The log needs descriptors as well: without one for a new file it fails,
/// and takes no writes any more.
#[derive(Debug, Clone)]
pub struct Room {
    /// Those that are there.
    pub open: Arc<AtomicU64>,
    /// Most that may be.
    pub max: u64,
    /// Who else is taken.
    pub throttle: Arc<Throttle>,
    /// Where the clock begins.
    pub started: Instant,
}

/// The thread that accepts.
#[derive(Debug)]
pub struct Acceptor {
    thread: JoinHandle<()>,
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
}

impl Acceptor {
    /// Starts to accept, up to `room.max` connections at a time.
    pub fn start(
        listener: Listener,
        cores: Mailboxes,
        metrics: Arc<Metrics>,
        room: Room,
    ) -> io::Result<Self> {
        let listener = Arc::new(listener.0);
        let stopping = Arc::new(AtomicBool::new(false));
        let (accepting, stop) = (Arc::clone(&listener), Arc::clone(&stopping));
        let thread = std::thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || accept_loop(&accepting, &cores, &metrics, &room, &stop))?;
        Ok(Self { thread, listener, stopping })
    }

    /// Accepts no more, and waits until the thread has ended.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes a thread that blocks in accept.
        drop(SockRef::from(&*self.listener).shutdown(std::net::Shutdown::Both));
        drop(self.thread.join());
    }
}

fn accept_loop(listener: &TcpListener, cores: &Mailboxes, metrics: &Metrics, room: &Room, stop: &AtomicBool) {
    // Given up when there are no descriptors left, so that a connection can be taken and closed: it would
    // otherwise stay in the backlog and time out slowly.
    let mut spare = File::open("/dev/null").ok();
    let mut turn = cores.iter().cycle();
    loop {
        let accepted = listener.accept();
        if stop.load(Ordering::Acquire) {
            return;
        }
        match accepted {
            Ok((stream, address)) => {
                if room.open.load(Ordering::Relaxed) >= room.max {
                    metrics.rejected.with_label_values(&["too_many_connections"]).inc();
                    continue;
                }
                let now_us = u64::try_from(room.started.elapsed().as_micros()).unwrap_or(u64::MAX);
                let admission = match room.throttle.accept(address.ip(), now_us) {
                    Ok(admission) => admission,
                    Err(reason) => {
                        metrics.rejected.with_label_values(&[reason]).inc();
                        continue;
                    }
                };
                if let Err(error) = prepare(&stream) {
                    tracing::debug!("a new connection cannot be set up: {error}");
                    continue;
                }
                if let Some(core) = turn.next() {
                    room.open.fetch_add(1, Ordering::Relaxed);
                    core.send(Message::Adopt(OwnedFd::from(stream), admission));
                }
            }
            Err(error) if is_out_of_descriptors(&error) => {
                metrics.rejected.with_label_values(&["no_descriptors"]).inc();
                drop(spare.take());
                drop(listener.accept());
                spare = File::open("/dev/null").ok();
                // Nothing tells when descriptors are free again.
                std::thread::sleep(ACCEPT_BACKOFF);
            }
            Err(error) => tracing::debug!("accept: {error}"),
        }
    }
}

fn prepare(stream: &std::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    SockRef::from(stream).set_send_buffer_size(SEND_BUFFER_BYTES)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
