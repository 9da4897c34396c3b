//! The runtime of the data plane: one executor a core. The only module that knows glommio, so that the
//! runtime can be replaced.

mod check;
mod readiness;

pub use check::{RuntimeProblem, check};

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::{ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, Shares};
use rustix::net::{RecvFlags, SendFlags};

use readiness::{Key, Readiness};

/// Memory that an executor registers with its ring. The data plane does no direct I/O on files, so a little
/// is enough, and it fits a memlock limit of 8 MiB on many cores.
const IO_MEMORY_BYTES: usize = 64 * 1024;
/// Entries of each of an executor's rings: for its timers, what other threads wake it by, and the bell of its sockets,
/// which have a ring of their own.
const RING_DEPTH: usize = 256;
/// After how long an executor leaves runnable tasks to look at its ring. It is a net only: what arrives at a
/// socket, and a wake from another thread, end the tasks' turn at once, because they complete in the ring that
/// glommio looks at between tasks, and a queue whose latency matters is always woken through it.
///
/// It must be long against the time for which a busy machine takes the processor away. glommio 0.9 arms the
/// timer before it runs tasks; if it expires before the first of them, none runs, and the executor then goes to
/// sleep as if there were none, until something else wakes it. With 250 µs that happened every few seconds
/// under load, for up to a second each.
const PREEMPT_AFTER: Duration = Duration::from_millis(100);

/// After how long a core looks at its sockets again when the kernel had no memory for that.
const WATCH_AGAIN: Duration = Duration::from_millis(1);

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
        .preempt_timer(PREEMPT_AFTER);
    let run = move || async move {
        let queue = glommio::executor().create_task_queue(
            Shares::default(),
            Latency::Matters(PREEMPT_AFTER),
            "data-plane",
        );
        let work = async move {
            match Readiness::new() {
                Ok(readiness) => {
                    let readiness = Rc::new(readiness);
                    READINESS.set(Some(Rc::clone(&readiness)));
                    spawn(keep_watching(readiness));
                    start().await;
                }
                Err(error) => tracing::error!("a core cannot watch sockets: {error}"),
            }
        };
        // An error means that there is no such queue: it was made a line above.
        if let Ok(task) = glommio::spawn_local_into(work, queue) {
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

thread_local! {
    /// The sockets of this core.
    static READINESS: RefCell<Option<Rc<Readiness>>> = const { RefCell::new(None) };
}

/// Has this core's tasks woken by their sockets.
async fn keep_watching(readiness: Rc<Readiness>) {
    let bell = match readiness.bell().try_clone_to_owned() {
        // SAFETY: the descriptor is owned, and ownership passes to the file.
        Ok(bell) => unsafe { BufferedFile::from_raw_fd(bell.into_raw_fd()) },
        Err(error) => return tracing::error!("sockets cannot be watched: {error}"),
    };
    loop {
        if let Err(error) = readiness.turn() {
            tracing::warn!("sockets cannot be watched, trying again: {error}");
            sleep(WATCH_AGAIN).await;
            continue;
        }
        if let Err(error) = bell.read_at(0, size_of::<u64>()).await {
            tracing::warn!("waiting for sockets failed, trying again: {error}");
            sleep(WATCH_AGAIN).await;
        }
    }
}

/// A connected socket of this core.
pub struct Stream {
    socket: OwnedFd,
    readiness: Rc<Readiness>,
    key: Key,
}

impl Stream {
    /// Takes a connected socket over; it must be called on the core that will use it.
    ///
    /// # Errors
    /// This is no core's thread.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let readiness = READINESS.with_borrow(Clone::clone);
        let readiness = readiness.ok_or_else(|| io::Error::other("sockets belong to cores"))?;
        let key = readiness.watch(socket.as_fd());
        Ok(Self { socket, readiness, key })
    }

    /// The descriptor, for sends that do not wait.
    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Reads what is there, or waits until there is something. The buffer is only used during this call.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let receive = |buffer: &mut [u8]| {
            let (bytes, _) = rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT)?;
            Ok(bytes)
        };
        self.readiness.poll_read(self.key, context, buffer, receive)
    }

    /// Writes what the socket takes, or waits until it takes something.
    pub fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let send = || Ok(rustix::net::send(&self.socket, bytes, flags)?);
        self.readiness.poll_write(self.key, context, send)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.readiness.unwatch(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    const ROUNDS: u32 = 20_000;
    const COMPETITORS: usize = 3;

    /// Takes the processor away from whoever else is on it, again and again, for longer than a turn takes.
    fn compete(cpu: usize, is_over: &AtomicBool) {
        let mut cpus = rustix::thread::CpuSet::new();
        cpus.set(cpu);
        rustix::thread::sched_setaffinity(None, &cpus).unwrap();
        while !is_over.load(Ordering::Relaxed) {
            let began = Instant::now();
            while began.elapsed() < Duration::from_micros(400) {
                std::hint::spin_loop();
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    #[test]
    fn a_core_that_is_kept_from_its_processor_does_not_sleep_over_what_is_runnable() {
        let is_over = Arc::new(AtomicBool::new(false));
        let competitors: Vec<_> = (0..COMPETITORS)
            .map(|_| {
                let is_over = Arc::clone(&is_over);
                std::thread::spawn(move || compete(0, &is_over))
            })
            .collect();
        let (ask, asked) = flume::unbounded::<u32>();
        let (answer, answered) = flume::unbounded();
        let core = spawn_core("kept", 0, move || async move {
            while let Ok(round) = asked.recv_async().await {
                yield_now().await;
                if answer.send(round).is_err() {
                    return;
                }
            }
        })
        .unwrap();
        for round in 0..ROUNDS {
            ask.send(round).unwrap();
            // Nothing else wakes the core: one that sleeps now never answers. The time only ends a failed test.
            assert_eq!(answered.recv_timeout(Duration::from_secs(60)), Ok(round));
        }
        drop(ask);
        core.join().unwrap();
        is_over.store(true, Ordering::Relaxed);
        competitors.into_iter().for_each(|competitor| competitor.join().unwrap());
    }
}
