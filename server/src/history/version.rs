//! Named versions of a document's history: made from it, shown by name, compared and brought back.
//!
//! A version is a file of its own (see [`crate::storage::versions`]), so it can be shown whatever became of the
//! document. To compare or bring one back, the document has to have its changes still: after a squash it has not.

use automerge::{Automerge, ChangeHash};
use etherply_engine::ids::DocumentId;
use serde_json::Value;

use super::{At, History, HistoryError, deep, guarded, json};
use crate::storage::versions::{Version, Versions};

impl History {
    /// Gives the document's state at a point a name. `time_ms` is now, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`HistoryError`]; [`HistoryError::Version`] if the name is taken or none, or there are too many.
    pub fn create_version(
        &self,
        versions: &Versions,
        name: &str,
        at: &At,
        time_ms: u64,
    ) -> Result<Version, HistoryError> {
        let heads = self.heads(at)?;
        let position = match at {
            At::Position(position) => *position,
            At::Heads(_) => self.last_position_of(&heads),
        };
        let version = Version {
            document: self.document().to_string(),
            name: name.to_owned(),
            epoch: self.epoch(),
            position,
            heads: heads.iter().map(ToString::to_string).collect(),
            time_ms,
            bytes: 0,
            checksum: String::new(),
        };
        Ok(versions.create(self.document(), version, &self.automerge(at)?)?)
    }

    /// Where a version stands in this history.
    ///
    /// # Errors
    /// [`HistoryError::VersionElsewhere`]: the document does not have its changes any more.
    pub fn at_version(&self, version: &Version) -> Result<At, HistoryError> {
        let parsed: Option<Vec<ChangeHash>> = version.heads.iter().map(|head| head.parse().ok()).collect();
        let heads = parsed.filter(|heads| heads.iter().all(|head| self.timeline.position(head).is_some()));
        heads.map(At::Heads).ok_or_else(|| HistoryError::VersionElsewhere {
            document: self.document().clone(),
            name: version.name.clone(),
            epoch: version.epoch,
        })
    }

    pub(super) fn last_position_of(&self, heads: &[ChangeHash]) -> u64 {
        heads.iter().filter_map(|head| self.timeline.position(head)).max().unwrap_or(0)
    }
}

/// A version's document as JSON, as [`History::json`] has it.
///
/// # Errors
/// [`HistoryError`]
pub fn version_json(
    versions: &Versions,
    document: &DocumentId,
    version: &Version,
) -> Result<Value, HistoryError> {
    let bytes = versions.read(document, version)?;
    let action = "load it";
    let automerge = guarded(document, action, || Automerge::load(&bytes))?;
    let automerge = automerge.map_err(|error| HistoryError::Automerge {
        document: document.clone(),
        action,
        what: error.to_string(),
    })?;
    let heads = automerge.get_heads();
    deep(document, &automerge, "read it", &[&heads], || json::value(&automerge.hydrate(None)))
}
