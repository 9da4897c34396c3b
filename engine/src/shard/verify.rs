//! Admission that has each change held against the document itself before it is stored.
//!
//! What is admitted of a document in one turn is a *group*. From then on until it is durable, whatever else comes for
//! the document waits: nothing is built upon a change, and no answer tells of one, that may turn out to break the
//! document. What waited becomes the next group, so a busy document pays once for many changes.

use etherply_wire::ErrorCode;
use etherply_wire::kinds::Cursor;

use super::batch::{Entry, Listener, Pending};
use super::effect::Effect;
use super::hosted::{Hosted, Parked};
use super::input::PushRequest;
use super::push::Refusal;
use super::{STORAGE_RETRY_MS, Shard};
use crate::document::Document;
use crate::log::Append;
use crate::peer::{Now, Peer};
use crate::record::Record;

/// Why changes are not stored that were to be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unverified {
    /// The document breaks with one of them. Those before it are sound.
    Breaks {
        /// Its place among the records that were asked about.
        index: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The document would take more memory than it may.
    TooLarge {
        /// What to do about it.
        what: String,
    },
    /// The document cannot be had now.
    Unavailable {
        /// Why.
        why: String,
    },
}

impl Unverified {
    /// The record at fault, and what its author is told.
    fn refusal(self) -> (usize, Refusal) {
        let (at, code, retry_after_ms, message) = match self {
            Self::Breaks { index, what } => {
                let message = format!(
                    "the document would break with this change ({what}): drop it, and write what it meant anew under a \
                     fresh actor"
                );
                (index, ErrorCode::ChangeUnusable, 0, message)
            }
            Self::TooLarge { what } => (0, ErrorCode::DocumentTooLarge, 0, what),
            Self::Unavailable { why } => {
                let message =
                    format!("the change cannot be verified ({why}): keep it and push it again later");
                (0, ErrorCode::StorageUnavailable, STORAGE_RETRY_MS, message)
            }
        };
        (at, Refusal { index: 0, code, retry_after_ms, message })
    }
}

/// A group.
#[derive(Debug)]
pub(super) struct Verification {
    /// Its number, once it was asked about.
    asked: Option<u64>,
    /// The durable place that it follows.
    after: Cursor,
    records: Vec<Record>,
    /// What waits for it, pushes with what they need to be tried again.
    pub(super) entries: Vec<(Entry, Option<Parked>)>,
}

impl Hosted {
    /// Whether a push can be looked at now.
    pub(super) fn takes_pushes(&self, verifies: bool) -> bool {
        let is_free = || match &self.verification {
            Some(group) => group.asked.is_none(),
            None => self.document().is_none_or(Document::is_settled),
        };
        self.deletion.is_none() && (!verifies || is_free())
    }
}

impl Shard {
    /// The same shard, which has every change verified before it is stored: see [`Effect::Verify`].
    #[must_use]
    pub fn with_verification(mut self) -> Self {
        self.verifies = true;
        self
    }

    /// Puts an admitted push into its document's group, behind the durable place `after`.
    pub(super) fn hold(
        &mut self,
        handle: u32,
        after: Cursor,
        records: Vec<Record>,
        entry: Entry,
        again: Option<Parked>,
    ) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let group = hosted.verification.get_or_insert_with(|| Verification {
            asked: None,
            after,
            records: Vec::new(),
            entries: Vec::new(),
        });
        group.records.extend(records);
        group.entries.push((entry, again));
        self.held.insert(handle);
    }

    /// An answer that tells of all that was admitted: it waits for the document's group, if there is one.
    pub(super) fn answer_behind(&mut self, handle: u32, entry: Entry) {
        match self.hosted.get_mut(&handle).and_then(|hosted| hosted.verification.as_mut()) {
            Some(group) => group.entries.push((entry, None)),
            None => self.open_batch.entries.push(entry),
        }
    }

    /// Asks about the groups of this turn.
    pub(super) fn ask_verifications(&mut self, effects: &mut Vec<Effect>) {
        for &handle in &self.held {
            let Some(hosted) = self.hosted.get_mut(&handle) else { continue };
            let Some(group) = hosted.verification.as_mut().filter(|group| group.asked.is_none()) else {
                continue;
            };
            let number = self.next_verification;
            self.next_verification += 1;
            group.asked = Some(number);
            let (document, after, records) = (hosted.id.clone(), group.after, group.records.clone());
            effects.push(Effect::Verify { handle, number, document, after, records });
        }
    }

    /// A group was held against its document.
    pub(super) fn verified(
        &mut self,
        handle: u32,
        number: u64,
        result: Result<(), Unverified>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let is_asked = |group: &mut Verification| group.asked == Some(number);
        let Some(mut group) = hosted.verification.take_if(is_asked) else { return };
        self.held.remove(&handle);
        let Err(unverified) = result else { return self.store(handle, group) };
        let (at, mut refusal) = unverified.refusal();
        let (first, records_before) = entry_of(&group, at);
        let mut rest = group.entries.split_off(first).into_iter();
        group.records.truncate(records_before);
        for (entry, _) in rest.as_slice().iter().rev() {
            if let Entry::Push(pending) = entry {
                self.take_back(pending);
            }
        }
        if !group.entries.is_empty() {
            self.store(handle, group);
        }
        if let Some((Entry::Push(pending), Some(push))) = rest.next() {
            refusal.index = pending.admitted.fresh.get(at - records_before).map_or(0, |fresh| fresh.index);
            self.refuse_unverified(&pending, &push, refusal, effects);
        }
        for (entry, again) in rest.rev() {
            match (entry, again) {
                (Entry::Push(pending), Some(push)) => self.try_again(&pending, push, effects),
                (Entry::Clock(listener, _), _) => self.send_clock(listener),
                // A refusal does not wait in a group: it is not made while there is one.
                _ => {}
            }
        }
        self.resume(handle, now, effects);
        self.delete_if_settled(handle, effects);
    }

    /// What is sound goes to the disk.
    fn store(&mut self, handle: u32, group: Verification) {
        let Some(hosted) = self.hosted.get(&handle) else { return };
        if !group.records.is_empty() {
            let (document, epoch) = (hosted.id.clone(), group.after.epoch);
            self.open_batch.appends.push(Append { document, epoch, records: group.records });
        }
        self.open_batch.entries.extend(group.entries.into_iter().map(|(entry, _)| entry));
    }

    fn refuse_unverified(
        &mut self,
        pending: &Pending,
        push: &Parked,
        refusal: Refusal,
        effects: &mut Vec<Effect>,
    ) {
        let listener = &pending.pushed.listener;
        if self.listens(listener) {
            self.refuse(push.request(listener.peer, listener.handle), refusal, effects);
        } else {
            effects.push(Effect::Settle { peer: listener.peer, bytes: push.bytes });
        }
    }

    /// A push that was admitted behind one that is refused: it is looked at again, ahead of its stream's others.
    fn try_again(&mut self, pending: &Pending, push: Parked, effects: &mut Vec<Effect>) {
        let Listener { peer, handle, .. } = pending.pushed.listener;
        if !self.listens(&pending.pushed.listener) {
            effects.push(Effect::Settle { peer, bytes: push.bytes });
            return;
        }
        let stream = self.hosted.get_mut(&handle).and_then(|hosted| hosted.streams.get_mut(&peer));
        if let Some(stream) = stream {
            stream.parked.push_front(push);
        }
    }

    fn listens(&self, listener: &Listener) -> bool {
        self.hosted.get(&listener.handle).is_some_and(|hosted| hosted.listens(listener))
    }

    /// Looks at what waited for a group, if nothing of the document is under way any more.
    pub(super) fn resume(&mut self, handle: u32, now: Now, effects: &mut Vec<Effect>) {
        let Some(hosted) = self.hosted.get(&handle) else { return };
        let waits = |peer: &Peer| hosted.streams.get(peer).is_some_and(|stream| !stream.parked.is_empty());
        let peers: Vec<Peer> = hosted.streams.keys().filter(|peer| waits(peer)).copied().collect();
        for peer in peers {
            self.take_parked(handle, peer, now, effects);
        }
    }

    /// Looks at what waited in documents whose last changes have become durable.
    pub(super) fn resume_settled(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for handle in std::mem::take(&mut self.resumable) {
            self.contained(handle, effects, |shard, effects| shard.resume(handle, now, effects));
        }
    }

    /// Looks at everything that waits, of whatever document.
    pub(super) fn resume_all(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.resumable = self.hosted.keys().copied().collect();
        self.resume_settled(now, effects);
    }

    /// Storage failed: the groups' entries, to be given up.
    pub(super) fn drop_groups(&mut self) -> Vec<Entry> {
        let handles = std::mem::take(&mut self.held);
        let group_of = |handle: &u32| self.hosted.get_mut(handle)?.verification.take();
        let groups = handles.iter().filter_map(group_of);
        groups.flat_map(|group| group.entries).map(|(entry, _)| entry).collect()
    }
}

/// The entry that a group's record came with, and how many records came before that entry's.
fn entry_of(group: &Verification, record: usize) -> (usize, usize) {
    let mut before = 0;
    for (at, (entry, _)) in group.entries.iter().enumerate() {
        let Entry::Push(pending) = entry else { continue };
        let records = pending.admitted.fresh.len();
        if record < before + records {
            return (at, before);
        }
        before += records;
    }
    (0, 0)
}

impl Parked {
    /// The push.
    pub(super) fn request(&self, peer: Peer, handle: u32) -> PushRequest<'_> {
        let Self { push, generation, lengths, changes, .. } = self;
        PushRequest { peer, handle, push: *push, generation: *generation, lengths, changes }
    }
}
