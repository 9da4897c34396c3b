//! A backup in its place: written beside it, synced, checked as a reader would, and renamed.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::take::take;
use super::walk::{CheckOnly, walk};
use super::{BackupError, Summary};
use crate::operator::{self, OperatorError};
use crate::storage;
use crate::storage::directory::{beside, put_in_place};

/// What is added to a backup's name while it is written.
const UNFINISHED: &str = ".unfinished";
/// Where the control plane gives backups.
pub const CONTROL_PATH: &str = "/backup";

/// Where a backup comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A running server, by its control plane's address: `http://HOST:PORT`.
    Control {
        /// Its control address.
        url: &'a str,
        /// Its operator's key, which it asks for if it asks for tokens.
        key: Option<&'a str>,
    },
    /// A stopped server's data directory.
    Data(&'a Path),
}

/// Takes a backup and puts it at `to`, which must not exist. `progress` is told the bytes written so far.
///
/// # Errors
/// [`BackupError`]; nothing is at `to` then.
pub fn backup(source: Source<'_>, to: &Path, progress: &mut dyn FnMut(u64)) -> Result<Summary, BackupError> {
    expect_absent(to)?;
    let unfinished = beside(to, UNFINISHED);
    let taken = write(source, &unfinished, progress).and_then(|()| {
        // Read back from the file: what is checked is what a restore would read.
        let summary = verify(&unfinished, &mut |_| {})?;
        expect_absent(to)?;
        put_in_place(&unfinished, to).map_err(BackupError::io(to, "put the backup at"))?;
        Ok(summary)
    });
    if taken.is_err() {
        // Should it stay: it has another name, and the next one writes over it.
        drop(fs::remove_file(&unfinished));
    }
    taken
}

/// Checks a backup from front to back: see [`super::walk`].
///
/// # Errors
/// The first thing that is wrong with it.
pub fn verify(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Summary, BackupError> {
    let file = File::open(path).map_err(BackupError::io(path, "open"))?;
    walk(BufReader::new(file), path, &mut CheckOnly, progress)
}

fn expect_absent(path: &Path) -> Result<(), BackupError> {
    match path.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(BackupError::Exists { path: path.to_owned() }),
        Err(error) => Err(BackupError::io(path, "look for")(error)),
    }
}

fn write(source: Source<'_>, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), BackupError> {
    // It holds everything that the server knows: nobody else's to read.
    let options = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = BufWriter::new(options.map_err(BackupError::io(path, "create"))?);
    match source {
        Source::Data(data) => {
            let log = storage::open_existing(data)?;
            take(log.reader(), &mut file, path, &mut |_, bytes| progress(bytes))?;
        }
        // Should the server not be able to go on, then that is in what it sent, and verifying finds it.
        Source::Control { url, key } => fetch(url, key, &mut file, path, progress)?,
    }
    let synced = file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all());
    synced.map_err(BackupError::io(path, "write"))
}

/// Copies what the control plane of a running server sends.
fn fetch(
    control: &str,
    key: Option<&str>,
    out: &mut impl Write,
    path: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(), BackupError> {
    let mut body = operator::post(control, CONTROL_PATH, key, "")?;
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = body.read(&mut buffer).map_err(|error| OperatorError::Control {
            url: control.to_owned(),
            what: format!("the backup breaks off: {error}"),
        })?;
        if read == 0 {
            return Ok(());
        }
        let read_bytes = buffer.get(..read).unwrap_or_default();
        out.write_all(read_bytes).map_err(BackupError::io(path, "write"))?;
        bytes += read as u64;
        progress(bytes);
    }
}
