//! Fuzz target: see `etherply_fuzz::change`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| etherply_fuzz::change::check(data));
