//! Keys from a URL, kept up to date: by the time, and when a token names a key that is not there. Runs on the control
//! plane; the cores see what came of it in [`super::live`].
//!
//! A fetch that fails leaves the set as it was. What the issuer publishes counts as a whole: keys that are not in it any
//! more are gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use etherply_access::{Jwks, JwksError};

use super::fetch::{self, FetchError};
use super::live::{Keys, Remote};
use super::now_s;
use crate::metrics::Metrics;

/// Time from one fetch to the next, unless the operator says otherwise.
pub const KEYS_REFRESH_S: u32 = 300;
/// Shortest time that an operator may say.
pub const KEYS_REFRESH_S_MIN: u32 = 1;
/// Longest time that an operator may say.
pub const KEYS_REFRESH_S_MAX: u32 = 24 * 60 * 60;
/// How far a time between fetches is off by chance, in hundredths, so that servers which started together do not
/// ask together.
const JITTER_PERCENT: u32 = 10;

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("what it answers cannot be used: {0}")]
    Jwks(#[from] JwksError),
    #[error("{0}, those of files included")]
    Beside(etherply_access::KeyError),
}

/// Fetches for as long as the server runs.
pub async fn keep_fetching(keys: Arc<Keys>, metrics: Arc<Metrics>) {
    let Some(remote) = keys.remote() else { return };
    let (mut last, mut failures) = (None, 0_u32);
    loop {
        let began = Instant::now();
        let outcome = match once(&keys, remote, &mut last).await {
            Ok(outcome) => {
                remote.has_fetched(began);
                failures = 0;
                metrics.keys_fetched.set(i64::try_from(now_s()).unwrap_or(i64::MAX));
                outcome
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let kept = if keys.are_awaited() {
                    "nobody can open a document until it does"
                } else {
                    "the keys of before stay"
                };
                tracing::warn!(failures, "no keys could be fetched from {}: {error}; {kept}", remote.url);
                "failed"
            }
        };
        metrics.keys_fetches.with_label_values(&[outcome]).inc();
        tokio::time::sleep(remote.gap.saturating_sub(began.elapsed())).await;
        let rest = rest(remote, failures).saturating_sub(began.elapsed());
        // Whichever is first.
        drop(tokio::time::timeout(rest, remote.wanted()).await);
    }
}

/// One fetch, and what came of it.
async fn once(keys: &Keys, remote: &Remote, last: &mut Option<Bytes>) -> Result<&'static str, Failed> {
    let text = fetch::get(&remote.url).await?;
    if last.as_ref() == Some(&text) {
        return Ok("unchanged");
    }
    let Jwks { keys: fetched, passed_over } = Jwks::read(&text)?;
    keys.set_fetched(&fetched).map_err(Failed::Beside)?;
    for (id, algorithm) in fetched.iter() {
        tracing::info!(id, %algorithm, "tokens are taken that were made with this key of {}", remote.url);
    }
    for id in keys.hidden(&fetched) {
        tracing::warn!(id, "a file (--keys) and {} have a key of this id: the file's counts", remote.url);
    }
    for (id, why) in &passed_over {
        tracing::warn!(id, "a key of {} is passed over: {why}", remote.url);
    }
    if fetched.is_empty() {
        tracing::warn!("{} has no key that tokens can be verified with", remote.url);
    }
    *last = Some(text);
    Ok("changed")
}

/// From the beginning of a fetch to the next one, if nobody asks: soon again after a failure, then ever later.
fn rest(remote: &Remote, failures: u32) -> Duration {
    let Remote { refresh, gap, .. } = *remote;
    let rest = if failures == 0 { refresh } else { gap.saturating_mul(1 << failures.min(16)).min(refresh) };
    let mut chance = [0; 1];
    // Without randomness there is none, which hurts nobody.
    let _ = getrandom::fill(&mut chance);
    let percent = 100 - JITTER_PERCENT + u32::from(chance[0]) * 2 * JITTER_PERCENT / 255;
    rest.saturating_mul(percent) / 100
}

#[cfg(test)]
mod tests {
    use etherply_access::KeySet;

    use super::*;

    #[test]
    fn times_between_fetches_grow_with_failures_up_to_the_usual_one() {
        let url = "https://id.test/jwks".parse().unwrap();
        let keys = Keys::new(KeySet::default(), Some(url), Duration::from_secs(300));
        let remote = keys.remote().unwrap();
        for (failures, least, most) in
            [(0, 270, 330), (1, 18, 22), (2, 36, 44), (5, 270, 330), (u32::MAX, 270, 330)]
        {
            for _ in 0..100 {
                let rest = rest(remote, failures);
                let bounds = Duration::from_secs(least)..=Duration::from_secs(most);
                assert!(bounds.contains(&rest), "{failures} failures: {rest:?}");
            }
        }
    }
}
