//! Who takes part in a run: fixed before it, known to all executors.

use std::net::SocketAddr;

use clap::ValueEnum;
use etherply_client::{Client, Tls, Transport};

use crate::schedule::{Rhythm, Schedule, Shape};

/// How the generator's connections speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportChoice {
    /// Length-prefixed frames over TCP.
    Tcp,
    /// WebSocket.
    Ws,
    /// Half of the connections each.
    Mixed,
}

impl TransportChoice {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Ws => "ws",
            Self::Mixed => "mixed",
        }
    }
}

/// Where the server is.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its address.
    pub address: SocketAddr,
    /// What a WebSocket's request names as its host.
    pub host: String,
    /// The WebSocket's path.
    pub path: String,
    /// Whom connections trust, if they are secured by TLS.
    pub tls: Option<Tls>,
}

impl Target {
    /// A client of this server.
    pub fn client(&self, is_websocket: bool, agent: &str, seed: u64) -> Client {
        let transport = if is_websocket {
            Transport::WebSocket { host: self.host.clone(), path: self.path.clone() }
        } else {
            Transport::Tcp
        };
        let client = Client::new(transport, agent, seed);
        match &self.tls {
            Some(tls) => client.with_tls(tls.clone()),
            None => client,
        }
    }
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub target: Target,
    pub transport: TransportChoice,
    pub documents: u32,
    /// Members of each document, one connection each.
    pub members: u32,
    /// Members of each document that write.
    pub writers: u32,
    pub value_bytes: usize,
    pub shape: Shape,
    /// Edits before this are made like all others, but not measured.
    pub warmup_us: u64,
    pub executors: usize,
    /// Part of actors and document names, so that runs against one server do not meet.
    pub run: u64,
    /// Pushes that each writer keeps unacked without a schedule; 0 with one.
    pub pipeline: usize,
    /// Whether connections that end are opened again.
    pub reconnects: bool,
    pub rhythm: Rhythm,
    pub sampling: Sampling,
}

/// Whose changes are kept, to be compared with what is stored. Of everybody else the heads are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// One in so many documents is sampled.
    pub one_in: u32,
    /// Members of a sampled document whose changes are kept.
    pub members: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { one_in: 1, members: 1 }
    }
}

impl Plan {
    /// All connections.
    pub fn connections(&self) -> u32 {
        self.documents * self.members
    }

    /// The document and the member that a connection stands for.
    pub fn place(&self, connection: u32) -> (u32, u32) {
        (connection / self.members.max(1), connection % self.members.max(1))
    }

    /// The connections of an executor.
    pub fn of_executor(&self, executor: usize) -> impl Iterator<Item = u32> + use<> {
        (0..self.connections()).skip(executor).step_by(self.executors.max(1))
    }

    /// The executor and the place within it of a member.
    pub fn locate(&self, document: u32, member: u32) -> (usize, usize) {
        let connection = (document * self.members + member) as usize;
        (connection % self.executors.max(1), connection / self.executors.max(1))
    }

    /// Whether a connection is a WebSocket.
    pub fn is_websocket(&self, connection: u32) -> bool {
        match self.transport {
            TransportChoice::Tcp => false,
            TransportChoice::Ws => true,
            TransportChoice::Mixed => (connection as usize / self.executors.max(1)) % 2 == 1,
        }
    }

    /// A document's name.
    pub fn document_name(&self, document: u32) -> String {
        format!("load-{:016x}/{document}", self.run)
    }

    /// A writer's actor: fresh in each run.
    pub fn actor(&self, document: u32, member: u32) -> [u8; 16] {
        let mut actor = [0; 16];
        let parts =
            self.run.to_be_bytes().into_iter().chain(document.to_be_bytes()).chain(member.to_be_bytes());
        actor.iter_mut().zip(parts).for_each(|(byte, part)| *byte = part);
        actor
    }

    /// Whether a member's changes are kept and compared with the server's disk. Another member in each
    /// document, so that writers and readers of all executors are among them.
    pub fn is_sample(&self, document: u32, member: u32) -> bool {
        let members = self.members.max(1);
        let turn = (member + members - document % members) % members;
        self.has_sample(document) && turn < self.sampling.members
    }

    /// Whether some member's changes of this document are kept.
    pub fn has_sample(&self, document: u32) -> bool {
        document.is_multiple_of(self.sampling.one_in.max(1)) && self.sampling.members > 0
    }

    /// How many items of the schedule are done.
    pub fn scheduled(&self) -> u64 {
        match self.rhythm {
            Rhythm::Pulsing(_) => {
                Schedule::new(self.shape).filter(|edit| self.rhythm.does(edit.due_us)).count() as u64
            }
            Rhythm::Steady | Rhythm::Watching(_) => Schedule::len(&self.shape),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::schedule::Phases;
    use std::collections::HashSet;

    pub(crate) fn plan(documents: u32, members: u32, executors: usize) -> Plan {
        Plan {
            target: Target {
                address: SocketAddr::from(([127, 0, 0, 1], 1)),
                host: "localhost:1".into(),
                tls: None,
                path: "/sync".into(),
            },
            transport: TransportChoice::Mixed,
            documents,
            members,
            writers: members,
            value_bytes: 48,
            shape: Shape { documents, writers: members, rate: 1_000, length_us: 1_000_000, seed: 1 },
            warmup_us: 0,
            executors,
            run: 7,
            pipeline: 0,
            reconnects: false,
            rhythm: Rhythm::Steady,
            sampling: Sampling::default(),
        }
    }

    #[test]
    fn every_connection_has_one_place() {
        for (documents, members, executors) in [(1, 1, 1), (5, 3, 2), (4, 10, 2), (7, 2, 4)] {
            let plan = plan(documents, members, executors);
            let mut places = HashSet::new();
            for executor in 0..executors {
                for (local, connection) in plan.of_executor(executor).enumerate() {
                    let (document, member) = plan.place(connection);
                    assert_eq!(plan.locate(document, member), (executor, local));
                    assert!(places.insert((document, member)));
                }
            }
            assert_eq!(places.len(), (documents * members) as usize);
        }
    }

    #[test]
    fn samples_are_as_many_as_were_asked_for() {
        let samples = |plan: &Plan, document: u32| {
            (0..plan.members).filter(|&member| plan.is_sample(document, member)).count()
        };
        let one = plan(7, 3, 2);
        assert!((0..7).all(|document| samples(&one, document) == 1));
        let sampling = Sampling { one_in: 3, members: 2 };
        let some = Plan { sampling, ..plan(7, 3, 2) };
        assert_eq!(
            (0..7).map(|document| samples(&some, document)).collect::<Vec<_>>(),
            [2, 0, 0, 2, 0, 0, 2]
        );
    }

    #[test]
    fn only_what_is_done_is_scheduled() {
        let steady = plan(2, 2, 1);
        assert_eq!(steady.scheduled(), 1_000);
        let phases = Phases { begin_us: 200_000, span_us: 200_000, settle_us: 0 };
        let pulsing = Plan { rhythm: Rhythm::Pulsing(phases), ..steady.clone() };
        // Warm-up and two active spans of 200 ms each, at 1,000 edits a second.
        assert_eq!(pulsing.scheduled(), 600);
        assert_eq!(Plan { rhythm: Rhythm::Watching(phases), ..steady }.scheduled(), 1_000);
    }

    #[test]
    fn mixed_is_half_and_half_within_each_executor() {
        let plan = plan(100, 10, 2);
        for executor in 0..2 {
            let websockets = plan.of_executor(executor).filter(|&connection| plan.is_websocket(connection));
            assert_eq!(websockets.count(), 250);
        }
    }
}
