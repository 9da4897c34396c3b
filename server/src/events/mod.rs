//! What happens, for whoever wants to know: connections, documents, refusals. Not what documents hold.
//!
//! ```text
//! (this)    what an event is, and the queue into which cores and threads put them
//! updates   changes of one document, told together
//! readers   those who read on the control plane, each with a queue of its own
//! ```
//!
//! Nobody waits for a reader. While there is none, nothing is made: whoever would tell something looks at one number.
//! What a queue has no room for is counted, and readers are told how much they missed.

mod readers;
mod updates;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use etherply_engine::ids::DocumentId;
use etherply_engine::peer::SessionId;
use prometheus::IntCounter;
use serde_json::{Value, json};

use crate::metrics::Metrics;

pub use readers::{EVENT_READER_QUEUE_MAX, EVENT_READERS_MAX, Lines, TooManyReaders};
pub(crate) use updates::Updates;
pub use updates::{EVENT_UPDATES_MAX, Updated};

/// Most events that wait for the control plane, of all cores and threads together.
pub const EVENT_QUEUE_MAX: usize = 8_192;

/// Whose connection it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The session that the connection was given in its welcome; the same for as long as it lives.
    pub connection: SessionId,
    /// The subject of its tokens, `None` before it has shown one, and where none are asked for.
    pub subject: Option<Arc<str>>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection has said hello.
    Connected {
        /// Whose.
        who: Who,
        /// Where it comes from, by the load balancer's word if one is asked for.
        address: std::net::IpAddr,
    },
    /// A connection that had said hello has ended.
    Disconnected {
        /// Whose.
        who: Who,
        /// The code of the error that it ended with; `None` if its client left.
        code: Option<&'static str>,
    },
    /// A document's first changes are durable.
    Created {
        /// The document.
        document: DocumentId,
        /// Who pushed them, `None` if they have gone meanwhile.
        who: Option<Who>,
    },
    /// More changes of a document are durable: see [`Updated`].
    Updated(Updated),
    /// A document began anew without changes that broke it.
    Quarantined {
        /// The document.
        document: DocumentId,
        /// How many changes were taken out.
        changes: u64,
    },
    /// A push, or a token, was refused.
    Refused {
        /// The document, `None` if it is not known any more.
        document: Option<DocumentId>,
        /// Whose, `None` if they have gone meanwhile.
        who: Option<Who>,
        /// The code.
        code: &'static str,
    },
}

impl Event {
    /// Every kind's name.
    pub const KINDS: [&'static str; 6] =
        ["connected", "disconnected", "created", "updated", "quarantined", "refused"];

    /// Its kind's stable name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
            Self::Disconnected { .. } => "disconnected",
            Self::Created { .. } => "created",
            Self::Updated(_) => "updated",
            Self::Quarantined { .. } => "quarantined",
            Self::Refused { .. } => "refused",
        }
    }

    /// As readers get it.
    fn to_json(&self, at_ms: u64) -> Value {
        let mut object = json!({ "kind": self.kind(), "at_ms": at_ms });
        let mut add = |name: &str, value: Value| {
            if let Value::Object(members) = &mut object {
                members.insert(name.to_owned(), value);
            }
        };
        let (document, who) = match self {
            Self::Connected { who, address } => {
                add("address", json!(address.to_canonical()));
                (None, Some(who))
            }
            Self::Disconnected { who, code } => {
                add("code", json!(code));
                (None, Some(who))
            }
            Self::Created { document, who } => (Some(document), who.as_ref()),
            Self::Updated(Updated { document, pushes, changes, last_seq }) => {
                add("pushes", json!(pushes));
                add("changes", json!(changes));
                add("last_seq", json!(last_seq));
                (Some(document), None)
            }
            Self::Quarantined { document, changes } => {
                add("changes", json!(changes));
                (Some(document), None)
            }
            Self::Refused { document, who, code } => {
                add("code", json!(code));
                (document.as_ref(), who.as_ref())
            }
        };
        if let Some(document) = document {
            add("document", json!(document.as_str()));
        }
        if let Some(Who { connection, subject }) = who {
            add("connection", json!(hexadecimal(connection)));
            add("subject", json!(subject.as_deref()));
        }
        object
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes whatever it is given.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The way from whoever has something to tell to the control plane. Shared by all.
#[derive(Debug)]
pub struct Events {
    /// How many read.
    heard_by: AtomicUsize,
    sender: flume::Sender<Event>,
    receiver: flume::Receiver<Event>,
    /// What the queue had no room for, so far.
    missed: AtomicU64,
    missed_total: IntCounter,
    readers: readers::Readers,
}

impl Events {
    /// Without anybody who reads.
    pub fn new(metrics: &Metrics) -> Arc<Self> {
        let (sender, receiver) = flume::bounded(EVENT_QUEUE_MAX);
        let (heard_by, missed) = (AtomicUsize::new(0), AtomicU64::new(0));
        let missed_total = metrics.events_dropped.clone();
        let readers = readers::Readers::new(metrics);
        Arc::new(Self { heard_by, sender, receiver, missed, missed_total, readers })
    }

    /// Whether anybody reads: nobody has to make an event otherwise.
    pub fn is_heard(&self) -> bool {
        self.heard_by.load(Ordering::Relaxed) > 0
    }

    /// Tells of something, if anybody reads. Never waits.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        if self.is_heard() && self.sender.try_send(event()).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
            self.missed_total.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64) -> Event {
        let document = DocumentId::new("notes").unwrap();
        Event::Updated(Updated { document, pushes: 1, changes: 1, last_seq: seq })
    }

    #[test]
    fn nothing_is_made_for_nobody() {
        let events = Events::new(&Metrics::new(None).unwrap());
        events.tell(|| unreachable!());
        assert!(!events.is_heard() && events.receiver.is_empty());
    }

    #[test]
    fn what_the_queue_has_no_room_for_is_counted_and_nobody_waits() {
        let metrics = Metrics::new(None).unwrap();
        let events = Events::new(&metrics);
        events.heard_by.store(1, Ordering::Relaxed);
        for (told, waiting, missed) in [
            (EVENT_QUEUE_MAX - 1, EVENT_QUEUE_MAX - 1, 0),
            (1, EVENT_QUEUE_MAX, 0),
            (1, EVENT_QUEUE_MAX, 1),
            (2, EVENT_QUEUE_MAX, 3),
        ] {
            (0..told).for_each(|seq| events.tell(|| event(seq as u64)));
            assert_eq!((events.receiver.len(), events.missed.load(Ordering::Relaxed)), (waiting, missed));
            assert_eq!(metrics.events_dropped.get(), missed);
        }
    }

    #[test]
    fn events_are_told_with_what_they_have() {
        let document = DocumentId::new("rooms/1").unwrap();
        let who = Who { connection: [0xab; 16], subject: Some("ada".into()) };
        let id = "ab".repeat(16);
        let address = "::ffff:192.0.2.1".parse().unwrap();
        let named = |event: Event| (event.kind(), event.to_json(7));
        let all = [
            named(Event::Connected { who: Who { subject: None, ..who.clone() }, address }),
            named(Event::Disconnected { who: who.clone(), code: Some("idle_timeout") }),
            named(Event::Created { document: document.clone(), who: None }),
            named(event(9)),
            named(Event::Quarantined { document: document.clone(), changes: 3 }),
            named(Event::Refused { document: Some(document), who: Some(who), code: "read_only" }),
        ];
        assert_eq!(all.clone().map(|(kind, _)| kind), Event::KINDS);
        assert_eq!(
            all.map(|(_, json)| json),
            [
                json!({ "kind": "connected", "at_ms": 7, "connection": id, "subject": null, "address": "192.0.2.1" }),
                json!({ "kind": "disconnected", "at_ms": 7, "connection": id, "subject": "ada", "code": "idle_timeout" }),
                json!({ "kind": "created", "at_ms": 7, "document": "rooms/1" }),
                json!({ "kind": "updated", "at_ms": 7, "document": "notes", "pushes": 1, "changes": 1, "last_seq": 9 }),
                json!({ "kind": "quarantined", "at_ms": 7, "document": "rooms/1", "changes": 3 }),
                json!({ "kind": "refused", "at_ms": 7, "document": "rooms/1", "connection": id, "subject": "ada",
                    "code": "read_only" }),
            ]
        );
    }
}
