//! Documents out of a data directory, in files that Automerge can load without EtherPly.
//!
//! `OUT/index.json` lists them; each file holds a document's changes, one chunk behind the other.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use etherply_engine::document::recover;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{LogError, LogReader as _};
use serde::Serialize;

use crate::storage::error::advice;
use crate::storage::{self, OpenError, Reader};

/// Documents that are listed at once.
const PAGE: usize = 1_000;
/// Bytes of changes that are read at once.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The data directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A document cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file cannot be written.
    #[error("cannot write {}: {reason}: {}", path.display(), advice(reason))]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
}

impl ExportError {
    /// A stable name of the error, for scripts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Open(error) => error.code(),
            Self::Log(error) => error.code(),
            Self::Write { .. } => "file_io",
        }
    }
}

/// One exported document.
#[derive(Debug, Serialize)]
pub struct Exported {
    /// Its name.
    pub document: String,
    /// Its file's name.
    pub file: String,
    /// Its epoch.
    pub epoch: u64,
    /// Its last position.
    pub seq: u64,
    /// Its changes.
    pub changes: u64,
    /// Its heads, in hexadecimal.
    pub heads: Vec<String>,
}

/// What an export did.
#[derive(Debug)]
pub struct Export {
    /// The documents that were written.
    pub exported: Vec<Exported>,
    /// Those that are damaged, and were not: what the log says of each.
    pub damaged: Vec<LogError>,
}

/// Exports every document that is whole; `progress` is told how many are done.
///
/// # Errors
/// [`ExportError`]. A damaged document is none: see [`Export::damaged`].
pub fn export(data: &Path, out: &Path, mut progress: impl FnMut(usize)) -> Result<Export, ExportError> {
    let log = storage::open_existing(data)?;
    let reader = log.reader();
    fs::create_dir(out).map_err(|reason| ExportError::Write { path: out.to_owned(), reason })?;
    let (mut exported, mut damaged): (Vec<Exported>, Vec<LogError>) = (Vec::new(), Vec::new());
    let mut after: Option<DocumentId> = None;
    loop {
        let page = reader.documents("", after.as_ref(), PAGE)?;
        let Some(last) = page.last() else { break };
        after = Some(last.document.clone());
        for entry in page.into_iter().filter(|entry| !entry.is_deleted()) {
            let file = format!("{:08}.automerge", exported.len());
            match export_one(reader, &entry.document, out, file.clone()) {
                Ok(document) => exported.push(document),
                Err(ExportError::Log(damage @ LogError::Damaged { .. })) => {
                    // If it was begun: a part of a document is not to be taken for it.
                    drop(fs::remove_file(out.join(file)));
                    damaged.push(damage);
                }
                Err(error) => return Err(error),
            }
            progress(exported.len());
        }
    }
    let path = out.join("index.json");
    let index = serde_json::to_vec_pretty(&exported).map_err(io::Error::from);
    index.and_then(|index| fs::write(&path, index)).map_err(|reason| ExportError::Write { path, reason })?;
    Ok(Export { exported, damaged })
}

fn export_one(reader: &Reader, id: &DocumentId, out: &Path, file: String) -> Result<Exported, ExportError> {
    // Proves on the way that the log is whole.
    let document = recover(reader, id)?;
    let end = document.committed();
    let path = out.join(&file);
    let written = |reason| ExportError::Write { path: path.clone(), reason };
    let mut target = BufWriter::new(File::create(&path).map_err(written)?);
    // What the snapshot has, as Automerge saved it, and the changes behind it.
    let mut seq = 0;
    if let Some((anchor, bytes)) = reader.snapshot(id, end.epoch)? {
        target.write_all(&bytes).map_err(written)?;
        seq = anchor.anchor.snapshot.cursor.seq;
    }
    while seq < end.seq {
        let records = reader.read(id, end.epoch, seq, end.seq, READ_BYTES_MAX)?;
        let Some(last) = records.last() else { break };
        seq = last.seq;
        for record in &records {
            target.write_all(&record.change).map_err(written)?;
        }
    }
    let changes = seq;
    target.flush().map_err(written)?;
    let heads = document.heads().iter().map(|head| head.hash.to_string()).collect();
    Ok(Exported { document: id.to_string(), file, epoch: end.epoch, seq: end.seq, changes, heads })
}

#[cfg(test)]
mod tests {
    use etherply_engine::log::Log as _;

    use super::*;
    use crate::storage::testing::{RealAuthor, spoil_head, unlocked};

    #[test]
    fn a_damaged_document_is_named_and_the_others_are_written() {
        let root = tempfile::tempdir().unwrap();
        let (data, out) = (root.path().join("data"), root.path().join("out"));
        let mut author = RealAuthor::new();
        let mut log = storage::open(&data).unwrap();
        let mut spoilt = author.append("b", 4);
        spoilt.records[2].chain = spoilt.records[0].chain;
        let c = author.append("c", 3);
        log.commit(&[author.append("a", 2), spoilt, c.clone(), author.append("d", 1)]).unwrap();
        // Neither its log, nor where it stands.
        log.commit(&[author.append("a", 1)]).unwrap();
        spoil_head(&mut log, "d");
        drop(log);
        let export = || {
            export(&data, &out, |_| {}).map_err(|error| match error {
                ExportError::Open(error) => error,
                other => panic!("{other}"),
            })
        };
        let Export { exported, damaged } = unlocked(export).unwrap();
        let damaged: Vec<String> = damaged.iter().map(ToString::to_string).collect();
        assert!(
            damaged.len() == 2 && damaged[0].contains("document b:") && damaged[1].contains("document d:")
        );
        let changes: Vec<_> =
            exported.iter().map(|document| (document.document.as_str(), document.changes)).collect();
        assert_eq!(changes, [("a", 3), ("c", 3)]);
        let mut names: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["00000000.automerge", "00000001.automerge", "index.json"]);
        let changes: Vec<u8> = c.records.iter().flat_map(|record| record.change.to_vec()).collect();
        assert_eq!(fs::read(out.join("00000001.automerge")).unwrap(), changes);
    }
}
