use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use rustix::net::{RecvFlags, SendFlags};

use super::*;

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A watched end of a pair, the other one, and how often whoever waits was woken.
struct Watched {
    socket: UnixStream,
    other: UnixStream,
    key: Key,
    count: Arc<Count>,
}

impl Watched {
    fn new(readiness: &Readiness) -> Self {
        let (socket, other) = UnixStream::pair().unwrap();
        let key = readiness.watch(socket.as_fd());
        Self { socket, other, key, count: Arc::default() }
    }

    fn read(&self, readiness: &Readiness, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let waker = Waker::from(Arc::clone(&self.count));
        let read = |buffer: &mut [u8]| Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT)?.0);
        readiness.poll_read(self.key, &Context::from_waker(&waker), buffer, read)
    }

    fn write(&self, readiness: &Readiness, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let waker = Waker::from(Arc::clone(&self.count));
        let write = || Ok(rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT)?);
        readiness.poll_write(self.key, &Context::from_waker(&waker), write)
    }

    fn woken(&self) -> usize {
        self.count.0.load(Ordering::Relaxed)
    }
}

/// Waits for the bell, which the kernel rings from another thread's call or from this one's, and takes a turn.
fn answer_bell(readiness: &Readiness) {
    rustix::io::read(readiness.bell(), &mut [0; 8]).unwrap();
    readiness.turn().unwrap();
}

#[test]
fn who_waits_is_woken_by_every_arrival_and_reads_all_of_it() {
    let readiness = Readiness::new().unwrap();
    let mut watched = Watched::new(&readiness);
    let mut buffer = [0; 4];
    for round in 1..=3 {
        assert!(watched.read(&readiness, &mut buffer).is_pending());
        watched.other.write_all(b"sixers").unwrap();
        answer_bell(&readiness);
        assert_eq!(watched.woken(), round);
        assert!(matches!(watched.read(&readiness, &mut buffer), Poll::Ready(Ok(4))));
        assert!(matches!(watched.read(&readiness, &mut buffer), Poll::Ready(Ok(2))));
    }
}

#[test]
fn an_end_that_came_with_the_last_bytes_is_found_behind_them() {
    let readiness = Readiness::new().unwrap();
    let mut watched = Watched::new(&readiness);
    let mut buffer = [0; 16];
    assert!(watched.read(&readiness, &mut buffer).is_pending());
    watched.other.write_all(b"last").unwrap();
    watched.other.shutdown(std::net::Shutdown::Write).unwrap();
    answer_bell(&readiness);
    assert!(matches!(watched.read(&readiness, &mut buffer), Poll::Ready(Ok(4))));
    assert!(matches!(watched.read(&readiness, &mut buffer), Poll::Ready(Ok(0))));
}

#[test]
fn a_write_waits_for_room_and_is_woken_when_there_is() {
    let readiness = Readiness::new().unwrap();
    let mut watched = Watched::new(&readiness);
    let mut written = 0;
    while let Poll::Ready(result) = watched.write(&readiness, &[7; 4096]) {
        written += result.unwrap();
    }
    readiness.turn().unwrap();
    assert!(watched.write(&readiness, &[7]).is_pending());
    assert_eq!(watched.woken(), 0, "there is no room");
    let mut taken = vec![0; written];
    watched.other.read_exact(&mut taken).unwrap();
    while watched.woken() == 0 {
        answer_bell(&readiness);
    }
    assert!(matches!(watched.write(&readiness, &[7]), Poll::Ready(Ok(1))));
}

#[test]
fn a_socket_that_is_forgotten_closes_and_its_place_knows_nothing_of_it() {
    let readiness = Readiness::new().unwrap();
    let watched = Watched::new(&readiness);
    assert!(watched.read(&readiness, &mut [0; 4]).is_pending());
    // Waits for both.
    while watched.write(&readiness, &[7; 4096]).is_ready() {}
    readiness.unwatch(watched.key);
    let Watched { socket, mut other, key, count } = watched;
    drop(socket);
    let next = Watched::new(&readiness);
    assert_eq!((next.key.index, next.key.generation), (key.index, key.generation + 1));
    assert!(next.read(&readiness, &mut [0; 4]).is_pending());
    answer_bell(&readiness);
    // Ends only once the kernel has let go of it.
    other.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!((count.0.load(Ordering::Relaxed), next.woken()), (0, 0));
}

#[test]
fn a_socket_that_is_forgotten_with_something_to_tell_closes_as_well() {
    let readiness = Readiness::new().unwrap();
    for is_written_first in [true, false] {
        let (socket, mut other) = UnixStream::pair().unwrap();
        if is_written_first {
            other.write_all(b"before it was watched").unwrap();
        }
        let key = readiness.watch(socket.as_fd());
        if !is_written_first {
            other.write_all(b"since it is watched").unwrap();
        }
        readiness.unwatch(key);
        drop(socket);
        answer_bell(&readiness);
        let error = other.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "what was not read is lost");
    }
}

#[test]
fn more_events_than_there_is_room_for_lose_nothing() {
    let readiness = Readiness::with_entries(4, 8).unwrap();
    let mut all: Vec<_> = (0..100).map(|_| Watched::new(&readiness)).collect();
    for round in 1..=3 {
        for watched in &mut all {
            assert!(watched.read(&readiness, &mut [0; 4]).is_pending());
            watched.other.write_all(b"ab").unwrap();
        }
        while all.iter().any(|watched| watched.woken() < round) {
            answer_bell(&readiness);
        }
        for watched in &all {
            assert!(matches!(watched.read(&readiness, &mut [0; 4]), Poll::Ready(Ok(2))));
        }
    }
}

#[test]
fn a_socket_that_the_kernel_does_not_watch_has_an_error() {
    let readiness = Readiness::new().unwrap();
    let Watched { socket, other, count, .. } = Watched::new(&readiness);
    // SAFETY: no process has so many descriptors: this is none, as the kernel will say.
    let none = unsafe { BorrowedFd::borrow_raw(RawFd::MAX) };
    let key = readiness.watch(none);
    let watched = Watched { socket, other, key, count };
    assert!(watched.read(&readiness, &mut [0; 4]).is_pending());
    readiness.turn().unwrap();
    let Poll::Ready(Err(error)) = watched.read(&readiness, &mut [0; 4]) else {
        panic!("it would wait for ever")
    };
    assert_eq!((error.raw_os_error(), watched.woken()), (Some(libc::EBADF), 1));
}

#[test]
fn arrivals_from_another_thread_ring_the_bell_each_time_it_was_answered() {
    // As it is here, and as an older kernel makes it.
    for readiness in [Readiness::new(), IoUring::new(8).and_then(Readiness::on)].map(Result::unwrap) {
        hear_another_thread(&readiness);
    }
}

fn hear_another_thread(readiness: &Readiness) {
    const ROUNDS: usize = 50_000;
    let Watched { socket, mut other, key, count } = Watched::new(readiness);
    let writer = std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            other.write_all(&[1]).unwrap();
        }
        other
    });
    let watched = Watched { other: socket.try_clone().unwrap(), socket, key, count };
    let (mut read, mut buffer) = (0, [0; 64]);
    while read < ROUNDS {
        match watched.read(readiness, &mut buffer) {
            Poll::Ready(result) => read += result.unwrap(),
            // Would wait for ever if one were missed.
            Poll::Pending => answer_bell(readiness),
        }
    }
    drop(writer.join().unwrap());
}

#[test]
fn this_machine_can_do_all_of_it() {
    probe().unwrap();
}
