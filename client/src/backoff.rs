//! How long to wait before connecting again. The caller brings time and randomness; what the server asked for
//! comes as [`Next`] from [`crate::Client::disconnected`].

use crate::error::Next;

/// Default span of the first wait.
pub const BACKOFF_BASE_MS: u64 = 250;
/// Default longest span of a wait.
pub const BACKOFF_CAP_MS: u64 = 30_000;
/// How long a connection has to have held after the server's welcome to count as good: the next wait begins
/// at the base again. A server that greets and hangs up at once is not good.
pub const BACKOFF_PROOF_MS: u64 = 5_000;

/// Exponential backoff with full jitter: the n-th wait in a row is a random time up to `base · 2ⁿ`, at most up
/// to `cap`, on top of what the server asked for. So clients that were cut off together do not come back
/// together ("Exponential Backoff And Jitter", M. Brooker, 2015).
///
/// ```
/// use etherply_client::{Backoff, Next};
///
/// let mut backoff = Backoff::default();
/// let (now_ms, random) = (0, 0x8000_0000_0000_0000);
/// assert_eq!(backoff.wait_ms(Next::RECONNECT, now_ms, random), Some(125));
/// assert_eq!(backoff.wait_ms(Next::RECONNECT, now_ms, random), Some(250));
/// assert_eq!(backoff.wait_ms(Next::Stop, now_ms, random), None);
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    base_ms: u64,
    cap_ms: u64,
    attempts: u32,
    ready_since_ms: Option<u64>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(BACKOFF_BASE_MS, BACKOFF_CAP_MS)
    }
}

impl Backoff {
    /// Waits up to `base_ms` first, and never longer than `cap_ms` by itself.
    pub fn new(base_ms: u64, cap_ms: u64) -> Self {
        Self { base_ms, cap_ms, attempts: 0, ready_since_ms: None }
    }

    /// The server said welcome: [`crate::Event::Ready`].
    pub fn ready(&mut self, now_ms: u64) {
        self.ready_since_ms = Some(now_ms);
    }

    /// An attempt failed or a connection ended: how many milliseconds from now to try again, `None` if it is
    /// of no use. `random` is uniform over all of its 64 bits.
    pub fn wait_ms(&mut self, next: Next, now_ms: u64, random: u64) -> Option<u64> {
        let held_ms = self.ready_since_ms.take().map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        if held_ms >= BACKOFF_PROOF_MS {
            self.attempts = 0;
        }
        let Next::Reconnect { after_ms, jitter_ms } = next else { return None };
        let grown_ms = self.base_ms.saturating_mul(1 << self.attempts.min(32));
        let span_ms = grown_ms.min(self.cap_ms).max(u64::from(jitter_ms));
        self.attempts = self.attempts.saturating_add(1);
        Some(u64::from(after_ms).saturating_add(below(span_ms, random)))
    }

    /// Waits in a row since a connection proved good.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// A uniform value from 0 to `span`, without the bias of a remainder.
pub(crate) fn below(span: u64, random: u64) -> u64 {
    let wide = u128::from(random) * (u128::from(span) + 1);
    u64::try_from(wide >> 64).unwrap_or(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LARGEST: u64 = u64::MAX;

    #[test]
    fn spans_double_up_to_the_cap() {
        let mut backoff = Backoff::new(100, 1_000);
        let mut wait = |random| backoff.wait_ms(Next::RECONNECT, 0, random).unwrap();
        assert_eq!([(); 6].map(|()| wait(LARGEST)), [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(wait(0), 0);
        (0..100).for_each(|_| assert_eq!(wait(LARGEST), 1_000));
    }

    #[test]
    fn only_a_connection_that_held_begins_anew() {
        for (held_ms, wait_ms) in
            [(0, 400), (BACKOFF_PROOF_MS - 1, 400), (BACKOFF_PROOF_MS, 100), (BACKOFF_PROOF_MS + 1, 100)]
        {
            let mut backoff = Backoff::new(100, 1_000);
            for _ in 0..2 {
                assert_eq!(backoff.wait_ms(Next::RECONNECT, 0, 0), Some(0));
            }
            backoff.ready(1_000);
            assert_eq!(backoff.wait_ms(Next::RECONNECT, 1_000 + held_ms, LARGEST), Some(wait_ms));
        }
    }

    #[test]
    fn what_the_server_asks_for_is_kept() {
        let asked = Next::Reconnect { after_ms: 2_000, jitter_ms: 5_000 };
        let mut backoff = Backoff::new(100, 1_000);
        assert_eq!(backoff.wait_ms(asked, 0, 0), Some(2_000));
        assert_eq!(backoff.wait_ms(asked, 0, LARGEST), Some(7_000));
        assert_eq!(backoff.wait_ms(Next::Stop, 0, 0), None);
    }

    proptest! {
        #[test]
        fn a_wait_lies_within_its_span(base in 0u64..1 << 40, cap in any::<u64>(), random in any::<u64>(), tries in 1usize..80) {
            let mut backoff = Backoff::new(base, cap);
            for _ in 0..tries {
                prop_assert!(backoff.wait_ms(Next::RECONNECT, 0, random).unwrap() <= cap);
            }
        }
    }
}
