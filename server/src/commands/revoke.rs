//! `etherply revoke`.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;

use super::{Done, Failure, print};
use crate::access::revocations::Line;
use crate::administration::REVOKE_PATH;
use crate::operator;

/// What to revoke.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// What is to end
    #[command(flatten)]
    pub what: RevokedArgs,
    /// The control address of the running server, as http://HOST:PORT
    #[arg(long, default_value = "http://127.0.0.1:4181", value_name = "URL")]
    pub control: String,
    /// The running server's data directory, which holds the key that this asks for
    #[arg(long, env = "ETHERPLY_DATA", default_value = "etherply-data", value_name = "DIR")]
    pub data: PathBuf,
}

/// One of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct RevokedArgs {
    /// A token, by its id (jti)
    #[arg(long, value_name = "ID")]
    pub token: Option<String>,
    /// All tokens of a subject that were made until now
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// Everybody's rights on documents, by tokens that were made until now
    #[arg(long, value_name = "PATTERN")]
    pub documents: Option<String>,
}

/// Asks the running server to take back what tokens granted.
///
/// # Errors
/// What is named cannot be revoked, or [`crate::operator::OperatorError`].
pub fn run(args: &RevokeArgs) -> Result<Done, Failure> {
    let line = match &args.what {
        RevokedArgs { token: Some(id), .. } => Line::Token(id.clone()),
        RevokedArgs { subject: Some(name), .. } => Line::Subject(name.clone()),
        RevokedArgs { documents, .. } => Line::Documents(documents.clone().unwrap_or_default()),
    };
    line.at(0).map_err(|error| Failure::new("usage", error))?;
    let key = operator::read_key(&args.data)?;
    let body = serde_json::json!(line).to_string();
    let mut answer = operator::post(&args.control, REVOKE_PATH, Some(&key), &body)?;
    let mut text = String::new();
    let read = answer.read_to_string(&mut text);
    read.map_err(|error| Failure::new("control_failed", format!("the answer breaks off: {error}")))?;
    print(text.trim_end());
    Ok(Done::Whole)
}
