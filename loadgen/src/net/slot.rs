//! One connection of the generator: its socket and its session. Reading borrows the executor's one scratch
//! buffer, so an idle connection owns none.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use anyhow::{Result, bail};
use etherply_client::Next;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::net::executor::Ctx;
use crate::net::session::Session;

/// How a scenario ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// As a program does that ends: the server reads the end of the stream.
    Close,
    /// As a router does that forgot the connection: the server gets a reset.
    Reset,
}

/// What is known of a connection that ended.
#[derive(Debug, Clone, Copy)]
pub struct Detached {
    /// Whether the scenario cut it.
    pub was_cut: bool,
    /// What the server said about the time after it.
    pub next: Next,
}

/// A connection and the member behind it.
pub struct Slot<S> {
    inner: RefCell<Inner<S>>,
}

struct Inner<S> {
    session: S,
    stream: Option<TcpStream>,
    /// What the socket did not take yet.
    unsent: Vec<u8>,
    /// Wakes the task that reads.
    waker: Option<Waker>,
    /// Set to end the connection from outside of its task.
    abort: Option<&'static str>,
    /// Whether it ends because the scenario wants it to, and how.
    cut: Option<Cut>,
    /// When this attempt to connect began, in milliseconds.
    since_ms: u64,
}

impl<S: Session> Slot<S> {
    /// A connection that is not made yet.
    pub fn new(session: S) -> Rc<Self> {
        let inner = Inner {
            session,
            stream: None,
            unsent: Vec::new(),
            waker: None,
            abort: None,
            cut: None,
            since_ms: 0,
        };
        Rc::new(Self { inner: RefCell::new(inner) })
    }

    /// Begins a connection.
    pub fn attach(&self, address: SocketAddr, ctx: &Ctx) -> Result<()> {
        let stream = connect(address)?;
        let mut inner = self.inner.borrow_mut();
        inner.stream = Some(stream);
        inner.abort = None;
        inner.since_ms = ctx.now_ms();
        inner.session.connect(ctx)?;
        inner.flush(ctx)
    }

    /// Ends the connection.
    pub fn detach(&self, ctx: &Ctx) -> Detached {
        let mut inner = self.inner.borrow_mut();
        let cut = inner.cut.take();
        if let (Some(stream), Some(how)) = (inner.stream.take(), cut) {
            // Neither can fail but for a connection that has ended by itself.
            match how {
                Cut::Close => drop(SockRef::from(&stream).shutdown(std::net::Shutdown::Both)),
                Cut::Reset => drop(rustix::net::connect_unspec(&stream)),
            }
        }
        inner.unsent = Vec::new();
        inner.waker = None;
        Detached { was_cut: cut.is_some(), next: inner.session.disconnected(ctx) }
    }

    /// Serves the connection until it ends, and tells why. Calls `ready` once, when the server said welcome.
    pub fn poll(&self, cx: &mut Context<'_>, ctx: &Ctx, ready: &mut dyn FnMut()) -> Poll<Result<()>> {
        let mut inner = self.inner.borrow_mut();
        let mut scratch = ctx.scratch_in.borrow_mut();
        loop {
            if let Some(reason) = inner.abort.take() {
                return Poll::Ready(Err(anyhow::anyhow!(reason)));
            }
            if let Err(error) = inner.drain(cx) {
                return Poll::Ready(Err(error.into()));
            }
            if !inner.session.reads() {
                break;
            }
            let Some(stream) = inner.stream.as_mut() else { return Poll::Ready(Ok(())) };
            let mut buffer = ReadBuf::new(&mut scratch);
            let bytes = match Pin::new(stream).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => buffer.filled().len(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            };
            if bytes == 0 {
                return Poll::Ready(Err(anyhow::anyhow!("the server hung up")));
            }
            let received = scratch.get_mut(..bytes).unwrap_or_default();
            if let Err(error) = inner.session.receive(received, ctx) {
                // The last answer, if there is one. Whether the server still takes it changes nothing.
                let _ = inner.flush(ctx);
                return Poll::Ready(Err(error));
            }
            if inner.session.is_ready() {
                ready();
            }
            if inner.session.is_done() {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = inner.flush(ctx) {
                return Poll::Ready(Err(error));
            }
        }
        match &inner.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => inner.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Lets the session do something, and sends what comes of it.
    pub fn act<T>(&self, ctx: &Ctx, act: impl FnOnce(&mut S) -> Result<T>) -> Result<T> {
        let mut inner = self.inner.borrow_mut();
        let done = act(&mut inner.session)?;
        if inner.flush(ctx).is_err() {
            // The connection is at its end: its own task ends it, and what was to be sent waits for the next.
            inner.abort.get_or_insert("the server takes no more bytes");
            inner.wake();
        }
        Ok(done)
    }

    /// Ends the connection if it has tried to come about for too long.
    pub fn check_timeout(&self, ctx: &Ctx, timeout_ms: u64) {
        let mut inner = self.inner.borrow_mut();
        let waits = inner.stream.is_some() && !inner.session.is_ready();
        if waits && ctx.now_ms().saturating_sub(inner.since_ms) > timeout_ms {
            inner.abort = Some("the server did not answer in time");
            inner.wake();
        }
    }

    /// Cuts the connection, if the server has welcomed it. Tells whether it did.
    pub fn cut(&self, how: Cut) -> bool {
        let mut inner = self.inner.borrow_mut();
        if !inner.session.is_ready() || inner.cut.is_some() {
            return false;
        }
        inner.cut = Some(how);
        inner.abort = Some("the scenario cut it");
        inner.wake();
        true
    }

    /// Lets a session read again that had stopped.
    pub fn rouse(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.session.wake();
        inner.wake();
    }

    /// Ends the connection for good.
    pub fn abort(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.abort = Some("the run is over");
        inner.wake();
    }
}

impl<S: Session> Inner<S> {
    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Sends what the session has to send; what the socket does not take waits for it.
    fn flush(&mut self, ctx: &Ctx) -> Result<()> {
        if self.stream.is_none() {
            return Ok(());
        }
        if !self.unsent.is_empty() {
            self.session.output(&mut self.unsent, ctx);
            if self.unsent.len() > UNSENT_BYTES_MAX {
                bail!("the server does not read what is sent to it");
            }
            self.wake();
            return Ok(());
        }
        let mut out = ctx.scratch_out.borrow_mut();
        out.clear();
        self.session.output(&mut out, ctx);
        let mut sent = 0;
        while let Some(rest) = out.get(sent..).filter(|rest| !rest.is_empty()) {
            let Some(stream) = self.stream.as_ref() else { break };
            match stream.try_write(rest) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent.extend_from_slice(rest);
                    self.wake();
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends what was left over, and waits for the socket to take the rest.
    fn drain(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let Some(stream) = self.stream.as_mut() else { break };
            match Pin::new(stream).poll_write(cx, &self.unsent) {
                Poll::Ready(Ok(bytes)) => drop(self.unsent.drain(..bytes)),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        self.unsent = Vec::new();
        Ok(())
    }
}

/// Most bytes that wait for a server that does not read.
const UNSENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A socket that is connecting: it becomes writable once it is connected. The call itself never waits.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    TcpStream::from_std(socket.into())
}
