//! Panics on purpose while changes are applied, for tests: only builds for tests have them.
//!
//! `ETHERPLY_POISON=TEXT`: every change that contains this text panics. `ETHERPLY_APPLY_FAULTS=PREFIX:EVERY`: every
//! so many'th application to a document whose name begins so panics, whatever the change.

use std::sync::{Mutex, OnceLock, PoisonError};

use etherply_engine::faults::Faults;
use etherply_engine::ids::DocumentId;
use etherply_engine::record::Record;

struct Forced {
    poison: Option<Vec<u8>>,
    now_and_then: Mutex<Faults>,
}

static FORCED: OnceLock<Forced> = OnceLock::new();

/// Passes the place where changes are applied.
///
/// # Panics
/// If it was asked for.
#[allow(clippy::panic, reason = "this is what it is for")]
pub(super) fn pass(document: &DocumentId, records: &[Record]) {
    if !cfg!(debug_assertions) {
        return;
    }
    let forced = FORCED.get_or_init(|| Forced {
        poison: std::env::var("ETHERPLY_POISON").ok().map(String::into_bytes),
        now_and_then: Mutex::new(now_and_then()),
    });
    if let Some(poison) = &forced.poison {
        let holds = |record: &Record| record.change.windows(poison.len().max(1)).any(|at| at == poison);
        assert!(!records.iter().any(holds), "forced: a change that is poison");
    }
    // A poisoned lock is this place's own doing.
    forced.now_and_then.lock().unwrap_or_else(PoisonError::into_inner).pass(document, "apply");
}

fn now_and_then() -> Faults {
    let asked = std::env::var("ETHERPLY_APPLY_FAULTS").ok();
    let parsed = asked.as_deref().and_then(|asked| asked.rsplit_once(':'));
    match parsed.map(|(documents, every)| (documents, every.parse())) {
        Some((documents, Ok(every))) => Faults::new(documents.to_owned(), every),
        _ => Faults::none(),
    }
}
