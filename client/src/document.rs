//! An Automerge document kept in step with the server: for game servers and bots that want values, not
//! changes. Changes of others are gathered and applied together, because Automerge's cost of an application
//! grows with the document and hardly with the number of changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::{ActorId, AutoCommit, AutomergeError, Change, ChangeHash, LoadChangeError};
use etherply_wire::kinds::{ClockEntry, Cursor};
use etherply_wire::{ErrorCode, SQUASH_ACTOR_PREFIX};
use sha2::{Digest as _, Sha256};

use crate::client::{Client, StreamId};
use crate::error::{ClientError, RequestError};
use crate::event::{Changes, Event};
use crate::outbox::Push;
use crate::rewrite::{Lost, Rewritten, rewrite};
use crate::saved::{Saved, SavedCopy};
use crate::stream::OpenOptions;

/// Why a document could not take in what the server sent.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Bytes that are not a change.
    #[error("the server sent a change that Automerge cannot read: {0}")]
    Change(#[from] LoadChangeError),
    /// A change or a snapshot that cannot be applied.
    #[error("Automerge cannot apply what the server sent: {0}")]
    Apply(#[from] AutomergeError),
    /// Automerge panicked on what the server sent. The copy stays as it was before, and takes in nothing more until
    /// the server finds out as well, and the document begins anew.
    #[error(
        "Automerge panics on what the server sent: this copy stays as it is until the document begins anew"
    )]
    Broken,
    /// The server has another change than this copy under one actor's number: its log was put back to an older copy, or
    /// deleted, and went on otherwise, or this member's actor is somebody else's too. [`Document::start_over`].
    #[error("the server's history contradicts this copy ({0}): start over with the server's")]
    Contradicts(Box<AutomergeError>),
}

/// Why a document could not be saved or restored, or could not take in or give what it should.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection has to end.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The client does not take the last edits, or does not open the document.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Automerge cannot take in what there is.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// What the server waits for, with what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its log is another than the one that this member knew: both sides compare what they have.
    Reconcile(Vec<ClockEntry>),
    /// It lacks what a push builds upon, and nothing more is pushed until it has that.
    Supply(Vec<ClockEntry>),
}

/// Where the new copy is to come before the server said how far it goes.
const NOT_OPENED: Cursor = Cursor { epoch: u64::MAX, seq: u64::MAX, chain: [0; 32] };

/// A document and its stream. Edit it through [`Document::doc`], then call [`Document::push`].
#[derive(Debug)]
pub struct Document {
    stream: StreamId,
    doc: AutoCommit,
    received: Vec<Change>,
    /// Number of the last own change that was handed to the outbox.
    pushed_seq: u64,
    /// Heads behind which own changes that were not handed over may stand.
    pushed_heads: Vec<ChangeHash>,
    /// Actors that this member was, beside the one that it is.
    former: BTreeSet<ActorId>,
    /// Nothing received can be applied any more.
    is_broken: bool,
    /// Copies that were thrown away, until the new one is there.
    reset: Option<Reset>,
}

#[derive(Debug)]
struct Reset {
    olds: Vec<AutoCommit>,
    /// Pushed changes that may not be in any of them: they waited for what they build upon.
    unacked: HashMap<ChangeHash, Vec<u8>>,
    /// Own changes in them that were not pushed.
    unpushed: HashSet<ChangeHash>,
    /// The new copy is there when it has come so far.
    until: Cursor,
}

impl Document {
    /// An empty document for a stream.
    ///
    /// `actor` has to be fresh: the server refuses two different changes of one actor with one number, as a
    /// restored or cloned device would make them.
    pub fn new(stream: StreamId, actor: ActorId) -> Self {
        Self::with(stream, AutoCommit::new().with_actor(actor))
    }

    /// A document with contents from earlier, which are not pushed: open the stream with the cursor that was
    /// stored with them. Its actor has to be fresh.
    pub fn with(stream: StreamId, mut doc: AutoCommit) -> Self {
        let pushed_heads = doc.get_heads();
        Self {
            stream,
            doc,
            received: Vec::new(),
            pushed_seq: 0,
            pushed_heads,
            former: BTreeSet::new(),
            is_broken: false,
            reset: None,
        }
    }

    /// The stream.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// The document, to read and to edit. What was received since the last [`Document::apply`] is not in it.
    pub fn doc(&mut self) -> &mut AutoCommit {
        &mut self.doc
    }

    /// Gathers changes of others.
    ///
    /// # Errors
    /// [`DocumentError::Change`]; none of the frame's changes is taken then.
    pub fn receive(&mut self, changes: &Changes<'_>) -> Result<(), DocumentError> {
        let read: Result<Vec<_>, _> = changes.iter().map(Change::try_from).collect();
        self.received.append(&mut read?);
        Ok(())
    }

    /// Takes in a snapshot.
    ///
    /// # Errors
    /// [`DocumentError::Apply`]
    pub fn snapshot(&mut self, bytes: &[u8]) -> Result<(), DocumentError> {
        self.doc.load_incremental(bytes)?;
        Ok(())
    }

    /// Applies what was gathered, and tells how many changes it was.
    ///
    /// # Errors
    /// [`DocumentError::Apply`], [`DocumentError::Broken`], [`DocumentError::Contradicts`]
    pub fn apply(&mut self) -> Result<usize, DocumentError> {
        let received = std::mem::take(&mut self.received);
        let count = received.len();
        if self.is_broken {
            return if count > 0 { Err(DocumentError::Broken) } else { Ok(0) };
        }
        if count > 0 {
            let hashes: Vec<ChangeHash> = received.iter().map(Change::hash).collect();
            match catch_unwind(AssertUnwindSafe(|| self.doc.apply_changes(received))) {
                Ok(Err(error @ AutomergeError::DuplicateSeqNumber(..))) => {
                    return Err(DocumentError::Contradicts(Box::new(error)));
                }
                Ok(applied) => applied?,
                Err(_) => {
                    self.save_from(hashes.into_iter().collect());
                    return Err(DocumentError::Broken);
                }
            }
        }
        Ok(count)
    }

    /// A panic left the copy half changed: it is built again without what was to be applied.
    fn save_from(&mut self, received: HashSet<ChangeHash>) {
        self.is_broken = true;
        let actor = self.doc.get_actor().clone();
        let rebuilt = catch_unwind(AssertUnwindSafe(|| {
            let mut changes = self.doc.get_changes(&[]);
            changes.retain(|change| !received.contains(&change.hash()));
            let mut doc = AutoCommit::new().with_actor(actor.clone());
            doc.apply_changes(changes).map(|()| doc)
        }));
        self.doc = match rebuilt {
            Ok(Ok(doc)) => doc,
            // What was in it comes again from the server, except for what only this member has.
            _ => AutoCommit::new().with_actor(actor),
        };
    }

    /// [`Client::input`] for a program with this one document: takes in what is the document's own, gives the
    /// server what it asks for, under `tag`, and passes every event on.
    ///
    /// # Errors
    /// What [`Client::input`], [`Document::take`] and [`Document::answer`] say. The connection has to end.
    pub fn input(
        &mut self,
        client: &mut Client,
        bytes: &mut [u8],
        now_ms: u64,
        tag: u64,
        on_event: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), ExchangeError> {
        let (mut wanted, mut fault) = (None, None);
        client.input(bytes, now_ms, &mut |event| {
            on_event(&event);
            match self.take(&event) {
                Ok(answer) => wanted = answer.or(wanted.take()),
                Err(error) => _ = fault.get_or_insert(error),
            }
        })?;
        if let Some(error) = fault {
            return Err(error.into());
        }
        wanted.map_or(Ok(()), |answer| self.answer(client, answer, tag))
    }

    /// Takes in what an event brings for this document; events of other streams bring nothing. What it returns is
    /// to be given to [`Document::answer`] once the client is free again, after [`Client::input`].
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn take(&mut self, event: &Event<'_>) -> Result<Option<Answer>, DocumentError> {
        match event {
            Event::Changes { stream, changes, .. } if *stream == self.stream => self.receive(changes)?,
            Event::Snapshot { stream, bytes, .. } if *stream == self.stream => self.snapshot(bytes)?,
            Event::Reset { stream, cursor, unacked } if *stream == self.stream => {
                self.begin_reset(*cursor, unacked);
            }
            // It may have begun anew once more before the copy was there, or its log be another one, and shorter.
            Event::Opened { stream, cursor, .. } if *stream == self.stream => {
                if let Some(reset) = &mut self.reset {
                    reset.until = *cursor;
                }
            }
            Event::Reconcile { stream, clock } if *stream == self.stream => {
                return Ok(Some(Answer::Reconcile(clock.clone())));
            }
            Event::Refused { stream, fault, blocks: true, clock, .. } if *stream == self.stream => {
                let lacks =
                    matches!(fault.known(), Some(ErrorCode::MissingDependencies | ErrorCode::SequenceGap));
                return Ok(lacks.then(|| Answer::Supply(clock.clone())));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Sends the server what it lacks, as [`Document::take`] found; nothing if the stream has ended since, which the
    /// server may say right behind its question: it asks again when the stream is open again.
    ///
    /// # Errors
    /// What else [`Client::reconcile`] and [`Client::supply`] say, or something received cannot be applied.
    pub fn answer(&mut self, client: &mut Client, answer: Answer, tag: u64) -> Result<(), ExchangeError> {
        // The server's clock is to be compared with everything that this side has.
        self.apply()?;
        let given = match answer {
            Answer::Reconcile(clock) => self.reconcile(client, &clock, tag),
            Answer::Supply(clock) => self.supply(client, &clock, tag),
        };
        match given {
            Err(RequestError::NotAsked) => Ok(()),
            given => Ok(given?),
        }
    }

    /// Gives this copy up for the server's: after [`DocumentError::Contradicts`], or a push that is refused because the
    /// document began otherwise (`genesis_conflict`) or another edits by the same name (`actor_forked`). The document
    /// gets another stream, and this member goes on as a fresh actor; once the server's copy is there,
    /// [`Self::rewrite`] makes again what this member edited.
    ///
    /// # Errors
    /// What [`Client::close`] and [`Client::open`] say.
    pub fn start_over(&mut self, client: &mut Client, options: OpenOptions) -> Result<(), RequestError> {
        let given = client.close(self.stream)?;
        self.stream = client.open(OpenOptions { cursor: None, ..options })?;
        self.begin_reset(NOT_OPENED, &given);
        Ok(())
    }

    /// Throws the copy away, because the document began anew. This member goes on as a fresh actor.
    fn begin_reset(&mut self, until: Cursor, unacked: &[Push]) {
        let before = self.doc.get_actor().clone();
        // Told from the one before, so that nobody else has it: chance is not this type's to ask for.
        let mut name = Sha256::new_with_prefix(before.to_bytes());
        name.update(until.epoch.to_le_bytes());
        name.update(until.chain);
        let bytes: [u8; 32] = name.finalize().into();
        let fresh = ActorId::from(bytes.split_at(16).0);
        let mut old = std::mem::replace(&mut self.doc, AutoCommit::new().with_actor(fresh));
        let read = catch_unwind(AssertUnwindSafe(|| old.get_changes(&self.pushed_heads))).unwrap_or_default();
        let is_unpushed = |change: &&Change| *change.actor_id() == before && change.seq() > self.pushed_seq;
        let fresh_ones: Vec<ChangeHash> = read.iter().filter(is_unpushed).map(Change::hash).collect();
        self.former.insert(before);
        self.received = Vec::new();
        (self.pushed_seq, self.pushed_heads, self.is_broken) = (0, Vec::new(), false);
        let (mut olds, mut lacking, mut unpushed) = match self.reset.take() {
            Some(reset) => (reset.olds, reset.unacked, reset.unpushed),
            None => (Vec::new(), HashMap::new(), HashSet::new()),
        };
        olds.push(old);
        unpushed.extend(fresh_ones);
        for bytes in unacked.iter().flat_map(Push::changes) {
            if let Ok(change) = Change::try_from(bytes) {
                lacking.insert(change.hash(), bytes.to_vec());
            }
        }
        self.reset = Some(Reset { olds, unacked: lacking, unpushed, until });
    }

    /// Whether the document began anew, and its new copy is not there yet.
    pub fn is_resetting(&self) -> bool {
        self.reset.is_some()
    }

    /// Once a document that began anew is here: makes this member's own edits again that it lost. Call it after
    /// [`Client::input`], then [`Self::push`]. `None` if there was nothing to do, or it is not here yet.
    ///
    /// # Errors
    /// [`DocumentError`]: what was received cannot be applied.
    pub fn rewrite(&mut self, client: &Client) -> Result<Option<Rewritten>, DocumentError> {
        let Some(reset) = &self.reset else { return Ok(None) };
        let (at, until) = (client.cursor(self.stream), reset.until);
        let is_here = until.seq == 0 || at.is_some_and(|at| at.epoch == until.epoch && at.seq >= until.seq);
        if !is_here {
            return Ok(None);
        }
        self.apply()?;
        let Some(reset) = self.reset.take() else { return Ok(None) };
        let arrived = self.doc.get_changes_meta(&[]);
        let has: HashSet<ChangeHash> = arrived.iter().map(|change| change.hash).collect();
        let is_squash =
            arrived.iter().any(|change| change.actor.to_bytes().starts_with(&SQUASH_ACTOR_PREFIX));
        let unsaved: HashSet<ChangeHash> =
            reset.unacked.keys().copied().chain(reset.unpushed.iter().copied()).collect();
        let mut done = Rewritten::default();
        let mut unseen = reset.unacked;
        unseen.retain(|hash, _| !has.contains(hash));
        for mut old in reset.olds {
            let read = catch_unwind(AssertUnwindSafe(|| old.get_changes(&[])));
            let changes = read.unwrap_or_default();
            unseen.retain(|hash, _| changes.iter().all(|change| change.hash() != *hash));
            // What was acked is in a squashed document, in other changes. Those of a document from which something
            // was taken out are its own still, if there are any left.
            let is_saved_otherwise = is_squash && !changes.iter().any(|change| has.contains(&change.hash()));
            let is_own = |change: &Change| {
                self.former.contains(change.actor_id())
                    && !has.contains(&change.hash())
                    && (!is_saved_otherwise || unsaved.contains(&change.hash()))
            };
            let own: Vec<Change> = changes.into_iter().filter(is_own).collect();
            let Rewritten { rewritten, lost } = rewrite(&mut old, &mut self.doc, &own);
            done.rewritten += rewritten;
            done.lost.extend(lost);
        }
        let why = "what it builds upon was not in the copy, so what it did cannot be told";
        done.lost.extend(unseen.into_values().map(|change| Lost { change, why: why.to_owned() }));
        Ok(Some(done))
    }

    /// Hands the edits since the last push to the client's outbox, and tells how many changes they are.
    ///
    /// # Errors
    /// What [`Client::push`] says; the edits are handed over by the next call then.
    pub fn push(&mut self, client: &mut Client, tag: u64) -> Result<usize, RequestError> {
        self.doc.commit();
        let actor = self.doc.get_actor().clone();
        let new = self.doc.get_changes(&self.pushed_heads);
        let own = |change: &&Change| *change.actor_id() == actor && change.seq() > self.pushed_seq;
        let own: Vec<_> = new.iter().filter(own).collect();
        let bytes: Vec<&[u8]> = own.iter().map(|change| change.raw_bytes()).collect();
        let (mut rest, mut done) = (bytes.as_slice(), 0);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(client.fitting(rest));
            client.push(self.stream, now, tag)?;
            done += now.len();
            self.pushed_seq = own.get(done - 1).map_or(self.pushed_seq, |change| change.seq());
            rest = later;
        }
        self.pushed_heads = self.doc.get_heads();
        Ok(done)
    }

    /// Answers [`crate::Event::Reconcile`]: tells this document's clock and pushes what the server lacks.
    ///
    /// # Errors
    /// What [`Client::reconcile`] says.
    pub fn reconcile(
        &mut self,
        client: &mut Client,
        server: &[ClockEntry],
        tag: u64,
    ) -> Result<(), RequestError> {
        self.doc.commit();
        let changes = self.doc.get_changes(&[]);
        // In order, so that the same copy says the same.
        let mut clock: BTreeMap<&ActorId, &Change> = BTreeMap::new();
        for change in &changes {
            clock.insert(change.actor_id(), change);
        }
        let clock: Vec<ClockEntry> = clock
            .into_iter()
            .map(|(actor, last)| ClockEntry {
                actor: actor.to_bytes().to_vec(),
                seq: last.seq(),
                hash: last.hash().0,
            })
            .collect();
        let lacking = lacking(&changes, server);

        client.reconcile(self.stream, &clock, &lacking, tag)
    }
}

impl Document {
    /// Answers a [`crate::Event::Refused`] that blocks because the server lacks what the push builds upon, as
    /// after the server went back to an older copy of its log: pushes everything that is not in its clock.
    ///
    /// # Errors
    /// What [`Client::supply`] says.
    pub fn supply(
        &mut self,
        client: &mut Client,
        server: &[ClockEntry],
        tag: u64,
    ) -> Result<(), RequestError> {
        self.doc.commit();
        let changes = self.doc.get_changes(&[]);
        client.supply(self.stream, &lacking(&changes, server), tag)
    }
}

impl Document {
    /// Everything that this member has of the document, for a program that goes on with it later: a copy, its
    /// cursor, and the changes that are not acked. Edits that were not pushed yet are pushed, under `tag`.
    ///
    /// Write it so that it replaces the file of before in one step (a new file, synced, renamed), and do it
    /// before anything depends on an edit. Saving costs in proportion to the whole document; between two saves
    /// [`Client::save`] is enough to lose no edit.
    ///
    /// # Errors
    /// The outbox is full, or something received cannot be applied.
    pub fn save(&mut self, client: &mut Client, owner: &str, tag: u64) -> Result<Saved, ExchangeError> {
        // The cursor is beyond what was only gathered.
        self.apply()?;
        self.push(client, tag)?;
        let cursor = client.cursor(self.stream);
        let copy = SavedCopy { cursor, bytes: self.doc.save() };
        Ok(Saved { copy: Some(copy), ..client.save(self.stream, owner)? })
    }

    /// Goes on with what was saved: opens it on `client`, with its unacked changes in the outbox and in the
    /// document. `actor` has to be a fresh one: the program may have sent changes after it was saved. Without a
    /// copy, changes show once the server has sent what they build upon.
    ///
    /// # Errors
    /// The client does not open it, or Automerge cannot read the copy or the changes.
    pub fn restore(
        client: &mut Client,
        saved: &Saved,
        actor: ActorId,
        options: OpenOptions,
    ) -> Result<Self, ExchangeError> {
        let mut doc = match &saved.copy {
            Some(copy) => AutoCommit::load(&copy.bytes).map_err(DocumentError::from)?,
            None => AutoCommit::new(),
        };
        let changes = saved.pushes.iter().flat_map(Push::changes);
        let changes: Result<Vec<Change>, _> = changes.map(Change::try_from).collect();
        doc.apply_changes(changes.map_err(DocumentError::from)?).map_err(DocumentError::from)?;
        let stream = client.restore(saved, options)?;
        // Saved changes that are not acked are this member's own, whoever it was then.
        let pushed =
            saved.pushes.iter().flat_map(Push::changes).filter_map(|change| Change::try_from(change).ok());
        let former = pushed.map(|change| change.actor_id().clone()).collect();
        Ok(Self { former, ..Self::with(stream, doc.with_actor(actor)) })
    }
}

/// The changes that a side with this clock lacks, in causal order.
fn lacking<'c>(changes: &'c [Change], clock: &[ClockEntry]) -> Vec<&'c [u8]> {
    let has: HashMap<&[u8], u64> = clock.iter().map(|entry| (entry.actor.as_slice(), entry.seq)).collect();
    let lacks = |change: &&Change| {
        let known = has.get(change.actor_id().to_bytes()).copied().unwrap_or(0);
        change.seq() > known
    };
    changes.iter().filter(lacks).map(Change::raw_bytes).collect()
}
