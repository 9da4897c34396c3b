//! `etherply config`: every setting, its value and where that comes from.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Done, Failure, print, serve};
use crate::cli::ServeArgs;
use crate::settings::{Fault, Setting, Source, number};

/// What to show.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Only say whether all is well with what the file and the environment set; the exit code is 1 if not
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub check: Option<Option<PathBuf>>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Settings.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Shows settings, or checks them.
///
/// # Errors
/// The settings do not fit together, or what they name is not there.
pub fn run(args: &ConfigArgs, settings: &[Setting]) -> Result<Done, Failure> {
    if args.check.is_some() {
        serve::check(&args.serve)?;
        let set = settings.iter().filter(|setting| setting.source != Source::Default).count();
        if args.json {
            print(&json!({ "settings": set }).to_string());
        } else {
            print(&format!("all is well; {set} of {} settings are not as by default", settings.len()));
        }
    } else if args.json {
        print(&Value::from_iter(settings.iter().map(described)).to_string());
    } else {
        let lines: Vec<String> = settings.iter().map(commented).collect();
        print(lines.join("\n").trim_end());
    }
    Ok(Done::Whole)
}

/// What is wrong, all of it; it goes by the name of the first.
pub fn failure(faults: &[Fault]) -> Failure {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    Failure::new(faults.first().map_or("usage", Fault::code), lines.join("\n"))
}

/// A setting as a line of a file of settings, with what there is to know in front of it.
fn commented(setting: &Setting) -> String {
    let mut facts = Vec::new();
    facts.extend(setting.value_name.as_deref().and_then(number::unit).map(str::to_owned));
    facts
        .extend(setting.number.map(|number| format!("{} to {}", number.bounds.start(), number.bounds.end())));
    if !setting.choices.is_empty() {
        facts.push(setting.choices.join(" or "));
    }
    let facts = if facts.is_empty() { String::new() } else { facts.join(", ") + "; " };
    let Setting { key, variable, meaning, source, .. } = setting;
    let line = match value(setting) {
        Value::Null => format!("# {key} ="),
        // A file does not name itself.
        value if setting.key == "config" => format!("# {key} = {value}"),
        value => format!("{key} = {value}"),
    };
    format!("# {meaning}\n# {facts}{variable}; {source}\n{line}\n")
}

/// A setting's value; JSON's texts and lists are TOML's too.
fn value(setting: &Setting) -> Value {
    typed(setting, &setting.values)
}

fn typed(setting: &Setting, values: &[String]) -> Value {
    let one = |text: &String| match (setting.is_switch, setting.number) {
        (true, _) => Value::from(text == "true"),
        (_, Some(_)) => text.parse::<u64>().map_or(Value::Null, Value::from),
        _ => Value::from(text.as_str()),
    };
    if setting.is_list {
        return values.iter().map(one).collect();
    }
    values.first().map_or(Value::Null, one)
}

fn described(setting: &Setting) -> Value {
    let (source, line) = match setting.source {
        Source::Default => ("default", None),
        Source::File(line) => ("file", Some(line)),
        Source::Environment => ("environment", None),
        Source::Flag => ("flag", None),
    };
    json!({
        "setting": setting.key,
        "variable": setting.variable,
        "value": value(setting),
        "default": typed(setting, &setting.defaults),
        "source": source,
        "line": line,
        "unit": setting.value_name.as_deref().and_then(number::unit),
        "min": setting.number.map(|number| *number.bounds.start()),
        "max": setting.number.map(|number| *number.bounds.end()),
        "choices": setting.choices,
        "meaning": setting.meaning,
    })
}
