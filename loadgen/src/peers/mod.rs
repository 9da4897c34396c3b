//! Other servers, measured as EtherPly is: the same schedule, executors, histograms and claims, with each one's own
//! protocol and real edits of its own CRDT.
//!
//! [`session`] is what all their members have in common, [`link`] how their messages travel; [`mqtt`], [`nats`],
//! [`yjs`], [`hocuspocus`] and [`automerge_repo`] are the protocols; [`servers`] starts them; [`search`] looks for
//! the rate at which one fails; [`contest`] runs them by turns, [`witness`] builds documents of what was received, and
//! [`table`] and [`plot`] say what came out.

mod automerge_repo;
pub mod contest;
mod hocuspocus;
mod lib0;
mod link;
mod mqtt;
mod nats;
mod plot;
mod search;
pub mod servers;
mod session;
mod table;
#[cfg(test)]
mod vectors;
mod witness;
mod yjs;

use clap::ValueEnum;
use serde::Serialize;

/// A server that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// EtherPly, over WebSocket.
    Etherply,
    /// EtherPly, over its own frames on TCP.
    EtherplyTcp,
    /// Y-Sweet, with its file store.
    YSweet,
    /// y-websocket's server (@y/websocket-server).
    YWebsocket,
    /// Hocuspocus.
    Hocuspocus,
    /// The automerge-repo sync server.
    AutomergeRepo,
    /// Mosquitto, quality of service 0.
    MqttQos0,
    /// Mosquitto, quality of service 1.
    MqttQos1,
    /// NATS core.
    Nats,
    /// The bare relay of [`crate::relay`]: the yardstick, not a server to use.
    Floor,
}

impl Peer {
    /// The name on the command line, in files and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etherply => "etherply",
            Self::EtherplyTcp => "etherply-tcp",
            Self::YSweet => "y-sweet",
            Self::YWebsocket => "y-websocket",
            Self::Hocuspocus => "hocuspocus",
            Self::AutomergeRepo => "automerge-repo",
            Self::MqttQos0 => "mqtt-qos0",
            Self::MqttQos1 => "mqtt-qos1",
            Self::Nats => "nats",
            Self::Floor => "floor",
        }
    }

    /// What an edit is, over which transport.
    pub fn edit(self) -> &'static str {
        match self {
            Self::Etherply => "Automerge change, WebSocket",
            Self::EtherplyTcp => "Automerge change, TCP",
            Self::YSweet | Self::YWebsocket | Self::Hocuspocus => "Yjs update, WebSocket",
            Self::AutomergeRepo => "Automerge sync message, WebSocket",
            Self::MqttQos0 | Self::MqttQos1 | Self::Nats | Self::Floor => "opaque bytes, TCP: no merge",
        }
    }

    /// Whether it answers each edit.
    pub fn acks(self) -> bool {
        match self {
            Self::Etherply
            | Self::EtherplyTcp
            | Self::YSweet
            | Self::Hocuspocus
            | Self::MqttQos1
            | Self::Floor => true,
            Self::YWebsocket | Self::AutomergeRepo | Self::MqttQos0 | Self::Nats => false,
        }
    }

    /// What has become of an edit when it is acked, or delivered where nothing is acked.
    pub fn durability(self) -> &'static str {
        match self {
            Self::Etherply | Self::EtherplyTcp => "every delivery and ack after fsync",
            Self::YSweet => "written to files every few seconds, no fsync; its acks say that it is in memory",
            Self::YWebsocket => "none: memory alone, no acks",
            Self::Hocuspocus => "none: memory alone; its acks say that it was applied",
            Self::AutomergeRepo => "written to files in the background, no fsync, no acks",
            Self::MqttQos0 => "none, no acks",
            Self::MqttQos1 => "none: memory alone; its acks say that the broker has it",
            Self::Nats => "none, no acks",
            Self::Floor => "none: it reads and sends, and keeps nothing",
        }
    }

    /// How its server is set, and whose advice that is.
    pub fn settings(self) -> &'static str {
        match self {
            Self::Etherply | Self::EtherplyTcp => "defaults",
            Self::YSweet => {
                "`y-sweet serve DIR`: its file store, without authentication, as its README starts it; release build of crates.io's source"
            }
            Self::YWebsocket => {
                "its README's `HOST PORT y-websocket-server`, `NODE_ENV=production`; without YPERSISTENCE, which costs it throughput"
            }
            Self::Hocuspocus => {
                "`new Server({ quiet: true })`, no extensions (no persistence, so its debounce has nothing to do), `NODE_ENV=production`"
            }
            Self::AutomergeRepo => {
                "the sync server itself, with the newest automerge-repo under it (npm overrides: what it asks for by itself is a major version older), `NODE_ENV=production`"
            }
            Self::MqttQos0 | Self::MqttQos1 => {
                "mosquitto.conf(5): `set_tcp_nodelay true` (for latency), `max_inflight_messages 0` and `max_queued_messages 0` (nothing is dropped where the defaults of 20 and 1,000 would), `persistence false`, `log_type error`; MQTT 5 with No Local"
            }
            Self::Nats => {
                "defaults (64K connections, `write_deadline` 10 s), no JetStream, no logging of traffic; `echo: false`, `verbose: false`"
            }
            Self::Floor => {
                "one thread, one epoll, one `send` a member: what the kernel's sockets cost by themselves"
            }
        }
    }
}
