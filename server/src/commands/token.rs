//! `etherply token`: makes tokens, and looks into them.

use std::io::{Read as _, stdin};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use etherply_access::{
    Audience, Claims, Expected, Grants, KeySet, Refused, SignError, SigningKey, Verifier, inspect,
};
use etherply_wire::limits::TOKEN_BYTES_MAX;
use serde_json::Value;

use super::{Done, Failure, print};
use crate::access::keys::{self, PRIVATE, PUBLIC, SECRET};

/// What a token says.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct TokenArgs {
    /// Something else than making a token
    #[command(subcommand)]
    pub command: Option<TokenCommand>,
    /// The private key or secret, as `etherply keys generate` writes it; its file's name names the key
    #[arg(
        long,
        env = "ETHERPLY_TOKEN_KEY",
        default_value = "etherply-keys/main.private.pem",
        value_name = "FILE"
    )]
    pub key: PathBuf,
    /// Whose token it is
    #[arg(long, required = true, value_name = "NAME")]
    pub subject: Option<String>,
    /// Documents to receive, as rooms/42, rooms/* or tenants/acme/**; several with commas
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    pub read: Vec<String>,
    /// Documents to change, and so to receive
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    pub write: Vec<String>,
    /// Documents in whose presence and broadcasts to take part
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    pub presence: Vec<String>,
    /// Documents to which to bring changes that others wrote
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    pub import: Vec<String>,
    /// Documents to administer
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    pub admin: Vec<String>,
    /// How long it is good: a number with s, m, h or d
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_seconds)]
    pub ttl: u64,
    /// Who makes it: the server's --token-issuer
    #[arg(long, env = "ETHERPLY_TOKEN_ISSUER", default_value = "etherply", value_name = "NAME")]
    pub issuer: String,
    /// Whom it is for: the server's --token-audience
    #[arg(long, env = "ETHERPLY_TOKEN_AUDIENCE", default_value = "etherply", value_name = "NAME")]
    pub audience: String,
    /// Print the token, its id and its end as JSON
    #[arg(long)]
    pub json: bool,
}

/// Commands of `token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Say what a token says, and with keys whether a server would take it
    Inspect(InspectArgs),
}

/// Which token to look into.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The token; from standard input if it is - or not given
    #[arg(default_value = "-", value_name = "TOKEN")]
    pub token: String,
    /// The server's keys
    #[arg(long, value_name = "PATH")]
    pub keys: Option<PathBuf>,
    /// The server's --token-issuer
    #[arg(long, env = "ETHERPLY_TOKEN_ISSUER", default_value = "etherply", value_name = "NAME")]
    pub issuer: String,
    /// The server's --token-audience
    #[arg(long, env = "ETHERPLY_TOKEN_AUDIENCE", default_value = "etherply", value_name = "NAME")]
    pub audience: String,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

impl TokenArgs {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            Some(TokenCommand::Inspect(args)) => args.json,
            None => self.json,
        }
    }
}

/// Makes a token, or looks into one.
///
/// # Errors
/// It would grant nothing, the key cannot be used, or no server would take the token.
pub fn run(args: &TokenArgs, now_s: u64) -> Result<Done, Failure> {
    if let Some(TokenCommand::Inspect(args)) = &args.command {
        return look_into(args, now_s);
    }
    let TokenArgs { read, write, presence, import, admin, .. } = args;
    if [read, write, presence, import, admin].iter().all(|patterns| patterns.is_empty()) {
        let message = "the token would grant nothing: give --read, --write, --presence, --import or --admin";
        return Err(Failure::new("usage", message));
    }
    let key = signing_key(args)?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| {
        Failure::new("no_randomness", format!("no randomness for the token's id: {error}"))
    })?;
    let (id, exp) = (format!("{:032x}", u128::from_be_bytes(id)), now_s.saturating_add(args.ttl));
    let claims = Claims {
        sub: args.subject.clone().unwrap_or_default(),
        iss: args.issuer.clone(),
        aud: Audience::One(args.audience.clone()),
        iat: now_s,
        nbf: None,
        exp,
        jti: Some(id.clone()),
        etherply: Grants {
            read: read.clone(),
            write: write.clone(),
            presence: presence.clone(),
            import: import.clone(),
            admin: admin.clone(),
        },
    };
    let token = key.sign(&claims).map_err(|error| match error {
        SignError::Claims(_) => Failure::new("claims_invalid", error),
        SignError::Key(_) => Failure::new("key_invalid", error),
    })?;
    print(&if args.json {
        serde_json::json!({ "token": token, "id": id, "expires_s": exp }).to_string()
    } else {
        token
    });
    Ok(Done::Whole)
}

/// The key that a token is made with; its id is its file's name.
fn signing_key(args: &TokenArgs) -> Result<SigningKey, Failure> {
    let name = args.key.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let id = [PRIVATE, SECRET, PUBLIC].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    let text = keys::read_text(&args.key)?;
    let wrong = |error| Failure::new("key_invalid", format!("{}: {error}", args.key.display()));
    SigningKey::read(id, &text).map_err(wrong)
}

fn look_into(args: &InspectArgs, now_s: u64) -> Result<Done, Failure> {
    let token = read_token(&args.token)?;
    let (header, claims) = inspect(&token).map_err(|reason| Failure::new("token_invalid", reason))?;
    let refusal = match &args.keys {
        Some(path) => judge(keys::read(path)?, args, &token, now_s),
        None => None,
    };
    if args.json {
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let is_verified = args.keys.is_some();
        print(
            &serde_json::json!({ "header": header, "claims": claims, "verified": is_verified }).to_string(),
        );
        return Ok(Done::Whole);
    }
    let said = match (&args.keys, &refusal) {
        (None, _) => "not verified: give --keys to see whether a server would take it",
        (Some(_), None) => "verdict genuine: a server with these keys takes it, unless it was revoked",
        (Some(_), Some(_)) => "verdict refused",
    };
    print(&format!("header  {header}\nclaims  {claims:#}\n{}{said}", times(&claims, now_s)));
    refusal.map_or(Ok(Done::Whole), Err)
}

/// The token that was given, or is on standard input.
fn read_token(given: &str) -> Result<String, Failure> {
    let mut token = given.to_owned();
    if token == "-" {
        token.clear();
        let most = u64::try_from(TOKEN_BYTES_MAX).unwrap_or(u64::MAX) + 2;
        let read = stdin().lock().take(most).read_to_string(&mut token);
        read.map_err(|error| Failure::new("file_io", format!("standard input: {error}")))?;
    }
    Ok(token.trim().to_owned())
}

/// Why a server with these keys would not take a token, if it would not.
fn judge(keys: KeySet, args: &InspectArgs, token: &str, now_s: u64) -> Option<Failure> {
    let (issuer, audience) = (args.issuer.clone(), args.audience.clone());
    let mut verifier = Verifier::new(Arc::new(keys), Expected { issuer, audience, ..Expected::default() });
    match verifier.verify(token, now_s.saturating_mul(1_000)) {
        Ok(_) => None,
        Err(Refused::Expired) => {
            Some(Failure::new("token_expired", "the token is genuine, but its time is over"))
        }
        Err(Refused::Invalid(reason)) => Some(Failure::new(
            "token_invalid",
            format!("a server with these keys refused the token: {reason}"),
        )),
    }
}

/// When a token was made, begins and ends, as far as it says, a line each.
fn times(claims: &Value, now_s: u64) -> String {
    let mut said = String::new();
    for (claim, what) in [("iat", "made"), ("nbf", "begins"), ("exp", "ends")] {
        if let Some(at_s) = claims.get(claim).and_then(Value::as_u64) {
            let (ahead, ago) = (at_s.saturating_sub(now_s), now_s.saturating_sub(at_s));
            said.push_str(&match ahead {
                0 => format!("{what:<6}  {ago} s ago\n"),
                _ => format!("{what:<6}  in {ahead} s\n"),
            });
        }
    }
    said
}

/// Reads a time as `90s`, `30m`, `12h` or `7d`.
fn parse_seconds(text: &str) -> Result<u64, String> {
    const WANTED: &str = "a time is a number with s, m, h or d, as in 30m";
    let split = text.len().saturating_sub(1);
    let (number, unit) = text.split_at_checked(split).ok_or(WANTED)?;
    let unit_s: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(WANTED.to_owned()),
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| is_number).ok_or(WANTED)?;
    number.checked_mul(unit_s).filter(|seconds| *seconds > 0).ok_or_else(|| WANTED.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        for (text, seconds) in [("1s", 1), ("90s", 90), ("30m", 1_800), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(parse_seconds(text), Ok(seconds));
        }
        for text in
            ["", "s", "1", "h1", "1 h", "-1h", "+1h", "0s", "1.5h", "1y", "99999999999999999999s", "é"]
        {
            assert!(parse_seconds(text).is_err(), "{text:?}");
        }
    }
}
