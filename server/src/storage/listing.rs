//! The list of documents. What is damaged of one document's row is said at its place, and never ends the list.

use std::ops::Bound::{self, Excluded, Included, Unbounded};

use etherply_engine::ids::DocumentId;
use etherply_engine::log::LogError;
use fjall::Readable as _;

use super::database::is_damage;
use super::keys::{Head, is_past_key, parse_change_key, rows_of_document};
use super::log::{decode_head, read_failed, unavailable};
use super::reader::{Reader, View};

/// A document as [`Reader::documents`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentEntry {
    /// The document.
    pub document: DocumentId,
    /// Epoch and last position, or its tombstone; [`LogError::Damaged`] if the row that says so is.
    pub head: Result<Head, LogError>,
}

impl DocumentEntry {
    /// Whether it is known to be deleted: only its name is taken then.
    pub fn is_deleted(&self) -> bool {
        self.head.as_ref().is_ok_and(Head::is_deleted)
    }
}

impl Reader {
    /// Documents, deleted ones included, whose names begin with `prefix`, in the order of their bytes, at most
    /// `count_max` of them, behind `after` if it is given: the next page begins behind the last one's end.
    ///
    /// Where the list itself is damaged, documents are known by their records, and their heads are damaged.
    /// Tombstones and documents without records cannot be found there.
    ///
    /// # Errors
    /// The log cannot be read, or the list is damaged where no document tells of it.
    pub fn documents(
        &self,
        prefix: &str,
        after: Option<&DocumentId>,
        count_max: usize,
    ) -> Result<Vec<DocumentEntry>, LogError> {
        let view = self.view()?;
        let after = after.filter(|after| after.as_str() >= prefix);
        let from = after.map_or(Included(prefix), |after| Excluded(after.as_str()));
        let mut page: Vec<DocumentEntry> = Vec::new();
        for row in view.committed.range::<&str, _>(&view.opened.keyspaces.documents, (from, Unbounded)) {
            if page.len() >= count_max {
                break;
            }
            let (key, stored) = match row.into_inner() {
                Ok(row) => row,
                Err(error) if is_damage(&error) => {
                    let after = page.last().map(|last| &last.document).or(after);
                    let found = view.documents_by_records(prefix, after, count_max - page.len())?;
                    // Somebody has to be named, here or at the end of the page before: a list must not look whole.
                    let is_named = found.iter().any(|entry| entry.head.is_err())
                        || after.is_some_and(|after| view.head(after).is_err());
                    if !is_named {
                        return Err(read_failed(&error));
                    }
                    page.extend(found);
                    break;
                }
                Err(error) => return Err(read_failed(&error)),
            };
            if is_past_key(&key) {
                continue;
            }
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            let document = std::str::from_utf8(&key).ok().and_then(|name| DocumentId::new(name).ok());
            let document = document.ok_or_else(|| {
                unavailable(format!(
                    "the list of documents holds a name that is none: {}",
                    key.escape_ascii()
                ))
            })?;
            let head = decode_head(&document, &stored);
            page.push(DocumentEntry { document, head });
        }
        Ok(page)
    }
}

impl View {
    /// The next documents of which there are records.
    fn documents_by_records(
        &self,
        prefix: &str,
        after: Option<&DocumentId>,
        count_max: usize,
    ) -> Result<Vec<DocumentEntry>, LogError> {
        let behind = |document: &DocumentId| Included(rows_of_document(document).end);
        let mut from: Bound<Vec<u8>> = after.map_or(Included(prefix.as_bytes().to_vec()), behind);
        let mut found = Vec::new();
        while found.len() < count_max {
            let range = (from.clone(), Unbounded);
            let Some(row) = self.committed.range::<Vec<u8>, _>(&self.opened.keyspaces.changes, range).next()
            else {
                break;
            };
            let key = row.key().map_err(|error| read_failed(&error))?;
            let Some((document, ..)) = parse_change_key(&key) else {
                // The row without a meaning, before all documents.
                from = Excluded(key.to_vec());
                continue;
            };
            if !document.as_str().starts_with(prefix) {
                break;
            }
            from = behind(&document);
            match self.head(&document) {
                // Rows of a document that never came to be.
                Ok(None) => {}
                Ok(Some(head)) => found.push(DocumentEntry { document, head: Ok(head) }),
                Err(damage @ LogError::Damaged { .. }) => {
                    found.push(DocumentEntry { document, head: Err(damage) });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
