//! The comparison at the end: what is stored against what was acked, and against what members have. Documents
//! are built with Automerge, so that equal means equal heads and equal content, never equal counts.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use automerge::{AutoCommit, ChangeHash, ROOT, ReadDoc};
use serde::{Deserialize, Serialize};

/// A document as somebody has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Copy {
    /// The document's name.
    pub document: String,
    /// File with its bytes, beside the index.
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
    /// Documents whose sampled member has the same heads and the same content.
    pub converged: Vec<String>,
    /// What is wrong, the first few.
    pub faults: Vec<String>,
}

/// Most faults that are named.
const FAULTS_MAX: usize = 20;

impl Findings {
    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

/// Acked changes by document.
pub type Acked = HashMap<String, Vec<[u8; 32]>>;

/// Compares a folder of stored documents with a ledger and with a folder of members' copies.
pub fn verify(export: &Path, ledger: &Path, samples: Option<&Path>) -> Result<Findings> {
    let stored = read_index(export)?;
    let samples = samples.map(|folder| Ok::<_, anyhow::Error>((folder, read_index(folder)?))).transpose()?;
    let mut sample_of: HashMap<String, (&Path, Copy)> = HashMap::new();
    if let Some((folder, copies)) = samples {
        sample_of.extend(copies.into_iter().map(|copy| (copy.document.clone(), (folder, copy))));
    }
    let mut acked = read_ledger(ledger)?;
    let mut findings = Findings { documents: stored.len() as u64, ..Findings::default() };
    findings.samples = sample_of.len() as u64;
    for copy in &stored {
        let hashes = acked.remove(&copy.document).unwrap_or_default();
        let sample = sample_of.remove(&copy.document);
        if let Err(error) = compare(export, copy, &hashes, sample, &mut findings) {
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
    for (document, (folder, copy)) in sample_of {
        let is_empty = std::fs::metadata(folder.join(&copy.file)).is_ok_and(|file| file.len() == 0);
        match is_empty {
            // Nobody edited it: nothing is stored, and the member has nothing.
            true => findings.converged.push(document),
            false => findings.fault(format!("{document}: a member has changes, but nothing is stored")),
        }
    }
    Ok(findings)
}

fn compare(
    export: &Path,
    copy: &Copy,
    acked: &[[u8; 32]],
    sample: Option<(&Path, Copy)>,
    findings: &mut Findings,
) -> Result<()> {
    let mut stored = load(&export.join(&copy.file))?;
    let heads = heads_of(&mut stored);
    if !copy.heads.is_empty() && sorted(&copy.heads) != heads {
        findings.fault(format!("{}: the index names other heads than the document has", copy.document));
    }
    let changes = stored.get_changes(&[]).len();
    findings.changes += changes as u64;
    let missing =
        acked.iter().filter(|hash| stored.get_change_by_hash(&ChangeHash(**hash)).is_none()).count();
    if missing > 0 {
        findings.acked_missing += missing as u64;
        findings.fault(format!("{}: {missing} of {} acked changes are missing", copy.document, acked.len()));
    }
    findings.unacked += changes.saturating_sub(acked.len() - missing) as u64;
    let Some((folder, sample)) = sample else { return Ok(()) };
    let mut member = load(&folder.join(&sample.file)).context("the member's copy")?;
    let member_heads = heads_of(&mut member);
    if sorted(&sample.heads) != member_heads {
        findings.fault(format!("{}: the member's heads are not those of its changes", copy.document));
    } else if member_heads != heads {
        findings.fault(format!("{}: the member has other heads than the server", copy.document));
    } else if member.hydrate(ROOT, None)? != stored.hydrate(ROOT, None)? {
        findings.fault(format!("{}: the member has other content than the server", copy.document));
    } else {
        findings.converged.push(copy.document.clone());
    }
    Ok(())
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

fn unhex(text: &str) -> Result<[u8; 32]> {
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
            verify(&root.join("export"), &root.join("ledger"), Some(&root.join("samples"))).unwrap()
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
