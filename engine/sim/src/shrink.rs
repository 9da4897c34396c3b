//! A failure is made small: what can be left out of its world, so that the same thing still goes wrong, is left out.
//!
//! What is left out changes everything behind it, so each smaller world is tried with a few seeds.

use crate::scenario::{Scenario, TROUBLES};
use crate::world::{Failure, run_scenario};

/// Seeds that a smaller world is tried with.
const SEEDS_PER_STEP: u64 = 24;
/// Most worlds that are run in all.
const RUNS_MAX: usize = 1_500;

/// A smaller scenario that fails alike, and how; the one that was given if there is none.
pub fn shrink(scenario: &Scenario, failure: &Failure) -> (Scenario, Failure) {
    let kind = kind(&failure.what);
    let (mut best, mut failed) = (scenario.clone(), failure.clone());
    let mut runs = 0;
    loop {
        let (before, mut step) = (best.clone(), 0);
        // Each step begins from what the one before it left; what was left out is not offered again.
        while let Some(smaller) = smaller(&best).into_iter().nth(step) {
            step += 1;
            for seed in std::iter::once(best.seed).chain(0..SEEDS_PER_STEP) {
                if runs >= RUNS_MAX {
                    return (best, failed);
                }
                runs += 1;
                let candidate = Scenario { seed, ..smaller.clone() };
                if let Err(found) = run_scenario(&candidate, false)
                    && self::kind(&found.what) == kind
                {
                    (best, failed) = (candidate, found);
                    step -= 1;
                    break;
                }
            }
        }
        if best == before {
            return (best, failed);
        }
    }
}

/// What went wrong, without the names and numbers of this run.
fn kind(what: &str) -> String {
    let first = what.lines().next().unwrap_or_default();
    let words = first.split_whitespace().filter(|word| word.chars().all(|c| c.is_alphabetic() || c == ':'));
    words.take(8).collect::<Vec<_>>().join(" ")
}

/// Scenarios that leave out one thing more.
fn smaller(of: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    for (trouble, _) in TROUBLES.iter().filter(|(trouble, _)| of.has(*trouble)) {
        let mut next = of.clone();
        next.without.insert(*trouble);
        all.push(next);
    }
    for members in [2, 3, 4].into_iter().filter(|n| of.members.is_none_or(|now| *n < now)).take(2) {
        all.push(Scenario { members: Some(members), ..of.clone() });
    }
    if of.documents != Some(1) {
        all.push(Scenario { documents: Some(1), ..of.clone() });
    }
    if of.cores != Some(1) {
        all.push(Scenario { cores: Some(1), ..of.clone() });
    }
    let half_ms = of.active_ms.unwrap_or(400) / 2;
    if half_ms >= 5 {
        all.push(Scenario { active_ms: Some(half_ms), ..of.clone() });
    }
    all
}
