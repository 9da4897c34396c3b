//! Changes as they arrive: the part of admission that needs no document.
//!
//! A change that passes [`parse`] is one that an Automerge encoder could have written: exactly one
//! uncompressed change chunk, in the only form that the encoders use, within the limits, whose operations
//! make sense as far as they refer to each other. What only a document can tell (do the dependencies, the
//! actors, the objects and elements exist, is the sequence number the next one) is for the caller.
//!
//! ```text
//! 85 6f 4a 83 | checksum 4 | type 1 | length | deps | actor | seq | startOp | time | message
//!             | other actors | table of columns | columns | author record
//! ```
//!
//! The format is Automerge's, described at <https://automerge.org/automerge-binary-format-spec/>. The cost
//! is in proportion to the change: its bytes, and the operations that they claim, which are counted and
//! bounded before they are looked at. A change with one operation is parsed without a heap allocation.
//!
//! Architecture invariant: nothing here knows documents, I/O, or the `automerge` crate, and nothing panics
//! or allocates without a bound, whatever the bytes.

mod actor;
mod boolean;
mod chunk;
mod columns;
mod delta;
mod error;
mod header;
mod leb;
mod rle;
mod rows;
mod rules;
mod value;

use std::ops::Deref;

use etherply_wire::limits;

use self::rows::{Action, Key, Rows};
pub use self::{
    actor::{ACTOR_BYTES_MAX, ACTOR_INLINE_BYTES, ActorId},
    chunk::{CHANGE_HASH_BYTES, ChangeHash},
    columns::Column,
    error::{ChangeError, Fault, HeaderPart, OpFault},
    header::{ChangeHeader, Deps, OtherActors},
};

/// The greatest counter that an operation may have. Automerge keeps counters in 32 bits; half of that
/// leaves room for whatever is computed from them.
pub const OP_COUNTER_MAX: u64 = (1 << 31) - 1;

/// The greatest sequence number of a change among its author's. Automerge keeps it in 32 bits.
pub const SEQ_MAX: u64 = (1 << 31) - 1;

/// How far from zero a change's time may be. Automerge stores times as differences in 64 bits and panics
/// when two of them are further apart than 2^63.
pub const TIME_ABS_MAX: u64 = (1 << 62) - 1;

/// How much a single change may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChangeLimits {
    /// Bytes of the whole chunk.
    pub change_bytes_max: usize,
    /// Operations. A run of equal operations takes a few bytes whatever its length, and each costs memory
    /// in every copy of the document.
    pub ops_max: u64,
    /// Operations that are replaced, over all operations.
    pub preds_max: u64,
    /// Dependencies: at most one for each member who edited apart from the others.
    pub deps_max: u64,
    /// Actors beside the author. An edit of a long text can refer to everybody who ever wrote in it.
    pub other_actors_max: u64,
    /// Bytes of the author's message.
    pub message_bytes_max: u64,
    /// Bytes of Automerge's author id, which stands in an actor's first change.
    pub author_bytes_max: u64,
}

impl ChangeLimits {
    /// What a server takes unless it is told otherwise.
    pub const DEFAULT: Self = Self {
        change_bytes_max: limits::CHANGE_BYTES_MAX,
        ops_max: limits::CHANGE_OPS_MAX,
        preds_max: limits::CHANGE_PREDS_MAX,
        deps_max: limits::CHANGE_DEPS_MAX,
        other_actors_max: limits::CHANGE_ACTORS_MAX,
        message_bytes_max: limits::CHANGE_MESSAGE_BYTES_MAX,
        author_bytes_max: limits::CHANGE_AUTHOR_BYTES_MAX,
    };
}

impl Default for ChangeLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A change that passed [`parse`], borrowed from its bytes.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    header: ChangeHeader<'a>,
    ops: u64,
}

impl<'a> Deref for Change<'a> {
    type Target = ChangeHeader<'a>;

    fn deref(&self) -> &ChangeHeader<'a> {
        &self.header
    }
}

impl<'a> Change<'a> {
    /// How many operations it has; none, if it only joins others or carries a message.
    #[must_use]
    pub const fn ops(&self) -> u64 {
        self.ops
    }

    /// The counter of its last operation; `start_op - 1` if it has none, as in Automerge.
    #[must_use]
    pub const fn max_op(&self) -> u64 {
        // `start_op` is at least 1: `ChangeHeader::parse` saw to it.
        self.header.start_op - 1 + self.ops
    }

    /// The header alone.
    #[must_use]
    pub fn into_header(self) -> ChangeHeader<'a> {
        self.header
    }

    /// A change that was parsed before, of which only what its operations are is to be known again.
    ///
    /// # Errors
    /// The operations cannot be counted.
    pub fn parsed_before(header: ChangeHeader<'a>, limits: &ChangeLimits) -> Result<Self, ChangeError> {
        let ops = header.count_ops(limits.ops_max)?;
        Ok(Self { header, ops })
    }

    /// Calls `visit` for each operation, with those that it replaces. Walks the columns once more.
    pub fn for_each_op(&self, mut visit: impl FnMut(Operation<'a>, &[OpRef])) {
        let mut rows = Rows::new(&self.header.columns, self.header.other_actors.len());
        let op_ref = |id: rows::OpId| OpRef { actor: id.actor, counter: id.counter };
        let mut preds = Vec::new();
        for index in 0..self.ops {
            // Errors cannot occur: the same columns were read by `parse`.
            let Ok(row) = rows.next(index) else { return };
            preds.clear();
            for _ in 0..row.preds {
                let Ok(pred) = rows.next_pred() else { return };
                preds.push(op_ref(pred));
            }
            let operation = Operation {
                // At most `OP_COUNTER_MAX`, or it would not have been admitted.
                counter: u32::try_from(self.header.start_op + index).unwrap_or(u32::MAX),
                object: row.object.map(op_ref),
                key: match row.key {
                    Key::Map(key) => OpKey::Map(key),
                    Key::Head => OpKey::Head,
                    Key::Element(element) => OpKey::Element(op_ref(element)),
                },
                is_insert: row.insert,
                action: match row.action {
                    Action::MakeMap => OpAction::Make(ObjectKind::Map),
                    Action::MakeList => OpAction::Make(ObjectKind::List),
                    Action::MakeText => OpAction::Make(ObjectKind::Text),
                    Action::Set => OpAction::Set,
                    Action::Mark => OpAction::Mark,
                    Action::Delete | Action::Increment => OpAction::Change,
                },
            };
            visit(operation, &preds);
        }
    }

    /// Calls `visit` for each reference to an operation outside of this change, in no particular order
    /// and as often as it occurs. Walks the columns once more.
    ///
    /// Automerge panics if one of them does not exist, is of the wrong kind or in another object. To see
    /// that takes the document; that its actor is known, and has operations up to its counter, takes only
    /// the document's clock.
    pub fn for_each_reference(&self, mut visit: impl FnMut(Reference)) {
        let columns = &self.header.columns;
        let mut rows = Rows::new(columns, self.header.other_actors.len());
        let mut report = |kind, id: rows::OpId| {
            if u64::from(id.counter) < self.header.start_op {
                visit(Reference { kind, actor: id.actor, counter: u64::from(id.counter) });
            }
        };
        for index in 0..self.ops {
            // Errors cannot occur: the same columns were read by `parse`.
            let Ok(row) = rows.next(index) else { return };
            if let Some(object) = row.object {
                report(ReferenceKind::Object, object);
            }
            if let Key::Element(element) = row.key {
                report(ReferenceKind::Element, element);
            }
            for _ in 0..row.preds {
                let Ok(pred) = rows.next_pred() else { return };
                report(ReferenceKind::Replaced, pred);
            }
        }
    }
}

/// An operation that another one refers to, or that it is: who wrote it, as an index for
/// [`ChangeHeader::actor_at`] (0 is the author of the change), and its counter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OpRef {
    /// The index.
    pub actor: u32,
    /// The counter.
    pub counter: u32,
}

/// Where in its object an operation acts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpKey<'a> {
    /// At a key of a map.
    Map(&'a str),
    /// Before the first element of a list or text.
    Head,
    /// On, or behind, an element of a list or text.
    Element(OpRef),
}

/// What an object is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ObjectKind {
    /// Keys and values.
    Map,
    /// A list.
    List,
    /// A text.
    Text,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpAction {
    /// Makes an object.
    Make(ObjectKind),
    /// Writes a value.
    Set,
    /// Begins or ends a mark.
    Mark,
    /// Deletes or increments.
    Change,
}

/// An operation of a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Operation<'a> {
    /// Its counter.
    pub counter: u32,
    /// The object that it acts in; `None` is the document's root map.
    pub object: Option<OpRef>,
    /// Where.
    pub key: OpKey<'a>,
    /// Whether it inserts an element.
    pub is_insert: bool,
    /// What it does.
    pub action: OpAction,
}

/// A reference from an operation of a change to one of an earlier change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reference {
    /// What it is referred to as.
    pub kind: ReferenceKind,
    /// Who wrote it, as an index for [`ChangeHeader::actor_at`]: 0 is the author of this change.
    pub actor: u32,
    /// Its counter, which is less than this change's `start_op`.
    pub counter: u64,
}

/// What an operation is referred to as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReferenceKind {
    /// The object to act in: must have made a map, list or text.
    Object,
    /// The element of a list or text to act on, or to insert after: must have inserted it there.
    Element,
    /// What is replaced, deleted or incremented: must stand at the same place of the same object.
    Replaced,
}

/// Reads and checks a change: frame, checksum, header, each column, each operation.
///
/// # Errors
/// A [`ChangeError`] that says what no Automerge encoder would have written, or which limit is exceeded.
pub fn parse<'a>(bytes: &'a [u8], limits: &ChangeLimits) -> Result<Change<'a>, ChangeError> {
    let header = ChangeHeader::parse(bytes, limits)?;
    let ops = header.count_ops(limits.ops_max)?;
    if ops == 0 {
        if let Some(column) = header.columns.first_present() {
            return Err(ChangeError::ColumnWithoutOps { column });
        }
        if header.other_actors.len() > 0 {
            return Err(ChangeError::ActorUnused);
        }
    } else {
        for column in [Column::Insert, Column::ValueMetadata, Column::PredCount] {
            if header.columns.get(column).is_empty() {
                return Err(ChangeError::ColumnMissing { column });
            }
        }
        rules::check(&header, ops, limits)?;
    }
    Ok(Change { header, ops })
}

/// Reads and checks a change's frame, checksum and header, without looking at its operations: for a
/// client, which trusts its own Automerge and needs only to know what the change is.
///
/// # Errors
/// A [`ChangeError`] that says what no Automerge encoder would have written, or which limit is exceeded.
pub fn parse_header<'a>(bytes: &'a [u8], limits: &ChangeLimits) -> Result<ChangeHeader<'a>, ChangeError> {
    ChangeHeader::parse(bytes, limits)
}
