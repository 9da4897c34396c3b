//! Every document of a data directory, proven from its beginning, held against all that speaks of it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use etherply_engine::change::ChangeHash;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Found, LogError, Past};
use etherply_wire::kinds::Cursor;
use xxhash_rust::xxh3::xxh3_64;

use super::merge::{Merge, Row, TableDamage};
use super::report::{DocumentDamage, FoundCommits, Report};
use super::{Inspection, Progress};
use crate::storage::anchor::AnchorRow;
use crate::storage::error::{Damage, OpenError};
use crate::storage::index::LogRow;
use crate::storage::keys::{
    COMMIT_KEY, CommitRow, FILLER_KEY, Head, KeyspaceId, RETIRED_PREFIX, decode_found, decode_past,
    document_of_deleted_key, encode_found, hash_key, is_past_key, parse_anchor_key, parse_change_key,
    parse_hash_key,
};
use crate::storage::proof::{Anchor, Proof};
use crate::storage::snapshot::Snapshots;

#[path = "mend.rs"]
mod mend;
pub use mend::Missing;

/// Rows between two reports of progress.
const PROGRESS_EACH_ROWS: u64 = 10_000;

/// Is told what of each document is proven.
pub trait Taker {
    /// The snapshot with which the document's epoch of now begins, before the rows of that epoch.
    fn snapshot(&mut self, document: &DocumentId, anchor: AnchorRow, bytes: Vec<u8>)
    -> Result<(), OpenError>;
    /// A record, or what stayed of it, in the order of epochs and positions. Epochs that are not the document's now
    /// are among them.
    fn row(&mut self, document: &DocumentId, epoch: u64, row: LogRow) -> Result<(), OpenError>;
    /// Rows of the document's epoch of now that are damaged or missing, in order, whose changes are in the snapshot that
    /// was told.
    fn missing(&mut self, document: &DocumentId, rows: Vec<Missing>) -> Result<(), OpenError>;
    /// Nothing of the document can be kept, whatever was told of it.
    fn lost(&mut self, document: &DocumentId) -> Result<(), OpenError>;
    /// The document's records are all told. `head` names its epoch of now, and how far that is proven; `past` is
    /// what the epochs before left behind.
    fn end(&mut self, document: &DocumentId, head: Head, past: Option<Past>) -> Result<(), OpenError>;
}

/// Takes nothing: for a look.
#[derive(Debug)]
pub struct Nobody;

impl Taker for Nobody {
    fn snapshot(&mut self, _: &DocumentId, _: AnchorRow, _: Vec<u8>) -> Result<(), OpenError> {
        Ok(())
    }

    fn row(&mut self, _: &DocumentId, _: u64, _: LogRow) -> Result<(), OpenError> {
        Ok(())
    }

    fn missing(&mut self, _: &DocumentId, _: Vec<Missing>) -> Result<(), OpenError> {
        Ok(())
    }

    fn lost(&mut self, _: &DocumentId) -> Result<(), OpenError> {
        Ok(())
    }

    fn end(&mut self, _: &DocumentId, _: Head, _: Option<Past>) -> Result<(), OpenError> {
        Ok(())
    }
}

impl Inspection {
    /// Reads everything.
    ///
    /// # Errors
    /// What `taker` says, or that a file cannot be read. Damage is in the report.
    pub fn walk(
        mut self,
        taker: &mut dyn Taker,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Report, OpenError> {
        self.check_tables(progress)?;
        let (stored, meta_end, anchors) = self.stored_commit()?;
        let mut walk = Walk {
            heads: Ahead::new(self.rows(KeyspaceId::Documents)?),
            changes: Ahead::new(self.rows(KeyspaceId::Changes)?),
            hashes: Ahead::new(self.rows(KeyspaceId::Hashes)?),
            anchors,
            snapshots: Snapshots::new(self.directory.path(), self.id()),
            counted: Counted::default(),
            taker,
            progress,
            at: self.progress,
            rows_since: 0,
        };
        let io = |error| OpenError::io(self.directory.path(), "read the tables")(error);
        for ahead in [&mut walk.heads, &mut walk.changes, &mut walk.hashes] {
            ahead.step().map_err(io)?;
        }
        while let Some(name) = walk.next_name() {
            walk.document(&name).map_err(|error| match error {
                Stopped::Io(error) => io(error),
                Stopped::Taker(error) => error,
            })?;
        }
        let Walk { heads, changes, hashes, counted, .. } = walk;
        let merges = [heads.merge, changes.merge, hashes.merge];
        let tables_end = merges.iter().map(|merge| merge.tables_end).chain([meta_end]).min().unwrap_or(0);
        for damage in merges.into_iter().flat_map(|merge| merge.damage) {
            self.note_table(damage)?;
        }
        self.damage.extend(counted.damage);
        let commits = FoundCommits::new(self.ledger, stored, tables_end, &self.journals.commits);
        // What came before the oldest journal was dropped from the journals because all tables held it.
        if let Some(first) = self.journals.commits.first().filter(|first| tables_end < first.seqno_min) {
            self.note(OpenError::Damaged(Box::new(Damage {
                path: self.directory.database_path(),
                what: "a journal, or tables that replaced it, are missing".to_owned(),
                lost: Some(1..=first.commit.saturating_sub(1)),
                ..Damage::default()
            })))?;
        }
        let whole = self.damage.is_empty() && counted.damaged.is_empty() && commits.missing.is_empty();
        Ok(Report {
            data: self.directory.path().to_owned(),
            whole,
            documents: counted.documents,
            documents_deleted: counted.documents_deleted,
            documents_damaged: counted.damaged.len() as u64,
            records: counted.records,
            record_bytes: counted.record_bytes,
            records_of_other_epochs: counted.records_of_other_epochs,
            commits,
            damage: self.damage,
            damaged_documents: counted.damaged,
        })
    }

    /// The row of the last commit that tables hold, how far that keyspace's tables go, and the rows that tie
    /// documents to their snapshots.
    fn stored_commit(&mut self) -> Result<(Option<CommitRow>, u64, Anchors), OpenError> {
        let path = self.directory.database_path();
        // The journals' rows of commits are known as their commits.
        self.journals.retain_rows(KeyspaceId::Meta, |key| key != COMMIT_KEY);
        let mut rows = self.rows(KeyspaceId::Meta)?;
        let (mut stored, mut anchors) = (None, Anchors::new());
        while let Some(row) = rows.next_row().map_err(OpenError::io(&path, "read the tables"))? {
            // A note that is damaged keeps old rows from being removed, and harms nothing else.
            if document_of_deleted_key(&row.key).is_some() || row.key.starts_with(RETIRED_PREFIX) {
                continue;
            }
            if let Some(place) = parse_anchor_key(&row.key) {
                anchors.insert(place, row.value);
                continue;
            }
            let decoded = CommitRow::decode(self.id(), &row.value).filter(|_| row.key == COMMIT_KEY);
            if decoded.is_none() {
                self.note(OpenError::damaged(&path, None, "the last commit's row is not readable"))?;
            }
            stored = stored.or(decoded);
        }
        let tables_end = rows.tables_end;
        for damage in rows.damage {
            self.note_table(damage)?;
        }
        Ok((stored, tables_end, anchors))
    }

    fn note_table(&mut self, damage: TableDamage) -> Result<(), OpenError> {
        let TableDamage { path, rubble, between: (before, after) } = damage;
        // Documents on both sides of it, and in it, are concerned; the two can be named.
        let mut documents: Vec<String> =
            [before, after].into_iter().flatten().filter_map(|key| Some(name_of(&key)?.to_owned())).collect();
        documents.dedup();
        // The whole table is known to be damaged; this says where.
        self.damage.retain(|known| known.path != path || known.offset.is_some());
        self.note(OpenError::Damaged(Box::new(Damage {
            path,
            offset: Some(rubble.offset),
            what: rubble.what.to_owned(),
            documents,
            ..Damage::default()
        })))
    }
}

/// The document's name in a row's key.
fn name_of(key: &[u8]) -> Option<&str> {
    let name = key.split(|&byte| byte == 0).next()?;
    std::str::from_utf8(name).ok().filter(|name| DocumentId::new(name).is_ok())
}

/// A keyspace's rows, the next one seen before it is taken.
struct Ahead {
    merge: Merge,
    next: Option<Row>,
}

impl Ahead {
    fn new(merge: Merge) -> Self {
        Self { merge, next: None }
    }

    fn step(&mut self) -> std::io::Result<Option<Row>> {
        let mut next = self.merge.next_row()?;
        if next.as_ref().is_some_and(|row| row.key == FILLER_KEY) {
            next = self.merge.next_row()?;
        }
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn name(&self) -> Option<Bytes> {
        let key = &self.next.as_ref()?.key;
        let end = memchr::memchr(0, key).unwrap_or(key.len());
        Some(key.slice(..end))
    }

    fn take_if_of(&mut self, name: &Bytes) -> std::io::Result<Option<Row>> {
        if self.name().as_ref() == Some(name) { self.step() } else { Ok(None) }
    }
}

#[derive(Default)]
struct Counted {
    documents: u64,
    documents_deleted: u64,
    records: u64,
    record_bytes: u64,
    records_of_other_epochs: u64,
    damage: Vec<Damage>,
    damaged: Vec<DocumentDamage>,
}

/// Rows that tie epochs of documents to their snapshots.
type Anchors = BTreeMap<(DocumentId, u64), Bytes>;

/// What can be kept of a document.
enum Verdict {
    /// All up to here.
    Whole(Head),
    /// Nothing: what is whole of it means nothing without what is not.
    Lost,
    /// Nothing is there but its name.
    OnlyName,
}

/// What is seen of one document.
#[derive(Default)]
struct Seen {
    head: Option<Head>,
    epochs: Vec<Epoch>,
    /// Rows that should say where a change stands, and are not what was written.
    bad_places: u64,
}

impl Seen {
    /// The document's epoch: the one that its head names, or else the latest of which there is anything.
    fn current(&self) -> Option<u64> {
        let latest = self.epochs.iter().map(|epoch| epoch.epoch).max();
        self.head.map(|head| head.epoch).or(latest)
    }
}

struct Walk<'w> {
    anchors: Anchors,
    snapshots: Snapshots,
    heads: Ahead,
    changes: Ahead,
    hashes: Ahead,
    counted: Counted,
    taker: &'w mut dyn Taker,
    progress: &'w mut dyn FnMut(Progress),
    at: Progress,
    rows_since: u64,
}

enum Stopped {
    Io(std::io::Error),
    Taker(OpenError),
}

impl From<std::io::Error> for Stopped {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// What there is of one epoch of a document.
struct Epoch {
    proof: Proof,
    epoch: u64,
    damage: Option<String>,
    /// Somebody may need what its snapshot holds.
    is_served: bool,
    /// What is wrong with its snapshot, or where that ends.
    snapshot: Option<Result<Cursor, String>>,
    /// Positions that its log lacks and its snapshot has, and what was found there.
    mended: Option<(RangeInclusive<u64>, String)>,
    /// It cannot even be kept up to where it is whole.
    is_lost: bool,
    records: u64,
    record_bytes: u64,
    records_behind: u64,
    bytes_behind: u64,
    /// Of the rows that say where changes stand: those that the proven records call for, and those found. Sums
    /// of hashes, because the rows are in another order than the records, and a document can have millions.
    rows: RowSum,
    rows_found: RowSum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct RowSum {
    count: u64,
    sum: u64,
}

impl RowSum {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(xxh3_64(key).wrapping_mul(xxh3_64(value) | 1));
    }
}

impl Epoch {
    fn new(document: &DocumentId, epoch: u64) -> Self {
        Self {
            proof: Proof::from(document.clone(), Anchor::beginning(document, epoch)),
            epoch,
            damage: None,
            is_served: false,
            snapshot: None,
            mended: None,
            is_lost: false,
            records: 0,
            record_bytes: 0,
            records_behind: 0,
            bytes_behind: 0,
            rows: RowSum::default(),
            rows_found: RowSum::default(),
        }
    }

    /// Takes a row if it can be proven.
    fn row(&mut self, document: &DocumentId, seq: u64, stored: &Bytes) -> Option<LogRow> {
        if self.mended.is_some() && seq <= self.proof.through().seq {
            return None;
        }
        if self.damage.is_none() {
            let before = self.proof.through();
            match self.proof.take(seq, stored).and_then(|row| self.check_snapshot(row)) {
                Ok(row) => {
                    self.record_bytes += stored.len() as u64;
                    self.count(document, row.hash(), Found { seq, max_op: row.max_op() });
                    return Some(row);
                }
                Err(what) => {
                    self.proof = Proof::from(document.clone(), before);
                    self.damage = Some(what);
                }
            }
        }
        self.records_behind += 1;
        self.bytes_behind += stored.len() as u64;
        None
    }

    /// Counts a position of which all is known.
    fn count(&mut self, document: &DocumentId, hash: &ChangeHash, found: Found) {
        self.records += 1;
        let key = hash_key(document, self.epoch, hash);
        self.rows.add(&key, &encode_found(&key, found));
    }

    /// What a row without a record stands for has to be in a snapshot that is whole, and of this log.
    fn check_snapshot(&self, row: LogRow) -> Result<LogRow, String> {
        let through = self.proof.through();
        match (&self.snapshot, &row) {
            _ if !self.is_served => Ok(row),
            (Some(Ok(cursor)), _) if cursor.seq == through.seq && cursor.chain != through.chain.0 => {
                Err("its snapshot is of another history".to_owned())
            }
            (Some(Ok(cursor)), LogRow::Covered(_)) if through.seq <= cursor.seq => Ok(row),
            (Some(Ok(_)), LogRow::Covered(_)) => Err("its record is missing".to_owned()),
            (Some(Err(what)), LogRow::Covered(_)) => Err(what.clone()),
            (None, LogRow::Covered(_)) => Err("what ties it to its snapshot is missing".to_owned()),
            (_, LogRow::Record(_)) => Ok(row),
        }
    }
}

impl<'w> Walk<'w> {
    fn next_name(&self) -> Option<Bytes> {
        [self.heads.name(), self.changes.name(), self.hashes.name()].into_iter().flatten().min()
    }

    fn document(&mut self, name: &Bytes) -> Result<(), Stopped> {
        // A row without a meaning stands before all documents.
        if name.is_empty() {
            for ahead in [&mut self.heads, &mut self.changes, &mut self.hashes] {
                while ahead.take_if_of(name)?.is_some() {}
            }
            return Ok(());
        }
        let parsed = std::str::from_utf8(name).ok().and_then(|name| DocumentId::new(name).ok());
        let Some(document) = parsed else {
            let what = format!("rows of a document whose name is none: {}", name.escape_ascii());
            self.counted.damage.push(Damage { what, ..Damage::default() });
            for ahead in [&mut self.heads, &mut self.changes, &mut self.hashes] {
                while ahead.take_if_of(name)?.is_some() {}
            }
            return Ok(());
        };
        let mut head = Err("the row that says how far it goes is missing");
        let mut past = None;
        while let Some(row) = self.heads.take_if_of(name)? {
            if is_past_key(&row.key) {
                past = Some(decode_past(&row.key, &row.value));
            } else {
                head = Head::decode(&document, &row.value)
                    .ok_or("the row that says how far it goes is not what was written");
            }
        }
        if let Some(tombstone) = head.ok().filter(Head::is_deleted) {
            return self.deleted(name, &document, tombstone);
        }
        self.counted.documents += 1;
        let mut seen = Seen { head: head.ok(), ..Seen::default() };
        self.read_records(name, &document, &mut seen)?;
        // Of an epoch whose last rows, or all of them, are missing.
        self.mend_current(name, &document, &mut seen)?;
        self.read_places(name, &document, &mut seen, |_, _| false)?;
        // Of one that nothing told of before.
        self.mend_current(name, &document, &mut seen)?;
        let is_past_damaged = past.as_ref().is_some_and(Option::is_none);
        match self.judge(&document, head, seen, is_past_damaged) {
            Verdict::Whole(proven) => self.taker.end(&document, proven, past.flatten()),
            Verdict::Lost => self.taker.lost(&document),
            Verdict::OnlyName => Ok(()),
        }
        .map_err(Stopped::Taker)
    }

    /// A deleted document: its rows are on their way out, and nobody serves them.
    fn deleted(&mut self, name: &Bytes, document: &DocumentId, tombstone: Head) -> Result<(), Stopped> {
        self.counted.documents_deleted += 1;
        for ahead in [&mut self.changes, &mut self.hashes] {
            while ahead.take_if_of(name)?.is_some() {}
        }
        self.taker.end(document, tombstone, None).map_err(Stopped::Taker)
    }

    fn read_records(&mut self, name: &Bytes, document: &DocumentId, seen: &mut Seen) -> Result<(), Stopped> {
        while let Some(row) = self.changes.take_if_of(name)? {
            self.count_row();
            let Some((_, number, seq)) = parse_change_key(&row.key) else {
                let what = format!("a record of {document} has a key that is none");
                self.counted.damage.push(Damage { what, ..Damage::default() });
                continue;
            };
            let epoch = self.epoch(document, number, seen)?;
            let mut proven = epoch.row(document, seq, &row.value);
            if proven.is_none() && epoch.lacks_what_its_snapshot_has() {
                self.mend(name, document, number, seen)?;
                // It may stand behind what was made anew.
                proven = self.epoch(document, number, seen)?.row(document, seq, &row.value);
            }
            if let Some(row) = proven {
                self.taker.row(document, number, row).map_err(Stopped::Taker)?;
            }
        }
        Ok(())
    }

    /// What is seen of an epoch.
    fn epoch<'s>(
        &mut self,
        document: &DocumentId,
        number: u64,
        seen: &'s mut Seen,
    ) -> Result<&'s mut Epoch, Stopped> {
        let index = match seen.epochs.iter().position(|epoch| epoch.epoch == number) {
            Some(index) => index,
            None => {
                let mut epoch = Epoch::new(document, number);
                epoch.is_served = seen.head.is_none_or(|head| head.epoch == number);
                if epoch.is_served {
                    self.begin_with_snapshot(document, &mut epoch)?;
                }
                seen.epochs.push(epoch);
                seen.epochs.len() - 1
            }
        };
        #[allow(clippy::indexing_slicing, reason = "it was found there, or put there")]
        Ok(&mut seen.epochs[index])
    }

    /// Reads an epoch's snapshot, if it has one.
    fn begin_with_snapshot(&mut self, document: &DocumentId, epoch: &mut Epoch) -> Result<(), Stopped> {
        let Some(stored) = self.anchors.remove(&(document.clone(), epoch.epoch)) else { return Ok(()) };
        let Some(anchor) = AnchorRow::decode(document, epoch.epoch, &stored) else {
            let what = "what ties it to its snapshot is not what was written";
            epoch.snapshot = Some(Err(what.to_owned()));
            return Ok(());
        };
        match self.snapshots.read_whole(document, &anchor) {
            Ok(bytes) => {
                epoch.snapshot = Some(Ok(anchor.anchor.snapshot.cursor));
                self.taker.snapshot(document, anchor, bytes).map_err(Stopped::Taker)
            }
            Err(LogError::Damaged { what, .. }) => {
                epoch.snapshot = Some(Err(what));
                Ok(())
            }
            Err(error) => Err(Stopped::Io(std::io::Error::other(error.to_string()))),
        }
    }

    /// Reads the rows that say where changes stand, which can be done once; those that are wanted, by epoch and
    /// position.
    fn read_places(
        &mut self,
        name: &Bytes,
        document: &DocumentId,
        seen: &mut Seen,
        is_wanted: impl Fn(u64, u64) -> bool,
    ) -> Result<BTreeMap<u64, (ChangeHash, Found)>, Stopped> {
        let mut wanted = BTreeMap::new();
        while let Some(row) = self.hashes.take_if_of(name)? {
            self.count_row();
            let place = parse_hash_key(&row.key).zip(decode_found(&row.key, &row.value));
            let Some(((_, number, hash), found)) = place else {
                seen.bad_places += 1;
                continue;
            };
            self.epoch(document, number, seen)?.rows_found.add(&row.key, &row.value);
            if is_wanted(number, found.seq) {
                wanted.insert(found.seq, (hash, found));
            }
        }
        Ok(wanted)
    }

    /// Holds a document's epoch of now against what else speaks of it; how far it is proven. Other epochs are
    /// served by nobody, and may be removed at any time, or be left over: what is missing of them is no damage.
    fn judge(
        &mut self,
        document: &DocumentId,
        head: Result<Head, &'static str>,
        seen: Seen,
        is_past_damaged: bool,
    ) -> Verdict {
        let number = seen.current();
        let Seen { epochs, bad_places, .. } = seen;
        let Some(number) = number else {
            // Nothing but its name is left: it may have been empty, or deleted.
            self.counted.damaged.push(DocumentDamage {
                document: document.to_string(),
                epoch: 0,
                whole_through: 0,
                expected_through: None,
                what: head.err().unwrap_or_default().to_owned(),
                made_anew: 0,
                records_behind: 0,
                bytes_behind: 0,
            });
            return Verdict::OnlyName;
        };
        let mut current = Epoch::new(document, number);
        for epoch in epochs {
            if epoch.epoch == number {
                current = epoch;
            } else {
                self.counted.records_of_other_epochs += epoch.records;
            }
        }
        self.counted.records += current.records;
        self.counted.record_bytes += current.record_bytes;
        let through = current.proof.through().seq;
        let what = current.damage.clone().or_else(|| match head {
            // Its records may all be proven, but whether more of them followed is not known.
            Err(what) => Some(what.to_owned()),
            Ok(head) => what_is_wrong(&current, head, bad_places),
        });
        let past = is_past_damaged.then(|| {
            "the row that says what its earlier epochs left behind is not what was written".to_owned()
        });
        let mended = current.mended.as_ref().map(|(lacked, what)| {
            let (from, through) = (lacked.start(), lacked.end());
            format!("positions {from} to {through}: {what}; its snapshot has their changes, but not who sent them when")
        });
        if let Some(what) = what.or(mended).or(past) {
            // The rows of hashes know of changes that no record tells of any more.
            let indexed = (current.rows_found.count > through).then_some(current.rows_found.count);
            self.counted.damaged.push(DocumentDamage {
                document: document.to_string(),
                epoch: number,
                whole_through: through,
                expected_through: head.map(|head| head.last_seq).ok().max(indexed),
                what,
                made_anew: current.mended.as_ref().map_or(0, |(lacked, _)| lacked.end() - lacked.start() + 1),
                records_behind: current.records_behind,
                bytes_behind: current.bytes_behind,
            });
        }
        let flags = head.map_or(0, |head| head.flags);
        match current.is_lost {
            true => Verdict::Lost,
            false => Verdict::Whole(Head { epoch: number, last_seq: through, flags }),
        }
    }

    fn count_row(&mut self) {
        self.rows_since += 1;
        if self.rows_since >= PROGRESS_EACH_ROWS {
            self.rows_since = 0;
            let read: u64 =
                [&self.heads, &self.changes, &self.hashes].iter().map(|ahead| ahead.merge.bytes_read()).sum();
            (self.progress)(Progress { done: self.at.done + read, total: self.at.total });
        }
    }
}

/// What is wrong with a document's epoch whose records are all proven.
fn what_is_wrong(epoch: &Epoch, head: Head, bad_places: u64) -> Option<String> {
    let (through, last) = (epoch.proof.through().seq, head.last_seq);
    if let Some(Err(what)) = &epoch.snapshot {
        return Some(what.clone());
    }
    if through < last {
        return Some(format!("the log ends here, but should go to {last}"));
    }
    if through > last {
        return Some(format!("the log goes on beyond its end, which is said to be {last}"));
    }
    (epoch.rows != epoch.rows_found || bad_places > 0)
        .then(|| "rows that say where its changes stand are missing, or not what was written".to_owned())
}
