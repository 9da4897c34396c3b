//! What makes an operation one that an Automerge could have written. Each rule here stands for changes
//! that decode, and that Automerge then fails to apply, to save so that it can be loaded, or to load.
//!
//! Only what a change says about itself and about its own operations is judged. Whether an operation of
//! another change exists, and what it is, needs the document: see
//! [`Change::for_each_reference`](super::Change::for_each_reference). So does, in general, whether a mark
//! ends after it begins.

use super::{
    ChangeError, ChangeHeader, ChangeLimits, OpFault,
    rows::{Action, Key, OpId, Row, Rows},
    value::ValueType,
};

/// What later operations of the same change may refer to.
#[derive(Clone, Copy, Debug)]
struct OwnOp<'a> {
    object: Option<OpId>,
    key: Key<'a>,
    insert: bool,
    action: Action,
}

/// What is known about an object from the change alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ObjectKind {
    Map,
    List,
    Text,
    /// Made by another change.
    Unknown,
}

/// Walks the operations of a change with `ops` operations and judges each.
pub(super) fn check(header: &ChangeHeader<'_>, ops: u64, limits: &ChangeLimits) -> Result<(), ChangeError> {
    let mut rows = Rows::new(&header.columns, header.other_actors.len());
    let mut checker = Checker::new(header, ops);
    let mut preds_left = limits.preds_max;
    for index in 0..ops {
        let row = rows.next(index)?;
        preds_left =
            preds_left.checked_sub(row.preds).ok_or(ChangeError::TooManyPreds { max: limits.preds_max })?;
        checker.index = index;
        checker.row(&row)?;
        checker.preds(&row, &mut rows)?;
        checker.keep(&row);
    }
    rows.finish()?;
    if checker.actors_seen.count() == header.other_actors.len() {
        Ok(())
    } else {
        Err(ChangeError::ActorUnused)
    }
}

struct Checker<'a> {
    start_op: u64,
    author_rank: u64,
    /// The operation that is being judged.
    index: u64,
    ops: u64,
    /// The operations before it; stays empty, and off the heap, if the change has only one.
    own: Vec<OwnOp<'a>>,
    /// The operation right before it, if that begins a mark.
    mark_begin: Option<OwnOp<'a>>,
    actors_seen: ActorSet,
}

/// Room for this many operations is made at once; a change that claims more has to go on being valid.
const OWN_OPS_AT_ONCE_MAX: usize = 1024;

impl<'a> Checker<'a> {
    fn new(header: &ChangeHeader<'_>, ops: u64) -> Self {
        let own = match usize::try_from(ops) {
            Ok(0 | 1) => Vec::new(),
            Ok(ops) => Vec::with_capacity(ops.min(OWN_OPS_AT_ONCE_MAX)),
            Err(_) => Vec::with_capacity(OWN_OPS_AT_ONCE_MAX),
        };
        Self {
            start_op: header.start_op,
            author_rank: header.author_rank,
            index: 0,
            ops,
            own,
            mark_begin: None,
            actors_seen: ActorSet::default(),
        }
    }

    fn invalid(&self, fault: OpFault) -> ChangeError {
        ChangeError::Op { index: self.index, fault }
    }

    fn require(&self, condition: bool, fault: OpFault) -> Result<(), ChangeError> {
        if condition { Ok(()) } else { Err(self.invalid(fault)) }
    }

    /// Notes a reference and looks it up: `None` if it points to another change.
    ///
    /// An author has seen less than `start_op` of everybody's operations, since `start_op` exceeds the
    /// counter of each of them; what is not less has to be an earlier operation of this same change.
    #[inline]
    fn refer(&mut self, id: OpId) -> Result<Option<OwnOp<'a>>, ChangeError> {
        self.actors_seen.insert(id.actor);
        let Some(index) = u64::from(id.counter).checked_sub(self.start_op) else { return Ok(None) };
        let own = usize::try_from(index).ok().and_then(|index| self.own.get(index)).copied();
        match own {
            Some(op) if id.actor == 0 => Ok(Some(op)),
            _ => Err(self.invalid(OpFault::Forward)),
        }
    }

    #[inline]
    fn row(&mut self, row: &Row<'a>) -> Result<(), ChangeError> {
        let kind = self.object_kind(row)?;
        self.key(row, kind)?;
        self.action(row, kind)
    }

    #[inline]
    fn object_kind(&mut self, row: &Row<'a>) -> Result<ObjectKind, ChangeError> {
        let Some(object) = row.object else { return Ok(ObjectKind::Map) };
        let Some(op) = self.refer(object)? else { return Ok(ObjectKind::Unknown) };
        match op.action {
            Action::MakeMap => Ok(ObjectKind::Map),
            Action::MakeList => Ok(ObjectKind::List),
            Action::MakeText => Ok(ObjectKind::Text),
            _ => Err(self.invalid(OpFault::NotAnObject)),
        }
    }

    #[inline]
    fn key(&mut self, row: &Row<'a>, kind: ObjectKind) -> Result<(), ChangeError> {
        let in_map = matches!(row.key, Key::Map(_));
        match kind {
            ObjectKind::Map => self.require(in_map, OpFault::KeyKind)?,
            ObjectKind::List | ObjectKind::Text => self.require(!in_map, OpFault::KeyKind)?,
            ObjectKind::Unknown => {}
        }
        match row.key {
            Key::Map(_) => self.require(!row.insert, OpFault::Insert),
            Key::Head => self.require(row.insert, OpFault::Head),
            Key::Element(id) => match self.refer(id)? {
                Some(op) => self.require(op.insert && op.object == row.object, OpFault::NotAnElement),
                None => Ok(()),
            },
        }
    }

    #[inline]
    fn action(&self, row: &Row<'a>, kind: ObjectKind) -> Result<(), ChangeError> {
        self.require(!row.insert || row.preds == 0, OpFault::InsertPreds)?;
        if row.action == Action::Mark {
            return self.mark(row, kind);
        }
        self.require(!row.expand && row.mark_name.is_none(), OpFault::MarkColumns)?;
        match row.action {
            Action::Set | Action::Mark => Ok(()),
            Action::MakeMap | Action::MakeList | Action::MakeText => {
                self.require(row.value == ValueType::Null, OpFault::Value)
            }
            Action::Delete => {
                // A document keeps a deletion only as a note beside what it deletes.
                self.require(!row.insert, OpFault::Insert)?;
                self.require(row.preds > 0, OpFault::NoPreds)?;
                self.require(row.value == ValueType::Null, OpFault::Value)
            }
            Action::Increment => {
                self.require(!row.insert, OpFault::Insert)?;
                self.require(row.preds > 0, OpFault::NoPreds)?;
                self.require(matches!(row.value, ValueType::Int | ValueType::Uint), OpFault::Value)
            }
        }
    }

    /// A mark's end has no name. It belongs to the operation right before it, which must begin the mark,
    /// in the same object, at a place before it. A beginning without an end lasts to the end of the text:
    /// that is what an edit leaves behind that goes on after its call to mark a range failed half-way.
    fn mark(&self, row: &Row<'a>, kind: ObjectKind) -> Result<(), ChangeError> {
        self.require(row.insert, OpFault::Insert)?;
        self.require(kind != ObjectKind::List, OpFault::KeyKind)?;
        if row.mark_name.is_some() {
            return Ok(());
        }
        self.require(row.value == ValueType::Null, OpFault::Value)?;
        // Of two insertions after the same element, the later one stands first.
        let pairs = self
            .mark_begin
            .is_some_and(|begin| begin.object == row.object && begin.key != row.key && row.key != Key::Head);
        self.require(pairs, OpFault::MarkPair)
    }

    /// Reads and judges what the operation replaces.
    #[inline]
    fn preds(&mut self, row: &Row<'a>, rows: &mut Rows<'_>) -> Result<(), ChangeError> {
        let mut previous = None;
        for _ in 0..row.preds {
            let pred = rows.next_pred()?;
            let order = (pred.counter, self.rank(pred.actor));
            self.require(previous.is_none_or(|previous| previous < order), OpFault::PredsOrder)?;
            previous = Some(order);
            if let Some(op) = self.refer(pred)? {
                let same_key = if op.insert { row.key == Key::Element(pred) } else { row.key == op.key };
                let has_value = !matches!(op.action, Action::Delete | Action::Increment | Action::Mark);
                self.require(same_key && has_value && op.object == row.object, OpFault::PredPlace)?;
            }
        }
        Ok(())
    }

    /// The actor's place if the whole table were sorted, which only its tail is.
    fn rank(&self, actor: u32) -> u64 {
        match u64::from(actor).checked_sub(1) {
            None => self.author_rank,
            Some(other) => other + u64::from(other >= self.author_rank),
        }
    }

    #[inline]
    fn keep(&mut self, row: &Row<'a>) {
        if self.ops > 1 {
            let op = OwnOp { object: row.object, key: row.key, insert: row.insert, action: row.action };
            self.mark_begin = (row.action == Action::Mark && row.mark_name.is_some()).then_some(op);
            self.own.push(op);
        }
    }
}

/// Which of the other actors were referred to.
#[derive(Default)]
struct ActorSet {
    few: [u64; Self::INLINE_WORDS],
    /// Words beyond `few`; touches the heap only for a change that refers to more than 256 actors.
    many: Vec<u64>,
}

impl ActorSet {
    const INLINE_WORDS: usize = 4;

    /// Index 0 is the author, who is not counted.
    #[inline]
    fn insert(&mut self, actor: u32) {
        let Some(index) = actor.checked_sub(1) else { return };
        let word = (index / u64::BITS) as usize;
        let bit = 1 << (index % u64::BITS);
        if let Some(few) = self.few.get_mut(word) {
            *few |= bit;
            return;
        }
        // Bounded by the length of the change's actor table, against which the index was checked.
        let word = word - Self::INLINE_WORDS;
        if word >= self.many.len() {
            self.many.resize(word + 1, 0);
        }
        if let Some(many) = self.many.get_mut(word) {
            *many |= bit;
        }
    }

    fn count(&self) -> usize {
        self.few.iter().chain(&self.many).map(|word| word.count_ones() as usize).sum()
    }
}
