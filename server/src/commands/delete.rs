//! `etherply delete`.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;

use super::{Done, Failure, print};
use crate::administration::DELETE_PATH;
use crate::operator;

/// What to delete. It cannot be brought back, and its name stays taken.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The document's name
    pub document: String,
    /// The control address of the running server, as http://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub control: String,
    /// Its data directory, which holds the key that this asks for
    #[arg(long, env = "ETHERPLY_DATA", value_name = "DIR")]
    pub data: PathBuf,
}

/// Asks the running server to delete a document.
///
/// # Errors
/// [`crate::operator::OperatorError`].
pub fn run(args: &DeleteArgs) -> Result<Done, Failure> {
    let key = operator::read_key(&args.data)?;
    let mut answer = operator::post(&args.control, DELETE_PATH, Some(&key), &args.document)?;
    let mut text = String::new();
    let read = answer.read_to_string(&mut text);
    read.map_err(|error| Failure::new("control_failed", format!("the answer breaks off: {error}")))?;
    print(&format!("{} {}", args.document, text.trim()));
    Ok(Done::Whole)
}
