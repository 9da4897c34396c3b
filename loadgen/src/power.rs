//! Power cuts: what a killed server's data directory would be if the machine had lost its power, too.
//!
//! A library that is preloaded into the server (`preload/power.rs`, which says why it is one) keeps a *platter*
//! beside the data directory: the bytes of each file and the names in each directory, as they were synced last.
//! After the server was killed, [`Power::cut`] makes a new data directory of that, and puts it in the place of the
//! one that the page cache still has.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::random::Random;

/// Of so many cuts, one lets part of what was not synced survive, as disks do that write when they like.
const PARTIAL_ONE_IN: u64 = 3;

/// A data directory and what is synced of it.
#[derive(Debug)]
pub struct Power {
    directory: PathBuf,
    platter: PathBuf,
    cuts: u64,
}

/// What a power cut took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Bytes that were written and not synced.
    pub bytes: u64,
    /// Files that were made, renamed or removed without their directory being synced.
    pub names: u64,
}

impl Power {
    /// Makes the data directory, empty, and its platter.
    pub fn new(directory: PathBuf, platter: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let power = Self { directory, platter, cuts: 0 };
        power.settle().context("the platter beside the data directory cannot be made")?;
        Ok(power)
    }

    /// What the preloaded library has to know.
    pub fn environment(&self) -> [(String, OsString); 2] {
        let (directory, platter) = (self.directory.clone(), self.platter.clone());
        [("POWER_DIR".into(), directory.into()), ("POWER_PLATTER".into(), platter.into())]
    }

    /// Power is gone, and comes back: the data directory has what was synced.
    pub fn cut(&mut self, random: &mut Random) -> Result<Dropped> {
        self.cuts += 1;
        let partial = self.cuts.is_multiple_of(PARTIAL_ONE_IN);
        let (new, old) = (self.directory.with_extension("new"), self.directory.with_extension("old"));
        let root = fs::metadata(&self.directory)?.ino();
        let mut dropped = Dropped::default();
        let mut survives = |length: u64| if partial { random.below(length + 1) } else { 0 };
        self.rebuild(root, &new, Some(&self.directory), &mut survives, &mut dropped)?;
        fs::rename(&self.directory, &old)?;
        fs::rename(&new, &self.directory)?;
        fs::remove_dir_all(&old)?;
        self.settle()?;
        Ok(dropped)
    }

    fn of(&self, kind: &str, inode: u64) -> PathBuf {
        self.platter.join(kind).join(inode.to_string())
    }

    /// Makes a directory of what is synced of it; `live` is the same as the page cache has it.
    fn rebuild(
        &self,
        inode: u64,
        into: &Path,
        live: Option<&Path>,
        survives: &mut dyn FnMut(u64) -> u64,
        dropped: &mut Dropped,
    ) -> Result<()> {
        fs::create_dir_all(into)?;
        let listed = match fs::read(self.of("names", inode)) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let names = parse_names(&listed)?;
        let mut now = BTreeMap::new();
        for entry in live.map(fs::read_dir).transpose()?.into_iter().flatten() {
            let entry = entry?;
            now.insert(entry.file_name(), entry.metadata()?.ino());
        }
        dropped.names +=
            now.iter().filter(|(name, inode)| names.get(*name).map(|(_, i)| i) != Some(inode)).count() as u64;
        dropped.names += names.keys().filter(|name| !now.contains_key(*name)).count() as u64;
        for (name, (is_directory, inode)) in &names {
            let target = into.join(name);
            if *is_directory {
                let live = live.map(|live| live.join(name)).filter(|live| live.is_dir());
                self.rebuild(*inode, &target, live.as_deref(), survives, dropped)?;
            } else {
                let synced = read_or_empty(&self.of("inodes", *inode))?;
                let live = read_or_empty(&self.of("live", *inode))?;
                dropped.bytes += differing_bytes(&synced, &live);
                let upto = usize::try_from(survives(live.len() as u64))?;
                let mut bytes = live.get(..upto).unwrap_or_default().to_vec();
                bytes.extend_from_slice(synced.get(upto..).unwrap_or_default());
                write_sparse(&target, &bytes)?;
            }
        }
        Ok(())
    }

    /// Everything that is in the data directory now is synced.
    fn settle(&self) -> Result<()> {
        if self.platter.exists() {
            fs::remove_dir_all(&self.platter)?;
        }
        for kind in ["inodes", "names", "live"] {
            fs::create_dir_all(self.platter.join(kind))?;
        }
        self.settle_directory(&self.directory)
    }

    fn settle_directory(&self, directory: &Path) -> Result<()> {
        let mut listed = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let (path, metadata) = (entry.path(), entry.metadata()?);
            let kind = if metadata.is_dir() { 'd' } else { 'f' };
            write!(listed, "{kind}{}\0", metadata.ino())?;
            listed.extend_from_slice(entry.file_name().as_bytes());
            listed.push(0);
            if metadata.is_dir() {
                self.settle_directory(&path)?;
            } else {
                write_sparse(&self.of("inodes", metadata.ino()), &fs::read(&path)?)?;
                fs::hard_link(&path, self.of("live", metadata.ino()))?;
            }
        }
        Ok(fs::write(self.of("names", fs::metadata(directory)?.ino()), listed)?)
    }
}

/// Names of a directory, each with whether it is one itself, and its inode.
fn parse_names(listed: &[u8]) -> Result<BTreeMap<OsString, (bool, u64)>> {
    let mut names = BTreeMap::new();
    let mut parts = listed.split(|byte| *byte == 0);
    while let (Some(what), Some(name)) = (parts.next(), parts.next()) {
        let (kind, inode) = what.split_first().context("a name without an inode")?;
        let inode = std::str::from_utf8(inode)?.parse()?;
        names.insert(OsString::from_vec(name.to_vec()), (*kind == b'd', inode));
    }
    Ok(names)
}

fn read_or_empty(path: &Path) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => Ok(read?),
    }
}

fn differing_bytes(one: &[u8], other: &[u8]) -> u64 {
    let same = one.iter().zip(other).filter(|(one, other)| one == other).count();
    (one.len().max(other.len()) - same) as u64
}

/// Writes a file, but not its zeros: databases reserve long files.
fn write_sparse(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::create(path)?;
    file.set_len(bytes.len() as u64)?;
    for (at, block) in (0..).zip(bytes.chunks(1 << 16)) {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, at << 16)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;

    use super::*;
    use crate::preload::{self, Library};

    /// Set for the program that this test runs again, with the library preloaded.
    const WRITES: &str = "POWER_TEST_WRITES";

    /// What the preloaded process does: some of it synced, some of it not.
    fn write(data: &Path) {
        let synced = |name: &str, bytes: &[u8]| {
            let mut file = File::create(data.join(name)).unwrap();
            file.write_all(bytes).unwrap();
            file.sync_all().unwrap();
            file
        };
        let mut kept = synced("kept", b"synced");
        drop(synced("renamed", b"old"));
        drop(synced("removed", b"still there"));
        File::open(data).unwrap().sync_all().unwrap();
        kept.write_all(b" and lost").unwrap();
        drop(synced("nameless", b"no entry"));
        let replacement = synced("replacement", b"new");
        drop(replacement);
        fs::rename(data.join("replacement"), data.join("renamed")).unwrap();
        fs::remove_file(data.join("removed")).unwrap();
        fs::create_dir(data.join("folder")).unwrap();
        drop(synced("folder/inside", b"of an unsynced folder"));
        let long = File::create(data.join("kept-long")).unwrap();
        long.set_len(3 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&long, b"in the middle", 1 << 20).unwrap();
        long.sync_data().unwrap();
        File::open(data).unwrap().sync_all().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&long, b"lost", 2 << 20).unwrap();
        drop(synced("behind", b"the second sync of the directory"));
    }

    #[test]
    fn what_was_not_synced_is_gone_names_included() {
        if let Some(data) = std::env::var_os(WRITES) {
            return write(Path::new(&data));
        }
        let folder = tempfile::tempdir().unwrap();
        let library = preload::build(Library::Power, folder.path()).unwrap();
        let mut power = Power::new(folder.path().join("data"), folder.path().join("platter")).unwrap();
        let name = "power::tests::what_was_not_synced_is_gone_names_included";
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args([name, "--exact"]).env("LD_PRELOAD", &library).envs(power.environment());
        assert!(again.env(WRITES, folder.path().join("data")).output().unwrap().status.success());

        let data = folder.path().join("data");
        let read = |name: &str| fs::read(data.join(name)).ok();
        assert_eq!(read("kept").unwrap(), b"synced and lost", "the page cache has it");
        let dropped = power.cut(&mut Random::new(1)).unwrap();
        assert_eq!(read("kept").unwrap(), b"synced");
        assert_eq!(read("renamed").unwrap(), b"new", "the directory was synced behind it");
        assert_eq!((read("removed"), read("behind")), (None, None));
        assert_eq!(read("nameless").unwrap(), b"no entry", "and behind this one, too");
        assert!(data.join("folder").is_dir() && read("folder/inside").is_none(), "but not the folder itself");
        let long = read("kept-long").unwrap();
        assert_eq!((long.len(), &long[1 << 20..(1 << 20) + 13]), (3 << 20, &b"in the middle"[..]));
        assert!(long[2 << 20..].iter().all(|byte| *byte == 0));
        assert_eq!(dropped, Dropped { bytes: 9 + 4, names: 2 });
        assert_eq!(power.cut(&mut Random::new(1)).unwrap(), Dropped::default(), "what is left is synced");
    }
}
