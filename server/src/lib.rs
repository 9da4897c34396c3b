//! The EtherPly server. The binary is a thin shell around these modules.
//!
//! ```text
//! cli           the command line
//! settings      what is set, by a file, the environment and flags
//! access        keys of tokens, what was revoked, and the gate that asks for tokens
//! commands      what it can be asked for, and how each of that ends
//! serve         starts everything, and stops it in order
//! preflight     what must be so before anything starts, and what to do if it is not
//! runtime       one executor a core; the only module that knows glommio
//! data_plane    connections and documents
//! throttle      what clients may take of the server
//! storage       the log; the only module that knows fjall
//! materialise   Automerge documents in the background; only this and `history` know Automerge
//! history       who changed what when, and documents as they were
//! allowlist     which pages may connect, and by which names the server is called
//! tls           the server's certificate
//! priority      which threads go first
//! events        what happens, for whoever wants to know
//! control       health and metrics over HTTP
//! control_listener   where it takes connections, with TLS or without
//! administration   what operators do by the control plane
//! clock         the time of day
//! operator      how commands ask for it
//! export        documents out of a data directory
//! backup        backups of a data directory, and a new one from them
//! metrics       what is counted
//! ```

pub mod access;
pub mod administration;
pub mod allowlist;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod control;
mod control_listener;
pub mod data_plane;
pub mod events;
pub mod export;
pub mod history;
pub mod materialise;
pub mod metrics;
pub mod operator;
pub mod preflight;
pub mod priority;
pub mod runtime;
pub mod serve;
pub mod settings;
pub mod storage;
pub mod throttle;
pub mod tls;

#[cfg(test)]
mod fixture_tests;
