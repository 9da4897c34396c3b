//! How deep objects are nested, and a stack that is deep enough for it.
//!
//! Automerge reads nested objects by calling itself, and so do JSON's writer and whatever frees such a value. A
//! stack that ends ends the process, which no `catch_unwind` can help. A client may nest as deep as it has
//! operations: so nothing recursive is called before a look that does not recurse, and then on a stack that holds it.

use std::thread::Builder;

use automerge::{Automerge, AutomergeError, ChangeHash, ObjType, ROOT, ReadDoc, ValueRef};

use crate::storage::database::panic_text;

/// Objects within one another, the document itself included, that are read as one value.
pub const DEPTH_MAX: usize = 500;
/// Stack of a thread that reads them: 64 KiB for each level, of which the largest need a tenth.
pub const DEEP_STACK_BYTES: usize = 32 * 1024 * 1024;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All objects, from the document on.
    Document,
    /// Those within texts, whose blocks are values with everything in them; from each text on.
    Blocks,
}

/// Whether nothing of a document, as it was at some heads, is nested deeper than [`DEPTH_MAX`]. Takes time in
/// proportion to the document.
///
/// # Errors
/// Automerge's.
pub fn is_within(automerge: &Automerge, heads: &[ChangeHash], depth: Depth) -> Result<bool, AutomergeError> {
    let mut objects = vec![(ROOT, ObjType::Map, 1)];
    while let Some((object, kind, level)) = objects.pop() {
        if level > DEPTH_MAX {
            return Ok(false);
        }
        let inner = match depth {
            Depth::Blocks if level == 1 && kind != ObjType::Text => 1,
            _ => level + 1,
        };
        match kind {
            ObjType::Map | ObjType::Table => {
                for item in automerge.map_range_at(&object, .., heads) {
                    if let ValueRef::Object(kind) = item.value {
                        objects.push((item.id(), kind, inner));
                    }
                }
            }
            ObjType::List | ObjType::Text => {
                for item in automerge.list_range_at(&object, .., heads) {
                    if let ValueRef::Object(kind) = item.value {
                        objects.push((item.id(), kind, inner));
                    }
                }
            }
        }
    }
    Ok(true)
}

/// Does what may recurse to [`DEPTH_MAX`] and what may panic on a thread of its own. What it said if it panicked.
pub fn contained<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = Builder::new().name("deep".to_owned()).stack_size(DEEP_STACK_BYTES);
        let thread = thread
            .spawn_scoped(scope, work)
            .map_err(|error| format!("the system gives no thread for it: {error}"))?;
        thread.join().map_err(|panic| format!("it panicked: {}", panic_text(&*panic)))
    })
}

#[cfg(test)]
#[path = "depth_tests.rs"]
mod tests;
