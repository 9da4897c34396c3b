//! `etherply keys`, `etherply token` and `etherply revoke`.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use etherply_access::{
    Algorithm, Audience, Claims, Expected, Grants, Refused, SigningKey, Verifier, generate, inspect,
};

use super::keys::{self, PRIVATE, PUBLIC, SECRET};
use super::revocations::Line;
use crate::administration::REVOKE_PATH;
use crate::operator;

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
}

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
}

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

/// The time, in seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `etherply keys`.
///
/// # Errors
/// For people.
pub fn run_keys(args: &KeysArgs, out: &mut impl Write) -> Result<(), String> {
    let KeysCommand::Generate(GenerateArgs { name, algorithm, out: folder }) = &args.command;
    if name.contains('/') || name.starts_with('.') {
        return Err("--name: a key's id becomes a file's name: no slashes, and no dot before it".to_owned());
    }
    let made = generate(*algorithm).map_err(|error| error.to_string())?;
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let path = |ending: &str| folder.join(format!("{name}{ending}"));
    let said = match &made.public {
        Some(public) => {
            let (secret, shown) = (path(PRIVATE), path(PUBLIC));
            write_new(&secret, &made.private, 0o600)?;
            write_new(&shown, public, 0o644)?;
            format!(
                "{secret}  makes tokens: keep it where they are made, and secret\n\
                 {shown}  is for the server: etherply --keys {folder}\n\n\
                 A token: etherply token --key {secret} --subject ada --write 'rooms/*' --ttl 1h",
                secret = secret.display(),
                shown = shown.display(),
                folder = folder.display(),
            )
        }
        None => {
            let secret = path(SECRET);
            write_new(&secret, &made.private, 0o600)?;
            format!(
                "{secret}  makes tokens and verifies them: keep it secret, there and on the server\n\n\
                 The server: etherply --keys {folder}\n\
                 A token: etherply token --key {secret} --subject ada --write 'rooms/*' --ttl 1h",
                secret = secret.display(),
                folder = folder.display(),
            )
        }
    };
    writeln!(out, "{said}").map_err(|error| error.to_string())
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{}: there is a key already: give the new one another --name", path.display())
        }
        _ => format!("{}: {error}", path.display()),
    };
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// `etherply token`.
///
/// # Errors
/// For people.
pub fn run_token(args: &TokenArgs, now_s: u64, out: &mut impl Write) -> Result<(), String> {
    if let Some(TokenCommand::Inspect(args)) = &args.command {
        return run_inspect(args, now_s, out);
    }
    let name = args.key.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let id = [PRIVATE, SECRET, PUBLIC].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    let text = keys::read_text(&args.key).map_err(|error| error.to_string())?;
    let key = SigningKey::read(id, &text).map_err(|error| format!("{}: {error}", args.key.display()))?;
    let TokenArgs { read, write, presence, import, admin, .. } = args;
    if [read, write, presence, import, admin].iter().all(|patterns| patterns.is_empty()) {
        return Err(
            "the token would grant nothing: give --read, --write, --presence, --import or --admin".to_owned()
        );
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| format!("no randomness for the token's id: {error}"))?;
    let claims = Claims {
        sub: args.subject.clone().unwrap_or_default(),
        iss: args.issuer.clone(),
        aud: Audience::One(args.audience.clone()),
        iat: now_s,
        nbf: None,
        exp: now_s.saturating_add(args.ttl),
        jti: Some(format!("{:032x}", u128::from_be_bytes(id))),
        etherply: Grants {
            read: read.clone(),
            write: write.clone(),
            presence: presence.clone(),
            import: import.clone(),
            admin: admin.clone(),
        },
    };
    let token = key.sign(&claims).map_err(|error| error.to_string())?;
    writeln!(out, "{token}").map_err(|error| error.to_string())
}

fn run_inspect(args: &InspectArgs, now_s: u64, out: &mut impl Write) -> Result<(), String> {
    let mut token = args.token.clone();
    if token == "-" {
        token.clear();
        let most = u64::try_from(etherply_wire::limits::TOKEN_BYTES_MAX).unwrap_or(u64::MAX) + 2;
        let read = io::stdin().lock().take(most).read_to_string(&mut token);
        read.map_err(|error| format!("standard input: {error}"))?;
    }
    let token = token.trim();
    let (header, claims) = inspect(token).map_err(|error| error.to_string())?;
    let mut said = format!("header  {header}\nclaims  {claims:#}\n");
    for (claim, what) in [("iat", "made"), ("nbf", "begins"), ("exp", "ends")] {
        if let Some(at_s) = claims.get(claim).and_then(serde_json::Value::as_u64) {
            let (ahead, ago) = (at_s.saturating_sub(now_s), now_s.saturating_sub(at_s));
            said.push_str(&match ahead {
                0 => format!("{what:<6}  {ago} s ago\n"),
                _ => format!("{what:<6}  in {ahead} s\n"),
            });
        }
    }
    let verdict = match &args.keys {
        None => Err("not verified: give --keys to see whether a server would take it".to_owned()),
        Some(path) => {
            let keys = keys::read(path).map_err(|error| error.to_string())?;
            let (issuer, audience) = (args.issuer.clone(), args.audience.clone());
            let expected = Expected { issuer, audience, ..Expected::default() };
            let mut verifier = Verifier::new(std::sync::Arc::new(keys), expected);
            verifier.verify(token, now_s.saturating_mul(1_000)).map_err(|refused| match refused {
                Refused::Expired => "genuine, but its time is over".to_owned(),
                Refused::Invalid(reason) => format!("a server would refuse it: {reason}"),
            })
        }
    };
    let is_bad = args.keys.is_some() && verdict.is_err();
    said.push_str(match &verdict {
        Ok(_) => "verdict genuine: a server with these keys takes it, unless it was revoked",
        Err(why) => why,
    });
    writeln!(out, "{said}").map_err(|error| error.to_string())?;
    if is_bad { Err("the token is refused".to_owned()) } else { Ok(()) }
}

/// `etherply revoke`.
///
/// # Errors
/// For people.
pub fn run_revoke(args: &RevokeArgs, out: &mut impl Write) -> Result<(), String> {
    let line = match &args.what {
        RevokedArgs { token: Some(id), .. } => Line::Token(id.clone()),
        RevokedArgs { subject: Some(name), .. } => Line::Subject(name.clone()),
        RevokedArgs { documents, .. } => Line::Documents(documents.clone().unwrap_or_default()),
    };
    line.at(0).map_err(|error| error.to_string())?;
    let key = operator::read_key(&args.data).map_err(|error| error.to_string())?;
    let body = serde_json::json!(line).to_string();
    let mut answer =
        operator::post(&args.control, REVOKE_PATH, Some(&key), &body).map_err(|error| error.to_string())?;
    let mut text = String::new();
    answer.read_to_string(&mut text).map_err(|error| format!("the answer breaks off: {error}"))?;
    write!(out, "{text}").map_err(|error| error.to_string())
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
