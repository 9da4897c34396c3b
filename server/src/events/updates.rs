//! Changes of one document, told together: a document that many write to is one event a second.

use std::collections::BTreeMap;

use etherply_engine::ids::DocumentId;

use super::{Event, Events};

/// Most documents of a core whose changes wait to be told; with more, all are told at once.
pub const EVENT_UPDATES_MAX: usize = 1_024;

/// What became durable of a document since the last event about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// The document.
    pub document: DocumentId,
    /// Pushes with new changes.
    pub pushes: u64,
    /// New changes.
    pub changes: u64,
    /// The position of the last one.
    pub last_seq: u64,
}

/// What waits on one core, by the documents' handles.
#[derive(Debug, Default)]
pub(crate) struct Updates(BTreeMap<u32, Updated>);

impl Updates {
    /// Notes a push. `document` is asked once an event; without a name there is nothing to tell of.
    pub(crate) fn note(
        &mut self,
        events: &Events,
        handle: u32,
        changes: u32,
        last_seq: u64,
        document: impl FnOnce() -> Option<DocumentId>,
    ) {
        if !self.0.contains_key(&handle) {
            let Some(document) = document() else { return };
            if self.0.len() >= EVENT_UPDATES_MAX {
                self.tell(events);
            }
            self.0.insert(handle, Updated { document, pushes: 0, changes: 0, last_seq: 0 });
        }
        if let Some(updated) = self.0.get_mut(&handle) {
            updated.pushes += 1;
            updated.changes += u64::from(changes);
            updated.last_seq = last_seq;
        }
    }

    /// Tells all that waits.
    pub(crate) fn tell(&mut self, events: &Events) {
        for updated in std::mem::take(&mut self.0).into_values() {
            events.tell(|| Event::Updated(updated));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn changes_of_a_document_are_one_event() {
        let events = Events::new(&Metrics::new(None).unwrap());
        events.heard_by.store(1, Ordering::Relaxed);
        let mut updates = Updates::default();
        for seq in 1..=1_000 {
            updates.note(&events, 4, 2, seq * 2, || Some(DocumentId::new("notes").unwrap()));
        }
        updates.note(&events, 5, 1, 1, || None);
        assert!(events.receiver.is_empty());
        updates.tell(&events);
        updates.tell(&events);
        let told: Vec<Event> = events.receiver.drain().collect();
        let document = DocumentId::new("notes").unwrap();
        assert_eq!(
            told,
            [Event::Updated(Updated { document, pushes: 1_000, changes: 2_000, last_seq: 2_000 })]
        );
    }

    #[test]
    fn more_documents_than_may_wait_are_told_at_once() {
        let events = Events::new(&Metrics::new(None).unwrap());
        events.heard_by.store(1, Ordering::Relaxed);
        let mut updates = Updates::default();
        let mut note = |handles: std::ops::Range<usize>| {
            for handle in handles {
                let name = format!("rooms/{handle}");
                updates.note(&events, u32::try_from(handle).unwrap(), 1, 1, || DocumentId::new(&name).ok());
            }
            (updates.0.len(), events.receiver.len())
        };
        assert_eq!(note(0..EVENT_UPDATES_MAX - 1), (EVENT_UPDATES_MAX - 1, 0));
        assert_eq!(note(EVENT_UPDATES_MAX - 1..EVENT_UPDATES_MAX), (EVENT_UPDATES_MAX, 0));
        assert_eq!(note(0..EVENT_UPDATES_MAX), (EVENT_UPDATES_MAX, 0));
        assert_eq!(note(EVENT_UPDATES_MAX..EVENT_UPDATES_MAX + 1), (1, EVENT_UPDATES_MAX));
    }
}
