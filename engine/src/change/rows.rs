//! The operations of a change, row by row: each column gives one value a row. Whether an operation makes
//! sense is judged elsewhere; here it only has to be readable.

use super::{
    ChangeError, Fault, OP_COUNTER_MAX, OpFault,
    boolean::Booleans,
    columns::{Column, Columns},
    delta::Delta,
    rle::Rle,
    value::{ValueType, Values},
};

/// The id of an operation: an index into the change's actor table (0 is the author) and a counter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct OpId {
    pub(super) actor: u32,
    pub(super) counter: u32,
}

/// Where in its object an operation acts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Key<'a> {
    Map(&'a str),
    /// Before the first element of a list.
    Head,
    Element(OpId),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    MakeMap,
    Set,
    MakeList,
    Delete,
    MakeText,
    Increment,
    Mark,
}

/// One operation, but for its predecessors, which [`Rows::next_pred`] reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    /// The object that it acts in; `None` is the document's root map.
    pub(super) object: Option<OpId>,
    pub(super) key: Key<'a>,
    pub(super) insert: bool,
    pub(super) action: Action,
    pub(super) value: ValueType,
    pub(super) preds: u64,
    pub(super) expand: bool,
    pub(super) mark_name: Option<&'a str>,
}

/// The columns being read in step.
#[derive(Clone, Debug)]
pub(super) struct Rows<'a> {
    /// Entries of the change's actor table.
    actors: u64,
    object_actor: Rle<'a, u64>,
    object_counter: Rle<'a, u64>,
    key_actor: Rle<'a, u64>,
    key_counter: Delta<'a>,
    key_string: Rle<'a, &'a str>,
    insert: Booleans<'a>,
    action: Rle<'a, u64>,
    values: Values<'a>,
    pred_count: Rle<'a, u64>,
    pred_actor: Rle<'a, u64>,
    pred_counter: Delta<'a>,
    expand: Booleans<'a>,
    mark_name: Rle<'a, &'a str>,
}

fn at(column: Column) -> impl Fn(Fault) -> ChangeError {
    move |fault| ChangeError::Column { column, fault }
}

impl<'a> Rows<'a> {
    pub(super) fn new(columns: &Columns<'a>, other_actors: usize) -> Self {
        Self {
            actors: other_actors as u64 + 1,
            object_actor: Rle::new(columns.get(Column::ObjectActor)),
            object_counter: Rle::new(columns.get(Column::ObjectCounter)),
            key_actor: Rle::new(columns.get(Column::KeyActor)),
            key_counter: Delta::new(columns.get(Column::KeyCounter)),
            key_string: Rle::new(columns.get(Column::KeyString)),
            insert: Booleans::new(columns.get(Column::Insert)),
            action: Rle::new(columns.get(Column::Action)),
            values: Values::new(columns.get(Column::ValueMetadata), columns.get(Column::Value)),
            pred_count: Rle::new(columns.get(Column::PredCount)),
            pred_actor: Rle::new(columns.get(Column::PredActor)),
            pred_counter: Delta::new(columns.get(Column::PredCounter)),
            expand: Booleans::new(columns.get(Column::Expand)),
            mark_name: Rle::new(columns.get(Column::MarkName)),
        }
    }

    /// Reads operation number `index`. Its predecessors have to be read before the next one.
    #[inline]
    pub(super) fn next(&mut self, index: u64) -> Result<Row<'a>, ChangeError> {
        let invalid = |fault| ChangeError::Op { index, fault };
        Ok(Row {
            object: self.object()?.map_err(invalid)?,
            key: self.key()?.map_err(invalid)?,
            insert: self.insert.next().map_err(at(Column::Insert))?,
            action: self.action()?,
            value: self.values.next().map_err(at(Column::Value))?,
            preds: self.pred_count.next_value().map_err(at(Column::PredCount))?,
            expand: self.expand.next().map_err(at(Column::Expand))?,
            mark_name: self.mark_name.next().map_err(at(Column::MarkName))?,
        })
    }

    /// Reads one operation that is replaced.
    #[inline]
    pub(super) fn next_pred(&mut self) -> Result<OpId, ChangeError> {
        let actor = self.pred_actor.next_value().map_err(at(Column::PredActor))?;
        let counter = match self.pred_counter.next() {
            Ok(Some(0)) => return Err(at(Column::PredCounter)(Fault::CounterRange)),
            Ok(Some(counter)) => counter,
            Ok(None) => return Err(at(Column::PredCounter)(Fault::Null)),
            Err(fault) => return Err(at(Column::PredCounter)(fault)),
        };
        self.op_id(actor, counter).map_err(at(Column::PredActor))
    }

    /// To be called after the last row: no column may have anything left.
    pub(super) fn finish(&self) -> Result<(), ChangeError> {
        self.object_actor.finish().map_err(at(Column::ObjectActor))?;
        self.object_counter.finish().map_err(at(Column::ObjectCounter))?;
        self.key_actor.finish().map_err(at(Column::KeyActor))?;
        self.key_counter.finish().map_err(at(Column::KeyCounter))?;
        self.key_string.finish().map_err(at(Column::KeyString))?;
        self.insert.finish().map_err(at(Column::Insert))?;
        self.action.finish().map_err(at(Column::Action))?;
        self.values.finish().map_err(at(Column::Value))?;
        self.pred_count.finish().map_err(at(Column::PredCount))?;
        self.pred_actor.finish().map_err(at(Column::PredActor))?;
        self.pred_counter.finish().map_err(at(Column::PredCounter))?;
        self.expand.finish().map_err(at(Column::Expand))?;
        self.mark_name.finish().map_err(at(Column::MarkName))
    }

    #[inline]
    fn object(&mut self) -> Result<Result<Option<OpId>, OpFault>, ChangeError> {
        let actor = self.object_actor.next().map_err(at(Column::ObjectActor))?;
        let counter = self.object_counter.next().map_err(at(Column::ObjectCounter))?;
        match (actor, counter) {
            (None, None) => Ok(Ok(None)),
            (Some(_), Some(counter)) if counter > OP_COUNTER_MAX => {
                Err(at(Column::ObjectCounter)(Fault::CounterRange))
            }
            (Some(actor), Some(counter)) if counter > 0 => {
                self.op_id(actor, counter).map(|id| Ok(Some(id))).map_err(at(Column::ObjectActor))
            }
            _ => Ok(Err(OpFault::ObjectId)),
        }
    }

    #[inline]
    fn key(&mut self) -> Result<Result<Key<'a>, OpFault>, ChangeError> {
        let actor = self.key_actor.next().map_err(at(Column::KeyActor))?;
        let counter = self.key_counter.next().map_err(at(Column::KeyCounter))?;
        let string = self.key_string.next().map_err(at(Column::KeyString))?;
        match (actor, counter, string) {
            (None, None, Some(key)) => Ok(Ok(Key::Map(key))),
            (None, Some(0), None) => Ok(Ok(Key::Head)),
            (Some(actor), Some(counter), None) if counter > 0 => {
                self.op_id(actor, counter).map(|id| Ok(Key::Element(id))).map_err(at(Column::KeyActor))
            }
            _ => Ok(Err(OpFault::Key)),
        }
    }

    #[inline]
    fn action(&mut self) -> Result<Action, ChangeError> {
        let at = at(Column::Action);
        match self.action.next_value().map_err(&at)? {
            0 => Ok(Action::MakeMap),
            1 => Ok(Action::Set),
            2 => Ok(Action::MakeList),
            3 => Ok(Action::Delete),
            4 => Ok(Action::MakeText),
            5 => Ok(Action::Increment),
            6 => Err(at(Fault::Table)),
            7 => Ok(Action::Mark),
            _ => Err(at(Fault::Action)),
        }
    }

    /// `counter` is at most [`OP_COUNTER_MAX`], so of the two conversions only the actor's can fail.
    #[inline]
    fn op_id(&self, actor: u64, counter: u64) -> Result<OpId, Fault> {
        match (u32::try_from(actor), u32::try_from(counter)) {
            (Ok(index), Ok(counter)) if actor < self.actors => Ok(OpId { actor: index, counter }),
            _ => Err(Fault::ActorIndex),
        }
    }
}
