//! Options of the scenarios that are more than edits at a fixed rate.

use clap::{Args, ValueEnum};

use super::Common;

/// Documents that a load should leave alone.
#[derive(Debug, Clone, Args)]
pub struct BesideArgs {
    /// Also run N other documents of 10 members each, and compare their deliveries with the load off and on,
    /// by turns
    #[arg(id = "beside_documents", long = "beside", default_value_t = 0, value_name = "N")]
    pub documents: u32,
    /// Edits a second over those documents
    #[arg(id = "beside_rate", long = "beside-rate", default_value_t = 100, value_name = "N")]
    pub rate: u64,
    /// Seconds for which the load is off, and then on
    #[arg(id = "beside_phase", long = "phase", default_value_t = 5.0, value_name = "S")]
    pub phase: f64,
}

/// Options of `fanout`.
#[derive(Debug, Clone, Args)]
pub struct FanoutArgs {
    #[command(flatten)]
    pub common: Common,
    /// Members of the one document
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub members: u32,
    /// Members that write
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub writers: u32,
    /// Edits a second
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub rate: u64,
    /// Bytes of the value that an edit puts
    #[arg(long, default_value_t = 48, value_name = "N")]
    pub value_bytes: usize,
    /// Seconds that are measured
    #[arg(long, default_value_t = 20.0, value_name = "S")]
    pub duration: f64,
    /// Seconds before, in which edits are made but not measured
    #[arg(long, default_value_t = 2.0, value_name = "S")]
    pub warmup: f64,
    #[command(flatten)]
    pub beside: BesideArgs,
}

/// Options of `presence`.
#[derive(Debug, Clone, Args)]
pub struct PresenceArgs {
    #[command(flatten)]
    pub common: Common,
    /// Rooms
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub rooms: u32,
    /// Members of each room
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub members: u32,
    /// States that each member sets a second, on average
    #[arg(long, default_value_t = 2.0, value_name = "N")]
    pub updates: f64,
    /// Bytes of a state
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub state_bytes: usize,
    /// Seconds that are measured
    #[arg(long, default_value_t = 20.0, value_name = "S")]
    pub duration: f64,
    /// Seconds before, in which states are set but not measured
    #[arg(long, default_value_t = 2.0, value_name = "S")]
    pub warmup: f64,
}

/// Options of `join`.
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    #[command(flatten)]
    pub common: Common,
    /// Edits of the document's history
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub edits: u32,
    /// Bytes of the value that each of them puts
    #[arg(long, default_value_t = 48, value_name = "N")]
    pub value_bytes: usize,
    /// Joins a second
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub rate: u64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 20.0, value_name = "S")]
    pub duration: f64,
    /// Seconds before, in which clients join but are not measured
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    pub warmup: f64,
    #[command(flatten)]
    pub beside: BesideArgs,
}

/// Options of `deaf`.
#[derive(Debug, Clone, Args)]
pub struct DeafArgs {
    #[command(flatten)]
    pub common: Common,
    /// Members that never read, spread evenly over the documents
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub deaf: u32,
    /// Documents
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub documents: u32,
    /// Members of each document that read; all write
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub members: u32,
    /// Edits a second, over all documents
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub rate: u64,
    /// Bytes of the value that an edit puts: large, so that sockets which nobody reads are soon full
    #[arg(long, default_value_t = 8_192, value_name = "N")]
    pub value_bytes: usize,
    /// How often those who never read come and go
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub turns: u32,
    /// Seconds without them, and then with them
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    pub phase: f64,
    /// Seconds before, in which edits are made but not measured
    #[arg(long, default_value_t = 4.0, value_name = "S")]
    pub warmup: f64,
}

/// How a storm begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CutChoice {
    /// The server is killed and started again.
    Kill,
    /// The server is asked to stop, and started again.
    Restart,
    /// Every connection is reset; the server lives on.
    Reset,
}

impl CutChoice {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Reset => "reset",
        }
    }
}

/// Options of `storm`.
#[derive(Debug, Clone, Args)]
pub struct StormArgs {
    #[command(flatten)]
    pub common: Common,
    /// How all connections end at once
    #[arg(long, value_enum, default_value = "kill")]
    pub cut: CutChoice,
    /// Documents
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub documents: u32,
    /// Members of each document; all write
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub members: u32,
    /// Edits a second over all documents: before, while everybody is away, and after
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub rate: u64,
    /// Bytes of the value that an edit puts
    #[arg(long, default_value_t = 48, value_name = "N")]
    pub value_bytes: usize,
    /// Seconds of edits from the cut on
    #[arg(long, default_value_t = 15.0, value_name = "S")]
    pub duration: f64,
    /// Seconds of edits before the cut
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    pub warmup: f64,
}

/// Options of `soak`.
#[derive(Debug, Clone, Args)]
pub struct SoakArgs {
    #[command(flatten)]
    pub common: Common,
    /// Documents
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub documents: u32,
    /// Members of each document; all write
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub members: u32,
    /// Edits a second, over all documents
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub rate: u64,
    /// Bytes of the value that an edit puts
    #[arg(long, default_value_t = 48, value_name = "N")]
    pub value_bytes: usize,
    /// Percent of all connections that are cut each second, and come back
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT")]
    pub churn: f64,
    /// Seconds of edits and churn
    #[arg(long, default_value_t = 1_800.0, value_name = "S")]
    pub duration: f64,
}
