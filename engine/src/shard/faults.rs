//! Panics on purpose, to test what a panic may harm. A shard has none unless a test gives it some.

use crate::ids::DocumentId;

/// Panics in the work on some documents, at every so many'th place where one can be forced.
#[derive(Debug, Clone)]
pub struct Faults {
    documents: String,
    every: u32,
    passed: u32,
}

impl Faults {
    /// Panics at every `every`th place that the work on documents passes whose names begin with `documents`.
    /// With 0 there are none.
    pub fn new(documents: String, every: u32) -> Self {
        Self { documents, every, passed: 0 }
    }

    /// Passes such a place.
    #[allow(clippy::panic, reason = "this is what it is for")]
    pub(super) fn pass(&mut self, document: &DocumentId, place: &str) {
        if self.every == 0 || !document.as_str().starts_with(&self.documents) {
            return;
        }
        self.passed += 1;
        if self.passed >= self.every {
            self.passed = 0;
            panic!("forced: {place}");
        }
    }
}
