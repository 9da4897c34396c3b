//! Looks for the highest rate that holds. The rates are rungs of a ladder; fixed ones are tried first, upwards,
//! because their latencies are compared between servers, and then what lies between the last that held and the
//! first that did not is halved.

/// One server's search in one round.
#[derive(Debug, Clone)]
pub struct Search {
    /// All rates, ascending.
    ladder: Vec<u64>,
    fixed: Vec<u64>,
    held: Option<u64>,
    failed: Option<u64>,
}

impl Search {
    /// Nothing tried yet. The fixed rates are rungs as well.
    pub fn new(rates: &[u64], fixed: &[u64]) -> Self {
        let sorted = |mut rates: Vec<u64>| {
            rates.sort_unstable();
            rates.dedup();
            rates
        };
        Self {
            ladder: sorted([rates, fixed].concat()),
            fixed: sorted(fixed.to_vec()),
            held: None,
            failed: None,
        }
    }

    /// The rate to try; `None` when there is nothing left to find out.
    pub fn next(&self) -> Option<u64> {
        let low = self.held.unwrap_or(0);
        if self.failed.is_none()
            && let Some(fixed) = self.fixed.iter().find(|&&rate| rate > low)
        {
            return Some(*fixed);
        }
        let high = self.failed.unwrap_or(u64::MAX);
        let open: Vec<u64> = self.ladder.iter().copied().filter(|&rate| rate > low && rate < high).collect();
        open.get(open.len() / 2).copied()
    }

    /// What came of a rate.
    pub fn tried(&mut self, rate: u64, holds: bool) {
        if holds {
            self.held = self.held.max(Some(rate));
        } else {
            self.failed = Some(self.failed.map_or(rate, |failed| failed.min(rate)));
        }
    }

    /// The highest rate that held, below the lowest that did not; 0 if none did.
    pub fn highest(&self) -> u64 {
        self.held.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LADDER: &[u64] = &[100, 200, 500, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 20_000];
    const FIXED: &[u64] = &[1_000, 3_000];

    fn search(limit: u64) -> (u64, Vec<u64>) {
        let (mut search, mut tried) = (Search::new(LADDER, FIXED), Vec::new());
        while let Some(rate) = search.next() {
            tried.push(rate);
            search.tried(rate, rate <= limit);
        }
        (search.highest(), tried)
    }

    #[test]
    fn every_limit_is_found_in_few_tries_and_none_is_tried_twice() {
        for limit in [0, 99, 100, 150, 1_000, 1_999, 2_000, 3_000, 9_999, 10_000, 20_000, 1_000_000] {
            let (found, tried) = search(limit);
            let expected = LADDER.iter().copied().filter(|&rate| rate <= limit).max().unwrap_or(0);
            assert_eq!(found, expected, "limit {limit}: {tried:?}");
            let mut once = tried.clone();
            once.sort_unstable();
            once.dedup();
            assert!(once.len() == tried.len() && tried.len() <= 6, "limit {limit}: {tried:?}");
            assert_eq!(tried[0], 1_000, "what is compared comes first");
        }
        assert_eq!(search(1_000_000).1[..2], [1_000, 3_000]);
    }
}
