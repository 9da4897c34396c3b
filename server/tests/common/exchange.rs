//! What two clients of any make say to one another through a server, as bytes: hello, open, push.

use automerge::transaction::Transactable as _;
use automerge::{ActorId, AutoCommit};
use etherply_wire::kinds::{Hello, Open, Push};
use etherply_wire::{Rights, encode};

/// Where the stream's number stands in a frame: it is known when the document is open.
pub const STREAM_AT: std::ops::Range<usize> = 8..12;

/// The frames of one client.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub hello: Vec<u8>,
    pub open: Vec<u8>,
    /// With 0 in the place of the stream.
    push: Vec<u8>,
    /// The change that the push carries, which is delivered as it is.
    pub change: Vec<u8>,
}

impl Exchange {
    /// A change of Automerge's in a document of this name. `actor` differs between the writers of a document.
    pub fn new(document: &str, actor: u8) -> Self {
        let rights = Rights::READ.with(Rights::WRITE).with(Rights::PRESENCE).0;
        let mut doc = AutoCommit::new().with_actor(ActorId::from([actor; 16]));
        doc.put(automerge::ROOT, "title", "written by a client of another make").unwrap();
        doc.put(automerge::ROOT, "count", "seven").unwrap();
        doc.commit();
        let change = doc.get_last_local_change().unwrap().raw_bytes().to_vec();
        let lengths = vec![u32::try_from(change.len()).unwrap()];
        let hello =
            Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent: "another make".to_owned() };
        let open = Open { request: 1, rights, document: document.to_owned(), token: None, cursor: None };
        Self {
            hello: encode(0, &hello, &[]),
            open: encode(0, &open, &[]),
            push: encode(0, &Push { push: 1, generation: 1, lengths }, &[&change]),
            change,
        }
    }

    /// The push in a stream; 0 for a client that sets it itself.
    pub fn push(&self, stream: u32) -> Vec<u8> {
        let mut push = self.push.clone();
        push[STREAM_AT].copy_from_slice(&stream.to_le_bytes());
        push
    }
}
