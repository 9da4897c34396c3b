//! A panic in the work on one document ends its streams and nothing else, and loses nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::{BTreeMap, VecDeque};

use common::{Host, MEMBER, Told, Writer, peer};
use etherply_engine::document::recover;
use etherply_engine::faults::Faults;
use etherply_engine::ids::DocumentId;
use etherply_engine::peer::Peer;
use etherply_engine::shard::Input;
use etherply_wire::ErrorCode;
use proptest::prelude::*;

/// Somebody who pushes until everything is acked, whatever happens to the stream.
struct Member {
    peer: Peer,
    document: DocumentId,
    writer: Writer,
    unacked: VecDeque<Vec<u8>>,
    /// How many changes each push has that is under way.
    pushes: VecDeque<(u64, usize)>,
    sent: usize,
    next_push: u64,
    is_open: bool,
    written: u64,
    closes: usize,
}

impl Member {
    fn new(id: u64, document: &str) -> Self {
        Self {
            peer: peer(id),
            document: DocumentId::new(document).unwrap(),
            writer: Writer::new(id),
            unacked: VecDeque::new(),
            pushes: VecDeque::new(),
            sent: 0,
            next_push: 1,
            is_open: false,
            written: 0,
            closes: 0,
        }
    }

    fn open(&mut self, host: &mut Host) {
        (self.sent, self.is_open) = (0, false);
        self.pushes.clear();
        host.open_in(self.document.clone(), self.peer, MEMBER, None);
    }

    fn write(&mut self, host: &mut Host, now: bool) {
        self.written += 1;
        let change = self.writer.put("key", i64::try_from(self.written).unwrap());
        self.unacked.push_back(change);
        self.push(host, now);
    }

    fn push(&mut self, host: &mut Host, now: bool) {
        // The stream may have ended without this member's having heard of it yet.
        if !self.is_open || !host.has_stream(self.peer) || self.sent == self.unacked.len() {
            return;
        }
        let changes: Vec<Vec<u8>> = self.unacked.iter().skip(self.sent).cloned().collect();
        self.sent = self.unacked.len();
        self.pushes.push_back((self.next_push, changes.len()));
        host.push_open(self.peer, self.next_push, 1, &changes);
        if now {
            host.flush();
        }
        self.next_push += 1;
    }

    fn hear(&mut self, host: &mut Host) {
        for told in host.take(self.peer) {
            match told {
                Told::Opened(_) => {
                    self.is_open = true;
                }
                Told::Ack(ack) => {
                    let (push, changes) = self.pushes.pop_front().expect("a push waits for its ack");
                    assert_eq!(ack.push, push);
                    self.sent -= changes;
                    self.unacked.drain(..changes);
                }
                Told::Close(close) => {
                    assert_eq!(close.code, ErrorCode::Internal as u16);
                    self.closes += 1;
                    self.open(host);
                }
                Told::Error(error) => {
                    assert_eq!(error.code, ErrorCode::Internal as u16);
                    self.closes += 1;
                    self.open(host);
                }
                other => panic!("an unexpected {other:?}"),
            }
        }
    }

    fn set_presence(&self, host: &mut Host) {
        if self.is_open && host.has_stream(self.peer) {
            let (peer, handle) = (self.peer, host.handle(self.peer));
            host.turn(Input::PresenceSet { peer, handle, ttl_ms: 1_000, state: b"here" });
        }
    }
}

fn without_noise<T>(work: impl FnOnce() -> T) -> T {
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or_default();
        if !message.starts_with("forced") {
            eprintln!("{info}");
        }
    }));
    work()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn neighbours_do_not_notice_and_nothing_acked_is_lost(
        every in 1_u32..12,
        acts in proptest::collection::vec((0_usize..6, 0_u8..12), 40..160),
    ) {
        without_noise(|| run(every, &acts));
    }
}

fn run(every: u32, acts: &[(usize, u8)]) {
    let mut host = Host::default();
    let names = ["shaky/1", "shaky/1", "shaky/1", "shaky/2", "steady/1", "steady/1"];
    let mut members: Vec<Member> = (1..).zip(names).map(|(id, name)| Member::new(id, name)).collect();
    for member in &mut members {
        member.open(&mut host);
        member.hear(&mut host);
    }
    host.shard.set_faults(Faults::new("shaky/".to_owned(), every));
    for &(who, act) in acts {
        let member = &mut members[who];
        match act {
            0 => host.hold_commits = true,
            1 => {
                host.hold_commits = false;
                while !host.commits.is_empty() {
                    host.commit();
                }
            }
            2 if !host.commits.is_empty() => host.commit(),
            3 => member.set_presence(&mut host),
            4 => {
                host.step(Input::Disconnected { peer: member.peer });
                // Nobody hears what the old connection is told.
                host.take(member.peer);
                member.open(&mut host);
            }
            5 => host.wait_us(500_000),
            6 => host.hold_questions = !host.hold_questions,
            7 if !host.questions.is_empty() => host.answer(),
            8 | 9 => member.write(&mut host, false),
            _ => member.write(&mut host, true),
        }
        for member in &mut members {
            member.hear(&mut host);
        }
    }
    host.shard.set_faults(Faults::none());
    settle(&mut host, &mut members);
    let mut written: BTreeMap<DocumentId, Vec<u64>> = BTreeMap::new();
    for member in &members {
        assert!(member.is_open, "everybody has the document open in the end");
        assert_eq!(member.unacked.len(), 0, "everything is acked in the end");
        assert_eq!(host.in_flight.get(&member.peer).copied().unwrap_or_default(), 0, "and settled");
        if member.document.as_str().starts_with("steady") {
            assert_eq!(member.closes, 0, "a neighbour noticed");
        }
        written.entry(member.document.clone()).or_default().push(member.written);
    }
    for (document, mut counts) in written {
        let stored = recover(&host.log, &document).unwrap();
        let mut clock: Vec<u64> = stored.clock().map(|(_, state)| state.seq).collect();
        counts.retain(|count| *count > 0);
        counts.sort_unstable();
        clock.sort_unstable();
        assert_eq!(clock, counts, "what was acked is in the log");
    }
}

/// Lets everything come to its end.
fn settle(host: &mut Host, members: &mut [Member]) {
    (host.hold_commits, host.hold_questions) = (false, false);
    loop {
        let mut is_quiet = true;
        host.flush();
        while !host.questions.is_empty() {
            host.answer();
            is_quiet = false;
        }
        while !host.commits.is_empty() {
            host.commit();
            is_quiet = false;
        }
        for member in members.iter_mut() {
            member.hear(host);
            let before = member.sent;
            member.push(host, true);
            is_quiet &= before == member.sent;
        }
        if is_quiet && host.told.is_empty() {
            return;
        }
    }
}
