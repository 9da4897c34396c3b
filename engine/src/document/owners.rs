//! Which subject each actor belongs to: the one whose push brought the actor's first change.
//!
//! The log tells it, by the pusher of that change, so it is the same after a restart. A change in the name of
//! another subject's actor is refused, unless the stream may import. An actor whose first change nobody in
//! particular pushed (there were no tokens then), and the genesis actor, belong to nobody: anybody may go on
//! as them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{GENESIS_ACTOR, Owner};

/// The subjects that have actors in a document, by numbers from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owners {
    subjects: Vec<Arc<str>>,
    numbers: BTreeMap<Arc<str>, u32>,
}

impl Owners {
    /// The owner of an actor whose first change this subject pushes.
    pub(super) fn of_first(&mut self, actor: &[u8], subject: &Arc<str>) -> Owner {
        if subject.is_empty() || actor == GENESIS_ACTOR {
            return Owner::default();
        }
        if let Some(&number) = self.numbers.get(subject) {
            return Owner(number);
        }
        self.subjects.push(Arc::clone(subject));
        // There are no more subjects than actors.
        let number = u32::try_from(self.subjects.len()).unwrap_or(u32::MAX);
        self.numbers.insert(Arc::clone(subject), number);
        Owner(number)
    }

    /// The subject, `None` for nobody.
    pub(super) fn subject(&self, owner: Owner) -> Option<&Arc<str>> {
        self.subjects.get(usize::try_from(owner.0).ok()?.checked_sub(1)?)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Forgets all but the first ones.
    pub(super) fn truncate(&mut self, len: usize) {
        for subject in self.subjects.drain(len.min(self.subjects.len())..) {
            self.numbers.remove(&subject);
        }
    }

    /// The subjects in the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.subjects.iter().map(|subject| &**subject)
    }

    /// Subjects in the order of their numbers; `None` if one stands there twice.
    pub(super) fn from_subjects(subjects: Vec<Arc<str>>) -> Option<Self> {
        let mut owners = Self::default();
        for subject in subjects {
            let before = owners.len();
            owners.of_first(&[], &subject);
            (owners.len() > before).then_some(())?;
        }
        Some(owners)
    }
}

impl Owner {
    /// Its number in the table, 0 for nobody.
    pub(super) fn number(self) -> u32 {
        self.0
    }

    /// The owner of this number in a table of so many.
    pub(super) fn from_number(number: u32, subjects: usize) -> Option<Self> {
        (usize::try_from(number).ok()? <= subjects).then_some(Self(number))
    }
}
