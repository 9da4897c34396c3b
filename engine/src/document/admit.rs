//! Admission: whether a push may enter the log, decided without building the document.
//!
//! A push is taken whole or not at all. What the changes say by themselves is checked by [`crate::change`];
//! here they meet the document: sequence, dependencies, operation counters, known actors, genesis.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use etherply_wire::ErrorCode;
use etherply_wire::kinds::Cursor;

use super::ops::{OBJECT_DEPTH_MAX, Unfit};
use super::{
    ActorState, DOCUMENT_ACTORS_MAX, DOCUMENT_HEADS_MAX, Document, GENESIS_ACTOR, GENESIS_BYTES_MAX, Head,
    PENDING_CHANGES_MAX, refusal,
};
use crate::chain::chain_next;
use crate::change::{ActorId, Change, ChangeHash, ChangeLimits, OP_COUNTER_MAX, Reference, parse};
use crate::ids::ChainHash;
use crate::log::Found;

/// Most hashes that one push may make the engine look up in one question to the log.
pub const LOOKUPS_MAX: usize = 4_096;
/// Most hashes that one push may have looked up before it is refused.
pub const LOOKUPS_PER_PUSH_MAX: usize = 65_536;

/// Answers of the log for a push that had to wait for them.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    found: BTreeMap<ChangeHash, Option<Found>>,
    asked_at_seq: u64,
}

impl Resolved {
    /// Takes the log's answers.
    pub fn extend(&mut self, found: impl IntoIterator<Item = (ChangeHash, Option<Found>)>) {
        self.found.extend(found);
    }
}

/// Who pushes.
#[derive(Debug, Clone, Copy)]
pub struct Pusher<'a> {
    /// The subject, empty for nobody in particular.
    pub subject: &'a Arc<str>,
    /// Whether changes of other subjects' actors are taken from it.
    pub imports: bool,
}

/// A change that a push adds to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fresh {
    /// Which change of the push.
    pub index: usize,
    /// Its position from now on.
    pub seq: u64,
    /// Its hash.
    pub hash: ChangeHash,
    /// The chain behind it.
    pub chain: ChainHash,
    /// Its highest operation counter.
    pub max_op: u64,
}

/// A push that was admitted.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Position of each of its changes, those included that were there.
    pub positions: Vec<u64>,
    /// The position after which its new changes stand.
    pub after_seq: u64,
    /// The place behind them.
    pub cursor: Cursor,
    /// The new changes.
    pub fresh: Vec<Fresh>,
    /// How to take them back.
    undo: Undo,
}

#[derive(Debug, Clone)]
struct Undo {
    admitted: Cursor,
    heads: Vec<Head>,
    max_op: u64,
    clock: Vec<(ActorId, Option<ActorState>)>,
    genesis: bool,
    owners: usize,
}

/// Why a push was not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdmitError {
    /// A change cannot be taken.
    Refused {
        /// Which change of the push.
        index: usize,
        /// The reason.
        code: ErrorCode,
        /// The reason for people.
        message: String,
    },
    /// The log has to say first whether it has these.
    Lookup(Vec<ChangeHash>),
}

/// Why one change was not admitted.
enum Stop {
    Refused(ErrorCode, String),
    /// The log has to say first whether it has this one.
    Lookup(ChangeHash),
}

impl Stop {
    fn refuse(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Refused(code, message.into())
    }
}

impl Document {
    /// Notes that the log is being asked now. Older answers "not there" are dropped if so much was admitted
    /// since that they may have become wrong unnoticed.
    pub fn asking(&self, resolved: &mut Resolved) {
        if !self.window.reaches_back_to(resolved.asked_at_seq) {
            resolved.found.retain(|_, found| found.is_some());
            resolved.asked_at_seq = self.admitted.seq;
        }
    }

    /// What the log said about a hash, if it was asked and its answer still counts: what was admitted since
    /// then is in the window.
    fn answer(&self, resolved: &Resolved, hash: &ChangeHash) -> Option<Option<Found>> {
        let answer = resolved.found.get(hash).copied()?;
        let is_stale = !self.window.reaches_back_to(resolved.asked_at_seq);
        if answer.is_none() && is_stale { None } else { Some(answer) }
    }

    /// [`Document::admit_from`] nobody in particular, whose changes may be anybody's.
    ///
    /// # Errors
    /// As there.
    pub fn admit(
        &mut self,
        changes: &[&[u8]],
        limits: &ChangeLimits,
        resolved: &Resolved,
    ) -> Result<Admitted, AdmitError> {
        let nobody = Arc::from("");
        self.admit_from(Pusher { subject: &nobody, imports: true }, changes, limits, resolved)
    }

    /// Admits a push, or leaves the document as it was. Answers of the log from an earlier try of the same
    /// push are in `resolved`.
    ///
    /// # Errors
    /// [`AdmitError`]
    pub fn admit_from(
        &mut self,
        pusher: Pusher<'_>,
        changes: &[&[u8]],
        limits: &ChangeLimits,
        resolved: &Resolved,
    ) -> Result<Admitted, AdmitError> {
        let mut parsed = Vec::with_capacity(changes.len());
        for (index, bytes) in changes.iter().enumerate() {
            parsed.push(parse(bytes, limits).map_err(|error| AdmitError::Refused {
                index,
                code: refusal::code(&error),
                message: error.to_string(),
            })?);
        }
        let mut admitted = Admitted {
            positions: Vec::with_capacity(changes.len()),
            after_seq: self.admitted.seq,
            cursor: self.admitted,
            fresh: Vec::with_capacity(changes.len()),
            undo: Undo {
                admitted: self.admitted,
                heads: self.heads.clone(),
                max_op: self.max_op,
                clock: Vec::new(),
                genesis: false,
                owners: self.owners.len(),
            },
        };
        for (index, change) in parsed.iter().enumerate() {
            match self.admit_one(index, change, pusher, resolved, &mut admitted) {
                Ok(position) => admitted.positions.push(position),
                Err(Stop::Refused(code, message)) => {
                    self.take_back(&admitted);
                    return Err(AdmitError::Refused { index, code, message });
                }
                Err(Stop::Lookup(hash)) => {
                    self.take_back(&admitted);
                    return Err(AdmitError::Lookup(self.unknown(hash, &parsed, resolved)));
                }
            }
        }
        admitted.cursor = self.admitted;
        Ok(admitted)
    }

    /// Takes an admitted push back. Pushes are taken back in the reverse order of their admission.
    pub fn take_back(&mut self, admitted: &Admitted) {
        let undo = &admitted.undo;
        for _ in &admitted.fresh {
            self.window.pop();
        }
        for (actor, before) in undo.clock.iter().rev() {
            planted!(RollbackForgotten, { break });
            self.ops.take_back(actor, before.map_or(0, |state| state.max_op));
            match before {
                Some(state) => self.clock.insert(actor.clone(), *state),
                None => self.clock.remove(actor),
            };
        }
        self.heads.clone_from(&undo.heads);
        self.max_op = undo.max_op;
        self.admitted = undo.admitted;
        self.owners.truncate(undo.owners);
        if undo.genesis {
            self.genesis = None;
        }
    }

    fn admit_one(
        &mut self,
        index: usize,
        change: &Change<'_>,
        pusher: Pusher<'_>,
        resolved: &Resolved,
        admitted: &mut Admitted,
    ) -> Result<u64, Stop> {
        if let Some(found) = self.window.get(&change.hash)
            && !planted!(DuplicateNotDropped)
        {
            return Ok(found.seq);
        }
        let before = self.clock.get(change.actor).copied();
        self.check_excluded(change, before)?;
        if let Some(position) = self.check_sequence(change, before, resolved)? {
            return Ok(position);
        }
        self.check_owner(before, pusher)?;
        self.check_genesis(change)?;
        let deps_max_op = self.check_deps(change, resolved)?;
        self.check_ancestry(change, before)?;
        self.check_counters(change, before, deps_max_op)?;
        self.check_references(change)?;
        self.check_room(change, before)?;
        Ok(self.insert(index, change, before, pusher, admitted))
    }

    /// An actor belongs to the subject that first used it: see [`super::owners`].
    fn check_owner(&self, before: Option<ActorState>, pusher: Pusher<'_>) -> Result<(), Stop> {
        let owner = before.and_then(|state| self.owners.subject(state.owner));
        if pusher.imports || owner.is_none_or(|owner| owner == pusher.subject) {
            return Ok(());
        }
        Err(Stop::refuse(
            ErrorCode::ActorNotYours,
            "the actor belongs to another subject: go on as a fresh actor",
        ))
    }

    /// `Some(position)` if the change is a duplicate, `None` if it is the actor's next.
    fn check_sequence(
        &self,
        change: &Change<'_>,
        before: Option<ActorState>,
        resolved: &Resolved,
    ) -> Result<Option<u64>, Stop> {
        let last_seq = before.map_or(0, |state| state.seq);
        if change.seq > last_seq + 1 {
            let message = format!(
                "the actor's change {} came, but {} is the last one here: push those between first",
                change.seq, last_seq
            );
            return Err(Stop::refuse(ErrorCode::SequenceGap, message));
        }
        if change.seq == last_seq + 1 || planted!(DuplicateNotDropped) {
            return Ok(None);
        }
        if let Some(state) = before.filter(|state| state.hash == change.hash) {
            return Ok(Some(state.position));
        }
        let is_genesis = change.actor == GENESIS_ACTOR;
        let answer = match before.filter(|state| state.seq == change.seq) {
            // The actor's last change is known, and it is another one: nothing to look up.
            Some(_) => Some(None),
            None => self.answer(resolved, &change.hash),
        };
        match answer {
            Some(Some(found)) => Ok(Some(found.seq)),
            Some(None) if is_genesis => Err(Stop::refuse(
                ErrorCode::GenesisConflict,
                "the document began with another genesis: adopt the one in this frame, then apply your edits \
                 to it",
            )),
            Some(None) => Err(Stop::refuse(
                ErrorCode::ActorForked,
                format!("the server has another change {} of this actor: go on as a fresh actor", change.seq),
            )),
            None => Err(Stop::Lookup(change.hash)),
        }
    }

    fn check_genesis(&self, change: &Change<'_>) -> Result<(), Stop> {
        if change.actor != GENESIS_ACTOR {
            return Ok(());
        }
        if change.seq != 1 || change.deps.iter().next().is_some() {
            return Err(Stop::refuse(
                ErrorCode::ActorForked,
                "the genesis actor has one change, without dependencies: edit as an actor of your own",
            ));
        }
        if change.bytes.len() > GENESIS_BYTES_MAX {
            return Err(Stop::refuse(
                ErrorCode::ChangeTooLarge,
                format!("a genesis may have {GENESIS_BYTES_MAX} bytes, this one has {}", change.bytes.len()),
            ));
        }
        Ok(())
    }

    /// An actor whose change broke the document writes no more: it would bring the same change again.
    fn check_excluded(&self, change: &Change<'_>, before: Option<ActorState>) -> Result<(), Stop> {
        let is_new = before.is_none_or(|state| change.seq > state.seq);
        if is_new && self.excluded.contains(change.actor) && !planted!(ExcludedActorTaken) {
            return Err(Stop::refuse(
                ErrorCode::ActorExcluded,
                "a change of this actor broke the document and was excluded: go on as a fresh actor, without it",
            ));
        }
        Ok(())
    }

    /// The highest operation counter among the change's dependencies, all of which must be known.
    fn check_deps(&self, change: &Change<'_>, resolved: &Resolved) -> Result<u64, Stop> {
        let mut max_op = 0;
        for dep in change.deps.iter() {
            let known = self.known(&dep);
            let known = known.or_else(|| Some(self.answer(resolved, &dep)?.map(|found| found.max_op)));
            match known {
                Some(Some(dep_max_op)) => max_op = max_op.max(dep_max_op),
                Some(None) if planted!(SkippedDependencyCheck) => {}
                Some(None) => {
                    let message = format!("the change depends on {dep}, which is not here: push it first");
                    return Err(Stop::refuse(ErrorCode::MissingDependencies, message));
                }
                None => return Err(Stop::Lookup(dep)),
            }
        }
        Ok(max_op)
    }

    /// An actor's change follows its previous one. Two instances of one actor, as of a cloned device, can
    /// break this without a gap in the numbers; Automerge panics on such a pair. Ordinary edits depend on the
    /// previous change directly. An edit on an old version (`changeAt`) may do so through others, which are
    /// looked for as far back as the window goes; beyond, the doubt is the author's.
    fn check_ancestry(&self, change: &Change<'_>, before: Option<ActorState>) -> Result<(), Stop> {
        let Some(last) = before else { return Ok(()) };
        if change.deps.contains(&last.hash)
            || self.window.may_follow(change.deps.iter(), &last.hash, last.position)
        {
            return Ok(());
        }
        let message = format!(
            "the actor's change {} does not follow its change {}: go on as a fresh actor",
            change.seq, last.seq
        );
        Err(Stop::refuse(ErrorCode::ActorForked, message))
    }

    /// The highest operation counter of a change of which the log need not be asked.
    fn known(&self, hash: &ChangeHash) -> Option<Option<u64>> {
        if let Some(found) = self.window.get(hash) {
            return Some(Some(found.max_op));
        }
        // Right after the document was opened from its snapshot the window is empty, and pushes build on heads.
        let head =
            self.heads.binary_search_by(|head| head.hash.cmp(hash)).ok().and_then(|at| self.heads.get(at));
        head.map(|head| Some(head.max_op))
    }

    /// A change's operations are counted on from what its author had seen: at least from its dependencies,
    /// at most from everything in the document. (An edit on an old version, Automerge's `changeAt`, counts on
    /// from the whole document, though it depends only on a part.) A counter that leaps ahead would apply,
    /// and then make the saved document unreadable.
    fn check_counters(
        &self,
        change: &Change<'_>,
        before: Option<ActorState>,
        deps_max_op: u64,
    ) -> Result<(), Stop> {
        let own_max_op = before.map_or(0, |state| state.max_op);
        let lowest = deps_max_op.max(own_max_op) + 1;
        // A change without operations that leaves a gap before it cannot be loaded again.
        let highest = if change.ops() == 0 { lowest } else { self.max_op + 1 };
        if change.start_op < lowest || (change.start_op > highest && change.ops() == 0) {
            let message = format!(
                "the change's operations begin at {}, but its dependencies allow {lowest} to {highest}",
                change.start_op
            );
            return Err(Stop::refuse(ErrorCode::StartOpWrong, message));
        }
        // An honest author had seen changes that are not here (any more): it depends on none of them, and pushes them
        // when it is told so.
        if change.start_op > highest {
            let message = format!(
                "the change's operations begin at {}, but those of the document end at {}: push those between first",
                change.start_op, self.max_op
            );
            return Err(Stop::refuse(ErrorCode::MissingDependencies, message));
        }
        if change.max_op() > OP_COUNTER_MAX {
            let message = format!("a document may count {OP_COUNTER_MAX} operations: begin a new one");
            return Err(Stop::refuse(ErrorCode::DocumentOpsExhausted, message));
        }
        Ok(())
    }

    /// What the change refers to must exist as far as the clock can tell: its actor is known and has made
    /// operations up to that counter. Automerge panics on some references that lead nowhere.
    fn check_references(&self, change: &Change<'_>) -> Result<(), Stop> {
        for actor in change.other_actors.clone() {
            if !self.clock.contains_key(actor) {
                let message = "the change refers to an actor without any change in this document";
                return Err(Stop::refuse(ErrorCode::UnknownActor, message));
            }
        }
        let mut last: Option<(u32, u64)> = None;
        let mut dangling: Option<Reference> = None;
        change.for_each_reference(|reference| {
            let max_op = match last {
                Some((actor, max_op)) if actor == reference.actor => max_op,
                _ => {
                    let state = change.actor_at(reference.actor).and_then(|actor| self.clock.get(actor));
                    state.map_or(0, |state| state.max_op)
                }
            };
            last = Some((reference.actor, max_op));
            if reference.counter > max_op {
                dangling = Some(reference);
            }
        });
        match dangling {
            Some(reference) => {
                let message = format!(
                    "the change refers to an operation {} that its actor never made",
                    reference.counter
                );
                Err(Stop::refuse(ErrorCode::ChangeMalformed, message))
            }
            None => match self.ops.check(change) {
                Some(Unfit::Reference(wrong)) => {
                    let message = format!("an operation of the change does not fit the document: {wrong}");
                    Err(Stop::refuse(ErrorCode::ChangeMalformed, message))
                }
                Some(Unfit::Deep) => {
                    let message = format!(
                        "the change nests objects deeper than {OBJECT_DEPTH_MAX}, the document itself included: keep \
                         them side by side and refer to them by keys"
                    );
                    Err(Stop::refuse(ErrorCode::ChangeTooLarge, message))
                }
                None => Ok(()),
            },
        }
    }

    fn check_room(&self, change: &Change<'_>, before: Option<ActorState>) -> Result<(), Stop> {
        if self.admitted.seq - self.committed.seq >= PENDING_CHANGES_MAX as u64 {
            return Err(Stop::refuse(
                ErrorCode::Overloaded,
                "too many changes of this document wait for the disk",
            ));
        }
        if before.is_none() && self.clock.len() >= DOCUMENT_ACTORS_MAX {
            let message = format!("a document may have {DOCUMENT_ACTORS_MAX} actors");
            return Err(Stop::refuse(ErrorCode::DocumentTooLarge, message));
        }
        let is_head = |dep: ChangeHash| self.heads.binary_search_by(|head| head.hash.cmp(&dep)).is_ok();
        let adds_head = !change.deps.iter().any(is_head);
        if adds_head && self.heads.len() >= DOCUMENT_HEADS_MAX {
            let message = format!("a document may have {DOCUMENT_HEADS_MAX} heads: merge before you edit");
            return Err(Stop::refuse(ErrorCode::DocumentTooLarge, message));
        }
        Ok(())
    }

    fn insert(
        &mut self,
        index: usize,
        change: &Change<'_>,
        before: Option<ActorState>,
        pusher: Pusher<'_>,
        admitted: &mut Admitted,
    ) -> u64 {
        let (hash, max_op, seq) = (change.hash, change.max_op(), self.admitted.seq + 1);
        let last = if planted!(StaleChainHash) { self.committed.chain } else { self.admitted.chain };
        let chain = chain_next(&ChainHash(last), seq, &hash);
        let actor = change.actor_id();
        let owner = match before {
            Some(before) => before.owner,
            None => self.owners.of_first(change.actor, pusher.subject),
        };
        admitted.undo.clock.push((actor.clone(), before));
        if actor.as_bytes() == GENESIS_ACTOR {
            self.genesis = Some((hash, Bytes::copy_from_slice(change.bytes)));
            admitted.undo.genesis = true;
        }
        self.advance(
            actor,
            ActorState { seq: change.seq, hash, position: seq, max_op, owner },
            change.deps.iter(),
            chain,
        );
        self.ops.add(change, self.max_op);
        admitted.fresh.push(Fresh { index, seq, hash, chain, max_op });
        seq
    }

    /// Moves the admitted state over one change.
    pub(super) fn advance(
        &mut self,
        actor: ActorId,
        state: ActorState,
        deps: impl Iterator<Item = ChangeHash>,
        chain: ChainHash,
    ) {
        let deps: Box<[ChangeHash]> = deps.collect();
        for dep in &deps {
            if let Ok(at) = self.heads.binary_search_by(|head| head.hash.cmp(dep)) {
                self.heads.remove(at);
            }
        }
        let head = Head { hash: state.hash, max_op: state.max_op };
        let at = self.heads.partition_point(|other| other.hash < head.hash);
        self.heads.insert(at, head);
        self.max_op = self.max_op.max(state.max_op);
        self.window.push(state.hash, Found { seq: state.position, max_op: state.max_op }, deps);
        self.admitted = Cursor { epoch: self.admitted.epoch, seq: state.position, chain: chain.0 };
        self.clock.insert(actor, state);
    }

    /// The hashes that the log has to be asked about before this push can be decided: the one that admission
    /// stopped at, and as many as can be told now of those that it would stop at next.
    fn unknown(
        &self,
        stopped_at: ChangeHash,
        changes: &[Change<'_>],
        resolved: &Resolved,
    ) -> Vec<ChangeHash> {
        let own: BTreeSet<ChangeHash> = changes.iter().map(|change| change.hash).collect();
        // Never without this one, which may be open only behind other changes of the push: each question
        // has to bring the push closer to its end.
        let mut unknown = BTreeSet::from([stopped_at]);
        let is_open =
            |hash: &ChangeHash| self.window.get(hash).is_none() && self.answer(resolved, hash).is_none();
        for change in changes {
            if self.clock.get(change.actor).is_some_and(|state| change.seq <= state.seq) {
                unknown.extend(Some(change.hash).filter(is_open));
            }
            unknown.extend(
                change
                    .deps
                    .iter()
                    .filter(|dep| !own.contains(dep) && is_open(dep) && self.known(dep).is_none()),
            );
            if unknown.len() >= LOOKUPS_MAX {
                break;
            }
        }
        unknown.remove(&stopped_at);
        std::iter::once(stopped_at).chain(unknown).take(LOOKUPS_MAX).collect()
    }
}
