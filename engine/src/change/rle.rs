//! Run-length columns, read one value at a time; runs are bounded by the caller's row count, never expanded.
//!
//! A column is a sequence of runs: `n >= 2` then one value (repeated), `-n` then n values (literal), or
//! `0` then a count of nulls. Of the many ways to write the same values, only the one with the longest
//! runs is taken: it is what every Automerge encoder writes, and a client that rebuilds a change from its
//! document writes this form too. Any other form would come back with a different hash.

use super::{error::Fault, leb::Reader};

/// What a run-length column can hold.
pub(super) trait Item<'a>: Copy + Eq {
    fn read(input: &mut Reader<'a>) -> Result<Self, Fault>;
}

impl Item<'_> for u64 {
    #[inline]
    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        input.unsigned()
    }
}

impl Item<'_> for i64 {
    #[inline]
    fn read(input: &mut Reader<'_>) -> Result<Self, Fault> {
        input.signed()
    }
}

impl<'a> Item<'a> for &'a str {
    #[inline]
    fn read(input: &mut Reader<'a>) -> Result<Self, Fault> {
        std::str::from_utf8(input.prefixed()?).map_err(|_| Fault::NotUtf8)
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Run {
    /// Before the first run, or a column that is absent and so null in each row.
    Start,
    Repeat,
    Literal,
    Null,
}

/// A run-length column being read.
#[derive(Clone, Debug)]
pub(super) struct Rle<'a, T> {
    input: Reader<'a>,
    /// Rows that the current run still has.
    left: u64,
    run: Run,
    /// The value of the row before, unless it was null: no run may begin with it. But for literals, it is
    /// also the value of the next row.
    last: Option<T>,
    holds_value: bool,
}

impl<'a, T: Item<'a>> Rle<'a, T> {
    /// An empty `bytes` is an absent column: null in each row.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        let left = if bytes.is_empty() { u64::MAX } else { 0 };
        Self { input: Reader::new(bytes), left, run: Run::Start, last: None, holds_value: false }
    }

    /// The value of the next row.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<T>, Fault> {
        if self.left == 0 {
            self.load_run()?;
        }
        self.left -= 1;
        if self.run == Run::Literal { self.literal().map(Some) } else { Ok(self.last) }
    }

    /// The value of the next row of a column that has no nulls.
    #[inline]
    pub(super) fn next_value(&mut self) -> Result<T, Fault> {
        self.next()?.ok_or(Fault::Null)
    }

    /// Counts the rows of a column without nulls, stopping at the first sign of more than `max`. Costs in
    /// proportion to the column's bytes, whatever number of rows its runs claim.
    pub(super) fn count_values(mut self, max: u64) -> Result<u64, Fault> {
        let mut rows = 0_u64;
        if self.run == Run::Start && self.left > 0 {
            return Ok(rows);
        }
        while !self.input.is_empty() {
            self.load_run()?;
            rows = rows.saturating_add(self.left);
            if rows > max {
                return Err(Fault::TooMany);
            }
            match self.run {
                Run::Start | Run::Null => return Err(Fault::Null),
                Run::Repeat => {}
                Run::Literal => {
                    for _ in 0..self.left {
                        self.literal()?;
                    }
                }
            }
            self.left = 0;
        }
        Ok(rows)
    }

    /// To be called after the last row: nothing may be left over.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.run == Run::Start && self.left > 0 {
            return Ok(());
        }
        if self.left != 0 || !self.input.is_empty() {
            return Err(Fault::TooLong);
        }
        // A column that says nothing is left out by every encoder.
        if self.holds_value { Ok(()) } else { Err(Fault::NotCanonical) }
    }

    #[inline]
    fn literal(&mut self) -> Result<T, Fault> {
        let value = T::read(&mut self.input)?;
        if self.last == Some(value) {
            return Err(Fault::NotCanonical);
        }
        self.last = Some(value);
        Ok(value)
    }

    fn load_run(&mut self) -> Result<(), Fault> {
        if self.input.is_empty() {
            return Err(Fault::TooShort);
        }
        let header = self.input.signed()?;
        match header {
            0 => {
                let count = self.input.unsigned()?;
                if count == 0 || self.run == Run::Null {
                    return Err(Fault::NotCanonical);
                }
                self.left = count;
                self.last = None;
                self.run = Run::Null;
            }
            1.. => {
                let value = T::read(&mut self.input)?;
                if header == 1 || self.last == Some(value) {
                    return Err(Fault::NotCanonical);
                }
                self.left = header.unsigned_abs();
                self.last = Some(value);
                self.run = Run::Repeat;
                self.holds_value = true;
            }
            _ => {
                if self.run == Run::Literal {
                    return Err(Fault::NotCanonical);
                }
                self.left = header.unsigned_abs();
                self.run = Run::Literal;
                self.holds_value = true;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], rows: usize) -> Result<Vec<Option<u64>>, Fault> {
        let mut column = Rle::<u64>::new(bytes);
        let values = (0..rows).map(|_| column.next()).collect::<Result<Vec<_>, _>>()?;
        column.finish()?;
        Ok(values)
    }

    #[test]
    fn canonical_runs_are_read() {
        assert_eq!(read(&[], 2), Ok(vec![None, None]));
        assert_eq!(read(&[0x7f, 5], 1), Ok(vec![Some(5)]));
        assert_eq!(read(&[3, 5], 3), Ok(vec![Some(5); 3]));
        assert_eq!(read(&[0, 1, 0x7e, 1, 2, 2, 3], 5), Ok(vec![None, Some(1), Some(2), Some(3), Some(3)]));
        assert_eq!(read(&[0x7f, 1, 0, 1, 0x7f, 1], 3), Ok(vec![Some(1), None, Some(1)]));
        assert_eq!(read(&[2, 1, 2, 2], 4), Ok(vec![Some(1), Some(1), Some(2), Some(2)]));
    }

    #[test]
    fn every_other_form_is_refused() {
        let not_canonical: [(&[u8], usize); 10] = [
            (&[1, 5], 1),                // a repeat of one
            (&[2, 5, 2, 5], 4),          // two repeats that are one
            (&[0x7f, 1, 0x7f, 2], 2),    // two literals that are one
            (&[0x7e, 1, 1], 2),          // a repeat within a literal
            (&[2, 5, 0x7f, 5], 3),       // a literal that goes on a repeat
            (&[0x7f, 5, 2, 5], 3),       // a repeat that goes on a literal
            (&[0, 1, 0, 1, 0x7f, 1], 3), // two null runs that are one
            (&[0, 0, 0x7f, 1], 1),       // an empty null run
            (&[0, 3], 3),                // a column of nulls
            (&[0x82, 0, 5], 2),          // an overlong run header
        ];
        for (bytes, rows) in not_canonical {
            assert_eq!(read(bytes, rows), Err(Fault::NotCanonical), "{bytes:?}");
        }
    }

    #[test]
    fn lengths_must_agree_with_the_rows() {
        assert_eq!(read(&[3, 5], 4), Err(Fault::TooShort));
        assert_eq!(read(&[3, 5], 2), Err(Fault::TooLong));
        assert_eq!(read(&[0x7f, 5, 0, 1], 1), Err(Fault::TooLong));
        assert_eq!(read(&[0x7d, 5, 6], 3), Err(Fault::Truncated));
        assert_eq!(
            read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f, 1], 1),
            Err(Fault::TooLong)
        );
    }

    #[test]
    fn rows_are_counted_without_expanding_runs() {
        let count = |bytes: &[u8], max| Rle::<u64>::new(bytes).count_values(max);
        assert_eq!(count(&[], 10), Ok(0));
        assert_eq!(count(&[10, 1], 10), Ok(10));
        assert_eq!(count(&[10, 1], 9), Err(Fault::TooMany));
        assert_eq!(count(&[10, 1, 0x7e, 2, 3], 12), Ok(12));
        assert_eq!(count(&[10, 1, 0x7e, 2, 3], 11), Err(Fault::TooMany));
        assert_eq!(count(&[0, 5], 10), Err(Fault::Null));
        // 2^63 rows, twice over.
        let bomb = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 1];
        assert_eq!(count(&bomb, u64::MAX), Ok(i64::MAX.unsigned_abs()));
        assert_eq!(count(&[&bomb[..], &bomb[..10], &[2]].concat(), 1 << 40), Err(Fault::TooMany));
        // i64::MIN literals of which none is there.
        let bomb = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f];
        assert_eq!(count(&bomb, u64::MAX), Err(Fault::Truncated));
    }
}
