//! Epochs that a document has left behind: kept for the days that the operator says, then their rows go.
//!
//! The commit that gives a document a new epoch also notes the ones before, and when. Some time later a thread of the
//! lowest priority removes their records, hashes and anchors, in pieces between ordinary commits, and last the note
//! itself: so a start goes on where the last one stopped. Nobody reads those rows (see [`super::epoch`]), and pieces
//! are stored only while the document stands in a later epoch.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use etherply_engine::change::ChangeHash;
use etherply_engine::log::LogError;
use fjall::Readable as _;
use flume::{Receiver, RecvTimeoutError, Sender};

use super::cover::Pieces;
use super::keys::{Head, KeyspaceId, RETIRED_PREFIX, Retired, anchor_key, change_key, hash_key, retired_key};
use super::log::read_failed;
use super::piece::{Expect, PIECE_ROWS_MAX, Piece, Stored};
use super::reader::Reader;
use super::stats::{StorageStats, add};
use super::thread::{Committer, StorageThread};
use crate::clock::now_ms;

/// Days for which epochs that a document has left behind are kept, unless it is said otherwise.
pub const RETAIN_DAYS: u16 = 30;
/// Most days.
pub const RETAIN_DAYS_MAX: u16 = 36_500;
/// How often it is looked what is due.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Pause between two pieces: others wait for no more than one.
const PIECE_PAUSE: Duration = Duration::from_millis(20);
/// Notes that are read at once.
const PAGE_MAX: usize = 256;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

impl Reader {
    /// Epochs that documents have left behind, in the order of the documents' names, behind one of them.
    ///
    /// # Errors
    /// That the log cannot be read. Notes that are not readable are passed over, with a warning: what they are about
    /// stays.
    pub fn retired(&self, after: Option<&Retired>, count_max: usize) -> Result<Vec<Retired>, LogError> {
        let view = self.view()?;
        let after = after.map(|after| retired_key(&after.document, after.first_epoch));
        let start = after.map_or(Bound::Included(RETIRED_PREFIX.to_vec()), Bound::Excluded);
        let range = (start, Bound::Unbounded);
        let mut found = Vec::new();
        for row in view.committed.range::<Vec<u8>, _>(&view.opened.keyspaces.meta, range) {
            let (key, stored) = row.into_inner().map_err(|error| read_failed(&error))?;
            if found.len() >= count_max || !key.starts_with(RETIRED_PREFIX) {
                break;
            }
            match Retired::decode(&key, &stored) {
                Some(retired) => found.push(retired),
                None => {
                    tracing::warn!("a note of epochs that a document left behind is not readable: they stay")
                }
            }
        }
        Ok(found)
    }
}

/// The rows of a document's retired epochs on their way out.
#[derive(Debug)]
pub struct Removal {
    retired: Retired,
    /// Which keyspace is being emptied of them, and behind which row.
    at: (KeyspaceId, Vec<u8>),
}

impl Removal {
    /// Nothing is removed yet, or a part of it was by somebody before.
    pub fn new(retired: Retired) -> Self {
        let start = change_key(&retired.document, retired.first_epoch, 0);
        Self { at: (KeyspaceId::Changes, start), retired }
    }

    /// Goes on by one piece; whether all is done. How many rows went is added to `rows`.
    ///
    /// # Errors
    /// What the log says.
    pub fn step(
        &mut self,
        reader: &Reader,
        pieces: &mut impl Pieces,
        rows: &mut u64,
    ) -> Result<bool, LogError> {
        let document = self.retired.document.clone();
        let (piece, is_last) = match reader.head(&document)? {
            Some(head) if head.is_deleted() => (self.note_only(Expect::Head(head)), true),
            // A note of an epoch that is the document's: it is wrong, whoever wrote it.
            Some(head) if head.epoch <= self.retired.last_epoch => {
                (self.note_only(Expect::Epoch(head.epoch)), true)
            }
            Some(head) => self.next_piece(reader, head)?,
            None => (self.note_only(Expect::Anything), true),
        };
        let count = piece.rows.len() as u64;
        let stored = pieces.store(piece)?;
        if stored == Stored::Durable {
            *rows += count;
        }
        // Otherwise the document went on meanwhile: looked at anew.
        Ok(is_last && stored == Stored::Durable)
    }

    fn note_only(&self, expect: Expect) -> Piece {
        let mut piece = Piece::new(self.retired.document.clone(), expect);
        piece.remove(KeyspaceId::Meta, retired_key(&self.retired.document, self.retired.first_epoch));
        piece
    }

    fn next_piece(&mut self, reader: &Reader, head: Head) -> Result<(Piece, bool), LogError> {
        let Retired { document, first_epoch, last_epoch, .. } = self.retired.clone();
        let view = reader.view()?;
        let mut piece = Piece::new(document.clone(), Expect::Epoch(head.epoch));
        for (id, start, end) in [
            (
                KeyspaceId::Changes,
                change_key(&document, first_epoch, 0),
                change_key(&document, last_epoch, u64::MAX),
            ),
            (
                KeyspaceId::Hashes,
                hash_key(&document, first_epoch, &ChangeHash([0; 32])),
                hash_key(&document, last_epoch, &ChangeHash([u8::MAX; 32])),
            ),
        ] {
            if self.at.0 as u64 > id as u64 {
                continue;
            }
            if self.at.0 != id {
                self.at = (id, start);
            }
            let range = (Bound::Included(self.at.1.clone()), Bound::Included(end));
            let room = PIECE_ROWS_MAX - piece.rows.len();
            for row in view.committed.range::<Vec<u8>, _>(view.opened.keyspaces.get(id), range).take(room) {
                let key = row.key().map_err(|error| read_failed(&error))?;
                // What is gone already need not be walked again.
                self.at.1 = key.to_vec();
                piece.remove(id, self.at.1.clone());
            }
            if piece.rows.len() == PIECE_ROWS_MAX {
                return Ok((piece, false));
            }
        }
        let anchors = anchor_key(&document, first_epoch)..=anchor_key(&document, last_epoch);
        for row in view.committed.range(&view.opened.keyspaces.meta, anchors) {
            let key = row.key().map_err(|error| read_failed(&error))?;
            piece.remove(KeyspaceId::Meta, key.to_vec());
        }
        piece.remove(KeyspaceId::Meta, retired_key(&document, first_epoch));
        Ok((piece, true))
    }
}

/// Ends the thread when it is dropped.
#[derive(Debug)]
pub struct RetireStop {
    _stop: Sender<()>,
}

/// Starts the thread that removes what is older than so many days. `on_start` runs on it first: the place to set its
/// priority.
///
/// # Errors
/// The system gives no thread.
pub fn spawn_retire(
    reader: Reader,
    committer: Committer,
    stats: Arc<StorageStats>,
    days: u16,
    on_start: impl FnOnce() + Send + 'static,
) -> io::Result<(RetireStop, StorageThread)> {
    let (stop, stopped) = flume::bounded(0);
    let thread = std::thread::Builder::new().name("retire".to_owned()).spawn(move || {
        on_start();
        let mut retiring = Retiring { reader, committer, stats, keep_ms: u64::from(days) * DAY_MS };
        let mut rest = Duration::ZERO;
        while stopped.recv_timeout(rest) == Err(RecvTimeoutError::Timeout) {
            if let Err(error) = retiring.pass(&stopped, now_ms()) {
                tracing::warn!("rows of epochs that documents left behind stay for now: {error}");
            }
            rest = LOOK_EVERY;
        }
    })?;
    Ok((RetireStop { _stop: stop }, StorageThread::new(thread)))
}

struct Retiring<P> {
    reader: Reader,
    committer: P,
    stats: Arc<StorageStats>,
    keep_ms: u64,
}

impl<P: Pieces> Retiring<P> {
    /// Removes all that is due, until it is told to stop.
    fn pass(&mut self, stopped: &Receiver<()>, now_ms: u64) -> Result<(), LogError> {
        let mut last = None;
        loop {
            let page = self.reader.retired(last.as_ref(), PAGE_MAX)?;
            let Some(end) = page.last().cloned() else { return Ok(()) };
            last = Some(end);
            for retired in page {
                if now_ms.saturating_sub(retired.time_ms) < self.keep_ms {
                    continue;
                }
                match self.remove(retired, stopped) {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    // One document's damage is its own: the others' rows go all the same.
                    Err(error @ LogError::Damaged { .. }) => {
                        tracing::warn!("rows of epochs that a document left behind stay for now: {error}");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Removes what a document has left behind; false if it was told to stop before all was gone.
    fn remove(&mut self, retired: Retired, stopped: &Receiver<()>) -> Result<bool, LogError> {
        let (document, mut rows) = (retired.document.clone(), 0);
        let mut removal = Removal::new(retired);
        while !removal.step(&self.reader, &mut self.committer, &mut rows)? {
            if stopped.recv_timeout(PIECE_PAUSE) != Err(RecvTimeoutError::Timeout) {
                return Ok(false);
            }
        }
        add(&self.stats.retired_rows, rows);
        tracing::info!("{rows} rows of epochs that {document} left behind are removed");
        Ok(true)
    }
}

#[cfg(test)]
#[path = "retire_tests.rs"]
mod tests;
