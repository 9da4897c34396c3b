//! A data directory, looked at from outside: no database is opened, and nothing is changed.
//!
//! fjall deletes and truncates files while it opens, and refuses all of a database for one damaged block. So
//! `verify` and `repair` read its files themselves, and take what proves itself.
//!
//! ```text
//! table      one table file
//! journals   what can be read of the journals
//! merge      all rows of a keyspace, in order
//! walk       every document, proven
//! mend       what a log lacks and its snapshot has
//! report     what was found
//! ```

pub mod journals;
pub mod merge;
pub mod report;
pub mod table;
pub mod walk;

use std::path::{Path, PathBuf};

use journals::Journals;
use merge::Merge;

use super::directory::{DataDirectory, Inspected};
use super::error::{Damage, OpenError};
use super::keys::{DirectoryId, KeyspaceId};
use super::ledger::{self, Mark};
use super::manifest::{self, Listed};
use super::scan::{self, Scan};

/// How far a look at a directory has come, in bytes of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes read.
    pub done: u64,
    /// Bytes to be read in all.
    pub total: u64,
}

/// A data directory that is looked at.
pub struct Inspection {
    directory: DataDirectory,
    /// What is damaged, file by file.
    damage: Vec<Damage>,
    scan: Option<Scan>,
    ledger: Option<Mark>,
    journals: Journals,
    tables: Vec<(KeyspaceId, Vec<Vec<Listed>>)>,
    progress: Progress,
}

impl Inspection {
    /// Takes the directory and reads all but its tables.
    ///
    /// # Errors
    /// Only if one cannot look: there is no data, a server runs, a file cannot be read. Damage is no error here.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let Inspected { directory, damage, is_incomplete } = DataDirectory::inspect(path)?;
        let mut inspection = Self {
            directory,
            damage: Vec::new(),
            scan: None,
            ledger: None,
            journals: Journals::default(),
            tables: Vec::new(),
            progress: Progress::default(),
        };
        if is_incomplete {
            return Ok(inspection);
        }
        let id = inspection.directory.id();
        if let Some(damage) = damage {
            inspection.note(damage)?;
        }
        match scan::scan(&inspection.directory) {
            Ok(scan) => {
                inspection.ledger = Some(scan.ledger.last);
                inspection.scan = Some(scan);
            }
            Err(damage) => {
                inspection.note(damage)?;
                // What it says of a whole ledger is true whatever else is damaged.
                inspection.ledger =
                    ledger::scan(&inspection.directory.ledger_path(), id).ok().map(|ledger| ledger.last);
            }
        }
        let database = inspection.directory.database_path();
        let paths = scan::all_journals(&database);
        let is_sound = inspection.scan.is_some();
        inspection.journals = Journals::read(paths.iter().map(PathBuf::as_path), id, is_sound)?;
        for keyspace in KeyspaceId::ALL {
            let runs = inspection.list_tables(&manifest::keyspace_folder(&database, keyspace))?;
            inspection.tables.push((keyspace, runs));
        }
        let listed = inspection.tables.iter().flat_map(|(_, runs)| runs.iter().flatten());
        let bytes: u64 = listed.filter_map(|listed| Some(listed.path.metadata().ok()?.len())).sum();
        // Each table is read twice: all of it for its checksum, then its rows.
        inspection.progress.total = 2 * bytes;
        Ok(inspection)
    }

    /// Keeps damage for the report; whatever else it is goes on as an error.
    fn note(&mut self, error: OpenError) -> Result<(), OpenError> {
        let damage = match error {
            OpenError::Damaged(damage) => *damage,
            other => return Err(other),
        };
        // What is missing or changed in one place is often seen in several.
        if !self.damage.iter().any(|known| (&known.path, known.offset) == (&damage.path, damage.offset)) {
            self.damage.push(damage);
        }
        Ok(())
    }

    fn list_tables(&mut self, folder: &Path) -> Result<Vec<Vec<Listed>>, OpenError> {
        match manifest::tables(folder) {
            Ok(runs) => Ok(runs),
            Err(error) => {
                self.note(error)?;
                // Every file that is there. Those that compaction had replaced hold older versions of rows.
                let listed = |path| vec![Listed { path, checksum: None, seqno_base: 0 }];
                Ok(manifest::files(folder).into_iter().map(listed).collect())
            }
        }
    }

    /// Compares every table with its checksum.
    fn check_tables(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), OpenError> {
        let internal = manifest::keyspace_folder_of(&self.directory.database_path(), 0);
        let internal = self.list_tables(&internal)?;
        let tables: Vec<Listed> =
            self.tables.iter().flat_map(|(_, runs)| runs).chain(&internal).flatten().cloned().collect();
        for listed in tables {
            let damage = match table::file_checksum(&listed.path) {
                Ok(checksum) if listed.checksum.is_none_or(|expected| expected == checksum) => None,
                Ok(_) => Some("the table is not what was written"),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("the table is missing"),
                Err(error) => return Err(OpenError::io(&listed.path, "read the table")(error)),
            };
            if let Some(what) = damage {
                self.note(OpenError::damaged(&listed.path, None, what))?;
            }
            self.progress.done += listed.path.metadata().map_or(0, |file| file.len());
            progress(self.progress);
        }
        Ok(())
    }

    /// The rows of a keyspace.
    fn rows(&mut self, keyspace: KeyspaceId) -> Result<Merge, OpenError> {
        let runs = self.tables.iter_mut().find(|(id, _)| *id == keyspace);
        let runs = runs.map(|(_, runs)| std::mem::take(runs)).unwrap_or_default();
        let rows = self.journals.take_rows(keyspace);
        Merge::new(runs, rows).map_err(OpenError::io(&self.directory.database_path(), "read the tables"))
    }

    fn id(&self) -> DirectoryId {
        self.directory.id()
    }
}
