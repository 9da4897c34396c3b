//! Documents of some members, built after the schedule by the CRDT's own library from what those members received.
//! While it runs, edits are read by decoders that build no document; here it shows whether those were right.

use anyhow::{Context as _, Result, ensure};
use automerge::AutoCommit;
use yrs::updates::decoder::Decode as _;
use yrs::{Any, Doc, Map as _, Out, Transact as _, Update};

use crate::net::session::MemberOutcome;
use crate::peers::Peer;
use crate::peers::session::parse_value;
use crate::peers::yjs::{MAP, key};
use crate::plan::{Plan, Sampling};
use crate::report::Claim;

/// At most so many documents have a member who keeps what it received.
const DOCUMENTS_MAX: u32 = 20;

/// One member of each sampled document.
pub fn sampling(plan: &Plan) -> Sampling {
    Sampling { one_in: plan.documents.div_ceil(DOCUMENTS_MAX).max(1), members: 1 }
}

/// That those documents hold what their members counted. Of automerge-repo every member builds its document as it
/// goes, and bytes that are opaque to a server make none: of those nothing is claimed.
pub fn claim(peer: Peer, members: &[MemberOutcome]) -> Option<Claim> {
    let examine: fn(&MemberOutcome, &[u8]) -> Result<()> = match peer {
        Peer::Etherply | Peer::EtherplyTcp => by_automerge,
        Peer::YSweet | Peer::YWebsocket | Peer::Hocuspocus => by_yjs,
        Peer::AutomergeRepo | Peer::MqttQos0 | Peer::MqttQos1 | Peer::Nats | Peer::Floor => return None,
    };
    let samples = members.iter().filter_map(|member| Some((member, member.sample.as_deref()?)));
    let (mut built, mut wrong) = (0, Vec::new());
    for (member, sample) in samples {
        built += 1;
        if let Err(error) = examine(member, sample) {
            wrong.push(format!("document {}, member {}: {error:#}", member.document, member.member));
        }
    }
    let first = wrong.first().map(|first| format!(", {first}")).unwrap_or_default();
    Some(Claim::new(
        "documents that the CRDT's library builds of what was received hold what was counted",
        format!("{} of {built}{first}", built - wrong.len()),
        built > 0 && wrong.is_empty(),
    ))
}

/// A sample of changes, those of the member itself among them.
fn by_automerge(member: &MemberOutcome, sample: &[u8]) -> Result<()> {
    let mut doc = AutoCommit::load(sample).context("Automerge cannot load it")?;
    let counted = member.received + u64::from(member.made);
    let held = doc.get_changes(&[]).len() as u64;
    ensure!(held == counted, "{held} changes, {counted} were counted");
    let mut heads: Vec<_> = doc.get_heads().iter().map(|head| head.0).collect();
    heads.sort_unstable();
    ensure!(heads == member.heads, "other heads");
    Ok(())
}

/// A sample of updates of the others, as [`push_update`] writes it.
fn by_yjs(member: &MemberOutcome, mut sample: &[u8]) -> Result<()> {
    let doc = Doc::new();
    let map = doc.get_or_insert_map(MAP);
    while let Some((bytes, rest)) = sample.split_first_chunk::<LENGTH_BYTES>() {
        let (update, rest) = rest.split_at_checked(u32::from_le_bytes(*bytes) as usize).context("cut off")?;
        doc.transact_mut().apply_update(Update::decode_v1(update)?)?;
        sample = rest;
    }
    let transaction = doc.transact();
    for (writer, &seen) in (0..).zip(&member.seen) {
        if writer == member.member {
            continue;
        }
        let held = match map.get(&transaction, &key(writer)) {
            Some(Out::Any(Any::String(value))) => {
                parse_value(value.as_bytes()).context("a value that nobody made")?.1
            }
            Some(_) => anyhow::bail!("a value that is no text"),
            None => 0,
        };
        ensure!(held == seen, "writer {writer}'s edit {held}, {seen} was counted last");
    }
    Ok(())
}

const LENGTH_BYTES: usize = 4;

/// Appends an update to a sample.
pub fn push_update(sample: &mut Vec<u8>, update: &[u8]) -> Result<()> {
    sample.extend_from_slice(&u32::try_from(update.len())?.to_le_bytes());
    sample.extend_from_slice(update);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::session::value_of;
    use crate::peers::yjs::Writer;
    use crate::writer::{Heads, Stamp, ThinWriter};

    fn passed(peer: Peer, member: MemberOutcome) -> bool {
        claim(peer, &[member]).unwrap().passed
    }

    #[test]
    fn a_yjs_document_shows_an_edit_that_was_counted_and_did_not_come() {
        let mut updates = Vec::new();
        for writer in [0, 2] {
            let mut made = Writer::new(writer);
            for number in 1..=3 {
                let stamp = Stamp { due_us: 5, writer: u16::try_from(writer).unwrap() };
                updates.push(made.edit(&value_of(stamp, number, 48)));
            }
        }
        let member = |updates: &[Vec<u8>], seen: [u32; 3]| {
            let mut sample = Vec::new();
            updates.iter().for_each(|update| push_update(&mut sample, update).unwrap());
            MemberOutcome { member: 1, seen: seen.into(), sample: Some(sample), ..MemberOutcome::default() }
        };
        // Its own edits are not sent back: number 9 is not looked for.
        assert!(passed(Peer::YWebsocket, member(&updates, [3, 9, 3])));
        assert!(!passed(Peer::YSweet, member(&updates, [3, 9, 4])), "more was counted");
        assert!(!passed(Peer::Hocuspocus, member(&updates[1..], [3, 9, 3])), "the first one is missing");
        assert!(!passed(Peer::YWebsocket, member(&updates[..5], [3, 9, 3])), "the last one is missing");
    }

    #[test]
    fn an_automerge_document_shows_a_change_that_was_counted_and_did_not_come() {
        let (mut heads, mut writer) = (Heads::default(), ThinWriter::new(&[1; 8], "writer-1".into()));
        let mut edit = |due_us| writer.edit(&mut heads, Stamp { due_us, writer: 1 }.text(48), 0).unwrap();
        let changes: Vec<Vec<u8>> = (1..=3).map(&mut edit).collect();
        let member = |changes: &[Vec<u8>], received| MemberOutcome {
            received,
            heads: heads.sorted(),
            sample: Some(changes.concat()),
            ..MemberOutcome::default()
        };
        assert!(passed(Peer::Etherply, member(&changes, 3)));
        assert!(!passed(Peer::Etherply, member(&changes, 4)));
        assert!(!passed(Peer::EtherplyTcp, member(&changes[..2], 2)), "other heads");
        assert!(!passed(Peer::EtherplyTcp, member(&changes[1..], 3)), "one that others build on");
    }

    #[test]
    fn no_sample_is_no_proof() {
        assert!(!passed(Peer::YSweet, MemberOutcome::default()));
        assert!(claim(Peer::Nats, &[]).is_none());
    }
}
