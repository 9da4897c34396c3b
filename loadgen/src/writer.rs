//! Genuine Automerge changes without a document.
//!
//! A change needs the heads that it builds upon, the next number of its actor and the next operation counter.
//! All three can be followed from the headers of the changes that pass by, at 0.2 µs each, where applying
//! them to a document would cost up to milliseconds. The change itself is written by Automerge's own encoder:
//! it puts a value under a key of the root map that belongs to the writer, over the writer's value before.

use std::num::NonZeroU64;

use anyhow::{Context, Result};
use automerge::legacy::{Key, ObjectId, Op, OpId, OpType};
use automerge::{ActorId, Change, ExpandedChange, ScalarValue};
use etherply_client::change::{ChangeError, ChangeHash, ChangeView};

use crate::random::Random;

/// What values are filled with: 64 letters, so that a byte carries six bits.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Shortest value: the stamp.
pub const VALUE_BYTES_MIN: usize = Stamp::BYTES;
/// Longest value.
pub const VALUE_BYTES_MAX: usize = 512 * 1024;

/// What a value begins with, so that whoever receives it knows when it was due: both ends run in one process
/// and share its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// When the edit was due, in microseconds from the start.
    pub due_us: u64,
    /// Which of the document's writers made it.
    pub writer: u16,
}

impl Stamp {
    const BYTES: usize = 16;

    /// The stamp as text, filled up to `bytes` with letters that do not repeat: what compresses well would make
    /// snapshots, and what a cold join is sent, smaller than anybody's documents are.
    pub fn text(self, bytes: usize) -> String {
        let mut text = format!("{:012x}{:04x}", self.due_us & 0xFFFF_FFFF_FFFF, self.writer);
        text.reserve(bytes.saturating_sub(Self::BYTES));
        let mut random = Random::new(self.due_us << 16 | u64::from(self.writer));
        while text.len() < bytes {
            let letters =
                random.next().to_le_bytes().map(|byte| LETTERS.get(usize::from(byte % 64)).copied());
            let room = bytes - text.len();
            text.extend(letters.into_iter().flatten().take(room).map(char::from));
        }
        text
    }

    /// The stamp that these bytes begin with.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes.get(..Self::BYTES)?).ok()?;
        let (due_us, writer) = text.split_at_checked(12)?;
        let due_us = u64::from_str_radix(due_us, 16).ok()?;
        Some(Self { due_us, writer: u16::from_str_radix(writer, 16).ok()? })
    }
}

/// A document's newest changes, and its highest operation counter.
#[derive(Debug, Clone, Default)]
pub struct Heads {
    hashes: Vec<ChangeHash>,
    max_op: u64,
}

impl Heads {
    /// Follows a change that this member did not have.
    pub fn follow(&mut self, change: &ChangeView<'_>) -> Result<(), ChangeError> {
        self.add(change.hash(), change.deps(), change.max_op()?);
        Ok(())
    }

    /// The heads, sorted.
    pub fn sorted(&self) -> Vec<ChangeHash> {
        let mut hashes = self.hashes.clone();
        hashes.sort_unstable();
        hashes
    }

    fn add(&mut self, hash: ChangeHash, deps: &[ChangeHash], max_op: u64) {
        self.hashes.retain(|head| !deps.contains(head));
        self.hashes.push(hash);
        self.max_op = self.max_op.max(max_op);
    }
}

/// One actor that edits one document.
#[derive(Debug)]
pub struct ThinWriter {
    actor: ActorId,
    key: String,
    seq: u64,
    /// Counter of the operation that last put the writer's value.
    previous: Option<u64>,
}

impl ThinWriter {
    /// A writer that made no change yet. The actor has to be fresh and the key its own.
    pub fn new(actor: &[u8], key: String) -> Self {
        Self { actor: ActorId::from(actor), key, seq: 0, previous: None }
    }

    /// The writer's actor.
    pub fn actor(&self) -> &[u8] {
        self.actor.to_bytes()
    }

    /// Number of its last change.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Makes the next change on these heads, which it becomes the only one of. Returns its bytes.
    pub fn edit(&mut self, heads: &mut Heads, value: String, unix_s: i64) -> Result<Vec<u8>> {
        let counter = heads.max_op + 1;
        let pred: Vec<OpId> =
            self.previous.map(|previous| OpId::new(previous, &self.actor)).into_iter().collect();
        let put = Op {
            action: OpType::Put(ScalarValue::Str(value.into())),
            obj: ObjectId::Root,
            key: Key::Map(self.key.as_str().into()),
            pred: pred.into(),
            insert: false,
        };
        let deps = heads.sorted();
        let change = Change::from(ExpandedChange {
            operations: vec![put],
            actor_id: self.actor.clone(),
            hash: None,
            seq: self.seq + 1,
            start_op: NonZeroU64::new(counter).context("the document's operation counter is exhausted")?,
            time: unix_s,
            message: None,
            deps: deps.iter().copied().map(automerge::ChangeHash).collect(),
            extra_bytes: Vec::new(),
            author: None,
        });
        self.seq += 1;
        self.previous = Some(counter);
        heads.add(change.hash().0, &deps, counter);
        Ok(change.raw_bytes().to_vec())
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;
    use automerge::{AutoCommit, ROOT, ReadDoc};
    use proptest::prelude::*;
    use std::io::Write as _;

    struct Member {
        heads: Heads,
        writer: ThinWriter,
        /// How much of each writer's changes it has.
        has: Vec<usize>,
        values: Vec<String>,
    }

    fn members(count: usize) -> Vec<Member> {
        (0..count)
            .map(|index| Member {
                heads: Heads::default(),
                writer: ThinWriter::new(&[index as u8 + 1; 8], format!("w{index}")),
                has: vec![0; count],
                values: Vec::new(),
            })
            .collect()
    }

    /// A change may be delivered once those that it depends on are there.
    fn deliver(
        members: &mut [Member],
        made: &[Vec<Vec<u8>>],
        to: usize,
        from: usize,
        known: &mut [Vec<ChangeHash>],
    ) {
        let Some(bytes) = made[from].get(members[to].has[from]).filter(|_| to != from) else { return };
        let view = ChangeView::parse(bytes).unwrap();
        if view.deps().iter().all(|dep| known[to].contains(dep)) {
            members[to].heads.follow(&view).unwrap();
            known[to].push(view.hash());
            members[to].has[from] += 1;
        }
    }

    #[test]
    fn values_do_not_compress_to_much_less_than_their_letters_carry() {
        let values: String = (0..100).map(|due_us| Stamp { due_us, writer: 3 }.text(400)).collect();
        let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(values.as_bytes()).unwrap();
        let packed_bytes = packed.finish().unwrap().len();
        assert!(packed_bytes * 10 > values.len() * 7, "{packed_bytes} of {}", values.len());
    }

    proptest! {
        #[test]
        fn automerge_takes_every_change_and_has_the_same_heads_and_values(
            count in 1usize..5,
            steps in proptest::collection::vec((any::<bool>(), any::<usize>(), any::<usize>()), 0..80),
        ) {
            let mut members = members(count);
            let mut made: Vec<Vec<Vec<u8>>> = vec![Vec::new(); count];
            let mut known = vec![Vec::new(); count];
            for (index, (edits, who, from)) in steps.into_iter().enumerate() {
                let who = who % count;
                if edits {
                    let member = &mut members[who];
                    let value = Stamp { due_us: index as u64, writer: who as u16 }.text(20);
                    let change = member.writer.edit(&mut member.heads, value.clone(), 1_700_000_000).unwrap();
                    member.values.push(value);
                    known[who].push(ChangeView::parse(&change).unwrap().hash());
                    made[who].push(change);
                } else {
                    deliver(&mut members, &made, who, from % count, &mut known);
                }
            }
            for _ in 0..80 * count {
                for (to, from) in (0..count).flat_map(|to| (0..count).map(move |from| (to, from))) {
                    deliver(&mut members, &made, to, from, &mut known);
                }
            }
            let mut doc = AutoCommit::new();
            let changes = made.iter().flatten().map(|bytes| Change::from_bytes(bytes.clone()).unwrap());
            doc.apply_changes(changes).unwrap();
            let heads: Vec<_> = doc.get_heads().into_iter().map(|hash| hash.0).collect();
            let reloaded = AutoCommit::load(&doc.save()).unwrap();
            for (index, member) in members.iter().enumerate() {
                prop_assert_eq!(member.heads.sorted(), heads.clone());
                let key = format!("w{index}");
                let values = reloaded.get_all(ROOT, key.as_str()).unwrap();
                let values: Vec<_> = values.iter().map(|(value, _)| value.as_str().unwrap()).collect();
                let last: Vec<_> = member.values.last().iter().map(|value| value.as_str()).collect();
                prop_assert_eq!(values, last, "the newest value alone, without conflicts");
            }
        }

        #[test]
        fn a_stamp_is_read_back_from_its_change(due_us in 0u64..1 << 48, writer: u16, bytes in 16usize..400) {
            let stamp = Stamp { due_us, writer };
            let (mut heads, mut writer) = (Heads::default(), ThinWriter::new(&[9; 16], "k".into()));
            let made = writer.edit(&mut heads, stamp.text(bytes), 0).unwrap();
            let view = ChangeView::parse(&made).unwrap();
            prop_assert_eq!(vec![view.hash()], heads.sorted());
            prop_assert_eq!(view.value_bytes().unwrap().len(), bytes);
            prop_assert_eq!(Stamp::parse(view.value_bytes().unwrap()), Some(stamp));
        }
    }
}
