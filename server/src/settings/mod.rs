//! The settings of `serve`, from a file, the environment and flags, in rising order of precedence.
//!
//! What settings there are is said once, by [`ServeArgs`]: the file's keys are the flags' names, and a value from
//! wherever passes the flag's own parser. What the file and the environment give becomes clap's default; so whatever
//! holds for a flag holds for them.

pub mod environment;
pub mod file;
pub mod number;

use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args as _, CommandFactory as _, FromArgMatches as _};

use crate::cli::{Cli, Command, ServeArgs};
use number::Number;

/// The setting that names the file, which cannot stand in it.
const CONFIG: &str = "config";
/// Commands that take settings, beside none at all.
const COMMANDS: [&str; 2] = ["serve", "config"];
/// How alike a name has to be to one that exists to be meant by it (Jaro-Winkler).
const LIKENESS_MIN: f64 = 0.8;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The file, in this line.
    File(usize),
    /// The setting's variable.
    Environment,
    /// A flag.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(line) => write!(f, "line {line} of the file"),
            Self::Environment => f.write_str("environment"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Something wrong with what was set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("cannot read {path}: {reason}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file is no TOML.
    #[error("{path}:{line}: {reason}", path = path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// There is no such setting.
    #[error("{place}: there is no setting {name}{}", meant(alike.as_ref()))]
    Unknown {
        /// The file and line, or the environment.
        place: String,
        /// What it is called there.
        name: String,
        /// What it could mean.
        alike: Option<String>,
    },
    /// A setting has no such value.
    #[error("{place}: {name} = {value}: {reason}")]
    Invalid {
        /// The file and line, or the environment.
        place: String,
        /// What the setting is called there.
        name: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn meant(alike: Option<&String>) -> String {
    let ask = |alike| format!("; did you mean {alike}?");
    alike.map_or_else(|| ": `etherply config` shows all".to_owned(), ask)
}

impl Fault {
    /// A stable name of the error, for scripts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "config_io",
            Self::Malformed { .. } => "config_malformed",
            Self::Unknown { .. } => "setting_unknown",
            Self::Invalid { .. } => "setting_invalid",
        }
    }
}

/// A value that the file or the environment gives.
#[derive(Debug)]
struct Given {
    key: String,
    /// Several for a list.
    values: Vec<OsString>,
    source: Source,
}

/// A setting, as it is after everybody had a say.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What it is called, as a flag behind two hyphens.
    pub key: String,
    /// Its environment variable.
    pub variable: String,
    /// Its values: one, or several if it is a list; none if it has no value.
    pub values: Vec<String>,
    /// The same as it is by default.
    pub defaults: Vec<String>,
    /// Where they come from.
    pub source: Source,
    /// What it means.
    pub meaning: String,
    /// What its value is, as help calls it.
    pub value_name: Option<String>,
    /// The values that it may have, where they are few.
    pub choices: Vec<String>,
    /// Its bounds, if it is a number.
    pub number: Option<&'static Number>,
    /// On or off.
    pub is_switch: bool,
    /// Of any number of values.
    pub is_list: bool,
}

/// A command line that was understood.
#[derive(Debug)]
pub struct Asked {
    /// The command.
    pub command: Command,
    /// Settings, for the commands that have them.
    pub settings: Vec<Setting>,
}

/// Why there is nothing to carry out.
#[derive(Debug)]
pub enum Refused {
    /// The command line is wrong, or asks for help.
    Usage(Box<clap::Error>),
    /// Settings of the file or the environment are wrong.
    Faults {
        /// All that are.
        faults: Vec<Fault>,
        /// The command answers in JSON.
        json: bool,
    },
}

impl From<clap::Error> for Refused {
    fn from(error: clap::Error) -> Self {
        Self::Usage(Box::new(error))
    }
}

/// Understands a command line, in this environment.
///
/// # Errors
/// Anything that was given cannot be understood.
pub fn ask(arguments: &[OsString], environment: &[(OsString, OsString)]) -> Result<Asked, Refused> {
    // Without the environment of settings, of which other commands than these need to know nothing.
    let flags = match without_variables(Cli::command(), &[]).try_get_matches_from(arguments) {
        Ok(flags) => flags,
        // Help tells of it.
        Err(error) if !error.use_stderr() => {
            return Err(Cli::command().try_get_matches_from(arguments).err().unwrap_or(error).into());
        }
        Err(error) => return Err(error.into()),
    };
    let cli = Cli::from_arg_matches(&flags)?;
    let (args, json, checked) = match &cli.command {
        None => (&cli.serve, false, None),
        Some(Command::Serve(args)) => (args, false, None),
        Some(Command::Config(args)) => (&args.serve, args.json, args.check.clone().flatten()),
        Some(_) => return Ok(Asked::from(cli, Vec::new())),
    };
    let named = args.config.clone().or(checked);
    let from_environment =
        || environment.iter().find(|(name, _)| name == "ETHERPLY_CONFIG").map(|(_, path)| path.into());
    let path: Option<PathBuf> = named.or_else(from_environment);

    let mut faults = Vec::new();
    let mut given = path.as_deref().map_or_else(Vec::new, |path| file::read(path, &mut faults));
    given.extend(environment::read(environment, &mut faults));
    if !faults.is_empty() {
        return Err(Refused::Faults { faults, json });
    }
    let matches = without_variables(Cli::command(), &given).try_get_matches_from(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let matches = matches.subcommand().map_or(&matches, |(_, matches)| matches);
    let settings = definitions().iter().filter_map(|arg| setting(arg, matches, &given)).collect();
    Ok(Asked::from(cli, settings))
}

impl Asked {
    fn from(Cli { command, serve }: Cli, settings: Vec<Setting>) -> Self {
        Self { command: command.unwrap_or(Command::Serve(serve)), settings }
    }
}

/// What settings there are.
fn definitions() -> Vec<Arg> {
    ServeArgs::augment_args(clap::Command::new("serve")).get_arguments().cloned().collect()
}

/// A command whose settings take no notice of the environment, and have these defaults.
fn without_variables(command: clap::Command, given: &[Given]) -> clap::Command {
    let known = definitions();
    let bare = |arg: Arg| {
        if !known.iter().any(|setting| setting.get_id() == arg.get_id()) {
            return arg;
        }
        // The last one wins.
        let value = given.iter().rev().find(|given| arg.get_long() == Some(&given.key));
        let arg = arg.env(None::<&'static str>);
        match value {
            Some(given) => arg.default_values(given.values.iter().map(|value| value.as_os_str().to_owned())),
            None => arg,
        }
    };
    COMMANDS.iter().fold(command.mut_args(bare), |command, name| {
        command.mut_subcommand(name, |command| command.mut_args(bare))
    })
}

/// Looks whether a flag would take these values; otherwise, why not.
fn check(arg: &Arg, values: &[OsString]) -> Result<(), String> {
    let Some(key) = arg.get_long() else { return Ok(()) };
    if is_switch(arg) {
        let is_one = |value: &OsString| value == "true" || value == "false";
        return if values.iter().all(is_one) { Ok(()) } else { Err("it is true or false".to_owned()) };
    }
    let flags = values.iter().map(|value| {
        let mut flag = OsString::from(format!("--{key}="));
        flag.push(value);
        flag
    });
    let command =
        clap::Command::new("setting").no_binary_name(true).arg(arg.clone().env(None::<&'static str>));
    let Err(error) = command.try_get_matches_from(flags) else { return Ok(()) };
    let choices = choices(arg);
    Err(match error.source() {
        Some(reason) => reason.to_string(),
        None if choices.is_empty() => "it has no such value".to_owned(),
        None => format!("it is one of {}", choices.join(", ")),
    })
}

fn is_switch(arg: &Arg) -> bool {
    !arg.get_action().takes_values()
}

fn is_list(arg: &Arg) -> bool {
    arg.get_value_delimiter().is_some()
}

fn choices(arg: &Arg) -> Vec<String> {
    arg.get_possible_values().iter().map(|choice| choice.get_name().to_owned()).collect()
}

fn texts<V: AsRef<OsStr>>(values: impl IntoIterator<Item = V>) -> Vec<String> {
    values.into_iter().map(|value| value.as_ref().to_string_lossy().into_owned()).collect()
}

fn defaults(arg: &Arg) -> Vec<String> {
    let given = texts(arg.get_default_values().iter().map(|value| value.as_os_str()));
    match arg.get_value_delimiter() {
        Some(delimiter) => given.iter().flat_map(|list| list.split(delimiter)).map(str::to_owned).collect(),
        None => given,
    }
}

fn setting(arg: &Arg, matches: &ArgMatches, given: &[Given]) -> Option<Setting> {
    let (key, id) = (arg.get_long()?, arg.get_id().as_str());
    let source = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => Source::Flag,
        _ => given
            .iter()
            .rev()
            .find(|given| given.key == key)
            .map_or(Source::Default, |given| given.source.clone()),
    };
    let values = if is_switch(arg) {
        vec![matches.get_flag(id).to_string()]
    } else {
        matches.get_raw(id).map(texts).unwrap_or_default()
    };
    Some(Setting {
        key: key.to_owned(),
        variable: arg.get_env()?.to_string_lossy().into_owned(),
        values,
        defaults: defaults(arg),
        source,
        meaning: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        value_name: arg.get_value_names().and_then(<[_]>::first).map(ToString::to_string),
        choices: if is_switch(arg) { Vec::new() } else { choices(arg) },
        number: number::of(key),
        is_switch: is_switch(arg),
        is_list: is_list(arg),
    })
}

/// The name that somebody who wrote this one may have meant.
fn alike<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let likeness = |other: &str| strsim::jaro_winkler(name, other);
    let best = names.max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    (likeness(best) >= LIKENESS_MIN).then(|| best.to_owned())
}

/// A line of a file.
fn place(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}

#[cfg(test)]
mod tests;
