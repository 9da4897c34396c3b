//! The encoding of `lib0`, in which everything of Yjs is written: numbers in groups of seven bits, and bytes with
//! their length before them.

use anyhow::{Context as _, Result, bail};

const CUT: &str = "a message that is cut off";
/// Of the kinds of values that `encoding.writeAny` knows: a string.
const ANY_STRING: u8 = 119;

/// Reads from the beginning on.
#[derive(Debug)]
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// Of these bytes.
    pub fn new(rest: &'b [u8]) -> Self {
        Self { rest }
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8> {
        let (&byte, rest) = self.rest.split_first().context(CUT)?;
        self.rest = rest;
        Ok(byte)
    }

    /// A number without a sign.
    pub fn uint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..56).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        bail!("a number above 2^53");
    }

    /// Bytes, or a string's.
    pub fn bytes(&mut self) -> Result<&'b [u8]> {
        let length = usize::try_from(self.uint()?)?;
        let (bytes, rest) = self.rest.split_at_checked(length).context(CUT)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A value of any kind, which has to be a string.
    pub fn any_string(&mut self) -> Result<&'b [u8]> {
        match self.byte()? {
            ANY_STRING => self.bytes(),
            other => bail!("a value of kind {other}, where a string is expected"),
        }
    }
}

/// Appends a number.
pub fn push_uint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
    out.push(value as u8);
}

/// Appends bytes, or a string's.
pub fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::vectors::vector;

    #[test]
    fn numbers_are_those_of_lib0() {
        let numbers = [0, 1, 127, 128, 300, 1 << 32, (1 << 53) - 1];
        let mut out = Vec::new();
        numbers.iter().for_each(|&number| push_uint(&mut out, number));
        assert_eq!(out, vector("lib0", "uints"));
        let mut reader = Reader::new(&out);
        let read: Vec<u64> = numbers.iter().map(|_| reader.uint().unwrap()).collect();
        assert_eq!(read, numbers);
        assert!(reader.uint().is_err());
    }

    #[test]
    fn bytes_end_where_they_say() {
        let mut out = Vec::new();
        push_bytes(&mut out, b"abc");
        assert_eq!(Reader::new(&out).bytes().unwrap(), b"abc");
        assert!(Reader::new(&out[..3]).bytes().is_err());
        assert!(Reader::new(&[0xFF; 4]).bytes().is_err());
    }
}
