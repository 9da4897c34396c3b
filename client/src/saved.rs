//! What has to survive the program: changes that are not acked, and beside a copy of the document the cursor
//! that belongs to it. As bytes, in a format of this crate's own; where they are kept is the program's business.
//!
//! Little-endian throughout: `"EPSV" | version u8 | owner | document | has copy u8 [| epoch u64 | seq u64 |
//! chain 32 | copy] | pushes u32, each: tag u64 | changes u32, each u32 bytes long | bytes | SHA-256 of all
//! that`. A text or a copy stands behind its length in a u32.

use etherply_wire::kinds::Cursor;
use etherply_wire::limits::{DOCUMENT_ID_BYTES_MAX, PUSH_CHANGES_MAX};
use sha2::{Digest, Sha256};

use crate::client::{Client, StreamId};
use crate::error::RequestError;
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::outbox::{OUTBOX_BYTES_MAX, OUTBOX_PUSHES_MAX, Push};
use crate::stream::OpenOptions;

/// Longest name of an owner, in bytes.
pub const OWNER_BYTES_MAX: usize = 256;
/// Longest copy of a document beside its outbox, in bytes: as much as a snapshot may have.
pub const COPY_BYTES_MAX: usize = SNAPSHOT_BYTES_MAX;

const MAGIC: [u8; 4] = *b"EPSV";
/// The format's version. Another one is refused: what it means is not known here.
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 32;

/// One document's unacked changes, made to outlive the program.
///
/// Changes keep the actor that wrote them; whoever restores them goes on under a *fresh* actor, because a
/// program that fell over may have sent changes of which its file does not know. The server takes changes of
/// an actor only from the subject that used it first (that of the token, or everybody where there are no
/// tokens). `owner` names that subject in the program's own words, and [`Saved::decode`] gives what was saved for
/// one owner to no other: what was written under one login is not pushed under the next.
///
/// A cursor stands only beside a copy: a program that has no copy of the document needs to be sent all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Who wrote the changes.
    pub owner: String,
    /// The document's name.
    pub document: String,
    /// The document, with everything up to the cursor and all of the unacked changes.
    pub copy: Option<SavedCopy>,
    /// What is not acked, in causal order. Their numbers are not kept.
    pub pushes: Vec<Push>,
}

/// A copy of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedCopy {
    /// Up to where the server's log is in it, and in which epoch. At position 0 it is in no part of it, but for own
    /// changes that were acked ahead of the others; `None` if the server never opened the document.
    pub cursor: Option<Cursor>,
    /// The document, as the application saved it.
    pub bytes: Vec<u8>,
}

/// Why saved bytes cannot be used, or something cannot be saved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SavedError {
    /// The bytes begin as nothing that this crate saved.
    #[error("these are not bytes that a client saved")]
    NotSaved,
    /// They are of another version.
    #[error("they were saved in version {version} of the format, this program reads {VERSION}")]
    Version {
        /// Their version.
        version: u8,
    },
    /// They were cut off or altered.
    #[error(
        "the saved bytes are damaged: their checksum does not match. Use an older copy, or begin without one; what was not acked is lost"
    )]
    Damaged,
    /// They belong to somebody else.
    #[error("the changes were written by another owner: the server would not take them from this one")]
    OtherOwner,
    /// More than may be saved.
    #[error("{what}: {given} is more than the {max} that may be saved")]
    TooLarge {
        /// Of what there is too much.
        what: &'static str,
        /// How much there is.
        given: usize,
        /// The limit.
        max: usize,
    },
}

impl Saved {
    /// As bytes.
    ///
    /// # Errors
    /// [`SavedError::TooLarge`]
    pub fn encode(&self) -> Result<Vec<u8>, SavedError> {
        self.check()?;
        let changes: usize =
            self.pushes.iter().map(|push| push.bytes.len() + 4 * push.lengths.len() + 12).sum();
        let copy_bytes = self.copy.as_ref().map_or(0, |copy| copy.bytes.len());
        let mut out = Vec::with_capacity(changes + copy_bytes + self.document.len() + self.owner.len() + 128);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        put_bytes(&mut out, self.owner.as_bytes());
        put_bytes(&mut out, self.document.as_bytes());
        out.push(u8::from(self.copy.is_some()));
        if let Some(SavedCopy { cursor, bytes }) = &self.copy {
            let cursor = cursor.unwrap_or(Cursor { epoch: 0, seq: 0, chain: [0; 32] });
            out.extend_from_slice(&cursor.epoch.to_le_bytes());
            out.extend_from_slice(&cursor.seq.to_le_bytes());
            out.extend_from_slice(&cursor.chain);
            put_bytes(&mut out, bytes);
        }
        put_count(&mut out, self.pushes.len());
        for push in &self.pushes {
            out.extend_from_slice(&push.tag.to_le_bytes());
            put_count(&mut out, push.lengths.len());
            push.lengths.iter().for_each(|length| out.extend_from_slice(&length.to_le_bytes()));
            out.extend_from_slice(&push.bytes);
        }
        let checksum = Sha256::digest(&out);
        out.extend_from_slice(&checksum);
        Ok(out)
    }

    /// Reads bytes that this owner saved.
    ///
    /// # Errors
    /// They are not whole, of another version, or of another owner.
    pub fn decode(bytes: &[u8], owner: &str) -> Result<Self, SavedError> {
        let (&[magic @ .., version], _) = bytes.split_first_chunk::<5>().ok_or(SavedError::NotSaved)?;
        if magic != MAGIC {
            return Err(SavedError::NotSaved);
        }
        if version != VERSION {
            return Err(SavedError::Version { version });
        }
        let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(SavedError::Damaged)?;
        let (body, checksum) = bytes.split_at_checked(at).ok_or(SavedError::Damaged)?;
        if Sha256::digest(body).as_slice() != checksum {
            return Err(SavedError::Damaged);
        }
        let saved = Self::read(body.get(5..).unwrap_or_default()).ok_or(SavedError::Damaged)?;
        saved.check()?;
        if saved.owner == owner { Ok(saved) } else { Err(SavedError::OtherOwner) }
    }

    fn read(mut input: &[u8]) -> Option<Self> {
        let input = &mut input;
        let owner = take_text(input)?;
        let document = take_text(input)?;
        let copy = match take_array::<1>(input)? {
            [0] => None,
            [1] => {
                let (epoch, seq) = (take_u64(input)?, take_u64(input)?);
                let cursor = Cursor { epoch, seq, chain: take_array(input)? };
                let bytes = take_bytes(input)?.to_vec();
                Some(SavedCopy { cursor: (epoch > 0).then_some(cursor), bytes })
            }
            _ => return None,
        };
        let count = take_u32(input)?;
        let mut pushes = Vec::new();
        for number in 1..=u64::from(count) {
            let tag = take_u64(input)?;
            let changes = usize::try_from(take_u32(input)?).ok()?;
            let lengths = take(input, changes.checked_mul(4)?)?;
            let (lengths, _) = lengths.as_chunks::<4>();
            let lengths: Vec<u32> = lengths.iter().map(|&length| u32::from_le_bytes(length)).collect();
            let total: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
            let bytes = take(input, usize::try_from(total).ok()?)?.to_vec();
            pushes.push(Push { number, tag, lengths, bytes });
        }
        input.is_empty().then_some(Self { owner, document, copy, pushes })
    }

    fn check(&self) -> Result<(), SavedError> {
        let copy_bytes = self.copy.as_ref().map_or(0, |copy| copy.bytes.len());
        let pushed_bytes = self.pushes.iter().map(|push| push.bytes.len()).sum();
        let changes = self.pushes.iter().map(|push| push.lengths.len()).max().unwrap_or(0);
        for (what, given, max) in [
            ("bytes of the owner's name", self.owner.len(), OWNER_BYTES_MAX),
            ("bytes of the document's name", self.document.len(), DOCUMENT_ID_BYTES_MAX),
            ("bytes of the copy", copy_bytes, COPY_BYTES_MAX),
            ("pushes", self.pushes.len(), OUTBOX_PUSHES_MAX),
            ("bytes of changes", pushed_bytes, OUTBOX_BYTES_MAX),
            ("changes of one push", changes, PUSH_CHANGES_MAX),
        ] {
            if given > max {
                return Err(SavedError::TooLarge { what, given, max });
            }
        }
        Ok(())
    }
}

impl Client {
    /// A stream's unacked changes, without a copy of the document: for those who keep none, and between two
    /// copies. It costs in proportion to what is not acked, so it may be kept after each push as long as the
    /// server answers; offline for long, rather every few seconds.
    ///
    /// # Errors
    /// There is no such stream.
    pub fn save(&self, id: StreamId, owner: &str) -> Result<Saved, RequestError> {
        let stream = self.core.stream(id).ok_or(RequestError::NotOpen)?;
        let pushes = stream.outbox.to_be_saved().cloned().collect();
        Ok(Saved {
            owner: owner.to_owned(),
            document: stream.document.as_ref().to_owned(),
            copy: None,
            pushes,
        })
    }

    /// Opens the document that was saved, from the copy's cursor, and puts its unacked changes into the outbox.
    /// `options` bring rights and token; name and cursor are what was saved.
    ///
    /// # Errors
    /// As of [`Client::open`], or there are more changes than an outbox holds.
    pub fn restore(&mut self, saved: &Saved, options: OpenOptions) -> Result<StreamId, RequestError> {
        saved.check().map_err(|_| RequestError::OutboxFull)?;
        let cursor = saved.copy.as_ref().and_then(|copy| copy.cursor);
        let id = self.open(OpenOptions { document: saved.document.clone(), cursor, ..options })?;
        if let Some(stream) = self.core.stream_mut(id) {
            for Push { tag, lengths, bytes, .. } in &saved.pushes {
                stream.outbox.add(*tag, lengths.clone(), bytes.clone());
            }
        }
        self.core.queue(id);
        Ok(id)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // Every count was checked against a limit far below.
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn take<'a>(input: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(bytes)?;
    *input = rest;
    Some(taken)
}

fn take_array<const BYTES: usize>(input: &mut &[u8]) -> Option<[u8; BYTES]> {
    let (taken, rest) = input.split_first_chunk::<BYTES>()?;
    *input = rest;
    Some(*taken)
}

fn take_u32(input: &mut &[u8]) -> Option<u32> {
    take_array(input).map(u32::from_le_bytes)
}

fn take_u64(input: &mut &[u8]) -> Option<u64> {
    take_array(input).map(u64::from_le_bytes)
}

fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = usize::try_from(take_u32(input)?).ok()?;
    take(input, bytes)
}

fn take_text(input: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_bytes(input)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn saved(pushes: Vec<Push>, copy: Option<SavedCopy>) -> Saved {
        Saved { owner: "ada".into(), document: "notes".into(), copy, pushes }
    }

    fn push(number: u64, changes: &[&[u8]]) -> Push {
        let lengths = changes.iter().map(|change| u32::try_from(change.len()).unwrap()).collect();
        Push { number, tag: number * 7, lengths, bytes: changes.concat() }
    }

    fn sample() -> Saved {
        let cursor = Some(Cursor { epoch: 3, seq: 9, chain: [5; 32] });
        saved(
            vec![push(1, &[b"ab", b""]), push(2, &[b"cde"])],
            Some(SavedCopy { cursor, bytes: vec![1; 40] }),
        )
    }

    proptest! {
        #[test]
        fn what_is_saved_comes_back(
            pushes in proptest::collection::vec(proptest::collection::vec(any::<Vec<u8>>(), 1..4), 0..5),
            copy in proptest::option::of((any::<Vec<u8>>(), 0u64..3)),
        ) {
            let numbered = pushes.iter().zip(1..).map(|(changes, number)| {
                push(number, &changes.iter().map(Vec::as_slice).collect::<Vec<_>>())
            });
            let copy = copy.map(|(bytes, seq)| {
                SavedCopy { cursor: (seq < 2).then_some(Cursor { epoch: 1, seq, chain: [2; 32] }), bytes }
            });
            let saved = saved(numbered.collect(), copy);
            prop_assert_eq!(Saved::decode(&saved.encode().unwrap(), "ada"), Ok(saved));
        }

        #[test]
        fn no_bytes_panic_and_none_are_taken_for_others(bytes in any::<Vec<u8>>()) {
            prop_assert!(Saved::decode(&bytes, "ada").is_err());
            let mut signed = [&MAGIC[..], &[VERSION], &bytes].concat();
            let checksum = Sha256::digest(&signed);
            signed.extend_from_slice(&checksum);
            let _ = Saved::decode(&signed, "ada");
        }
    }

    /// Bytes of version 1, laid out by hand: files that programs have keep their meaning.
    #[test]
    fn version_1_is_what_it_was() {
        let mut bytes = [
            &b"EPSV\x01\x03\0\0\0ada\x05\0\0\0notes\x01"[..],
            b"\x03\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0",
            &[5; 32],
            b"\x28\0\0\0",
            &[1; 40],
            b"\x02\0\0\0",
            b"\x07\0\0\0\0\0\0\0\x02\0\0\0\x02\0\0\0\0\0\0\0ab",
            b"\x0e\0\0\0\0\0\0\0\x01\0\0\0\x03\0\0\0cde",
        ]
        .concat();
        let checksum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&checksum);
        assert_eq!(Saved::decode(&bytes, "ada"), Ok(sample()));
        assert_eq!(sample().encode(), Ok(bytes));
    }

    #[test]
    fn what_no_outbox_holds_is_not_restored() {
        let mut client = Client::new(crate::Transport::Tcp, "test", 1);
        let rights = crate::Rights::READ;
        let options = OpenOptions { document: String::new(), rights, token: None, cursor: None };
        let restore = |client: &mut Client, pushes: usize| {
            let push = Push { number: 1, tag: 0, lengths: vec![], bytes: Vec::new() };
            client.restore(&saved(vec![push; pushes], None), options.clone())
        };
        assert_eq!(restore(&mut client, OUTBOX_PUSHES_MAX + 1), Err(RequestError::OutboxFull));
        let stream = restore(&mut client, OUTBOX_PUSHES_MAX).unwrap();
        assert_eq!(client.unacked(stream).count(), OUTBOX_PUSHES_MAX);
        assert_eq!(client.push(stream, &[b"x"], 0), Err(RequestError::OutboxFull));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let bytes = sample().encode().unwrap();
        for cut in 0..bytes.len() {
            assert!(Saved::decode(&bytes[..cut], "ada").is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(Saved::decode(&bytes, "ada").is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn another_owner_and_another_version_are_told_apart_from_damage() {
        let mut bytes = sample().encode().unwrap();
        assert_eq!(Saved::decode(&bytes, "ben"), Err(SavedError::OtherOwner));
        bytes[4] = VERSION + 1;
        assert_eq!(Saved::decode(&bytes, "ada"), Err(SavedError::Version { version: VERSION + 1 }));
        assert_eq!(Saved::decode(b"EPS", "ada"), Err(SavedError::NotSaved));
        assert_eq!(Saved::decode(b"EPSV\x01", "ada"), Err(SavedError::Damaged));
    }

    #[test]
    fn limits_hold_at_their_edges() {
        let with = |owner: usize, document: usize, changes: usize, pushes: usize, bytes: usize| Saved {
            owner: "o".repeat(owner),
            document: "d".repeat(document),
            copy: None,
            pushes: (0..pushes)
                .map(|_| Push { number: 1, tag: 0, lengths: vec![0; changes], bytes: Vec::new() })
                .chain([Push { number: 1, tag: 0, lengths: vec![], bytes: vec![0; bytes] }])
                .collect(),
        };
        let [owner, document, changes] = [OWNER_BYTES_MAX, DOCUMENT_ID_BYTES_MAX, PUSH_CHANGES_MAX];
        let (pushes, bytes) = (OUTBOX_PUSHES_MAX - 1, OUTBOX_BYTES_MAX);
        for less in [0, 1] {
            let most = with(owner - less, document - less, changes - less, 1, 1 - less);
            assert!(most.encode().is_ok());
            assert_eq!(with(1, 1, 0, pushes - less, 0).check(), Ok(()));
            assert_eq!(with(1, 1, 0, 0, bytes - less).check(), Ok(()));
        }
        for over in [
            with(owner + 1, 1, 1, 1, 0),
            with(1, document + 1, 1, 1, 0),
            with(1, 1, changes + 1, 1, 0),
            with(1, 1, 0, pushes + 1, 0),
            with(1, 1, 0, 0, bytes + 1),
        ] {
            assert!(matches!(over.encode(), Err(SavedError::TooLarge { .. })));
        }
    }
}
