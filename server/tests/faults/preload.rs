//! Lets the n-th system call that changes the data directory fail: a library to preload, built by the test that
//! uses it with plain `rustc`.
//!
//! Environment: `FAULT_DIR`, the directory; `FAULT_AT`, which call fails, counted from 1; `FAULT_KIND`, `eio`,
//! `enospc`, or `short` (a write takes half of its bytes, and the next one finds the disk full); `FAULT_REPORT`, a
//! file that is made when it happens.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const EIO: c_int = 5;
const ENOSPC: c_int = 28;
const RTLD_NEXT: *mut c_void = -1_isize as *mut c_void;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn readlink(path: *const c_char, buffer: *mut c_char, bytes: usize) -> isize;
    fn creat(path: *const c_char, mode: u32) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn __errno_location() -> *mut c_int;
}

struct Plan {
    directory: Vec<u8>,
    at: u64,
    kind: String,
    report: CString,
}

static CALLS: AtomicU64 = AtomicU64::new(0);
static NEXT_IS_FULL: AtomicBool = AtomicBool::new(false);

fn plan() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| {
        let text = |name: &str| std::env::var(name).unwrap_or_default();
        Plan {
            directory: text("FAULT_DIR").into_bytes(),
            at: text("FAULT_AT").parse().unwrap_or(0),
            kind: text("FAULT_KIND"),
            report: CString::new(text("FAULT_REPORT")).unwrap_or_default(),
        }
    })
}

/// What becomes of a call.
enum Fate {
    Done,
    Fails(c_int),
    Half,
}

fn fate(path: &[u8], is_write: bool) -> Fate {
    let plan = plan();
    if plan.at == 0 || !path.starts_with(&plan.directory) {
        return Fate::Done;
    }
    if is_write && NEXT_IS_FULL.swap(false, Ordering::Relaxed) {
        return Fate::Fails(ENOSPC);
    }
    if CALLS.fetch_add(1, Ordering::Relaxed) + 1 != plan.at {
        return Fate::Done;
    }
    // SAFETY: a path that ends with a zero byte; the descriptor is this call's own.
    unsafe { close(creat(plan.report.as_ptr(), 0o644)) };
    match plan.kind.as_str() {
        "eio" => Fate::Fails(EIO),
        "short" if is_write => {
            NEXT_IS_FULL.store(true, Ordering::Relaxed);
            Fate::Half
        }
        _ => Fate::Fails(ENOSPC),
    }
}

fn fate_of(fd: c_int, is_write: bool) -> Fate {
    let mut path = [0_u8; 512];
    let link = CString::new(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    // SAFETY: both buffers live through the call, and the length is the second one's.
    let bytes = unsafe { readlink(link.as_ptr(), path.as_mut_ptr().cast(), path.len()) };
    fate(path.get(..usize::try_from(bytes).unwrap_or(0)).unwrap_or_default(), is_write)
}

fn fail(errno: c_int) {
    // SAFETY: the thread's own errno.
    unsafe { *__errno_location() = errno };
}

macro_rules! hooks {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty {
        fate: $fate:expr, half: $half:expr
    })*) => {$(
        /// Stands in front of the system's own.
        ///
        /// # Safety
        /// As the system's own.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),*) -> $result {
            type Real = unsafe extern "C" fn($($kind),*) -> $result;
            static REAL: OnceLock<usize> = OnceLock::new();
            let name = concat!(stringify!($name), "\0");
            // SAFETY: the name ends with a zero byte; what is found under it has the signature that the system
            // documents.
            let address = *REAL.get_or_init(|| unsafe { dlsym(RTLD_NEXT, name.as_ptr().cast()) } as usize);
            let real: Real = unsafe { std::mem::transmute(address) };
            match $fate {
                Fate::Done => unsafe { real($($argument),*) },
                Fate::Half => $half(real),
                Fate::Fails(errno) => {
                    fail(errno);
                    -1
                }
            }
        }
    )*};
}

fn bytes_of<'a>(path: *const c_char) -> &'a [u8] {
    // SAFETY: callers pass paths that end with a zero byte, as the system's calls ask for.
    unsafe { CStr::from_ptr(path) }.to_bytes()
}

hooks! {
    write(fd: c_int, from: *const c_void, bytes: usize) -> isize {
        fate: fate_of(fd, true), half: |real: Real| unsafe { real(fd, from, bytes / 2) }
    }
    writev(fd: c_int, parts: *const c_void, count: c_int) -> isize {
        fate: fate_of(fd, true), half: |real: Real| unsafe { real(fd, parts, 1.min(count)) }
    }
    pwrite64(fd: c_int, from: *const c_void, bytes: usize, at: i64) -> isize {
        fate: fate_of(fd, true), half: |real: Real| unsafe { real(fd, from, bytes / 2, at) }
    }
    fsync(fd: c_int) -> c_int { fate: fate_of(fd, false), half: |_: Real| -1 }
    fdatasync(fd: c_int) -> c_int { fate: fate_of(fd, false), half: |_: Real| -1 }
    ftruncate64(fd: c_int, bytes: i64) -> c_int { fate: fate_of(fd, false), half: |_: Real| -1 }
    rename(from: *const c_char, to: *const c_char) -> c_int {
        fate: fate(bytes_of(from), false), half: |_: Real| -1
    }
    unlink(path: *const c_char) -> c_int { fate: fate(bytes_of(path), false), half: |_: Real| -1 }
}
