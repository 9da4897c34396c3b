//! Reads a backup from front to back and checks everything that its format promises.
//!
//! Beside the sections' checksums: that each document's records are whole, follow one another, and go as far as
//! its header says; that each change is the one that its record names; that the totals are those of the end.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::{ChangeLimits, parse_header};
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::record::Record;

use super::format::{self, Begin, DocumentHeader, End, Kind, Section, SectionReader};
use super::{BackupError, Summary};
use crate::storage::versions::{Version, checksum};

/// What is done with a backup's contents on the way.
pub trait Visitor {
    /// A document begins.
    ///
    /// # Errors
    /// Ends the walk.
    fn document(&mut self, _header: &DocumentHeader) -> Result<(), BackupError> {
        Ok(())
    }

    /// Its next records.
    ///
    /// # Errors
    /// Ends the walk.
    fn records(&mut self, _header: &DocumentHeader, _records: Vec<Record>) -> Result<(), BackupError> {
        Ok(())
    }

    /// One of its named versions, behind its records.
    ///
    /// # Errors
    /// Ends the walk.
    fn version(
        &mut self,
        _header: &DocumentHeader,
        _version: &Version,
        _automerge: &[u8],
    ) -> Result<(), BackupError> {
        Ok(())
    }

    /// It ends; `last_seq` is the position of the last record that is there.
    ///
    /// # Errors
    /// Ends the walk.
    fn document_end(&mut self, _header: &DocumentHeader, _last_seq: u64) -> Result<(), BackupError> {
        Ok(())
    }

    /// All of the backup was read, and is whole.
    ///
    /// # Errors
    /// Is the walk's.
    fn walk_end(&mut self) -> Result<(), BackupError> {
        Ok(())
    }
}

/// For whoever only wants to know whether the backup is whole.
#[derive(Debug)]
pub struct CheckOnly;

impl Visitor for CheckOnly {}

/// The document that is being read.
struct Current {
    header: DocumentHeader,
    seq: u64,
    chain: ChainHash,
    is_damaged: bool,
    has_versions: bool,
    /// A version of which not all parts were read yet.
    version: Option<(Version, Vec<u8>)>,
}

struct Walk<'a, R> {
    sections: SectionReader<R>,
    visitor: &'a mut dyn Visitor,
    summary: Summary,
    current: Option<Current>,
    last_name: Option<DocumentId>,
}

/// Reads a backup. `path` is for errors; `progress` is told the bytes read so far.
///
/// # Errors
/// The first thing that is wrong with it, or the visitor's.
pub fn walk(
    source: impl Read,
    path: &Path,
    visitor: &mut dyn Visitor,
    progress: &mut dyn FnMut(u64),
) -> Result<Summary, BackupError> {
    let mut sections = SectionReader::new(source, path)?;
    let first = sections.next()?;
    let begin = match first.kind {
        Kind::Begin => Begin::decode(&first.payload).map_err(|found| sections.future_version(found))?,
        _ => None,
    };
    let Some(begin) = begin else {
        return Err(sections.damaged(first.offset, "it does not begin as a backup does"));
    };
    let summary = Summary {
        directory: format!("{:032x}", u128::from_be_bytes(begin.directory)),
        commit: begin.commit,
        taken_ms: begin.taken_ms,
        etherply: begin.etherply,
        ..Summary::default()
    };
    let mut walk = Walk { sections, visitor, summary, current: None, last_name: None };
    loop {
        let section = walk.sections.next()?;
        progress(walk.sections.bytes);
        if let Some(summary) = walk.take(&section)? {
            return Ok(summary);
        }
    }
}

impl<R: Read> Walk<'_, R> {
    fn damaged<T>(&self, section: &Section, what: impl Into<String>) -> Result<T, BackupError> {
        Err(self.sections.damaged(section.offset, what))
    }

    /// The summary, if that was the last section.
    fn take(&mut self, section: &Section) -> Result<Option<Summary>, BackupError> {
        match section.kind {
            Kind::Begin => return self.damaged(section, "it begins twice"),
            Kind::Document => self.document(section)?,
            Kind::Records => self.records(section)?,
            Kind::Damaged => self.note_damaged(section)?,
            Kind::Version => self.version(section)?,
            Kind::VersionPart => self.version_part(section)?,
            Kind::Ended => {
                let why = format::decode_ended(&section.payload).unwrap_or_default();
                return Err(BackupError::EndedBySource { why });
            }
            Kind::End => return self.end(section).map(Some),
        }
        Ok(None)
    }

    fn document(&mut self, section: &Section) -> Result<(), BackupError> {
        self.end_document(section)?;
        let Some(header) = DocumentHeader::decode(&section.payload) else {
            return self.damaged(section, "a document's header is not readable");
        };
        if self.last_name.as_ref().is_some_and(|last| *last >= header.document) {
            return self.damaged(section, "documents are not in the order of their names");
        }
        match header.is_deleted {
            true => self.summary.deleted += 1,
            false => self.summary.documents += 1,
        }
        self.last_name = Some(header.document.clone());
        self.visitor.document(&header)?;
        let chain = chain_start(&header.document, header.epoch);
        self.current =
            Some(Current { header, seq: 0, chain, is_damaged: false, has_versions: false, version: None });
        Ok(())
    }

    fn records(&mut self, section: &Section) -> Result<(), BackupError> {
        let Some(mut current) = self.current.take().filter(|current| current.takes_records()) else {
            return self.damaged(section, "records stand where none belong");
        };
        let mut records = Vec::new();
        for stored in format::decode_records(&section.payload) {
            let record = stored.ok_or_else(|| "a record is cut short".to_owned());
            match record.and_then(|stored| current.check(&stored)) {
                Ok(record) => records.push(record),
                Err(what) => {
                    let at = format!("{}, position {}: {what}", current.header.document, current.seq + 1);
                    return self.damaged(section, at);
                }
            }
        }
        self.summary.records += records.len() as u64;
        self.summary.change_bytes += records.iter().map(|record| record.change.len() as u64).sum::<u64>();
        self.visitor.records(&current.header, records)?;
        self.current = Some(current);
        Ok(())
    }

    fn version(&mut self, section: &Section) -> Result<(), BackupError> {
        let described = serde_json::from_slice::<Version>(&section.payload).ok();
        let current = self.current.as_mut().filter(|current| current.takes_versions());
        let (Some(version), Some(current)) = (described, current) else {
            return self.damaged(section, "a named version is not readable, or belongs to no document");
        };
        if version.document != current.header.document.as_str() {
            return self.damaged(section, "a named version belongs to another document");
        }
        current.has_versions = true;
        current.version = Some((version, Vec::new()));
        Ok(())
    }

    fn version_part(&mut self, section: &Section) -> Result<(), BackupError> {
        let Some(current) = &mut self.current else {
            return self.damaged(section, "a part of a named version belongs to none");
        };
        let Some((version, mut automerge)) = current.version.take() else {
            return self.damaged(section, "a part of a named version belongs to none");
        };
        automerge.extend_from_slice(&section.payload);
        let bytes = automerge.len() as u64;
        if bytes < version.bytes {
            current.version = Some((version, automerge));
            return Ok(());
        }
        if bytes > version.bytes || checksum(&automerge) != version.checksum {
            return self.damaged(section, format!("version {:?} is not what was written", version.name));
        }
        self.summary.versions += 1;
        self.visitor.version(&current.header, &version, &automerge)
    }

    fn note_damaged(&mut self, section: &Section) -> Result<(), BackupError> {
        let said = format::decode_damaged(&section.payload);
        let (Some((seq, what)), Some(current)) = (said, &mut self.current) else {
            return self.damaged(section, "a note of damage is not readable, or belongs to no document");
        };
        current.is_damaged = true;
        self.summary.note_damaged(current.header.document.as_str(), seq, &what);
        Ok(())
    }

    fn end_document(&mut self, section: &Section) -> Result<(), BackupError> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let Current { header, seq, is_damaged, .. } = &current;
        if current.version.is_some() {
            return self.damaged(section, format!("a named version of {} is cut short", header.document));
        }
        if !is_damaged && !header.is_deleted && *seq != header.last_seq {
            let what = format!("{} ends at {seq} instead of {}", header.document, header.last_seq);
            return self.damaged(section, what);
        }
        self.visitor.document_end(header, *seq)
    }

    fn end(&mut self, section: &Section) -> Result<Summary, BackupError> {
        self.end_document(section)?;
        let Some((end, hash)) = End::decode(&section.payload) else {
            return self.damaged(section, "its end is not readable");
        };
        if hash != section.hash_before {
            return self.damaged(section, "the hash over all of it does not match its bytes");
        }
        if end != End::from(&self.summary) {
            return self.damaged(section, "it does not hold as much as its end says");
        }
        self.sections.expect_end()?;
        self.visitor.walk_end()?;
        let mut summary = std::mem::take(&mut self.summary);
        summary.bytes = self.sections.bytes;
        Ok(summary)
    }
}

impl Current {
    fn takes_records(&self) -> bool {
        !self.is_damaged && !self.header.is_deleted && !self.has_versions
    }

    fn takes_versions(&self) -> bool {
        !self.is_damaged && !self.header.is_deleted && self.version.is_none()
    }

    /// The next record, if it is that.
    fn check(&mut self, stored: &Bytes) -> Result<Record, String> {
        let DocumentHeader { document, epoch, last_seq, .. } = &self.header;
        let record = Record::decode(stored, document, *epoch).map_err(|error| error.to_string())?;
        let (seq, chain) = (self.seq + 1, chain_next(&self.chain, self.seq + 1, &record.hash));
        if record.seq != seq || seq > *last_seq || record.chain != chain {
            return Err("the record does not follow the one before".to_owned());
        }
        let change =
            parse_header(&record.change, &ChangeLimits::DEFAULT).map_err(|error| error.to_string())?;
        if change.hash != record.hash {
            return Err("the change is not the one that its record names".to_owned());
        }
        (self.seq, self.chain) = (seq, chain);
        Ok(record)
    }
}
