//! The values of operations: a run-length column of types and lengths beside a column of raw bytes.

use super::{error::Fault, leb::Reader, rle::Rle};

/// The type of an operation's value, by Automerge's type codes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ValueType {
    Null,
    Boolean,
    Uint,
    Int,
    Float,
    String,
    Bytes,
    Counter,
    Timestamp,
}

/// Bytes of a float.
const FLOAT_BYTES: u64 = 8;

/// The two value columns being read.
#[derive(Clone, Debug)]
pub(super) struct Values<'a> {
    metadata: Rle<'a, u64>,
    raw: Reader<'a>,
}

impl<'a> Values<'a> {
    pub(super) const fn new(metadata: &'a [u8], raw: &'a [u8]) -> Self {
        Self { metadata: Rle::new(metadata), raw: Reader::new(raw) }
    }

    /// Checks the value of the next row and returns its type.
    ///
    /// Types that Automerge 0.12 does not know (10 to 15) are refused: it keeps them as opaque bytes, so
    /// what a later version makes of them cannot be checked here.
    #[inline]
    pub(super) fn next(&mut self) -> Result<ValueType, Fault> {
        let metadata = self.metadata.next_value()?;
        let len = metadata >> 4;
        let value_type = match metadata & 0xf {
            0 => ValueType::Null,
            1 | 2 => ValueType::Boolean,
            3 => ValueType::Uint,
            4 => ValueType::Int,
            5 => ValueType::Float,
            6 => ValueType::String,
            7 => ValueType::Bytes,
            8 => ValueType::Counter,
            9 => ValueType::Timestamp,
            _ => return Err(Fault::ValueType),
        };
        let raw = self.raw.take(len)?;
        match value_type {
            ValueType::Null | ValueType::Boolean if len != 0 => Err(Fault::ValueLength),
            ValueType::Float if len != FLOAT_BYTES => Err(Fault::ValueLength),
            ValueType::String if std::str::from_utf8(raw).is_err() => Err(Fault::NotUtf8),
            ValueType::Uint => number(raw, |input| input.unsigned().map(drop)).map(|()| value_type),
            ValueType::Int | ValueType::Counter | ValueType::Timestamp => {
                number(raw, |input| input.signed().map(drop)).map(|()| value_type)
            }
            _ => Ok(value_type),
        }
    }

    /// To be called after the last row: nothing may be left over.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        self.metadata.finish()?;
        if self.raw.is_empty() { Ok(()) } else { Err(Fault::TooLong) }
    }
}

/// A number has to fill its bytes.
fn number(raw: &[u8], read: impl Fn(&mut Reader<'_>) -> Result<(), Fault>) -> Result<(), Fault> {
    let mut input = Reader::new(raw);
    read(&mut input)?;
    if input.is_empty() { Ok(()) } else { Err(Fault::ValueLength) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(metadata: u8, raw: &[u8]) -> Result<ValueType, Fault> {
        let metadata = [0x7f, metadata];
        let mut values = Values::new(&metadata, raw);
        let value_type = values.next()?;
        values.finish()?;
        Ok(value_type)
    }

    #[test]
    fn each_type() {
        assert_eq!(one(0, &[]), Ok(ValueType::Null));
        assert_eq!(one(1, &[]), Ok(ValueType::Boolean));
        assert_eq!(one(2, &[]), Ok(ValueType::Boolean));
        assert_eq!(one(0x13, &[7]), Ok(ValueType::Uint));
        assert_eq!(one(0x14, &[0x7f]), Ok(ValueType::Int));
        assert_eq!(one(0x06, b""), Ok(ValueType::String));
        assert_eq!(one(0x26, b"hi"), Ok(ValueType::String));
        assert_eq!(one(0x17, &[0xff]), Ok(ValueType::Bytes));
        assert_eq!(one(0x18, &[1]), Ok(ValueType::Counter));
        assert_eq!(one(0x29, &[0x80, 1]), Ok(ValueType::Timestamp));
    }

    #[test]
    fn what_does_not_fit_its_type_is_refused() {
        for metadata in 0xa..=0xf {
            assert_eq!(one(metadata, &[]), Err(Fault::ValueType));
        }
        assert_eq!(one(0x10, &[0]), Err(Fault::ValueLength));
        assert_eq!(one(0x11, &[0]), Err(Fault::ValueLength));
        assert_eq!(one(0x23, &[1, 1]), Err(Fault::ValueLength));
        assert_eq!(one(0x03, &[]), Err(Fault::Truncated));
        assert_eq!(one(0x23, &[0x81, 0]), Err(Fault::NotCanonical));
        assert_eq!(one(0x15, &[0]), Err(Fault::ValueLength));
        assert_eq!(one(0x16, &[0xff]), Err(Fault::NotUtf8));
        assert_eq!(one(0x26, b"h"), Err(Fault::Truncated));
        assert_eq!(one(0x16, b"hi"), Err(Fault::TooLong));
    }
}
