//! What must hold for arbitrary bytes, one module for each way that they come in.
//!
//! A fuzz target calls its module's `check` with whatever the fuzzer thinks of. The tests of the crate that
//! owns the code include the same module and call it with every file of `regressions/`.

pub mod change;
pub mod frame;
pub mod pattern;
pub mod token;
pub mod upgrade;
pub mod websocket;
