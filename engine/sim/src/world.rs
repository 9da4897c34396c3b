//! The world: its clock, its events, its network, and who lives in it.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use etherply_engine::ids::DocumentId;
use etherply_engine::shard::Budget;
use etherply_wire::Rights;

use crate::check::Checker;
use crate::client::{Context, Replica};
use crate::device::Device;
use crate::disk::Disk;
use crate::edits::Edit;
use crate::history;
use crate::network::{Way, Weather};
use crate::process::Client;
use crate::rng::Rng;
use crate::scenario::{Scenario, Trouble};
use crate::server::{Message, Query, Server};
use crate::trace::Trace;

/// Most simulated time that a world may take to drain after all faults stopped.
pub const HEALING_US_MAX: u64 = 120 * 1_000_000;
/// Longer than the slowest link takes there and back: see [`World::connect`].
const QUIET_US: u64 = 10 * 1_000_000;
/// How much longer clients pause then than before.
const QUIET_PAUSES: u64 = 8;
/// Most events of one world, far more than any needs.
pub const EVENTS_MAX: u64 = 2_000_000;

/// What happens at a time.
#[derive(Debug)]
pub enum Event {
    /// A message reaches a core.
    Core { life: u64, core: u16, message: Message },
    /// A core works.
    Turn { life: u64, core: u16 },
    /// A core is told that time passes.
    Tick { life: u64 },
    /// The disk has finished a group of commits.
    Committed { life: u64 },
    /// The disk answers.
    Answer { life: u64, core: u16, query: Query },
    /// A packet of a link reaches its end; `way` is 0 to the server, 1 to the client.
    Packet { link: u64, way: usize, packet: u64, bytes: Vec<u8> },
    /// The server notices that a link is cut.
    ServerSees { life: u64, link: u64 },
    /// The client notices that a link is cut.
    ClientSees { link: u64 },
    /// A client does something.
    Act { member: usize },
    /// Something goes wrong.
    Nemesis,
    /// The server starts.
    Start,
}

/// A connection: two streams of bytes.
#[derive(Debug)]
pub struct Link {
    /// The member at one end.
    pub member: usize,
    /// The core at the other.
    pub core: u16,
    /// The connection's number there.
    pub id: u64,
    /// Nothing passes any more.
    pub is_cut: bool,
    /// Delay of a frame, at most.
    pub delay_us_max: u64,
    /// Bytes that may be under way to the client before its core sends no more of its feeds.
    pub window_bytes: usize,
    /// Bytes under way to the client.
    pub unread_bytes: usize,
    /// What is under way to the server, and to the client.
    pub ways: [Way; 2],
}

/// A client and its connection.
#[derive(Debug)]
pub struct Member {
    /// The strict client; without any document if the member is a device.
    pub client: Client,
    /// The production client, where the member is one.
    pub device: Option<Box<Device>>,
    /// Its link.
    pub link: Option<u64>,
    /// A copy of it, as a backup of a device.
    pub image: Option<Client>,
    /// It does nothing before this time.
    pub asleep_until_us: u64,
}

/// How a world is made: all drawn from the seed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Cores of the server.
    pub cores: u16,
    /// Members.
    pub members: u64,
    /// Documents.
    pub documents: u64,
    /// How packets fare.
    pub weather: Weather,
    /// Longest delay of a message between cores.
    pub core_delay_us: u64,
    /// Longest commit.
    pub commit_us: u64,
    /// Longest answer of the disk.
    pub answer_us: u64,
    /// Longest delay of a link.
    pub link_delay_us: u64,
    /// Longest pause of a client between two deeds.
    pub pause_us: u64,
    /// How long things go wrong.
    pub active_us: u64,
    /// Pushes that a client has in flight.
    pub in_flight_max: usize,
    /// Whether clients are cloned.
    pub clones: bool,
    /// Whether older copies of documents are restored.
    pub restores: bool,
    /// Whether commits fail.
    pub disk_fails: bool,
    /// Whether documents are deleted.
    pub deletes: bool,
    /// Whether documents begin anew without some of their changes.
    pub quarantines: bool,
    /// Whether bits flip in stored records.
    pub bit_flips: bool,
    /// Whether members have tokens, which end and are revoked.
    pub tokens: bool,
    /// Percent of deeds that break something of the client's own.
    pub client_faults: u64,
    /// What a shard may hold, and when it has snapshots cut.
    pub budget: Budget,
    /// What feeds may keep of tails and snapshots.
    pub feeds: (usize, usize),
    /// Length of a snapshot's chunks.
    pub chunk_bytes: usize,
    /// By how much snapshots are taken to be shorter than what they cover, so that as much of the log goes as when
    /// Automerge has compacted it.
    pub density: u64,
    /// Percent of snapshots that cannot be written, and of reads of snapshots that fail.
    pub damage: u64,
    /// How often something goes wrong, at most.
    pub nemesis_us: u64,
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Stands for everything that happened, in order.
    pub trace_hash: u64,
    /// Events.
    pub events: u64,
    /// Simulated time.
    pub simulated_us: u64,
    /// Changes in all logs.
    pub changes: u64,
    /// Acks.
    pub acks: u64,
    /// Changes that were sent to members.
    pub deliveries: u64,
    /// What happened how often.
    pub counts: BTreeMap<String, u64>,
}

/// What was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// When.
    pub now_us: u64,
    /// Events up to then.
    pub events: u64,
    /// What.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} at {} us: {}", self.seed, self.now_us, self.what)
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) now_us: u64,
    order: u64,
    /// Boxed, because the map moves what it holds, and an event is many times its key.
    events: BTreeMap<(u64, u64), Box<Event>>,
    pub(crate) trace: Trace,
    pub(crate) lives: u64,
    pub(crate) server: Option<Server>,
    pub(crate) disk: Disk,
    pub(crate) documents: Vec<DocumentId>,
    pub(crate) members: Vec<Member>,
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) next_link: u64,
    pub(crate) check: Checker,
    pub(crate) healing: bool,
    pub(crate) restored: bool,
    pub(crate) cloned: bool,
    /// A document began anew without some of its changes at some time.
    pub(crate) quarantined: bool,
    /// Changes that broke documents, which their actors may bring again.
    pub(crate) culprits: Vec<(DocumentId, Edit)>,
    /// How far the wall clock is from where it was, in milliseconds.
    pub(crate) wall_offset_ms: i64,
    /// Tokens that were shown, by number and of strict clients.
    pub(crate) tokens_given: u64,
    pub(crate) given: Vec<Arc<str>>,
    pub(crate) counts: BTreeMap<String, u64>,
    /// Presence that stands in the end, by link, handle and opening.
    pub(crate) last_presence: BTreeMap<(u64, u32, u64), Vec<u8>>,
}

/// Runs a seed to its end.
pub fn run(seed: u64, verbose: bool) -> Result<Report, Failure> {
    run_scenario(&Scenario::of(seed), verbose)
}

/// Runs a seed to its end in a world in which some things are left out.
pub fn run_scenario(scenario: &Scenario, verbose: bool) -> Result<Report, Failure> {
    let seed = scenario.seed;
    let mut world = World::new(scenario, verbose);
    // A panic of production code that nothing contains is a failure like any other.
    let lived = catch_unwind(AssertUnwindSafe(|| world.live())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("a panic: {}", text.unwrap_or("without a word")))
    });
    match lived {
        Ok(()) => Ok(world.report()),
        Err(what) => {
            if verbose {
                world.explain();
            }
            Err(Failure { seed, now_us: world.now_us, events: world.trace.events(), what })
        }
    }
}

impl World {
    /// The world of a seed, before anything happens.
    pub fn new(scenario: &Scenario, verbose: bool) -> Self {
        let seed = scenario.seed;
        let mut rng = Rng::new(seed);
        let slow = [1, 1, 1, 10].get(rng.index(4)).copied().unwrap_or(1);
        let mut config = Config {
            // Small worlds are quick, and find most; a few are large.
            cores: [2, 2, 3, 3, 4, 5, 6, 8].get(rng.index(8)).copied().unwrap_or(2),
            members: [3, 3, 4, 4, 5, 6, 7, 8, 10, 12].get(rng.index(10)).copied().unwrap_or(3),
            documents: rng.range(1, 4),
            weather: Weather {
                lost: [0, 0, 0, 5, 30].get(rng.index(5)).copied().unwrap_or(0),
                doubled: [0, 0, 0, 10, 50].get(rng.index(5)).copied().unwrap_or(0),
                packet_bytes: [40, 300, 1_400, 65_536].get(rng.index(4)).copied().unwrap_or(1_400),
            },
            core_delay_us: rng.range(1, 300) * slow,
            commit_us: rng.range(100, 8_000) * slow,
            answer_us: rng.range(100, 8_000) * slow,
            link_delay_us: rng.range(100, 20_000) * slow,
            pause_us: rng.range(2_000, 40_000),
            active_us: rng.range(60, 380) * 1_000,
            in_flight_max: rng.range(1, 12) as usize,
            clones: rng.chance(30),
            restores: rng.chance(20),
            disk_fails: rng.chance(30),
            deletes: rng.chance(25),
            quarantines: rng.chance(30),
            bit_flips: rng.chance(12),
            // Of a chance of its own: worlds without tokens are as they were before there were any.
            tokens: Rng::new(seed ^ 0x0074_6f6b_656e).chance(30),
            client_faults: [0, 5, 20].get(rng.index(3)).copied().unwrap_or(0),
            budget: Budget {
                cache_bytes_max: [usize::MAX, 30_000, 1_000].get(rng.index(3)).copied().unwrap_or(0),
                snapshot_after_bytes: [u64::MAX, 400, 400, 3_000].get(rng.index(4)).copied().unwrap_or(0),
            },
            feeds: (
                [usize::MAX, 5_000, 300].get(rng.index(3)).copied().unwrap_or(0),
                [usize::MAX, 0].get(rng.index(2)).copied().unwrap_or(0),
            ),
            // A snapshot of 100 kB in pieces of 64 bytes would be 1,600 reads of a disk, one behind the other:
            // longer than a world may take to heal.
            chunk_bytes: [500, 2_000, 65_536].get(rng.index(3)).copied().unwrap_or(1),
            density: [1, 20].get(rng.index(2)).copied().unwrap_or(1),
            damage: [0, 0, 5].get(rng.index(3)).copied().unwrap_or(0),
            nemesis_us: rng.range(10, 500) * 1_000,
        };
        scenario.narrow(&mut config);
        let documents: Vec<DocumentId> = (0..config.documents)
            .map(|n| DocumentId::new(&format!("rooms/{seed}/{n}")).expect("a name"))
            .collect();
        let mut world = Self {
            scenario: scenario.clone(),
            config,
            rng,
            now_us: 0,
            order: 0,
            events: BTreeMap::new(),
            trace: Trace::new(verbose),
            lives: 0,
            server: None,
            disk: Disk::default(),
            documents,
            members: Vec::new(),
            links: BTreeMap::new(),
            next_link: 1,
            check: Checker::default(),
            healing: false,
            restored: false,
            cloned: false,
            quarantined: false,
            culprits: Vec::new(),
            wall_offset_ms: 0,
            tokens_given: 0,
            given: Vec::new(),
            counts: BTreeMap::new(),
            last_presence: BTreeMap::new(),
        };
        // A few worlds are old.
        let (mut members, mut begun) = (world.config.members, 0);
        if world.rng.chance(4) {
            (members, begun) = (members.min(3), world.rng.range(1_020, 1_200));
        }
        for document in world.documents.iter().take(usize::from(begun > 0)) {
            history::write(&mut world.disk.log, document, begun, &mut world.rng);
        }
        for member in 0..members as usize {
            let is_device = world.scenario.has(Trouble::Devices) && world.rng.chance(25);
            let device = is_device.then(|| Box::new(world.new_device()));
            let client = if is_device { Client::new(Vec::new()) } else { world.new_client() };
            world.members.push(Member { client, device, link: None, image: None, asleep_until_us: 0 });
            let at = world.rng.below(20_000);
            world.at(at, Event::Act { member });
        }
        world.at(0, Event::Start);
        let at = world.rng.below(world.config.nemesis_us);
        world.at(at, Event::Nemesis);
        world
    }

    /// A process with copies of some documents, all empty.
    pub(crate) fn new_client(&mut self) -> Client {
        let mut replicas = Vec::new();
        for document in self.documents.clone() {
            if self.rng.chance(70) || replicas.is_empty() {
                let rights = match self.rng.below(12) {
                    0 => Rights::READ,
                    1 => Rights::WRITE,
                    2 => Rights::PRESENCE,
                    3 => Rights::READ.with(Rights::WRITE),
                    _ => Rights::READ.with(Rights::WRITE).with(Rights::PRESENCE),
                };
                let mut replica = Replica::new(document, rights, self.rng.name());
                if self.rng.chance(50) {
                    replica.begin(self.rng.below(2));
                }
                replicas.push(replica);
            }
        }
        Client::new(replicas)
    }

    /// Something will happen in a while.
    pub(crate) fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    pub(crate) fn at(&mut self, at_us: u64, event: Event) {
        self.order += 1;
        self.events.insert((at_us, self.order), Box::new(event));
    }

    pub(crate) fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_insert(0) += 1;
    }

    pub(crate) fn context(&self) -> Context {
        Context {
            now_us: self.now_us,
            restored: self.restored,
            cloned: self.cloned,
            quarantined: self.quarantined,
            tokens: self.config.tokens,
        }
    }

    /// Lets everything happen.
    fn live(&mut self) -> Result<(), String> {
        while self.now_us < self.config.active_us {
            self.next()?;
        }
        self.heal();
        let healing_since_us = self.now_us;
        while !self.has_drained() {
            if self.now_us - healing_since_us > HEALING_US_MAX {
                return Err(format!("it does not drain: {}", self.backlog()));
            }
            self.next()?;
        }
        // Presence is still under way, over the slowest link twice; nothing else may change any more.
        let quiet_us = self.now_us + QUIET_US;
        // Nobody has anything to do but that.
        self.config.pause_us *= QUIET_PAUSES;
        while self.now_us < quiet_us {
            self.next()?;
        }
        self.finish()
    }

    fn next(&mut self) -> Result<(), String> {
        let Some(((at_us, _), event)) = self.events.pop_first() else {
            return Err("nothing happens any more".to_owned());
        };
        self.now_us = at_us;
        if self.trace.events() > EVENTS_MAX {
            return Err(format!("more than {EVENTS_MAX} events"));
        }
        match *event {
            Event::Core { life, core, message } => {
                if self.is_alive(life) {
                    self.deliver(core, message);
                }
                Ok(())
            }
            Event::Turn { life, core } if self.is_alive(life) => self.turn(core),
            Event::Tick { life } if self.is_alive(life) => {
                self.tick(life);
                Ok(())
            }
            Event::Committed { life } if self.is_alive(life) => {
                self.committed(life);
                Ok(())
            }
            Event::Answer { life, core, query } if self.is_alive(life) => {
                self.answer(core, query);
                Ok(())
            }
            Event::ServerSees { life, link } if self.is_alive(life) => {
                self.server_sees(link);
                Ok(())
            }
            Event::Packet { link, way, packet, bytes } => self.packet(link, way, packet, bytes),
            Event::ClientSees { link } => {
                self.client_sees(link);
                Ok(())
            }
            Event::Act { member } => self.act(member),
            Event::Nemesis => {
                self.nemesis();
                Ok(())
            }
            Event::Start => {
                self.start();
                Ok(())
            }
            // Of an earlier life.
            _ => Ok(()),
        }
    }

    fn is_alive(&self, life: u64) -> bool {
        self.server.as_ref().is_some_and(|server| server.life == life)
    }

    /// Breaks a link: what is under way is lost, and each side notices in its time.
    pub(crate) fn cut(&mut self, number: u64) {
        let Some(link) = self.links.get_mut(&number).filter(|link| !link.is_cut) else { return };
        link.is_cut = true;
        let delay_us = link.delay_us_max;
        let (to_client, to_server) = (self.rng.below(delay_us), self.rng.below(delay_us * 4));
        self.count("cut");
        self.after(to_client, Event::ClientSees { link: number });
        let life = self.lives;
        self.after(to_server, Event::ServerSees { life, link: number });
    }

    /// The logs, for looking at a failure.
    fn explain(&self) {
        for document in &self.documents {
            for record in self.disk.records(document) {
                let change = automerge::Change::from_bytes(record.change.to_vec()).expect("it was admitted");
                let (actor, seq) = (change.actor_id(), change.seq());
                eprintln!(
                    "{document} {}: {} {actor} {seq} deps {:?}",
                    record.seq,
                    record.hash,
                    change.deps()
                );
            }
        }
    }

    fn report(&self) -> Report {
        Report {
            trace_hash: self.trace.hash(),
            events: self.trace.events(),
            simulated_us: self.now_us,
            changes: self.documents.iter().map(|document| self.disk.records(document).len() as u64).sum(),
            acks: self.check.acks,
            deliveries: self.check.deliveries,
            counts: self.counts.clone(),
        }
    }
}
