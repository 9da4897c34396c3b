//! Replicas in memory, under one budget: those used least recently go first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use etherply_engine::ids::DocumentId;

use super::memory::CutMemory;
use super::replica::{Opening, Replica};

/// How far a document's replica has come.
#[derive(Debug)]
pub enum Progress {
    /// It is being built.
    Opening(Opening),
    /// It is as far as it says.
    Ready(Box<Replica>),
}

/// A document's replica.
#[derive(Debug)]
pub struct Slot {
    /// The replica.
    pub progress: Progress,
    /// The position up to which it was saved, loaded again, and found to be the same.
    pub verified_seq: u64,
}

impl Slot {
    /// Of a document that has none.
    pub fn new(document: DocumentId) -> Self {
        Self { progress: Progress::Opening(Opening::new(document)), verified_seq: 0 }
    }

    /// How many bytes of memory it takes, estimated.
    pub fn bytes(&self) -> u64 {
        match &self.progress {
            Progress::Opening(opening) => opening.bytes(),
            Progress::Ready(replica) => replica.bytes(),
        }
    }

    /// Whether it is being built.
    pub fn is_opening(&self) -> bool {
        matches!(self.progress, Progress::Opening(_))
    }

    /// The replica, if it holds changes that were not verified.
    pub fn unverified(&self) -> Option<&Replica> {
        match &self.progress {
            Progress::Ready(replica) if replica.cursor().seq > self.verified_seq => Some(replica),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Kept {
    slot: Slot,
    bytes: u64,
    used: u64,
}

/// The replicas that one materialiser keeps.
#[derive(Debug)]
pub struct Residents {
    slots: HashMap<DocumentId, Kept>,
    order: BTreeMap<u64, DocumentId>,
    openings: usize,
    bytes: u64,
    bytes_max: u64,
    cuts: Option<(Arc<CutMemory>, u64)>,
    uses: u64,
}

impl Residents {
    /// None yet. What was used last is kept even if it alone takes more than `bytes_max`.
    pub fn new(bytes_max: u64) -> Self {
        let (slots, order) = (HashMap::new(), BTreeMap::new());
        Self { slots, order, openings: 0, bytes: 0, bytes_max, cuts: None, uses: 0 }
    }

    /// The same, which leave to cuts what those take; so many residents share that.
    #[must_use]
    pub fn beside(self, cuts: &Arc<CutMemory>, sharers: u64) -> Self {
        Self { cuts: Some((Arc::clone(cuts), sharers.max(1))), ..self }
    }

    /// What replicas may take now.
    fn room(&self) -> u64 {
        let cuts = self.cuts.as_ref().map_or(0, |(cuts, sharers)| cuts.bytes() / sharers);
        // Without any, each change would have its document built anew.
        self.bytes_max.saturating_sub(cuts).max(self.bytes_max / 4)
    }

    /// Takes a replica out, to work on it.
    pub fn take(&mut self, document: &DocumentId) -> Option<Slot> {
        let kept = self.slots.remove(document)?;
        self.order.remove(&kept.used);
        self.bytes -= kept.bytes;
        self.openings -= usize::from(kept.slot.is_opening());
        Some(kept.slot)
    }

    /// Keeps a replica as the one used last. Call [`Self::evict`] then.
    pub fn keep(&mut self, document: DocumentId, slot: Slot) {
        drop(self.take(&document));
        self.uses += 1;
        let bytes = slot.bytes();
        self.bytes += bytes;
        self.openings += usize::from(slot.is_opening());
        self.order.insert(self.uses, document.clone());
        self.slots.insert(document, Kept { slot, bytes, used: self.uses });
    }

    /// Takes out what has to go because memory is short: nothing that is being built.
    pub fn evict(&mut self) -> Option<(DocumentId, Slot)> {
        if self.bytes <= self.room() || self.order.len() < 2 {
            return None;
        }
        let last = self.uses;
        let is_whole = |(used, document): &(&u64, &DocumentId)| {
            let kept = self.slots.get(*document);
            **used != last && kept.is_some_and(|kept| !kept.slot.is_opening())
        };
        let document = self.order.iter().find(is_whole).map(|(_, document)| document.clone())?;
        let slot = self.take(&document)?;
        Some((document, slot))
    }

    /// A replica with changes that were not verified: the one used least recently.
    pub fn oldest_unverified(&self) -> Option<DocumentId> {
        let is_unverified = |document: &&DocumentId| {
            self.slots.get(*document).is_some_and(|kept| kept.slot.unverified().is_some())
        };
        self.order.values().find(is_unverified).cloned()
    }

    /// Whether a document has a replica here.
    pub fn has(&self, document: &DocumentId) -> bool {
        self.slots.contains_key(document)
    }

    /// How many are being built.
    pub fn openings(&self) -> usize {
        self.openings
    }

    /// Whether a document has a replica here, or memory has room for one more.
    pub fn has_or_takes(&self, document: &DocumentId) -> bool {
        self.has(document) || self.bytes < self.room() / 8 * 7
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Bytes that all take, estimated.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(n: u8) -> DocumentId {
        DocumentId::new(&format!("rooms/{n}")).unwrap()
    }

    fn slot(n: u8) -> Slot {
        let replica = Replica::new(document(n), 1);
        Slot { progress: Progress::Ready(Box::new(replica)), verified_seq: 0 }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_last_one_stays() {
        let one = slot(0).bytes();
        let mut residents = Residents::new(2 * one);
        for n in 0..3 {
            residents.keep(document(n), slot(n));
        }
        let again = residents.take(&document(0)).unwrap();
        residents.keep(document(0), again);
        assert_eq!(residents.evict().unwrap().0, document(1));
        assert!(residents.evict().is_none());
        assert_eq!((residents.count(), residents.bytes()), (2, 2 * one));
        let cuts = CutMemory::new(u64::MAX);
        let mut beside = Residents::new(8 * one).beside(&cuts, 2);
        for n in 0..8 {
            beside.keep(document(n), slot(n));
        }
        let mut cut = cuts.reserve(0).unwrap();
        for (bytes, left) in [(0, 8), (2 * one, 7), (12 * one, 2), (100 * one, 2)] {
            cut.set(bytes);
            while beside.evict().is_some() {}
            assert_eq!(beside.count(), left, "beside {bytes}");
        }
        let mut building = Residents::new(1);
        for n in 0..3 {
            building.keep(document(n), Slot::new(document(n)));
        }
        building.keep(document(3), slot(3));
        building.keep(document(4), slot(4));
        assert_eq!((building.openings(), building.evict().unwrap().0), (3, document(3)));
        assert!(building.evict().is_none(), "what is being built stays");
        let mut small = Residents::new(1);
        small.keep(document(7), slot(7));
        assert!(small.evict().is_none() && small.has_or_takes(&document(7)));
        assert!(!small.has_or_takes(&document(8)));
        small.keep(document(7), slot(7));
        assert_eq!((small.count(), small.bytes()), (1, one));
    }
}
