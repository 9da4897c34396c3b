//! One line of a history: who changed what when.

use etherply_engine::log::LogError;
use serde::Serialize;

use super::HistoryError;
use super::timeline::Timeline;
use crate::materialise::replica::Replica;
use crate::storage::Reader;

/// Most changes that one page of a history lists.
pub const ENTRIES_PER_PAGE_MAX: usize = 1_000;

/// A change, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its position in the document's log.
    pub position: u64,
    /// Its hash, in hexadecimal.
    pub hash: String,
    /// The actor that wrote it, in hexadecimal.
    pub author: String,
    /// Its number among that actor's changes.
    pub author_seq: u64,
    /// The subject whose connection brought it; empty for an anonymous one.
    pub pusher: String,
    /// When the server took it, in milliseconds since 1970.
    pub time_ms: u64,
    /// When its author says that it was made, in seconds since 1970; 0 if the author does not say.
    pub author_time_s: i64,
    /// What its author says of it.
    pub message: Option<String>,
    /// How many operations it has.
    pub operations: u64,
}

/// A page of entries behind a position.
pub fn entries(
    replica: &Replica,
    reader: &Reader,
    timeline: &Timeline,
    after: u64,
    count_max: usize,
) -> Result<Vec<Entry>, HistoryError> {
    let (document, cursor) = (replica.document(), replica.cursor());
    let through = cursor.seq.min(after.saturating_add(count_max as u64));
    let mut page = Vec::new();
    let mut at = after;
    while at < through {
        let records = reader.index(document, cursor.epoch, at, through, ENTRIES_PER_PAGE_MAX)?;
        if records.is_empty() {
            return Err(LogError::damaged(document, at + 1, "the log ends before the document does").into());
        }
        for record in records {
            at = record.seq;
            let hash = timeline.at(at);
            let meta = hash.and_then(|hash| replica.automerge().get_change_meta_by_hash(&hash));
            let meta = meta.ok_or_else(|| HistoryError::Automerge {
                document: document.clone(),
                action: "describe a change",
                what: format!("the change at position {at} is not in the document"),
            })?;
            page.push(Entry {
                position: at,
                hash: meta.hash.to_string(),
                author: meta.actor.to_hex_string(),
                author_seq: meta.seq,
                pusher: record.pusher.to_string(),
                time_ms: record.time_ms,
                author_time_s: meta.timestamp,
                message: meta.message.as_deref().map(str::to_owned),
                operations: (meta.max_op + 1).saturating_sub(meta.start_op),
            });
        }
    }
    Ok(page)
}
