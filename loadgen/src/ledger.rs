//! The ledger of acks: a change counts as acked once its line is on disk. Whoever asks is told only what was
//! fsynced before.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};

use crate::verify::ledger_line;

/// An acked change and its document's number.
pub type Entry = (u32, [u8; 32]);

/// The ledger's writer, a thread of its own.
pub struct Ledger {
    entries: Option<flume::Sender<Entry>>,
    sync: flume::Sender<flume::Sender<u64>>,
    thread: JoinHandle<Result<()>>,
}

impl Ledger {
    /// A ledger in a new file. `name` tells a document's name.
    pub fn create(path: &Path, name: impl Fn(u32) -> String + Send + 'static) -> Result<Self> {
        let file = File::create_new(path).context("the ledger cannot be made")?;
        let (entries, incoming) = flume::unbounded();
        let (sync, asked) = flume::unbounded();
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || write(BufWriter::new(file), &incoming, &asked, &name))?;
        Ok(Self { entries: Some(entries), sync, thread })
    }

    /// Where acked changes go.
    pub fn entries(&self) -> Option<flume::Sender<Entry>> {
        self.entries.clone()
    }

    /// Waits until all that was handed over before is on disk; how many changes that is.
    pub fn sync(&self) -> Result<u64> {
        let (tell, told) = flume::bounded(1);
        self.sync.send(tell).map_err(|_| anyhow!("the ledger has ended early"))?;
        told.recv().context("the ledger has ended early")
    }

    /// Ends the ledger, once everybody who writes to it is gone.
    pub fn end(mut self) -> Result<()> {
        self.entries = None;
        drop(self.sync);
        self.thread.join().map_err(|_| anyhow!("the ledger panicked"))?
    }
}

fn write(
    mut file: BufWriter<File>,
    entries: &flume::Receiver<Entry>,
    asked: &flume::Receiver<flume::Sender<u64>>,
    name: &dyn Fn(u32) -> String,
) -> Result<()> {
    enum Next {
        Entry(Entry),
        Asked(flume::Sender<u64>),
        End,
    }
    let mut written = 0;
    loop {
        let next = flume::Selector::new()
            .recv(entries, |entry| entry.map_or(Next::End, Next::Entry))
            .recv(asked, |asked| asked.map_or(Next::End, Next::Asked))
            .wait();
        let mut waiting = None;
        let is_end = matches!(next, Next::End);
        match next {
            Next::Entry(entry) => written += put(&mut file, entry, name)?,
            Next::Asked(tell) => waiting = Some(tell),
            Next::End => {}
        }
        // One fsync for all that came while the last one ran.
        for entry in entries.drain() {
            written += put(&mut file, entry, name)?;
        }
        file.flush()?;
        file.get_ref().sync_data()?;
        if let Some(tell) = waiting {
            // Whoever asked may have given up waiting.
            let _ = tell.send(written);
        }
        if is_end {
            return Ok(());
        }
    }
}

fn put(file: &mut BufWriter<File>, (document, hash): Entry, name: &dyn Fn(u32) -> String) -> Result<u64> {
    file.write_all(ledger_line(&name(document), &hash).as_bytes())?;
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_over_is_in_the_file_when_sync_returns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::create(&path, |document| format!("d/{document}")).unwrap();
        let entries = ledger.entries().unwrap();
        for round in 1..=20u8 {
            (0..5).for_each(|document| entries.send((document, [round; 32])).unwrap());
            assert_eq!(ledger.sync().unwrap(), 5 * u64::from(round));
            assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 5 * usize::from(round));
        }
        drop(entries);
        ledger.end().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("d/0 {}\n", "01".repeat(32))));
    }
}
