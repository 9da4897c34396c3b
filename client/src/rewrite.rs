//! Own edits written anew: what changes of an old copy did to it is done to another copy of the document.
//!
//! The server takes changes out of a document that break it, and with them those that depend on them. A member
//! throws its copy away then, and what it wrote itself and the document lost has to be made again, as new changes
//! by a fresh actor. What a change did is told by the difference between the old copy before and after it. Objects
//! and elements of lists and texts are found again by their ids where the other copy has them, or by the ones
//! written in their place.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{
    AutoCommit, AutomergeError, Change, ChangeHash, ObjId, ObjType, Patch, PatchAction, Prop, ROOT, ReadDoc,
    Value,
};

/// How far to the left an element is looked for behind which others are inserted.
const NEIGHBOURS_MAX: usize = 1_024;

/// What became of own edits when a document began anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Own changes that were made again.
    pub rewritten: usize,
    /// Own changes of which something could not be made again.
    pub lost: Vec<Lost>,
}

/// An own change that could not be made again, or not as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The change, as it was written.
    pub change: Vec<u8>,
    /// What could not be done.
    pub why: String,
}

/// Makes changes of an old copy again in a new one, as the new one's actor. They are given in the order in which they
/// were written; each becomes one change with the message and the time of before.
pub fn rewrite(old: &mut AutoCommit, new: &mut AutoCommit, changes: &[Change]) -> Rewritten {
    let mut done = Rewritten::default();
    let mut rewriter =
        Rewriter { old, new, objects: HashMap::new(), elements: HashMap::new(), orders: HashMap::new() };
    for change in changes {
        rewriter.rewrite(change, &mut done);
    }
    done
}

struct Rewriter<'a> {
    old: &'a mut AutoCommit,
    new: &'a mut AutoCommit,
    objects: HashMap<ObjId, ObjId>,
    /// Elements of the new copy that stand for elements of the old one.
    elements: HashMap<ElementId, ElementId>,
    /// The elements of the lists and texts of the new copy that were touched, in their order: Automerge finds none
    /// again whose value was replaced.
    orders: HashMap<ObjId, Vec<ElementId>>,
}

/// Names the value that stands at a place of a list or text.
type ElementId = Vec<u8>;

/// The old copy before and after a change, and how far patches have come in a list of it.
struct Step<'c> {
    before: &'c [ChangeHash],
    after: [ChangeHash; 1],
    /// Of each list: how much further to the right its elements stood before the change.
    shifts: HashMap<ObjId, isize>,
}

type Done = Result<(), String>;

impl Rewriter<'_> {
    fn rewrite(&mut self, change: &Change, done: &mut Rewritten) {
        let made = catch_unwind(AssertUnwindSafe(|| self.make(change)));
        let failed = match made {
            Ok(failed) => failed,
            Err(_) => Some("Automerge panicked".to_owned()),
        };
        match failed {
            None => done.rewritten += 1,
            Some(why) => done.lost.push(Lost { change: change.raw_bytes().to_vec(), why }),
        }
    }

    fn make(&mut self, change: &Change) -> Option<String> {
        let mut step = Step { before: change.deps(), after: [change.hash()], shifts: HashMap::new() };
        let mut failed = None;
        for patch in self.old.diff(step.before, &step.after) {
            if let Err(why) = self.patch(&patch, &mut step) {
                failed.get_or_insert(why);
            }
        }
        let mut options = CommitOptions::default().with_time(change.timestamp());
        if let Some(message) = change.message() {
            options = options.with_message(message);
        }
        if self.new.pending_ops() > 0 {
            self.new.commit_with(options);
        }
        failed
    }

    fn patch(&mut self, patch: &Patch, step: &mut Step<'_>) -> Done {
        let object = self.object(&patch.obj)?;
        match &patch.action {
            PatchAction::PutMap { key, value: (value, id), .. } => {
                self.put(&object, key.as_str().into(), value, id)
            }
            PatchAction::PutSeq { index, value: (value, id), .. } => {
                let at = self.element(patch, step.before_index(patch, *index)?, step.before)?;
                self.put(&object, at.into(), value, id)?;
                let there = self.new_id(&object, at)?;
                self.stand_for(patch, *index, &step.after, &there);
                self.order(&object).splice(at..=at, [there]);
                Ok(())
            }
            PatchAction::Increment { prop, value } => {
                let prop = match prop {
                    Prop::Map(key) => Prop::Map(key.clone()),
                    Prop::Seq(index) => Prop::Seq(self.element(patch, *index, &step.after)?),
                };
                self.new.increment(&object, prop, *value).map_err(said)
            }
            PatchAction::DeleteMap { key } => match self.new.get(&object, key.as_str()).map_err(said)? {
                Some(_) => self.new.delete(&object, key.as_str()).map_err(said),
                None => Ok(()),
            },
            PatchAction::Insert { index, values } => {
                let first = self.behind(patch, *index, &step.after, &object);
                for (offset, (value, id, _)) in values.iter().enumerate() {
                    let at = first + offset;
                    match value {
                        Value::Object(kind) => {
                            let made = self.new.insert_object(&object, at, *kind).map_err(said)?;
                            self.objects.insert(id.clone(), made);
                        }
                        Value::Scalar(value) => {
                            self.new.insert(&object, at, value.as_ref().clone()).map_err(said)?;
                        }
                    }
                    self.inserted(patch, index + offset, &step.after, &object, at)?;
                }
                step.shift(patch, values.len(), 0);
                Ok(())
            }
            PatchAction::SpliceText { index, value, .. } => {
                let at = self.behind(patch, *index, &step.after, &object);
                let text = value.make_string();
                let before = self.order(&object).len();
                self.new.splice_text(&object, at, 0, &text).map_err(said)?;
                let width = self.new.length(&object) - before;
                for offset in 0..width {
                    self.inserted(patch, index + offset, &step.after, &object, at + offset)?;
                }
                step.shift(patch, width, 0);
                Ok(())
            }
            PatchAction::DeleteSeq { index, length } => {
                let first = step.before_index(patch, *index)?;
                for at in first..first + length {
                    // What is not there any more, or never was, needs not be deleted.
                    if let Ok(at) = self.element(patch, at, step.before) {
                        self.delete(&object, at)?;
                    }
                }
                step.shift(patch, 0, *length);
                Ok(())
            }
            PatchAction::Mark { marks } => {
                marks.iter().try_for_each(|mark| self.mark(patch, mark, &step.after, &object))
            }
            // What a conflict shows is another patch's matter.
            PatchAction::Conflict { .. } => Ok(()),
        }
    }

    fn put(&mut self, object: &ObjId, prop: Prop, value: &Value<'static>, id: &ObjId) -> Done {
        match value {
            Value::Object(kind) => {
                let made = self.new.put_object(object, prop, *kind).map_err(said)?;
                self.objects.insert(id.clone(), made);
            }
            Value::Scalar(value) => self.new.put(object, prop, value.as_ref().clone()).map_err(said)?,
        }
        Ok(())
    }

    fn delete(&mut self, object: &ObjId, at: usize) -> Done {
        if self.new.object_type(object).map_err(said)? == ObjType::Text {
            self.new.splice_text(object, at, 1, "").map_err(said)?;
        } else {
            self.new.delete(object, at).map_err(said)?;
        }
        self.order(object).remove(at);
        Ok(())
    }

    /// Something new stands at this place of the new copy.
    fn inserted(
        &mut self,
        patch: &Patch,
        index: usize,
        heads: &[ChangeHash],
        object: &ObjId,
        at: usize,
    ) -> Done {
        let there = self.new_id(object, at)?;
        self.stand_for(patch, index, heads, &there);
        self.order(object).insert(at, there);
        Ok(())
    }

    fn mark(&mut self, patch: &Patch, mark: &Mark, heads: &[ChangeHash], object: &ObjId) -> Done {
        let last = mark.end.checked_sub(1).ok_or("a mark of nothing")?;
        let (start, end) = (self.element(patch, mark.start, heads)?, self.element(patch, last, heads)? + 1);
        let mark = Mark::new(mark.name.to_string(), mark.value.clone(), start, end);
        self.new.mark(object, mark, ExpandMark::After).map_err(said)
    }

    /// The object in the new copy that is an object of the old one, or stands for it.
    fn object(&self, old: &ObjId) -> Result<ObjId, String> {
        if *old == ROOT {
            return Ok(ROOT);
        }
        if let Some(made) = self.objects.get(old) {
            return Ok(made.clone());
        }
        match self.new.object_type(old) {
            Ok(_) => Ok(old.clone()),
            Err(_) => Err("what it edits is gone from the document".to_owned()),
        }
    }

    fn new_id(&self, object: &ObjId, at: usize) -> Result<ElementId, String> {
        Ok(self.new.get_cursor(object, at, None).map_err(said)?.to_bytes())
    }

    /// The elements of a list or text of the new copy.
    fn order(&mut self, object: &ObjId) -> &mut Vec<ElementId> {
        let new = &*self.new;
        self.orders.entry(object.clone()).or_insert_with(|| {
            let id =
                |at| new.get_cursor(object, at, None).map(|cursor| cursor.to_bytes()).unwrap_or_default();
            (0..new.length(object)).map(id).collect()
        })
    }

    /// Where an element of the old copy stands in the new one.
    fn element(&mut self, patch: &Patch, index: usize, heads: &[ChangeHash]) -> Result<usize, String> {
        let object = self.object(&patch.obj)?;
        let id = self.old.get_cursor(&patch.obj, index, Some(heads)).map_err(said)?.to_bytes();
        let id = self.elements.get(&id).cloned().unwrap_or(id);
        let at = self.order(&object).iter().position(|there| *there == id);
        at.ok_or_else(|| "an element that it edits is gone from the document".to_owned())
    }

    /// Where to insert in the new copy what stands at an index of the old one: behind the nearest element to the
    /// left that both have.
    fn behind(&mut self, patch: &Patch, index: usize, heads: &[ChangeHash], object: &ObjId) -> usize {
        // Known from before the insertion, whether a neighbour is looked for or not.
        self.order(object);
        let nearest =
            (0..index).rev().take(NEIGHBOURS_MAX).find_map(|at| self.element(patch, at, heads).ok());
        nearest.map_or(0, |at| at + 1)
    }

    /// An element of the new copy stands for one of the old copy.
    fn stand_for(&mut self, patch: &Patch, index: usize, heads: &[ChangeHash], there: &ElementId) {
        if let Ok(old) = self.old.get_cursor(&patch.obj, index, Some(heads)) {
            self.elements.insert(old.to_bytes(), there.clone());
        }
    }
}

impl Step<'_> {
    /// Where something stood before the change.
    fn before_index(&self, patch: &Patch, index: usize) -> Result<usize, String> {
        let shift = self.shifts.get(&patch.obj).copied().unwrap_or(0);
        index.checked_add_signed(shift).ok_or_else(|| "what it edits cannot be told".to_owned())
    }

    /// Patches of a list come from left to right, each as of all before it.
    fn shift(&mut self, patch: &Patch, inserted: usize, deleted: usize) {
        let shift = self.shifts.entry(patch.obj.clone()).or_insert(0);
        *shift = shift.saturating_add_unsigned(deleted).saturating_sub_unsigned(inserted);
    }
}

fn said(error: AutomergeError) -> String {
    error.to_string()
}
