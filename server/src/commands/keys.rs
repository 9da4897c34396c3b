//! `etherply keys`: keys that tokens are signed and verified with.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use clap::{Args, Subcommand};
use etherply_access::{Algorithm, GenerateError, generate};

use super::{Done, Failure, print};
use crate::access::keys::{PRIVATE, PUBLIC, SECRET};

/// Where keys are, unless something else is said.
pub const KEYS_FOLDER: &str = "etherply-keys";

/// What to do with keys.
#[derive(Debug, Args)]
pub struct KeysArgs {
    /// What to do
    #[command(subcommand)]
    pub command: KeysCommand,
}

/// Commands of `keys`.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key: one file that tokens are made with, and one that the server verifies them with
    Generate(GenerateArgs),
}

/// Which key to make.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The key's id, which tokens name; it becomes the files' name
    #[arg(long, default_value = "main", value_name = "NAME")]
    pub name: String,
    /// How tokens are signed: EdDSA, ES256, RS256, or HS256, with which whoever can verify can sign
    #[arg(long, default_value = "EdDSA", value_name = "ALGORITHM", value_parser = Algorithm::from_str)]
    pub algorithm: Algorithm,
    /// Folder for the files; made if it is not there
    #[arg(long, default_value = KEYS_FOLDER, value_name = "DIR")]
    pub out: PathBuf,
    /// Print the files' names as JSON
    #[arg(long)]
    pub json: bool,
}

impl KeysArgs {
    pub(super) fn json(&self) -> bool {
        let KeysCommand::Generate(args) = &self.command;
        args.json
    }
}

/// Makes a key.
///
/// # Errors
/// The name cannot be a file's, there is such a key, it cannot be written, or there is no randomness.
pub fn run(args: &KeysArgs) -> Result<Done, Failure> {
    let KeysCommand::Generate(GenerateArgs { name, algorithm, out: folder, json }) = &args.command;
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        let message = "--name: a key's id becomes a file's name: no slashes, and no dot before it";
        return Err(Failure::new("usage", message));
    }
    let made = generate(*algorithm).map_err(|error| match error {
        GenerateError::Randomness => Failure::new("no_randomness", error),
        GenerateError::Encoding => Failure::new("key_invalid", error),
    })?;
    fs::create_dir_all(folder).map_err(|error| file_io(folder, &error))?;
    let path = |ending: &str| folder.join(format!("{name}{ending}"));
    let (private, public) = match &made.public {
        Some(public) => {
            let (private, shown) = (path(PRIVATE), path(PUBLIC));
            write_new(&private, &made.private, 0o600)?;
            write_new(&shown, public, 0o644)?;
            (private, Some(shown))
        }
        None => {
            let secret = path(SECRET);
            write_new(&secret, &made.private, 0o600)?;
            (secret, None)
        }
    };
    print(&if *json {
        let shown = |path: &Path| path.display().to_string();
        let public = public.as_deref().map(shown);
        serde_json::json!({ "private": shown(&private), "public": public }).to_string()
    } else {
        what_to_do(folder, &private, public.as_deref())
    });
    Ok(Done::Whole)
}

fn what_to_do(folder: &Path, private: &Path, public: Option<&Path>) -> String {
    let (folder, private) = (folder.display(), private.display());
    let files = match public {
        Some(public) => format!(
            "{private}  makes tokens: keep it where they are made, and secret\n\
             {public}  is for the server: etherply --keys {folder}",
            public = public.display()
        ),
        None => format!(
            "{private}  makes tokens and verifies them: keep it secret, there and on the server\n\n\
             The server: etherply --keys {folder}"
        ),
    };
    format!("{files}\n\nA token: etherply token --key {private} --subject ada --write 'rooms/*' --ttl 1h")
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let what = "there is a key already: give the new one another --name";
            Failure::new("file_exists", format!("{}: {what}", path.display()))
        }
        _ => file_io(path, &error),
    };
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn file_io(path: &Path, error: &io::Error) -> Failure {
    Failure::new("file_io", format!("cannot write {}: {error}", path.display()))
}
