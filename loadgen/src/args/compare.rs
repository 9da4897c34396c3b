//! Options of `compare`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::peers::Peer;

/// Options of `compare`.
#[derive(Debug, Clone, Args, Serialize)]
pub struct CompareArgs {
    /// Servers, measured by turns
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES", default_values_t = [
        Peer::Etherply, Peer::EtherplyTcp, Peer::YSweet, Peer::YWebsocket, Peer::Hocuspocus,
        Peer::AutomergeRepo, Peer::MqttQos0, Peer::MqttQos1, Peer::Nats, Peer::Floor,
    ])]
    pub peers: Vec<Peer>,
    /// How often each one's limit is searched
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub rounds: u32,
    /// Documents
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub documents: u32,
    /// Members of each document, one connection each; all write
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub members: u32,
    /// Bytes of the value that an edit puts
    #[arg(long, default_value_t = 48, value_name = "N")]
    pub value_bytes: usize,
    /// Seconds that are measured at each rate
    #[arg(long, default_value_t = 20.0, value_name = "S")]
    pub duration: f64,
    /// Seconds before, in which edits are made but not measured
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    pub warmup: f64,
    /// Edits a second at which all servers are compared that get there
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 3_000, 10_000], value_name = "RATES")]
    pub fixed: Vec<u64>,
    /// Rates between which limits are searched [default: 25 steps from 50 to 32,000]
    #[arg(long, value_delimiter = ',', value_name = "RATES")]
    pub rates: Vec<u64>,
    /// Processors of the server, as `taskset` takes them
    #[arg(long, default_value = "0", value_name = "LIST")]
    pub server_cpus: String,
    /// Processors of this program, for the report: start it with `taskset -c LIST`
    #[arg(long, default_value = "1", value_name = "LIST")]
    pub load_cpus: String,
    /// Where the peers are installed
    #[arg(long, default_value = "target/tools", value_name = "DIR")]
    #[serde(skip)]
    pub tools: PathBuf,
    /// EtherPly's program [default: `etherply` beside this program]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub server: Option<PathBuf>,
    /// Where temporary data directories are made [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub data: Option<PathBuf>,
    /// Repeats a schedule exactly
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Only whether everything works: 20 connections, 3 s, one round at one rate, the peers that are installed
    #[arg(long)]
    pub sample: bool,
    /// Where results go [default: results/compare/DATE]
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub out: Option<PathBuf>,
}

impl CompareArgs {
    /// The numbers of a sample.
    pub fn sampled(self) -> Self {
        let numbers = (1, 2, 10, 3.0, 0.5);
        let (rounds, documents, members, duration, warmup) = numbers;
        Self { rounds, documents, members, duration, warmup, fixed: vec![100], rates: vec![100], ..self }
    }
}
