//! The table of columns: which there are, in which order, where each begins and ends.

use std::fmt;

use super::{
    error::{ChangeError, Fault, HeaderPart},
    leb::Reader,
};

/// A column of a change, by what it holds for each operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Column {
    /// Actor half of the object id.
    ObjectActor,
    /// Counter half of the object id.
    ObjectCounter,
    /// Actor half of the element id.
    KeyActor,
    /// Counter half of the element id.
    KeyCounter,
    /// Map key.
    KeyString,
    /// Whether a new list element is made.
    Insert,
    /// What is done.
    Action,
    /// Types and lengths of the values.
    ValueMetadata,
    /// The values' bytes.
    Value,
    /// How many operations this one replaces.
    PredCount,
    /// Actor halves of the ids of the operations that are replaced.
    PredActor,
    /// Counter halves of the ids of the operations that are replaced.
    PredCounter,
    /// Whether a mark grows with text that is inserted at its boundary.
    Expand,
    /// A mark's name.
    MarkName,
}

/// How many kinds of columns there are.
const COLUMNS: usize = 14;

/// Set in a column's specification if it is deflated.
const DEFLATED: u64 = 0b1000;

impl Column {
    const ALL: [Self; COLUMNS] = [
        Self::ObjectActor,
        Self::ObjectCounter,
        Self::KeyActor,
        Self::KeyCounter,
        Self::KeyString,
        Self::Insert,
        Self::Action,
        Self::ValueMetadata,
        Self::Value,
        Self::PredCount,
        Self::PredActor,
        Self::PredCounter,
        Self::Expand,
        Self::MarkName,
    ];

    /// The column of a specification number: `id << 4 | deflated << 3 | type`, from Automerge's binary
    /// format.
    const fn from_spec(spec: u64) -> Option<Self> {
        Some(match spec {
            0x01 => Self::ObjectActor,
            0x02 => Self::ObjectCounter,
            0x11 => Self::KeyActor,
            0x13 => Self::KeyCounter,
            0x15 => Self::KeyString,
            0x34 => Self::Insert,
            0x42 => Self::Action,
            0x56 => Self::ValueMetadata,
            0x57 => Self::Value,
            0x70 => Self::PredCount,
            0x71 => Self::PredActor,
            0x73 => Self::PredCounter,
            0x94 => Self::Expand,
            0xa5 => Self::MarkName,
            _ => return None,
        })
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ObjectActor => "object actor",
            Self::ObjectCounter => "object counter",
            Self::KeyActor => "element actor",
            Self::KeyCounter => "element counter",
            Self::KeyString => "map key",
            Self::Insert => "insert",
            Self::Action => "action",
            Self::ValueMetadata => "value type",
            Self::Value => "value",
            Self::PredCount => "predecessor count",
            Self::PredActor => "predecessor actor",
            Self::PredCounter => "predecessor counter",
            Self::Expand => "mark expansion",
            Self::MarkName => "mark name",
        })
    }
}

/// A change's columns. One that is absent is empty: an empty one is never present.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Columns<'a>([&'a [u8]; COLUMNS]);

impl<'a> Columns<'a> {
    /// Reads the table and the columns behind it from `input`.
    pub(super) fn read(input: &mut Reader<'a>) -> Result<Self, ChangeError> {
        let table = |fault| ChangeError::Header { part: HeaderPart::ColumnTable, fault };
        let count = input.unsigned().map_err(table)?;
        if count > COLUMNS as u64 {
            return Err(ChangeError::ColumnsOrder);
        }
        let mut lengths = [0_u64; COLUMNS];
        let mut previous = None;
        for _ in 0..count {
            let spec = input.unsigned().map_err(table)?;
            let len = input.unsigned().map_err(table)?;
            let Some(column) = Column::from_spec(spec) else {
                return Err(match Column::from_spec(spec & !DEFLATED) {
                    Some(column) => ChangeError::ColumnDeflated { column },
                    None => ChangeError::ColumnUnknown { spec },
                });
            };
            if previous.is_some_and(|previous| previous >= spec) {
                return Err(ChangeError::ColumnsOrder);
            }
            previous = Some(spec);
            if len == 0 {
                return Err(ChangeError::Column { column, fault: Fault::NotCanonical });
            }
            if let Some(slot) = lengths.get_mut(column as usize) {
                *slot = len;
            }
        }
        let mut columns = Self::default();
        for ((column, slot), len) in Column::ALL.into_iter().zip(&mut columns.0).zip(lengths) {
            *slot = input.take(len).map_err(|fault| ChangeError::Column { column, fault })?;
        }
        Ok(columns)
    }

    #[inline]
    pub(super) fn get(&self, column: Column) -> &'a [u8] {
        self.0.get(column as usize).copied().unwrap_or_default()
    }

    /// The first column that is there, if any is.
    pub(super) fn first_present(&self) -> Option<Column> {
        Column::ALL.into_iter().find(|column| !self.get(*column).is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Columns<'_>, ChangeError> {
        Columns::read(&mut Reader::new(bytes))
    }

    #[test]
    fn columns_stand_in_the_order_of_their_specifications() {
        // 0xa5 takes two bytes in LEB128.
        let bytes = [3, 0x01, 1, 0x15, 2, 0xa5, 0x01, 1, 9, 8, 7, 6];
        let columns = read(&bytes).unwrap();
        assert_eq!(columns.get(Column::ObjectActor), [9]);
        assert_eq!(columns.get(Column::KeyString), [8, 7]);
        assert_eq!(columns.get(Column::MarkName), [6]);
        assert!(columns.get(Column::Action).is_empty());
        assert_eq!(columns.first_present(), Some(Column::ObjectActor));
    }

    #[test]
    fn odd_tables_are_refused() {
        assert_eq!(read(&[2, 0x15, 1, 0x01, 1, 0, 0]).unwrap_err(), ChangeError::ColumnsOrder);
        assert_eq!(read(&[2, 0x01, 1, 0x01, 1, 0, 0]).unwrap_err(), ChangeError::ColumnsOrder);
        assert_eq!(read(&[1, 0x03, 1, 0]).unwrap_err(), ChangeError::ColumnUnknown { spec: 3 });
        assert_eq!(
            read(&[1, 0x4a, 1, 0]).unwrap_err(),
            ChangeError::ColumnDeflated { column: Column::Action }
        );
        assert_eq!(
            read(&[1, 0x42, 0]).unwrap_err(),
            ChangeError::Column { column: Column::Action, fault: Fault::NotCanonical }
        );
        assert_eq!(
            read(&[1, 0x42, 2, 0]).unwrap_err(),
            ChangeError::Column { column: Column::Action, fault: Fault::Truncated }
        );
        assert_eq!(read(&[15]).unwrap_err(), ChangeError::ColumnsOrder);
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).unwrap_err(),
            ChangeError::ColumnsOrder
        );
    }
}
