//! Rights that end while changes are being verified: what was admitted before is stored and acked once, what is
//! admitted later is held to the rights of then, and nobody is told what he may not know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Host, MEMBER, Told, Writer, actor, document, hash, peer};
use etherply_engine::access::{Grant, Identity, Revocation, Revoked};
use etherply_engine::change::{ChangeLimits, parse_header};
use etherply_engine::log::MemoryLog;
use etherply_engine::peer::Peer;
use etherply_engine::shard::{Input, Unverified};
use etherply_wire::kinds::{ClockEntry, Cursor, resume};
use etherply_wire::{ErrorCode, Rights};
use proptest::prelude::*;

const MS: u64 = 1_700_000_000_000;
const READ: Rights = Rights::READ;

fn grant(subject: &str, rights: Rights, expires_ms: u64) -> Grant {
    let identity = Identity { subject: subject.into(), token: format!("{subject}-1").into(), issued_s: 100 };
    Grant { rights, expires_ms, identity: Arc::new(identity) }
}

fn breaks(index: usize) -> Result<(), Unverified> {
    Err(Unverified::Breaks { index, what: "it panicked".to_owned() })
}

/// How rights end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Expiry,
    Revocation,
}

impl End {
    const BOTH: [Self; 2] = [Self::Expiry, Self::Revocation];

    fn code(self) -> ErrorCode {
        match self {
            Self::Expiry => ErrorCode::TokenExpired,
            Self::Revocation => ErrorCode::TokenRevoked,
        }
    }

    /// Ends ada's.
    fn come(self, host: &mut Host) {
        match self {
            Self::Expiry => {
                host.now.wall_ms = MS + 1_000;
                host.turn(Input::Tick);
            }
            Self::Revocation => {
                host.turn(Input::Revoke(&Revocation { what: Revoked::Subject("ada".into()), at_s: 100 }));
            }
        }
    }
}

fn renew(host: &mut Host, peer: Peer, rights: Rights) {
    let handle = host.handle(peer);
    host.turn(Input::Renew { peer, handle, request: 9, grant: grant("ada", rights, MS + 9_000_000) });
}

/// A document in which ada is peer 1, and ben peer 2; changes are verified.
fn host() -> Host {
    let mut host = Host::new(MemoryLog::new()).with_verification();
    host.open_as(grant("ada", MEMBER, MS + 1_000), document(), peer(1), MEMBER, None);
    host.open_as(grant("ben", MEMBER, 0), document(), peer(2), MEMBER, None);
    for id in [1, 2] {
        host.take(peer(id)).remove(0).opened();
    }
    host
}

/// All groups are sound, until nothing waits.
fn verify_all(host: &mut Host) {
    while !host.verifications.is_empty() {
        host.verify(Ok(()));
        host.flush();
    }
}

/// What a member was told, without a clock's content.
fn told(host: &mut Host, id: u64) -> Vec<(&'static str, u64)> {
    let named = |told: &Told| match told {
        Told::Ack(ack) => ("acked", ack.push),
        Told::Refused(refused, _) => ("refused", u64::from(refused.code)),
        Told::RightsChanged(changed) => ("rights", u64::from(changed.code)),
        Told::Close(close) => ("closed", u64::from(close.code)),
        Told::Opened(opened) => ("opened", u64::from(opened.resume)),
        Told::Reconcile(_) => ("clock", 0),
        other => panic!("{other:?}"),
    };
    host.take(peer(id)).iter().map(named).collect()
}

fn pushers(host: &Host) -> Vec<String> {
    host.log.records(&document()).iter().map(|record| record.pusher.to_string()).collect()
}

#[test]
fn what_was_admitted_is_stored_and_acked_once_and_what_waited_is_refused() {
    for end in End::BOTH {
        let code = end.code() as u64;
        let mut host = host();
        let changes = Writer::new(1).puts(3);
        host.push(peer(1), 1, 1, &changes[..1]);
        // It waits for the first one's group: nobody has admitted it.
        host.push(peer(1), 2, 1, &changes[1..2]);
        host.push(peer(1), 3, 1, &changes[2..]);
        end.come(&mut host);
        assert_eq!(told(&mut host, 1), [("rights", code)]);
        verify_all(&mut host);
        assert_eq!(told(&mut host, 1), [("acked", 1), ("refused", code)], "{end:?}");
        assert_eq!(host.gather_changes(peer(2)), changes[..1], "the others are sent it");
        assert_eq!(host.gather(peer(1)), [], "it is sent nothing");
        assert!(host.shard.is_settled() && host.in_flight[&peer(1)] == 0);
        // A new token goes on from there, and what is there is not stored again.
        renew(&mut host, peer(1), MEMBER);
        host.push(peer(1), 4, 2, &changes);
        verify_all(&mut host);
        assert_eq!(told(&mut host, 1), [("rights", 0), ("acked", 4)]);
        assert_eq!(host.gather_changes(peer(2)), changes[1..]);
        assert_eq!(pushers(&host), ["ada", "ada", "ada"]);
    }
}

#[test]
fn what_waits_is_taken_with_the_rights_that_a_renewal_brought() {
    for (rights, outcome) in [
        (MEMBER, ("acked", 2)),
        (READ, ("refused", ErrorCode::ReadOnly as u64)),
        (Rights::PRESENCE, ("refused", ErrorCode::ReadOnly as u64)),
    ] {
        let mut host = host();
        let changes = Writer::new(1).puts(2);
        host.push(peer(1), 1, 1, &changes[..1]);
        End::Expiry.come(&mut host);
        host.push(peer(1), 2, 1, &changes[1..]);
        renew(&mut host, peer(1), rights);
        verify_all(&mut host);
        let expired = ErrorCode::TokenExpired as u64;
        assert_eq!(
            told(&mut host, 1),
            [("rights", expired), ("rights", 0), ("acked", 1), outcome],
            "{rights:?}"
        );
        assert_eq!(host.in_flight[&peer(1)], 0);
    }
}

#[test]
fn what_breaks_the_document_is_refused_without_a_clock_once_rights_have_ended() {
    for end in End::BOTH {
        let mut host = host();
        host.push(peer(2), 1, 1, &Writer::new(2).puts(1));
        verify_all(&mut host);
        let changes = Writer::new(1).puts(2);
        host.push(peer(1), 1, 1, &changes[..1]);
        host.push(peer(1), 2, 1, &changes[1..]);
        end.come(&mut host);
        host.take(peer(1));
        host.verify(breaks(0));
        host.flush();
        let mut answers = host.take(peer(1));
        assert_eq!(answers.len(), 1, "the rest of its generation is passed over: {answers:?}");
        let (code, refused, genesis) = answers.remove(0).refused();
        assert_eq!((code, refused.push), (ErrorCode::ChangeUnusable, 1));
        assert!(refused.clock.is_empty() && !refused.clock_complete && genesis.is_empty(), "{refused:?}");
        assert!(host.shard.is_settled() && host.in_flight[&peer(1)] == 0 && host.end().seq == 1);
    }
}

#[test]
fn what_stood_behind_a_change_that_breaks_is_admitted_anew_with_the_rights_of_then() {
    for (end, renewed) in [
        (Some(End::Expiry), false),
        (Some(End::Revocation), false),
        (Some(End::Expiry), true),
        (Some(End::Revocation), true),
        (None, false),
    ] {
        let mut host = host();
        let (ada, ben) = (Writer::new(1).puts(2), Writer::new(2).puts(1));
        // One group: ben's change breaks, ada's stand behind it.
        host.push_open(peer(2), 1, 1, &ben);
        host.push_open(peer(1), 1, 1, &ada[..1]);
        host.push_open(peer(1), 2, 1, &ada[1..]);
        host.flush();
        if let Some(end) = end {
            end.come(&mut host);
        }
        if renewed {
            renew(&mut host, peer(1), MEMBER);
        }
        host.take(peer(1));
        host.verify(breaks(0));
        host.flush();
        verify_all(&mut host);
        assert_eq!(told(&mut host, 2), [("refused", ErrorCode::ChangeUnusable as u64)]);
        match end.filter(|_| !renewed) {
            Some(end) => {
                assert_eq!(told(&mut host, 1), [("refused", end.code() as u64)], "{end:?}");
                assert_eq!(pushers(&host), [""; 0]);
                // Its actor was never used: it is free for whoever comes first.
                renew(&mut host, peer(1), MEMBER);
                host.push(peer(1), 3, 2, &ada);
                verify_all(&mut host);
            }
            None => assert_eq!(told(&mut host, 1), [("acked", 1), ("acked", 2)]),
        }
        assert_eq!(pushers(&host), ["ada", "ada"]);
        assert_eq!(host.gather_changes(peer(2)), ada, "once, in their order");
        assert!(host.shard.is_settled() && host.in_flight.values().all(|bytes| *bytes == 0));
    }
}

#[test]
fn an_actor_belongs_to_nobody_whose_first_change_was_not_verified() {
    let mut host = host();
    let mut fresh = Writer::new(7);
    let first = fresh.put("k", 1);
    host.push(peer(1), 1, 1, std::slice::from_ref(&first));
    // Ben's push in the same actor's name waits, and is judged when it is known whose the actor is.
    host.push(peer(2), 1, 1, std::slice::from_ref(&first));
    let second = fresh.put("k", 2);
    host.push(peer(2), 2, 1, std::slice::from_ref(&second));
    host.verify(breaks(0));
    host.flush();
    verify_all(&mut host);
    assert_eq!(told(&mut host, 1), [("refused", ErrorCode::ChangeUnusable as u64)]);
    assert_eq!(told(&mut host, 2), [("acked", 1), ("acked", 2)]);
    assert_eq!(pushers(&host), ["ben", "ben"]);
    let third = fresh.put("k", 3);
    host.push(peer(1), 2, 2, std::slice::from_ref(&third));
    assert_eq!(told(&mut host, 1), [("refused", ErrorCode::ActorNotYours as u64)]);
}

/// A clock that waits, for a group or for the disk, is not told while its member may not know it.
#[test]
fn a_clock_that_waited_is_told_when_its_member_may_know_it_again() {
    /// What becomes of what the clock waits for.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Verified,
        Broken,
        Stored,
        NotStored,
    }
    for end in End::BOTH {
        for fate in [Fate::Verified, Fate::Broken, Fate::Stored, Fate::NotStored] {
            let mut host = host();
            let is_group = matches!(fate, Fate::Verified | Fate::Broken);
            host.hold_commits = !is_group;
            host.push(peer(2), 1, 1, &Writer::new(2).puts(1));
            if !is_group {
                host.verify(Ok(()));
            }
            host.close(peer(1));
            host.take(peer(1));
            let foreign = Cursor { epoch: 1, seq: 9, chain: [1; 32] };
            host.open_as(grant("ada", MEMBER, MS + 1_000), document(), peer(1), MEMBER, Some(foreign));
            assert_eq!(told(&mut host, 1), [("opened", u64::from(resume::RECONCILE))], "its clock waits");
            end.come(&mut host);
            match fate {
                Fate::Verified => host.verify(Ok(())),
                Fate::Broken => host.verify(breaks(0)),
                Fate::Stored => host.commit(),
                Fate::NotStored => host.fail_commit(),
            }
            host.flush();
            assert_eq!(told(&mut host, 1), [("rights", end.code() as u64)], "{end:?} {fate:?}");
            renew(&mut host, peer(1), Rights::PRESENCE);
            assert_eq!(told(&mut host, 1), [("rights", 0)], "presence alone tells nothing of the log");
            renew(&mut host, peer(1), READ);
            let answers = host.take(peer(1));
            let [Told::RightsChanged(_), Told::Reconcile(clock)] = &answers[..] else {
                panic!("{answers:?}")
            };
            let stored = matches!(fate, Fate::Verified | Fate::Stored);
            assert_eq!(clock.clock.len(), usize::from(stored), "what is durable, {end:?} {fate:?}");
            renew(&mut host, peer(1), MEMBER);
            assert_eq!(told(&mut host, 1), [("rights", 0)], "it is told once");
        }
    }
}

#[test]
fn an_answer_about_a_copy_is_not_told_to_who_may_not_know_it_any_more() {
    for end in End::BOTH {
        let mut host = host();
        let changes = Writer::new(2).puts(2);
        host.push(peer(2), 1, 1, &changes);
        verify_all(&mut host);
        host.close(peer(1));
        let foreign = Cursor { epoch: 1, seq: 9, chain: [1; 32] };
        host.open_as(grant("ada", MEMBER, MS + 1_000), document(), peer(1), MEMBER, Some(foreign));
        host.take(peer(1));
        host.hold_questions = true;
        // Another change of that actor with the same number: the answer would be that the copy is forked.
        let entry = |hash| ClockEntry { actor: actor(2).to_vec(), seq: 1, hash };
        host.reconcile(peer(1), vec![entry([9; 32])]);
        end.come(&mut host);
        host.answer();
        let code = end.code() as u64;
        assert_eq!(told(&mut host, 1), [("rights", code), ("closed", code)]);
        // An honest copy goes on where it was.
        host.hold_questions = false;
        host.now.wall_ms = MS;
        host.open_as(grant("ada", MEMBER, MS + 1_000), document(), peer(1), MEMBER, Some(foreign));
        host.hold_questions = true;
        host.reconcile(peer(1), vec![entry(hash(&changes[0]))]);
        end.come(&mut host);
        host.answer();
        assert_eq!(host.gather(peer(1)), []);
        renew(&mut host, peer(1), READ);
        assert_eq!(host.gather_changes(peer(1)), changes[1..]);
    }
}

/// Somebody who pushes everything that he wrote until it is acked.
struct Member {
    peer: Peer,
    subject: String,
    writer: Writer,
    written: Vec<Vec<u8>>,
    acked: usize,
    /// Sent in this generation, up to here.
    sent: usize,
    generation: u32,
    next_push: u64,
    /// Which change each push under way has.
    pushes: BTreeMap<u64, usize>,
}

impl Member {
    fn new(host: &mut Host, id: u64) -> Self {
        let (peer, subject) = (peer(id), format!("subject-{id}"));
        host.open_as(grant(&subject, MEMBER, 0), document(), peer, MEMBER, None);
        host.take(peer).remove(0).opened();
        let (writer, written, pushes) = (Writer::new(id), Vec::new(), BTreeMap::new());
        Self { peer, subject, writer, written, acked: 0, sent: 0, generation: 1, next_push: 1, pushes }
    }

    fn push(&mut self, host: &mut Host) {
        host.push_open(self.peer, self.next_push, self.generation, &self.written[self.sent..=self.sent]);
        self.pushes.insert(self.next_push, self.sent);
        (self.next_push, self.sent) = (self.next_push + 1, self.sent + 1);
    }

    /// Takes what it is told: answers come in the order of its pushes, one for each until one is refused.
    fn hear(&mut self, host: &mut Host) {
        for told in host.take(self.peer) {
            match told {
                Told::Ack(ack) => {
                    assert_eq!(self.pushes.remove(&ack.push), Some(self.acked), "acked once, in order");
                    self.acked += 1;
                }
                Told::Refused(refused, _) => {
                    assert_eq!(refused.generation, self.generation, "at most one refusal a generation");
                    assert_eq!(self.pushes.remove(&refused.push), Some(self.acked), "the first that is left");
                    self.pushes.clear();
                    (self.generation, self.sent) = (self.generation + 1, self.acked);
                }
                Told::RightsChanged(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn renew(&self, host: &mut Host, expires_ms: u64) {
        let (peer, handle) = (self.peer, host.handle(self.peer));
        let grant = grant(&self.subject, MEMBER, expires_ms);
        host.turn(Input::Renew { peer, handle, request: 1, grant });
    }
}

/// What happens next: which, and to whom.
fn happens(host: &mut Host, members: &mut [Member], what: u8, which: usize) {
    let count = members.len();
    let member = &mut members[which % count];
    match what {
        0..=2 => {
            let change = member.writer.put("n", i64::try_from(member.written.len()).unwrap());
            member.written.push(change);
        }
        3..=6 => {
            while member.sent < member.written.len() {
                member.push(host);
            }
        }
        7 | 8 => host.flush(),
        9 => {
            let what = Revoked::Subject(member.subject.as_str().into());
            host.turn(Input::Revoke(&Revocation { what, at_s: 100 }));
        }
        10 => host.now.wall_ms += 1_000,
        11 => member.renew(host, 0),
        12 => {
            let expires_ms = host.now.wall_ms + 1_500;
            member.renew(host, expires_ms);
        }
        13 | 14 if !host.verifications.is_empty() => host.verify(Ok(())),
        15 if !host.verifications.is_empty() => {
            let (_, _, _, records) = &host.verifications[0];
            let result = breaks(which % records.len());
            host.verify(result);
        }
        16 if !host.verifications.is_empty() => {
            host.verify(Err(Unverified::Unavailable { why: "busy".to_owned() }));
        }
        17 | 18 if !host.commits.is_empty() => host.commit(),
        19 if !host.commits.is_empty() => {
            host.fail_commit();
            // What was given out behind it has failed as well.
            host.commits.clear();
            host.step(Input::StorageRecovered { documents: &[] });
        }
        _ => {}
    }
    for member in members {
        member.hear(host);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever ends, fails or waits meanwhile: each push is answered once, each change is stored once, by its
    /// author's hand, and once the rights are there again everything arrives.
    #[test]
    fn whatever_ends_meanwhile_nothing_is_lost_or_doubled(
        steps in proptest::collection::vec((0_u8..20, 0_usize..6), 1..120),
    ) {
        let mut host = Host::new(MemoryLog::new()).with_verification();
        host.hold_commits = true;
        let mut members: Vec<Member> = (1..=3).map(|id| Member::new(&mut host, id)).collect();
        for (what, which) in steps {
            happens(&mut host, &mut members, what, which);
        }
        // In the end everybody may write again, and nothing fails.
        for member in &mut members {
            member.renew(&mut host, 0);
            member.hear(&mut host);
        }
        let mut rounds = 0;
        while members.iter().any(|member| member.acked < member.written.len()) || !host.shard.is_settled() {
            for what in [3, 7, 13, 17] {
                for which in 0..members.len() {
                    happens(&mut host, &mut members, what, which);
                }
            }
            rounds += 1;
            prop_assert!(rounds < 1_000, "it stands still");
        }
        prop_assert!(host.in_flight.values().all(|bytes| *bytes == 0), "everything is settled");
        let records = host.log.records(&document());
        let all: usize = members.iter().map(|member| member.written.len()).sum();
        prop_assert_eq!(records.len(), all, "each change once");
        for (member, id) in members.iter().zip(1..) {
            let own: Vec<_> = records
                .iter()
                .filter(|record| {
                    parse_header(&record.change, &ChangeLimits::DEFAULT).unwrap().actor == actor(id)
                })
                .collect();
            prop_assert!(own.iter().all(|record| *record.pusher == *member.subject));
            let stored: Vec<[u8; 32]> = own.iter().map(|record| record.hash.0).collect();
            let written: Vec<[u8; 32]> = member.written.iter().map(|change| hash(change)).collect();
            prop_assert_eq!(stored, written, "in their order");
        }
    }
}
