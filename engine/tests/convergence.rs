//! Random interleavings of several writers: whatever the order, the duplicates, the reconnects, the refusals
//! and the forks, everybody ends with the document that the log has.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod common;

use std::collections::BTreeSet;

use automerge::{ActorId, AutoCommit, Change, ROOT, ReadDoc};
use common::{Host, MEMBER, Told, Writer, actor, document, hash, peer};
use etherply_engine::document::recover;
use etherply_engine::shard::Input;
use etherply_wire::ErrorCode;
use etherply_wire::kinds::Cursor;
use proptest::prelude::*;

/// One step of one member.
#[derive(Debug, Clone)]
enum Deed {
    /// Edits its own copy.
    Edit { member: usize, key: u8, value: i64 },
    /// Pushes what is not acked, up to so many changes, without waiting for the disk.
    Push { member: usize, changes: usize },
    /// Pushes once more what was acked.
    PushAgain { member: usize, from: usize },
    /// Pushes its changes in the wrong order: to be refused.
    PushAskew { member: usize },
    /// The oldest commit becomes durable.
    Commit,
    /// Receives what it lacks.
    Receive { member: usize },
    /// Loses its connection, and what was under way to it, and comes back.
    Reconnect { member: usize },
    /// Comes back as the same actor from the copy that it had before its last edit.
    Fork { member: usize },
}

const MEMBERS: usize = 4;

fn deed() -> impl Strategy<Value = Deed> {
    let member = 0..MEMBERS;
    prop_oneof![
        6 => (member.clone(), 0_u8..4, any::<i64>())
            .prop_map(|(member, key, value)| Deed::Edit { member, key, value }),
        5 => (member.clone(), 1_usize..4).prop_map(|(member, changes)| Deed::Push { member, changes }),
        2 => (member.clone(), 0_usize..8).prop_map(|(member, from)| Deed::PushAgain { member, from }),
        1 => member.clone().prop_map(|member| Deed::PushAskew { member }),
        4 => Just(Deed::Commit),
        4 => member.clone().prop_map(|member| Deed::Receive { member }),
        2 => member.clone().prop_map(|member| Deed::Reconnect { member }),
        1 => member.prop_map(|member| Deed::Fork { member }),
    ]
}

/// A member with no more than the wire asks of it.
struct Member {
    writer: Writer,
    /// Its copy and outbox before its last edit.
    image: Option<(AutoCommit, Vec<Vec<u8>>)>,
    outbox: Vec<Vec<u8>>,
    sent: usize,
    acked: Vec<Vec<u8>>,
    generation: u32,
    push: u64,
    connection: u64,
    cursor: Option<Cursor>,
    actors: u64,
}

struct Room {
    host: Host,
    members: Vec<Member>,
    connections: u64,
    ledger: BTreeSet<[u8; 32]>,
}

impl Room {
    fn new() -> Self {
        let mut room =
            Self { host: Host::default(), members: Vec::new(), connections: 0, ledger: BTreeSet::new() };
        room.host.hold_commits = true;
        for n in 0..MEMBERS as u64 {
            room.members.push(Member {
                writer: Writer::new(n * 1_000),
                image: None,
                outbox: Vec::new(),
                sent: 0,
                acked: Vec::new(),
                generation: 1,
                push: 0,
                connection: 0,
                cursor: None,
                actors: n * 1_000,
            });
            room.connect(n as usize);
        }
        room
    }

    fn connect(&mut self, at: usize) {
        self.connections += 1;
        let member = &mut self.members[at];
        member.connection = self.connections;
        member.generation = 1;
        member.sent = 0;
        let peer = peer(self.connections);
        self.host.open(peer, MEMBER, member.cursor);
        self.host.take(peer).remove(0).opened();
    }

    fn disconnect(&mut self, at: usize) {
        let peer = peer(self.members[at].connection);
        self.host.turn(Input::Disconnected { peer });
        self.host.take(peer);
    }

    fn act(&mut self, deed: &Deed) {
        match *deed {
            Deed::Edit { member, key, value } => {
                let member = &mut self.members[member];
                member.image = Some((member.writer.doc.clone(), member.outbox.clone()));
                let change = member.writer.put(&format!("k{key}"), value);
                member.outbox.push(change);
            }
            Deed::Push { member, changes } => self.push(member, changes),
            Deed::PushAgain { member, from } => {
                let peer = peer(self.members[member].connection);
                let member = &mut self.members[member];
                let again: Vec<Vec<u8>> = member.acked.iter().skip(from).take(3).cloned().collect();
                if !again.is_empty() {
                    member.push += 1;
                    self.host.push(peer, member.push, member.generation, &again);
                }
            }
            Deed::PushAskew { member } => {
                let peer = peer(self.members[member].connection);
                let member = &mut self.members[member];
                let mut askew: Vec<Vec<u8>> = member.outbox[member.sent..].to_vec();
                if askew.len() > 1 {
                    askew.reverse();
                    member.push += 1;
                    self.host.push(peer, member.push, member.generation, &askew);
                }
            }
            Deed::Commit => {
                if !self.host.commits.is_empty() {
                    self.host.commit();
                }
            }
            Deed::Receive { member } => self.receive(member),
            Deed::Reconnect { member } => {
                self.disconnect(member);
                self.connect(member);
            }
            Deed::Fork { member } => {
                if let Some((doc, outbox)) = self.members[member].image.take() {
                    self.disconnect(member);
                    let forked = &mut self.members[member];
                    // The image is older than the cursor may be: it begins without one.
                    forked.writer.doc = doc;
                    forked.outbox = outbox;
                    forked.cursor = None;
                    self.connect(member);
                }
            }
        }
    }

    fn push(&mut self, at: usize, changes: usize) {
        let member = &mut self.members[at];
        let end = (member.sent + changes).min(member.outbox.len());
        if end > member.sent {
            member.push += 1;
            let push = member.outbox[member.sent..end].to_vec();
            member.sent = end;
            self.host.push(peer(member.connection), member.push, member.generation, &push);
        }
    }

    /// Takes the answers first, as a connection sends them, then what the feed has.
    fn receive(&mut self, at: usize) {
        let peer = peer(self.members[at].connection);
        let answers = self.host.take(peer);
        for told in answers {
            match told {
                Told::Ack(ack) => self.acked(at, &ack.positions),
                Told::Refused(refused, _) => {
                    if self.refused(at, refused.generation, refused.code) {
                        return;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        let through = self.host.gather(peer);
        for told in through {
            let (frame, carried) = told.changes();
            let member = &mut self.members[at];
            // A fork that is noticed by what comes: the copy is given up.
            if conflicts(&mut member.writer.doc, &carried) {
                self.start_over(at);
                return;
            }
            let hashes: Vec<[u8; 32]> = carried.iter().map(|change| hash(change)).collect();
            let stays = |change: &Vec<u8>| !hashes.contains(&hash(change));
            let unsent = member.outbox.split_off(member.sent);
            member.outbox.retain(stays);
            member.sent = member.outbox.len();
            member.outbox.extend(unsent.into_iter().filter(stays));
            member.writer.apply(&carried);
            assert!(member.writer.doc.get_missing_deps(&[]).is_empty());
            member.cursor = Some(frame.cursor);
        }
    }

    fn acked(&mut self, at: usize, positions: &[u64]) {
        let member = &mut self.members[at];
        for &position in positions {
            let record = &self.host.log.records(&document())[position as usize - 1];
            self.ledger.insert(record.hash.0);
            if let Some(index) = member.outbox.iter().position(|change| *change == record.change) {
                let change = member.outbox.remove(index);
                member.sent = member.sent.saturating_sub(usize::from(index < member.sent));
                member.acked.push(change);
            }
        }
    }

    /// Whether the copy was given up.
    fn refused(&mut self, at: usize, generation: u32, code: u16) -> bool {
        let member = &mut self.members[at];
        member.generation = generation + 1;
        member.sent = 0;
        match ErrorCode::from_number(code).unwrap() {
            // Its changes came in the wrong order.
            ErrorCode::SequenceGap | ErrorCode::MissingDependencies => false,
            ErrorCode::ActorForked => {
                self.start_over(at);
                true
            }
            other => panic!("{other}"),
        }
    }

    fn start_over(&mut self, at: usize) {
        self.disconnect(at);
        let member = &mut self.members[at];
        member.actors += 1;
        member.writer = Writer::new(0);
        member.writer.doc.set_actor(ActorId::from(&actor(member.actors)[..]));
        member.outbox.clear();
        member.acked.clear();
        member.image = None;
        member.cursor = None;
        self.connect(at);
    }

    /// All faults stop; everybody pushes and receives until nothing is left.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 20, "it does not drain");
            for member in 0..MEMBERS {
                self.push(member, usize::MAX / 2);
            }
            while !self.host.commits.is_empty() {
                self.host.commit();
            }
            for member in 0..MEMBERS {
                self.receive(member);
            }
            let is_idle = |member: &Member| member.outbox.is_empty();
            if self.members.iter().all(is_idle)
                && self.members.iter().all(|m| m.cursor.is_some() || round > 2)
            {
                break;
            }
        }
        for member in 0..MEMBERS {
            self.receive(member);
        }
    }

    fn check(&mut self) {
        let records = self.host.log.records(&document()).to_vec();
        let mut reference = AutoCommit::new();
        let stored: BTreeSet<[u8; 32]> = records.iter().map(|record| record.hash.0).collect();
        assert!(self.ledger.is_subset(&stored), "an acked change is lost");
        for record in &records {
            reference.apply_changes([Change::from_bytes(record.change.to_vec()).unwrap()]).unwrap();
        }
        assert_eq!(stored.len(), records.len(), "nothing is stored twice");
        let engine: Vec<[u8; 32]> =
            recover(&self.host.log, &document()).unwrap().heads().iter().map(|head| head.hash.0).collect();
        let heads = sorted(&mut reference);
        assert_eq!(engine, heads);
        for member in &mut self.members {
            assert_eq!(sorted(&mut member.writer.doc), heads);
            assert_eq!(content(&member.writer.doc), content(&reference));
            assert_eq!(self.host.in_flight.get(&peer(member.connection)).copied().unwrap_or(0), 0);
        }
    }
}

fn sorted(doc: &mut AutoCommit) -> Vec<[u8; 32]> {
    let mut heads: Vec<[u8; 32]> = doc.get_heads().iter().map(|head| head.0).collect();
    heads.sort_unstable();
    heads
}

fn content(doc: &AutoCommit) -> automerge::hydrate::Value {
    doc.hydrate(&ROOT, None).unwrap()
}

/// Whether a copy has another change under the same actor and number.
fn conflicts(doc: &mut AutoCommit, changes: &[Vec<u8>]) -> bool {
    let own: BTreeSet<(Vec<u8>, u64, [u8; 32])> = doc
        .get_changes_meta(&[])
        .iter()
        .map(|change| (change.actor.to_bytes().to_vec(), change.seq, change.hash.0))
        .collect();
    changes.iter().any(|bytes| {
        let change = Change::from_bytes(bytes.clone()).unwrap();
        let (actor, seq) = (change.actor_id().to_bytes().to_vec(), change.seq());
        own.range((actor.clone(), seq, [0; 32])..=(actor, seq, [255; 32]))
            .any(|(.., own)| *own != change.hash().0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn everybody_ends_with_what_the_log_has(deeds in prop::collection::vec(deed(), 1..120)) {
        let mut room = Room::new();
        for deed in &deeds {
            room.act(deed);
        }
        room.settle();
        room.check();
    }
}
