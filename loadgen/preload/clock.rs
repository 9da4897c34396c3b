//! A wall clock that can be set: a library to preload into a server, built with plain `rustc`. The monotonic clock is
//! the system's.
//!
//! Environment: `CLOCK_OFFSET`, a file of eight bytes: by how many seconds, little-endian and signed, the wall clock
//! differs from the system's. Whoever changes the file sets the clock.

use std::ffi::{c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

const RTLD_NEXT: *mut c_void = -1_isize as *mut c_void;
const CLOCK_REALTIME: c_int = 0;
const CLOCK_REALTIME_COARSE: c_int = 5;
const PROT_READ: c_int = 1;
const MAP_SHARED: c_int = 1;

/// `struct timespec` of Linux with 64-bit time.
#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn mmap(at: *mut c_void, bytes: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
}

/// The file, in memory.
fn offset() -> Option<&'static AtomicI64> {
    static ADDRESS: OnceLock<usize> = OnceLock::new();
    let address = *ADDRESS.get_or_init(|| {
        let Some(path) = std::env::var_os("CLOCK_OFFSET") else { return 0 };
        let Ok(file) = File::open(path) else { return 0 };
        // SAFETY: a new mapping, of a file that its writer never shortens.
        let mapped = unsafe { mmap(std::ptr::null_mut(), 8, PROT_READ, MAP_SHARED, file.as_raw_fd(), 0) };
        if mapped as isize == -1 { 0 } else { mapped as usize }
    });
    // SAFETY: the mapping is page-aligned, eight bytes long, and lasts as long as the process.
    (address != 0).then(|| unsafe { &*(address as *const AtomicI64) })
}

/// Stands in front of the system's own.
///
/// # Safety
/// As the system's own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    type Real = unsafe extern "C" fn(c_int, *mut Timespec) -> c_int;
    static REAL: OnceLock<usize> = OnceLock::new();
    // SAFETY: the name ends with a zero byte; what is found under it has this signature.
    let address = *REAL.get_or_init(|| unsafe { dlsym(RTLD_NEXT, c"clock_gettime".as_ptr()) } as usize);
    let real: Real = unsafe { std::mem::transmute(address) };
    let done = unsafe { real(clock, time) };
    if done == 0
        && matches!(clock, CLOCK_REALTIME | CLOCK_REALTIME_COARSE)
        && let Some(offset) = offset()
    {
        // SAFETY: the caller's own, which the system has just written.
        unsafe { (*time).seconds = ((*time).seconds + i64::from_le(offset.load(Ordering::Relaxed))).max(0) };
    }
    done
}
