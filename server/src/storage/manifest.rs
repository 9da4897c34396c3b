//! The manifests of the database's tables, checked before it acts on them.
//!
//! A keyspace's folder holds a file `current` (`u64 version | u128 xxh3 | u8 0`, little-endian) that points
//! to the file `v<version>`, which lists the tables. fjall writes that checksum but does not compare it when
//! it opens, and it deletes every table that the list leaves out, every folder without `current`, and every
//! folder that its own keyspace 0 does not name. A damaged list would so destroy what it fails to name.

use std::fs;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use super::archive::{is_listed_rightly, section};
use super::error::OpenError;
use super::fields::Fields;
use super::keys::KeyspaceId;

const VERSION_FILE: &[u8] = b"FJL\x03";
const TABLES_FOLDER: &str = "tables";

/// The folder of a keyspace.
pub fn keyspace_folder(database: &Path, keyspace: KeyspaceId) -> PathBuf {
    keyspace_folder_of(database, keyspace as u64)
}

/// The folder of the keyspace of this number; 0 is the database's own.
pub fn keyspace_folder_of(database: &Path, number: u64) -> PathBuf {
    database.join("keyspaces").join(number.to_string())
}

/// Every file in a keyspace's folder of tables, each as a run: for when the list is not to be trusted.
pub fn files(keyspace_folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(keyspace_folder.join(TABLES_FOLDER)).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// Checks that the database's folders and manifests are there and whole, and each table's list of what it consists of. The
/// tables' content is not read.
pub fn check(database: &Path) -> Result<(), OpenError> {
    let version = database.join("version");
    if read(&version)? != VERSION_FILE {
        return Err(OpenError::damaged(&version, Some(0), "the database's version is not what was written"));
    }
    let keyspaces = database.join("keyspaces");
    let expected: Vec<u64> = std::iter::once(0).chain(KeyspaceId::ALL.map(|id| id as u64)).collect();
    for entry in fs::read_dir(&keyspaces).map_err(OpenError::io(&keyspaces, "list the keyspaces"))? {
        let entry = entry.map_err(OpenError::io(&keyspaces, "list the keyspaces"))?;
        let name = entry.file_name();
        let known = expected.iter().any(|id| name == id.to_string().as_str());
        if !known && entry.path().is_dir() {
            return Err(OpenError::damaged(
                &entry.path(),
                None,
                "this folder does not belong to the database",
            ));
        }
    }
    expected.into_iter().try_for_each(|id| check_keyspace(&keyspaces.join(id.to_string())))
}

fn check_keyspace(folder: &Path) -> Result<(), OpenError> {
    for table in tables(folder)?.into_iter().flatten() {
        let Listed { path, .. } = table;
        let missing = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => OpenError::damaged(&path, None, "the table is missing"),
            _ => OpenError::io(&path, "read the table")(error),
        };
        if !is_listed_rightly(&path).map_err(missing)? {
            return Err(OpenError::damaged(
                &path,
                None,
                "the table's list of its parts is not what was written",
            ));
        }
    }
    Ok(())
}

/// The list of a keyspace's tables, which is what was written.
fn read_list(folder: &Path) -> Result<(PathBuf, Vec<u8>), OpenError> {
    let path = folder.join("current");
    let current = read(&path)?;
    let mut fields = Fields::new(&current);
    let damaged = || OpenError::damaged(&path, Some(0), "the pointer to the list of tables is not readable");
    let version = fields.u64().ok_or_else(damaged)?;
    let checksum = fields.take(16).and_then(|bytes| bytes.try_into().ok()).map(u128::from_le_bytes);
    let checksum = checksum.ok_or_else(damaged)?;
    if fields.u8() != Some(0) || fields.left() != 0 {
        return Err(damaged());
    }
    let path = folder.join(format!("v{version}"));
    let list = read(&path)?;
    if xxh3_128(&list) != checksum {
        return Err(OpenError::damaged(&path, Some(0), "the list of tables is not what was written"));
    }
    Ok((path, list))
}

/// A table, as its keyspace's list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The file.
    pub path: PathBuf,
    /// The checksum of all its bytes, if the list is whole.
    pub checksum: Option<u128>,
    /// What its sequence numbers count from.
    pub seqno_base: u64,
}

/// A keyspace's tables in runs. Those of one run do not overlap and stand in the order of their keys.
pub fn tables(keyspace_folder: &Path) -> Result<Vec<Vec<Listed>>, OpenError> {
    let (path, list) = read_list(keyspace_folder)?;
    let damaged = || OpenError::damaged(&path, None, "the list of tables is not one that this server reads");
    decode_list(&list, &keyspace_folder.join(TABLES_FOLDER)).ok_or_else(damaged)
}

/// `u8 levels`, each `u8 runs`, each `u32 tables`, each `u64 id | u8 0 | u128 xxh3 | u64 base`, little-endian.
fn decode_list(list: &[u8], folder: &Path) -> Option<Vec<Vec<Listed>>> {
    let mut fields = Fields::new(section(list, b"tables")?);
    let mut runs = Vec::new();
    for _ in 0..fields.u8()? {
        for _ in 0..fields.u8()? {
            let mut run = Vec::new();
            for _ in 0..fields.u32()? {
                let path = folder.join(fields.u64()?.to_string());
                (fields.u8()? == 0).then_some(())?;
                let checksum = Some(u128::from_le_bytes(fields.take(16)?.try_into().ok()?));
                run.push(Listed { path, checksum, seqno_base: fields.u64()? });
            }
            runs.push(run);
        }
    }
    Some(runs)
}

fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => OpenError::damaged(path, None, "the file is missing"),
        _ => OpenError::io(path, "read the file")(error),
    })
}

/// Does every keyspace have tables? Every commit writes to every keyspace, so a commit that is in no journal
/// can only stand in tables of all of them.
pub fn has_tables(database: &Path) -> bool {
    KeyspaceId::ALL.into_iter().all(|id| {
        let tables = database.join("keyspaces").join((id as u64).to_string()).join("tables");
        fs::read_dir(tables).is_ok_and(|mut entries| entries.next().is_some())
    })
}
