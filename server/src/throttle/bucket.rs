//! A token bucket in one number: the time at which it will be full again (the generic cell rate algorithm, ITU-T
//! I.371, by virtual scheduling). No clock: whoever asks brings the time, in microseconds from any beginning.
//!
//! What was read is paid for behind it, so a bucket may owe: until it owes nothing more, nothing is to be read.

use std::sync::atomic::{AtomicU64, Ordering};

use super::limits::{BURST_S, HOLD_S_MAX};

const NS_PER_S: u64 = 1_000_000_000;
const NS_PER_US: u64 = 1_000;

/// Tokens a second; 0 for any number of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u32);

impl Rate {
    /// How long it takes for so many tokens to come. Rounded down, so that a full bucket holds all that it should.
    fn ns(self, tokens: u64) -> u64 {
        tokens.saturating_mul(NS_PER_S) / u64::from(self.0).max(1)
    }
}

/// A bucket, full in the beginning. Its rate is always the same.
#[derive(Debug, Default)]
pub struct Bucket {
    full_at_ns: AtomicU64,
}

impl Bucket {
    /// Takes tokens out, whether they are there or not. For how many microseconds nothing more is to be taken.
    pub fn charge(&self, rate: Rate, tokens: u64, now_us: u64) -> u64 {
        if rate.0 == 0 {
            return 0;
        }
        let now_ns = now_us.saturating_mul(NS_PER_US);
        let burst_ns = BURST_S * NS_PER_S;
        let most_ns = now_ns.saturating_add(burst_ns + HOLD_S_MAX * NS_PER_S);
        let next = |full_at_ns: u64| full_at_ns.max(now_ns).saturating_add(rate.ns(tokens)).min(most_ns);
        let full_at_ns = self.update(next);
        full_at_ns.saturating_sub(now_ns).saturating_sub(burst_ns).div_ceil(NS_PER_US)
    }

    /// Takes a token out if it is there; otherwise, in how many microseconds it will be.
    ///
    /// # Errors
    /// The bucket is empty.
    pub fn take(&self, rate: Rate, now_us: u64) -> Result<(), u64> {
        if rate.0 == 0 {
            return Ok(());
        }
        let now_ns = now_us.saturating_mul(NS_PER_US);
        let burst_ns = BURST_S * NS_PER_S;
        let after = |full_at_ns: u64| full_at_ns.max(now_ns).saturating_add(rate.ns(1));
        let took = self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at_ns| {
            Some(after(full_at_ns)).filter(|after| *after <= now_ns.saturating_add(burst_ns))
        });
        took.map(|_| ()).map_err(|full_at_ns| {
            after(full_at_ns).saturating_sub(now_ns).saturating_sub(burst_ns).div_ceil(NS_PER_US)
        })
    }

    /// Gives out the next of the places that the rate has, one behind the other from now on: in how many microseconds
    /// it is. Nobody's place is later than `most_us` from now.
    pub fn place(&self, rate: Rate, most_us: u64, now_us: u64) -> u64 {
        let now_ns = now_us.saturating_mul(NS_PER_US);
        let most_ns = now_ns.saturating_add(most_us.saturating_mul(NS_PER_US));
        let full_at_ns =
            self.update(|full_at_ns| full_at_ns.max(now_ns).saturating_add(rate.ns(1)).min(most_ns));
        full_at_ns.saturating_sub(now_ns).div_ceil(NS_PER_US)
    }

    /// Whether it is as if nobody had ever taken anything out of it.
    pub fn is_full(&self, now_us: u64) -> bool {
        self.full_at_ns.load(Ordering::Relaxed) <= now_us.saturating_mul(NS_PER_US)
    }

    fn update(&self, next: impl Fn(u64) -> u64) -> u64 {
        // Never an error: there always is a next value.
        match self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(next(now))) {
            Ok(before) | Err(before) => next(before),
        }
    }
}

/// How many operations and bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Operations.
    pub operations: Rate,
    /// Bytes.
    pub bytes: Rate,
}

/// A bucket of operations and one of bytes.
#[derive(Debug, Default)]
pub struct Meter {
    operations: Bucket,
    bytes: Bucket,
}

impl Meter {
    /// Takes both out; for how many microseconds nothing more is to be taken.
    pub fn charge(&self, rates: Rates, operations: u64, bytes: u64, now_us: u64) -> u64 {
        let held_us = self.operations.charge(rates.operations, operations, now_us);
        held_us.max(self.bytes.charge(rates.bytes, bytes, now_us))
    }

    /// Whether both are full.
    pub fn is_full(&self, now_us: u64) -> bool {
        self.operations.is_full(now_us) && self.bytes.is_full(now_us)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_its_rate() {
        let (bucket, rate) = (Bucket::default(), Rate(10));
        for _ in 0..10 * BURST_S - 1 {
            assert_eq!(bucket.charge(rate, 1, 5), 0);
        }
        assert_eq!(bucket.charge(rate, 1, 5), 0, "the last that is in it");
        assert_eq!(bucket.charge(rate, 1, 5), S / 10, "one more than is in it");
        assert_eq!(bucket.charge(rate, 1, 5 + S / 10), S / 10);
        assert!(!bucket.is_full(5) && bucket.is_full(5 + (BURST_S + 1) * S));
    }

    #[test]
    fn no_charge_holds_for_longer_than_the_most() {
        let bucket = Bucket::default();
        let most = HOLD_S_MAX * S;
        assert_eq!(Bucket::default().charge(Rate(1), BURST_S + HOLD_S_MAX - 1, 0), most - S);
        assert_eq!(Bucket::default().charge(Rate(1), BURST_S + HOLD_S_MAX, 0), most);
        assert_eq!(Bucket::default().charge(Rate(1), BURST_S + HOLD_S_MAX + 1, 0), most);
        assert_eq!(bucket.charge(Rate(1), u64::MAX, 0), most);
        assert_eq!(bucket.charge(Rate(1), u64::MAX, most), most);
    }

    #[test]
    fn a_rate_of_nothing_is_no_limit() {
        let bucket = Bucket::default();
        assert_eq!(bucket.charge(Rate(0), u64::MAX, 7), 0);
        assert!(bucket.take(Rate(0), 7).is_ok() && bucket.is_full(0));
    }

    #[test]
    fn places_follow_one_another_up_to_the_latest() {
        let bucket = Bucket::default();
        let places: Vec<_> = (0..5).map(|_| bucket.place(Rate(2), 2 * S, 0)).collect();
        assert_eq!(places, [S / 2, S, 3 * S / 2, 2 * S, 2 * S]);
    }

    proptest! {
        /// Whoever stops when told to gets no more than the burst, the rate, and what was read at once.
        #[test]
        fn over_any_time_the_rate_holds(
            rate in 1..2_000_u32,
            steps in prop::collection::vec((0..2 * S, 1..500_u64), 1..200),
        ) {
            let (bucket, mut now, mut taken) = (Bucket::default(), 0, 0);
            for (pause, tokens) in steps {
                // A charge that would owe more than the most is forgiven beyond: not what is looked at here.
                let tokens = tokens.min(u64::from(rate) * HOLD_S_MAX);
                now += pause;
                now += bucket.charge(Rate(rate), tokens, now);
                taken += tokens;
                let refilled = u128::from(now) * u128::from(rate) / u128::from(S) + 1;
                prop_assert!(u128::from(taken) <= u128::from(u64::from(rate) * BURST_S) + refilled);
            }
        }

        /// Whoever stays below the rate is never held.
        #[test]
        fn whoever_stays_below_the_rate_is_never_held(rate in 1..2_000_u32, tokens in 1..100_u64, steps in 1..300_u32) {
            prop_assume!(tokens <= u64::from(rate) * BURST_S);
            let (bucket, mut now) = (Bucket::default(), 3);
            for _ in 0..steps {
                prop_assert_eq!(bucket.charge(Rate(rate), tokens, now), 0);
                now += (tokens * S).div_ceil(u64::from(rate));
            }
        }

        /// A token is there exactly when it was said to be.
        #[test]
        fn a_token_comes_when_it_was_said_to(rate in 1..5_000_u32, now in 0..1_000_000_000_000_u64) {
            let (bucket, rate) = (Bucket::default(), Rate(rate));
            for _ in 0..u64::from(rate.0) * BURST_S {
                prop_assert!(bucket.take(rate, now).is_ok());
            }
            let wait = bucket.take(rate, now).unwrap_err();
            prop_assert!(wait > 0 && (wait == 1 || bucket.take(rate, now + wait - 2).is_err()));
            prop_assert!(bucket.take(rate, now + wait).is_ok());
        }

        /// No amount, time or order of times overflows, or holds for longer than the most.
        #[test]
        fn nothing_overflows(rate: u32, steps in prop::collection::vec((any::<u64>(), any::<u64>()), 1..50)) {
            let (bucket, places) = (Bucket::default(), Bucket::default());
            for (now, tokens) in steps {
                let held = bucket.charge(Rate(rate), tokens, now);
                prop_assert!(bucket.take(Rate(rate), now).is_ok() || rate > 0);
                places.place(Rate(rate), tokens, now);
                // Also if another core's clock is a little behind.
                prop_assert!(held <= HOLD_S_MAX * S);
            }
        }
    }
}
