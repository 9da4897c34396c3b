//! The runtime of the data plane: one executor a core. The only module that knows glommio, so that the
//! runtime can be replaced.

mod check;

pub use check::{RuntimeProblem, check};

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::{ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, Shares};

/// Memory that an executor registers with its ring. The data plane does no direct I/O on files, so a little
/// is enough, and it fits a memlock limit of 8 MiB on many cores.
const IO_MEMORY_BYTES: usize = 64 * 1024;
/// Entries of an executor's ring.
const RING_DEPTH: usize = 1024;
/// How soon an executor looks at its ring, and at wakes from other threads, while tasks are runnable. A look
/// costs a few system calls.
const LATENCY: Duration = Duration::from_micros(250);

/// A running executor.
#[derive(Debug)]
pub struct CoreThread(ExecutorJoinHandle<()>);

impl CoreThread {
    /// Waits for its end. An error is a panic that ended it.
    pub fn join(self) -> io::Result<()> {
        self.0.join().map_err(|error| io::Error::other(error.to_string()))
    }
}

/// Starts an executor pinned to a CPU and runs what `start` makes, there, to its end.
pub fn spawn_core<F>(
    name: &str,
    cpu: usize,
    start: impl FnOnce() -> F + Send + 'static,
) -> io::Result<CoreThread>
where
    F: Future<Output = ()> + 'static,
{
    let builder = LocalExecutorBuilder::new(Placement::Fixed(cpu))
        .name(name)
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .preempt_timer(LATENCY);
    let run = move || async move {
        let queue =
            glommio::executor().create_task_queue(Shares::default(), Latency::Matters(LATENCY), "data-plane");
        // An error means that there is no such queue: it was made a line above.
        if let Ok(task) = glommio::spawn_local_into(async move { start().await }, queue) {
            task.await;
        }
    };
    builder.spawn(run).map(CoreThread).map_err(|error| io::Error::other(error.to_string()))
}

/// Runs a task on this core, beside the others. It is polled at once: hold no borrow over this call.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}

/// Waits.
pub async fn sleep(time: Duration) {
    glommio::timer::sleep(time).await;
}

/// Lets other tasks of this core have their turn.
pub async fn yield_now() {
    futures_lite::future::yield_now().await;
}

/// A connected socket of this core.
#[derive(Debug)]
pub struct Stream(glommio::net::TcpStream);

impl Stream {
    /// Takes a connected socket over; it must be called on the core that will use it.
    pub fn new(socket: OwnedFd) -> Self {
        // SAFETY: the descriptor is owned, and ownership passes to the stream.
        Self(unsafe { glommio::net::TcpStream::from_raw_fd(socket.into_raw_fd()) })
    }

    /// The descriptor, for sends that do not wait.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Reads what is there, or waits until there is something. The buffer is only used during this call.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }

    /// Writes what the socket takes, or waits until it takes something.
    pub fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }
}
