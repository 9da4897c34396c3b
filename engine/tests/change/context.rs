//! What only a document can tell about a change, worked out from the whole history: whether the changes,
//! actors, objects, elements and operations that it refers to exist and suit it. A server that keeps no
//! documents on its hot path checks the first half of this and leaves the second to its materialiser.

use std::collections::{HashMap, HashSet};

use automerge::{
    ActorId, Change, ChangeHash, ObjType,
    legacy::{ElementId, Key, ObjectId, Op, OpId, OpType},
};

/// How far beyond its dependencies' operations a change may begin to count.
const GAP_MAX: u64 = 10_000;

#[derive(Clone)]
struct Known {
    object: ObjectId,
    key: Key,
    insert: bool,
    action: OpType,
}

/// Everything that the changes so far have made.
#[derive(Clone, Default)]
pub struct Context {
    ops: HashMap<OpId, Known>,
    ancestors: HashMap<ChangeHash, HashSet<ChangeHash>>,
    max_ops: HashMap<ChangeHash, u64>,
    last: HashMap<ActorId, (u64, ChangeHash)>,
}

impl Context {
    pub fn add(&mut self, change: &Change) {
        let ops = change.decode().operations;
        for (counter, op) in (change.start_op().get()..).zip(ops) {
            self.ops.insert(OpId::new(counter, change.actor_id()), Known::new(&op));
        }
        let mut ancestors: HashSet<ChangeHash> =
            change.deps().iter().flat_map(|dep| self.ancestors[dep].iter().copied()).collect();
        ancestors.extend(change.deps());
        self.ancestors.insert(change.hash(), ancestors);
        self.max_ops.insert(change.hash(), change.max_op());
        self.last.insert(change.actor_id().clone(), (change.seq(), change.hash()));
    }

    /// What admission is to see to with the document's clock and hashes.
    pub fn header_fits(&self, change: &Change) -> bool {
        let deps = change.deps();
        if !deps.iter().all(|dep| self.ancestors.contains_key(dep)) {
            return false;
        }
        let (last_seq, last_hash) = self.last.get(change.actor_id()).copied().unzip();
        let next = last_seq.unwrap_or(0) + 1 == change.seq();
        let after_own_last = last_hash.is_none_or(|last| {
            deps.contains(&last) || deps.iter().any(|dep| self.ancestors[dep].contains(&last))
        });
        let first = 1 + deps.iter().map(|dep| self.max_ops[dep]).max().unwrap_or(0);
        let start_op = change.start_op().get();
        // An edit of an old version counts on from the newest one that its author has, so it leaves a gap.
        let start_op_fits =
            start_op == first || (!change.is_empty() && (first..=first + GAP_MAX).contains(&start_op));
        let actors_known = change.other_actor_ids().iter().all(|actor| self.last.contains_key(actor));
        next && after_own_last && start_op_fits && actors_known
    }

    /// What takes the document.
    pub fn references_fit(&self, change: &Change) -> bool {
        let mut all = self.clone();
        (change.start_op().get()..).zip(change.decode().operations).all(|(counter, op)| {
            let fits = all.op_fits(&op);
            all.ops.insert(OpId::new(counter, change.actor_id()), Known::new(&op));
            fits
        }) && all.marks_in_order(change)
    }

    /// Whether each mark of the change ends after it begins. The end belongs to the operation before it.
    fn marks_in_order(&self, change: &Change) -> bool {
        (change.start_op().get()..).zip(change.decode().operations).all(|(counter, op)| {
            if !matches!(op.action, OpType::MarkEnd(_)) {
                return true;
            }
            let order = self.order(&op.obj);
            let place = |counter| {
                let id = OpId::new(counter, change.actor_id());
                order.iter().position(|element| *element == id)
            };
            place(counter - 1) < place(counter)
        })
    }

    /// The elements of a list or text in document order: each stands after the one that it was inserted
    /// after, and of those inserted after the same one, the latest first.
    fn order(&self, object: &ObjectId) -> Vec<OpId> {
        let mut after: HashMap<&Key, Vec<&OpId>> = HashMap::new();
        for (id, known) in self.ops.iter().filter(|(_, known)| known.insert && known.object == *object) {
            after.entry(&known.key).or_default().push(id);
        }
        for ids in after.values_mut() {
            ids.sort_by_key(|id| (id.counter(), id.actor().clone()));
        }
        let mut order = Vec::new();
        let mut stack = after.remove(&Key::Seq(ElementId::Head)).unwrap_or_default();
        while let Some(id) = stack.pop() {
            order.push(id.clone());
            stack.extend(after.remove(&Key::Seq(ElementId::Id(id.clone()))).unwrap_or_default());
        }
        order
    }

    fn op_fits(&self, op: &Op) -> bool {
        let object_type = match &op.obj {
            ObjectId::Root => Some(ObjType::Map),
            ObjectId::Id(id) => self.ops.get(id).and_then(|known| match known.action {
                OpType::Make(object_type) => Some(object_type),
                _ => None,
            }),
        };
        let key_fits = match (&op.key, object_type) {
            (Key::Map(_), Some(ObjType::Map))
            | (Key::Seq(ElementId::Head), Some(ObjType::List | ObjType::Text)) => true,
            (Key::Seq(ElementId::Id(id)), Some(ObjType::List | ObjType::Text)) => {
                self.ops.get(id).is_some_and(|known| known.insert && known.object == op.obj)
            }
            _ => false,
        };
        let marks_fit = !matches!(op.action, OpType::MarkBegin(_) | OpType::MarkEnd(_))
            || object_type == Some(ObjType::Text);
        key_fits && marks_fit && op.pred.iter().all(|pred| self.pred_fits(op, pred))
    }

    fn pred_fits(&self, op: &Op, pred: &OpId) -> bool {
        self.ops.get(pred).is_some_and(|known| {
            let key = if known.insert { Key::Seq(ElementId::Id(pred.clone())) } else { known.key.clone() };
            known.object == op.obj
                && key == op.key
                && matches!(known.action, OpType::Make(_) | OpType::Put(_))
        })
    }
}

impl Known {
    fn new(op: &Op) -> Self {
        Self { object: op.obj.clone(), key: op.key.clone(), insert: op.insert, action: op.action.clone() }
    }
}
