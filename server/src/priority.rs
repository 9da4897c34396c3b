//! Which of the server's threads go first where there are fewer processors than threads that want one.
//!
//! Executors and the commit thread are to run as soon as they have something to do: the one who waits for them
//! is a client. Everything else yields to them. On Linux all of this belongs to threads.

use clap::ValueEnum;
use rustix::process::Pid;

/// Which threads ask for a real-time scheduling class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Realtime {
    /// None
    Off,
    /// The commit thread, for which every ack waits, if the system allows it
    Auto,
    /// The executors as well, if the system allows it
    All,
}

/// Real-time priority of the executors: the lowest.
const EXECUTOR: i32 = 1;
/// The commit thread's: it mostly sleeps, and the executors wait for it.
const COMMIT: i32 = 2;
/// For how long a thread runs, while others want its processor as well, before it is their turn. The kernel gives
/// the processor to a thread that wakes up and asks for shorter slices than the one that has it, and 100 µs is
/// the shortest (since Linux 6.12; before, this has no effect).
const SLICE_NS: u64 = 100_000;
/// What gives way to the executors, but is waited for.
const LOWER_NICE: i32 = 10;
/// The database's own threads: once the scheduler has given one the processor, it keeps it to the next tick, 4 ms, so
/// they are to be given it less often than whom somebody waits for.
const DATABASE_NICE: i32 = 15;

/// What of this the system grants, tried on a thread that ends at once. An ordinary user needs a limit for it
/// (`ulimit -r 2`, `LimitRTPRIO=2`) or CAP_SYS_NICE.
pub fn granted(asked: Realtime) -> Realtime {
    if asked == Realtime::Off {
        return asked;
    }
    let is_allowed = std::thread::spawn(|| realtime(COMMIT)).join();
    if is_allowed.unwrap_or(false) { asked } else { Realtime::Off }
}

/// Gives the calling thread the place of the one that commits.
pub fn commit(granted: Realtime) {
    if granted == Realtime::Off || !realtime(COMMIT) {
        shorten_slice();
    }
}

/// Gives the calling thread the place of an executor.
pub fn executor(granted: Realtime) {
    if granted != Realtime::All || !realtime(EXECUTOR) {
        shorten_slice();
    }
}

/// Lets the calling thread give way to the executors: it yields to them, and a machine with one core too
/// serves connections first.
pub fn lower() {
    set_nice(None, LOWER_NICE);
}

/// The same for threads of this process whose names begin so, further down: of a library that starts its own, for
/// which nobody waits.
pub fn lower_named(prefix: &str) {
    // Where the system does not say which there are, they stay as they are.
    for thread in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let is_named =
            std::fs::read(thread.path().join("comm")).is_ok_and(|name| name.starts_with(prefix.as_bytes()));
        let id = thread.file_name().to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
        if let Some(id) = id.filter(|_| is_named) {
            set_nice(Some(id), DATABASE_NICE);
        }
    }
}

/// Gives the calling thread the lowest priority: for what nobody waits for.
pub fn lowest() {
    set_nice(None, 19);
}

/// Lowers a thread, or the calling one.
fn set_nice(thread: Option<Pid>, nice: i32) {
    // It may have ended meanwhile, or be lower already, which a privileged process could undo.
    if rustix::process::getpriority_process(thread).is_ok_and(|now| now < nice) {
        // Refused only where a sandbox forbids it: then it stays.
        let _ = rustix::process::setpriority_process(thread, nice);
    }
}

/// Puts the calling thread, and none that it starts, before all ordinary ones. Whether the system allowed it.
fn realtime(priority: i32) -> bool {
    let priority = libc::sched_param { sched_priority: priority };
    // SAFETY: the call reads the parameter block, which lives until it returns; 0 is the calling thread.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const priority) == 0
    }
}

/// Asks for short slices for the calling thread, and none that it starts. Every user may.
fn shorten_slice() {
    let Ok(nice) = rustix::process::getpriority_process(None) else { return };
    let asked = libc::sched_attr {
        size: SCHED_ATTR_BYTES,
        sched_policy: libc::SCHED_OTHER.cast_unsigned(),
        sched_flags: libc::SCHED_FLAG_RESET_ON_FORK.cast_unsigned().into(),
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes of the block as its first field says; 0 is the calling thread.
    // Refused only where a sandbox forbids it: then it stays.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const asked, 0) };
}

/// Size of `sched_attr` as it was first (sched_setattr(2)).
const SCHED_ATTR_BYTES: u32 = 48;
const _: () = assert!(size_of::<libc::sched_attr>() == SCHED_ATTR_BYTES as usize);

#[cfg(test)]
mod tests {
    use super::*;

    /// How a thread is scheduled: its policy, its priority, and its slice in nanoseconds.
    type Place = (i32, u32, u64);

    fn own_place() -> Place {
        let mut place = std::mem::MaybeUninit::<libc::sched_attr>::zeroed();
        // SAFETY: the kernel writes at most the size that is given; 0 is the calling thread.
        let done =
            unsafe { libc::syscall(libc::SYS_sched_getattr, 0, place.as_mut_ptr(), SCHED_ATTR_BYTES, 0) };
        assert_eq!(done, 0);
        // SAFETY: whole numbers, of which all that the kernel did not write are 0.
        let place = unsafe { place.assume_init() };
        (place.sched_policy.cast_signed(), place.sched_priority, place.sched_runtime)
    }

    /// How a thread is scheduled after `take` gave it its place, and one that it starts.
    fn places(take: fn()) -> [Place; 2] {
        let thread = std::thread::spawn(move || {
            take();
            [own_place(), std::thread::spawn(own_place).join().unwrap()]
        });
        thread.join().unwrap()
    }

    #[test]
    fn a_thread_asks_for_short_slices_for_itself_alone() {
        let normal = own_place();
        for take in [|| commit(Realtime::Off), || executor(Realtime::Off), || executor(Realtime::Auto)] {
            let [(policy, priority, slice_ns), started] = places(take);
            assert_eq!((policy, priority, started), (normal.0, 0, normal));
            // A kernel before 6.12 keeps none.
            assert!([SLICE_NS, normal.2].contains(&slice_ns), "{slice_ns}");
        }
    }

    #[test]
    fn threads_are_lowered_by_their_names_and_no_others() {
        let (end, ended) = flume::bounded::<()>(0);
        let (tell, told) = flume::bounded(2);
        let own = rustix::process::getpriority_process(None).unwrap();
        let threads = ["lowered:1", "stays"].map(|name| {
            let (ended, tell) = (ended.clone(), tell.clone());
            let run = move || {
                tell.send((name, rustix::thread::gettid())).unwrap();
                let _ = ended.recv();
            };
            std::thread::Builder::new().name(name.to_owned()).spawn(run).unwrap()
        });
        let started = [told.recv().unwrap(), told.recv().unwrap()];
        lower_named("lowered:");
        for (name, id) in started {
            let nice = rustix::process::getpriority_process(Some(id)).unwrap();
            assert_eq!(nice, if name == "stays" { own } else { own.max(DATABASE_NICE) }, "{name}");
        }
        drop(end);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn a_class_is_taken_as_the_system_grants_it() {
        assert_eq!(granted(Realtime::Off), Realtime::Off);
        let is_granted = granted(Realtime::All) == Realtime::All;
        for (take, allowed) in [
            ((|| commit(Realtime::Auto)) as fn(), COMMIT),
            (|| commit(Realtime::All), COMMIT),
            (|| executor(Realtime::All), EXECUTOR),
        ] {
            let [own, started] = places(take);
            let expected = if is_granted { (libc::SCHED_RR, allowed) } else { (libc::SCHED_OTHER, 0) };
            assert_eq!((own.0, own.1.cast_signed()), expected);
            assert_eq!((started.0, started.1), (libc::SCHED_OTHER, 0));
        }
    }
}
