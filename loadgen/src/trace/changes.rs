//! Genuine changes of a recording: each transaction is edited into an Automerge document that holds exactly
//! its parents and what they build upon, by an actor of its agent.
//!
//! An agent has one document and one actor as long as its transactions build upon each other. One that does
//! not contain the agent's last is a branch with a document and an actor of its own: an actor's changes have
//! to follow each other. So a change's dependencies are the recording's parents, whatever a connection has
//! been sent by the time at which it is pushed: an early delivery is a message that the agent has not looked at
//! yet, and the recorded concurrency stays as it was.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, bail};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, Change, LoadOptions, ObjType, ROOT, ReadDoc, TextEncoding};
use etherply_client::change::ChangeHash;

use crate::trace::file::{Recording, Transaction};

/// Most actors of a recording: its agents and their branches.
pub const TRACE_ACTORS_MAX: usize = 1_024;
/// Where the text stands in the document.
pub const KEY: &str = "text";
/// Recordings count code points.
pub const ENCODING: TextEncoding = TextEncoding::UnicodeCodePoint;

/// A recording as changes. The first one makes the text with what stands in it before the first transaction;
/// then comes one for each transaction.
#[derive(Debug)]
pub struct Edits {
    pub made: Vec<Made>,
    by_hash: HashMap<ChangeHash, u32>,
    /// Heads of the whole document, sorted.
    pub heads: Vec<ChangeHash>,
    /// The text that everybody has to end with.
    pub end: String,
    pub agents: u32,
}

/// A change.
#[derive(Debug)]
pub struct Made {
    pub bytes: Box<[u8]>,
    pub agent: u32,
    /// Changes of other agents that it depends on: its author has to have received them.
    pub needs: Vec<u32>,
}

/// One actor with its document.
struct Lane {
    agent: u32,
    doc: AutoCommit,
    /// How many changes of each lane the document holds.
    has: Vec<u32>,
    /// Its own changes.
    own: Vec<u32>,
}

/// Everything made so far.
struct Maker {
    run: u64,
    lanes: Vec<Lane>,
    made: Vec<Made>,
    by_hash: HashMap<ChangeHash, u32>,
    /// The lanes' counts at each change.
    clocks: Vec<Vec<u32>>,
}

impl Edits {
    /// Makes a recording's changes, under actors that no other `run` has. `progress` is told of each tenth.
    pub fn make(recording: &Recording, run: u64, mut progress: impl FnMut(usize)) -> Result<Self> {
        let mut maker =
            Maker { run, lanes: Vec::new(), made: Vec::new(), by_hash: HashMap::new(), clocks: Vec::new() };
        maker.begin(&recording.start)?;
        for (number, transaction) in recording.transactions.iter().enumerate() {
            maker.add(transaction).with_context(|| format!("transaction {number}"))?;
            if number % (recording.transactions.len() / 10).max(1) == 0 {
                progress(number);
            }
        }
        let Maker { made, by_hash, .. } = maker;
        let mut edits =
            Self { made, by_hash, heads: Vec::new(), end: String::new(), agents: recording.agents };
        let (text, heads) = edits.build(0..u32::try_from(edits.made.len())?)?;
        if recording.end.as_ref().is_some_and(|end| *end != text) {
            bail!("the recorded edits lead to another text than the recorded end");
        }
        (edits.end, edits.heads) = (text, heads);
        Ok(edits)
    }

    /// The number of a change.
    pub fn number_of(&self, hash: &ChangeHash) -> Option<u32> {
        self.by_hash.get(hash).copied()
    }

    /// How many of these changes are not in a stored document.
    pub fn missing(&self, stored: &[u8], wanted: impl Iterator<Item = u32>) -> u64 {
        let mut doc = AutoCommit::load(stored).unwrap_or_default();
        let has: HashSet<u32> =
            doc.get_changes(&[]).iter().filter_map(|change| self.number_of(&change.hash().0)).collect();
        wanted.filter(|number| !has.contains(number)).count() as u64
    }

    /// The text and the sorted heads of a document with these changes.
    pub fn build(&self, numbers: impl Iterator<Item = u32>) -> Result<(String, Vec<ChangeHash>)> {
        let mut bytes = Vec::new();
        for number in numbers {
            bytes.extend_from_slice(
                &self.made.get(number as usize).context("a change that was not made")?.bytes,
            );
        }
        text_of(&bytes)
    }
}

/// The text and the sorted heads of a document, from the bytes of its changes or of a saved document.
pub fn text_of(bytes: &[u8]) -> Result<(String, Vec<ChangeHash>)> {
    let options = LoadOptions::new().text_encoding(ENCODING);
    let mut doc = AutoCommit::load_with_options(bytes, options).context("Automerge cannot load it")?;
    let mut heads: Vec<ChangeHash> = doc.get_heads().iter().map(|head| head.0).collect();
    heads.sort_unstable();
    Ok((text_in(&doc)?, heads))
}

/// A document's text.
pub fn text_in(doc: &AutoCommit) -> Result<String> {
    let text = doc.get(ROOT, KEY)?.context("the document has no text")?.1;
    Ok(doc.text(text)?)
}

impl Maker {
    fn begin(&mut self, start: &str) -> Result<()> {
        self.lane(0)?;
        let lane = self.lanes.first_mut().context("a lane was just made")?;
        let text = lane.doc.put_object(ROOT, KEY, ObjType::Text)?;
        lane.doc.splice_text(&text, 0, 0, start)?;
        self.commit(0, Vec::new())
    }

    fn lane(&mut self, agent: u32) -> Result<usize> {
        let index = self.lanes.len();
        if index >= TRACE_ACTORS_MAX {
            bail!("its agents branch into more than {TRACE_ACTORS_MAX} actors");
        }
        let mut actor = [0; 16];
        let parts = self.run.to_be_bytes().into_iter().chain((index as u64).to_be_bytes());
        actor.iter_mut().zip(parts).for_each(|(byte, part)| *byte = part);
        let doc = AutoCommit::new_with_encoding(ENCODING).with_actor(ActorId::from(&actor[..]));
        self.lanes.push(Lane { agent, doc, has: Vec::new(), own: Vec::new() });
        Ok(index)
    }

    fn add(&mut self, transaction: &Transaction) -> Result<()> {
        // The text's own change stands before all transactions, and is what those without parents edit.
        let mut parents: Vec<u32> = transaction.parents.iter().map(|parent| parent + 1).collect();
        if parents.is_empty() {
            parents.push(0);
        }
        let mut wanted = Vec::new();
        for &parent in &parents {
            let clock = self.clocks.get(parent as usize).context("a parent that is not there")?;
            merge(&mut wanted, clock);
        }
        let follows = |(index, lane): (usize, &Lane)| {
            lane.agent == transaction.agent && lane.own.len() <= count(&wanted, index) as usize
        };
        let found = self.lanes.iter().enumerate().position(follows);
        let index = match found {
            Some(index) => index,
            None => self.lane(transaction.agent)?,
        };
        self.bring_up(index, &wanted)?;
        let lane = self.lanes.get_mut(index).context("the lane was just found")?;
        let text = lane.doc.get(ROOT, KEY)?.context("the document has no text")?.1;
        for (number, patch) in transaction.patches.iter().enumerate() {
            let length = lane.doc.length(&text);
            let end = patch.position.checked_add(patch.deleted);
            if end.is_none_or(|end| end > length) {
                bail!(
                    "patch {number} deletes {} characters at {}, beyond the text's {length}",
                    patch.deleted,
                    patch.position
                );
            }
            lane.doc.splice_text(&text, patch.position, isize::try_from(patch.deleted)?, &patch.inserted)?;
        }
        self.commit(index, parents)
    }

    /// Gives a lane's document exactly what is wanted; it never holds more, because its last change is among it.
    fn bring_up(&mut self, index: usize, wanted: &[u32]) -> Result<()> {
        let has = self.lanes.get(index).context("a lane that is not there")?.has.clone();
        let mut missing: Vec<u32> = Vec::new();
        for (other, lane) in self.lanes.iter().enumerate() {
            let (from, to) = (count(&has, other) as usize, count(wanted, other) as usize);
            missing.extend(lane.own.get(from..to).unwrap_or_default());
        }
        // A recording's order is causal.
        missing.sort_unstable();
        let changes: Result<Vec<Change>> = missing
            .iter()
            .map(|&number| {
                let made = self.made.get(number as usize).context("a change that was not made")?;
                Ok(Change::try_from(&*made.bytes)?)
            })
            .collect();
        let lane = self.lanes.get_mut(index).context("a lane that is not there")?;
        if !missing.is_empty() {
            lane.doc.apply_changes(changes?)?;
            merge(&mut lane.has, wanted);
        }
        Ok(())
    }

    /// Keeps what a lane's document was just edited to as a change, an empty one if nothing was edited.
    fn commit(&mut self, index: usize, parents: Vec<u32>) -> Result<()> {
        let number = u32::try_from(self.made.len())?;
        let lane = self.lanes.get_mut(index).context("a lane that is not there")?;
        let hash = match lane.doc.commit() {
            Some(hash) => hash,
            None => lane.doc.empty_change(CommitOptions::default()),
        };
        let change = lane.doc.get_change_by_hash(&hash).context("a change that was just made")?;
        lane.own.push(number);
        if lane.has.len() <= index {
            lane.has.resize(index + 1, 0);
        }
        if let Some(own) = lane.has.get_mut(index) {
            *own += 1;
        }
        self.clocks.push(lane.has.clone());
        let agent = lane.agent;
        let others = |&parent: &u32| self.made.get(parent as usize).is_some_and(|made| made.agent != agent);
        let needs = parents.into_iter().filter(others).collect();
        self.made.push(Made { bytes: change.raw_bytes().into(), agent, needs });
        self.by_hash.insert(hash.0, number);
        Ok(())
    }
}

fn count(clock: &[u32], lane: usize) -> u32 {
    clock.get(lane).copied().unwrap_or(0)
}

fn merge(clock: &mut Vec<u32>, other: &[u32]) {
    if clock.len() < other.len() {
        clock.resize(other.len(), 0);
    }
    clock.iter_mut().zip(other).for_each(|(own, &other)| *own = (*own).max(other));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::file::tests::parse;
    use etherply_client::change::ChangeView;

    fn make(json: &str) -> Result<Edits> {
        Edits::make(&parse(json).unwrap(), 7, |_| {})
    }

    fn concurrent(end: &str, agents: u32, transactions: &[(u32, &[u32], &str)]) -> String {
        let transactions: Vec<String> = transactions
            .iter()
            .map(|(agent, parents, patches)| {
                format!(r#"{{"agent":{agent},"parents":{parents:?},"patches":[{patches}]}}"#)
            })
            .collect();
        let transactions = transactions.join(",");
        format!(
            r#"{{"kind":"concurrent","endContent":"{end}","numAgents":{agents},"txns":[{transactions}]}}"#
        )
    }

    #[test]
    fn a_sequence_becomes_a_chain_of_one_actor_in_code_points() {
        let json = r#"{"startContent":"🦀é","endContent":"🦀ab","txns":[
            {"patches":[[2,0,"b"],[1,1,""]]},{"patches":[]},{"patches":[[1,0,"a"]]}]}"#;
        let edits = make(json).unwrap();
        assert_eq!((edits.made.len(), edits.heads.len()), (4, 1));
        let views: Vec<_> = edits.made.iter().map(|made| ChangeView::parse(&made.bytes).unwrap()).collect();
        for (before, after) in views.iter().zip(&views[1..]) {
            assert_eq!(after.deps(), [before.hash()]);
            assert_eq!((after.actor(), after.seq()), (before.actor(), before.seq() + 1));
        }
        assert_eq!(views[2].ops().unwrap(), 0, "a transaction without a patch is an empty change");
        assert_eq!(edits.number_of(&views[3].hash()), Some(3));
        assert!(edits.made.iter().all(|made| made.needs.is_empty()));
        let stored = edits.made[..3].iter().flat_map(|made| made.bytes.to_vec()).collect::<Vec<_>>();
        assert_eq!((edits.missing(&stored, 0..4), edits.missing(&stored, 0..3)), (1, 0));
        assert_eq!(edits.missing(b"not a document", 0..4), 4);
    }

    #[test]
    fn concurrent_edits_depend_on_their_parents_and_on_nothing_else() {
        let json = concurrent(
            "xaby",
            2,
            &[
                (0, &[], r#"[0,0,"ab"]"#),
                (0, &[0], r#"[0,0,"x"]"#),
                (1, &[0], r#"[2,0,"y"]"#),
                (1, &[1, 2], ""),
            ],
        );
        let edits = make(&json).unwrap();
        let views: Vec<_> = edits.made.iter().map(|made| ChangeView::parse(&made.bytes).unwrap()).collect();
        assert_eq!(views[3].deps(), [views[1].hash()], "made without what the other wrote meanwhile");
        let mut both = [views[2].hash(), views[3].hash()];
        both.sort_unstable();
        assert_eq!(views[4].deps(), both);
        let needs: Vec<_> = edits.made.iter().map(|made| made.needs.clone()).collect();
        assert_eq!(needs, [vec![], vec![], vec![], vec![1], vec![2]]);
    }

    #[test]
    fn an_agent_that_branches_goes_on_under_another_actor() {
        let json = concurrent(
            "1ab2",
            1,
            &[
                (0, &[], r#"[0,0,"ab"]"#),
                (0, &[0], r#"[0,0,"1"]"#),
                (0, &[0], r#"[2,0,"2"]"#),
                (0, &[1, 2], ""),
            ],
        );
        let edits = make(&json).unwrap();
        let views: Vec<_> = edits.made.iter().map(|made| ChangeView::parse(&made.bytes).unwrap()).collect();
        assert_ne!(views[2].actor(), views[3].actor());
        assert_eq!(views[3].deps(), [views[1].hash()]);
        assert_eq!(edits.heads, [views[4].hash()]);
    }

    #[test]
    fn a_recording_that_contradicts_itself_is_refused() {
        let wrong_end = r#"{"endContent":"b","txns":[{"patches":[[0,0,"a"]]}]}"#;
        assert!(make(wrong_end).unwrap_err().to_string().contains("another text"));
        for patch in ["[2,0,\"a\"]", "[0,2,\"\"]", "[1,18446744073709551615,\"\"]"] {
            let json = format!(r#"{{"startContent":"é","endContent":"b","txns":[{{"patches":[{patch}]}}]}}"#);
            let error = format!("{:#}", make(&json).unwrap_err());
            assert!(error.contains("transaction 0: patch 0 deletes"), "{error}");
        }
    }

    #[test]
    fn actors_are_bounded() {
        let branches = |actors: usize| {
            // The text's own actor is the first; the rest branches off from it.
            let branch = r#"{"agent":0,"parents":[0],"patches":[]}"#;
            let first = r#"{"agent":0,"parents":[],"patches":[]}"#.to_owned();
            let all: Vec<String> = std::iter::once(first).chain(vec![branch.to_owned(); actors]).collect();
            let all = all.join(",");
            make(&format!(r#"{{"kind":"concurrent","endContent":"","numAgents":1,"txns":[{all}]}}"#))
        };
        assert!(branches(TRACE_ACTORS_MAX - 1).is_ok());
        assert!(branches(TRACE_ACTORS_MAX).is_ok());
        assert!(branches(TRACE_ACTORS_MAX + 1).is_err());
    }
}
