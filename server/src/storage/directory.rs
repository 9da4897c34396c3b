//! The data directory: what lies where in it, whose it is, and how it begins.
//!
//! `format` names the format and the directory's random id, `lock` is held while a server runs, `ledger/`
//! holds the ledger and `fjall/` the database. `format` says whether the directory is complete: a first start
//! that was interrupted, by a power loss for example, is begun anew, but a complete directory in which something is
//! missing is damaged. It is complete once it was opened and all of it is on disk, and takes nothing before that.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::OpenError;
use super::keys::DirectoryId;
use super::ledger;

/// The format of data directories that this server writes. What an older server would take for damage needs a new one;
/// a directory gets it when it is opened.
///
/// | format | what is new |
/// |---|---|
/// | 1 | |
/// | 2 | notes of epochs that documents left behind; subjects in summaries |
pub const FORMAT: u32 = 2;
/// The oldest format that is read.
pub const FORMAT_OLDEST: u32 = 1;
const FORMAT_FILE: &str = "format";
const LOCK_FILE: &str = "lock";
const LEDGER_DIRECTORY: &str = "ledger";
const DATABASE_DIRECTORY: &str = "fjall";

/// The one field that every version of the file has.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct FormatFile {
    format: u32,
    id: String,
    complete: bool,
    crc32: u32,
}

impl FormatFile {
    fn new(id: DirectoryId, complete: bool) -> Self {
        let id = format!("{:032x}", u128::from_be_bytes(id.0));
        let mut file = Self { format: FORMAT, id, complete, crc32: 0 };
        file.crc32 = file.checksum();
        file
    }

    fn checksum(&self) -> u32 {
        let Self { format, id, complete, .. } = self;
        crc32fast::hash(format!("{format} {id} {complete}").as_bytes())
    }

    /// What looks like the id in a file that is damaged.
    fn find_id(bytes: &[u8]) -> Option<DirectoryId> {
        const DIGITS: usize = 32;
        let mut runs = bytes.split(|byte| !byte.is_ascii_hexdigit());
        let digits = std::str::from_utf8(runs.find(|run| run.len() == DIGITS)?).ok()?;
        Some(DirectoryId(u128::from_str_radix(digits, 16).ok()?.to_be_bytes()))
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Named, OpenError> {
        let damaged = || OpenError::damaged(path, None, "the file that names the format is not readable");
        let any: AnyFormat = serde_json::from_slice(bytes).map_err(|_| damaged())?;
        if any.format > FORMAT {
            return Err(OpenError::FutureFormat {
                path: path.to_owned(),
                found: any.format,
                supported: FORMAT,
            });
        }
        let file: Self = serde_json::from_slice(bytes).map_err(|_| damaged())?;
        let id = u128::from_str_radix(&file.id, 16).map_err(|_| damaged())?;
        if file.format < FORMAT_OLDEST || file.crc32 != file.checksum() {
            return Err(damaged());
        }
        let id = DirectoryId(id.to_be_bytes());
        Ok(Named { id, is_complete: file.complete, is_current: file.format == FORMAT })
    }
}

/// What the file that names the format says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named {
    id: DirectoryId,
    is_complete: bool,
    is_current: bool,
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    id: DirectoryId,
    /// Whether the file that names the format says all that it should once the directory was opened.
    is_named: bool,
    // Held for its lock, which ends with the file or the process. None: there was no file to lock.
    _lock: Option<File>,
}

/// A data directory that is looked at and not changed.
#[derive(Debug)]
pub struct Inspected {
    /// The directory.
    pub directory: DataDirectory,
    /// What is wrong with the file that names the format, if something is.
    pub damage: Option<OpenError>,
    /// A first start was interrupted: nothing was ever stored.
    pub is_incomplete: bool,
}

impl DataDirectory {
    /// Takes the directory, and makes it if there is none; `create_database` makes an empty database. Nothing may be
    /// stored in it before [`Self::settle`].
    pub fn open(
        path: &Path,
        create_database: impl FnOnce(&Path) -> Result<(), OpenError>,
    ) -> Result<Self, OpenError> {
        make_directory(path)?;
        let lock = lock(path)?;
        let format_path = path.join(FORMAT_FILE);
        let format = match fs::read(&format_path) {
            Ok(bytes) => Some(FormatFile::parse(&format_path, &bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(OpenError::io(&format_path, "read the format")(error)),
        };
        let id = match format {
            Some(Named { id, is_complete: true, .. }) => id,
            Some(Named { id, is_complete: false, .. }) => {
                remove_incomplete(path)?;
                id
            }
            None => {
                expect_empty(path)?;
                random_id(path)?
            }
        };
        let is_complete = format.is_some_and(|format| format.is_complete);
        let is_named = format.is_some_and(|format| format.is_complete && format.is_current);
        let directory = Self { path: path.to_owned(), id, is_named, _lock: Some(lock) };
        if !is_complete {
            directory.fill(create_database)?;
        }
        Ok(directory)
    }

    /// What lies in the directory could be opened: from now on it is complete, and of this server's format.
    pub fn settle(&mut self) -> Result<(), OpenError> {
        if !self.is_named {
            for name in [LEDGER_DIRECTORY, DATABASE_DIRECTORY] {
                let path = self.path.join(name);
                sync_all_below(&path).map_err(OpenError::io(&path, "sync what lies in"))?;
            }
            sync_directory(&self.path).map_err(OpenError::io(&self.path, "sync the directory"))?;
            self.write_format(true)?;
            self.is_named = true;
        }
        Ok(())
    }

    /// Takes the directory to look at it: nothing is written, not even the lock's text, so it may lie on a file
    /// system that cannot be written. Others may look at the same time, but no server may run.
    pub fn inspect(path: &Path) -> Result<Inspected, OpenError> {
        expect_data(path)?;
        let lock = lock_shared(path)?;
        let format_path = path.join(FORMAT_FILE);
        let bytes = match fs::read(&format_path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(OpenError::io(&format_path, "read the format")(error)),
        };
        let (id, is_complete, damage) = match FormatFile::parse(&format_path, &bytes) {
            Ok(Named { id, is_complete, .. }) => (id, is_complete, None),
            Err(future @ OpenError::FutureFormat { .. }) if future_is_plausible(&bytes) => {
                return Err(future);
            }
            // What is wrong in it may be elsewhere. If not, no commit's row will be readable, which shows.
            Err(damage) => (FormatFile::find_id(&bytes).unwrap_or(DirectoryId([0; 16])), true, Some(damage)),
        };
        let directory = Self { path: path.to_owned(), id, is_named: true, _lock: lock };
        Ok(Inspected { directory, damage, is_incomplete: !is_complete })
    }

    fn fill(&self, create_database: impl FnOnce(&Path) -> Result<(), OpenError>) -> Result<(), OpenError> {
        self.write_format(false)?;
        make_directory(&self.ledger_path())?;
        ledger::create(&self.ledger_path(), self.id)?;
        make_directory(&self.database_path())?;
        create_database(&self.database_path())
    }

    fn write_format(&self, complete: bool) -> Result<(), OpenError> {
        let path = self.path.join(FORMAT_FILE);
        let mut text = serde_json::to_vec_pretty(&FormatFile::new(self.id, complete))
            .map_err(|error| OpenError::io(&path, "write the format")(error.into()))?;
        text.push(b'\n');
        write_new_file(&path, &text)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory's random id.
    pub fn id(&self) -> DirectoryId {
        self.id
    }

    /// Where the ledger lies.
    pub fn ledger_path(&self) -> PathBuf {
        self.path.join(LEDGER_DIRECTORY)
    }

    /// Where the database lies.
    pub fn database_path(&self) -> PathBuf {
        self.path.join(DATABASE_DIRECTORY)
    }
}

/// Looks whether there is data of etherply, whole or not.
pub fn expect_data(path: &Path) -> Result<(), OpenError> {
    let none = |what: &str| Err(OpenError::NoData { path: path.to_owned(), what: what.to_owned() });
    if !path.is_dir() {
        return none("there is no such directory");
    }
    let is_there = |name: &&str| path.join(name).exists();
    match [FORMAT_FILE, LEDGER_DIRECTORY, DATABASE_DIRECTORY].iter().any(is_there) {
        true => Ok(()),
        false => none("there is no data of etherply in it"),
    }
}

/// Makes a directory and those above it, so that they survive a power loss.
pub fn make_directory(path: &Path) -> Result<(), OpenError> {
    let missing = path.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.is_dir());
    let missing: Vec<&Path> = missing.collect();
    fs::create_dir_all(path).map_err(OpenError::io(path, "create the directory"))?;
    for made in missing {
        let above = above(made);
        sync_directory(above).map_err(OpenError::io(above, "sync the directory"))?;
    }
    Ok(())
}

/// Whether the file is a newer server's, and not one of a known format with a flipped digit.
fn future_is_plausible(bytes: &[u8]) -> bool {
    let Ok(mut file) = serde_json::from_slice::<FormatFile>(bytes) else { return true };
    !(FORMAT_OLDEST..=FORMAT).any(|format| {
        file.format = format;
        file.crc32 == file.checksum()
    })
}

fn lock_shared(directory: &Path) -> Result<Option<File>, OpenError> {
    let path = directory.join(LOCK_FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(&path, "open the lock")(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(locked(directory, &mut file)),
        Err(TryLockError::Error(error)) => Err(OpenError::io(&path, "lock")(error)),
    }
}

fn locked(directory: &Path, file: &mut File) -> OpenError {
    let mut text = String::new();
    let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
    OpenError::Locked { path: directory.to_owned(), pid }
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK_FILE);
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(OpenError::io(&path, "open the lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(locked(directory, &mut file)),
        Err(TryLockError::Error(error)) => return Err(OpenError::io(&path, "lock")(error)),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(OpenError::io(&path, "write the lock"))?;
    Ok(file)
}

fn expect_empty(path: &Path) -> Result<(), OpenError> {
    // Before anything else is looked at: other things of ours lie beside them.
    if [LEDGER_DIRECTORY, DATABASE_DIRECTORY].iter().any(|name| path.join(name).exists()) {
        let what = "the file that names the format is missing";
        return Err(OpenError::damaged(&path.join(FORMAT_FILE), None, what));
    }
    let list = "list the directory";
    for entry in fs::read_dir(path).map_err(OpenError::io(path, list))? {
        let entry = entry.map_err(OpenError::io(path, list))?;
        let name = entry.file_name();
        if name == LOCK_FILE || name == new_name(FORMAT_FILE).as_str() {
            continue;
        }
        return Err(OpenError::NotADataDirectory {
            path: path.to_owned(),
            what: format!("holds {} but no data of etherply", name.display()),
            flag: "--data",
        });
    }
    Ok(())
}

fn remove_incomplete(path: &Path) -> Result<(), OpenError> {
    for name in [LEDGER_DIRECTORY, DATABASE_DIRECTORY] {
        let path = path.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::io(&path, "remove what an interrupted first start left")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn random_id(path: &Path) -> Result<DirectoryId, OpenError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| OpenError::io(path, "make a random id")(io::Error::other(error.to_string())))?;
    Ok(DirectoryId(id))
}

fn new_name(name: &str) -> String {
    format!("{name}.new")
}

/// Writes a file so that after a crash it is there whole or not at all.
pub fn write_new_file(path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let new = path.with_file_name(new_name(name));
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_directory(path.parent().unwrap_or(path))
    };
    write().map_err(OpenError::io(path, "write the file"))
}

/// Where something is made that gets its name when it is whole: beside it.
pub fn beside(to: &Path, suffix: &str) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    to.with_file_name(name)
}

/// Gives what was made beside it its name, so that it survives a power loss.
pub fn put_in_place(made: &Path, to: &Path) -> io::Result<()> {
    fs::rename(made, to)?;
    sync_directory(above(to))
}

/// The directory that names a path.
fn above(path: &Path) -> &Path {
    path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes everything in a directory survive a power loss.
fn sync_all_below(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let synced = match entry.file_type()?.is_dir() {
            true => sync_all_below(&entry.path()),
            false => File::open(entry.path()).and_then(|file| file.sync_all()),
        };
        match synced {
            // The database's own threads replace tables and drop journals meanwhile, and sync what they make.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    sync_directory(directory)
}

/// Makes names in a directory survive a power loss.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens a directory that nobody holds. Tests beside this one start processes, and such a process has this
    /// one's descriptors, with the lock, from its fork to its exec.
    fn open(path: &Path) -> Result<DataDirectory, OpenError> {
        loop {
            match try_open(path) {
                Err(error) if error.code() == "storage_locked" => std::thread::yield_now(),
                opened => return opened,
            }
        }
    }

    fn try_open(path: &Path) -> Result<DataDirectory, OpenError> {
        let mut directory = DataDirectory::open(path, |_| Ok(()))?;
        directory.settle()?;
        Ok(directory)
    }

    #[test]
    fn a_new_directory_is_made_with_all_above_it_and_opens_again_with_the_same_id() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/data");
        let id = open(&path).unwrap().id();
        assert_eq!(open(&path).unwrap().id(), id);
        assert_ne!(open(&root.path().join("other")).unwrap().id(), id);
    }

    #[test]
    fn a_held_directory_is_refused_with_the_holders_pid() {
        let root = tempfile::tempdir().unwrap();
        let held = open(root.path()).unwrap();
        let error = try_open(root.path()).unwrap_err();
        assert_eq!(error.code(), "storage_locked");
        let expected = format!(
            "{}: data directory in use by another etherply (pid {}): stop it or choose another --data",
            root.path().display(),
            std::process::id()
        );
        assert_eq!(error.to_string(), expected);
        drop(held);
        open(root.path()).unwrap();
    }

    #[test]
    fn a_format_from_the_future_is_refused() {
        let root = tempfile::tempdir().unwrap();
        drop(open(root.path()).unwrap());
        fs::write(root.path().join(FORMAT_FILE), r#"{"format": 3, "whatever": []}"#).unwrap();
        let error = open(root.path()).unwrap_err();
        assert_eq!(error.code(), "storage_future_format");
        assert!(error.to_string().contains("has format 3, this server reads format 2"), "{error}");
    }

    #[test]
    fn every_flipped_bit_of_the_format_is_noticed_or_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let id = open(root.path()).unwrap().id();
        let path = root.path().join(FORMAT_FILE);
        let bytes = fs::read(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match FormatFile::parse(&path, &bad) {
                Ok(found) => {
                    assert_eq!(found, Named { id, is_complete: true, is_current: true }, "bit {bit}")
                }
                Err(error) => {
                    assert!(["storage_damaged", "storage_future_format"].contains(&error.code()));
                }
            }
        }
    }

    #[test]
    fn a_missing_format_beside_data_is_damage_and_foreign_files_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        drop(open(root.path()).unwrap());
        fs::remove_file(root.path().join(FORMAT_FILE)).unwrap();
        assert_eq!(open(root.path()).unwrap_err().code(), "storage_damaged");

        let foreign = tempfile::tempdir().unwrap();
        fs::write(foreign.path().join("thesis.txt"), "years of work").unwrap();
        assert_eq!(open(foreign.path()).unwrap_err().code(), "storage_not_a_data_directory");
        assert_eq!(fs::read(foreign.path().join("thesis.txt")).unwrap(), b"years of work");
    }

    #[test]
    fn an_interrupted_first_start_begins_anew() {
        let root = tempfile::tempdir().unwrap();
        let failed = DataDirectory::open(root.path(), |database| {
            fs::write(database.join("half"), "made").unwrap();
            Err(OpenError::Database { path: database.to_owned(), what: "stopped".to_owned() })
        });
        assert_eq!(failed.unwrap_err().code(), "storage_database");
        let directory = open(root.path()).unwrap();
        assert!(!directory.database_path().join("half").exists());
    }

    #[test]
    fn a_first_start_that_lost_its_power_before_all_was_on_disk_begins_anew() {
        let root = tempfile::tempdir().unwrap();
        let make = |database: &Path| {
            fs::write(database.join("made"), "by the first start").unwrap();
            Ok(())
        };
        drop(DataDirectory::open(root.path(), make).unwrap());
        // What was not synced is gone: here, the ledger.
        fs::remove_dir_all(root.path().join(LEDGER_DIRECTORY)).unwrap();
        let inspected = DataDirectory::inspect(root.path()).unwrap();
        assert!(inspected.is_incomplete && inspected.damage.is_none());
        drop(inspected);
        let directory = open(root.path()).unwrap();
        assert!(!directory.database_path().join("made").exists() && directory.ledger_path().exists());
        let id = directory.id();
        drop(directory);
        // From then on it is damage.
        fs::remove_dir_all(root.path().join(LEDGER_DIRECTORY)).unwrap();
        assert_eq!(open(root.path()).unwrap().id(), id);
        assert!(!root.path().join(LEDGER_DIRECTORY).exists(), "nothing is made anew");
    }

    #[test]
    fn an_older_format_is_read_and_becomes_this_one_when_it_was_opened() {
        let root = tempfile::tempdir().unwrap();
        let id = open(root.path()).unwrap().id();
        let path = root.path().join(FORMAT_FILE);
        let mut file: FormatFile = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        file.format = FORMAT_OLDEST;
        file.crc32 = file.checksum();
        let old = serde_json::to_vec(&file).unwrap();
        fs::write(&path, &old).unwrap();
        assert_eq!(DataDirectory::inspect(root.path()).unwrap().damage.map(|error| error.code()), None);
        drop(DataDirectory::open(root.path(), |_| Ok(())).unwrap());
        assert_eq!(fs::read(&path).unwrap(), old, "it could still be refused");
        assert_eq!(open(root.path()).unwrap().id(), id);
        let found = FormatFile::parse(&path, &fs::read(&path).unwrap()).unwrap();
        assert_eq!(found, Named { id, is_complete: true, is_current: true });
    }
}
