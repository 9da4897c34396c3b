//! Delta columns: operation counters, each written as its difference from the one before, run-length
//! encoded. Nulls do not move the running value.

use super::{OP_COUNTER_MAX, error::Fault, rle::Rle};

/// A delta column being read.
#[derive(Clone, Debug)]
pub(super) struct Delta<'a> {
    deltas: Rle<'a, i64>,
    counter: i64,
}

impl<'a> Delta<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { deltas: Rle::new(bytes), counter: 0 }
    }

    /// The counter of the next row, at most [`OP_COUNTER_MAX`].
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<u64>, Fault> {
        let Some(delta) = self.deltas.next()? else { return Ok(None) };
        self.counter = self.counter.checked_add(delta).ok_or(Fault::CounterRange)?;
        match u64::try_from(self.counter) {
            Ok(counter) if counter <= OP_COUNTER_MAX => Ok(Some(counter)),
            _ => Err(Fault::CounterRange),
        }
    }

    pub(super) fn finish(&self) -> Result<(), Fault> {
        self.deltas.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], rows: usize) -> Result<Vec<Option<u64>>, Fault> {
        let mut column = Delta::new(bytes);
        let values = (0..rows).map(|_| column.next()).collect::<Result<Vec<_>, _>>()?;
        column.finish()?;
        Ok(values)
    }

    #[test]
    fn counters_are_summed_and_bounded() {
        assert_eq!(read(&[0x7f, 7, 3, 1], 4), Ok(vec![Some(7), Some(8), Some(9), Some(10)]));
        assert_eq!(read(&[0x7f, 7, 0, 1, 0x7f, 0x7f], 3), Ok(vec![Some(7), None, Some(6)]));
        assert_eq!(read(&[0x7f, 0x7f], 1), Err(Fault::CounterRange));
        assert_eq!(read(&[0x7e, 0xff, 0xff, 0xff, 0xff, 7, 0], 2), Ok(vec![Some(OP_COUNTER_MAX); 2]));
        assert_eq!(read(&[0x7f, 0x80, 0x80, 0x80, 0x80, 8], 1), Err(Fault::CounterRange));
        let max = [2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
        assert_eq!(read(&max, 2), Err(Fault::CounterRange));
    }
}
