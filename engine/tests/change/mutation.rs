//! What passes does not break Automerge: real changes are altered and put to both.

use std::{
    cell::Cell,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use automerge::{
    ActorId, Automerge, AutomergeError, Change, ObjType, ROOT, ReadDoc, Value,
    legacy::OpType,
    marks::{ExpandMark, Mark},
    transaction::Transactable,
};
use etherply_engine::change::{ChangeLimits, parse};

use super::{
    context::Context,
    generate::{Style, document},
    image::Image,
    mutate::mutate,
    rng::Rng,
};

/// Alterations tried by the test that runs each time.
const MUTATIONS: usize = 20_000;
/// Alterations of each change before another is taken.
pub const MUTATIONS_PER_CHANGE: usize = 50;

thread_local! {
    static EXPECTING_PANIC: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic, without the panic's message if it does.
fn panics<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !EXPECTING_PANIC.get() {
                hook(info);
            }
        }));
    });
    EXPECTING_PANIC.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    EXPECTING_PANIC.set(false);
    result.map_err(|payload| match payload.downcast::<String>() {
        Ok(message) => format!("panic: {message}"),
        Err(payload) => format!("panic: {}", payload.downcast_ref::<&str>().unwrap_or(&"?")),
    })
}

/// Applies a change to a copy of a document, and does with it what members and the server would.
pub fn automerge_takes(doc: &Automerge, change: &Change) -> Result<(), String> {
    panics(|| {
        let mut doc = doc.clone();
        doc.apply_changes([change.clone()]).map_err(|error| format!("apply: {error}"))?;
        if doc.get_change_by_hash(&change.hash()).map(|change| change.hash()) != Some(change.hash()) {
            return Err("another hash after a rebuild".to_owned());
        }
        let saved = doc.save();
        let loaded = Automerge::load(&saved).map_err(|error| format!("load: {error}"))?;
        if loaded.get_heads() != doc.get_heads() {
            return Err("other heads after a load".to_owned());
        }
        if loaded.get_changes(&[]).len() != doc.get_changes(&[]).len() {
            return Err("other changes after a load".to_owned());
        }
        let (before, after) = (doc.hydrate(None), loaded.hydrate(None));
        // A NaN is not equal to itself.
        if before != after && !format!("{before:?}").contains("NaN") {
            return Err("another value after a load".to_owned());
        }
        if marks_are_paired(change) { goes_on(loaded) } else { Ok(()) }
            .map_err(|error| format!("later: {error}"))
    })
    .and_then(|result| result)
}

/// A mark that fails half-way leaves only its beginning, which an honest author may keep. It lasts to the
/// text's end. Debug builds of Automerge then assert something that no longer holds when the text is
/// edited, release builds do not.
fn marks_are_paired(change: &Change) -> bool {
    let ops = change.decode().operations;
    let begins = ops.iter().filter(|op| matches!(op.action, OpType::MarkBegin(_))).count();
    let ends = ops.iter().filter(|op| matches!(op.action, OpType::MarkEnd(_))).count();
    begins == ends
}

/// Edits a document further, as a member would who got the change.
fn goes_on(mut doc: Automerge) -> Result<(), AutomergeError> {
    doc.set_actor(ActorId::from(vec![0xee; 16]));
    let mut transaction = doc.transaction();
    for key in transaction.keys(ROOT).collect::<Vec<_>>() {
        match transaction.get(ROOT, &key)? {
            Some((Value::Object(ObjType::Text), text)) => {
                transaction.splice_text(&text, 0, 0, "before ")?;
                let len = transaction.length(&text);
                let mark = Mark::new("later".to_owned(), true, 0, len);
                transaction.mark(&text, mark, ExpandMark::Both)?;
            }
            Some((Value::Object(ObjType::List), list)) => transaction.insert(&list, 0, 1)?,
            _ => transaction.delete(ROOT, &key)?,
        }
    }
    transaction.commit();
    Automerge::load(&doc.save()).map(drop)
}

#[derive(Default, Debug)]
struct Tally {
    mutations: usize,
    refused: BTreeMap<&'static str, usize>,
    unchanged: usize,
    passed: usize,
    /// Passed, but the document's clock and hashes say no: never put to Automerge.
    header_unfit: usize,
    /// Passed, the header fits, but a reference does not; and how many of these Automerge broke on.
    references_unfit: usize,
    references_unfit_broken: BTreeMap<String, usize>,
    /// Passed, fits, and Automerge broke on it all the same: what this test is for.
    broken: Vec<(String, Vec<u8>)>,
}

impl Tally {
    fn try_one(&mut self, context: &Context, doc: &Automerge, original: &[u8], mutated: &[u8]) {
        self.mutations += 1;
        let parsed = match parse(mutated, &ChangeLimits::DEFAULT) {
            Ok(parsed) => parsed,
            Err(error) => {
                *self.refused.entry(error.code()).or_default() += 1;
                return;
            }
        };
        if mutated == original {
            self.unchanged += 1;
            return;
        }
        self.passed += 1;
        let change = match Change::from_bytes(mutated.to_vec()) {
            Ok(change) => change,
            Err(error) => return self.broken.push((format!("read: {error}"), mutated.to_vec())),
        };
        assert_eq!(change.hash().0, parsed.hash.0);
        if !context.header_fits(&change) {
            self.header_unfit += 1;
        } else if !context.references_fit(&change) {
            self.references_unfit += 1;
            if let Err(reason) = automerge_takes(doc, &change) {
                *self.references_unfit_broken.entry(kind(&reason)).or_default() += 1;
            }
        } else if let Err(reason) = automerge_takes(doc, &change) {
            self.broken.push((reason, mutated.to_vec()));
        }
    }
}

/// A reason without the ids and hashes in it.
pub fn kind(reason: &str) -> String {
    let words = reason.split_whitespace().take_while(|word| !word.contains(['(', '"', '{']));
    words.collect::<Vec<_>>().join(" ")
}

/// Alters changes of random histories, each against the document as it was before that change.
fn run(seed: u64, mutations: usize) -> Tally {
    let mut rng = Rng(seed);
    let mut tally = Tally::default();
    while tally.mutations < mutations {
        let style = if rng.one_in(4) { Style::Text } else { Style::Mixed };
        let edits = 10 + rng.below(60);
        let mut history = document(rng.next(), edits, style);
        let changes = history.get_changes(&[]);
        let target = rng.below(changes.len());
        let mut context = Context::default();
        changes[..target].iter().for_each(|change| context.add(change));
        let mut doc = Automerge::new();
        doc.apply_changes(changes[..target].iter().cloned()).unwrap();
        let original = changes[target].raw_bytes();
        assert_eq!(Image::decode(original).encode(), original);
        assert!(context.header_fits(&changes[target]));
        assert!(context.references_fit(&changes[target]));
        for _ in 0..MUTATIONS_PER_CHANGE {
            let mutated = mutate(&mut rng, original);
            tally.try_one(&context, &doc, original, &mutated);
        }
    }
    tally
}

#[test]
fn what_passes_does_not_break_automerge() {
    let seed = std::env::var("ETHERPLY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mutations =
        std::env::var("ETHERPLY_MUTATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(MUTATIONS);
    let tally = run(seed, mutations);
    let mut reasons = BTreeMap::<&str, usize>::new();
    tally.broken.iter().for_each(|(reason, _)| *reasons.entry(reason).or_default() += 1);
    println!("seed {seed}: {} mutations, {} passed", tally.mutations, tally.passed);
    println!("refused: {:#?}", tally.refused);
    println!("unchanged {}, header unfit {}", tally.unchanged, tally.header_unfit);
    println!("references unfit {}: {:#?}", tally.references_unfit, tally.references_unfit_broken);
    println!("broken: {reasons:#?}");
    assert!(tally.passed > mutations / 50, "too few pass to say anything: {}", tally.passed);
    assert!(tally.broken.is_empty(), "Automerge broke on {} changes that passed", tally.broken.len());
}
