//! Reading the byte stream: fixed-size pieces and LEB128 numbers in their only canonical form.
//!
//! Automerge's own column decoder accepts overlong numbers, but its encoder never writes them: a change
//! that contains one gets another hash when a client saves and loads its document, so it is refused here.

use super::error::Fault;

/// Low seven bits of a LEB128 byte.
const PAYLOAD: u8 = 0x7f;
/// Set on each byte but the last of a LEB128 number.
const CONTINUES: u8 = 0x80;
/// The sign bit in the last byte of a signed LEB128 number.
const SIGN: u8 = 0x40;
/// Shift of the tenth byte, which has room for only the 64th bit.
const LAST_SHIFT: u32 = 63;

/// A cursor over bytes that never reads past their end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[cfg(test)]
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        let (first, rest) = self.rest.split_first().ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    /// The next `len` bytes. A length that was read from the input may be anything up to `u64::MAX`.
    #[inline]
    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8], Fault> {
        let len = usize::try_from(len).map_err(|_| Fault::Truncated)?;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes behind a length prefix.
    #[inline]
    pub(super) fn prefixed(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.unsigned()?;
        self.take(len)
    }

    /// An unsigned LEB128 number.
    #[inline]
    pub(super) fn unsigned(&mut self) -> Result<u64, Fault> {
        let first = self.byte()?;
        if first & CONTINUES == 0 {
            return Ok(u64::from(first));
        }
        self.unsigned_tail(first)
    }

    fn unsigned_tail(&mut self, first: u8) -> Result<u64, Fault> {
        let mut value = u64::from(first & PAYLOAD);
        let mut shift = 7;
        loop {
            let byte = self.byte()?;
            if shift == LAST_SHIFT && byte > 1 {
                return Err(Fault::NumberTooLarge);
            }
            value |= u64::from(byte & PAYLOAD) << shift;
            if byte & CONTINUES == 0 {
                return if byte == 0 { Err(Fault::NotCanonical) } else { Ok(value) };
            }
            shift += 7;
        }
    }

    /// A signed LEB128 number.
    #[inline]
    pub(super) fn signed(&mut self) -> Result<i64, Fault> {
        let first = self.byte()?;
        if first & CONTINUES == 0 {
            // Moves the sign bit of the seven-bit number to the top and back down.
            return Ok((i64::from(first) << 57) >> 57);
        }
        self.signed_tail(first)
    }

    fn signed_tail(&mut self, first: u8) -> Result<i64, Fault> {
        let mut value = i64::from(first & PAYLOAD);
        let mut previous = first;
        let mut shift = 7;
        loop {
            let byte = self.byte()?;
            if shift == LAST_SHIFT && byte != 0 && byte != PAYLOAD {
                return Err(Fault::NumberTooLarge);
            }
            value |= i64::from(byte & PAYLOAD) << shift;
            shift += 7;
            if byte & CONTINUES == 0 {
                // A last byte that only repeats the sign of the one before it is padding.
                let sign_before = previous & SIGN != 0;
                if (byte == 0 && !sign_before) || (byte == PAYLOAD && sign_before) {
                    return Err(Fault::NotCanonical);
                }
                if shift < 64 && byte & SIGN != 0 {
                    value |= -1 << shift;
                }
                return Ok(value);
            }
            previous = byte;
        }
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "the encoder takes numbers apart")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write_unsigned(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value > u64::from(PAYLOAD) {
            out.push((value & u64::from(PAYLOAD)) as u8 | CONTINUES);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    fn write_signed(mut value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let byte = (value & i64::from(PAYLOAD)) as u8;
            value >>= 7;
            if (value == 0 && byte & SIGN == 0) || (value == -1 && byte & SIGN != 0) {
                out.push(byte);
                return out;
            }
            out.push(byte | CONTINUES);
        }
    }

    fn edges() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            (0u32..64).prop_map(|bit| 1 << bit),
            (0u32..64).prop_map(|bit| (1 << bit) - 1)
        ]
    }

    proptest! {
        #[test]
        fn numbers_round_trip(value in edges()) {
            let bytes = write_unsigned(value);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.unsigned(), Ok(value));
            prop_assert!(reader.is_empty());

            for value in [value as i64, (value as i64).wrapping_neg(), !(value as i64)] {
                let bytes = write_signed(value);
                let mut reader = Reader::new(&bytes);
                prop_assert_eq!(reader.signed(), Ok(value));
                prop_assert!(reader.is_empty());
            }
        }

        #[test]
        fn what_is_read_is_the_only_encoding(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.unsigned() {
                prop_assert_eq!(write_unsigned(value), &bytes[..bytes.len() - reader.rest().len()]);
            }
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.signed() {
                prop_assert_eq!(write_signed(value), &bytes[..bytes.len() - reader.rest().len()]);
            }
        }
    }

    #[test]
    fn hostile_numbers() {
        let unsigned = |bytes: &[u8]| Reader::new(bytes).unsigned();
        let signed = |bytes: &[u8]| Reader::new(bytes).signed();
        assert_eq!(unsigned(&[]), Err(Fault::Truncated));
        assert_eq!(unsigned(&[0x80]), Err(Fault::Truncated));
        assert_eq!(unsigned(&[0x80, 0]), Err(Fault::NotCanonical));
        assert_eq!(unsigned(&[0xff; 10]), Err(Fault::NumberTooLarge));
        assert_eq!(
            unsigned(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
            Err(Fault::NumberTooLarge)
        );
        assert_eq!(unsigned(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Ok(u64::MAX));
        assert_eq!(signed(&[]), Err(Fault::Truncated));
        assert_eq!(signed(&[0xbf, 0]), Err(Fault::NotCanonical));
        assert_eq!(signed(&[0xc0, 0]), Ok(64));
        assert_eq!(signed(&[0x81, 0xff, 0x7f]), Err(Fault::NotCanonical));
        assert_eq!(signed(&[0xff; 10]), Err(Fault::NumberTooLarge));
        assert_eq!(
            signed(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7e]),
            Err(Fault::NumberTooLarge)
        );
    }

    #[test]
    fn lengths_beyond_the_input_are_refused() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.take(4), Err(Fault::Truncated));
        assert_eq!(reader.take(u64::MAX), Err(Fault::Truncated));
        assert_eq!(reader.take(3), Ok(&[1u8, 2, 3][..]));
        assert_eq!(reader.take(0), Ok(&[][..]));
    }
}
