//! The golden vectors: frames whose bytes are pinned in `vectors/`, one `.bin` and one `.json` each.
//!
//! They are what the Rust tests and those of every other codec read. A difference between [`samples`] and the
//! files means that the wire changed, perhaps because another crate turned on a feature of rkyv. The files of
//! a released kind never change; `cargo xtask vectors` writes those of new ones.

use serde::Serialize;

use crate::frame::{FLAG_SKIPPABLE, HEADER_BYTES, PROTOCOL, encode};
use crate::json::{FrameJson, JsonError};
use crate::kinds::*;
use crate::{ErrorCode, Rights};

/// A frame with a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector {
    /// Its name: that of its files.
    pub name: &'static str,
    /// The frame.
    pub bytes: Vec<u8>,
    /// The frame's contents, `None` if its kind is not known.
    pub json: Option<FrameJson>,
}

/// What stands in a vector's `.json`.
#[derive(Serialize)]
struct NamedJson<'a> {
    name: &'a str,
    #[serde(flatten)]
    frame: &'a FrameJson,
}

impl Vector {
    fn new(name: &'static str, bytes: Vec<u8>) -> Result<Self, JsonError> {
        let json = Some(FrameJson::from_bytes(&bytes)?);
        Ok(Self { name, bytes, json })
    }

    /// The files that hold it: names and contents.
    ///
    /// # Errors
    /// Never for a [`samples`] vector; the serialiser's otherwise.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>, JsonError> {
        let mut files = vec![(format!("{}.bin", self.name), self.bytes.clone())];
        if let Some(frame) = &self.json {
            let mut text = serde_json::to_string_pretty(&NamedJson { name: self.name, frame })?;
            text.push('\n');
            files.push((format!("{}.json", self.name), text.into_bytes()));
        }
        Ok(files)
    }
}

/// Every vector.
///
/// # Errors
/// A sample cannot be read back: the codec is broken.
pub fn samples() -> Result<Vec<Vector>, JsonError> {
    let mut all = Vec::new();
    connection(&mut all)?;
    documents(&mut all)?;
    delivery(&mut all)?;
    pushes(&mut all)?;
    refusals(&mut all)?;
    presence(&mut all)?;
    edges_of_the_header(&mut all)?;
    Ok(all)
}

type Added = Result<(), JsonError>;

/// A cursor whose hash shows in which order its bytes stand.
fn cursor(epoch: u64, seq: u64) -> Cursor {
    Cursor { epoch, seq, chain: counted(0x10) }
}

const BEFORE_THE_FIRST: Cursor = Cursor { epoch: 0, seq: 0, chain: [0; 32] };

fn counted<const N: usize>(from: u8) -> [u8; N] {
    let mut next = from;
    [(); N].map(|()| {
        next = next.wrapping_add(1);
        next.wrapping_sub(1)
    })
}

fn hello(agent: &str) -> Hello {
    Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent: agent.into() }
}

fn connection(all: &mut Vec<Vector>) -> Added {
    let mut add = |name, bytes| Vector::new(name, bytes).map(|vector| all.push(vector));
    add("hello", encode(0, &hello("etherply-client/0.1.0"), &[]))?;
    add("hello_agent_empty", encode(0, &hello(""), &[]))?;
    // Strings of up to 8 bytes stand in the struct itself; the length of others is split at its sixth bit.
    add("hello_agent_8_bytes", encode(0, &hello("8 bytes!"), &[]))?;
    add("hello_agent_9_bytes", encode(0, &hello("9 bytes !"), &[]))?;
    add("hello_agent_63_bytes", encode(0, &hello(&"x".repeat(63)), &[]))?;
    add("hello_agent_64_bytes", encode(0, &hello(&"x".repeat(64)), &[]))?;
    add("hello_agent_128_bytes", encode(0, &hello(&"xy".repeat(64)), &[]))?;
    add("hello_agent_non_ascii_8_bytes", encode(0, &hello("äöüß"), &[]))?;
    add("hello_agent_non_ascii", encode(0, &hello("日本語 🦀 Ω"), &[]))?;
    let capable = Hello { protocol_max: u8::MAX, capabilities: u64::MAX, ..hello("future") };
    add("hello_capabilities_max", encode(0, &capable, &[]))?;
    let limits =
        vec![LimitEntry { limit: 1, value: 2_097_152 }, LimitEntry { limit: u16::MAX, value: u64::MAX }];
    let welcome = Welcome {
        protocol: 1,
        capabilities: 0,
        session: counted(0xA0),
        server_time_ms: 1_767_225_600_000,
        agent: "etherply/0.1.0".into(),
        limits,
    };
    let bare = Welcome { limits: Vec::new(), agent: String::new(), ..welcome.clone() };
    add("welcome", encode(0, &welcome, &[]))?;
    add("welcome_no_limits", encode(0, &bare, &[]))?;
    add("ping_zero", encode(0, &Ping { nonce: 0 }, &[]))?;
    add("ping_max", encode(0, &Ping { nonce: u64::MAX }, &[]))?;
    // One more than a number of JavaScript's can hold exactly.
    add("pong", encode(0, &Pong { nonce: (1 << 53) + 1 }, &[]))?;
    let error = Error {
        request: 7,
        code: ErrorCode::Forbidden as u16,
        kind: Kind::Open as u16,
        retry_after_ms: 0,
        message: "the document is not there, or you may not open it".into(),
    };
    add("error", encode(0, &error, &[]))?;
    let going = GoingAway {
        code: ErrorCode::ShuttingDown as u16,
        retry_after_ms: 1_000,
        retry_jitter_ms: 30_000,
        message: "restart".into(),
    };
    add("going_away", encode(0, &going, &[]))
}

fn documents(all: &mut Vec<Vector>) -> Added {
    let mut add = |name, bytes| Vector::new(name, bytes).map(|vector| all.push(vector));
    let rights = Rights::READ.with(Rights::WRITE).0;
    let first = Open { request: 1, rights, document: "rooms/42".into(), token: None, cursor: None };
    let resumed = Open {
        request: u32::MAX,
        rights: Rights::ALL.0,
        document: "räume/zweiundvierzig".into(),
        token: Some("header.claims.signature".into()),
        cursor: Some(cursor(3, 1_000)),
    };
    let empty_token = Open { token: Some(String::new()), ..first.clone() };
    add("open_first", encode(0, &first, &[]))?;
    add("open_resume", encode(0, &resumed, &[]))?;
    add("open_token_empty", encode(0, &empty_token, &[]))?;
    add("open_cursor_no_token", encode(0, &Open { token: None, ..resumed }, &[]))?;
    let opened =
        Opened { request: 1, rights, resume: resume::CURSOR, expires_at_ms: 0, cursor: cursor(3, 1_001) };
    let fresh = Opened {
        resume: resume::START,
        expires_at_ms: 1_767_225_600_000,
        cursor: BEFORE_THE_FIRST,
        ..opened.clone()
    };
    add("opened", encode(0x0102_0304, &opened, &[]))?;
    add("opened_new_document", encode(1, &fresh, &[]))?;
    add("close", encode(5, &Close { code: 0, message: String::new() }, &[]))?;
    let deleted = Close {
        code: ErrorCode::DocumentDeleted as u16,
        message: "the document was deleted; keep your copy or drop it".into(),
    };
    add("close_reason", encode(5, &deleted, &[]))?;
    add("renew", encode(5, &Renew { request: 2, token: "header.claims.newer".into() }, &[]))?;
    let changed = RightsChanged { request: 2, rights: Rights::READ.0, code: 0, expires_at_ms: u64::MAX };
    let ended = RightsChanged {
        request: 0,
        rights: Rights::NONE.0,
        code: ErrorCode::TokenExpired as u16,
        expires_at_ms: 0,
    };
    add("rights_changed", encode(5, &changed, &[]))?;
    add("rights_ended", encode(5, &ended, &[]))
}

fn delivery(all: &mut Vec<Vector>) -> Added {
    let mut add = |name, bytes| Vector::new(name, bytes).map(|vector| all.push(vector));
    let snapshot = Snapshot { cursor: cursor(3, 1_000), total_bytes: 7, offset: 0 };
    add("snapshot_first", encode(5, &snapshot, &[b"piec"]))?;
    add("snapshot_last", encode(5, &Snapshot { offset: 4, ..snapshot }, &[b"e 2"]))?;
    let one = Changes { after_seq: 1_000, cursor: cursor(3, 1_001), lengths: vec![5] };
    let several = Changes { after_seq: 1_001, cursor: cursor(3, 1_004), lengths: vec![1, 2, 3] };
    let own_only = Changes { after_seq: 1_004, cursor: cursor(3, 1_006), lengths: Vec::new() };
    let last = Changes { after_seq: u64::MAX - 1, cursor: cursor(u64::MAX, u64::MAX), lengths: vec![1] };
    add("changes_one", encode(5, &one, &[b"first"]))?;
    add("changes_several", encode(5, &several, &[b"a", b"bc", b"def"]))?;
    add("changes_none", encode(5, &own_only, &[]))?;
    add("changes_max", encode(u32::MAX, &last, &[b"x"]))
}

fn pushes(all: &mut Vec<Vector>) -> Added {
    let mut add = |name, bytes| Vector::new(name, bytes).map(|vector| all.push(vector));
    let one = Push { push: 1, generation: 0, lengths: vec![6] };
    let several = Push { push: u64::MAX, generation: u32::MAX, lengths: vec![2, 0, 4] };
    add("push_one", encode(5, &one, &[b"change"]))?;
    add("push_several", encode(5, &several, &[b"ab", b"", b"cdef"]))?;
    let ack = Ack { push: 1, after_seq: 1_000, cursor: cursor(3, 1_001), positions: vec![1_001] };
    let known = Ack { push: 2, after_seq: 1_001, cursor: cursor(3, 1_001), positions: vec![1, u64::MAX, 2] };
    add("ack", encode(5, &ack, &[]))?;
    add("ack_duplicates", encode(5, &known, &[]))
}

fn refusals(all: &mut Vec<Vector>) -> Added {
    let mut add = |name, bytes| Vector::new(name, bytes).map(|vector| all.push(vector));
    let entries = vec![
        ClockEntry { actor: counted::<16>(0xB0).into(), seq: 12, hash: counted(0x40) },
        ClockEntry { actor: vec![1], seq: u64::MAX, hash: [0xFF; 32] },
        ClockEntry { actor: Vec::new(), seq: 0, hash: [0; 32] },
    ];
    let refused = Refused {
        push: 3,
        generation: 1,
        index: 2,
        code: ErrorCode::MissingDependencies as u16,
        retry_after_ms: 0,
        clock_complete: true,
        clock: entries.clone(),
        message: "the change depends on changes that are not here".into(),
    };
    let genesis = Refused {
        code: ErrorCode::GenesisConflict as u16,
        index: 0,
        clock_complete: false,
        clock: Vec::new(),
        message: String::new(),
        ..refused.clone()
    };
    let busy = Refused { code: ErrorCode::Overloaded as u16, retry_after_ms: u32::MAX, ..genesis.clone() };
    add("refused", encode(5, &refused, &[]))?;
    add("refused_genesis", encode(5, &genesis, &[b"the document's genesis"]))?;
    add("refused_overloaded", encode(5, &busy, &[]))?;
    let reconcile = Reconcile { cursor: cursor(3, 900), more: true, clock: entries };
    let nothing = Reconcile { cursor: BEFORE_THE_FIRST, more: false, clock: Vec::new() };
    add("reconcile", encode(5, &reconcile, &[]))?;
    add("reconcile_nothing", encode(5, &nothing, &[]))
}

fn presence(all: &mut Vec<Vector>) -> Added {
    let mut add = |name, bytes| Vector::new(name, bytes).map(|vector| all.push(vector));
    add("presence_set", encode(5, &PresenceSet { ttl_ms: 30_000 }, &[br#"{"cursor":7}"#]))?;
    add("presence_set_empty", encode(5, &PresenceSet { ttl_ms: u32::MAX }, &[]))?;
    let entries = vec![
        PresenceEntry { member: counted(0xA0), state: br#"{"cursor":7}"#.to_vec() },
        PresenceEntry { member: [0; 16], state: Vec::new() },
    ];
    let update = PresenceUpdate { version: 9, full: true, entries };
    let nobody = PresenceUpdate { version: u64::MAX, full: false, entries: Vec::new() };
    add("presence_update", encode(5, &update, &[]))?;
    add("presence_update_nobody", encode(5, &nobody, &[]))?;
    let gone = PresenceLeave { version: 10, members: vec![counted(0xA0), [0xFF; 16]] };
    add("presence_leave", encode(5, &gone, &[]))?;
    add("presence_leave_self", encode(5, &PresenceLeave { version: 0, members: Vec::new() }, &[]))?;
    add("broadcast_send", encode(5, &BroadcastSend { topic: "emoji".into() }, &["👋".as_bytes()]))?;
    add("broadcast_send_empty", encode(5, &BroadcastSend { topic: String::new() }, &[]))?;
    let broadcast = Broadcast { index: 1, member: counted(0xA0), topic: "a longer topic".into() };
    add("broadcast", encode(5, &broadcast, &["👋".as_bytes()]))?;
    add("broadcast_gap", encode(5, &BroadcastGap { first: 2, last: u64::MAX }, &[]))
}

fn edges_of_the_header(all: &mut Vec<Vector>) -> Added {
    let mut skippable = encode(0, &Ping { nonce: 1 }, &[]);
    if let Some(flags) = skippable.get_mut(5) {
        *flags = FLAG_SKIPPABLE;
    }
    all.push(Vector::new("ping_skippable", skippable)?);
    // A kind that will never be given out; a reader passes over it.
    let body = b"of a later version";
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut unknown = length.to_vec();
    unknown.extend_from_slice(&[PROTOCOL, FLAG_SKIPPABLE, 0xFF, 0xFF, 5, 0, 0, 0, 8, 0, 0, 0]);
    unknown.extend_from_slice(body);
    all.push(Vector { name: "unknown_skippable", bytes: unknown, json: None });
    Ok(())
}
