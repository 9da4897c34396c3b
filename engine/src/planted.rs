//! Faults on purpose, one at a time, to see whether the simulator finds them: `cargo xtask sim --planted`.
//!
//! This module, and what its faults do, exists only with the feature `planted`, which nothing but the simulator's
//! program for this purpose turns on. Without it [`planted!`] is the constant `false`, and what stands behind it is
//! not compiled into anything.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of the fault that is planted, counted from 1; 0 for none.
static PLANTED: AtomicUsize = AtomicUsize::new(0);

macro_rules! faults {
    ($($(#[doc = $what:literal])+ $fault:ident = $name:literal,)*) => {
        /// A fault that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Fault {
            $($(#[doc = $what])+ $fault,)*
        }

        /// All of them, each with its name and with what it does.
        pub const FAULTS: &[(Fault, &str, &str)] = &[
            $((Fault::$fault, $name, concat!($($what),+)),)*
        ];
    };
}

faults! {
    /// A writer is acked when its push is on its way to the disk.
    AckBeforeSync = "ack-before-fsync",
    /// Members are sent a push that is on its way to the disk.
    RelayBeforeSync = "relay-before-fsync",
    /// A refusal tells of changes that are not on disk.
    RefusalBeforeSync = "refusal-before-fsync",
    /// A member that has been sent everything is never woken again.
    LostWakeUp = "lost-wake-up",
    /// A member's place in the log is one further than it said.
    CursorOffByOne = "cursor-off-by-one",
    /// A member that resumes is sent what lies behind the log's end only.
    ResumeFromWrongSeq = "resume-from-wrong-seq",
    /// A change is taken though what it depends on is not here.
    SkippedDependencyCheck = "skipped-dependency-check",
    /// The chain goes on from the last durable change, not from the last admitted one.
    StaleChainHash = "stale-chain-hash",
    /// A deleted document is opened as an empty one.
    ForgottenTombstone = "forgotten-tombstone",
    /// What waits for a deletion goes on though the document was deleted.
    DeletionNotTold = "deletion-not-told",
    /// Whoever leaves stays present.
    PresenceLeak = "presence-leak",
    /// The end of a presence that was set again is not moved.
    PresenceEndsEarly = "presence-ends-early",
    /// Pushes of a generation that was refused are judged all the same.
    GenerationIgnored = "generation-ignored",
    /// A change that is in the log already is taken for a new one.
    DuplicateNotDropped = "duplicate-not-dropped",
    /// A snapshot is cut through changes that are not durable.
    SnapshotPastDurable = "snapshot-past-durable",
    /// What is left of an older snapshot is sent behind the beginning of a newer one.
    SnapshotsMixed = "snapshots-mixed",
    /// A cursor's epoch is not looked at.
    EpochIgnored = "epoch-ignored",
    /// A member with a copy from before the document began anew keeps it.
    LostReset = "lost-reset",
    /// An actor whose change broke the document writes on.
    ExcludedActorTaken = "excluded-actor-taken",
    /// A push that is taken back stays in the vector clock.
    RollbackForgotten = "rollback-forgotten",
    /// The right to write is not looked at.
    WriteRightIgnored = "write-right-ignored",
    /// The right to read is not looked at.
    ReadRightIgnored = "read-right-ignored",
    /// Rights whose time is over stay where the document is at home.
    ExpiryIgnored = "expiry-ignored",
    /// Rights whose time is over stay where the member is.
    FeedExpiryIgnored = "feed-expiry-ignored",
    /// Streams whose token is revoked keep their rights.
    RevocationIgnored = "revocation-ignored",
    /// Opens that wait when their token is revoked go on.
    RevokedOpenTaken = "revoked-open-taken",
    /// The end of the grant before a renewal ends the new one.
    RenewedEndsEarly = "renewed-ends-early",
    /// A member that compared clocks is believed to have one change more of each actor.
    ReconcileOffByOne = "reconcile-off-by-one",
    /// Broadcasts that a slow member missed are left out without a word.
    BroadcastGapSilent = "broadcast-gap-silent",
    /// An answer goes to whoever has the document open on that connection now, not to the stream that asked.
    AnswerToAnotherStream = "answer-to-another-stream",
    /// A push that a failed disk did not take is never settled.
    PushNeverSettled = "push-never-settled",
    /// The feed of a core's last member is not ended.
    FeedLeak = "feed-leak",
    /// Tails are kept beyond what a core may hold.
    TailBudgetIgnored = "tail-budget-ignored",
    /// The positions in an ack are one too high.
    AckedElsewhere = "acked-elsewhere",
    /// After a failed commit, what was admitted is built upon.
    BuiltOnFailedCommit = "built-on-failed-commit",
}

/// Plants a fault, in the place of the one before, or none.
pub fn plant(fault: Option<Fault>) {
    let number = FAULTS.iter().position(|(other, ..)| Some(*other) == fault).map_or(0, |at| at + 1);
    PLANTED.store(number, Ordering::Relaxed);
}

/// Whether this one is planted.
pub(crate) fn is_planted(fault: Fault) -> bool {
    let number = PLANTED.load(Ordering::Relaxed);
    number > 0 && FAULTS.get(number - 1).is_some_and(|(planted, ..)| *planted == fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_fault_is_planted_at_a_time() {
        plant(Some(Fault::PresenceLeak));
        assert!(is_planted(Fault::PresenceLeak) && !is_planted(Fault::LostReset));
        plant(None);
        assert!(!is_planted(Fault::PresenceLeak));
        let mut names: Vec<&str> = FAULTS.iter().map(|(_, name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAULTS.len());
    }
}
