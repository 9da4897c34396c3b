//! Fuzz target: see `etherply_fuzz::jwks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| etherply_fuzz::within_bounds(data, etherply_fuzz::jwks::check));
