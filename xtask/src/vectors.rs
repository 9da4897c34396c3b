//! Writes the golden vectors and removes those that have no sample any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use etherply_wire::vectors::samples;

/// Where they stand.
pub const FOLDER: &str = "wire/vectors";

/// Makes the folder hold exactly the samples.
pub fn write(root: &Path) -> anyhow::Result<()> {
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {FOLDER}"))?;
    let mut files = BTreeMap::new();
    for vector in samples()? {
        files.extend(vector.files()?);
    }
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {FOLDER}"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !files.contains_key(&name) {
            fs::remove_file(entry.path()).with_context(|| format!("cannot remove {FOLDER}/{name}"))?;
            println!("removed {FOLDER}/{name}");
        }
    }
    let mut written = 0;
    for (name, contents) in &files {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|old| old == *contents) {
            continue;
        }
        fs::write(&path, contents).with_context(|| format!("cannot write {FOLDER}/{name}"))?;
        written += 1;
    }
    println!("{} files in {FOLDER}, {written} of them new or changed", files.len());
    Ok(())
}
