//! The command line, and the settings of `serve`. What other commands take stands beside what they do:
//! [`crate::commands`].

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use etherply_access::TOKEN_LIFETIME_S;
use etherply_engine::document::DOCUMENT_BYTES_MAX;

use crate::access::remote::KEYS_REFRESH_S;
use crate::access::url::KeysUrl;
use crate::allowlist::{HostRule, OriginRule};
use crate::commands::backup::{BackupArgs, RestoreArgs};
use crate::commands::config::ConfigArgs;
use crate::commands::delete::DeleteArgs;
use crate::commands::export::ExportArgs;
use crate::commands::history::HistoryArgs;
use crate::commands::keys::KeysArgs;
use crate::commands::quarantine::QuarantineArgs;
use crate::commands::revoke::RevokeArgs;
use crate::commands::token::TokenArgs;
use crate::commands::verify::{RepairArgs, VerifyArgs};
use crate::data_plane::limits::{FRAME_TIMEOUT_S, HELLO_TIMEOUT_S, IDLE_TIMEOUT_S, TOKEN_TIMEOUT_S};
use crate::materialise::MATERIALISED_BYTES;
use crate::materialise::verify::Admission;
use crate::priority::Realtime;
use crate::settings::number;
use crate::storage::retire::RETAIN_DAYS;
use crate::storage::scrub::SCRUB_DAYS;
use crate::throttle::limits::{
    ACCEPT_RATE, ADDRESS_BANDWIDTH, ADDRESS_RATE, CLIENT_BANDWIDTH, CLIENT_RATE, CONNECTIONS_PER_ADDRESS,
    DOCUMENT_BANDWIDTH, DOCUMENT_RATE, PENDING_CONNECTIONS, SUBJECT_BANDWIDTH, SUBJECT_RATE,
    TRUSTED_NETWORKS,
};

/// EtherPly: a sync server that keeps shared documents in step between devices.
///
/// Without a command it serves, on loopback, with its data in ./etherply-data.
#[derive(Debug, Parser)]
#[command(name = "etherply", version, about, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `serve` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `serve`, which may stand here as well.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve documents (what runs without a command)
    Serve(ServeArgs),
    /// Show every setting, its value, and where that comes from; or check them
    Config(ConfigArgs),
    /// Show or write out changes that broke documents and were taken out of them
    Quarantine(QuarantineArgs),
    /// Write every document of a stopped server's data directory to files that Automerge can load
    Export(ExportArgs),
    /// Look into the history of a document in a stopped server's data directory
    History(HistoryArgs),
    /// Write all documents, as they are at one commit, to one file; or check such a file
    Backup(BackupArgs),
    /// Make a new data directory of a backup
    Restore(RestoreArgs),
    /// Look whether a stopped server's data directory is whole, and say what is not; changes nothing
    Verify(VerifyArgs),
    /// Write what is whole in a damaged data directory to a new one; changes nothing in the damaged one
    Repair(RepairArgs),
    /// Delete a document of a running server for good
    Delete(DeleteArgs),
    /// Make keys that tokens are signed with
    Keys(KeysArgs),
    /// Make a token, or look into one
    Token(TokenArgs),
    /// Take back what tokens granted, on a running server, at once and for good
    Revoke(RevokeArgs),
}

/// How to serve.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// File of settings (TOML); flags and the environment win over it
    #[arg(long, env = "ETHERPLY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory that holds the data; made if it is not there
    #[arg(long, env = "ETHERPLY_DATA", default_value = "etherply-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Where clients connect, by raw TCP and by WebSocket
    #[arg(long, env = "ETHERPLY_LISTEN", default_value = "127.0.0.1:4180", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Where health and metrics are served
    #[arg(long, env = "ETHERPLY_CONTROL", default_value = "127.0.0.1:4181", value_name = "ADDR:PORT")]
    pub control: SocketAddr,
    /// Processors to use, each with an executor pinned to it; all of them if not given
    #[arg(long, env = "ETHERPLY_CORES", value_name = "N", value_parser = number::parser::<u16>("cores"))]
    pub cores: Option<u16>,
    /// Keys of tokens: a file, or a folder with NAME.pem (public keys) and NAME.secret; without it, no tokens are
    /// asked for
    #[arg(long, env = "ETHERPLY_KEYS", value_name = "PATH")]
    pub keys: Option<PathBuf>,
    /// URL of a JWK Set with keys of tokens: https://, or http:// on this machine; with --keys, keys of both count
    #[arg(long, env = "ETHERPLY_KEYS_URL", value_name = "URL")]
    pub keys_url: Option<KeysUrl>,
    /// Seconds from one fetch of these keys to the next; a token with a key that is not known has them fetched earlier
    #[arg(long, env = "ETHERPLY_KEYS_REFRESH", default_value_t = KEYS_REFRESH_S, value_name = "S",
        value_parser = number::parser::<u32>("keys-refresh"))]
    pub keys_refresh: u32,
    /// Who makes tokens (iss)
    #[arg(long, env = "ETHERPLY_TOKEN_ISSUER", default_value = "etherply", value_name = "NAME")]
    pub token_issuer: String,
    /// Whom tokens are for (aud)
    #[arg(long, env = "ETHERPLY_TOKEN_AUDIENCE", default_value = "etherply", value_name = "NAME")]
    pub token_audience: String,
    /// Longest time in seconds for which a token may be good
    #[arg(
        long,
        env = "ETHERPLY_TOKEN_LIFETIME",
        default_value_t = TOKEN_LIFETIME_S,
        value_name = "S",
        value_parser = number::parser::<u64>("token-lifetime")
    )]
    pub token_lifetime: u64,
    /// The server's certificate as PEM, followed by those between it and the root: clients then have to speak TLS
    #[arg(long, env = "ETHERPLY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key as PEM
    #[arg(long, env = "ETHERPLY_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Listen on addresses that other machines can reach, though nobody is asked for a token
    #[arg(long, env = "ETHERPLY_INSECURE")]
    pub insecure: bool,
    /// Threads that build documents in the background and validate every change; 0 for none
    #[arg(long, env = "ETHERPLY_MATERIALISERS", value_name = "N", default_value_t = 1,
        value_parser = number::parser::<u16>("materialisers"))]
    pub materialisers: u16,
    /// Bytes of memory that these documents may take together
    #[arg(long, env = "ETHERPLY_MATERIALISED_BYTES", value_name = "BYTES", default_value_t = MATERIALISED_BYTES,
        value_parser = number::parser::<u64>("materialised-bytes"))]
    pub materialised_bytes: u64,
    /// What a change has to pass before it is stored
    #[arg(long, env = "ETHERPLY_ADMISSION", value_enum, default_value_t = Admission::Checked)]
    pub admission: Admission,
    /// Which threads ask for a real-time scheduling class
    #[arg(long, env = "ETHERPLY_REALTIME", value_enum, default_value_t = Realtime::Auto)]
    pub realtime: Realtime,
    /// Web pages that may connect beside those of this machine and of the server's own host, as
    /// SCHEME://HOST or SCHEME://HOST:PORT; several with commas, * for all
    #[arg(long, env = "ETHERPLY_ALLOW_ORIGIN", value_delimiter = ',', value_name = "ORIGIN")]
    pub allow_origin: Vec<OriginRule>,
    /// Names by which requests may call this server beside addresses and localhost, as NAME or NAME:PORT; several
    /// with commas, * for all
    #[arg(long, env = "ETHERPLY_ALLOW_HOST", value_delimiter = ',', value_name = "HOST")]
    pub allow_host: Vec<HostRule>,
    /// Most bytes of changes that a document may have, all of its history included
    #[arg(
        long,
        env = "ETHERPLY_DOCUMENT_BYTES_MAX",
        value_name = "BYTES",
        default_value_t = DOCUMENT_BYTES_MAX,
        value_parser = number::parser::<u64>("document-bytes-max")
    )]
    pub document_bytes_max: u64,
    /// Seconds without a sign of life after which a connection ends; clients are told
    #[arg(
        long,
        env = "ETHERPLY_IDLE_TIMEOUT",
        default_value_t = IDLE_TIMEOUT_S,
        value_name = "S",
        value_parser = number::parser::<u32>("idle-timeout")
    )]
    pub idle_timeout: u32,
    /// Seconds from a new connection to its hello
    #[arg(long, env = "ETHERPLY_HELLO_TIMEOUT", default_value_t = HELLO_TIMEOUT_S, value_name = "S",
        value_parser = number::parser::<u32>("hello-timeout"))]
    pub hello_timeout: u32,
    /// Seconds for a frame to arrive whole; a long one has more, by its bytes
    #[arg(long, env = "ETHERPLY_FRAME_TIMEOUT", default_value_t = FRAME_TIMEOUT_S, value_name = "S",
        value_parser = number::parser::<u32>("frame-timeout"))]
    pub frame_timeout: u32,
    /// Seconds from a new connection to its first good token, where tokens are asked for (--keys)
    #[arg(long, env = "ETHERPLY_TOKEN_TIMEOUT", default_value_t = TOKEN_TIMEOUT_S, value_name = "S",
        value_parser = number::parser::<u32>("token-timeout"))]
    pub token_timeout: u32,
    /// Networks whose clients none of the following applies to; several with commas
    #[arg(long, env = "ETHERPLY_TRUSTED_NETWORKS", value_delimiter = ',', default_value = TRUSTED_NETWORKS, value_name = "CIDR")]
    pub trusted_networks: Vec<IpNet>,
    /// Load balancers in trusted networks say whose a connection is, by the PROXY protocol, version 2
    #[arg(long, env = "ETHERPLY_PROXY_PROTOCOL")]
    pub proxy_protocol: bool,
    /// Most connections of one address (of an IPv6 network of 64 bits)
    #[arg(long, env = "ETHERPLY_CONNECTIONS_PER_ADDRESS", default_value_t = CONNECTIONS_PER_ADDRESS, value_name = "N",
        value_parser = number::parser::<u32>("connections-per-address"))]
    pub connections_per_address: u32,
    /// Most connections that have not said hello yet
    #[arg(long, env = "ETHERPLY_PENDING_CONNECTIONS", default_value_t = PENDING_CONNECTIONS, value_name = "N",
        value_parser = number::parser::<u32>("pending-connections"))]
    pub pending_connections: u32,
    /// New connections a second; the others are told when to come back; 0 for any number
    #[arg(long, env = "ETHERPLY_ACCEPT_RATE", default_value_t = ACCEPT_RATE, value_name = "N/S",
        value_parser = number::parser::<u32>("accept-rate"))]
    pub accept_rate: u32,
    /// Operations a second of one connection, beyond which it is read from more slowly; 0 for any number
    #[arg(long, env = "ETHERPLY_CLIENT_RATE", default_value_t = CLIENT_RATE, value_name = "OPS/S",
        value_parser = number::parser::<u32>("client-rate"))]
    pub client_rate: u32,
    /// Bytes a second of one connection, likewise
    #[arg(long, env = "ETHERPLY_CLIENT_BANDWIDTH", default_value_t = CLIENT_BANDWIDTH, value_name = "BYTES/S",
        value_parser = number::parser::<u32>("client-bandwidth"))]
    pub client_bandwidth: u32,
    /// Operations a second of all connections of one address, beyond which it is read from more slowly; 0 for any number
    #[arg(long, env = "ETHERPLY_ADDRESS_RATE", default_value_t = ADDRESS_RATE, value_name = "OPS/S",
        value_parser = number::parser::<u32>("address-rate"))]
    pub address_rate: u32,
    /// Bytes a second of all connections of one address, likewise
    #[arg(long, env = "ETHERPLY_ADDRESS_BANDWIDTH", default_value_t = ADDRESS_BANDWIDTH, value_name = "BYTES/S",
        value_parser = number::parser::<u32>("address-bandwidth"))]
    pub address_bandwidth: u32,
    /// Operations a second of all connections with tokens of one subject, likewise
    #[arg(long, env = "ETHERPLY_SUBJECT_RATE", default_value_t = SUBJECT_RATE, value_name = "OPS/S",
        value_parser = number::parser::<u32>("subject-rate"))]
    pub subject_rate: u32,
    /// Bytes a second of all connections with tokens of one subject, likewise
    #[arg(long, env = "ETHERPLY_SUBJECT_BANDWIDTH", default_value_t = SUBJECT_BANDWIDTH, value_name = "BYTES/S",
        value_parser = number::parser::<u32>("subject-bandwidth"))]
    pub subject_bandwidth: u32,
    /// Changes a second that are pushed to one document, likewise
    #[arg(long, env = "ETHERPLY_DOCUMENT_RATE", default_value_t = DOCUMENT_RATE, value_name = "OPS/S",
        value_parser = number::parser::<u32>("document-rate"))]
    pub document_rate: u32,
    /// Bytes of changes a second that are pushed to one document, likewise
    #[arg(long, env = "ETHERPLY_DOCUMENT_BANDWIDTH", default_value_t = DOCUMENT_BANDWIDTH, value_name = "BYTES/S",
        value_parser = number::parser::<u32>("document-bandwidth"))]
    pub document_bandwidth: u32,
    /// Days in which all stored documents are read and proven once, slowly, in the background; 0 for never
    #[arg(
        long,
        env = "ETHERPLY_SCRUB_DAYS",
        default_value_t = SCRUB_DAYS,
        value_name = "DAYS",
        value_parser = number::parser::<u16>("scrub-days")
    )]
    pub scrub_days: u16,
    /// Days for which a document's earlier epochs are kept, which a squash or a quarantine left behind
    #[arg(
        long,
        env = "ETHERPLY_RETAIN_DAYS",
        default_value_t = RETAIN_DAYS,
        value_name = "DAYS",
        value_parser = number::parser::<u16>("retain-days")
    )]
    pub retain_days: u16,
    /// How logs look, on standard error
    #[arg(long, env = "ETHERPLY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
    /// What is logged, as a tracing filter: error, warn, info, debug, or per module
    #[arg(
        long,
        env = "ETHERPLY_LOG",
        default_value = "info,fjall=warn,lsm_tree=warn",
        value_name = "FILTER"
    )]
    pub log: String,
    /// Print one line of JSON with the addresses on standard output when ready, instead of the greeting
    #[arg(long, env = "ETHERPLY_READY_JSON")]
    pub ready_json: bool,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// An object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data_plane::limits::{IDLE_TIMEOUT_S_MAX, IDLE_TIMEOUT_S_MIN};
    use clap::CommandFactory;
    use etherply_engine::document::DOCUMENT_BYTES_MIN;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_what_runs_without_a_command() {
        let cli = Cli::parse_from(["etherply", "--cores", "1", "--listen", "127.0.0.1:0"]);
        assert!(cli.command.is_none());
        assert_eq!((cli.serve.cores, cli.serve.listen.port()), (Some(1), 0));
        let cli = Cli::parse_from(["etherply", "serve", "--data", "x"]);
        assert!(matches!(cli.command, Some(Command::Serve(args)) if args.data == Path::new("x")));
        assert!(Cli::try_parse_from(["etherply", "--cores", "0"]).is_err());
    }

    #[test]
    fn every_setting_is_documented_with_its_variable_and_default() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md"));
        let page = page.unwrap();
        let command = ServeArgs::augment_args(clap::Command::new("serve"));
        let mut rows = page.lines().filter(|line| line.starts_with("| `--")).count();
        for setting in command.get_arguments() {
            let (long, variable) =
                (setting.get_long().unwrap(), setting.get_env().unwrap().to_str().unwrap());
            let names = |line: &&str| {
                let rest = line.strip_prefix("| `--").and_then(|rest| rest.strip_prefix(long));
                rest.is_some_and(|rest| rest.starts_with([' ', '`']))
            };
            let row = page.lines().find(names).unwrap_or_else(|| panic!("--{long} is not documented"));
            let columns: Vec<&str> = row.split(" | ").collect();
            assert_eq!(columns[1], format!("`{variable}`"), "{row}");
            for default in setting.get_default_values().iter().filter(|_| setting.get_action().takes_values())
            {
                assert!(columns[2].starts_with(&format!("`{}`", default.to_str().unwrap())), "{row}");
            }
            rows -= 1;
        }
        assert_eq!(rows, 0, "a row of a setting that is none");
    }

    #[test]
    fn a_backup_needs_one_source_and_a_file_unless_it_is_checked() {
        let parses = |args: &[&str]| Cli::try_parse_from([&["etherply", "backup"], args].concat()).is_ok();
        assert!(
            parses(&["--control", "http://127.0.0.1:4181", "--to", "b"])
                && parses(&["--data", "d", "--to", "b"])
        );
        assert!(parses(&["verify", "b"]) && !parses(&["verify"]));
        assert!(!parses(&["--to", "b"]) && !parses(&["--data", "d"]));
        assert!(!parses(&["--control", "http://127.0.0.1:4181", "--data", "d", "--to", "b"]));
        assert!(parses(&["--control", "http://127.0.0.1:4181", "--operator-key", "k", "--to", "b"]));
        assert!(!parses(&["--data", "d", "--operator-key", "k", "--to", "b"]), "files ask for no key");
    }

    #[test]
    fn the_size_of_documents_has_a_least_and_a_most() {
        let asked =
            |bytes: u64| Cli::try_parse_from(["etherply", "--document-bytes-max", &bytes.to_string()]);
        assert_eq!(asked(DOCUMENT_BYTES_MIN).unwrap().serve.document_bytes_max, DOCUMENT_BYTES_MIN);
        assert!(asked(DOCUMENT_BYTES_MAX - 1).is_ok() && asked(DOCUMENT_BYTES_MAX).is_ok());
        assert!(asked(DOCUMENT_BYTES_MIN - 1).is_err() && asked(DOCUMENT_BYTES_MAX + 1).is_err());
        assert_eq!(Cli::parse_from(["etherply"]).serve.document_bytes_max, DOCUMENT_BYTES_MAX);
    }

    #[test]
    fn an_idle_timeout_has_bounds() {
        let asked = |seconds: u32| Cli::try_parse_from(["etherply", "--idle-timeout", &seconds.to_string()]);
        for seconds in [IDLE_TIMEOUT_S_MIN, IDLE_TIMEOUT_S, IDLE_TIMEOUT_S_MAX] {
            assert_eq!(asked(seconds).unwrap().serve.idle_timeout, seconds);
        }
        assert!(asked(IDLE_TIMEOUT_S_MIN - 1).is_err() && asked(IDLE_TIMEOUT_S_MAX + 1).is_err());
        assert_eq!(Cli::parse_from(["etherply"]).serve.idle_timeout, IDLE_TIMEOUT_S);
    }

    #[test]
    fn lists_of_hosts_and_origins_have_commas_and_advice() {
        let cli =
            Cli::parse_from(["etherply", "--allow-origin", "https://a.test,*", "--allow-host", "a.test:1"]);
        assert_eq!((cli.serve.allow_origin.len(), cli.serve.allow_host.len()), (2, 1));
        for (flag, value, advice) in [
            ("--allow-origin", "a.test", "SCHEME://HOST"),
            ("--allow-origin", "https://a.test,null", "sandboxed"),
            ("--allow-host", "https://a.test", "NAME:PORT"),
        ] {
            let error = Cli::try_parse_from(["etherply", flag, value]).unwrap_err().to_string();
            assert!(error.contains(advice), "{error}");
        }
    }
}
