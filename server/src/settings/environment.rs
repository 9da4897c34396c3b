//! `ETHERPLY_*` variables. One that is no setting is an error, because it was meant to be one; but other programs set
//! some as well, which are passed over.

use std::ffi::OsString;

use clap::CommandFactory as _;

use super::{CONFIG, Fault, Given, Source, alike, check, definitions};
use crate::cli::Cli;

/// What all variables begin with.
const PREFIX: &str = "ETHERPLY_";
/// Variables of this project's tests and tools, which may start a server.
const TOOLS: &[&str] = &[
    "ETHERPLY_BENCH_DIR",
    "ETHERPLY_BIN",
    "ETHERPLY_BUILT",
    "ETHERPLY_CHANGES",
    "ETHERPLY_INTEROP",
    "ETHERPLY_MUTATIONS",
    "ETHERPLY_POISONINGS",
    "ETHERPLY_SEED",
    "ETHERPLY_REVOCATIONS",
    "ETHERPLY_SLOWLORIS",
    "ETHERPLY_TEST_ALL",
    "ETHERPLY_URL",
];
/// Faults on purpose, which only builds for tests have.
const FAULTS: &[&str] =
    &["ETHERPLY_APPLY_FAULTS", "ETHERPLY_FAULTS", "ETHERPLY_LAG_RECORDS_MAX", "ETHERPLY_POISON"];

/// What the environment sets.
pub(super) fn read(environment: &[(OsString, OsString)], faults: &mut Vec<Fault>) -> Vec<Given> {
    let known = definitions();
    let of_commands = variables(&Cli::command());
    let mut given = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let setting = known.iter().find(|arg| arg.get_env().is_some_and(|variable| variable == name));
        let Some((arg, key)) = setting.and_then(|arg| Some((arg, arg.get_long()?))) else {
            if !of_commands.iter().any(|known| known == name) && !is_of_others(name) {
                let alike = alike(name, of_commands.iter().map(String::as_str));
                let place = "environment".to_owned();
                faults.push(Fault::Unknown { place, name: name.to_owned(), alike });
            }
            continue;
        };
        let values = match arg.get_value_delimiter().zip(value.to_str()) {
            Some((delimiter, list)) => list.split(delimiter).map(OsString::from).collect(),
            None => vec![value.clone()],
        };
        match check(arg, &values) {
            Ok(()) if key == CONFIG => {}
            Ok(()) => given.push(Given { key: key.to_owned(), values, source: Source::Environment }),
            Err(reason) => faults.push(Fault::Invalid {
                place: "environment".to_owned(),
                name: name.to_owned(),
                value: value.to_string_lossy().into_owned(),
                reason,
            }),
        }
    }
    given
}

/// Variables of a command and all below it.
fn variables(command: &clap::Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned()));
    own.chain(command.get_subcommands().flat_map(variables)).collect()
}

fn is_of_others(name: &str) -> bool {
    TOOLS.contains(&name) || (cfg!(debug_assertions) && FAULTS.contains(&name)) || is_of_kubernetes(name)
}

/// Kubernetes tells every container of a service `etherply` or `etherply-…` by variables that look like ours:
/// `ETHERPLY_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_NAME`, `ETHERPLY_PORT`, `ETHERPLY_PORT_4180_TCP_ADDR`.
fn is_of_kubernetes(name: &str) -> bool {
    let is_port = |rest: &str| {
        let (number, rest) = rest.split_once('_').unwrap_or((rest, ""));
        number.parse::<u16>().is_ok() && ["TCP", "UDP", "SCTP"].iter().any(|kind| rest.starts_with(kind))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT")
        || name.split("_PORT_").skip(1).any(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_others_are_told_from_mistakes() {
        for name in [
            "ETHERPLY_SERVICE_HOST",
            "ETHERPLY_SERVICE_PORT",
            "ETHERPLY_SERVICE_PORT_SYNC",
            "ETHERPLY_PORT",
            "ETHERPLY_PORT_4180_TCP",
            "ETHERPLY_PORT_4180_TCP_ADDR",
            "ETHERPLY_CONTROL_PORT_4181_TCP_PROTO",
            "ETHERPLY_BUILT",
            "ETHERPLY_URL",
        ] {
            assert!(is_of_others(name), "{name}");
        }
        for name in ["ETHERPLY_LISTEN_PORT_X", "ETHERPLY_IDLE_TIMEOUTS", "ETHERPLY_PORT_TCP", "ETHERPLY_HOST"]
        {
            assert!(!is_of_others(name), "{name}");
        }
    }
}
