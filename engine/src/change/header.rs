//! What a change says about itself before its operations: dependencies, author, counters, message.

use std::iter::FusedIterator;

use super::{
    ACTOR_BYTES_MAX, ActorId, CHANGE_HASH_BYTES, ChangeError, ChangeHash, ChangeLimits, Fault, HeaderPart,
    OP_COUNTER_MAX, SEQ_MAX, TIME_ABS_MAX, chunk,
    columns::{Column, Columns},
    leb::Reader,
    rle::Rle,
};

/// Automerge's mark before the author record that may follow the columns of an actor's first change.
const AUTHOR_RECORD: u64 = 1;

/// A change's header, borrowed from the change's bytes. Made by [`parse_header`](super::parse_header).
#[derive(Clone, Debug)]
pub struct ChangeHeader<'a> {
    /// The hash that names the change.
    pub hash: ChangeHash,
    /// The changes that its author had seen, in ascending order.
    pub deps: Deps<'a>,
    /// Who wrote it: 1 to [`ACTOR_BYTES_MAX`] bytes.
    pub actor: &'a [u8],
    /// Its number among its author's changes, counted from 1.
    pub seq: u64,
    /// The counter of its first operation; of the next one, if it has none.
    pub start_op: u64,
    /// When it was written, by the author's clock. Automerge gives it no unit (its own clients write
    /// seconds since 1970, or 0); it is never to be trusted.
    pub time: i64,
    /// The author's message, often empty.
    pub message: &'a str,
    /// Other actors that its operations refer to, in ascending order.
    pub other_actors: OtherActors<'a>,
    /// The author id that Automerge attaches to an actor's first change, if the client set one.
    pub author: Option<&'a [u8]>,
    /// The whole chunk.
    pub bytes: &'a [u8],
    pub(super) columns: Columns<'a>,
    /// How many of the other actors come before the author.
    pub(super) author_rank: u64,
}

impl<'a> ChangeHeader<'a> {
    pub(super) fn parse(bytes: &'a [u8], limits: &ChangeLimits) -> Result<Self, ChangeError> {
        if bytes.len() > limits.change_bytes_max {
            return Err(ChangeError::TooLarge { bytes: bytes.len(), max: limits.change_bytes_max });
        }
        let (hash, body) = chunk::unframe(bytes)?;
        let mut input = Reader::new(body);
        let deps = Deps::read(&mut input, limits.deps_max)?;
        let actor = actor_id(&mut input, HeaderPart::Actor)?;
        let seq = input.unsigned().map_err(at(HeaderPart::Seq))?;
        if seq == 0 || seq > SEQ_MAX {
            return Err(ChangeError::SeqRange { seq });
        }
        let start_op = input.unsigned().map_err(at(HeaderPart::StartOp))?;
        if start_op == 0 || start_op > OP_COUNTER_MAX {
            return Err(ChangeError::StartOpRange { start_op });
        }
        let time = input.signed().map_err(at(HeaderPart::Time))?;
        if time.unsigned_abs() > TIME_ABS_MAX {
            return Err(ChangeError::TimeRange { time });
        }
        let message = message(&mut input, limits.message_bytes_max)?;
        let (other_actors, author_rank) = OtherActors::read(&mut input, actor, limits.other_actors_max)?;
        let columns = Columns::read(&mut input)?;
        let author = author_record(input, seq, limits.author_bytes_max)?;
        Ok(Self {
            hash,
            deps,
            actor,
            seq,
            start_op,
            time,
            message,
            other_actors,
            author,
            bytes,
            columns,
            author_rank,
        })
    }

    /// The author as a key to keep.
    #[must_use]
    pub fn actor_id(&self) -> ActorId {
        ActorId::from_checked(self.actor)
    }

    /// Whether this can be the first change of a document: its author's first, after no other.
    #[must_use]
    pub fn is_genesis(&self) -> bool {
        self.seq == 1 && self.start_op == 1 && self.deps.is_empty()
    }

    /// How many operations the change claims. Costs in proportion to the bytes of one column, not to the
    /// count; says nothing about whether the other columns agree.
    ///
    /// # Errors
    /// [`ChangeError::TooManyOps`] if there are more than `ops_max`, [`ChangeError::StartOpRange`] if the
    /// last one's counter is beyond [`OP_COUNTER_MAX`], [`ChangeError::Column`] if the column is damaged.
    pub fn count_ops(&self, ops_max: u64) -> Result<u64, ChangeError> {
        let column = Column::Action;
        let ops = match Rle::<u64>::new(self.columns.get(column)).count_values(ops_max) {
            Ok(ops) => ops,
            Err(Fault::TooMany) => return Err(ChangeError::TooManyOps { max: ops_max }),
            Err(fault) => return Err(ChangeError::Column { column, fault }),
        };
        // `start_op - 1` is the counter before the first operation, and at most `OP_COUNTER_MAX`.
        if ops > OP_COUNTER_MAX - (self.start_op - 1) {
            return Err(ChangeError::StartOpRange { start_op: self.start_op });
        }
        Ok(ops)
    }

    /// The actor at `index` in the change's actor table: 0 is the author, then the other actors.
    #[must_use]
    pub fn actor_at(&self, index: u32) -> Option<&'a [u8]> {
        match index.checked_sub(1) {
            None => Some(self.actor),
            Some(index) => self.other_actors.clone().nth(usize::try_from(index).ok()?),
        }
    }
}

fn at(part: HeaderPart) -> impl Fn(Fault) -> ChangeError {
    move |fault| ChangeError::Header { part, fault }
}

fn actor_id<'a>(input: &mut Reader<'a>, part: HeaderPart) -> Result<&'a [u8], ChangeError> {
    let actor = input.prefixed().map_err(at(part))?;
    if actor.is_empty() || actor.len() > ACTOR_BYTES_MAX {
        return Err(ChangeError::ActorLength { bytes: actor.len(), max: ACTOR_BYTES_MAX });
    }
    Ok(actor)
}

fn message<'a>(input: &mut Reader<'a>, max: u64) -> Result<&'a str, ChangeError> {
    let at = at(HeaderPart::Message);
    let bytes = input.unsigned().map_err(&at)?;
    if bytes > max {
        return Err(ChangeError::MessageTooLarge { bytes, max });
    }
    std::str::from_utf8(input.take(bytes).map_err(&at)?).map_err(|_| at(Fault::NotUtf8))
}

/// What follows the columns: nothing, or the author record. Automerge keeps any other bytes too, but no
/// encoder writes them; and it panics on an author record in a change that is not its actor's first.
fn author_record(mut input: Reader<'_>, seq: u64, max: u64) -> Result<Option<&[u8]>, ChangeError> {
    if input.is_empty() {
        return Ok(None);
    }
    let extra = |_| ChangeError::ExtraBytes;
    if seq != 1 || input.unsigned().map_err(extra)? != AUTHOR_RECORD {
        return Err(ChangeError::ExtraBytes);
    }
    let bytes = input.unsigned().map_err(extra)?;
    if bytes > max {
        return Err(ChangeError::AuthorTooLarge { bytes, max });
    }
    let author = input.take(bytes).map_err(extra)?;
    if input.is_empty() { Ok(Some(author)) } else { Err(ChangeError::ExtraBytes) }
}

/// The hashes of the changes that a change depends on, in ascending order.
#[derive(Clone, Copy, Debug)]
pub struct Deps<'a> {
    hashes: &'a [[u8; CHANGE_HASH_BYTES]],
}

impl<'a> Deps<'a> {
    fn read(input: &mut Reader<'a>, max: u64) -> Result<Self, ChangeError> {
        let at = at(HeaderPart::Deps);
        let deps = input.unsigned().map_err(&at)?;
        if deps > max {
            return Err(ChangeError::TooManyDeps { deps, max });
        }
        let bytes = deps.checked_mul(CHANGE_HASH_BYTES as u64).ok_or(at(Fault::Truncated))?;
        let (hashes, _) = input.take(bytes).map_err(&at)?.as_chunks();
        // One way to write a set: Automerge's own.
        if !hashes.is_sorted_by(|a, b| a < b) {
            return Err(ChangeError::DepsOrder);
        }
        Ok(Self { hashes })
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Whether `hash` is among them.
    #[must_use]
    pub fn contains(&self, hash: &ChangeHash) -> bool {
        self.hashes.binary_search(&hash.0).is_ok()
    }

    /// The hashes in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ChangeHash> + Clone + use<'a> {
        self.hashes.iter().copied().map(ChangeHash)
    }
}

/// The actors other than the author that a change's operations refer to, in ascending order of their
/// bytes.
#[derive(Clone, Debug)]
pub struct OtherActors<'a> {
    list: Reader<'a>,
    left: usize,
}

impl<'a> OtherActors<'a> {
    /// Also says how many of them come before `author`.
    fn read(input: &mut Reader<'a>, author: &[u8], max: u64) -> Result<(Self, u64), ChangeError> {
        let part = HeaderPart::OtherActors;
        let actors = input.unsigned().map_err(at(part))?;
        if actors > max {
            return Err(ChangeError::TooManyActors { actors, max });
        }
        let list = *input;
        let mut author_rank = 0;
        let mut previous: &[u8] = &[];
        for _ in 0..actors {
            let actor = actor_id(input, part)?;
            if actor <= previous || actor == author {
                return Err(ChangeError::ActorsOrder);
            }
            author_rank += u64::from(actor < author);
            previous = actor;
        }
        let left = usize::try_from(actors).map_err(|_| at(part)(Fault::Truncated))?;
        Ok((Self { list, left }, author_rank))
    }
}

impl<'a> Iterator for OtherActors<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        // Read once before, when the header was parsed.
        self.list.prefixed().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for OtherActors<'_> {}
impl FusedIterator for OtherActors<'_> {}
