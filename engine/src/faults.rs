//! Panics on purpose, to test what a panic may harm. There are none unless a test asks for some.

use crate::ids::DocumentId;

/// Panics in the work on some documents, at every so many'th place where one can be forced.
#[derive(Debug, Clone)]
pub struct Faults {
    documents: String,
    every: u32,
    passed: u32,
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

impl Faults {
    /// Panics at every `every`th place that the work on documents passes whose names begin with `documents`.
    /// With 0 there are none.
    pub fn new(documents: String, every: u32) -> Self {
        Self { documents, every, passed: 0 }
    }

    /// None at all.
    pub fn none() -> Self {
        Self::new(String::new(), 0)
    }

    /// Passes such a place in the work on a document.
    ///
    /// # Panics
    ///
    /// When it is that place's turn.
    #[allow(clippy::panic, reason = "this is what it is for")]
    pub fn pass(&mut self, document: &DocumentId, place: &str) {
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
