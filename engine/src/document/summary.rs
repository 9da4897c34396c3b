//! What a document begins with when a snapshot covers the beginning of its log: everything that admission has to
//! know of the changes before, so that opening it reads only what came since.
//!
//! Layout, little-endian: `u8 version | u64 epoch | u64 seq | chain × 32 | u64 max op | u64 log bytes |
//! u32 heads, each hash × 32, u64 max op | u32 subjects, each u16 length, subject | u32 actors, each u8 length,
//! actor, u64 seq, hash × 32, u64 position, u64 max op, u32 number of the subject that it belongs to, 0 for
//! nobody | u32 length of genesis | genesis`. Whoever stores it adds a checksum. Version 1 has no subjects.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use etherply_wire::kinds::Cursor;

use super::ops::Ops;
use super::owners::Owners;
use super::{
    ActorState, DOCUMENT_ACTORS_MAX, DOCUMENT_HEADS_MAX, Document, GENESIS_ACTOR, GENESIS_BYTES_MAX, Head,
    Owner, Window,
};
use crate::access::SUBJECT_BYTES_MAX;
use crate::change::{ActorId, ChangeHash, OP_COUNTER_MAX, SEQ_MAX};
use crate::ids::DocumentId;
use crate::snapshot::Snapshot;

/// Version of the summary's layout that this code writes.
pub const SUMMARY_VERSION: u8 = 2;
/// The version before there were subjects, which is read as well.
const WITHOUT_SUBJECTS: u8 = 1;

/// A document's snapshot, and what has to be known of the changes in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The snapshot; its cursor is the summary's.
    pub snapshot: Snapshot,
    /// What admission has to know.
    pub summary: Summary,
}

/// A document's state at a position of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The position, with its epoch and chain.
    pub cursor: Cursor,
    heads: Vec<Head>,
    clock: BTreeMap<ActorId, ActorState>,
    max_op: u64,
    log_bytes: u64,
    genesis: Option<Bytes>,
    owners: Owners,
}

impl Document {
    /// The state as it is now, `None` while something waits for the disk.
    pub fn summary(&self) -> Option<Summary> {
        self.is_settled().then(|| Summary {
            cursor: self.committed,
            heads: self.heads.clone(),
            clock: self.clock.clone(),
            max_op: self.max_op,
            log_bytes: self.log_bytes,
            genesis: self.genesis().cloned(),
            owners: self.owners.clone(),
        })
    }

    /// A document in the state that was written down.
    pub fn from_summary(id: DocumentId, summary: Summary) -> Self {
        let Summary { cursor, heads, clock, max_op, log_bytes, genesis, owners } = summary;
        let genesis = genesis.and_then(|bytes| Some((clock.get(&GENESIS_ACTOR[..])?.hash, bytes)));
        let window = Window::behind(cursor.seq);
        let (admitted, committed, start) = (cursor, cursor, Self::new(id, cursor.epoch));
        let ops = Ops::behind(max_op);
        Self { admitted, committed, heads, clock, max_op, log_bytes, window, ops, genesis, owners, ..start }
    }
}

impl Summary {
    /// The changes that nothing depends on.
    pub fn heads(&self) -> impl ExactSizeIterator<Item = &ChangeHash> {
        self.heads.iter().map(|head| &head.hash)
    }

    /// Bytes of all changes up to there.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// How many actors have written.
    pub fn actors(&self) -> usize {
        self.clock.len()
    }

    /// The summary's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![SUMMARY_VERSION];
        out.extend_from_slice(&self.cursor.epoch.to_le_bytes());
        out.extend_from_slice(&self.cursor.seq.to_le_bytes());
        out.extend_from_slice(&self.cursor.chain);
        out.extend_from_slice(&self.max_op.to_le_bytes());
        out.extend_from_slice(&self.log_bytes.to_le_bytes());
        put_count(&mut out, self.heads.len());
        for head in &self.heads {
            out.extend_from_slice(&head.hash.0);
            out.extend_from_slice(&head.max_op.to_le_bytes());
        }
        put_count(&mut out, self.owners.len());
        for subject in self.owners.iter() {
            // A subject has 256 bytes at the most.
            out.extend_from_slice(&u16::try_from(subject.len()).unwrap_or(u16::MAX).to_le_bytes());
            out.extend_from_slice(subject.as_bytes());
        }
        put_count(&mut out, self.clock.len());
        for (actor, state) in &self.clock {
            let actor = actor.as_bytes();
            // An actor has 64 bytes at the most.
            out.push(u8::try_from(actor.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(actor);
            out.extend_from_slice(&state.seq.to_le_bytes());
            out.extend_from_slice(&state.hash.0);
            out.extend_from_slice(&state.position.to_le_bytes());
            out.extend_from_slice(&state.max_op.to_le_bytes());
            out.extend_from_slice(&state.owner.number().to_le_bytes());
        }
        let genesis = self.genesis.as_deref().unwrap_or_default();
        put_count(&mut out, genesis.len());
        out.extend_from_slice(genesis);
        out
    }

    /// Reads [`Summary::encode`] back; `None` if it cannot be one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let [version] = take(&mut rest)?;
        let has_subjects = match version {
            SUMMARY_VERSION => true,
            WITHOUT_SUBJECTS => false,
            _ => return None,
        };
        let cursor =
            Cursor { epoch: take_u64(&mut rest)?, seq: take_u64(&mut rest)?, chain: take(&mut rest)? };
        let (max_op, log_bytes) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
        // What admission would never have let come about: counting on from there could overflow.
        (max_op <= OP_COUNTER_MAX && cursor.seq <= SEQ_MAX).then_some(())?;
        let heads = take_count(&mut rest, DOCUMENT_HEADS_MAX)?;
        let heads = (0..heads)
            .map(|_| Some(Head { hash: ChangeHash(take(&mut rest)?), max_op: take_u64(&mut rest)? }))
            .collect::<Option<Vec<_>>>()?;
        heads.is_sorted_by(|a, b| a.hash < b.hash).then_some(())?;
        let owners = if has_subjects { take_owners(&mut rest)? } else { Owners::default() };
        let actors = take_count(&mut rest, DOCUMENT_ACTORS_MAX)?;
        let mut clock = BTreeMap::new();
        for _ in 0..actors {
            let [len] = take(&mut rest)?;
            let (actor, behind) = rest.split_at_checked(usize::from(len))?;
            rest = behind;
            let state = ActorState {
                seq: take_u64(&mut rest)?,
                hash: ChangeHash(take(&mut rest)?),
                position: take_u64(&mut rest)?,
                max_op: take_u64(&mut rest)?,
                owner: if has_subjects {
                    Owner::from_number(u32::from_le_bytes(take(&mut rest)?), owners.len())?
                } else {
                    Owner::default()
                },
            };
            clock.insert(ActorId::from_slice(actor).ok()?, state).is_none().then_some(())?;
        }
        let genesis_bytes = take_count(&mut rest, GENESIS_BYTES_MAX)?;
        (rest.len() == genesis_bytes).then_some(())?;
        let genesis = (genesis_bytes > 0).then(|| Bytes::copy_from_slice(rest));
        Some(Self { cursor, heads, clock, max_op, log_bytes, genesis, owners })
    }
}

fn take_owners(rest: &mut &[u8]) -> Option<Owners> {
    let count = take_count(rest, DOCUMENT_ACTORS_MAX)?;
    let mut subjects: Vec<Arc<str>> = Vec::new();
    for _ in 0..count {
        let len = usize::from(u16::from_le_bytes(take(rest)?));
        let (subject, behind) = rest.split_at_checked(len).filter(|_| len <= SUBJECT_BYTES_MAX)?;
        *rest = behind;
        subjects.push(Arc::from(std::str::from_utf8(subject).ok()?));
    }
    Owners::from_subjects(subjects)
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // Heads, actors and the genesis have limits far below.
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*taken)
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

fn take_count(rest: &mut &[u8], max: usize) -> Option<usize> {
    let count = usize::try_from(u32::from_le_bytes(take(rest)?)).ok()?;
    (count <= max).then_some(count)
}
