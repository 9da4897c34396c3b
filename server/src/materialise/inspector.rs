//! The thread that finds which change breaks a document, and gives the document a new epoch without it.
//!
//! That costs as much as the document is long, so it is done apart from the materialisers, one document after the
//! other. First the change is found while the document goes on. Then the document's home core ends its members'
//! streams and asks for the new epoch when nothing is on its way to the disk any more.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use etherply_engine::ids::DocumentId;
use etherply_engine::log::{Append, LogError, LogReader as _, Past};
use etherply_engine::record::Record;
use flume::Receiver;

use super::ask::Asked;
use super::due::Due;
use super::passage::{Culprit, Passage};
use super::quarantine::{Exclusion, QUARANTINE_BYTES_MAX, QUARANTINE_DESCRIPTIONS_MAX, Quarantine};
use super::squash::{SquashError, Squashed, squash};
use super::table_of;
use crate::clock::now_ms;
use crate::metrics::Metrics;
use crate::storage::database::panic_text;
use crate::storage::{Anew, Committer, Reader, Turn};

/// Most changes that are found to break one document in one go. Each costs a pass over the document.
pub const CULPRITS_MAX: usize = 1_000;
/// How often a document in which nothing was found is built again before it changes.
pub const SPARED_MAX: u32 = 3;
/// Most documents that wait to be inspected, and most of which it is known what breaks them and whose homes were told;
/// others are found again when they change.
pub const INSPECTIONS_MAX: usize = 1_024;
/// Most documents that wait to be squashed.
pub const SQUASHES_MAX: usize = 64;
/// Most tasks that wait for the inspector: those inspections, and what the homes that were told ask for. Beyond,
/// whoever asks is refused.
pub const TASKS_MAX: usize = 2 * INSPECTIONS_MAX + 2 * SQUASHES_MAX;

/// Tells a document's home core that it has to begin anew.
pub type Quarantining = Arc<dyn Fn(DocumentId) + Send + Sync>;
/// Gets the outcome of a rebuild.
pub type Rebuilt = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// Gets the outcome of a squash: `None` for a document of which nothing is stored.
pub type SquashAnswer = Box<dyn FnOnce(Result<Option<Squashed>, SquashError>) + Send>;

/// What the thread is asked for.
pub enum Task {
    /// Find out what breaks this document.
    Inspect(DocumentId),
    /// Give this document an epoch without what breaks it.
    Rebuild(DocumentId, Rebuilt),
    /// Give this document an epoch without its history.
    Squash(DocumentId, SquashAnswer),
    /// End.
    Stop,
}

impl Asked for Task {
    fn refuse(self, why: &str) {
        let error = LogError::Unavailable { why: why.to_owned() };
        match self {
            Self::Rebuild(_, rebuilt) => rebuilt(Err(error)),
            Self::Squash(_, answer) => answer(Err(error.into())),
            Self::Inspect(_) | Self::Stop => {}
        }
    }
}

/// What the thread works with.
pub struct Inspector {
    pub(super) reader: Reader,
    pub(super) committer: Committer,
    pub(super) quarantine: Quarantine,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tables: Arc<[Arc<Due>]>,
    pub(super) tell_home: Quarantining,
    /// What was found in documents whose homes were told.
    pub(super) known: HashMap<DocumentId, Vec<Culprit>>,
    /// Documents in which nothing was found, with their position then, and how often there.
    pub(super) spared: HashMap<DocumentId, (u64, u32)>,
    /// Documents that are to be squashed, whose homes were told.
    pub(super) squashes: HashMap<DocumentId, SquashAnswer>,
}

impl Inspector {
    /// Works until it is told to stop, or nobody can ask any more.
    pub(super) fn run(mut self, tasks: &Receiver<Task>) {
        while let Ok(task) = tasks.recv() {
            match task {
                Task::Stop => return,
                Task::Inspect(document) => {
                    let outcome = contained(|| self.inspect(&document));
                    if let Err(error) = outcome {
                        tracing::error!("cannot find out what breaks {document}: {error}");
                        self.give_back(&document, false);
                    }
                }
                Task::Squash(document, answer) => self.begin_squash(document, answer),
                Task::Rebuild(document, rebuilt)
                    if self.squashes.contains_key(&document) && !self.known.contains_key(&document) =>
                {
                    if let Some(answer) = self.squashes.remove(&document) {
                        answer(self.squash(&document));
                    }
                    // However it went, the document is what is stored.
                    rebuilt(Ok(()));
                    self.give_back(&document, true);
                }
                Task::Rebuild(document, rebuilt) => {
                    let outcome = contained(|| self.rebuild(&document));
                    self.known.remove(&document);
                    if let Err(error) = &outcome {
                        tracing::error!("{document} could not begin anew, and stays as it is: {error}");
                        self.count("not_rebuilt");
                    }
                    let looks = outcome.is_ok();
                    rebuilt(outcome);
                    self.give_back(&document, looks);
                    if self.squashes.contains_key(&document) {
                        (self.tell_home)(document);
                    }
                }
            }
        }
    }

    /// A squash is made when the document's home has ended its members' streams, and asks for the new epoch.
    fn begin_squash(&mut self, document: DocumentId, answer: SquashAnswer) {
        if self.squashes.len() >= SQUASHES_MAX || self.squashes.contains_key(&document) {
            let what = format!("it is being squashed already, or {SQUASHES_MAX} others are: try again later");
            return answer(Err(SquashError::Content { document, what }));
        }
        self.squashes.insert(document.clone(), answer);
        (self.tell_home)(document);
    }

    fn squash(&self, document: &DocumentId) -> Result<Option<Squashed>, SquashError> {
        let failed = |what: String| SquashError::Content { document: document.clone(), what };
        let mut actor = [0; 16];
        getrandom::fill(&mut actor).map_err(|error| failed(error.to_string()))?;
        let squashed = squash(&self.reader, &self.committer, document, (actor, now_ms()))?;
        if let Some(Squashed { epoch, changes_before, changes }) = squashed {
            tracing::info!(
                "{document} was squashed: {changes} changes of epoch {epoch} for {changes_before}"
            );
        }
        Ok(squashed)
    }

    fn count(&self, kind: &str) {
        self.metrics.materialiser_failures.with_label_values(&[kind]).inc();
    }

    /// The document is its materialiser's work again.
    fn give_back(&self, document: &DocumentId, looks: bool) {
        table_of(&self.tables, document).give_back(document, looks);
    }

    /// Nothing is to blame: Automerge's failure had another cause, or comes only of all changes together. Whether
    /// the document is to be built again at once.
    fn spare(&mut self, document: &DocumentId, last_seq: u64) -> bool {
        if self.spared.len() >= INSPECTIONS_MAX {
            self.spared.clear();
        }
        let (seq, times) = self.spared.entry(document.clone()).or_insert((last_seq, 0));
        if *seq != last_seq {
            (*seq, *times) = (last_seq, 0);
        }
        *times += 1;
        *times <= SPARED_MAX
    }

    fn inspect(&mut self, document: &DocumentId) -> Result<(), LogError> {
        let Some(head) = self.reader.head(document)? else {
            self.give_back(document, false);
            return Ok(());
        };
        let (from, excluded) = ((head.epoch, head.last_seq), HashSet::new());
        let passage =
            Passage { reader: &self.reader, document, from, epoch: head.epoch, excluded: &excluded };
        let Some(culprit) = passage.culprit()? else {
            self.count("transient");
            let looks = self.spare(document, head.last_seq);
            if looks {
                tracing::warn!("Automerge failed on {document}, and not again: nothing is taken out of it");
            } else {
                tracing::error!(
                    "Automerge fails on {document} again and again, and no single change is to blame: its changes \
                     are not validated until it changes again"
                );
            }
            self.give_back(document, looks);
            return Ok(());
        };
        if self.known.len() >= INSPECTIONS_MAX {
            let why =
                "too many documents are to begin anew: it is inspected again when it changes".to_owned();
            return Err(LogError::Unavailable { why });
        }
        tracing::error!(
            "{document} begins anew without change {} of actor {}, which breaks it: {}. Members take the new \\
             document by themselves. `etherply quarantine list` shows what was taken out.",
            culprit.hash,
            culprit.actor,
            culprit.what
        );
        self.count("poison");
        self.known.insert(document.clone(), vec![culprit]);
        (self.tell_home)(document.clone());
        Ok(())
    }

    /// Nothing is on its way to the disk for the document, and nothing is taken until the answer.
    fn rebuild(&mut self, document: &DocumentId) -> Result<(), LogError> {
        let Some(head) = self.reader.head(document)? else { return Ok(()) };
        let (reader, from) = (&self.reader, (head.epoch, head.last_seq));
        let epoch = reader.free_epoch(document)?;
        let mut culprits = self.known.remove(document).unwrap_or_default();
        let none = HashSet::new();
        let old = Passage { reader, document, from, epoch: head.epoch, excluded: &none };
        let excluded = loop {
            let excluded = old.with_dependants(&culprits)?;
            match (Passage { reader, document, from, epoch, excluded: &excluded }).culprit()? {
                None => break excluded,
                Some(_) if culprits.len() >= CULPRITS_MAX => {
                    let why = format!("more than {CULPRITS_MAX} changes of {document} break it");
                    return Err(LogError::Unavailable { why });
                }
                Some(culprit) => culprits.push(culprit),
            }
        };
        if culprits.is_empty() {
            return Ok(());
        }
        let kept = self.keep(&old, epoch, &culprits, &excluded)?;
        let new = Passage { reader, document, from, epoch, excluded: &excluded };
        self.store(&new, &culprits)?;
        self.metrics.quarantined_documents.inc();
        self.metrics.quarantined_changes.inc_by(kept.changes_count);
        self.quarantine.tell(document, kept.changes_count);
        tracing::warn!(
            "{document} has begun anew in epoch {epoch}, without {} changes of {} bytes",
            kept.changes_count,
            kept.bytes
        );
        Ok(())
    }

    /// Writes down what is taken out.
    fn keep(
        &self,
        old: &Passage<'_>,
        epoch: u64,
        culprits: &[Culprit],
        excluded: &HashSet<etherply_engine::change::ChangeHash>,
    ) -> Result<Exclusion, LogError> {
        let failed = |error: std::io::Error| LogError::Unavailable {
            why: format!("cannot keep what is taken out of {}: {error}", old.document),
        };
        let time_ms = now_ms();
        let reasons = culprits.iter().map(|culprit| culprit.what.clone()).collect();
        let mut excluding =
            self.quarantine.begin(old.document, (old.from.0, epoch), time_ms, reasons).map_err(failed)?;
        old.each(u64::MAX, |records| {
            for record in records.iter().filter(|record| excluded.contains(&record.hash)) {
                let is_culprit = culprits.iter().any(|culprit| culprit.hash == record.hash);
                excluding.add(record, is_culprit).map_err(failed)?;
            }
            Ok::<(), LogError>(())
        })?;
        let exclusion = excluding.finish().map_err(failed)?;
        match self.quarantine.trim(QUARANTINE_BYTES_MAX, QUARANTINE_DESCRIPTIONS_MAX) {
            Ok(0) => {}
            Ok(gone) => {
                tracing::warn!("{gone} files of changes that were excluded earlier were removed to make room")
            }
            Err(error) => tracing::warn!("cannot make room for excluded changes: {error}"),
        }
        Ok(exclusion)
    }

    /// Stores the passage and makes its epoch the document's.
    fn store(&self, new: &Passage<'_>, culprits: &[Culprit]) -> Result<(), LogError> {
        let (document, epoch) = (new.document.clone(), new.epoch);
        let append = |records| Append { document: document.clone(), epoch, records };
        let mut last: Vec<Record> = Vec::new();
        new.each(u64::MAX, |records| {
            let before = std::mem::replace(&mut last, records);
            match before.is_empty() {
                true => Ok(()),
                false => self.committer.begin_anew(Anew::Stage(append(before))),
            }
        })?;
        let mut past = self.reader.past(&document)?;
        past.excluded.retain(|actor| culprits.iter().all(|culprit| culprit.actor != *actor));
        past.excluded.extend(culprits.iter().map(|culprit| culprit.actor.clone()));
        past.excluded.dedup();
        let past = Past { reset_epoch: epoch, ..past };
        let turn = Turn { document: document.clone(), from: new.from, append: append(last), past };
        self.committer.begin_anew(Anew::Turn(Box::new(turn)))
    }
}

/// Runs what may panic on changes that Automerge cannot digest.
fn contained(work: impl FnOnce() -> Result<(), LogError>) -> Result<(), LogError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let why = format!("it panicked: {}", panic_text(&*panic));
        Err(LogError::Unavailable { why })
    })
}
