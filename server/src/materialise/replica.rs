//! One document as Automerge has it: built from the document's snapshot and log, up to a position.
//!
//! Automerge panics on some changes, applies others only to save what it cannot load again, and keeps changes
//! whose dependencies are missing in a queue without a word. Here all of that is one error, [`Poison`], and a
//! replica that has met it is gone: what a panic leaves behind is not to be trusted.

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::{Automerge, Change, ChangeHash, ReadDoc};
use etherply_engine::chain::chain_start;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{FIRST_EPOCH, LogError, LogReader as _};
use etherply_engine::record::Record;
use etherply_engine::snapshot::Snapshot;
use etherply_wire::kinds::Cursor;

use super::faults;
use super::whole::WholeLog;
use crate::storage::Reader;
use crate::storage::database::panic_text;

/// Bytes of changes that are read from the log, and applied, in one step.
pub const STEP_BYTES_MAX: usize = 256 * 1024;

// What a document takes in memory, as measured with Automerge 0.12: see `Replica::bytes`.
const EMPTY_BYTES: u64 = 15_000;
const CHANGE_BYTES: u64 = 130;
const OP_BYTES: u64 = 20;

/// What Automerge cannot digest. Somewhere among these records is a change that breaks it, alone or together
/// with what came before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "document {document}: Automerge cannot {action} the changes at positions {first_seq} to {last_seq}: {what}"
)]
pub struct Poison {
    /// The document.
    pub document: DocumentId,
    /// First position that may hold it.
    pub first_seq: u64,
    /// Last position that may hold it.
    pub last_seq: u64,
    /// What it was about: apply, save or load.
    pub action: &'static str,
    /// What it said.
    pub what: String,
}

/// Why a document could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Automerge cannot digest it.
    #[error(transparent)]
    Poison(#[from] Box<Poison>),
}

/// A document as Automerge has it.
#[derive(Debug, Clone)]
pub struct Replica {
    document: DocumentId,
    automerge: Automerge,
    cursor: Cursor,
    saved_seq: u64,
    applied_bytes: u64,
}

impl Replica {
    /// An empty document, at the beginning of an epoch.
    pub fn new(document: DocumentId, epoch: u64) -> Self {
        let chain = chain_start(&document, epoch).0;
        let cursor = Cursor { epoch, seq: 0, chain };
        Self { document, automerge: Automerge::new(), cursor, saved_seq: 0, applied_bytes: 0 }
    }

    /// A document from what [`Self::save_verified`] gave, or from changes one behind the other; they are what the
    /// log has up to `cursor`, where they came in `log_bytes`: saved, they may be a thousand times smaller.
    ///
    /// # Errors
    /// [`Poison`] if Automerge cannot load it, or not without changes that are missing.
    pub fn from_saved(
        document: DocumentId,
        cursor: Cursor,
        log_bytes: u64,
        saved: &[u8],
    ) -> Result<Self, Box<Poison>> {
        let applied_bytes = log_bytes.max(saved.len() as u64);
        let poison = |action, what| Poison::new(&document, 1, cursor.seq, action, what);
        match catch_unwind(AssertUnwindSafe(|| Automerge::load(saved))) {
            // A document chunk may be followed by changes, and those may wait for others.
            Ok(Ok(automerge)) if automerge.get_missing_deps(&[]).is_empty() => {
                Ok(Self { document, automerge, cursor, saved_seq: cursor.seq, applied_bytes })
            }
            Ok(Ok(_)) => Err(poison("apply", "it has changes whose dependencies are missing".to_owned())),
            Ok(Err(error)) => Err(poison("load", error.to_string())),
            Err(panic) => Err(poison("load", panicked(&*panic))),
        }
    }

    /// Applies the records that follow. The replica is gone if Automerge cannot digest them.
    ///
    /// # Errors
    /// [`Poison`]: Automerge panicked, refused a change, or keeps one back. That the records follow one another
    /// and the last one applied is for the caller, who has them from the log: a gap comes out as `Poison`.
    pub fn apply(mut self, records: &[Record]) -> Result<Self, Box<Poison>> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(self) };
        let poison = |action, what| Poison::new(&self.document, first.seq, last.seq, action, what);
        if first.seq != self.cursor.seq + 1 {
            let what = format!("the document goes up to {} only", self.cursor.seq);
            return Err(poison("apply", what));
        }
        let mut changes = Vec::with_capacity(records.len());
        for record in records {
            let read = catch_unwind(AssertUnwindSafe(|| Change::from_bytes(record.change.to_vec())));
            let only = |what| Err(Poison::new(&self.document, record.seq, record.seq, "read", what));
            match read {
                Ok(Ok(change)) => changes.push(change),
                Ok(Err(error)) => return only(error.to_string()),
                Err(panic) => return only(panicked(&*panic)),
            }
        }
        let before = self.automerge.stats().num_changes;
        let apply = AssertUnwindSafe(|| {
            faults::pass(&self.document, records);
            self.automerge.apply_changes(changes)
        });
        match catch_unwind(apply) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(poison("apply", error.to_string())),
            Err(panic) => return Err(poison("apply", panicked(&*panic))),
        }
        // What lacks dependencies goes into a queue, and what is there already is passed over, both silently.
        let applied = self.automerge.stats().num_changes - before;
        if applied != records.len() as u64 {
            let what = format!("it took {applied} of {} changes", records.len());
            return Err(poison("apply", what));
        }
        self.cursor = Cursor { seq: last.seq, chain: last.chain.0, ..self.cursor };
        self.applied_bytes += records.iter().map(|record| record.change.len() as u64).sum::<u64>();
        Ok(self)
    }

    /// The document as Automerge saves it, after it was loaded again and has the same heads and changes.
    ///
    /// # Errors
    /// [`Poison`]: it cannot be saved, or not loaded. The change that is to blame may be any before.
    pub fn save_verified(&self) -> Result<Vec<u8>, Box<Poison>> {
        let poison = |action, what| Poison::new(&self.document, 1, self.cursor.seq, action, what);
        let saved = catch_unwind(AssertUnwindSafe(|| self.automerge.save()))
            .map_err(|panic| poison("save", panicked(&*panic)))?;
        let same = catch_unwind(AssertUnwindSafe(|| {
            let loaded = Automerge::load(&saved)?;
            let same_changes = loaded.stats().num_changes == self.automerge.stats().num_changes;
            Ok::<_, automerge::AutomergeError>(same_changes && loaded.get_heads() == self.heads())
        }));
        match same {
            Ok(Ok(true)) => Ok(saved),
            Ok(Ok(false)) => Err(poison("load", "what it saved is another document".to_owned())),
            Ok(Err(error)) => Err(poison("load", error.to_string())),
            Err(panic) => Err(poison("load", panicked(&*panic))),
        }
    }

    /// The document.
    pub fn document(&self) -> &DocumentId {
        &self.document
    }

    /// The place in the log up to which it was applied.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The position up to which it was loaded from what Automerge had saved; 0 if it was not.
    pub fn saved_seq(&self) -> u64 {
        self.saved_seq
    }

    /// The changes that nothing depends on.
    pub fn heads(&self) -> Vec<ChangeHash> {
        self.automerge.get_heads()
    }

    /// The document itself, for whoever reads it. Reading may panic as well, if it holds what would be poison.
    pub fn automerge(&self) -> &Automerge {
        &self.automerge
    }

    /// The document itself, for whoever takes it apart.
    pub fn into_automerge(self) -> Automerge {
        self.automerge
    }

    /// How many bytes of memory a document of so many small changes takes, estimated.
    pub fn bytes_of(changes: u64) -> u64 {
        EMPTY_BYTES.saturating_add((CHANGE_BYTES + OP_BYTES).saturating_mul(changes))
    }

    /// How many bytes of memory it takes, estimated. Columns are compressed, so it is less than this for most.
    pub fn bytes(&self) -> u64 {
        let stats = self.automerge.stats();
        let structure = EMPTY_BYTES + CHANGE_BYTES * stats.num_changes + OP_BYTES * stats.num_ops;
        // Long values count by the bytes that they came in.
        structure.max(self.applied_bytes)
    }
}

impl Poison {
    fn new(
        document: &DocumentId,
        first_seq: u64,
        last_seq: u64,
        action: &'static str,
        what: String,
    ) -> Box<Self> {
        Box::new(Self { document: document.clone(), first_seq, last_seq, action, what })
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    format!("it panicked: {}", panic_text(panic))
}

/// A replica that is being built, in bounded steps: from the document's snapshot and the records behind it, or,
/// up to a position within the snapshot, from all records.
#[derive(Debug)]
pub struct Opening {
    document: DocumentId,
    through_seq: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Begin,
    Log { replica: Box<Replica>, log: WholeLog },
    Tail(Box<Replica>),
}

impl Opening {
    /// Of all that is durable of a document by the time that it is done.
    pub fn new(document: DocumentId) -> Self {
        Self::through(document, u64::MAX)
    }

    /// Of a document up to a position of its current epoch, or its end if that comes before.
    pub fn through(document: DocumentId, through_seq: u64) -> Self {
        Self { document, through_seq, state: State::Begin }
    }

    /// How many bytes of memory it takes so far, estimated.
    pub fn bytes(&self) -> u64 {
        match &self.state {
            State::Begin => 0,
            State::Log { replica, .. } | State::Tail(replica) => replica.bytes(),
        }
    }

    /// Goes on; `None` until it is done. After an error it begins anew.
    ///
    /// # Errors
    /// [`OpeningError`]
    pub fn step(&mut self, reader: &Reader) -> Result<Option<Replica>, OpeningError> {
        match std::mem::replace(&mut self.state, State::Begin) {
            State::Begin => self.begin(reader)?,
            State::Log { replica, mut log } => {
                let records = log.next(reader, self.through_seq, STEP_BYTES_MAX)?;
                if records.is_empty() {
                    return Ok(Some(*replica));
                }
                self.state = State::Log { replica: Box::new(replica.apply(&records)?), log };
            }
            State::Tail(replica) => return self.read_tail(reader, *replica),
        }
        Ok(None)
    }

    fn begin(&mut self, reader: &Reader) -> Result<(), OpeningError> {
        let epoch = reader.epoch(&self.document)?.unwrap_or(FIRST_EPOCH);
        let stored = reader.snapshot(&self.document, epoch)?;
        let stored = stored.filter(|(anchor, _)| anchor.anchor.snapshot.cursor.seq <= self.through_seq);
        self.state = match stored {
            Some((anchor, bytes)) => {
                let Snapshot { cursor, covered_bytes, .. } = anchor.anchor.snapshot;
                let replica = Replica::from_saved(self.document.clone(), cursor, covered_bytes, &bytes)?;
                State::Tail(Box::new(replica))
            }
            None => State::Log {
                replica: Box::new(Replica::new(self.document.clone(), epoch)),
                log: WholeLog::new(self.document.clone(), epoch),
            },
        };
        Ok(())
    }

    fn read_tail(&mut self, reader: &Reader, replica: Replica) -> Result<Option<Replica>, OpeningError> {
        let Cursor { epoch, seq, .. } = replica.cursor;
        let records = reader.read(&self.document, epoch, seq, self.through_seq, STEP_BYTES_MAX)?;
        if records.is_empty() {
            return Ok(Some(replica));
        }
        self.state = State::Tail(Box::new(replica.apply(&records)?));
        Ok(None)
    }
}
