//! The EtherPly server. The binary is a thin shell around these modules.
//!
//! ```text
//! cli           the command line
//! serve         starts everything, and stops it in order
//! preflight     what must be so before anything starts, and what to do if it is not
//! runtime       one executor a core; the only module that knows glommio
//! data_plane    connections and documents
//! storage       the log; the only module that knows fjall
//! allowlist     which pages may connect, and by which names the server is called
//! control       health and metrics over HTTP
//! export        documents out of a data directory
//! metrics       what is counted
//! verify        `etherply verify` and `etherply repair`
//! ```

pub mod allowlist;
pub mod cli;
pub mod control;
pub mod data_plane;
pub mod export;
pub mod metrics;
pub mod preflight;
pub mod runtime;
pub mod serve;
pub mod storage;
pub mod verify;
