//! The manifests of the database's tables, checked before it acts on them.
//!
//! A keyspace's folder holds a file `current` (`u64 version | u128 xxh3 | u8 0`, little-endian) that points
//! to the file `v<version>`, which lists the tables. fjall writes that checksum but does not compare it when
//! it opens, and it deletes every table that the list leaves out, every folder without `current`, and every
//! folder that its own keyspace 0 does not name. A damaged list would so destroy what it fails to name.

use std::fs;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::error::OpenError;
use super::fields::Fields;
use super::keys::KeyspaceId;

const VERSION_FILE: &[u8] = b"FJL\x03";

/// Checks that the database's folders and manifests are there and whole. Tables themselves are not read.
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
    if xxh3_128(&read(&path)?) != checksum {
        return Err(OpenError::damaged(&path, Some(0), "the list of tables is not what was written"));
    }
    Ok(())
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
