//! When each edit is due, and who makes it: fixed before the run, whatever the server does. Latency is
//! counted from here, so an overloaded server or generator cannot make its own delays disappear ("coordinated
//! omission", Gil Tene).

use crate::random::Random;

/// One edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edit {
    /// When it is due, in microseconds from the start.
    pub due_us: u64,
    /// The document.
    pub document: u32,
    /// Which of the document's writers makes it.
    pub writer: u32,
}

/// What a schedule is made from.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Documents.
    pub documents: u32,
    /// Writers of each document.
    pub writers: u32,
    /// Edits a second, over all documents.
    pub rate: u64,
    /// Length in microseconds, warm-up included.
    pub length_us: u64,
    /// Repeats a schedule exactly.
    pub seed: u64,
}

/// The edits in the order in which they are due: evenly spaced in time, each by a writer drawn at random.
#[derive(Debug, Clone)]
pub struct Schedule {
    shape: Shape,
    random: Random,
    next: u64,
}

impl Schedule {
    /// The schedule of this shape.
    pub fn new(shape: Shape) -> Self {
        Self { shape, random: Random::new(shape.seed), next: 0 }
    }

    /// How many edits a shape has.
    pub fn len(shape: &Shape) -> u64 {
        // An edit is due at next × 10⁶ / rate: the last one strictly before the end.
        (u128::from(shape.length_us) * u128::from(shape.rate))
            .div_ceil(1_000_000)
            .try_into()
            .unwrap_or(u64::MAX)
    }
}

impl Iterator for Schedule {
    type Item = Edit;

    fn next(&mut self) -> Option<Edit> {
        let Shape { documents, writers, rate, length_us, .. } = self.shape;
        if rate == 0 {
            return None;
        }
        let due_us = u64::try_from(u128::from(self.next) * 1_000_000 / u128::from(rate)).ok()?;
        if due_us >= length_us {
            return None;
        }
        self.next += 1;
        let document = u32::try_from(self.random.below(u64::from(documents))).ok()?;
        let writer = u32::try_from(self.random.below(u64::from(writers))).ok()?;
        Some(Edit { due_us, document, writer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { documents: 7, writers: 3, rate: 1_000, length_us: 2_500_000, seed: 1 };

    #[test]
    fn a_seed_repeats_its_schedule_and_another_does_not() {
        let edits: Vec<_> = Schedule::new(SHAPE).collect();
        assert_eq!(edits, Schedule::new(SHAPE).collect::<Vec<_>>());
        assert_ne!(edits, Schedule::new(Shape { seed: 2, ..SHAPE }).collect::<Vec<_>>());
    }

    #[test]
    fn the_rate_is_kept_and_every_writer_has_a_share() {
        let edits: Vec<_> = Schedule::new(SHAPE).collect();
        assert_eq!((edits.len(), Schedule::len(&SHAPE)), (2_500, 2_500));
        assert!(edits.is_sorted_by_key(|edit| edit.due_us));
        assert_eq!((edits[0].due_us, edits[1].due_us, edits[2_499].due_us), (0, 1_000, 2_499_000));
        for (document, writer) in (0..7).flat_map(|d| (0..3).map(move |w| (d, w))) {
            let share = edits.iter().filter(|e| (e.document, e.writer) == (document, writer)).count();
            assert!((60..180).contains(&share), "{document} {writer}: {share}");
        }
        for (rate, length_us) in [(3, 1_000_000), (7, 999_999), (1_000_003, 777_777), (0, 5), (5, 0)] {
            let shape = Shape { rate, length_us, ..SHAPE };
            assert_eq!(Schedule::new(shape).count() as u64, Schedule::len(&shape), "{rate} {length_us}");
        }
    }
}
