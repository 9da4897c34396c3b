//! What operations a document has, as far as admission needs to know: which made an object, which element or key
//! each of the others stands at. Automerge panics on a change that refers to an operation which does not exist, or
//! is not what it is taken for; this tells such a change without building the document.
//!
//! Operations of one author that follow one another in one list, as typing makes them, take one entry together. An
//! index that grows too large is dropped and begun anew: of operations counted before, nothing is known then, and
//! what refers to them is believed.

use std::collections::BTreeMap;

use crate::change::{ActorId, Change, ObjectKind, OpAction, OpKey, OpRef, Operation};

/// Most entries of a document's index.
pub const OP_RUNS_MAX: usize = 16_384;
/// Most objects of a document's index.
pub const OP_OBJECTS_MAX: usize = 16_384;
/// Objects within one another, the document itself included, as far as the index knows them: whoever reads a document
/// recurses as deep.
pub const OBJECT_DEPTH_MAX: u16 = 500;
/// Depth of an object in the document itself, and at least that of one of which nothing is known.
const OUTERMOST_DEPTH: u16 = 2;

/// An operation: its author's number in the index, and its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    actor: u32,
    counter: u32,
}

/// The root map, which no operation made.
const ROOT: Name = Name { actor: u32::MAX, counter: 0 };

/// Where an operation stands in its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is an element of its own; a mark's is no value.
    Element { is_value: bool },
    /// At the key of a map with this hash.
    Key(u64),
    /// At the place of an element.
    At(Name),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u32,
    count: u32,
    object: Name,
    place: Place,
}

/// An object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Made {
    kind: ObjectKind,
    /// Objects that it is within, and itself.
    depth: u16,
}

/// What is wrong with a change.
pub(super) enum Unfit {
    /// It refers to what is not there, or is something else.
    Reference(&'static str),
    /// It makes an object deeper than [`OBJECT_DEPTH_MAX`].
    Deep,
}

enum Lookup<T> {
    Found(T),
    Missing,
    /// From before the index began.
    Unknown,
}

/// The index of a document.
#[derive(Debug, Clone, Default)]
pub(super) struct Ops {
    actors: BTreeMap<ActorId, u32>,
    /// By the actor's number; each sorted by counter.
    runs: Vec<Vec<Run>>,
    runs_count: usize,
    objects: BTreeMap<Name, Made>,
    /// Of operations with lower counters, those that are not here may exist.
    complete_from: u64,
}

impl Ops {
    /// Of a document that has operations up to `max_op`, of which nothing is known.
    pub(super) fn behind(max_op: u64) -> Self {
        Self { complete_from: max_op + 1, ..Self::default() }
    }

    /// Drops everything; the document has operations up to `max_op`.
    pub(super) fn forget(&mut self, max_op: u64) {
        *self = Self::behind(max_op);
    }

    /// Bytes that it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.runs_count * size_of::<Run>() + self.objects.len() * 32 + self.actors.len() * 96
    }

    /// Adds the operations of a change that was admitted, or read back. `max_op` is the document's, with it.
    pub(super) fn add(&mut self, change: &Change<'_>, max_op: u64) {
        let names = Names::new(self, change);
        change.for_each_op(|op, _| {
            let own = Name { actor: names.author, counter: op.counter };
            let object = op.object.map_or(ROOT, |object| names.name(object));
            if let OpAction::Make(kind) = op.action {
                let depth = op.object.map_or(OUTERMOST_DEPTH, |_| self.depth_within(object));
                self.objects.insert(own, Made { kind, depth });
            }
            let is_value = matches!(op.action, OpAction::Make(_) | OpAction::Set);
            let place = match op.key {
                _ if op.is_insert => Place::Element { is_value },
                OpKey::Map(key) if is_value => Place::Key(hash(key)),
                OpKey::Element(element) if is_value => Place::At(names.name(element)),
                // Nothing can refer to a deletion or an increment.
                _ => return,
            };
            self.push(own, object, place);
        });
        // An actor whose changes were all taken back keeps its number.
        let most = self.runs_count.max(self.runs.len());
        if most > OP_RUNS_MAX || self.objects.len() > OP_OBJECTS_MAX {
            self.forget(max_op);
        }
    }

    /// Depth of an object that is made in another one, the document itself excluded.
    fn depth_within(&self, object: Name) -> u16 {
        self.objects.get(&object).map_or(OUTERMOST_DEPTH, |outer| outer.depth).saturating_add(1)
    }

    fn push(&mut self, own: Name, object: Name, place: Place) {
        let Some(runs) = self.runs.get_mut(own.actor as usize) else { return };
        match runs.last_mut() {
            Some(last)
                if last.first + last.count == own.counter && (last.object, last.place) == (object, place) =>
            {
                last.count += 1;
            }
            _ => {
                runs.push(Run { first: own.counter, count: 1, object, place });
                self.runs_count += 1;
            }
        }
    }

    /// Takes back an actor's operations beyond a counter.
    pub(super) fn take_back(&mut self, actor: &ActorId, max_op: u64) {
        let Some(&number) = self.actors.get(actor) else { return };
        let max_op = u32::try_from(max_op).unwrap_or(u32::MAX);
        let Some(runs) = self.runs.get_mut(number as usize) else { return };
        while let Some(last) = runs.last_mut().filter(|last| last.first + last.count > max_op + 1) {
            if last.first > max_op {
                runs.pop();
                self.runs_count -= 1;
            } else {
                last.count = max_op + 1 - last.first;
            }
        }
        let beyond = Name { actor: number, counter: max_op + 1 }..=Name { actor: number, counter: u32::MAX };
        let gone: Vec<Name> = self.objects.range(beyond).map(|(name, _)| *name).collect();
        for name in gone {
            self.objects.remove(&name);
        }
    }

    fn lookup<T>(&self, name: Option<Name>, counter: u32, found: impl Fn(Name) -> Option<T>) -> Lookup<T> {
        match name.and_then(found) {
            Some(known) => Lookup::Found(known),
            None if u64::from(counter) < self.complete_from => Lookup::Unknown,
            None => Lookup::Missing,
        }
    }

    fn run(&self, name: Name) -> Option<Run> {
        let runs = self.runs.get(name.actor as usize)?;
        let at = runs.partition_point(|run| run.first <= name.counter).checked_sub(1)?;
        runs.get(at).copied().filter(|run| name.counter - run.first < run.count)
    }

    /// What is wrong with a change's references to operations of other changes, if something is. References within
    /// the change itself were judged when it was parsed.
    pub(super) fn check(&self, change: &Change<'_>) -> Option<Unfit> {
        let names = Names::known(self, change);
        let mut wrong = None;
        // Of the objects that the change itself makes.
        let mut depths: BTreeMap<u32, u16> = BTreeMap::new();
        change.for_each_op(|op, preds| {
            if wrong.is_some() {
                return;
            }
            wrong = self.check_op(change, &names, &op, preds).err().map(Unfit::Reference);
            if matches!(op.action, OpAction::Make(_)) {
                let depth = match op.object {
                    None => OUTERMOST_DEPTH,
                    Some(object) if u64::from(object.counter) >= change.start_op => {
                        depths.get(&object.counter).map_or(OUTERMOST_DEPTH, |outer| *outer).saturating_add(1)
                    }
                    Some(object) => {
                        names.find(object).map_or(OUTERMOST_DEPTH + 1, |object| self.depth_within(object))
                    }
                };
                depths.insert(op.counter, depth);
                wrong = wrong.take().or((depth > OBJECT_DEPTH_MAX).then_some(Unfit::Deep));
            }
        });
        wrong
    }

    fn check_op(
        &self,
        change: &Change<'_>,
        names: &Names,
        op: &Operation<'_>,
        preds: &[OpRef],
    ) -> Result<(), &'static str> {
        let is_other = |op: OpRef| u64::from(op.counter) < change.start_op;
        if let Some(object) = op.object.filter(|object| is_other(*object)) {
            let kind = |name: Name| self.objects.get(&name).map(|made| made.kind);
            match self.lookup(names.find(object), object.counter, kind) {
                Lookup::Found(kind) => fits(kind, op)?,
                Lookup::Missing => return Err("it edits an object that was never made"),
                Lookup::Unknown => {}
            }
        }
        let object = op.object.map_or(Some(ROOT), |object| names.find(object));
        if let OpKey::Element(element) = op.key
            && is_other(element)
        {
            match self.lookup(names.find(element), element.counter, |name| self.run(name)) {
                Lookup::Found(run) => {
                    let is_element = matches!(run.place, Place::Element { .. }) && Some(run.object) == object;
                    is_element.then_some(()).ok_or("the element that it names is none of its object's")?;
                }
                Lookup::Missing => return Err("it names an element that was never inserted"),
                Lookup::Unknown => {}
            }
        }
        for &pred in preds.iter().filter(|pred| is_other(**pred)) {
            match self.lookup(names.find(pred), pred.counter, |name| self.run(name)) {
                Lookup::Found(run) => {
                    let is_there = match (op.key, run.place) {
                        (OpKey::Map(key), Place::Key(there)) => hash(key) == there,
                        (OpKey::Element(element), Place::Element { is_value: true }) => element == pred,
                        (OpKey::Element(element), Place::At(there)) => names.find(element) == Some(there),
                        _ => false,
                    };
                    let fits = is_there && Some(run.object) == object;
                    fits.then_some(()).ok_or("it replaces a value that stands at another place")?;
                }
                Lookup::Missing => return Err("it replaces a value that was never written"),
                Lookup::Unknown => {}
            }
        }
        Ok(())
    }
}

fn fits(kind: ObjectKind, op: &Operation<'_>) -> Result<(), &'static str> {
    let in_map = matches!(op.key, OpKey::Map(_));
    if in_map != (kind == ObjectKind::Map) {
        return Err("its key does not suit the kind of its object");
    }
    if op.action == OpAction::Mark && kind != ObjectKind::Text {
        return Err("it marks what is no text");
    }
    Ok(())
}

/// FNV-1a (64 bit, by Fowler, Noll and Vo). Whoever makes two keys collide gains that a bad change is found later.
fn hash(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The actors of a change by their numbers in the index.
struct Names {
    author: u32,
    others: Vec<Option<u32>>,
}

impl Names {
    /// With numbers for those that have none yet.
    fn new(ops: &mut Ops, change: &Change<'_>) -> Self {
        let mut number = |actor: &[u8], id: &dyn Fn() -> Option<ActorId>| {
            if let Some(&number) = ops.actors.get(actor) {
                return Some(number);
            }
            let next = u32::try_from(ops.runs.len()).ok()?;
            ops.actors.insert(id()?, next);
            ops.runs.push(Vec::new());
            Some(next)
        };
        let author = number(change.actor, &|| Some(change.actor_id())).unwrap_or(u32::MAX - 1);
        let others = change.other_actors.clone();
        let others = others.map(|actor| number(actor, &|| ActorId::from_slice(actor).ok())).collect();
        Self { author, others }
    }

    /// As far as they have one.
    fn known(ops: &Ops, change: &Change<'_>) -> Self {
        let author = ops.actors.get(change.actor).copied().unwrap_or(u32::MAX - 1);
        let others = change.other_actors.clone().map(|actor| ops.actors.get(actor).copied()).collect();
        Self { author, others }
    }

    fn find(&self, op: OpRef) -> Option<Name> {
        let actor = match op.actor.checked_sub(1) {
            None => self.author,
            Some(other) => (*self.others.get(other as usize)?)?,
        };
        Some(Name { actor, counter: op.counter })
    }

    /// One that has a number.
    fn name(&self, op: OpRef) -> Name {
        self.find(op).unwrap_or(Name { actor: u32::MAX - 1, counter: op.counter })
    }
}
