//! One document and its members, in the engine alone: a push is admitted, its commit reported durable, the writer
//! acked, and each member handed the frame, which is copied once, as a send does.
#![allow(clippy::unwrap_used, reason = "a benchmark ends where it cannot go on")]

use etherply_engine::access::Grant;
use etherply_engine::change::ChangeLimits;
use etherply_engine::document::{Document, Recovered};
use etherply_engine::feed::{Feeds, QUANTUM_BYTES};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::FIRST_EPOCH;
use etherply_engine::peer::{Now, Peer};
use etherply_engine::shard::{Effect, Input, OpenRequest, PushRequest, Shard};
use etherply_wire::Rights;

/// A shard, and members of one document on as many cores as asked for.
pub struct Room {
    shard: Shard,
    cores: Vec<Feeds>,
    members: Vec<(Peer, u32)>,
    handle: u32,
    effects: Vec<Effect>,
    woken: Vec<(Peer, u32)>,
    out: Vec<u8>,
    pushes: u64,
}

/// The moment at which everything happens.
const NOW: Now = Now { mono_us: 1, wall_ms: 1 };

impl Room {
    /// All of them have the document open.
    pub fn new(members: u64, cores: u16) -> Self {
        let mut room = Self {
            shard: Shard::new(0, 1, ChangeLimits::DEFAULT),
            cores: (0..cores).map(|_| Feeds::new()).collect(),
            members: Vec::new(),
            handle: 0,
            effects: Vec::new(),
            woken: Vec::new(),
            out: Vec::new(),
            pushes: 0,
        };
        let document = DocumentId::new("bench").unwrap();
        for id in 0..members {
            let peer = Peer { core: u16::try_from(id % u64::from(cores)).unwrap(), id };
            let rights = Rights::READ.with(Rights::WRITE);
            let document = document.clone();
            let grant = Grant::anonymous();
            let open =
                OpenRequest { peer, session: [0; 16], request: 1, document, rights, grant, cursor: None };
            room.step(Input::Open(open));
        }
        for number in 0..room.members.len() {
            room.deliver(number);
        }
        room
    }

    fn step(&mut self, input: Input<'_>) {
        let mut effects = std::mem::take(&mut self.effects);
        self.shard.step(input, NOW, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, mut effects: Vec<Effect>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Load { handle, document } => {
                    self.handle = handle;
                    let document = Document::new(document, FIRST_EPOCH);
                    let result = Box::new(Ok(Recovered { document, snapshot: None }));
                    self.step(Input::Loaded { handle, result });
                }
                Effect::Attach(attach) => {
                    let feeds = self.cores.get_mut(usize::from(attach.peer.core)).unwrap();
                    if let Some(feed) = attach.feed {
                        feeds.start(attach.handle, *feed);
                    }
                    let number = feeds.attach(attach.handle, attach.peer, attach.member).unwrap();
                    self.members.push((attach.peer, number));
                }
                Effect::Commit { batch, .. } => self.step(Input::Committed { batch }),
                Effect::Publish { core, handle, event } => {
                    let woken = &mut self.woken;
                    let feeds = self.cores.get_mut(usize::from(core)).unwrap();
                    feeds.publish(handle, event, |peer, number| woken.push((peer, number)));
                }
                Effect::Reply { frame, .. } => self.out.extend_from_slice(frame.frame()),
                _ => {}
            }
        }
        self.effects = effects;
    }

    fn deliver(&mut self, member: usize) {
        let Some(&(peer, number)) = self.members.get(member) else { return };
        self.gather(peer, number);
    }

    fn gather(&mut self, peer: Peer, number: u32) {
        let out = &mut self.out;
        out.clear();
        let feeds = self.cores.get_mut(usize::from(peer.core)).unwrap();
        feeds.gather(self.handle, number, peer, QUANTUM_BYTES, |frame| {
            out.extend_from_slice(frame.frame());
        });
    }

    /// The first member pushes a change; everybody gets it. How many deliveries it was.
    pub fn push(&mut self, change: &[u8]) -> usize {
        self.pushes += 1;
        let peer = self.members.first().unwrap().0;
        let lengths = [u32::try_from(change.len()).unwrap()];
        let push = PushRequest {
            peer,
            handle: self.handle,
            push: self.pushes,
            generation: 1,
            lengths: &lengths,
            changes: change,
        };
        self.step(Input::Push(push));
        let mut effects = std::mem::take(&mut self.effects);
        self.shard.flush(&mut effects);
        self.carry_out(effects);
        let woken = std::mem::take(&mut self.woken);
        for &(peer, number) in &woken {
            self.gather(peer, number);
        }
        let deliveries = woken.len();
        self.woken = woken;
        self.woken.clear();
        deliveries
    }
}
