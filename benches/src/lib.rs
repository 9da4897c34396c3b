//! What the benchmarks have in common: real changes, made by Automerge, and a document with members.

pub mod author;
pub mod room;

use automerge::transaction::Transactable as _;
use automerge::{AutoCommit, ObjType, ROOT};

/// `count` changes of one writer, each of which sets a key of a map to a text of `value_bytes`.
///
/// # Errors
/// What Automerge says, which is nothing for edits like these.
pub fn map_edits(count: usize, value_bytes: usize) -> Result<Vec<Vec<u8>>, automerge::AutomergeError> {
    let mut document = AutoCommit::new();
    for n in 0..count {
        // Another value each time: a put of what is there already is no change.
        document.put(ROOT, format!("k{}", n % 16), format!("{n:>value_bytes$}"))?;
        document.commit();
    }
    Ok(document.get_changes(&[]).iter().map(|change| change.raw_bytes().to_vec()).collect())
}

/// One change that types a text of `length` characters.
///
/// # Errors
/// What Automerge says, which is nothing for edits like these.
pub fn text_edit(length: usize) -> Result<Vec<u8>, automerge::AutomergeError> {
    let mut document = AutoCommit::new();
    let text = document.put_object(ROOT, "text", ObjType::Text)?;
    document.splice_text(&text, 0, 0, &"lorem ipsum ".repeat(length.div_ceil(12)))?;
    document.commit();
    Ok(document.get_changes(&[]).last().map(|change| change.raw_bytes().to_vec()).unwrap_or_default())
}
