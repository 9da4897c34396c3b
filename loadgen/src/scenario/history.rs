//! A document with a long history, made before anybody joins it.

use anyhow::{Result, bail};
use etherply_client::change::ChangeView;
use etherply_client::{Event, OpenOptions, StreamId};
use etherply_wire::Rights;

use crate::blocking::Blocking;
use crate::plan::Plan;
use crate::writer::{Heads, Stamp, ThinWriter};

/// Authors of a history, who take turns: each their own actor and key.
const AUTHORS: u16 = 10;
/// Changes of one push.
const PUSH_CHANGES: usize = 64;
/// Pushes that wait for their acks at once.
const PUSHES_WAITING_MAX: usize = 32;

/// What was made.
pub struct History {
    /// Hashes of all changes, in their order. All of them are acked.
    pub changes: Vec<[u8; 32]>,
    /// The document's heads.
    pub heads: Vec<[u8; 32]>,
    /// Bytes of all changes.
    pub bytes: u64,
}

/// Makes so many edits of the plan's first document over one connection, each upon the one before, and waits
/// until they are acked.
pub fn make(plan: &Plan, edits: u32) -> Result<History> {
    let mut connection = Blocking::connect(&plan.target, "etherply-loadgen/history")?;
    let rights = Rights::READ.with(Rights::WRITE);
    let options = OpenOptions { document: plan.document_name(0), rights, token: None, cursor: None };
    let stream = connection.client.open(options)?;
    let mut authors: Vec<ThinWriter> = (0..AUTHORS)
        .map(|author| ThinWriter::new(&plan.actor(0, u32::from(author)), format!("author-{author}")))
        .collect();
    let (mut heads, mut made) = (Heads::default(), Vec::new());
    let mut history = History { changes: Vec::new(), heads: Vec::new(), bytes: 0 };
    let mut turn = 0u16;
    for number in 0..edits {
        turn = (turn + 1) % AUTHORS;
        if let Some(author) = authors.get_mut(usize::from(turn)) {
            let stamp = Stamp { due_us: u64::from(number), writer: turn };
            made.push(author.edit(&mut heads, stamp.text(plan.value_bytes), 0)?);
        }
        let bytes: usize = made.iter().map(Vec::len).sum();
        let is_full = made.len() == PUSH_CHANGES || bytes > connection.client.limits().push_bytes_max / 4;
        if is_full || number + 1 == edits {
            let changes: Vec<&[u8]> = made.iter().map(Vec::as_slice).collect();
            connection.client.push(stream, &changes, 0)?;
            for change in &changes {
                history.changes.push(ChangeView::parse(change)?.hash());
                history.bytes += change.len() as u64;
            }
            made.clear();
            wait(&mut connection, stream, PUSHES_WAITING_MAX)?;
        }
    }
    wait(&mut connection, stream, 0)?;
    history.heads = heads.sorted();
    Ok(history)
}

/// Sends, and waits until at most so many pushes are not acked.
fn wait(connection: &mut Blocking, stream: StreamId, most: usize) -> Result<()> {
    connection.send()?;
    while connection.client.unacked(stream).count() > most {
        connection.receive(&mut |event| match event {
            Event::Refused { fault, .. } | Event::OpenFailed { fault, .. } | Event::Closed { fault, .. } => {
                bail!("the history could not be made: {fault}")
            }
            _ => Ok(()),
        })?;
        connection.send()?;
    }
    Ok(())
}
