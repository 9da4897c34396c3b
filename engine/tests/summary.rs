//! A summary of the version before there were subjects is read, and says that actors belong to nobody.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use etherply_engine::document::{Document, Summary};
use etherply_engine::ids::DocumentId;

#[test]
fn a_summary_without_subjects_is_read() {
    let summary = Document::new(DocumentId::new("a").unwrap(), 3).summary().unwrap();
    let mut bytes = summary.encode();
    assert_eq!(bytes[0], 2);
    assert_eq!(Summary::decode(&bytes).as_ref(), Some(&summary));
    // No heads, subjects, actors and genesis: the count of subjects is one of four zeros at the end.
    bytes.truncate(bytes.len() - 4);
    assert_eq!(Summary::decode(&bytes), None);
    bytes[0] = 1;
    assert_eq!(Summary::decode(&bytes), Some(summary));
    bytes[0] = 3;
    assert_eq!(Summary::decode(&bytes), None);
}
