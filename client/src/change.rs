//! A change in Automerge's format, read without building a document: what a client needs to follow a
//! document's heads and to name a change. Whether the operations make sense is Automerge's to say.
//!
//! The layout is that of Automerge's storage format, "change chunks":
//! `magic | checksum | type | length | deps | actor | seq | startOp | time | message | actors | columns | data`.

use sha2::{Digest, Sha256};

/// Names a change: SHA-256 of its chunk's type, length and contents.
pub type ChangeHash = [u8; 32];

const MAGIC: [u8; 4] = [0x85, 0x6F, 0x4A, 0x83];
/// The chunk type of a change that is not compressed: the only one on the wire.
const TYPE_CHANGE: u8 = 1;
/// Actions of the operations, one value each: tells how many there are.
const COLUMN_ACTION: u64 = 0x42;
/// The operations' values, one behind the other.
const COLUMN_VALUES: u64 = 0x57;
/// Most operations that are counted: far above what a server takes.
const OPS_MAX: u64 = 1 << 32;

/// Why bytes are not a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The bytes end too early, or do not begin as a change does.
    #[error("the bytes are not a plain change in Automerge's format")]
    Malformed,
    /// The bytes were altered.
    #[error("the change's checksum does not match its bytes")]
    Checksum,
}

/// A change's header, borrowed from its bytes.
#[derive(Debug, Clone, Copy)]
pub struct ChangeView<'a> {
    bytes: &'a [u8],
    hash: ChangeHash,
    deps: &'a [[u8; 32]],
    actor: &'a [u8],
    seq: u64,
    start_op: u64,
    columns: &'a [u8],
    data: &'a [u8],
}

impl<'a> ChangeView<'a> {
    /// Reads the change that `bytes` are, and checks its checksum.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ChangeError> {
        let (view, rest) = Self::parse_first(bytes)?;
        if rest.is_empty() { Ok(view) } else { Err(ChangeError::Malformed) }
    }

    /// Reads the change that `bytes` begin with, and what follows it.
    pub fn parse_first(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), ChangeError> {
        let (magic, after) = split(bytes, 4)?;
        let (checksum, chunk) = split(after, 4)?;
        let (&kind, mut input) = chunk.split_first().ok_or(ChangeError::Malformed)?;
        if magic != MAGIC || kind != TYPE_CHANGE {
            return Err(ChangeError::Malformed);
        }
        let length = usize_of(uleb(&mut input)?)?;
        let (mut body, rest) = split(input, length)?;
        let (hashed, _) = split(chunk, chunk.len() - rest.len())?;
        let hash: ChangeHash = Sha256::digest(hashed).into();
        if !hash.starts_with(checksum) {
            return Err(ChangeError::Checksum);
        }
        let body = &mut body;
        let dep_count = usize_of(uleb(body)?)?;
        let dep_bytes = take(body, dep_count.checked_mul(32).ok_or(ChangeError::Malformed)?)?;
        let (deps, _) = dep_bytes.as_chunks::<32>();
        let actor = prefixed(body)?;
        let seq = uleb(body)?;
        let start_op = uleb(body)?;
        sleb(body)?;
        prefixed(body)?;
        for _ in 0..uleb(body)? {
            prefixed(body)?;
        }
        let (columns, data) = Self::split_columns(body)?;
        let (bytes, _) = split(bytes, bytes.len() - rest.len())?;
        Ok((Self { bytes, hash, deps, actor, seq, start_op, columns, data }, rest))
    }

    /// The table of columns, and the columns' bytes behind it.
    fn split_columns(body: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), ChangeError> {
        let count = uleb(body)?;
        let table = *body;
        for _ in 0..count {
            uleb(body)?;
            uleb(body)?;
        }
        let (table, data) = split(table, table.len() - body.len())?;
        Ok((table, data))
    }

    /// The change's own bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its hash.
    pub fn hash(&self) -> ChangeHash {
        self.hash
    }

    /// The changes that it was made upon.
    pub fn deps(&self) -> &'a [ChangeHash] {
        self.deps
    }

    /// Who made it.
    pub fn actor(&self) -> &'a [u8] {
        self.actor
    }

    /// Its number among its actor's changes, counted from 1.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Counter of its first operation.
    pub fn start_op(&self) -> u64 {
        self.start_op
    }

    /// How many operations it holds.
    pub fn ops(&self) -> Result<u64, ChangeError> {
        self.column(COLUMN_ACTION)?.map_or(Ok(0), count_values)
    }

    /// Counter of its last operation; that before its first if it has none.
    pub fn max_op(&self) -> Result<u64, ChangeError> {
        let end = self.start_op.checked_add(self.ops()?).ok_or(ChangeError::Malformed)?;
        end.checked_sub(1).ok_or(ChangeError::Malformed)
    }

    /// The values of its operations, one behind the other and without their types: for a change that puts one
    /// string or byte string, just that.
    pub fn value_bytes(&self) -> Result<&'a [u8], ChangeError> {
        Ok(self.column(COLUMN_VALUES)?.unwrap_or_default())
    }

    fn column(&self, wanted: u64) -> Result<Option<&'a [u8]>, ChangeError> {
        let mut table = self.columns;
        let mut data = self.data;
        while !table.is_empty() {
            let spec = uleb(&mut table)?;
            let column = take(&mut data, usize_of(uleb(&mut table)?)?)?;
            if spec == wanted {
                return Ok(Some(column));
            }
        }
        Ok(None)
    }
}

/// How many values a run-length encoded column of integers stands for, nulls included.
fn count_values(mut column: &[u8]) -> Result<u64, ChangeError> {
    let mut count = 0u64;
    while !column.is_empty() {
        let run = sleb(&mut column)?;
        let values = match run {
            0 => uleb(&mut column)?,
            1.. => {
                uleb(&mut column)?;
                run.unsigned_abs()
            }
            _ => {
                for _ in 0..run.unsigned_abs() {
                    uleb(&mut column)?;
                }
                run.unsigned_abs()
            }
        };
        count = count.checked_add(values).filter(|&count| count <= OPS_MAX).ok_or(ChangeError::Malformed)?;
    }
    Ok(count)
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), ChangeError> {
    bytes.split_at_checked(at).ok_or(ChangeError::Malformed)
}

fn take<'a>(input: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], ChangeError> {
    let (taken, rest) = split(input, bytes)?;
    *input = rest;
    Ok(taken)
}

fn prefixed<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], ChangeError> {
    let bytes = usize_of(uleb(input)?)?;
    take(input, bytes)
}

fn usize_of(value: u64) -> Result<usize, ChangeError> {
    usize::try_from(value).map_err(|_| ChangeError::Malformed)
}

fn uleb(input: &mut &[u8]) -> Result<u64, ChangeError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first().ok_or(ChangeError::Malformed)?;
        *input = rest;
        let bits = u64::from(byte & 0x7F);
        if shift == 63 && bits > 1 {
            return Err(ChangeError::Malformed);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ChangeError::Malformed)
}

fn sleb(input: &mut &[u8]) -> Result<i64, ChangeError> {
    let mut value = 0i64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first().ok_or(ChangeError::Malformed)?;
        *input = rest;
        value |= i64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            let unused = 64 - (shift + 7).min(64);
            return Ok(value << unused >> unused);
        }
    }
    Err(ChangeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use automerge::transaction::Transactable;
    use automerge::{AutoCommit, ROOT, ReadDoc};
    use proptest::prelude::*;

    fn document(ops: &[u8]) -> AutoCommit {
        let mut doc = AutoCommit::new();
        let list = doc.put_object(ROOT, "list", automerge::ObjType::List).unwrap();
        for (index, &op) in ops.iter().enumerate() {
            match op % 5 {
                0 => doc.put(ROOT, format!("k{op}"), i64::from(op)).unwrap(),
                1 => doc.insert(&list, 0, "text").unwrap(),
                2 => doc.put(ROOT, "nothing", ()).unwrap(),
                3 if doc.length(&list) > 0 => doc.delete(&list, 0).unwrap(),
                _ => doc.put(ROOT, "bytes", vec![op; index]).unwrap(),
            }
            if op % 3 == 0 {
                doc.commit();
            }
        }
        doc
    }

    proptest! {
        #[test]
        fn every_field_is_what_automerge_says(ops in proptest::collection::vec(any::<u8>(), 0..60)) {
            for change in document(&ops).get_changes(&[]) {
                let view = ChangeView::parse(change.raw_bytes()).unwrap();
                prop_assert_eq!(view.hash(), change.hash().0);
                prop_assert_eq!(view.actor(), change.actor_id().to_bytes());
                prop_assert_eq!(view.seq(), change.seq());
                prop_assert_eq!(view.start_op(), change.start_op().get());
                prop_assert_eq!(view.ops().unwrap(), change.len() as u64);
                prop_assert_eq!(view.max_op().unwrap(), change.max_op());
                let deps: Vec<_> = change.deps().iter().map(|dep| dep.0).collect();
                prop_assert_eq!(view.deps(), deps);
                prop_assert_eq!(view.bytes(), change.raw_bytes());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..200, bit in 0u8..8) {
            let _ = ChangeView::parse(&bytes);
            let mut change = document(&[1, 2, 3]).get_changes(&[])[0].raw_bytes().to_vec();
            let at = at % change.len();
            change[at] ^= 1 << bit;
            prop_assert!(ChangeView::parse(&change).is_err());
            let _ = count_values(&bytes);
        }
    }

    #[test]
    fn changes_can_stand_one_behind_the_other() {
        let changes: Vec<_> = document(&[0, 3, 6]).get_changes(&[]);
        let joined: Vec<u8> = changes.iter().flat_map(|change| change.raw_bytes().to_vec()).collect();
        let (mut rest, mut hashes) = (joined.as_slice(), Vec::new());
        while !rest.is_empty() {
            let (view, after) = ChangeView::parse_first(rest).unwrap();
            hashes.push(view.hash());
            rest = after;
        }
        assert_eq!(hashes, changes.iter().map(|change| change.hash().0).collect::<Vec<_>>());
        assert_eq!(ChangeView::parse(&joined).unwrap_err(), ChangeError::Malformed);
    }
}
