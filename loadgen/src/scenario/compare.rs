//! The comparison at the end of a scenario: what is stored against what was acked and against what members
//! have. A process of its own makes it, which has nothing but files.

use std::path::Path;

use anyhow::{Context, Result};

use crate::fresh;
use crate::net::MemberOutcome;
use crate::plan::Plan;
use crate::scenario::host::Host;
use crate::scenario::setup::text_of;
use crate::scenario::tally::Tally;
use crate::server::run_to_end;
use crate::verify::{Findings, ledger_line, write_copy, write_index};

/// The documents of one plan, their members, and what was acked to them.
pub struct Part<'p> {
    pub plan: &'p Plan,
    pub members: &'p [MemberOutcome],
    pub acked: &'p [(u32, [u8; 32])],
}

/// Takes out what is stored (from the disk of the host's server, which is stopped for it, or as fresh clients
/// are given it) and compares.
pub fn compare(host: &mut Host, parts: &[Part<'_>]) -> Result<Findings> {
    let samples = host.workspace.folder("samples")?;
    let (ledger, export) = (host.workspace.path("ledger"), host.workspace.path("export"));
    write_samples(&samples, parts)?;
    write_ledger(&ledger, parts)?;
    if host.is_local() {
        host.export(&export)?;
    } else {
        reread(&export, parts)?;
    }
    verify_apart(&export, &ledger, &samples)
}

/// The comparison runs in a process of its own, which has nothing but the files.
pub fn verify_apart(export: &Path, ledger: &Path, samples: &Path) -> Result<Findings> {
    let mut arguments = vec!["verify".to_owned()];
    for (name, path) in [("--export", export), ("--ledger", ledger), ("--samples", samples)] {
        arguments.extend([name.to_owned(), text_of(path)?]);
    }
    let found = run_to_end(&std::env::current_exe()?, &arguments)?;
    serde_json::from_str(&found).context("the comparison said something that cannot be read")
}

/// The copies of the members that are sampled; of a document without a sample the heads of one of its members.
pub fn write_samples(folder: &Path, parts: &[Part<'_>]) -> Result<()> {
    let mut copies = Vec::new();
    for Part { plan, members, .. } in parts {
        for member in *members {
            let name = || plan.document_name(member.document);
            if let Some(bytes) = &member.sample {
                copies.push(write_copy(folder, copies.len(), name(), &member.heads, bytes)?);
            } else if member.member == 0 && !plan.has_sample(member.document) {
                copies.push(crate::verify::heads_only(name(), &member.heads));
            }
        }
    }
    write_index(folder, &copies)
}

fn write_ledger(path: &Path, parts: &[Part<'_>]) -> Result<()> {
    let mut text = String::new();
    for Part { plan, acked, .. } in parts {
        for (document, hash) in *acked {
            text.push_str(&ledger_line(&plan.document_name(*document), hash));
        }
    }
    Ok(std::fs::write(path, text)?)
}

/// What a server that runs elsewhere has, as a client without any copy is given it.
fn reread(export: &Path, parts: &[Part<'_>]) -> Result<()> {
    std::fs::create_dir_all(export)?;
    let mut copies = Vec::new();
    for Part { plan, .. } in parts {
        let names: Vec<String> = (0..plan.documents).map(|document| plan.document_name(document)).collect();
        for (name, bytes) in fresh::read(&plan.target, &names)? {
            copies.push(write_copy(export, copies.len(), name, &[], &bytes)?);
        }
    }
    write_index(export, &copies)
}

/// How many documents of a plan converged: all members have equal heads, and those that were compared the
/// server's heads and content.
pub fn converged(findings: &Findings, plan: &Plan, tally: &Tally) -> u64 {
    let names: std::collections::HashSet<String> =
        tally.equal.iter().map(|&document| plan.document_name(document)).collect();
    findings.converged.iter().filter(|name| names.contains(*name)).count() as u64
}
