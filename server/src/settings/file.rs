//! The file of settings: TOML, one key a setting, with the flag's name.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use clap::Arg;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{CONFIG, Fault, Given, Source, alike, check, definitions, is_list, is_switch, number, place};

/// Longest file.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// What the file sets.
pub(super) fn read(path: &Path, faults: &mut Vec<Fault>) -> Vec<Given> {
    let unreadable = |reason: String| Fault::Unreadable { path: path.to_owned(), reason };
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > CONFIG_BYTES_MAX => {
            faults.push(unreadable(format!("it has more than {CONFIG_BYTES_MAX} bytes")));
            Vec::new()
        }
        Ok(_) => parse(path, &text, faults),
        Err(error) => {
            faults.push(unreadable(error.to_string()));
            Vec::new()
        }
    }
}

/// What a file with this text sets.
pub(super) fn parse(path: &Path, text: &str, faults: &mut Vec<Fault>) -> Vec<Given> {
    let line_of = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            let line = line_of(error.span().map_or(0, |span| span.start));
            let reason = error.message().trim().replace('\n', ", ");
            faults.push(Fault::Malformed { path: path.to_owned(), line, reason });
            return Vec::new();
        }
    };
    let known = definitions();
    let keys = || known.iter().filter_map(Arg::get_long).filter(|key| *key != CONFIG);
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let mut given = Vec::new();
    for (name, value) in entries {
        let (line, key) = (line_of(name.span().start), name.get_ref().as_ref());
        let place = place(path, line);
        let setting = known.iter().find(|arg| arg.get_long() == Some(key) && key != CONFIG);
        let Some(arg) = setting else {
            let alike = alike(&key.to_lowercase().replace('_', "-"), keys());
            faults.push(Fault::Unknown { place, name: key.to_owned(), alike });
            continue;
        };
        let checked = values(arg, value.get_ref()).and_then(|values| check(arg, &values).map(|()| values));
        match checked {
            Ok(values) => given.push(Given { key: key.to_owned(), values, source: Source::File(line) }),
            Err(reason) => {
                let value = text.get(value.span()).unwrap_or_default().to_owned();
                faults.push(Fault::Invalid { place, name: key.to_owned(), value, reason });
            }
        }
    }
    given
}

/// A value as the flag would be given it, if it is of the flag's type.
fn values(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<OsString>, String> {
    let expected = if is_switch(arg) {
        "it is true or false, without quotes"
    } else if arg.get_long().is_some_and(|key| number::of(key).is_some()) {
        "it is a whole number, without quotes"
    } else if is_list(arg) {
        "it is a list of texts in quotes, in square brackets"
    } else {
        "it is a text in quotes"
    };
    let text = match value {
        DeValue::Boolean(value) if is_switch(arg) => value.to_string(),
        DeValue::Integer(value) if arg.get_long().is_some_and(|key| number::of(key).is_some()) => {
            // Underscores have gone already.
            i128::from_str_radix(value.as_str(), value.radix()).map_err(|_| expected.to_owned())?.to_string()
        }
        DeValue::Array(items) if is_list(arg) => {
            let text = |item: &Spanned<DeValue<'_>>| item.get_ref().as_str().map(OsString::from);
            let texts: Option<Vec<_>> = items.iter().map(text).collect();
            return texts.ok_or_else(|| expected.to_owned());
        }
        DeValue::String(value)
            if !is_switch(arg)
                && !is_list(arg)
                && arg.get_long().is_none_or(|key| number::of(key).is_none()) =>
        {
            value.to_string()
        }
        _ => return Err(expected.to_owned()),
    };
    Ok(vec![text.into()])
}
