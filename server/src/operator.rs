//! How `etherply` commands ask a running server's control plane, and how they prove that they may.
//!
//! What cannot be undone asks for a key that the server writes into its data directory when it starts, for its
//! owner's eyes only: who can read it could do the same to the files.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

/// Name of the key's file in the data directory.
const KEY_FILE: &str = "operator.key";
/// How long the control plane may take to answer; what it then sends may take as long as it does.
const ANSWER_S: u64 = 30;
/// Longest refusal of the control plane's that is shown.
const REFUSAL_BYTES_MAX: u64 = 4 * 1024;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The control plane does not answer, or refuses.
    #[error("{url}: {what}")]
    Control {
        /// What was asked.
        url: String,
        /// What went wrong, and what to do.
        what: String,
    },
    /// The key cannot be read.
    #[error(
        "cannot read {path}: {source}: give the --data of the running server, as a user who may read it",
        path = path.display()
    )]
    Key {
        /// The file.
        path: std::path::PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl OperatorError {
    /// A stable name of the error, for scripts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Control { .. } => "control_failed",
            Self::Key { .. } => "control_key",
        }
    }
}

/// Makes a new key in a data directory.
///
/// # Errors
/// No randomness, or the file cannot be written.
pub fn write_key(data: &Path) -> io::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let key = format!("{:032x}", u128::from_be_bytes(random));
    let path = data.join(KEY_FILE);
    // A new file: one that is there may be readable by others.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(key.as_bytes())?;
    Ok(key)
}

/// Reads the key of a data directory.
///
/// # Errors
/// [`OperatorError::Key`].
pub fn read_key(data: &Path) -> Result<String, OperatorError> {
    read_key_file(&data.join(KEY_FILE))
}

/// Reads a key from its file, or a copy of it.
///
/// # Errors
/// [`OperatorError::Key`].
pub fn read_key_file(path: &Path) -> Result<String, OperatorError> {
    let read = fs::read_to_string(path).map(|key| key.trim().to_owned());
    read.map_err(|source| OperatorError::Key { path: path.to_owned(), source })
}

/// Whether two keys are the same, in a time that does not say how far they are.
pub fn is_key(key: &str, given: &str) -> bool {
    let differs = key.bytes().zip(given.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
    differs == 0 && key.len() == given.len()
}

/// Asks a control plane for something; what it answers, to be read.
///
/// # Errors
/// [`OperatorError::Control`] with the refusal's text.
pub fn post(
    control: &str,
    path: &str,
    key: Option<&str>,
    body: &str,
) -> Result<impl Read + use<>, OperatorError> {
    let url = format!("{}{path}", control.trim_end_matches('/'));
    let failed = |what: String| OperatorError::Control { url: url.clone(), what };
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(Duration::from_secs(ANSWER_S)))
        .timeout_recv_response(Some(Duration::from_secs(ANSWER_S)));
    let mut request = config.build().new_agent().post(&url);
    if let Some(key) = key {
        request = request.header("Authorization", format!("Bearer {key}"));
    }
    let answer = request.send(body).map_err(|error| {
        failed(format!("{error}: is the server running, and is this its --control address?"))
    })?;
    let status = answer.status();
    let body = answer.into_body().into_reader();
    if status.is_success() {
        return Ok(body);
    }
    let mut text = String::new();
    // Whatever it is, the status says that it was refused.
    drop(body.take(REFUSAL_BYTES_MAX).read_to_string(&mut text));
    Err(failed(format!("{status}: {}", text.trim())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_new_at_each_start_and_its_owners_only() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join(KEY_FILE), "old").unwrap();
        fs::set_permissions(data.path().join(KEY_FILE), fs::Permissions::from_mode(0o644)).unwrap();
        let first = write_key(data.path()).unwrap();
        let second = write_key(data.path()).unwrap();
        assert_ne!(first, second);
        assert_eq!(read_key(data.path()).unwrap(), second);
        assert_eq!(fs::metadata(data.path().join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(
            is_key(&first, &first) && !is_key(&first, &second) && !is_key(&first, "") && !is_key("", &first)
        );
        assert!(!is_key(&first, &first[..31]) && !is_key(&first[..31], &first));
        let error = read_key(&data.path().join("nothing")).unwrap_err();
        assert!(error.to_string().contains("--data"), "{error}");
    }
}
