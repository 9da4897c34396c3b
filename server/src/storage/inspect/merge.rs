//! All rows of a keyspace in the order of their keys, each in its newest version, out of tables and journals.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::journals;
use super::table::{Entry, Rubble, Table};
use crate::storage::manifest::Listed;

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// A part of a table that holds no rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDamage {
    /// The table.
    pub path: PathBuf,
    /// What is wrong, and where.
    pub rubble: Rubble,
    /// The key of the row before it, and of the one behind it.
    pub between: (Option<Bytes>, Option<Bytes>),
}

/// The rows of a keyspace.
pub struct Merge {
    sources: Vec<Source>,
    journals: std::iter::Peekable<Box<dyn Iterator<Item = Entry>>>,
    /// What was found to be damaged so far.
    pub damage: Vec<TableDamage>,
    /// Sequence number, plus 1, up to which the tables have rows; 0 if there are none.
    pub tables_end: u64,
    /// Bytes of the tables that were read to their end.
    bytes_read: u64,
}

/// Tables one behind the other.
struct Source {
    tables: VecDeque<Listed>,
    open: Option<Table>,
    next: Option<Entry>,
    last_key: Option<Bytes>,
    /// Damage whose end is not known yet.
    pending: Vec<TableDamage>,
}

impl Merge {
    /// Merges runs of tables with what the journals have.
    pub fn new(runs: Vec<Vec<Listed>>, journals: journals::Rows) -> io::Result<Self> {
        let journals: Box<dyn Iterator<Item = Entry>> = Box::new(journals::entries(journals));
        let mut merge = Self {
            sources: Vec::new(),
            journals: journals.peekable(),
            damage: Vec::new(),
            tables_end: 0,
            bytes_read: 0,
        };
        for run in runs {
            let (tables, pending) = (VecDeque::from(run), Vec::new());
            let mut source = Source { tables, open: None, next: None, last_key: None, pending };
            merge.advance(&mut source)?;
            merge.sources.push(source);
        }
        Ok(merge)
    }

    /// The next row that was not deleted.
    pub fn next_row(&mut self) -> io::Result<Option<Row>> {
        loop {
            let Some(key) = self.smallest() else { return Ok(None) };
            let mut newest: Option<Entry> = None;
            let mut offer = |entry: Entry| {
                if newest.as_ref().is_none_or(|newest| entry.seqno >= newest.seqno) {
                    newest = Some(entry);
                }
            };
            let mut sources = std::mem::take(&mut self.sources);
            for source in &mut sources {
                while let Some(entry) = source.next.take_if(|entry| entry.key == key) {
                    offer(entry);
                    self.advance(source)?;
                }
            }
            self.sources = sources;
            // Behind the tables, so that of two with the same number the journal's is taken.
            while let Some(entry) = self.journals.next_if(|entry| entry.key == key) {
                offer(entry);
            }
            if let Some(value) = newest.and_then(|entry| entry.value) {
                return Ok(Some(Row { key, value }));
            }
        }
    }

    /// Bytes of tables read so far.
    pub fn bytes_read(&self) -> u64 {
        let open = self.sources.iter().filter_map(|source| source.open.as_ref());
        self.bytes_read + open.map(Table::offset).sum::<u64>()
    }

    fn smallest(&mut self) -> Option<Bytes> {
        let tables = self.sources.iter().filter_map(|source| source.next.as_ref());
        tables.chain(self.journals.peek()).map(|entry| &entry.key).min().cloned()
    }

    fn advance(&mut self, source: &mut Source) -> io::Result<()> {
        loop {
            let table = match &mut source.open {
                Some(table) => table,
                None => match source.tables.pop_front() {
                    Some(listed) => match Table::open(&listed.path, listed.seqno_base) {
                        Ok(table) => source.open.insert(table),
                        // It is reported where tables are checked; its rows are missing.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(error),
                    },
                    None => {
                        self.damage.append(&mut source.pending);
                        return Ok(());
                    }
                },
            };
            match table.next_entry()? {
                Some(Ok(entry)) => {
                    self.tables_end = self.tables_end.max(entry.seqno.saturating_add(1));
                    for mut damage in source.pending.drain(..) {
                        damage.between.1 = Some(entry.key.clone());
                        self.damage.push(damage);
                    }
                    source.last_key = Some(entry.key.clone());
                    source.next = Some(entry);
                    return Ok(());
                }
                Some(Err(rubble)) => {
                    let (path, before) = (table.path().to_owned(), source.last_key.clone());
                    source.pending.push(TableDamage { path, rubble, between: (before, None) });
                }
                None => {
                    self.bytes_read += table.offset();
                    source.open = None;
                }
            }
        }
    }
}
