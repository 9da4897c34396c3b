//! What must hold for arbitrary bytes, one module for each way that they come in.
//!
//! A fuzz target calls its module's `check` with whatever the fuzzer thinks of. The tests of the crate that
//! owns the code include the same module and call it with every file of `regressions/`.

pub mod alter;
pub mod change;
pub mod frame;
pub mod jwks;
pub mod pattern;
pub mod proxy;
pub mod reconcile;
pub mod replay;
pub mod snapshot;
pub mod token;
pub mod upgrade;
pub mod websocket;

/// Most processor time that one input may take, in microseconds, instrumentation and sanitizer included.
pub const INPUT_US_MAX: u64 = 50_000;

/// How often an input is checked before it is called slow. What a virtual machine's host takes from it counts as time
/// of the thread: an input of 114 bytes for a linear search was seen to take 67 ms, once.
const TRIES: u32 = 3;

/// Checks an input, and that it did not take more of the processor than [`INPUT_US_MAX`] each time. Time in which the
/// thread did not run does not count: how busy a machine is says nothing about an input.
pub fn within_bounds(data: &[u8], check: fn(&[u8])) {
    let mut took = u64::MAX;
    for _ in 0..TRIES {
        let begun = thread_us();
        check(data);
        took = took.min(thread_us().saturating_sub(begun));
        if took <= INPUT_US_MAX {
            return;
        }
    }
    panic!("this input took {took} us of the processor, the limit is {INPUT_US_MAX}");
}

/// Processor time of this thread so far, in microseconds.
fn thread_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000 + time.tv_nsec / 1_000).unwrap_or(0)
}
