//! Keeps what a data directory would be after a power cut: only what was synced. A library to preload into a
//! server, built with plain `rustc`; `loadgen/src/power.rs` prepares its folder, and makes a data directory of it
//! after the server was killed.
//!
//! Why a library: a FUSE file system needs rights that containers do not give, and a shim under the storage module
//! would not see what the database does. Everything that writes here goes through these calls of the C library.
//!
//! Environment: `POWER_DIR`, the data directory; `POWER_PLATTER`, a folder on the same file system, outside of it.
//! In it, `inodes/N` has the synced bytes of the file with inode N, `names/N` the synced entries of the directory with
//! inode N (`f` or `d`, the entry's inode, its name; a zero byte behind each), and `live/N` is a second name of the
//! file, so that no inode is used twice and unsynced bytes can be had too.
//!
//! The rules are those of POSIX, and stricter than most file systems: a file's bytes and length survive if it was
//! synced behind their writing; a name, its renaming or its removal survives if its directory was synced behind it.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

const RTLD_NEXT: *mut c_void = -1_isize as *mut c_void;
const SEEK_CUR: c_int = 1;
const BLOCK_BYTES: usize = 64 * 1024;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn lseek(fd: c_int, offset: i64, whence: c_int) -> i64;
}

/// What was written to a file since it was synced last, by its inode: from where to where.
static DIRTY: Mutex<Option<HashMap<u64, (u64, u64)>>> = Mutex::new(None);
/// One sync at a time: two of one file would mix.
static SYNC: Mutex<()> = Mutex::new(());

struct Plan {
    directory: PathBuf,
    platter: PathBuf,
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let made = PLAN.get_or_init(|| {
        Some(Plan { directory: path("POWER_DIR")?, platter: path("POWER_PLATTER")? })
    });
    made.as_ref()
}

/// A descriptor of somebody else's as a file, which stays open.
fn borrowed(fd: c_int) -> ManuallyDrop<File> {
    // SAFETY: the caller of the hook owns it, and it lives through the call.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) })
}

fn mark(fd: c_int, from: u64, to: u64) {
    let Ok(metadata) = borrowed(fd).metadata() else { return };
    if metadata.is_file() {
        let mut dirty = DIRTY.lock().unwrap_or_else(PoisonError::into_inner);
        let range = dirty.get_or_insert_default().entry(metadata.ino()).or_insert((from, to));
        *range = (range.0.min(from), range.1.max(to));
    }
}

/// Bytes were written behind which the descriptor now stands.
fn mark_before(fd: c_int, bytes: isize) {
    let Ok(bytes) = u64::try_from(bytes) else { return };
    // SAFETY: no memory is touched.
    let end = unsafe { lseek(fd, 0, SEEK_CUR) };
    if let Ok(end) = u64::try_from(end) {
        mark(fd, end.saturating_sub(bytes), end);
    }
}

/// What is synced from now on survives.
fn synced(fd: c_int) {
    let Some(plan) = plan() else { return };
    let Ok(path) = fs::read_link(format!("/proc/self/fd/{fd}")) else { return };
    if !path.starts_with(&plan.directory) {
        return;
    }
    let file = borrowed(fd);
    let _one = SYNC.lock().unwrap_or_else(PoisonError::into_inner);
    let done = file.metadata().and_then(|metadata| match metadata.is_dir() {
        true => names(plan, &path, metadata.ino()),
        false => bytes(plan, &path, &file, &metadata),
    });
    if let Err(error) = done {
        // A test that loses less than it should proves nothing.
        eprintln!("power: {}: {error}", path.display());
        std::process::abort();
    }
}

fn bytes(plan: &Plan, path: &Path, file: &File, metadata: &fs::Metadata) -> io::Result<()> {
    let inode = metadata.ino();
    keep(plan, path, inode)?;
    let dirty = {
        let mut dirty = DIRTY.lock().unwrap_or_else(PoisonError::into_inner);
        dirty.as_mut().and_then(|dirty| dirty.remove(&inode))
    };
    let copy = plan.platter.join("inodes").join(inode.to_string());
    let is_new = !copy.exists();
    let copy = OpenOptions::new().write(true).create(true).truncate(false).open(copy)?;
    let length = metadata.len();
    copy.set_len(length)?;
    let (from, to) = if is_new { (0, length) } else { dirty.unwrap_or((0, 0)) };
    // The file may be open for writing alone.
    let reader = File::open(path).or_else(|_| file.try_clone())?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = from;
    while at < to.min(length) {
        let wanted = usize::try_from(to.min(length) - at).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let read = reader.read_at(block.get_mut(..wanted).unwrap_or_default(), at)?;
        if read == 0 {
            break;
        }
        let read_bytes = block.get(..read).unwrap_or_default();
        // What a new file was only promised is zero there too.
        if !is_new || read_bytes.iter().any(|byte| *byte != 0) {
            copy.write_all_at(read_bytes, at)?;
        }
        at += read as u64;
    }
    Ok(())
}

fn names(plan: &Plan, path: &Path, inode: u64) -> io::Result<()> {
    let mut listed = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // It may be gone again.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() && keep(plan, &entry.path(), metadata.ino()).is_err() {
            continue;
        }
        let kind = if metadata.is_dir() { 'd' } else { 'f' };
        write!(listed, "{kind}{}\0", metadata.ino())?;
        listed.extend_from_slice(entry.file_name().as_encoded_bytes());
        listed.push(0);
    }
    let folder = plan.platter.join("names");
    let new = folder.join(format!("{inode}.new"));
    fs::write(&new, listed)?;
    fs::rename(new, folder.join(inode.to_string()))
}

/// Gives a file a second name, so that its inode is not used again for another.
fn keep(plan: &Plan, path: &Path, inode: u64) -> io::Result<()> {
    let live = plan.platter.join("live").join(inode.to_string());
    match fs::hard_link(path, live) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => match error.kind() {
            // Removed already: nothing of it can be found by name.
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        },
        _ => Ok(()),
    }
}

macro_rules! hooks {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty, then $done:ident: $then:expr;)*) => {$(
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
            let $done = unsafe { real($($argument),*) };
            if $done >= 0 {
                $then;
            }
            $done
        }
    )*};
}

fn position(at: i64) -> u64 {
    u64::try_from(at).unwrap_or(0)
}

/// A new directory has nothing synced in it, whatever one with its inode had.
fn made(path: *const c_char) {
    let Some(plan) = plan() else { return };
    // SAFETY: callers pass paths that end with a zero byte, as the system's calls ask for.
    let path = unsafe { std::ffi::CStr::from_ptr(path) }.to_owned();
    let path = PathBuf::from(String::from_utf8_lossy(CString::as_bytes(&path)).into_owned());
    if let Ok(metadata) = fs::metadata(&path)
        && path.starts_with(&plan.directory)
    {
        let _ = fs::remove_file(plan.platter.join("names").join(metadata.ino().to_string()));
    }
}

hooks! {
    write(fd: c_int, from: *const c_void, bytes: usize) -> isize, then done: mark_before(fd, done);
    writev(fd: c_int, parts: *const c_void, count: c_int) -> isize, then done: mark_before(fd, done);
    pwrite64(fd: c_int, from: *const c_void, bytes: usize, at: i64) -> isize,
        then done: mark(fd, position(at), position(at) + done.unsigned_abs() as u64);
    copy_file_range(from: c_int, from_at: *mut i64, fd: c_int, at: *mut i64, bytes: usize, flags: u32) -> isize,
        then done: mark(fd, 0, u64::MAX);
    sendfile64(fd: c_int, from: c_int, at: *mut i64, bytes: usize) -> isize, then done: mark(fd, 0, u64::MAX);
    ftruncate64(fd: c_int, bytes: i64) -> c_int, then done: mark(fd, position(bytes), u64::MAX);
    fsync(fd: c_int) -> c_int, then done: synced(fd);
    fdatasync(fd: c_int) -> c_int, then done: synced(fd);
    mkdir(path: *const c_char, mode: u32) -> c_int, then done: made(path);
}
