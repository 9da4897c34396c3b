//! Squashing: what a document holds now, as a few fresh changes without the history that led to it.
//!
//! Maps, lists, texts with their marks and blocks, and counters are written anew, one object after the other. What
//! does not come along is what is not content: who wrote what when, values that lost against a concurrent one, and
//! what was deleted. Automerge is asked in the end whether both documents say the same.

use automerge::iter::Span;
use automerge::marks::ExpandMark;
use automerge::transaction::Transactable as _;
use automerge::{
    ActorId, AutoCommit, Automerge, AutomergeError, ObjId, ObjType, Prop, ROOT, ReadDoc, ScalarValue, Value,
};
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::{ChangeHash, ChangeLimits, parse};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, LogError, LogReader as _, Past};
use etherply_engine::record::Record;
use etherply_wire::SQUASH_ACTOR_PREFIX;

use super::depth::{self, DEPTH_MAX, Depth};
use super::replica::Opening;
use crate::storage::{Anew, Committer, Reader, Turn};

/// Operations after which a change of a squashed document ends; a single value may have more.
pub const SQUASH_OPS_PER_CHANGE: usize = 8_192;
/// Bytes of values after which a change of a squashed document ends; a single value may have more.
pub const SQUASH_BYTES_PER_CHANGE: usize = 256 * 1024;

/// Why a document was not squashed.
#[derive(Debug, thiserror::Error)]
pub enum SquashError {
    /// It cannot be read, or the new epoch not be stored.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Automerge cannot read it, or write it anew.
    #[error("document {document} cannot be squashed: {what}")]
    Content {
        /// The document.
        document: DocumentId,
        /// What Automerge said.
        what: String,
    },
}

/// What a squash did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Squashed {
    /// The document's epoch from now on.
    pub epoch: u64,
    /// Changes before.
    pub changes_before: u64,
    /// Changes now.
    pub changes: u64,
}

/// Gives a document an epoch that holds what it says now and nothing of how it came to be. Copies from before are
/// told to begin anew.
///
/// To be called when nothing is on its way to the disk for the document, and nothing is taken until it returns: if
/// it went on meanwhile, it is refused and stays as it is. Not on an executor: it builds the document.
///
/// # Errors
/// [`SquashError`]
pub fn squash(
    reader: &Reader,
    committer: &Committer,
    document: &DocumentId,
    (actor, time_ms): ([u8; 16], u64),
) -> Result<Option<Squashed>, SquashError> {
    let Some(head) = reader.head(document)? else { return Ok(None) };
    let failed = |what: String| SquashError::Content { document: document.clone(), what };
    let mut opening = Opening::through(document.clone(), head.last_seq);
    let replica = loop {
        match opening.step(reader) {
            Ok(Some(replica)) => break replica,
            Ok(None) => {}
            Err(error) => return Err(failed(error.to_string())),
        }
    };
    let changes =
        depth::contained(|| fresh_changes(replica.automerge(), &actor)).map_err(failed)?.map_err(failed)?;
    let epoch = reader.free_epoch(document)?;
    let mut chain = chain_start(document, epoch);
    let mut records = Vec::with_capacity(changes.len());
    for (seq, change) in (1..).zip(changes) {
        // A client's change would have to be this good as well.
        let bytes = bytes::Bytes::from(change);
        let parsed = parse(&bytes, &ChangeLimits::DEFAULT).map_err(|error| failed(error.to_string()))?;
        let (hash, max_op) = (ChangeHash(parsed.hash.0), parsed.max_op());
        chain = chain_next(&chain, seq, &hash);
        let pusher = "".into();
        records.push(Record { seq, hash, chain, max_op, time_ms, pusher, change: bytes.clone() });
    }
    let squashed = Squashed { epoch, changes_before: head.last_seq, changes: records.len() as u64 };
    let append = |records| Append { document: document.clone(), epoch, records };
    let last = records.pop().into_iter().collect();
    for record in records {
        committer.begin_anew(Anew::Stage(append(vec![record])))?;
    }
    let past = Past { reset_epoch: epoch, ..reader.past(document)? };
    let from = (head.epoch, head.last_seq);
    let turn = Turn { document: document.clone(), from, append: append(last), past };
    committer.begin_anew(Anew::Turn(Box::new(turn)))?;
    Ok(Some(squashed))
}

/// The changes of a new document that says what another one says, by an actor whose name says that it is one.
fn fresh_changes(from: &Automerge, actor: &[u8; 16]) -> Result<Vec<Vec<u8>>, String> {
    if !depth::is_within(from, &from.get_heads(), Depth::Blocks).map_err(|error| error.to_string())? {
        return Err(format!("a block of a text has objects nested deeper than {DEPTH_MAX}"));
    }
    let (_, own) = actor.split_at(SQUASH_ACTOR_PREFIX.len());
    let actor = [&SQUASH_ACTOR_PREFIX, own].concat();
    let to = AutoCommit::new().with_actor(ActorId::from(actor));
    let mut rewriting = Rewriting { from, to, ops: 0, bytes: 0, objects: vec![(ROOT, ROOT)] };
    rewriting.run().map_err(|error| error.to_string())?;
    let Rewriting { mut to, .. } = rewriting;
    to.commit();
    if !says_the_same(from, to.document()).map_err(|error| error.to_string())? {
        return Err("written anew, it says something else".to_owned());
    }
    Ok(to.get_changes(&[]).iter().map(|change| change.raw_bytes().to_vec()).collect())
}

/// Whether two documents say the same. (Automerge's own way to tell recurses, as deep as objects are nested.)
fn says_the_same(a: &Automerge, b: &Automerge) -> Result<bool, AutomergeError> {
    let mut objects = vec![(ROOT, ROOT)];
    while let Some((in_a, in_b)) = objects.pop() {
        if a.object_type(&in_a)? == ObjType::Text {
            let spans_a = a.spans(&in_a)?;
            if b.object_type(&in_b)? != ObjType::Text || !spans_a.eq(b.spans(&in_b)?) {
                return Ok(false);
            }
            continue;
        }
        let keys: Vec<Prop> = match a.object_type(&in_a)? {
            ObjType::List => (0..a.length(&in_a)).map(Prop::Seq).collect(),
            _ => a.keys(&in_a).map(Prop::Map).collect(),
        };
        if keys.len() != b.length(&in_b) {
            return Ok(false);
        }
        for key in keys {
            match (a.get(&in_a, key.clone())?, b.get(&in_b, key)?) {
                (Some((Value::Object(_), in_a)), Some((Value::Object(_), in_b))) => {
                    objects.push((in_a, in_b));
                }
                (Some((Value::Scalar(a), _)), Some((Value::Scalar(b), _))) if fresh(&a).0 == fresh(&b).0 => {}
                _ => return Ok(false),
            }
        }
    }
    Ok(true)
}

struct Rewriting<'a> {
    from: &'a Automerge,
    to: AutoCommit,
    ops: usize,
    bytes: usize,
    /// Objects that are there and not filled yet. A list, and no recursion: objects may be nested as deep as their
    /// author liked.
    objects: Vec<(ObjId, ObjId)>,
}

impl Rewriting<'_> {
    fn run(&mut self) -> Result<(), AutomergeError> {
        while let Some((from, to)) = self.objects.pop() {
            match self.from.object_type(&from)? {
                ObjType::Map | ObjType::Table => self.map(&from, &to)?,
                ObjType::List => self.list(&from, &to)?,
                ObjType::Text => self.text(&from, &to)?,
            }
        }
        Ok(())
    }

    /// Counts what was written, and ends the change if it is enough.
    fn wrote(&mut self, ops: usize, bytes: usize) {
        self.ops += ops;
        self.bytes += bytes;
        if self.ops >= SQUASH_OPS_PER_CHANGE || self.bytes >= SQUASH_BYTES_PER_CHANGE {
            self.to.commit();
            (self.ops, self.bytes) = (0, 0);
        }
    }

    fn map(&mut self, from: &ObjId, to: &ObjId) -> Result<(), AutomergeError> {
        for key in self.from.keys(from).collect::<Vec<_>>() {
            match self.from.get(from, key.as_str())? {
                Some((Value::Object(kind), id)) => {
                    let child = self.to.put_object(to, key.as_str(), kind)?;
                    self.objects.push((id, child));
                    self.wrote(1, key.len());
                }
                Some((Value::Scalar(value), _)) => {
                    let (value, bytes) = fresh(&value);
                    self.to.put(to, key.as_str(), value)?;
                    self.wrote(1, key.len() + bytes);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn list(&mut self, from: &ObjId, to: &ObjId) -> Result<(), AutomergeError> {
        for index in 0..self.from.length(from) {
            match self.from.get(from, index)? {
                Some((Value::Object(kind), id)) => {
                    let child = self.to.insert_object(to, index, kind)?;
                    self.objects.push((id, child));
                    self.wrote(1, 0);
                }
                Some((Value::Scalar(value), _)) => {
                    let (value, bytes) = fresh(&value);
                    self.to.insert(to, index, value)?;
                    self.wrote(1, bytes);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn text(&mut self, from: &ObjId, to: &ObjId) -> Result<(), AutomergeError> {
        let spans: Vec<Span> = self.from.spans(from)?.collect();
        for span in spans {
            match span {
                Span::Text { text, .. } => {
                    let characters: Vec<char> = text.chars().collect();
                    for piece in characters.chunks(SQUASH_OPS_PER_CHANGE) {
                        let piece: String = piece.iter().collect();
                        let at = self.to.length(to);
                        self.to.splice_text(to, at, 0, &piece)?;
                        self.wrote(piece.chars().count(), piece.len());
                    }
                }
                Span::Block(attributes) => {
                    let at = self.to.length(to);
                    let block = self.to.split_block(to, at)?;
                    let bytes = attributes.len();
                    let filled = self.to.update_object(&block, &attributes.into());
                    filled.map_err(|_| AutomergeError::Fail)?;
                    self.wrote(1 + bytes, bytes);
                }
            }
        }
        // Automerge does not tell how a mark grows; this is what its own bindings do if nobody says.
        for mark in self.from.marks(from)? {
            self.to.mark(to, mark, ExpandMark::After)?;
            self.wrote(2, 0);
        }
        Ok(())
    }
}

/// A value as it is written anew, and about how many bytes it has.
fn fresh(value: &ScalarValue) -> (ScalarValue, usize) {
    match value {
        ScalarValue::Counter(counter) => (ScalarValue::counter(i64::from(counter)), 8),
        ScalarValue::Str(text) => (value.clone(), text.len()),
        ScalarValue::Bytes(bytes) => (value.clone(), bytes.len()),
        _ => (value.clone(), 8),
    }
}

#[cfg(test)]
#[path = "squash_tests.rs"]
mod tests;
