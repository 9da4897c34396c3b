//! Those who read events on the control plane. Each has a queue of its own: one that does not keep up misses events and
//! is told how many, and nobody else feels it.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flume::TrySendError;
use prometheus::{IntCounter, IntCounterVec, IntGauge};
use serde_json::json;

use super::Events;
use crate::clock::now_ms;
use crate::metrics::Metrics;

/// Most readers at a time.
pub const EVENT_READERS_MAX: usize = 8;
/// Most events that wait for one reader.
pub const EVENT_READER_QUEUE_MAX: usize = 4_096;
/// How often readers are told what they missed, if nothing else tells them.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// There are as many readers as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{EVENT_READERS_MAX} read events already: end one of them")]
pub struct TooManyReaders;

/// Lines of JSON for one reader.
pub type Lines = flume::Receiver<Result<Bytes, Infallible>>;

#[derive(Debug)]
struct Reader {
    lines: flume::Sender<Result<Bytes, Infallible>>,
    /// Events that it was not given, and was not told of yet.
    missed: u64,
}

#[derive(Debug)]
pub(super) struct Readers {
    all: Mutex<Vec<Reader>>,
    counted: IntCounterVec,
    dropped: IntCounter,
    reading: IntGauge,
}

impl Reader {
    /// What it missed goes first; `false` if it has gone.
    fn give(&mut self, line: Option<&Bytes>, dropped: &IntCounter) -> bool {
        if self.missed > 0 {
            let note = json!({ "kind": "missed", "at_ms": now_ms(), "events": self.missed });
            match self.lines.try_send(Ok(Bytes::from(format!("{note}\n")))) {
                Ok(()) => self.missed = 0,
                Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        let Some(line) = line else { return !self.lines.is_disconnected() };
        match self.lines.try_send(Ok(line.clone())) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missed += 1;
                dropped.inc();
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Readers {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            all: Mutex::new(Vec::new()),
            counted: metrics.events.clone(),
            dropped: metrics.events_dropped.clone(),
            reading: metrics.event_readers.clone(),
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Reader>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// One more reader, of what happens from now on.
    ///
    /// # Errors
    /// [`TooManyReaders`]
    pub fn read(&self) -> Result<Lines, TooManyReaders> {
        // Those that have gone make room at once.
        self.give(None, 0);
        let mut all = self.readers.all();
        if all.len() >= EVENT_READERS_MAX {
            return Err(TooManyReaders);
        }
        let (lines, read) = flume::bounded(EVENT_READER_QUEUE_MAX);
        all.push(Reader { lines, missed: 0 });
        self.count(all.len());
        Ok(read)
    }

    /// Hands events to readers for as long as the server runs. This is where their time is stamped.
    pub async fn keep_telling(self: Arc<Self>) {
        loop {
            // Whichever is first: an event, or the time to say what was missed.
            let event = tokio::time::timeout(TELL_EVERY, self.receiver.recv_async()).await;
            let missed = self.missed.swap(0, Ordering::Relaxed);
            match event {
                Ok(Ok(event)) => {
                    self.readers.counted.with_label_values(&[event.kind()]).inc();
                    let line = Bytes::from(format!("{}\n", event.to_json(now_ms())));
                    self.give(Some(&line), missed);
                }
                // Nobody can tell anything any more: not while this has a sender itself.
                Ok(Err(_)) => return,
                Err(_) => self.give(None, missed),
            }
        }
    }

    /// Gives every reader a line, and forgets those that have gone.
    fn give(&self, line: Option<&Bytes>, missed: u64) {
        let mut all = self.readers.all();
        all.retain_mut(|reader| {
            reader.missed += missed;
            reader.give(line, &self.readers.dropped)
        });
        self.count(all.len());
    }

    fn count(&self, readers: usize) {
        self.heard_by.store(readers, Ordering::Relaxed);
        self.readers.reading.set(i64::try_from(readers).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn drain(lines: &Lines) -> Vec<Value> {
        lines.drain().map(|line| serde_json::from_slice(&line.unwrap()).unwrap()).collect()
    }

    #[test]
    fn readers_are_counted_up_to_their_most_and_make_room_when_they_go() {
        let metrics = Metrics::new(None).unwrap();
        let events = Events::new(&metrics);
        let mut all: Vec<Lines> = (1..EVENT_READERS_MAX).map(|_| events.read().unwrap()).collect();
        all.push(events.read().unwrap());
        assert!(
            events.is_heard() && metrics.event_readers.get() == i64::try_from(EVENT_READERS_MAX).unwrap()
        );
        assert_eq!(events.read().unwrap_err(), TooManyReaders);
        drop(all.pop());
        all.push(events.read().unwrap());
        assert_eq!(events.read().unwrap_err(), TooManyReaders);
        drop(all);
        events.give(None, 0);
        assert!(!events.is_heard() && metrics.event_readers.get() == 0);
    }

    #[test]
    fn a_slow_reader_misses_events_is_told_how_many_and_holds_nobody_up() {
        let metrics = Metrics::new(None).unwrap();
        let events = Events::new(&metrics);
        let (slow, quick) = (events.read().unwrap(), events.read().unwrap());
        let line = Bytes::from_static(b"{\"kind\":\"any\"}\n");
        for given in 1..=EVENT_READER_QUEUE_MAX + 2 {
            events.give(Some(&line), 0);
            assert_eq!(drain(&quick).len(), 1);
            let missed = given.saturating_sub(EVENT_READER_QUEUE_MAX);
            assert_eq!(metrics.events_dropped.get(), missed as u64, "{given} given");
        }
        assert_eq!(drain(&slow).len(), EVENT_READER_QUEUE_MAX);
        // Told although nothing else happens, together with what never came this far.
        events.give(None, 5);
        let told = drain(&slow);
        assert_eq!((told[0]["kind"].as_str(), told[0]["events"].as_u64()), (Some("missed"), Some(7)));
        assert_eq!(drain(&quick)[0]["events"], 5);
        events.give(Some(&line), 0);
        assert_eq!((drain(&slow).len(), drain(&quick).len()), (1, 1));
    }
}
