//! Which sockets of a core may be read from: polls that stay armed, on a ring of their own.
//!
//! glommio arms a poll for each wait, looks for the timers that it cancels among all polls, and each event interrupts
//! the executor. Here a poll is armed once (io_uring's multishot polls), what happens is noted by the kernel and taken
//! when this core looks for it (deferred task work, Linux 6.1; before that it is only slower), and glommio hears of the
//! first event since then by an eventfd.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// Entries of the submission queue: what is armed and taken back between two calls; it is emptied when it is full.
const SUBMISSIONS: u32 = 256;
/// Entries of the completion queue. Polls for which it has no room end, and are armed again.
const COMPLETIONS: u32 = 8192;
/// Of a poll for bytes to read.
const READ: u32 = bits(libc::POLLIN | libc::POLLRDHUP);
/// Of a poll for room to write.
const WRITE: u32 = bits(libc::POLLOUT);
/// The other side has closed, or the socket has failed: whoever reads finds out, and no event follows.
const OVER: u32 = bits(libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR);
/// Of what nobody waits for.
const NOBODY: u64 = u64::MAX;
/// How often a turn looks for what has happened meanwhile before others have theirs.
const LOOKS_MAX: usize = 8;

#[allow(clippy::as_conversions, reason = "not possible otherwise in a constant; it has more room")]
const fn bits(events: libc::c_short) -> u32 {
    events.cast_unsigned() as u32
}

/// The sockets of one core. It belongs to the thread that made it.
pub(super) struct Readiness {
    inner: RefCell<Inner>,
    bell: OwnedFd,
}

struct Inner {
    ring: IoUring,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Sockets whose poll has to be armed again.
    unarmed: Vec<Key>,
    /// Who is to be woken at the end of a turn.
    woken: Vec<Waker>,
}

/// A socket that is watched, or the place for one.
#[derive(Debug, Default)]
struct Slot {
    /// How many sockets had this place before.
    generation: u32,
    /// `None`: free.
    socket: Option<RawFd>,
    is_readable: bool,
    is_over: bool,
    /// Why the kernel does not watch it.
    failure: Option<i32>,
    waits_to_write: bool,
    waker: Option<Waker>,
}

/// A socket that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// What the kernel keeps of it: which socket, and which of its two polls.
    fn user_data(self, writes: bool) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index) << 1 | u64::from(writes)
    }

    fn of(user_data: u64) -> (Self, bool) {
        #[allow(clippy::cast_possible_truncation, reason = "the halves")]
        let (index, generation) = ((user_data as u32) >> 1, (user_data >> 32) as u32);
        (Self { index, generation }, user_data & 1 == 1)
    }
}

impl Readiness {
    /// Nothing is watched yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn new() -> io::Result<Self> {
        Self::with_entries(SUBMISSIONS, COMPLETIONS)
    }

    fn with_entries(submissions: u32, completions: u32) -> io::Result<Self> {
        let deferred = IoUring::builder()
            .setup_cqsize(completions)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(submissions);
        match deferred {
            // An older kernel.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Self::on(IoUring::builder().setup_cqsize(completions).build(submissions)?)
            }
            ring => Self::on(ring?),
        }
    }

    fn on(ring: IoUring) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        let inner =
            Inner { ring, slots: Vec::new(), free: Vec::new(), unarmed: Vec::new(), woken: Vec::new() };
        Ok(Self { inner: RefCell::new(inner), bell })
    }

    /// Becomes readable when [`Self::turn`] has something to do.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Begins to watch a socket, which has to stay open until [`Self::unwatch`].
    pub(super) fn watch(&self, socket: BorrowedFd<'_>) -> Key {
        let mut inner = self.inner.borrow_mut();
        let index = inner.free.pop().unwrap_or_else(|| {
            inner.slots.push(Slot::default());
            #[allow(clippy::cast_possible_truncation, reason = "a process has fewer descriptors than 2^31")]
            let last = (inner.slots.len() - 1) as u32;
            last
        });
        #[allow(clippy::indexing_slicing, reason = "it was free, or is the last one")]
        let slot = &mut inner.slots[index as usize];
        let key = Key { index, generation: slot.generation };
        let socket = socket.as_raw_fd();
        // There may be something already.
        slot.socket = Some(socket);
        slot.is_readable = true;
        inner.arm(key, socket);
        self.submit(&mut inner);
        key
    }

    /// Forgets a socket. Its polls keep it open until the next turn.
    pub(super) fn unwatch(&self, key: Key) {
        let mut inner = self.inner.borrow_mut();
        let Some(slot) = inner.slot(key) else { return };
        let waits_to_write = slot.waits_to_write;
        *slot = Slot { generation: slot.generation.wrapping_add(1), ..Slot::default() };
        inner.free.push(key.index);
        // Not by IORING_OP_POLL_REMOVE: that leaves a poll alone that has something to tell at the moment.
        inner.push(&opcode::AsyncCancel::new(key.user_data(false)).build().user_data(NOBODY));
        if waits_to_write {
            inner.push(&opcode::AsyncCancel::new(key.user_data(true)).build().user_data(NOBODY));
        }
        self.submit(&mut inner);
    }

    /// Reads by `read` if there may be something, or notes who waits for it.
    pub(super) fn poll_read(
        &self,
        key: Key,
        context: &Context<'_>,
        buffer: &mut [u8],
        mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        let Some(slot) = inner.slot(key) else { return Poll::Ready(Ok(0)) };
        if let Some(errno) = slot.failure {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if slot.is_readable {
            match uninterrupted(|| read(buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => slot.is_readable = false,
                done => {
                    // Less than there was room for is all that there is, and what comes later is an event; but an
                    // end that has been told of already is not told of again.
                    if done.as_ref().is_ok_and(|bytes| *bytes < buffer.len()) && !slot.is_over {
                        slot.is_readable = false;
                    }
                    return Poll::Ready(done);
                }
            }
        }
        slot.wait(context);
        Poll::Pending
    }

    /// Writes by `write`, or notes who waits for room.
    pub(super) fn poll_write(
        &self,
        key: Key,
        context: &Context<'_>,
        write: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        let Some(slot) = inner.slot(key) else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        if !slot.waits_to_write {
            match uninterrupted(write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
        slot.wait(context);
        let is_new = !std::mem::replace(&mut slot.waits_to_write, true);
        if let Some(socket) = slot.socket.filter(|_| is_new) {
            let poll = opcode::PollAdd::new(types::Fd(socket), WRITE).build();
            inner.push(&poll.user_data(key.user_data(true)));
            self.submit(&mut inner);
        }
        Poll::Pending
    }

    /// Takes everything that has happened, and wakes who waits for it. Whatever happens after it rings the bell.
    ///
    /// # Errors
    /// What the kernel says: come again a little later.
    pub(super) fn turn(&self) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        inner.ring.completion().disable_eventfd();
        let looked = inner.look();
        inner.ring.completion().enable_eventfd();
        // What the kernel noted before it could see that is looked for once more.
        fence(Ordering::SeqCst);
        if looked.is_ok() && !inner.is_done() {
            self.ring_bell();
        }
        let mut woken = std::mem::take(&mut inner.woken);
        drop(inner);
        woken.drain(..).for_each(Waker::wake);
        self.inner.borrow_mut().woken = woken;
        looked
    }

    fn ring_bell(&self) {
        let rung = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        debug_assert!(rung.is_ok(), "its count is far from its end");
    }

    /// What cannot be submitted now is in the next turn, and so is what was taken meanwhile.
    fn submit(&self, inner: &mut Inner) {
        let is_submitted = inner.ring.submit().is_ok();
        if !is_submitted || !inner.woken.is_empty() || !inner.unarmed.is_empty() {
            self.ring_bell();
        }
    }
}

/// Watches a socket that can be read from, and takes what comes of it: whether all of this is possible here.
///
/// # Errors
/// What the kernel says.
pub(super) fn probe() -> io::Result<()> {
    let readiness = Readiness::with_entries(1, 2)?;
    let (socket, other) = std::os::unix::net::UnixStream::pair()?;
    let key = readiness.watch(socket.as_fd());
    drop(other);
    readiness.turn()?;
    let mut inner = readiness.inner.borrow_mut();
    match inner.slot(key).map(|slot| (slot.failure, slot.is_over)) {
        Some((None, true)) => Ok(()),
        Some((Some(errno), _)) => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::Error::other("a socket was closed, and that is not told")),
    }
}

impl Inner {
    fn slot(&mut self, key: Key) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(key.index as usize)?;
        (slot.generation == key.generation && slot.socket.is_some()).then_some(slot)
    }

    fn arm(&mut self, key: Key, socket: RawFd) {
        let poll = opcode::PollAdd::new(types::Fd(socket), READ).multi(true).build();
        self.push(&poll.user_data(key.user_data(false)));
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: polls, and their cancellation, point to no memory.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            // Full. The kernel takes what is in it, unless it has no memory at the moment, or, before Linux 5.19, so
            // many events that those have to be taken first.
            if self.ring.submit().is_err() {
                self.take();
                std::thread::yield_now();
            }
        }
    }

    /// Whether the kernel has nothing for this core, and this core nothing for the kernel.
    fn is_done(&mut self) -> bool {
        let (_, mut submission, mut completion) = self.ring.split();
        submission.sync();
        completion.sync();
        submission.is_empty() && !submission.taskrun() && !submission.cq_overflow() && completion.is_empty()
    }

    /// Has the kernel do what there is, until it has nothing more or that was often.
    fn look(&mut self) -> io::Result<()> {
        for _ in 0..LOOKS_MAX {
            let submitted = self.ring.submit();
            self.take();
            for key in std::mem::take(&mut self.unarmed) {
                if let Some(socket) = self.slot(key).and_then(|slot| slot.socket) {
                    self.arm(key, socket);
                }
            }
            match submitted {
                Err(error) if !is_passing(&error) => return Err(error),
                _ if self.is_done() => break,
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&mut self) {
        let Self { ring, slots, unarmed, woken, .. } = self;
        for event in ring.completion() {
            if event.user_data() == NOBODY {
                continue;
            }
            let (key, writes) = Key::of(event.user_data());
            let slot = slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation);
            let Some(slot) = slot.filter(|slot| slot.socket.is_some()) else { continue };
            match u32::try_from(event.result()) {
                Err(_) => slot.failure = Some(-event.result()),
                Ok(_) if writes => slot.waits_to_write = false,
                Ok(happened) => {
                    slot.is_readable = true;
                    slot.is_over |= happened & OVER != 0;
                    if !cqueue::more(event.flags()) {
                        unarmed.push(key);
                    }
                }
            }
            woken.extend(slot.waker.take());
        }
    }
}

impl Slot {
    fn wait(&mut self, context: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
    }
}

fn uninterrupted(mut act: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Whether it is enough to try again at once.
fn is_passing(error: &io::Error) -> bool {
    [Errno::INTR, Errno::BUSY].map(|errno| Some(errno.raw_os_error())).contains(&error.raw_os_error())
}

#[cfg(test)]
#[path = "readiness_tests.rs"]
mod tests;
