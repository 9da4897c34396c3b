//! A recording: who typed what where. The two formats of the collection josephg/editing-traces, plain or
//! gzipped: sequential sessions of one writer, and concurrent ones, where each transaction names its parents.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::{IgnoredAny, SeqAccess, Visitor};

/// Longest recording, in bytes of JSON, packed or not: a small file can unpack to any length.
pub const TRACE_JSON_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Most transactions of a recording.
pub const TRACE_TRANSACTIONS_MAX: usize = 1_000_000;
/// Most agents of a recording: each is a connection for each document.
pub const TRACE_AGENTS_MAX: u32 = 64;

const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];

/// A recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// The text before the first transaction.
    pub start: String,
    /// The text after the last; `None` if the last ones were left out.
    pub end: Option<String>,
    /// How many people write.
    pub agents: u32,
    /// In causal order.
    pub transactions: Vec<Transaction>,
}

/// What one person did at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Who.
    pub agent: u32,
    /// The transactions that the text consists of which this one edits, with all that they build upon.
    pub parents: Vec<u32>,
    /// What, one behind the other.
    pub patches: Vec<Patch>,
}

/// A replacement within a text. Positions and lengths count Unicode code points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    pub position: usize,
    pub deleted: usize,
    pub inserted: String,
}

/// The file as it is written; both formats.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    kind: Option<String>,
    start_content: Option<String>,
    end_content: String,
    num_agents: Option<u32>,
    txns: Vec<WrittenTransaction>,
}

#[derive(Deserialize)]
struct WrittenTransaction {
    agent: Option<u32>,
    parents: Option<Vec<u32>>,
    patches: Vec<Patch>,
}

impl<'de> Deserialize<'de> for Patch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Patch;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a patch: [position, deleted, inserted]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Patch, A::Error> {
                let short = || serde::de::Error::custom("a patch has a position, a length and a text");
                let position = parts.next_element()?.ok_or_else(short)?;
                let deleted = parts.next_element()?.ok_or_else(short)?;
                let inserted = parts.next_element()?.ok_or_else(short)?;
                while parts.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Patch { position, deleted, inserted })
            }
        }
        deserializer.deserialize_seq(Parts)
    }
}

impl Recording {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = std::fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let mut json = unpack(file).with_context(|| format!("{name} cannot be unpacked"))?;
        Self::parse(&mut json).with_context(|| format!("{name} is not an editing session"))
    }

    /// Only its first transactions.
    pub fn first(mut self, count: usize) -> Self {
        if count < self.transactions.len() {
            self.transactions.truncate(count);
            self.end = None;
        }
        self
    }

    fn parse(json: &mut [u8]) -> Result<Self> {
        let written: Written = simd_json::serde::from_slice(json)?;
        let is_concurrent = match written.kind.as_deref() {
            Some("concurrent") => true,
            None => false,
            Some(other) => {
                bail!("its kind is {other:?}; known are concurrent sessions, and those without a kind")
            }
        };
        if written.txns.len() > TRACE_TRANSACTIONS_MAX {
            bail!("it has {} transactions, at most {TRACE_TRANSACTIONS_MAX} are taken", written.txns.len());
        }
        let agents = if is_concurrent { written.num_agents.context("numAgents is missing")? } else { 1 };
        if !(1..=TRACE_AGENTS_MAX).contains(&agents) {
            bail!("it has {agents} agents, 1 to {TRACE_AGENTS_MAX} are taken");
        }
        let mut transactions = Vec::with_capacity(written.txns.len());
        for (transaction, number) in written.txns.into_iter().zip(0u32..) {
            let WrittenTransaction { agent, parents, patches } = transaction;
            let (agent, parents) = if is_concurrent {
                let what = || format!("transaction {number} has no agent or no parents");
                (agent.with_context(what)?, parents.with_context(what)?)
            } else {
                (0, number.checked_sub(1).into_iter().collect())
            };
            if agent >= agents {
                bail!("transaction {number} is by agent {agent}, of {agents}");
            }
            if let Some(parent) = parents.iter().find(|&&parent| parent >= number) {
                bail!("transaction {number} names parent {parent}, which does not stand before it");
            }
            transactions.push(Transaction { agent, parents, patches });
        }
        let start = written.start_content.unwrap_or_default();
        Ok(Self { start, end: Some(written.end_content), agents, transactions })
    }
}

fn unpack(mut file: impl Read) -> Result<Vec<u8>> {
    let mut begin = Vec::new();
    file.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut begin)?;
    let is_packed = begin == GZIP_MAGIC;
    let whole = std::io::Cursor::new(begin).chain(file);
    let mut json = Vec::new();
    let limit = TRACE_JSON_BYTES_MAX + 1;
    if is_packed {
        MultiGzDecoder::new(whole).take(limit).read_to_end(&mut json)?;
    } else {
        whole.take(limit).read_to_end(&mut json)?;
    }
    check_length(json.len() as u64)?;
    Ok(json)
}

fn check_length(bytes: u64) -> Result<()> {
    if bytes > TRACE_JSON_BYTES_MAX {
        bail!("it is longer than {TRACE_JSON_BYTES_MAX} bytes");
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    pub(crate) fn parse(json: &str) -> Result<Recording> {
        Recording::parse(&mut json.as_bytes().to_vec())
    }

    const SEQUENTIAL: &str = r#"{"startContent":"é","endContent":"é1","txns":[
        {"time":"2020","patches":[[1,0,"12"],[2,1,""]]},{"patches":[]}]}"#;

    #[test]
    fn both_formats_are_read() {
        let read = parse(SEQUENTIAL).unwrap();
        let patch =
            |position, deleted, inserted: &str| Patch { position, deleted, inserted: inserted.into() };
        let first =
            Transaction { agent: 0, parents: vec![], patches: vec![patch(1, 0, "12"), patch(2, 1, "")] };
        let second = Transaction { agent: 0, parents: vec![0], patches: vec![] };
        let expected = Recording {
            start: "é".into(),
            end: Some("é1".into()),
            agents: 1,
            transactions: vec![first, second],
        };
        assert_eq!(read, expected);
        let read = parse(
            r#"{"kind":"concurrent","endContent":"ab","numAgents":2,"txns":[
            {"parents":[],"numChildren":1,"agent":1,"time":"t","patches":[[0,0,"ab","more",7]]}]}"#,
        );
        let read = read.unwrap();
        assert_eq!((read.agents, read.transactions[0].agent), (2, 1));
        assert_eq!(read.transactions[0].patches, [patch(0, 0, "ab")]);
    }

    #[test]
    fn packed_and_plain_files_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, packed) = (folder.path().join("a.json"), folder.path().join("a.json.gz"));
        std::fs::write(&plain, SEQUENTIAL).unwrap();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(SEQUENTIAL.as_bytes()).unwrap();
        let mut bytes = gzip.finish().unwrap();
        std::fs::write(&packed, &bytes).unwrap();
        assert_eq!(Recording::read(&plain).unwrap(), Recording::read(&packed).unwrap());
        bytes.truncate(bytes.len() - 9);
        std::fs::write(&packed, &bytes).unwrap();
        let error = format!("{:#}", Recording::read(&packed).unwrap_err());
        assert!(error.contains("a.json.gz cannot be unpacked"), "{error}");
        assert!(Recording::read(&folder.path().join("none")).is_err());
    }

    #[test]
    fn what_is_no_session_is_refused_with_a_reason() {
        let concurrent = |agents: u32, transaction: &str| {
            format!(r#"{{"kind":"concurrent","endContent":"","numAgents":{agents},"txns":[{transaction}]}}"#)
        };
        for (json, reason) in [
            ("{}".to_owned(), "endContent"),
            ("[1".to_owned(), ""),
            (r#"{"kind":"other","endContent":"","txns":[]}"#.to_owned(), "kind"),
            (r#"{"endContent":"","txns":[{"patches":[[1,2]]}]}"#.to_owned(), "patch"),
            (r#"{"endContent":"","txns":[{"patches":[[-1,2,""]]}]}"#.to_owned(), ""),
            (concurrent(1, r#"{"agent":1,"parents":[],"patches":[]}"#), "by agent 1"),
            (concurrent(1, r#"{"agent":0,"parents":[0],"patches":[]}"#), "does not stand before"),
            (concurrent(1, r#"{"agent":0,"patches":[]}"#), "no parents"),
            (concurrent(0, ""), "0 agents"),
            (concurrent(TRACE_AGENTS_MAX + 1, ""), "are taken"),
        ] {
            let error = format!("{:#}", parse(&json).unwrap_err());
            assert!(error.contains(reason), "{json}: {error}");
        }
        assert!(parse(&concurrent(TRACE_AGENTS_MAX, "")).is_ok());
        assert!(parse(&concurrent(TRACE_AGENTS_MAX - 1, "")).is_ok());
    }

    #[test]
    fn recordings_are_bounded() {
        let with = |transactions: usize| {
            let one = r#"{"patches":[]}"#;
            let all = vec![one; transactions].join(",");
            parse(&format!(r#"{{"endContent":"","txns":[{all}]}}"#))
        };
        assert!(with(TRACE_TRANSACTIONS_MAX - 1).is_ok());
        assert!(with(TRACE_TRANSACTIONS_MAX).is_ok());
        assert!(with(TRACE_TRANSACTIONS_MAX + 1).is_err());
        assert!(check_length(TRACE_JSON_BYTES_MAX - 1).is_ok() && check_length(TRACE_JSON_BYTES_MAX).is_ok());
        assert!(check_length(TRACE_JSON_BYTES_MAX + 1).is_err());
    }
}
