//! x
pub mod change;
pub mod progress;
