//! The engine: documents, admission, the log as a trait, resume, presence and access rules.

pub mod change;
