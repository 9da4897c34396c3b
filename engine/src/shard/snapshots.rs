//! When a document's snapshot is cut, and what becomes of it.

use super::Shard;
use super::effect::Effect;
use crate::feed::FeedEvent;
use crate::log::LogError;
use crate::snapshot::{Snapshot, is_due};

/// A document's snapshot, as its home knows it.
#[derive(Debug, Default)]
pub(super) struct SnapshotState {
    pub(super) latest: Option<Snapshot>,
    /// One is being cut.
    is_cutting: bool,
    /// After a failure, none is cut before the log has so many bytes.
    not_before_bytes: u64,
}

impl SnapshotState {
    pub(super) fn new(latest: Option<Snapshot>) -> Self {
        Self { latest, ..Self::default() }
    }
}

impl Shard {
    /// Has a snapshot cut if the log has grown enough since the last one.
    pub(super) fn cut_if_due(&mut self, handle: u32, effects: &mut Vec<Effect>) {
        let after_bytes = self.budget.snapshot_after_bytes;
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let Some((log_bytes, through)) =
            hosted.document().map(|document| (document.log_bytes(), document.committed()))
        else {
            return;
        };
        let admitted = hosted.document().map(|document| document.admitted());
        let through = admitted.filter(|_| planted!(SnapshotPastDurable)).unwrap_or(through);
        let state = &mut hosted.snapshot;
        let may_cut = !state.is_cutting && log_bytes >= state.not_before_bytes;
        if may_cut && is_due(log_bytes, state.latest.as_ref(), after_bytes) {
            state.is_cutting = true;
            effects.push(Effect::CutSnapshot { handle, document: hosted.id.clone(), through });
        }
    }

    /// A snapshot is there, or could not be cut.
    pub(super) fn snapshot_cut(
        &mut self,
        handle: u32,
        result: Result<Snapshot, LogError>,
        effects: &mut Vec<Effect>,
    ) {
        let after_bytes = self.budget.snapshot_after_bytes;
        let Some(hosted) = self.hosted.get_mut(&handle).filter(|hosted| hosted.snapshot.is_cutting) else {
            return;
        };
        hosted.snapshot.is_cutting = false;
        let log_bytes = hosted.document().map_or(0, |document| document.log_bytes());
        match result {
            Ok(snapshot) => {
                self.take_snapshot(handle, snapshot, effects);
                // What was written while it was cut may be due already, and nothing may follow it.
                self.cut_if_due(handle, effects);
            }
            // It is tried again when the log has grown by as much once more.
            Err(_) => hosted.snapshot.not_before_bytes = log_bytes + after_bytes,
        }
    }

    fn take_snapshot(&mut self, handle: u32, latest: Snapshot, effects: &mut Vec<Effect>) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        hosted.snapshot.latest = Some(latest);
        for &core in hosted.cores.keys() {
            effects.push(Effect::Publish { core, handle, event: FeedEvent::Snapshot(latest) });
        }
    }
}
