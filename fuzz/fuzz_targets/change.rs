//! Fuzz target: see `etherply_fuzz::change`, and `etherply_fuzz::alter` for how its inputs come about.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| etherply_fuzz::within_bounds(data, etherply_fuzz::change::check));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match data.get(..size).and_then(|input| etherply_fuzz::alter::alter(input, max_size, seed)) {
        Some(altered) => {
            data[..altered.len()].copy_from_slice(&altered);
            altered.len()
        }
        None => libfuzzer_sys::fuzzer_mutate(data, size, max_size),
    }
});
