//! What must be true at every moment: the ledger of acks, and what may leave the server.

use std::collections::{BTreeMap, BTreeSet};

use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::ChangeHash;
use etherply_engine::feed::{FeedEvent, Known, MemberStart, StartAt};
use etherply_engine::ids::{ChainHash, DocumentId};
use etherply_engine::log::LogReader;
use etherply_engine::record::Record;
use etherply_engine::segment::{TAIL_BYTES_MAX, Tail};
use etherply_engine::shard::Effect;
use etherply_wire::kinds::{Ack, Changes, ClockEntry, Cursor, Opened, Reconcile, Refused, Snapshot, resume};
use etherply_wire::{ErrorCode, Kind, Rights};

use crate::disk::Disk;
use crate::frames::{body, parse, split};
use crate::rights::Ends;

/// What one member was sent on one stream.
#[derive(Debug, Default)]
struct Sent {
    document: Option<DocumentId>,
    through_seq: u64,
    acked: BTreeMap<u64, u64>,
    known: Option<Known>,
    broadcast_index: u64,
    /// The snapshot that it is being sent, and how much of it.
    snapshot: Option<(Cursor, u64)>,
    rights: Rights,
    /// Generations of which a push was refused.
    refused: BTreeSet<u32>,
}

/// Everything that is remembered to be compared.
#[derive(Debug, Default)]
pub struct Checker {
    /// Every acked change and its position.
    ledger: BTreeMap<(DocumentId, [u8; 32]), u64>,
    /// By link and handle.
    sent: BTreeMap<(u64, u32), Sent>,
    /// Who sent a broadcast, by life of the server, handle and index.
    broadcasts: BTreeMap<(u64, u32, u64), (u16, u64)>,
    /// The last broadcast that a core was told, by life, core and handle.
    broadcast_index: BTreeMap<(u64, u16, u32), u64>,
    /// Documents by handle in this life.
    documents: BTreeMap<(u64, u32), DocumentId>,
    /// Cursors that came with opens, by link and request.
    cursors: BTreeMap<(u64, u32), Cursor>,
    /// Documents of which an operator was told that they are deleted.
    deleted: BTreeSet<DocumentId>,
    /// Changes that were taken out of their documents.
    excluded: BTreeSet<(DocumentId, [u8; 32])>,
    /// Rights that end.
    pub(crate) ends: Ends,
    /// How much was checked.
    pub acks: u64,
    /// How many changes were sent to members.
    pub deliveries: u64,
}

impl Checker {
    /// The server knows a document by this handle.
    pub fn loading(&mut self, life: u64, handle: u32, document: &DocumentId) {
        self.documents.insert((life, handle), document.clone());
    }

    /// A feed begins on a core.
    pub fn feed_started(
        &mut self,
        life: u64,
        core: u16,
        handle: u32,
        index: u64,
        tail: &Tail,
    ) -> Result<(), String> {
        self.broadcast_index.insert((life, core, handle), index);
        let bytes: usize = tail.segments().map(|segment| segment.frame.len()).sum();
        if bytes > TAIL_BYTES_MAX && tail.segments().count() > 1 {
            return Err(format!("a tail of {bytes} bytes"));
        }
        Ok(())
    }

    /// A core was told something.
    pub fn published(&mut self, life: u64, core: u16, handle: u32, event: &FeedEvent) {
        if let FeedEvent::Broadcast(sent) = event {
            self.broadcasts.insert((life, handle, sent.index), (sent.from.core, sent.from.id));
            self.broadcast_index.insert((life, core, handle), sent.index);
        }
    }

    /// What a home decides.
    pub fn effect(&self, life: u64, effect: &Effect, disk: &Disk) -> Result<(), String> {
        match effect {
            Effect::Attach(attach) => match self.documents.get(&(life, attach.handle)) {
                Some(document) if self.deleted.contains(document) => {
                    Err(format!("{document} is opened, and was deleted"))
                }
                _ => Ok(()),
            },
            Effect::Commit { appends, .. } => match appends.iter().find(|a| disk.is_deleted(&a.document)) {
                Some(append) => Err(format!("{} is written, and was deleted", append.document)),
                None => Ok(()),
            },
            Effect::CutSnapshot { document, through, .. } => {
                let durable = disk.records_of(document, through.epoch).len() as u64;
                if through.seq > durable {
                    return Err(format!("a snapshot through {} of {document}: {durable}", through.seq));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What a home decides about rights.
    pub fn effect_on_rights(&mut self, life: u64, effect: &Effect, wall_ms: u64) -> Result<(), String> {
        let document = match effect {
            Effect::Attach(attach) => self.documents.get(&(life, attach.handle)),
            Effect::Reply { handle, .. } => self.documents.get(&(life, *handle)),
            _ => None,
        };
        self.ends.effect(effect, document, wall_ms)
    }

    /// A member asks for a document, from this place on.
    pub fn opening(&mut self, link: u64, request: u32, cursor: Option<Cursor>) {
        self.cursors.extend(cursor.map(|cursor| ((link, request), cursor)));
    }

    /// Whoever comes from before a document began anew throws away what it has; nobody else does.
    fn opened(&self, link: u64, document: &DocumentId, opened: &Opened, disk: &Disk) -> Result<(), String> {
        let Some(cursor) = self.cursors.get(&(link, opened.request)) else { return Ok(()) };
        let reset_epoch = disk.log.past(document).map_or(0, |past| past.reset_epoch);
        // One that was decided before that is still under way.
        if opened.cursor.epoch < reset_epoch {
            return Ok(());
        }
        let (is_reset, from) = (opened.resume == resume::RESET, cursor.epoch);
        if is_reset == (from < reset_epoch) {
            return Ok(());
        }
        Err(format!("{document} began anew in epoch {reset_epoch}; reset from epoch {from}: {is_reset}"))
    }

    /// An operator was told that a document is deleted.
    pub fn deleted(&mut self, document: &DocumentId) {
        self.deleted.insert(document.clone());
    }

    /// A document's tombstone is stored: nothing is owed of it any more.
    pub fn tombstone(&mut self, document: &DocumentId) {
        self.ledger.retain(|(other, _), _| other != document);
    }

    /// A document began anew without these changes. The others stand elsewhere now.
    pub fn excluded(&mut self, document: &DocumentId, gone: Vec<ChangeHash>, disk: &Disk) {
        for hash in gone {
            self.ledger.remove(&(document.clone(), hash.0));
            self.excluded.insert((document.clone(), hash.0));
        }
        let epoch = disk.epoch_of(document);
        for ((_, hash), position) in self.ledger.iter_mut().filter(|((other, _), _)| other == document) {
            if let Ok(Some(found)) = disk.find(document, epoch, &ChangeHash(*hash)) {
                *position = found.seq;
            }
        }
    }

    /// A member begins.
    pub fn attached(&mut self, life: u64, core: u16, link: u64, handle: u32, member: &MemberStart) {
        let sent = Sent {
            document: self.documents.get(&(life, handle)).cloned(),
            through_seq: if let StartAt::Position(seq) = member.at { seq } else { 0 },
            rights: member.rights,
            broadcast_index: self.broadcast_index.get(&(life, core, handle)).copied().unwrap_or(0),
            ..Sent::default()
        };
        self.sent.insert((link, handle), sent);
    }

    /// A member begins anew, with what it has.
    pub fn reconciled(&mut self, link: u64, handle: u32, known: &Known) {
        if let Some(sent) = self.sent.get_mut(&(link, handle)) {
            sent.through_seq = 0;
            sent.known = Some(known.clone());
        }
    }

    /// A frame leaves the server.
    pub fn outgoing(&mut self, life: u64, link: u64, bytes: &[u8], disk: &Disk) -> Result<(), String> {
        let frame = parse(bytes)?;
        let key = (link, frame.stream());
        let document = self.documents.get(&(life, frame.stream())).cloned();
        let needed = match frame.kind() {
            Some(Kind::Changes | Kind::Snapshot) => Rights::READ,
            Some(Kind::Ack) => Rights::WRITE,
            Some(Kind::PresenceUpdate | Kind::PresenceLeave | Kind::Broadcast | Kind::BroadcastGap) => {
                Rights::PRESENCE
            }
            _ => Rights::default(),
        };
        if self.sent.get(&key).is_some_and(|sent| !sent.rights.has(needed)) {
            return Err(format!("{:?} for a member without the right to it", frame.kind()));
        }
        match frame.kind() {
            Some(Kind::Changes) => self.changes(key, &body(&frame)?, frame.tail(), disk),
            Some(Kind::Snapshot) => self.snapshot(key, &body(&frame)?, frame.tail(), disk),
            Some(Kind::Ack) => self.ack(key, &body(&frame)?, disk),
            Some(Kind::Opened) => match document {
                Some(document) => self.opened(link, &document, &body(&frame)?, disk),
                None => Err("an answer for no document".to_owned()),
            },
            Some(Kind::Refused) => {
                let refused: Refused = body(&frame)?;
                let Some(document) = document else { return Err("a refusal for no document".to_owned()) };
                let is_of_storage = refused.code == ErrorCode::StorageUnavailable as u16;
                let generation = refused.generation;
                if let Some(sent) = self.sent.get_mut(&key).filter(|_| !is_of_storage)
                    && !sent.refused.insert(generation)
                {
                    return Err(format!("generation {generation} of {document} is refused twice"));
                }
                let is_stored = disk.was_stored(&document, |record| record.change == frame.tail());
                if !frame.tail().is_empty() && !is_stored {
                    return Err(format!("a refusal gives away a genesis of {document} that is not durable"));
                }
                clock_is_durable(&document, &refused.clock, disk)
            }
            Some(Kind::Reconcile) => {
                let part: Reconcile = body(&frame)?;
                let Some(document) = document else { return Err("a clock of no document".to_owned()) };
                clock_is_durable(&document, &part.clock, disk)
            }
            _ => Ok(()),
        }
    }

    fn snapshot(
        &mut self,
        key: (u64, u32),
        piece: &Snapshot,
        tail: &[u8],
        disk: &Disk,
    ) -> Result<(), String> {
        let Some(sent) = self.sent.get_mut(&key) else {
            return Err("a snapshot without a member".to_owned());
        };
        let Some(document) = &sent.document else { return Err("a snapshot of no document".to_owned()) };
        let through = piece.cursor.seq;
        let what = format!("the snapshot of {document} through {through} at {}", piece.offset);
        // Whoever has something already is sent one only if the log behind that is gone.
        let gone = disk.snapshots.get(document).map_or(u64::MAX, |(snapshot, _)| snapshot.log_after_seq);
        if sent.through_seq > 0 && sent.through_seq >= gone {
            return Err(format!("{what} is sent after changes through {}", sent.through_seq));
        }
        let have = sent.snapshot.filter(|(cursor, _)| *cursor == piece.cursor).map_or(0, |(_, bytes)| bytes);
        if piece.offset != 0 && piece.offset != have {
            return Err(format!("{what} follows {have}"));
        }
        let records = disk.records_of(document, piece.cursor.epoch);
        let covered = records.get(..usize::try_from(through).unwrap_or(usize::MAX));
        let Some(covered) = covered.filter(|covered| !covered.is_empty()) else {
            return Err(format!("{what} covers what is not durable"));
        };
        if covered.last().is_none_or(|last| last.chain.0 != piece.cursor.chain) {
            return Err(format!("{what} has another chain than the log"));
        }
        if !is_part(covered, piece, tail) {
            return Err(format!("{what} is not what the log has"));
        }
        let end = piece.offset + tail.len() as u64;
        sent.snapshot = Some((piece.cursor, end));
        if end == piece.total_bytes {
            sent.through_seq = through;
            self.deliveries += through;
        }
        Ok(())
    }

    fn changes(
        &mut self,
        key: (u64, u32),
        changes: &Changes,
        tail: &[u8],
        disk: &Disk,
    ) -> Result<(), String> {
        let Some(sent) = self.sent.get_mut(&key) else { return Err("changes without a member".to_owned()) };
        let Some(document) = &sent.document else { return Err("changes of no document".to_owned()) };
        let (after, through) = (changes.after_seq, changes.cursor.seq);
        let range = format!("({after}, {through}] of {document}");
        if after < sent.through_seq {
            return Err(format!("{range} is sent after {} was", sent.through_seq));
        }
        let own = |from: u64, to: u64| -> u64 {
            sent.acked.range(from..to).map(|(after, through)| through.min(&to) - after).sum()
        };
        if after - sent.through_seq != own(sent.through_seq, after) {
            return Err(format!("{range} leaves out positions after {}", sent.through_seq));
        }
        let records = disk.records_of(document, changes.cursor.epoch);
        let Some(last) = through.checked_sub(1).and_then(|at| records.get(usize::try_from(at).ok()?)) else {
            return Err(format!("{range} is sent before it is durable"));
        };
        if last.chain.0 != changes.cursor.chain {
            return Err(format!("{range} has another chain than the log"));
        }
        let mut expected = records.iter().skip(usize::try_from(after).unwrap_or(usize::MAX));
        let carried = split(tail, &changes.lengths)?;
        self.deliveries += carried.len() as u64;
        let mut skipped = 0;
        for change in &carried {
            let found = expected.by_ref().position(|record| record.change == *change);
            skipped += found.ok_or_else(|| format!("{range} carries a change that does not stand there"))?;
        }
        let omitted = through - after - carried.len() as u64;
        if (skipped > 0 || omitted > 0) && sent.known.is_none() {
            return Err(format!("{range} leaves out {omitted} changes"));
        }
        sent.through_seq = through;
        Ok(())
    }

    fn ack(&mut self, key: (u64, u32), ack: &Ack, disk: &Disk) -> Result<(), String> {
        self.acks += 1;
        let Some(sent) = self.sent.get_mut(&key) else { return Err("an ack without a member".to_owned()) };
        let Some(document) = &sent.document else { return Err("an ack of no document".to_owned()) };
        let durable = disk.records_of(document, ack.cursor.epoch).len() as u64;
        let highest = ack.positions.iter().copied().max().unwrap_or(0).max(ack.cursor.seq);
        if highest > durable {
            return Err(format!("position {highest} of {document} is acked, {durable} are durable"));
        }
        if ack.cursor.seq > ack.after_seq {
            sent.acked.insert(ack.after_seq, ack.cursor.seq);
        }
        Ok(())
    }

    /// A client received a broadcast, or the notice of a gap.
    pub fn broadcasts(
        &mut self,
        life: u64,
        link: u64,
        peer: (u16, u64),
        handle: u32,
        first: u64,
        last: u64,
    ) -> Result<(), String> {
        let Some(sent) = self.sent.get_mut(&(link, handle)) else {
            return Err("a stray broadcast".to_owned());
        };
        if first <= sent.broadcast_index {
            return Err(format!("broadcast {first} came after {}", sent.broadcast_index));
        }
        for index in sent.broadcast_index + 1..first {
            if self.broadcasts.get(&(life, handle, index)) != Some(&peer) {
                return Err(format!("broadcast {index} was left out without a word"));
            }
        }
        sent.broadcast_index = last;
        Ok(())
    }

    /// A client received an ack, in an epoch of the document.
    pub fn acked(
        &mut self,
        document: &DocumentId,
        epoch: u64,
        changes: &[([u8; 32], u64)],
        disk: &Disk,
    ) -> Result<(), String> {
        for (hash, position) in changes {
            let at = usize::try_from(position.saturating_sub(1)).unwrap_or(usize::MAX);
            match disk.records_of(document, epoch).get(at) {
                Some(record) if record.hash == ChangeHash(*hash) => {}
                _ => return Err(format!("a change of {document} is acked at {position}, and is not there")),
            }
            self.owe(document, *hash, *position, epoch, disk);
        }
        Ok(())
    }

    /// A production client received an ack, which does not say where a change stands.
    pub fn acked_somewhere(
        &mut self,
        document: &DocumentId,
        hash: [u8; 32],
        disk: &Disk,
    ) -> Result<(), String> {
        if !disk.has(document, hash) {
            return Err(format!("a change of {document} is acked, and is not there"));
        }
        self.owe(document, hash, 0, 0, disk);
        Ok(())
    }

    /// An acked change is not to be lost, unless it went on purpose meanwhile.
    fn owe(&mut self, document: &DocumentId, hash: [u8; 32], position: u64, epoch: u64, disk: &Disk) {
        let key = (document.clone(), hash);
        if disk.is_deleted(document) || self.excluded.contains(&key) {
            return;
        }
        let now = disk.epoch_of(document);
        let found = disk.find(document, now, &ChangeHash(hash)).ok().flatten();
        let position = if epoch == now { position } else { found.map_or(position, |found| found.seq) };
        self.ledger.insert(key, position);
    }

    /// An operator put an older copy back: what it lacks is not the server's loss.
    pub fn restored(&mut self, document: &DocumentId, through_seq: u64) {
        self.ledger.retain(|(other, _), position| other != document || *position <= through_seq);
    }

    /// Every acked change is where the ack said, and the chain is whole.
    pub fn ledger(&self, disk: &Disk) -> Result<(), String> {
        for ((document, hash), position) in &self.ledger {
            let at = usize::try_from(position.saturating_sub(1)).unwrap_or(usize::MAX);
            if disk.records(document).get(at).is_none_or(|record| record.hash.0 != *hash) {
                return Err(format!("an acked change of {document} at {position} is lost"));
            }
        }
        for (document, hash) in &self.excluded {
            if disk.records(document).iter().any(|record| record.hash.0 == *hash) {
                return Err(format!("a change that was taken out of {document} is there again"));
            }
        }
        match self.deleted.iter().find(|document| !disk.is_deleted(document)) {
            Some(document) => Err(format!("{document} was deleted, and its tombstone is gone")),
            None => Ok(()),
        }
    }
}

fn clock_is_durable(document: &DocumentId, clock: &[ClockEntry], disk: &Disk) -> Result<(), String> {
    for entry in clock {
        if !disk.has(document, entry.hash) {
            return Err(format!("a clock of {document} names a change that is not durable: {}", entry.seq));
        }
    }
    Ok(())
}

/// Whether a piece of a snapshot, which is made of whole changes one behind the other, is what these records have
/// there.
fn is_part(covered: &[Record], piece: &Snapshot, tail: &[u8]) -> bool {
    let (mut begins, mut rest) = (0, tail);
    for record in covered {
        let change = &record.change[..];
        let from = usize::try_from(piece.offset.saturating_sub(begins)).unwrap_or(usize::MAX);
        if let Some(part) = change.get(from..) {
            let part = &part[..part.len().min(rest.len())];
            let Some(behind) = rest.strip_prefix(part) else { return false };
            rest = behind;
        }
        begins += change.len() as u64;
    }
    !tail.is_empty() && rest.is_empty() && begins == piece.total_bytes
}

/// Walks the chain of a document's records.
pub fn chain(document: &DocumentId, epoch: u64, disk: &Disk) -> Result<ChainHash, String> {
    let mut chain = chain_start(document, epoch);
    for (seq, record) in (1..).zip(disk.records(document)) {
        chain = chain_next(&chain, seq, &record.hash);
        if record.seq != seq || record.chain != chain {
            return Err(format!("the chain of {document} breaks at {seq}"));
        }
    }
    Ok(chain)
}
