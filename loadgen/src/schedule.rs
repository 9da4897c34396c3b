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

/// Time cut into equal spans, by turns idle and active, so that both are measured in one run. The warm-up
/// before the first span is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phases {
    /// When the first span, an idle one, begins.
    pub begin_us: u64,
    /// Length of a span.
    pub span_us: u64,
    /// Time after each change in which nothing is counted: what was under way has to die away.
    pub settle_us: u64,
}

/// What a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The load whose effect is looked for is off.
    Idle,
    /// It is on.
    Active,
}

impl Phases {
    /// The phase at this time.
    pub fn at(&self, due_us: u64) -> Phase {
        match due_us.checked_sub(self.begin_us) {
            Some(since_us) if (since_us / self.span_us.max(1)).is_multiple_of(2) => Phase::Idle,
            _ => Phase::Active,
        }
    }

    /// The phase for which something counts that was due at this time; `None` before the first span and close
    /// to a change.
    pub fn counted(&self, due_us: u64) -> Option<Phase> {
        let since_us = due_us.checked_sub(self.begin_us)?;
        (since_us % self.span_us.max(1) >= self.settle_us).then(|| self.at(due_us))
    }
}

/// How a plan's schedule goes with phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rhythm {
    /// There are none.
    #[default]
    Steady,
    /// Only what is due in active spans is done.
    Pulsing(Phases),
    /// Everything is done, and deliveries are counted by the phase in which they were due.
    Watching(Phases),
}

impl Rhythm {
    /// Whether something that is due at this time is done.
    pub fn does(&self, due_us: u64) -> bool {
        match self {
            Self::Pulsing(phases) => phases.at(due_us) == Phase::Active,
            Self::Steady | Self::Watching(_) => true,
        }
    }
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
    fn phases_take_turns_and_their_beginnings_do_not_count() {
        let phases = Phases { begin_us: 100, span_us: 50, settle_us: 10 };
        let at = |due_us| (phases.at(due_us), phases.counted(due_us));
        assert_eq!(at(99), (Phase::Active, None), "the warm-up is active and does not count");
        assert_eq!(at(100), (Phase::Idle, None));
        assert_eq!(at(110), (Phase::Idle, Some(Phase::Idle)));
        assert_eq!(at(149), (Phase::Idle, Some(Phase::Idle)));
        assert_eq!(at(150), (Phase::Active, None));
        assert_eq!(at(160), (Phase::Active, Some(Phase::Active)));
        assert_eq!(at(200).0, Phase::Idle);
        assert!(Rhythm::Watching(phases).does(120) && Rhythm::Steady.does(120));
        assert!(!Rhythm::Pulsing(phases).does(120) && Rhythm::Pulsing(phases).does(170));
    }

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
