//! The keys that count now: those of files, which stay, and those of a URL, which are fetched ([`super::remote`]).
//!
//! There is one set, behind a number that says which one it is. Each core's gate looks at that number when it is shown
//! a token, and goes on with the new set, with nothing remembered of the old one: what a core believed by a key that
//! is gone, it believes no more.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use etherply_access::{KeyError, KeySet};
use tokio::sync::Notify;

use super::url::KeysUrl;

/// Shortest time between the beginnings of two fetches, and for how long a set that was fetched counts as new: a token
/// that names a key which is not in it is refused for good then, and nothing is fetched.
pub const KEYS_FETCH_GAP_S: u64 = 10;

/// Where keys are fetched, and when.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) url: KeysUrl,
    /// From one fetch to the next, if nobody asks for it.
    pub(super) refresh: Duration,
    /// The least from one fetch to the next.
    pub(super) gap: Duration,
    started: Instant,
    /// When the last fetch began that brought a set, in milliseconds since `started`, from 1 on; 0 for never.
    fetched_ms: AtomicU64,
    /// Whether somebody has asked for a fetch that has not brought a set yet.
    is_wanted: AtomicBool,
    bell: Notify,
}

/// A server's keys.
#[derive(Debug)]
pub struct Keys {
    files: KeySet,
    current: RwLock<Arc<KeySet>>,
    version: AtomicU64,
    remote: Option<Remote>,
}

impl Keys {
    /// Keys of files, and those that are going to be fetched, that often.
    pub fn new(files: KeySet, url: Option<KeysUrl>, refresh: Duration) -> Self {
        let remote = url.map(|url| Remote {
            url,
            refresh,
            gap: refresh.min(Duration::from_secs(KEYS_FETCH_GAP_S)),
            started: Instant::now(),
            fetched_ms: AtomicU64::new(0),
            is_wanted: AtomicBool::new(false),
            bell: Notify::new(),
        });
        Self { current: RwLock::new(Arc::new(files.clone())), files, version: AtomicU64::new(0), remote }
    }

    /// Whether tokens are asked for.
    pub fn asks(&self) -> bool {
        self.remote.is_some() || !self.files.is_empty()
    }

    /// Whether no token can be judged yet, because no set has come.
    pub fn are_awaited(&self) -> bool {
        self.files.is_empty()
            && self.remote.as_ref().is_some_and(|remote| remote.fetched_ms.load(Ordering::Acquire) == 0)
    }

    /// Which set counts now.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The set that counts now.
    pub fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A token names a key that is not in the set. Whether the key may be in the next one, which is asked for then;
    /// otherwise the set is as new as it may be.
    pub fn may_come(&self) -> bool {
        let Some(remote) = &self.remote else { return false };
        if remote.is_fresh() {
            return false;
        }
        if !remote.is_wanted.swap(true, Ordering::AcqRel) {
            remote.bell.notify_one();
        }
        true
    }

    pub(super) fn remote(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }

    /// Goes on with these keys of the URL beside those of files.
    pub(super) fn set_fetched(&self, fetched: &KeySet) -> Result<(), KeyError> {
        let all = Arc::new(self.files.with(fetched)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = all;
        self.version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Ids that a file and the URL both have: the file's key counts.
    pub(super) fn hidden<'k>(&self, fetched: &'k KeySet) -> impl Iterator<Item = &'k str> {
        fetched.iter().map(|(id, _)| id).filter(|id| self.files.iter().any(|(file, _)| file == *id))
    }
}

impl Remote {
    fn is_fresh(&self) -> bool {
        let fetched_ms = self.fetched_ms.load(Ordering::Acquire);
        fetched_ms > 0 && self.started.elapsed() < Duration::from_millis(fetched_ms) + self.gap
    }

    /// A fetch that began then has brought a set.
    pub(super) fn has_fetched(&self, began: Instant) {
        let since = began.saturating_duration_since(self.started).as_millis();
        self.fetched_ms.store(u64::try_from(since).unwrap_or(u64::MAX).max(1), Ordering::Release);
        self.is_wanted.store(false, Ordering::Release);
    }

    /// Waits until somebody asks for a fetch.
    pub(super) async fn wanted(&self) {
        while !self.is_wanted.swap(false, Ordering::AcqRel) {
            // A bell may have rung for what was fetched meanwhile.
            self.bell.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(gap: Duration) -> Keys {
        Keys::new(KeySet::default(), Some("https://id.test/jwks".parse().unwrap()), gap)
    }

    #[test]
    fn a_key_may_come_unless_the_set_is_new_or_there_is_no_url() {
        assert!(!Keys::new(KeySet::default(), None, Duration::from_secs(1)).may_come());
        let keys = keys(Duration::from_secs(300));
        assert!(keys.asks() && keys.are_awaited() && keys.may_come());
        let remote = keys.remote().unwrap();
        assert_eq!(remote.gap, Duration::from_secs(KEYS_FETCH_GAP_S));
        remote.has_fetched(Instant::now());
        assert!(!keys.are_awaited() && !keys.may_come());
        assert!(!remote.is_wanted.load(Ordering::Acquire), "who asks too soon does not ask");
    }

    #[test]
    fn a_set_is_asked_for_once_by_however_many() {
        let keys = keys(Duration::ZERO);
        let remote = keys.remote().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..1_000 {
            assert!(keys.may_come());
        }
        runtime.block_on(async {
            remote.wanted().await;
            // All of them asked for the one that is about to happen.
            tokio::select! {
                biased;
                () = remote.wanted() => panic!("asked twice"),
                () = tokio::task::yield_now() => {}
            }
        });
    }

    #[test]
    fn a_set_that_is_too_large_beside_files_changes_nothing() {
        use etherply_access::{Algorithm, KEYS_MAX, generate};

        let set = |prefix: &str, count: usize| {
            let mut set = KeySet::default();
            let secret = generate(Algorithm::Hs256).unwrap().private;
            (0..count).for_each(|n| _ = set.add_secret(&format!("{prefix}{n}"), &secret).unwrap());
            set
        };
        let keys = Keys::new(set("file", 1), None, Duration::ZERO);
        keys.set_fetched(&set("url", KEYS_MAX - 2)).unwrap();
        keys.set_fetched(&set("url", KEYS_MAX - 1)).unwrap();
        assert_eq!((keys.current().len(), keys.version()), (KEYS_MAX, 2));
        assert_eq!(keys.set_fetched(&set("url", KEYS_MAX)), Err(KeyError::TooMany));
        assert_eq!((keys.current().len(), keys.version()), (KEYS_MAX, 2));
        // The same name twice is one key, and the file's.
        let same = set("file", 1);
        assert_eq!(keys.hidden(&same).collect::<Vec<_>>(), ["file0"]);
        keys.set_fetched(&same).unwrap();
        assert_eq!(keys.current().len(), 1);
    }
}
