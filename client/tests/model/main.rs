//! Clients with real documents against a small server under random schedules: whatever is delayed, refused,
//! cut or restored, everyone ends with the same document, every edit is in it and acked, and no position is
//! delivered twice.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod limits;
mod peer;
mod reconnect;

use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, ROOT, ReadDoc};
use etherply_client::{Client, Document, Event, OpenOptions, Saved, Transport};
use etherply_wire::{ErrorCode, Rights};
use peer::{Conn, Peer, Queue};
use proptest::prelude::*;

struct Member {
    client: Client,
    document: Document,
    tags: u64,
    acked: u64,
    duplicates: u64,
    to_server: Vec<u8>,
    index: usize,
    /// Programs that this member was before.
    lives: u8,
}

impl Member {
    fn new(index: usize) -> Self {
        let mut client = Self::client(index);
        let stream = client.open(Self::options()).unwrap();
        let document = Document::new(stream, Self::actor(index, 0));
        let to_server = Vec::new();
        Self { client, document, tags: 0, acked: 0, duplicates: 0, to_server, index, lives: 0 }
    }

    fn client(index: usize) -> Client {
        let transport = if index.is_multiple_of(2) {
            Transport::Tcp
        } else {
            Transport::WebSocket { host: "test".into(), path: "/sync".into() }
        };
        Client::new(transport, "test", index as u64 * 1_000)
    }

    fn options() -> OpenOptions {
        let rights = Rights::READ.with(Rights::WRITE);
        OpenOptions { document: "doc".into(), rights, token: None, cursor: None }
    }

    fn actor(index: usize, lives: u8) -> ActorId {
        ActorId::from([u8::try_from(index).unwrap() + 1, lives, 0, 0])
    }

    /// The program ends, and another one goes on with nothing but the bytes that it saved.
    fn die_and_rise(&mut self) {
        let bytes = self.document.save(&mut self.client, "me", 0).unwrap().encode().unwrap();
        self.lives += 1;
        self.client = Self::client(self.index);
        let (saved, actor) = (Saved::decode(&bytes, "me").unwrap(), Self::actor(self.index, self.lives));
        self.document = Document::restore(&mut self.client, &saved, actor, Self::options()).unwrap();
    }

    fn edit(&mut self, key: u8) {
        self.tags += 1;
        self.document.apply().unwrap();
        let text = format!("{} {}", key, self.tags);
        self.document.doc().put(ROOT, format!("k{}", key % 4), text).unwrap();
        assert_eq!(self.document.push(&mut self.client, self.tags).unwrap(), 1);
    }

    fn receive(&mut self, bytes: &mut [u8], now_ms: u64) {
        let Self { client, document, acked, duplicates, .. } = self;
        let (mut clock, mut blocked) = (None, None);
        client
            .input(bytes, now_ms, &mut |event| match event {
                Event::Changes { changes, duplicates: twice, .. } => {
                    *duplicates += twice;
                    document.receive(&changes).unwrap();
                }
                Event::Snapshot { bytes, .. } => document.snapshot(&bytes).unwrap(),
                Event::Reconcile { clock: server, .. } => clock = Some(server),
                Event::Acked { push, .. } => *acked = push.tag.max(*acked),
                Event::Refused { blocks: true, clock, .. } => blocked = Some(clock),
                Event::Refused { .. } => {}
                Event::Ready { .. } | Event::Opened { .. } | Event::GoingAway { .. } => {}
                other => panic!("unexpected: {other:?}"),
            })
            .unwrap();
        if let Some(server) = clock {
            document.apply().unwrap();
            document.reconcile(client, &server, 0).unwrap();
        }
        if let Some(server) = blocked {
            document.apply().unwrap();
            document.supply(client, &server, 0).unwrap();
        }
    }

    fn send(&mut self, now_ms: u64) {
        self.client.output(&mut self.to_server, now_ms);
    }
}

struct World {
    peer: Peer,
    queue: Queue,
    members: Vec<Member>,
    conns: Vec<Option<Conn>>,
    now_ms: u64,
}

impl World {
    fn new(members: usize) -> Self {
        Self {
            peer: Peer::new(),
            queue: Queue::default(),
            members: (0..members).map(Member::new).collect(),
            conns: (0..=members).map(|_| None).collect(),
            now_ms: 0,
        }
    }

    fn connect(&mut self, index: usize) {
        if self.conns[index].is_none() {
            self.conns[index] = Some(Conn::new());
            self.members[index].client.connect(self.now_ms).unwrap();
        }
    }

    fn cut(&mut self, index: usize) {
        self.conns[index] = None;
        self.peer.forget(&mut self.queue, index);
        self.members[index].client.disconnected();
        self.members[index].to_server.clear();
    }

    /// Moves up to `bytes` bytes each way.
    fn exchange(&mut self, index: usize, bytes: usize) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        let member = &mut self.members[index];
        member.send(self.now_ms);
        let up: Vec<u8> = member.to_server.drain(..bytes.min(member.to_server.len())).collect();
        self.peer.receive(conn, index, &up, &mut self.queue);
        let mut down: Vec<u8> = conn.output.drain(..bytes.min(conn.output.len())).collect();
        member.receive(&mut down, self.now_ms);
    }

    /// Moves up to `bytes` bytes, first up and then down; tells how many it were.
    fn carry(&mut self, index: usize, bytes: usize) -> usize {
        let Some(conn) = self.conns[index].as_mut() else { return 0 };
        let member = &mut self.members[index];
        member.send(self.now_ms);
        let up: Vec<u8> = member.to_server.drain(..bytes.min(member.to_server.len())).collect();
        self.peer.receive(conn, index, &up, &mut self.queue);
        let left = bytes - up.len();
        let mut down: Vec<u8> = conn.output.drain(..left.min(conn.output.len())).collect();
        member.receive(&mut down, self.now_ms);
        up.len() + down.len()
    }

    fn step(&mut self, action: u8, index: usize, amount: u8) {
        let index = index % self.members.len();
        let amount = usize::from(amount);
        self.now_ms += 1;
        match action % 16 {
            0..=3 => self.members[index].edit(amount as u8),
            4..=7 => self.exchange(index, amount * 3),
            8 | 9 => self.connect(index),
            10 => self.peer.commit(&mut self.queue, amount % 4, &mut self.conns),
            11 | 12 => {
                if let Some(conn) = self.conns[index].as_mut() {
                    self.peer.relay(conn, amount % 5);
                }
            }
            13 if amount % 4 == 0 => {
                self.cut(index);
                self.members[index].die_and_rise();
            }
            13 => self.cut(index),
            14 if amount % 2 == 0 => self.peer.refuse_next = Some(ErrorCode::Overloaded),
            14 => self.peer.refuse_next = Some(ErrorCode::MissingDependencies),
            _ if amount < 40 => self.restart(amount),
            _ => {}
        }
    }

    /// The server crashes, and comes back with its log; or with an older copy of it.
    fn restart(&mut self, amount: usize) {
        (0..self.members.len()).for_each(|index| self.cut(index));
        self.peer.crash(&mut self.queue);
        if amount < 10 {
            self.peer.restore(self.peer.len() * amount / 10);
        }
    }

    /// Faults are over: everything drains in a bounded number of rounds.
    fn heal(&mut self) {
        self.peer.refuse_next = None;
        for _ in 0..300 {
            self.now_ms += 10;
            for index in 0..self.members.len() {
                self.connect(index);
                self.exchange(index, usize::MAX);
                if let Some(conn) = self.conns[index].as_mut() {
                    self.peer.relay(conn, 1_000);
                }
                self.exchange(index, usize::MAX);
            }
            self.peer.commit(&mut self.queue, 1_000, &mut self.conns);
        }
    }

    fn check(&mut self) {
        let mut reference = AutoCommit::new();
        for change in self.peer.changes() {
            reference.apply_changes([automerge::Change::try_from(change).unwrap()]).unwrap();
        }
        let (heads, content) = (reference.get_heads(), reference.hydrate(ROOT, None).unwrap());
        let edits: u64 = self.members.iter().map(|member| member.tags).sum();
        assert_eq!(self.peer.len() as u64, edits, "every edit is in the log, once");
        for (index, member) in self.members.iter_mut().enumerate() {
            assert!(self.peer.is_up_to_date(self.conns[index].as_ref().unwrap()));
            member.document.apply().unwrap();
            assert_eq!(member.document.doc().get_heads(), heads);
            assert_eq!(member.document.doc().hydrate(ROOT, None).unwrap(), content);
            assert_eq!(member.client.unacked(member.document.stream()).count(), 0);
            assert_eq!(member.client.in_flight(), etherply_client::InFlight::default());
            assert_eq!(member.duplicates, 0);
            let cursor = member.client.cursor(member.document.stream());
            assert_eq!(cursor.map_or(0, |cursor| cursor.seq), edits);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_schedule_converges(
        members in 1usize..4,
        steps in proptest::collection::vec((any::<u8>(), any::<usize>(), any::<u8>()), 0..300),
    ) {
        let mut world = World::new(members);
        for (action, index, amount) in steps {
            world.step(action, index, amount);
        }
        world.heal();
        world.check();
    }
}

#[test]
fn a_new_member_begins_with_the_snapshot() {
    let mut world = World::new(2);
    for key in 0..10 {
        world.members[0].edit(key);
    }
    world.connect(0);
    for _ in 0..10 {
        world.exchange(0, usize::MAX);
        world.peer.commit(&mut world.queue, 100, &mut world.conns);
    }
    assert_eq!(world.peer.len(), 10);
    let saved = world.members[0].document.doc().save();
    world.peer.snapshot = Some((10, saved));
    world.members[0].edit(77);
    world.heal();
    world.check();
}

#[test]
fn the_window_that_the_server_names_is_kept() {
    let mut world = World::new(1);
    world.connect(0);
    for key in 0..10 {
        world.members[0].edit(key);
    }
    for _ in 0..5 {
        world.exchange(0, usize::MAX);
    }
    assert_eq!(world.members[0].client.in_flight().pushes, 3);
    world.peer.commit(&mut world.queue, 2, &mut world.conns);
    world.exchange(0, usize::MAX);
    assert_eq!((world.members[0].acked, world.members[0].client.in_flight().pushes), (2, 1));
    world.exchange(0, usize::MAX);
    assert_eq!(world.members[0].client.in_flight().pushes, 3);
}

/// Found by the random schedules: the answer to the earlier push did not set the later one going again.
#[test]
fn a_push_that_waits_for_an_earlier_answer_is_sent_again_when_it_comes() {
    let mut world = World::new(1);
    world.connect(0);
    world.members[0].edit(1);
    (0..3).for_each(|_| world.exchange(0, usize::MAX));
    world.peer.refuse_next = Some(ErrorCode::MissingDependencies);
    world.members[0].edit(2);
    (0..2).for_each(|_| world.exchange(0, usize::MAX));
    assert_eq!((world.peer.refused, world.members[0].client.in_flight().pushes), (1, 1));
    world.heal();
    world.check();
}

#[test]
fn a_refusal_that_the_outbox_cannot_mend_keeps_the_changes_for_the_application() {
    let mut world = World::new(1);
    world.connect(0);
    world.members[0].edit(1);
    world.members[0].edit(2);
    world.exchange(0, usize::MAX);
    world.exchange(0, usize::MAX);
    world.peer.refuse_next = Some(ErrorCode::ActorForked);
    let member = &mut world.members[0];
    member.send(0);
    let up = std::mem::take(&mut member.to_server);
    let conn = world.conns[0].as_mut().unwrap();
    world.peer.receive(conn, 0, &up, &mut world.queue);
    let mut code = None;
    member
        .client
        .input(&mut conn.output, 0, &mut |event| {
            if let Event::Refused { fault, blocks, .. } = event {
                code = fault.known().filter(|_| blocks);
            }
        })
        .unwrap();
    assert_eq!(code, Some(ErrorCode::ActorForked));
    assert_eq!(world.peer.refused, 1);
    let given = member.client.give_back(member.document.stream()).unwrap();
    assert_eq!(given.iter().map(|push| push.tag).collect::<Vec<_>>(), [1, 2]);
}
