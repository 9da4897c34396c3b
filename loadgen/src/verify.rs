//! The comparison at the end: what is stored against what was acked, and against what members have. Documents
//! are built with Automerge, so that equal means equal heads and equal content, never equal counts.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use automerge::{AutoCommit, ChangeHash, ROOT, ReadDoc};
use etherply_client::change::ChangeView;
use serde::{Deserialize, Serialize};

/// A document as somebody has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Copy {
    /// The document's name.
    pub document: String,
    /// File with its bytes, beside the index; empty where only the heads are known.
    #[serde(default)]
    pub file: String,
    /// Its heads, in hexadecimal and sorted.
    #[serde(default)]
    pub heads: Vec<String>,
}

/// Where the copies of a folder are listed.
pub const INDEX: &str = "index.json";

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Documents that are stored.
    pub documents: u64,
    /// Changes that are stored.
    pub changes: u64,
    /// Acked changes.
    pub acked: u64,
    /// Acked changes that are not stored.
    pub acked_missing: u64,
    /// Stored changes that were not acked: sent, but the ack was cut off.
    pub unacked: u64,
    /// Members that were compared with the stored document.
    pub samples: u64,
    /// Documents whose sampled members have the same heads and the same content.
    pub converged: Vec<String>,
    /// What is wrong, the first few.
    pub faults: Vec<String>,
}

/// Most faults that are named.
const FAULTS_MAX: usize = 20;

impl Findings {
    fn missing(&mut self, copy: &Copy, stored: usize, acked: usize, missing: usize) {
        if missing > 0 {
            self.acked_missing += missing as u64;
            self.fault(format!("{}: {missing} of {acked} acked changes are missing", copy.document));
        }
        self.unacked += stored.saturating_sub(acked - missing) as u64;
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

/// Acked changes by document.
pub type Acked = HashMap<String, Vec<[u8; 32]>>;

/// Compares a folder of stored documents with a ledger and with a folder of members' copies. Automerge builds
/// the documents of which `builds` says so by their place in the index, and all that are compared with a copy;
/// of the others only the changes' bytes are checked, which takes a hundredth of the time.
pub fn verify(
    export: &Path,
    ledger: &Path,
    samples: Option<&Path>,
    builds: impl Fn(usize) -> bool,
) -> Result<Findings> {
    let stored = read_index(export)?;
    let samples = samples.map(|folder| Ok::<_, anyhow::Error>((folder, read_index(folder)?))).transpose()?;
    let mut samples_of: HashMap<String, Vec<Copy>> = HashMap::new();
    let folder = samples.as_ref().map_or(export, |(folder, _)| *folder);
    for copy in samples.into_iter().flat_map(|(_, copies)| copies) {
        samples_of.entry(copy.document.clone()).or_default().push(copy);
    }
    let mut acked = read_ledger(ledger)?;
    let mut findings = Findings { documents: stored.len() as u64, ..Findings::default() };
    findings.samples = samples_of.values().map(|copies| copies.len() as u64).sum();
    for (index, copy) in stored.iter().enumerate() {
        let hashes = acked.remove(&copy.document).unwrap_or_default();
        let samples = samples_of.remove(&copy.document).unwrap_or_default();
        let case = Case { export, copy, acked: &hashes, folder, samples: &samples };
        let compared = if builds(index) || samples.iter().any(|sample| !sample.file.is_empty()) {
            case.compare(&mut findings)
        } else {
            case.look_through(&mut findings)
        };
        if let Err(error) = compared {
            findings.fault(format!("{}: {error:#}", copy.document));
            findings.acked_missing += hashes.len() as u64;
        }
        findings.acked += hashes.len() as u64;
    }
    for (document, hashes) in acked {
        findings.acked += hashes.len() as u64;
        findings.acked_missing += hashes.len() as u64;
        findings.fault(format!("{document}: not stored at all, though {} changes were acked", hashes.len()));
    }
    for (document, copies) in samples_of {
        match copies.iter().all(|copy| copy.heads.is_empty()) {
            // Nobody edited it: nothing is stored, and the members have nothing.
            true => findings.converged.push(document),
            false => findings.fault(format!("{document}: a member has changes, but nothing is stored")),
        }
    }
    Ok(findings)
}

/// A stored document, and what it is compared with.
struct Case<'a> {
    /// The folder of stored documents.
    export: &'a Path,
    copy: &'a Copy,
    acked: &'a [[u8; 32]],
    /// The folder of members' copies.
    folder: &'a Path,
    samples: &'a [Copy],
}

impl Case<'_> {
    /// Builds the document with Automerge, and compares all of it.
    fn compare(&self, findings: &mut Findings) -> Result<()> {
        let Self { export, copy, acked, folder, samples } = *self;
        let mut stored = load(&export.join(&copy.file))?;
        let heads = heads_of(&mut stored);
        if !copy.heads.is_empty() && sorted(&copy.heads) != heads {
            findings.fault(format!("{}: the index names other heads than the document has", copy.document));
        }
        // Their hashes alone: Automerge writes a change anew that it is asked for by its hash.
        let has: HashSet<ChangeHash> =
            stored.get_changes_meta(&[]).iter().map(|change| change.hash).collect();
        let changes = has.len();
        findings.changes += changes as u64;
        let missing = acked.iter().filter(|hash| !has.contains(&ChangeHash(**hash))).count();
        findings.missing(copy, changes, acked.len(), missing);
        let mut all_equal = !samples.is_empty();
        for sample in samples {
            if let Some(difference) = difference(folder, sample, &heads, &stored)? {
                findings.fault(format!("{}: {difference}", copy.document));
                all_equal = false;
            }
        }
        if all_equal {
            findings.converged.push(copy.document.clone());
        }
        Ok(())
    }

    /// Looks for acked changes among stored ones by their hashes, and compares heads. What is not all plain
    /// changes, such as a snapshot, has to be built.
    fn look_through(&self, findings: &mut Findings) -> Result<()> {
        let Self { export, copy, acked, samples, .. } = *self;
        let bytes = std::fs::read(export.join(&copy.file))?;
        let (mut rest, mut stored, mut built_upon) = (bytes.as_slice(), HashSet::new(), HashSet::new());
        while !rest.is_empty() {
            let Ok((change, after)) = ChangeView::parse_first(rest) else {
                return self.compare(findings);
            };
            stored.insert(change.hash());
            built_upon.extend(change.deps());
            rest = after;
        }
        if !samples.is_empty() {
            let heads = sorted(&stored.difference(&built_upon).map(|head| hex(head)).collect::<Vec<_>>());
            match samples.iter().all(|sample| sorted(&sample.heads) == heads) {
                true => findings.converged.push(copy.document.clone()),
                false => {
                    findings.fault(format!("{}: a member has other heads than the server", copy.document));
                }
            }
        }
        findings.changes += stored.len() as u64;
        let missing = acked.iter().filter(|hash| !stored.contains(*hash)).count();
        findings.missing(copy, stored.len(), acked.len(), missing);
        Ok(())
    }
}

/// In what a member's copy differs from the stored document with these heads.
fn difference(
    folder: &Path,
    sample: &Copy,
    heads: &[String],
    stored: &AutoCommit,
) -> Result<Option<&'static str>> {
    if sorted(&sample.heads) != heads {
        return Ok(Some("the member has other heads than the server"));
    }
    if sample.file.is_empty() {
        return Ok(None);
    }
    let mut member = load(&folder.join(&sample.file)).context("the member's copy")?;
    if heads_of(&mut member) != heads {
        return Ok(Some("the member's heads are not those of its changes"));
    }
    let is_equal = member.hydrate(ROOT, None)? == stored.hydrate(ROOT, None)?;
    Ok((!is_equal).then_some("the member has other content than the server"))
}

/// Writes a copy into a folder; the caller lists it in the folder's index.
pub fn write_copy(
    folder: &Path,
    number: usize,
    document: String,
    heads: &[[u8; 32]],
    bytes: &[u8],
) -> Result<Copy> {
    let file = format!("{number}.automerge");
    std::fs::write(folder.join(&file), bytes)?;
    Ok(Copy { document, file, heads: heads.iter().map(|head| hex(head)).collect() })
}

/// A copy of which only the heads are known. They name the changes, and so the content.
pub fn heads_only(document: String, heads: &[[u8; 32]]) -> Copy {
    Copy { document, file: String::new(), heads: heads.iter().map(|head| hex(head)).collect() }
}

/// Lists a folder's copies.
pub fn write_index(folder: &Path, copies: &[Copy]) -> Result<()> {
    Ok(std::fs::write(folder.join(INDEX), serde_json::to_vec_pretty(copies)?)?)
}

fn read_index(folder: &Path) -> Result<Vec<Copy>> {
    let bytes = std::fs::read(folder.join(INDEX)).context("the folder has no index")?;
    serde_json::from_slice(&bytes).context("the folder's index cannot be read")
}

fn read_ledger(path: &Path) -> Result<Acked> {
    let text = std::fs::read_to_string(path).context("the ledger cannot be read")?;
    let mut acked = Acked::new();
    for line in text.lines() {
        let (document, hash) = line.rsplit_once(' ').context("a line of the ledger without a hash")?;
        acked.entry(document.to_owned()).or_default().push(unhex(hash)?);
    }
    Ok(acked)
}

/// A line of the ledger.
pub fn ledger_line(document: &str, hash: &[u8; 32]) -> String {
    format!("{document} {}\n", hex(hash))
}

/// Builds a document from changes, or from a saved document with changes behind it.
fn load(path: &Path) -> Result<AutoCommit> {
    let bytes = std::fs::read(path)?;
    AutoCommit::load(&bytes).context("Automerge cannot load it")
}

fn heads_of(doc: &mut AutoCommit) -> Vec<String> {
    sorted(&doc.get_heads().iter().map(|head| hex(&head.0)).collect::<Vec<_>>())
}

fn sorted(heads: &[String]) -> Vec<String> {
    let mut heads = heads.to_vec();
    heads.sort_unstable();
    heads
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(text: &str) -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        bail!("not the hexadecimal form of a hash: {text}");
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        let digits = text.get(2 * index..2 * index + 2).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).with_context(|| format!("not hexadecimal: {text}"))?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use automerge::transaction::Transactable;

    struct Folders {
        root: tempfile::TempDir,
    }

    impl Folders {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for folder in ["export", "samples"] {
                std::fs::create_dir(root.path().join(folder)).unwrap();
            }
            Self { root }
        }

        fn put(&self, folder: &str, docs: &mut [(&str, AutoCommit)]) {
            let folder = self.root.path().join(folder);
            let copies: Vec<Copy> = docs
                .iter_mut()
                .enumerate()
                .map(|(number, (name, doc))| {
                    let heads: Vec<_> = doc.get_heads().iter().map(|head| head.0).collect();
                    let bytes: Vec<u8> =
                        doc.get_changes(&[]).iter().flat_map(|change| change.raw_bytes().to_vec()).collect();
                    write_copy(&folder, number, (*name).to_owned(), &heads, &bytes).unwrap()
                })
                .collect();
            write_index(&folder, &copies).unwrap();
        }

        fn verify(&self, ledger: &str) -> Findings {
            let root = self.root.path();
            std::fs::write(root.join("ledger"), ledger).unwrap();
            verify(&root.join("export"), &root.join("ledger"), Some(&root.join("samples")), |_| true).unwrap()
        }
    }

    fn doc(keys: &[&str]) -> AutoCommit {
        let mut doc = AutoCommit::new().with_actor(vec![1, 2, 3, 4].into());
        for key in keys {
            doc.put(ROOT, *key, "value").unwrap();
            doc.commit();
        }
        doc
    }

    fn ledger(name: &str, doc: &mut AutoCommit) -> String {
        doc.get_changes(&[]).iter().map(|change| ledger_line(name, &change.hash().0)).collect()
    }

    #[test]
    fn what_is_whole_is_found_whole() {
        let folders = Folders::new();
        let (mut a, b) = (doc(&["x", "y"]), doc(&[]));
        let lines = ledger("a", &mut a);
        folders.put("export", &mut [("a", a.clone())]);
        folders.put("samples", &mut [("a", a), ("empty", b)]);
        let found = folders.verify(&lines);
        assert_eq!(found.faults, Vec::<String>::new());
        assert_eq!((found.acked, found.acked_missing, found.unacked, found.changes), (2, 0, 0, 2));
        assert_eq!(found.converged, ["a", "empty"]);
    }

    #[test]
    fn every_kind_of_loss_is_found() {
        let folders = Folders::new();
        let (mut whole, cut) = (doc(&["x", "y"]), doc(&["x"]));
        let lines = ledger("a", &mut whole) + &ledger("gone", &mut whole);
        folders.put("export", &mut [("a", cut)]);
        folders.put("samples", &mut [("a", whole.clone()), ("gone", whole)]);
        let found = folders.verify(&lines);
        assert_eq!((found.acked, found.acked_missing), (4, 3));
        assert_eq!(found.converged, Vec::<String>::new());
        assert_eq!(found.faults.len(), 4, "{:?}", found.faults);
    }

    #[test]
    fn looking_at_bytes_alone_finds_the_same_and_builds_what_is_no_plain_change() {
        let folders = Folders::new();
        let (mut whole, mut cut) = (doc(&["x", "y"]), doc(&["x"]));
        let lines = ledger("a", &mut whole) + &ledger("saved", &mut whole);
        let saved = cut.save();
        folders.put("export", &mut [("a", cut.clone()), ("saved", cut)]);
        let export = folders.root.path().join("export");
        std::fs::write(export.join("1.automerge"), saved).unwrap();
        let path = folders.root.path().join("ledger");
        std::fs::write(&path, lines).unwrap();
        let built = verify(&export, &path, None, |_| true).unwrap();
        assert_eq!((built.changes, built.acked, built.acked_missing, built.unacked), (2, 4, 2, 0));
        assert_eq!(verify(&export, &path, None, |_| false).unwrap(), built);
    }

    #[test]
    fn every_sample_of_a_document_counts_and_heads_alone_are_compared_without_building() {
        let folders = Folders::new();
        let (mut whole, mut cut) = (doc(&["x", "y"]), doc(&["x"]));
        let heads = |doc: &mut AutoCommit| doc.get_heads().iter().map(|head| head.0).collect::<Vec<_>>();
        folders.put("export", &mut [("a", whole.clone()), ("b", whole.clone()), ("c", whole.clone())]);
        folders.put("samples", &mut [("a", whole.clone()), ("a", cut.clone())]);
        let samples = folders.root.path().join("samples");
        let mut copies = read_index(&samples).unwrap();
        copies.push(heads_only("b".into(), &heads(&mut whole)));
        copies.push(heads_only("c".into(), &heads(&mut cut)));
        copies.push(heads_only("nobody edited it".into(), &[]));
        write_index(&samples, &copies).unwrap();
        let path = folders.root.path().join("ledger");
        std::fs::write(&path, ledger("b", &mut whole)).unwrap();
        let export = folders.root.path().join("export");
        for builds in [true, false] {
            let found = verify(&export, &path, Some(&samples), |_| builds).unwrap();
            assert_eq!(found.converged, ["b", "nobody edited it"], "{:?}", found.faults);
            assert_eq!((found.faults.len(), found.samples, found.acked_missing), (2, 5, 0));
        }
    }

    #[test]
    fn a_document_that_cannot_be_loaded_is_a_loss_of_all_that_was_acked() {
        let folders = Folders::new();
        let mut a = doc(&["x", "y"]);
        let lines = ledger("a", &mut a);
        folders.put("export", &mut [("a", a)]);
        folders.put("samples", &mut []);
        std::fs::write(folders.root.path().join("export/0.automerge"), b"not automerge").unwrap();
        assert_eq!(folders.verify(&lines).acked_missing, 2);
        assert!(unhex("zz").is_err() && unhex(&"é".repeat(32)).is_err());
    }
}
