//! How many altered changes pass admission, the document's part of it included, and how many of these Automerge
//! cannot digest: what quarantine has to catch. `cargo xtask admission` runs it over very many.

use std::collections::BTreeMap;

use automerge::{Automerge, Change};
use bytes::Bytes;
use etherply_engine::change::{ChangeLimits, parse};
use etherply_engine::document::{AdmitError, Document, Resolved};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::FIRST_EPOCH;

use super::{
    generate::{Style, document},
    mutate::mutate,
    mutation::{MUTATIONS_PER_CHANGE, automerge_takes, kind},
    rng::Rng,
};

/// Whether a mark ends after it begins takes the order of a text's elements, and so the text: what is left for the
/// materialiser to find.
const MARK_ORDER: &str = "load: error inflating document chunk ops: invalid mark operation order";
/// Altered changes that are tried each time.
const CHANGES: usize = 20_000;

#[derive(Default, Debug)]
struct Report {
    tried: usize,
    unchanged: usize,
    /// Histories in another order than that in which a server gets them.
    passed_over: usize,
    /// Sound by themselves.
    parsed: usize,
    refused_by_document: BTreeMap<&'static str, usize>,
    admitted: usize,
    /// Admitted, and Automerge cannot read, apply, save or load it.
    broken: BTreeMap<String, usize>,
    examples: BTreeMap<String, Bytes>,
}

impl Report {
    fn try_one(&mut self, document: &Document, doc: &Automerge, original: &[u8], altered: &[u8]) {
        self.tried += 1;
        if altered == original {
            self.unchanged += 1;
            return;
        }
        if parse(altered, &ChangeLimits::DEFAULT).is_err() {
            return;
        }
        self.parsed += 1;
        match document.clone().admit(&[altered], &ChangeLimits::DEFAULT, &Resolved::default()) {
            Ok(_) => self.admitted += 1,
            // The whole history is in the window, so what is not known is not there.
            Err(AdmitError::Lookup(_)) => {
                *self.refused_by_document.entry("unknown_hash").or_default() += 1;
                return;
            }
            Err(AdmitError::Refused { code, .. }) => {
                *self.refused_by_document.entry(code.name()).or_default() += 1;
                return;
            }
        }
        let taken = match Change::from_bytes(altered.to_vec()) {
            Ok(change) => automerge_takes(doc, &change),
            Err(error) => Err(format!("read: {error}")),
        };
        if let Err(reason) = taken {
            let kind = kind(&reason);
            self.examples.entry(kind.clone()).or_insert_with(|| Bytes::copy_from_slice(altered));
            *self.broken.entry(kind).or_default() += 1;
        }
    }
}

fn run(seed: u64, changes: usize) -> Report {
    let mut rng = Rng(seed);
    let mut report = Report::default();
    while report.tried < changes {
        let style = if rng.one_in(4) { Style::Text } else { Style::Mixed };
        let edits = 10 + rng.below(60);
        let history = document(rng.next(), edits, style).get_changes(&[]);
        let target = rng.below(history.len());
        let mut doc = Automerge::new();
        doc.apply_changes(history[..target].iter().cloned()).unwrap();
        let mut known = Document::new(DocumentId::new("altered").unwrap(), FIRST_EPOCH);
        // An edit of an old version counts on from all that its author had seen, which Automerge's order of changes
        // may put behind it; a server gets it in the author's order.
        let admits = |known: &mut Document, change: &Change| {
            let admitted = known.admit(&[change.raw_bytes()], &ChangeLimits::DEFAULT, &Resolved::default());
            admitted.map(|admitted| known.commit(admitted.cursor)).is_ok()
        };
        let original = history[target].raw_bytes();
        if !history[..target].iter().all(|change| admits(&mut known, change))
            || !admits(&mut known.clone(), &history[target])
        {
            report.passed_over += 1;
            continue;
        }
        for _ in 0..MUTATIONS_PER_CHANGE {
            let altered = mutate(&mut rng, original);
            report.try_one(&known, &doc, original, &altered);
        }
    }
    report
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}

#[test]
fn what_is_admitted_breaks_automerge_only_by_the_order_of_marks() {
    let seed = number("ETHERPLY_SEED", 2);
    let report = run(seed, usize::try_from(number("ETHERPLY_CHANGES", CHANGES as u64)).unwrap());
    let broken: usize = report.broken.values().sum();
    println!("seed {seed}: {} changes altered, their checksums repaired", report.tried);
    println!("  {} came out as they were", report.unchanged);
    println!("  ({} histories were passed over)", report.passed_over);
    println!("  {} are sound by themselves", report.parsed);
    println!("  {} are admitted with the document", report.admitted);
    println!("  {broken} of these Automerge cannot apply, save or load: {:#?}", report.broken);
    println!("refused by the document: {:#?}", report.refused_by_document);
    assert!(report.admitted > report.tried / 100, "too few pass to say anything");
    for (kind, example) in report.examples.iter().filter(|(kind, _)| !kind.starts_with(MARK_ORDER)) {
        println!("{kind}: {example:02x?}");
    }
    let others: usize =
        report.broken.iter().filter(|(kind, _)| !kind.starts_with(MARK_ORDER)).map(|(_, count)| count).sum();
    assert_eq!(others, 0, "admission lets something through that it could tell");
}
