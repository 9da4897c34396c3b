//! Keys from files.
//!
//! A key's id (`kid`) is its file's name without the ending: `NAME.pem` holds a public key, `NAME.secret` a shared
//! one. `NAME.private.pem`, with which tokens are made, is passed over: the server does not need it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use etherply_access::{KeyError, KeySet};

/// Ending of a file with a public key.
pub const PUBLIC: &str = ".pem";
/// Ending of a file with a private key.
pub const PRIVATE: &str = ".private.pem";
/// Ending of a file with a shared secret.
pub const SECRET: &str = ".secret";
/// Longest file that is read as a key.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file or folder cannot be read.
    #[error("cannot read keys from {path}: {reason}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// A file is no key.
    #[error("{path}: {error}", path = path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        error: KeyError,
    },
    /// No file that is a key.
    #[error(
        "there is no key in {path}: `etherply keys generate` makes one; files are NAME.pem (a public key) or \
         NAME.secret",
        path = path.display()
    )]
    None {
        /// Where.
        path: PathBuf,
    },
}

impl KeysError {
    /// A stable name of the error, for scripts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "file_io",
            Self::Key { .. } => "key_invalid",
            Self::None { .. } => "keys_none",
        }
    }
}

/// Reads one file, or every key in a folder.
///
/// # Errors
/// [`KeysError`]
pub fn read(path: &Path) -> Result<KeySet, KeysError> {
    let failed = |reason| KeysError::Read { path: path.to_owned(), reason };
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            files.push(entry.map_err(failed)?.path());
        }
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    let mut keys = KeySet::default();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let wrong = |error| KeysError::Key { path: file.clone(), error };
        if name.ends_with(PRIVATE) && path.is_dir() {
            continue;
        } else if let Some(id) = name.strip_suffix(PUBLIC) {
            keys.add_public(id, read_text(&file)?.as_bytes()).map_err(wrong)?;
        } else if let Some(id) = name.strip_suffix(SECRET) {
            keys.add_secret(id, &read_text(&file)?).map_err(wrong)?;
        }
    }
    if keys.is_empty() { Err(KeysError::None { path: path.to_owned() }) } else { Ok(keys) }
}

/// Reads a key file's text.
///
/// # Errors
/// [`KeysError::Read`]
pub fn read_text(path: &Path) -> Result<String, KeysError> {
    let failed = |reason| KeysError::Read { path: path.to_owned(), reason };
    if fs::metadata(path).map_err(failed)?.len() > KEY_FILE_BYTES_MAX {
        return Err(failed(io::Error::other("it is far too long for a key")));
    }
    fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use etherply_access::{Algorithm, generate};

    use super::*;

    #[test]
    fn a_folder_of_keys_is_read_and_private_ones_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("keys generate"), "{error}");
        let ed = generate(Algorithm::EdDsa).unwrap();
        write("main.pem", ed.public.as_deref().unwrap());
        write("main.private.pem", &ed.private);
        write("shared.secret", &generate(Algorithm::Hs256).unwrap().private);
        write("README", "not a key");
        let keys = read(folder.path()).unwrap();
        let found: Vec<_> = keys.iter().collect();
        assert_eq!(found, [("main", Algorithm::EdDsa), ("shared", Algorithm::Hs256)]);
        assert_eq!(read(&folder.path().join("main.pem")).unwrap().len(), 1);
        let error = read(&folder.path().join("main.private.pem")).unwrap_err().to_string();
        assert!(error.contains("private key"), "{error}");
        write("broken.pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("broken.pem"), "{error}");
        write("broken.pem", &"x".repeat(64 * 1024 + 1));
        assert!(read(folder.path()).unwrap_err().to_string().contains("too long"));
        assert!(read(&folder.path().join("nothing")).is_err());
    }
}
