//! An actor's change follows its previous one: Automerge panics on two changes of one actor that do not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use automerge::transaction::Transactable as _;
use automerge::{Change, ROOT};
use common::{Host, Writer, actor, altered, empty, hash, peer};
use etherply_wire::ErrorCode;

#[test]
fn a_change_that_does_not_follow_its_actors_previous_one_is_a_fork() {
    let mut host = Host::default();
    host.join(1);
    let mut ada = Writer::new(1);
    let mut ben = Writer::new(2);
    let first = ada.put("a", 1);
    let other = ben.put("b", 1);
    host.acked(peer(1), 1, &[first.clone(), other.clone()]);
    // The clone of a device that forgot the first change, but not its number.
    let second = ada.put("a", 2);
    let forked = altered(&second, |change| {
        change.deps = vec![automerge::ChangeHash(hash(&other))];
        change.operations.clear();
    });
    let (code, ..) = host.refusal(peer(1), 1, &[forked]);
    assert_eq!(code, ErrorCode::ActorForked);
    assert_eq!(host.acked(peer(1), 2, &[second]).positions, [3]);
}

#[test]
fn a_change_may_follow_its_actors_previous_one_through_others() {
    let mut host = Host::default();
    host.join(1);
    let mut ada = Writer::new(1);
    let mut ben = Writer::new(2);
    let first = ada.put("a", 1);
    ben.apply(std::slice::from_ref(&first));
    let between = ben.put("b", 1);
    host.acked(peer(1), 1, &[first, between.clone()]);
    let through = empty(&actor(1), 2, 3, &[hash(&between)]);
    assert_eq!(host.acked(peer(1), 1, &[through]).positions, [3]);
}

#[test]
fn an_edit_on_an_old_version_is_taken() {
    let mut host = Host::default();
    host.join(1);
    let mut ada = Writer::new(1);
    let mut changes = ada.puts(3);
    let old = ada.doc.get_heads();
    changes.extend(ada.puts(2));
    host.acked(peer(1), 1, &changes);
    ada.doc.isolate(&old);
    ada.doc.put(ROOT, "old", true).unwrap();
    ada.doc.commit();
    ada.doc.integrate();
    let known: Vec<_> = changes.iter().map(|bytes| hash(bytes)).collect();
    let new: Vec<Vec<u8>> = ada
        .doc
        .get_changes(&[])
        .iter()
        .filter(|change| !known.contains(&change.hash().0))
        .map(|change: &Change| change.raw_bytes().to_vec())
        .collect();
    assert_eq!(new.len(), 1);
    assert_eq!(host.acked(peer(1), 1, &new).positions, [6]);
}

#[test]
fn a_change_without_operations_leaves_no_gap_before_it() {
    let mut host = Host::default();
    host.join(1);
    let mut ada = Writer::new(1);
    let mut ben = Writer::new(2);
    let first = ada.put("a", 1);
    let others = ben.puts(5);
    host.acked(peer(1), 1, std::slice::from_ref(&first));
    host.acked(peer(1), 1, &others);
    // Ben's operations reach 5, but the change knows only Ada's first one.
    let gap = empty(&actor(1), 2, 6, &[hash(&first)]);
    let (code, ..) = host.refusal(peer(1), 1, &[gap]);
    assert_eq!(code, ErrorCode::StartOpWrong);
    let tight = empty(&actor(1), 2, 2, &[hash(&first)]);
    assert_eq!(host.acked(peer(1), 2, &[tight]).positions, [7]);
}

/// As after an older copy of the log was put back. The simulator found it (seeds 87770 and 94158).
#[test]
fn an_edit_on_an_old_version_waits_for_what_its_author_had_seen() {
    let mut host = Host::default();
    host.join(1);
    let mut ada = Writer::new(1);
    let first = ada.puts(3);
    let old = ada.doc.get_heads();
    let mut ben = Writer::new(2);
    ben.apply(&first);
    let seen = ben.puts(4);
    ada.apply(&seen);
    ada.doc.isolate(&old);
    ada.doc.put(ROOT, "old", true).unwrap();
    ada.doc.commit();
    ada.doc.integrate();
    let late = ada.doc.get_last_local_change().unwrap().raw_bytes().to_vec();
    host.acked(peer(1), 1, &first);
    let (code, refused, _) = host.refusal(peer(1), 2, std::slice::from_ref(&late));
    assert_eq!(code, ErrorCode::MissingDependencies, "its author can push what is between");
    assert_eq!(refused.clock.len(), 1, "and is told what there is");
    let all: Vec<Vec<u8>> = seen.into_iter().chain([late]).collect();
    assert_eq!(host.acked(peer(1), 3, &all).positions, [4, 5, 6, 7, 8]);
}
