//! What one member received: each writer's changes have to come once each and in order, and the heads that
//! they lead to have to be the same for all.

use anyhow::{Context, Result};
use automerge::AutoCommit;
use etherply_client::change::ChangeView;

use crate::writer::{Heads, Stamp};

/// What became of a received change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// New, and due at this time, in microseconds from the start.
    New {
        /// The time.
        due_us: u64,
    },
    /// This member's own.
    Own,
    /// It was received before.
    Again,
}

/// A member's view of its document.
#[derive(Debug)]
pub struct Follower {
    pub heads: Heads,
    /// Number of the last change received, writer by writer.
    seen: Box<[u32]>,
    /// Changes that were new.
    pub received: u64,
    /// Changes that had been received before.
    pub duplicated: u64,
    /// All changes as they came, for the members that are sampled.
    pub sample: Option<Vec<u8>>,
}

impl Follower {
    /// A member of a document with so many writers.
    pub fn new(writers: usize, is_sample: bool) -> Self {
        Self {
            heads: Heads::default(),
            seen: vec![0; writers].into_boxed_slice(),
            received: 0,
            duplicated: 0,
            sample: is_sample.then(Vec::new),
        }
    }

    /// Takes in a change. `own` is this member's actor with the number of its last change.
    pub fn receive(&mut self, bytes: &[u8], own: Option<(&[u8], u64)>) -> Result<Received> {
        let change = ChangeView::parse(bytes)?;
        if own.is_some_and(|(actor, seq)| change.actor() == actor && change.seq() <= seq) {
            return Ok(Received::Own);
        }
        let stamp =
            Stamp::parse(change.value_bytes()?).context("a change that no writer of this run made")?;
        let seen = self.seen.get_mut(usize::from(stamp.writer)).context("a writer that this run has not")?;
        let number = u32::try_from(change.seq()).context("an actor with 2^32 changes")?;
        if number <= *seen {
            self.duplicated += 1;
            return Ok(Received::Again);
        }
        self.heads.follow(&change)?;
        // What was skipped stays missing in the count of what was received, and in the heads.
        *seen = number;
        self.received += 1;
        self.keep(bytes);
        Ok(Received::New { due_us: stamp.due_us })
    }

    /// Takes in a snapshot, which holds what this member has and more. Tells how many changes were new.
    pub fn snapshot(&mut self, bytes: &[u8], own: Option<(&[u8], u64)>) -> Result<u64> {
        let mut doc = AutoCommit::load(bytes).context("a snapshot that Automerge cannot load")?;
        let before = (self.received, self.duplicated);
        for change in doc.get_changes(&[]) {
            self.receive(change.raw_bytes(), own)?;
        }
        self.duplicated = before.1;
        Ok(self.received - before.0)
    }

    /// Keeps a change for the comparison at the end.
    pub fn keep(&mut self, bytes: &[u8]) {
        if let Some(sample) = &mut self.sample {
            sample.extend_from_slice(bytes);
        }
    }

    /// Number of the last change received, writer by writer.
    pub fn seen(&self) -> &[u32] {
        &self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::ThinWriter;

    #[test]
    fn new_own_and_repeated_changes_are_told_apart() {
        let mut writer = ThinWriter::new(&[1; 8], "w1".into());
        let mut heads = Heads::default();
        let mut follower = Follower::new(2, true);
        let mut made = Vec::new();
        for due_us in 0..3 {
            made.push(writer.edit(&mut heads, Stamp { due_us, writer: 1 }.text(16), 0).unwrap());
        }
        assert_eq!(follower.receive(&made[0], None).unwrap(), Received::New { due_us: 0 });
        assert_eq!(follower.receive(&made[0], None).unwrap(), Received::Again);
        assert_eq!(follower.receive(&made[2], Some((&[1; 8], 3))).unwrap(), Received::Own);
        assert_ne!(follower.heads.sorted(), heads.sorted());
        let mut doc = AutoCommit::load(&made.concat()).unwrap();
        assert_eq!(follower.snapshot(&doc.save(), None).unwrap(), 2);
        assert_eq!((follower.received, follower.duplicated, follower.seen()), (3, 1, &[0, 3][..]));
        assert_eq!(follower.heads.sorted(), heads.sorted());
        assert_eq!(follower.sample, Some(made.concat()));
        assert!(follower.receive(&[1, 2, 3], None).is_err());
    }
}
