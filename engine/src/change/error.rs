//! Why a change is refused.

use std::fmt;

use super::{OP_COUNTER_MAX, SEQ_MAX, TIME_ABS_MAX, columns::Column};

/// Why a change is refused. Nothing here is worth retrying with the same bytes: the change was damaged
/// on its way, exceeds a limit, or was not written by an Automerge that this server understands.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChangeError {
    /// More bytes than [`ChangeLimits::change_bytes_max`](super::ChangeLimits::change_bytes_max).
    #[error("the change has {bytes} bytes, more than the limit of {max}: split the edit into smaller ones")]
    TooLarge {
        /// Bytes of the change.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The bytes do not begin as an Automerge chunk.
    #[error("these bytes are not an Automerge chunk: they lack its four magic bytes")]
    BadMagic,
    /// The chunk is a compressed change.
    #[error("the change is deflated: send it uncompressed (chunk type 1)")]
    Deflated,
    /// The chunk is a document, a bundle, or of a type that is not known.
    #[error("the chunk is of type {found}, not a change (type 1): send changes one by one")]
    NotAChange {
        /// The chunk type that was found.
        found: u8,
    },
    /// The chunk's length says less than the bytes that were sent.
    #[error("bytes follow after the end of the change: send exactly one change")]
    TrailingBytes,
    /// The hash of the content does not begin with the checksum.
    #[error("the change's checksum does not fit its content: it was damaged on its way")]
    Checksum,
    /// A part of the header cannot be read.
    #[error("the change's {part} cannot be read: {fault}")]
    Header {
        /// Where.
        part: HeaderPart,
        /// What is wrong there.
        fault: Fault,
    },
    /// More dependencies than [`ChangeLimits::deps_max`](super::ChangeLimits::deps_max).
    #[error("the change depends on {deps} changes, more than the limit of {max}: merge in smaller steps")]
    TooManyDeps {
        /// Dependencies that the change claims.
        deps: u64,
        /// The limit.
        max: u64,
    },
    /// The dependencies are not in strictly ascending order.
    #[error("the change's dependencies are not sorted, or one of them is listed twice")]
    DepsOrder,
    /// An actor id is empty or too long.
    #[error("an actor id has {bytes} bytes: it must have 1 to {max}")]
    ActorLength {
        /// Bytes of the actor id.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// More other actors than [`ChangeLimits::other_actors_max`](super::ChangeLimits::other_actors_max).
    #[error("the change refers to {actors} other actors, more than the limit of {max}: split the edit")]
    TooManyActors {
        /// Other actors that the change claims.
        actors: u64,
        /// The limit.
        max: u64,
    },
    /// The other actors are not in strictly ascending order, or the author is among them.
    #[error("the change's other actors are not sorted, one is listed twice, or the author is among them")]
    ActorsOrder,
    /// An actor is listed to which no operation refers.
    #[error("the change lists an actor that none of its operations refers to")]
    ActorUnused,
    /// The author's sequence number is zero or beyond [`SEQ_MAX`].
    #[error("the change's sequence number {seq} is not within 1 to {SEQ_MAX}")]
    SeqRange {
        /// What the change says.
        seq: u64,
    },
    /// The first operation's counter is zero, or the last one's is beyond [`OP_COUNTER_MAX`].
    #[error("the change's operations do not lie within 1 to {OP_COUNTER_MAX}: the first is {start_op}")]
    StartOpRange {
        /// What the change says.
        start_op: u64,
    },
    /// The time is further than [`TIME_ABS_MAX`] from zero.
    #[error("the change's time {time} is beyond \u{b1}{TIME_ABS_MAX}")]
    TimeRange {
        /// What the change says.
        time: i64,
    },
    /// A longer message than [`ChangeLimits::message_bytes_max`](super::ChangeLimits::message_bytes_max).
    #[error("the change's message has {bytes} bytes, more than the limit of {max}: shorten it")]
    MessageTooLarge {
        /// Bytes that the message claims.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// What follows the columns is not an author record, or stands in a change that cannot have one.
    #[error(
        "bytes follow after the change's columns that are not an author record of an actor's first change"
    )]
    ExtraBytes,
    /// A longer author record than [`ChangeLimits::author_bytes_max`](super::ChangeLimits::author_bytes_max).
    #[error("the change's author record has {bytes} bytes, more than the limit of {max}: shorten it")]
    AuthorTooLarge {
        /// Bytes that the author record claims.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// A column that Automerge 0.12 does not write into changes.
    #[error("the change has a column of unknown kind {spec}")]
    ColumnUnknown {
        /// The column's specification number.
        spec: u64,
    },
    /// A column is compressed. Automerge refuses such changes as well.
    #[error("the change's {column} column is deflated: send it uncompressed")]
    ColumnDeflated {
        /// Which.
        column: Column,
    },
    /// The columns are not in ascending order, or one is there twice.
    #[error("the change's columns are not in order, or one is there twice")]
    ColumnsOrder,
    /// A column without which the others make no sense.
    #[error("the change lacks its {column} column")]
    ColumnMissing {
        /// Which.
        column: Column,
    },
    /// A column is there that the change, having no operations, cannot fill.
    #[error("the change has a {column} column but no operations")]
    ColumnWithoutOps {
        /// Which.
        column: Column,
    },
    /// A column does not decode to one value a row in the only form that Automerge writes.
    #[error("the change's {column} column is damaged: {fault}")]
    Column {
        /// Which.
        column: Column,
        /// What is wrong there.
        fault: Fault,
    },
    /// More operations than [`ChangeLimits::ops_max`](super::ChangeLimits::ops_max).
    #[error("the change has more than {max} operations: split the edit into smaller ones")]
    TooManyOps {
        /// The limit.
        max: u64,
    },
    /// More predecessors than [`ChangeLimits::preds_max`](super::ChangeLimits::preds_max).
    #[error("the change's operations replace more than {max} others: split the edit into smaller ones")]
    TooManyPreds {
        /// The limit.
        max: u64,
    },
    /// An operation that no Automerge writes, and that some could not apply, save or load.
    #[error("operation {index} of the change is not valid: {fault}")]
    Op {
        /// Which, counted from zero.
        index: u64,
        /// What is wrong with it.
        fault: OpFault,
    },
}

impl ChangeError {
    /// The stable code of this refusal, for frames, metrics and logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "change_too_large",
            Self::BadMagic => "change_bad_magic",
            Self::Deflated => "change_deflated",
            Self::NotAChange { .. } => "change_wrong_chunk_type",
            Self::TrailingBytes => "change_trailing_bytes",
            Self::Checksum => "change_checksum",
            Self::Header { fault, .. } | Self::Column { fault, .. } => fault.code(),
            Self::TooManyDeps { .. } => "change_too_many_deps",
            Self::DepsOrder => "change_deps_order",
            Self::ActorLength { .. } => "change_actor_length",
            Self::TooManyActors { .. } => "change_too_many_actors",
            Self::ActorsOrder => "change_actors_order",
            Self::ActorUnused => "change_actor_unused",
            Self::SeqRange { .. } => "change_seq_range",
            Self::StartOpRange { .. } => "change_start_op_range",
            Self::TimeRange { .. } => "change_time_range",
            Self::MessageTooLarge { .. } => "change_message_too_large",
            Self::ExtraBytes => "change_extra_bytes",
            Self::AuthorTooLarge { .. } => "change_author_too_large",
            Self::ColumnUnknown { .. } => "change_column_unknown",
            Self::ColumnDeflated { .. } => "change_deflated",
            Self::ColumnsOrder => "change_columns_order",
            Self::ColumnMissing { .. } => "change_column_missing",
            Self::ColumnWithoutOps { .. } => "change_column_without_ops",
            Self::TooManyOps { .. } => "change_too_many_ops",
            Self::TooManyPreds { .. } => "change_too_many_preds",
            Self::Op { .. } => "change_op_invalid",
        }
    }
}

/// A part of a change's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeaderPart {
    /// Magic bytes, checksum, type and length of the chunk.
    Frame,
    /// Hashes of the changes that it depends on.
    Deps,
    /// Who wrote it.
    Actor,
    /// The author's sequence number.
    Seq,
    /// The counter of its first operation.
    StartOp,
    /// When it was written.
    Time,
    /// The author's message.
    Message,
    /// Other actors that its operations refer to.
    OtherActors,
    /// Kinds and lengths of the columns.
    ColumnTable,
}

impl fmt::Display for HeaderPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frame => "frame",
            Self::Deps => "list of dependencies",
            Self::Actor => "actor id",
            Self::Seq => "sequence number",
            Self::StartOp => "first operation's counter",
            Self::Time => "time",
            Self::Message => "message",
            Self::OtherActors => "list of other actors",
            Self::ColumnTable => "table of columns",
        })
    }
}

/// What is wrong with a piece of the encoding.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The bytes end in the middle of it.
    #[error("the bytes end too early")]
    Truncated,
    /// A number beyond 64 bits.
    #[error("a number is too large")]
    NumberTooLarge,
    /// Readable, but not in the one form that every Automerge encoder writes.
    #[error("it is not in Automerge's canonical form")]
    NotCanonical,
    /// Text that is not UTF-8.
    #[error("it is not valid UTF-8")]
    NotUtf8,
    /// Fewer values than operations.
    #[error("it has fewer rows than the change has operations")]
    TooShort,
    /// More values than operations.
    #[error("it has more rows or bytes than the change's operations need")]
    TooLong,
    /// More values than the limit.
    #[error("it has more rows than the limit")]
    TooMany,
    /// A null where a value has to be.
    #[error("it lacks a value")]
    Null,
    /// A counter that is negative or beyond [`OP_COUNTER_MAX`].
    #[error("an operation counter lies outside 0 to {OP_COUNTER_MAX}")]
    CounterRange,
    /// An actor that is not in the change's list.
    #[error("it refers to an actor that the change does not list")]
    ActorIndex,
    /// An action that Automerge 0.12 does not know.
    #[error("it holds an unknown action")]
    Action,
    /// A table, which Automerge 0.12 cannot edit.
    #[error("it makes a table, which Automerge cannot edit any more: use a map")]
    Table,
    /// A value type that Automerge 0.12 does not know.
    #[error("it holds a value of unknown type")]
    ValueType,
    /// A value whose length does not suit its type.
    #[error("it holds a value whose length does not suit its type")]
    ValueLength,
}

impl Fault {
    const fn code(self) -> &'static str {
        match self {
            Self::Truncated => "change_truncated",
            Self::NumberTooLarge => "change_number_too_large",
            Self::NotCanonical => "change_not_canonical",
            Self::NotUtf8 => "change_not_utf8",
            Self::TooShort | Self::TooLong => "change_column_length",
            Self::TooMany => "change_too_many_ops",
            Self::Null => "change_column_null",
            Self::CounterRange => "change_counter_range",
            Self::ActorIndex => "change_actor_index",
            Self::Action | Self::Table => "change_unknown_action",
            Self::ValueType => "change_unknown_value_type",
            Self::ValueLength => "change_value_length",
        }
    }
}

/// What is wrong with an operation whose columns are sound.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpFault {
    /// An object id of which one half is missing, or whose counter is zero.
    #[error("its object id is incomplete")]
    ObjectId,
    /// Neither or both of a map key and a list element, or half of an element id.
    #[error("its key is incomplete or ambiguous")]
    Key,
    /// A reference to an operation that cannot have been known when this one was made.
    #[error("it refers to an operation that is not before it")]
    Forward,
    /// Its object is an operation of this change that makes no object.
    #[error("its object was not made by the operation that it names")]
    NotAnObject,
    /// A map key in a list or text, or an element id in a map.
    #[error("its key does not suit the kind of its object")]
    KeyKind,
    /// Its element is an operation of this change that inserted no element into this object.
    #[error("the element that it names was not inserted into its object")]
    NotAnElement,
    /// The list's head can only be inserted after, never be changed.
    #[error("it changes the head of a list")]
    Head,
    /// An insertion or a mark with a map key, a deletion that inserts, or a mark that does not.
    #[error("it inserts where it cannot, or does not where it must")]
    Insert,
    /// An insertion that replaces something.
    #[error("it inserts and yet replaces another operation")]
    InsertPreds,
    /// A deletion or increment of nothing.
    #[error("it names nothing that it deletes or increments")]
    NoPreds,
    /// Its predecessors are not in strictly ascending order.
    #[error("the operations that it replaces are not sorted, or one is listed twice")]
    PredsOrder,
    /// It replaces an operation of this change that stands at another place or has no value.
    #[error("it replaces an operation that stands at another place or has no value")]
    PredPlace,
    /// A value that its action does not take.
    #[error("its value does not suit its action")]
    Value,
    /// A mark's properties on an operation that is no mark.
    #[error("it has a mark's properties but is not a mark")]
    MarkColumns,
    /// A mark whose beginning and end do not follow each other, or stand the wrong way round.
    #[error("it is half of a mark, or the mark ends before it begins")]
    MarkPair,
}
