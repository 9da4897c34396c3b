//! Deleting a document for good: what is under way for it is finished, a tombstone is stored, then all who have
//! it open are told.
//!
//! Nobody is told before the tombstone is durable: a client that hears of it may throw away what it has. Until
//! then pushes and opens wait. They go on if the tombstone cannot be stored.

use etherply_wire::ErrorCode;

use super::Shard;
use super::effect::Effect;
use super::hosted::{Hosted, State};
use crate::document::Document;
use crate::ids::DocumentId;
use crate::log::{Deleted, LogError};
use crate::peer::{Now, Peer};

/// Most requests to delete one document that wait for its tombstone.
pub const DELETIONS_WAITING_MAX: usize = 64;

const MESSAGE: &str = "the document was deleted for good: keep what you need of your copy under another name";

/// A deletion that is under way.
#[derive(Debug, Default)]
pub(super) struct Deletion {
    /// Who asked for it.
    tokens: Vec<u64>,
    /// The tombstone is being stored.
    asked: bool,
}

impl Shard {
    pub(super) fn delete(&mut self, document: &DocumentId, token: u64, effects: &mut Vec<Effect>) {
        let answer = |why: &str| {
            let result = Err(LogError::Unavailable { why: why.to_owned() });
            Effect::DeletionAnswered { token, result }
        };
        if let Some(why) = &self.storage_failure {
            effects.push(answer(why));
            return;
        }
        let handle = self.host(document, effects);
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let deletion = hosted.deletion.get_or_insert_default();
        if deletion.tokens.len() >= DELETIONS_WAITING_MAX {
            effects.push(answer("too many requests to delete this document wait already"));
            return;
        }
        deletion.tokens.push(token);
        self.delete_if_settled(handle, effects);
    }

    /// Has the tombstone stored as soon as nothing of the document is on its way to the disk.
    pub(super) fn delete_if_settled(&mut self, handle: u32, effects: &mut Vec<Effect>) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        if !hosted.document().is_some_and(Document::is_settled) {
            return;
        }
        self.ask_deletion(handle, effects);
    }

    fn ask_deletion(&mut self, handle: u32, effects: &mut Vec<Effect>) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        if let Some(deletion) = hosted.deletion.as_mut().filter(|deletion| !deletion.asked) {
            deletion.asked = true;
            effects.push(Effect::Delete { document: hosted.id.clone() });
        }
    }

    /// A document that is to be deleted cannot be read. Whether it is kept in memory until its tombstone is stored.
    pub(super) fn delete_unread(&mut self, handle: u32, error: &LogError, effects: &mut Vec<Effect>) -> bool {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return false };
        if hosted.deletion.is_none() {
            return false;
        }
        let result = match error {
            LogError::Deleted { .. } => Ok(Deleted::Before),
            LogError::Unavailable { .. } => Err(error.clone()),
            // What is damaged can be deleted as well.
            _ => {
                self.ask_deletion(handle, effects);
                return true;
            }
        };
        answer(hosted, &result, effects);
        false
    }

    /// Storage has failed: what was not asked of it will not be done. What was, it answers itself.
    pub(super) fn deletions_failed(&mut self, effects: &mut Vec<Effect>) {
        let why = self.storage_failure.clone().unwrap_or_default();
        for hosted in self.hosted.values_mut() {
            if hosted.deletion.as_ref().is_some_and(|deletion| !deletion.asked) {
                answer(hosted, &Err(LogError::Unavailable { why: why.clone() }), effects);
            }
        }
    }

    /// The tombstone is durable, or is not.
    pub(super) fn deleted(
        &mut self,
        handle: u32,
        result: &Result<Deleted, LogError>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(hosted) = self.hosted.get_mut(&handle).filter(|hosted| hosted.deletion.is_some()) else {
            return;
        };
        answer(hosted, result, effects);
        let result = if planted!(DeletionNotTold) { &Ok(Deleted::Absent) } else { result };
        let is_ready = matches!(hosted.state, State::Ready(_));
        match result {
            Ok(Deleted::Now | Deleted::Before) => {
                let error = LogError::Deleted { document: hosted.id.clone() };
                self.refuse_waiting(handle, &error, effects);
                let hosted = self.hosted.get(&handle);
                let peers: Vec<Peer> =
                    hosted.into_iter().flat_map(|hosted| hosted.streams.keys()).copied().collect();
                for peer in peers {
                    self.end_stream(peer, handle, ErrorCode::DocumentDeleted, MESSAGE, now, effects);
                }
                self.forget(handle);
            }
            Ok(Deleted::Absent) | Err(_) if is_ready => self.go_on(handle, now, effects),
            // It could not be read, and could not be deleted either.
            Ok(Deleted::Absent) => self.forget(handle),
            Err(error) => {
                self.refuse_waiting(handle, error, effects);
                self.forget(handle);
            }
        }
    }

    /// What waited for a deletion goes on.
    fn go_on(&mut self, handle: u32, now: Now, effects: &mut Vec<Effect>) {
        self.admit_waiting(handle, effects);
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        if hosted.is_unused() {
            hosted.idle_since_us = now.mono_us;
            self.idle.push_back((now.mono_us, handle));
            return;
        }
        let peers: Vec<Peer> = hosted.streams.keys().copied().collect();
        for peer in peers {
            self.take_parked(handle, peer, now, effects);
        }
    }
}

/// Tells those who asked for a deletion what became of it.
fn answer(hosted: &mut Hosted, result: &Result<Deleted, LogError>, effects: &mut Vec<Effect>) {
    for token in hosted.deletion.take().unwrap_or_default().tokens {
        effects.push(Effect::DeletionAnswered { token, result: result.clone() });
    }
}
