//! Boolean columns: alternating run lengths that begin with the falses.

use super::{error::Fault, leb::Reader};

/// A boolean column being read.
#[derive(Clone, Debug)]
pub(super) struct Booleans<'a> {
    input: Reader<'a>,
    left: u64,
    value: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// The column is not there: false in each row.
    Absent,
    /// No run read yet. Only the first may be empty.
    Start,
    Running,
}

impl<'a> Booleans<'a> {
    /// An empty `bytes` is an absent column: false in each row.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        let state = if bytes.is_empty() { State::Absent } else { State::Start };
        Self { input: Reader::new(bytes), left: 0, value: false, state }
    }

    /// The value of the next row.
    #[inline]
    pub(super) fn next(&mut self) -> Result<bool, Fault> {
        if self.left == 0 {
            self.load_run()?;
        }
        self.left -= 1;
        Ok(self.value)
    }

    /// To be called after the last row: nothing may be left over.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.state == State::Absent || (self.left == 0 && self.input.is_empty()) {
            Ok(())
        } else {
            Err(Fault::TooLong)
        }
    }

    fn load_run(&mut self) -> Result<(), Fault> {
        match self.state {
            State::Absent => self.left = u64::MAX,
            State::Start => {
                self.state = State::Running;
                self.left = self.count()?;
                if self.left == 0 {
                    self.value = true;
                    self.left = self.run()?;
                }
            }
            State::Running => {
                self.value = !self.value;
                self.left = self.run()?;
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<u64, Fault> {
        if self.input.is_empty() { Err(Fault::TooShort) } else { self.input.unsigned() }
    }

    fn run(&mut self) -> Result<u64, Fault> {
        match self.count()? {
            0 => Err(Fault::NotCanonical),
            count => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], rows: usize) -> Result<Vec<bool>, Fault> {
        let mut column = Booleans::new(bytes);
        let values = (0..rows).map(|_| column.next()).collect::<Result<Vec<_>, _>>()?;
        column.finish()?;
        Ok(values)
    }

    #[test]
    fn alternating_runs() {
        assert_eq!(read(&[], 2), Ok(vec![false, false]));
        assert_eq!(read(&[2], 2), Ok(vec![false, false]));
        assert_eq!(read(&[0, 2], 2), Ok(vec![true, true]));
        assert_eq!(read(&[1, 1, 1], 3), Ok(vec![false, true, false]));
    }

    #[test]
    fn odd_forms_are_refused() {
        assert_eq!(read(&[0], 1), Err(Fault::TooShort));
        assert_eq!(read(&[0, 0, 1], 1), Err(Fault::NotCanonical));
        assert_eq!(read(&[1, 0, 1], 2), Err(Fault::NotCanonical));
        assert_eq!(read(&[1], 2), Err(Fault::TooShort));
        assert_eq!(read(&[2], 1), Err(Fault::TooLong));
        assert_eq!(read(&[1, 1], 1), Err(Fault::TooLong));
        assert_eq!(read(&[0x82, 0], 2), Err(Fault::NotCanonical));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], 1), Err(Fault::TooLong));
    }
}
