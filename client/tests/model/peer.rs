//! A small server for one document: what the protocol demands of one, without disk or engine. When it
//! commits, relays and refuses is the test's to say.

use std::collections::{HashMap, HashSet};

use etherply_client::change::ChangeView;
use etherply_wire::kinds::{
    Ack, Changes, ClockEntry, Close, Cursor, Error, Hello, Open, Opened, PresenceSet, Push, Reconcile,
    Refused, Snapshot, Welcome, resume,
};
use etherply_wire::websocket::{Decoder, Event, Role, handshake, message_into};
use etherply_wire::{ErrorCode, Frame, Kind, MAGIC, encode_into};

const HANDLE: u32 = 7;

#[derive(Clone)]
struct Entry {
    bytes: Vec<u8>,
    hash: [u8; 32],
    actor: Vec<u8>,
    seq: u64,
}

impl Entry {
    fn of(bytes: &[u8]) -> Self {
        let view = ChangeView::parse(bytes).unwrap();
        Self { bytes: bytes.to_vec(), hash: view.hash(), actor: view.actor().to_vec(), seq: view.seq() }
    }
}

/// The log, and what all connections share.
pub struct Peer {
    log: Vec<Entry>,
    /// Another log has another chain.
    salt: u8,
    /// Refuse the next push for this reason.
    pub refuse_next: Option<ErrorCode>,
    /// Members without a cursor get a snapshot of this document, which covers so many positions.
    pub snapshot: Option<(u64, Vec<u8>)>,
    pub refused: usize,
    /// Another one begins where the log was replaced.
    pub epoch: u64,
    /// Refuse opens for this reason.
    pub refuse_opens: Option<ErrorCode>,
    /// What members set, in order: the time to live and the state; `None` for a leave.
    pub presence: Vec<Option<(u32, Vec<u8>)>>,
}

struct Pending {
    conn: usize,
    push: u64,
    added: Vec<Entry>,
}

/// Pushes that were admitted and are not on disk.
#[derive(Default)]
pub struct Queue(Vec<Pending>);

enum Codec {
    Start,
    Tcp,
    WebSocket(Decoder),
}

/// One connection on the server's side.
pub struct Conn {
    codec: Codec,
    input: Vec<u8>,
    pub output: Vec<u8>,
    generation_refused: u32,
    sent: u64,
    own: HashSet<u64>,
    /// What a reconciling member has; `None` while its clock is not there.
    has: Option<HashMap<Vec<u8>, u64>>,
    open: bool,
}

impl Conn {
    pub fn new() -> Self {
        Self {
            codec: Codec::Start,
            input: Vec::new(),
            output: Vec::new(),
            generation_refused: 0,
            sent: 0,
            own: HashSet::new(),
            has: Some(HashMap::new()),
            open: false,
        }
    }

    pub fn send(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        if matches!(self.codec, Codec::Tcp) {
            encode(&mut self.output);
        } else {
            let mut frame = Vec::new();
            encode(&mut frame);
            message_into(&mut self.output, &frame, None);
        }
    }

    fn frames(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.input.extend_from_slice(bytes);
        if matches!(self.codec, Codec::Start) && self.input.len() >= MAGIC.len() {
            if self.input.starts_with(&MAGIC) {
                self.input.drain(..MAGIC.len());
                self.codec = Codec::Tcp;
            } else if let Some(upgrade) = handshake::parse_upgrade(&self.input).unwrap() {
                self.output.extend_from_slice(&handshake::response(&upgrade));
                let bytes = upgrade.head_bytes;
                self.input.drain(..bytes);
                self.codec = Codec::WebSocket(Decoder::new(Role::Server, 1 << 22));
            }
        }
        let mut frames = Vec::new();
        match &mut self.codec {
            Codec::Start => {}
            Codec::Tcp => {
                while let Ok(Some(length)) = etherply_wire::frame_length(&self.input, usize::MAX) {
                    if length > self.input.len() {
                        break;
                    }
                    frames.push(self.input.drain(..length).collect());
                }
            }
            Codec::WebSocket(decoder) => loop {
                let decoded = decoder.next(&mut self.input).unwrap();
                let frame = match decoded.event {
                    Some(Event::Message(frame)) => frame.into_owned(),
                    Some(other) => panic!("a client sent {other:?}"),
                    None => break,
                };
                let consumed = decoded.consumed;
                self.input.drain(..consumed);
                frames.push(frame);
            },
        }
        frames
    }
}

impl Peer {
    pub fn new() -> Self {
        Self {
            log: Vec::new(),
            salt: 0,
            refuse_next: None,
            snapshot: None,
            refused: 0,
            epoch: 1,
            refuse_opens: None,
            presence: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.log.len()
    }

    pub fn changes(&self) -> Vec<&[u8]> {
        self.log.iter().map(|entry| entry.bytes.as_slice()).collect()
    }

    /// Another log takes this one's place, of which only the first changes are left.
    pub fn restore(&mut self, kept: usize) {
        self.log.truncate(kept);
        self.salt += 1;
        self.snapshot = None;
    }

    fn cursor(&self, seq: u64) -> Cursor {
        let chain = match seq.checked_sub(1) {
            Some(index) => {
                let mut chain = self.log[usize::try_from(index).unwrap()].hash;
                chain[0] = self.salt;
                chain
            }
            None => [0; 32],
        };
        Cursor { epoch: self.epoch, seq, chain }
    }

    fn end(&self) -> Cursor {
        self.cursor(self.log.len() as u64)
    }

    fn clock(&self, queue: &Queue) -> HashMap<Vec<u8>, (u64, [u8; 32])> {
        let pending = queue.0.iter().flat_map(|pending| &pending.added);
        self.log.iter().chain(pending).map(|entry| (entry.actor.clone(), (entry.seq, entry.hash))).collect()
    }

    fn clock_entries(&self, queue: &Queue) -> Vec<ClockEntry> {
        let clock = self.clock(queue).into_iter();
        clock.map(|(actor, (seq, hash))| ClockEntry { actor, seq, hash }).collect()
    }

    pub fn receive(&mut self, conn: &mut Conn, index: usize, bytes: &[u8], queue: &mut Queue) {
        for frame in conn.frames(bytes) {
            let frame = Frame::parse(&frame).unwrap().unwrap();
            match frame.kind().unwrap() {
                Kind::Hello => {
                    frame.body::<Hello>().unwrap();
                    let welcome = Welcome {
                        protocol: 1,
                        capabilities: 0,
                        session: [index as u8; 16],
                        server_time_ms: 0,
                        agent: "model".into(),
                        limits: vec![etherply_wire::kinds::LimitEntry { limit: 7, value: 3 }],
                    };
                    conn.send(|out| encode_into(out, 0, &welcome, &[]));
                }
                Kind::Open => self.open(conn, frame.body::<Open>().unwrap(), queue),
                Kind::Push => self.push(conn, index, &frame, queue),
                Kind::Reconcile => {
                    let clock = frame.body::<Reconcile>().unwrap().clock.iter();
                    let has = clock.map(|entry| (entry.actor.as_slice().to_vec(), entry.seq.to_native()));
                    conn.has = Some(has.collect());
                }
                Kind::Close => {
                    conn.send(|out| {
                        encode_into(out, HANDLE, &Close { code: 0, message: String::new() }, &[]);
                    });
                    conn.open = false;
                }
                Kind::Ping => {}
                Kind::PresenceSet => {
                    let ttl_ms = frame.body::<PresenceSet>().unwrap().ttl_ms.to_native();
                    self.presence.push(Some((ttl_ms, frame.tail().to_vec())));
                }
                Kind::PresenceLeave => self.presence.push(None),
                other => panic!("a client sent {}", other.name()),
            }
        }
    }

    fn open(&mut self, conn: &mut Conn, open: &etherply_wire::kinds::ArchivedOpen, queue: &Queue) {
        if let Some(code) = self.refuse_opens {
            let (request, code, message) = (open.request.to_native(), code as u16, String::new());
            let error = Error { request, code, kind: 0, retry_after_ms: 0, message };
            conn.send(|out| encode_into(out, 0, &error, &[]));
            return;
        }
        let known = |seq: u64| seq <= self.log.len() as u64;
        let (resume, sent) = match open.cursor.as_ref() {
            Some(cursor) => {
                let seq = cursor.seq.to_native();
                let same = cursor.epoch == self.epoch && known(seq) && self.cursor(seq).chain == cursor.chain;
                if same { (resume::CURSOR, seq) } else { (resume::RECONCILE, 0) }
            }
            None if self.snapshot.is_some() => (resume::SNAPSHOT, 0),
            None => (resume::START, 0),
        };
        conn.open = true;
        conn.sent = sent;
        let request = open.request.to_native();
        let opened =
            Opened { request, rights: open.rights.to_native(), resume, expires_at_ms: 0, cursor: self.end() };
        conn.send(|out| encode_into(out, HANDLE, &opened, &[]));
        if resume == resume::RECONCILE {
            conn.has = None;
            let mut clock = self.clock_entries(queue);
            let later = clock.split_off(clock.len() / 2);
            for (more, clock) in [(true, clock), (false, later)] {
                let frame = Reconcile { cursor: self.end(), more, clock };
                conn.send(|out| encode_into(out, HANDLE, &frame, &[]));
            }
        }
        if resume == resume::SNAPSHOT
            && let Some((covers, bytes)) = &self.snapshot
        {
            let cursor = self.cursor(*covers);
            let mut offset = 0;
            for piece in bytes.chunks(40) {
                let frame = Snapshot { cursor, total_bytes: bytes.len() as u64, offset };
                conn.send(|out| encode_into(out, HANDLE, &frame, &[piece]));
                offset += piece.len() as u64;
            }
            conn.sent = *covers;
        }
    }

    fn push(&mut self, conn: &mut Conn, index: usize, frame: &Frame<'_>, queue: &mut Queue) {
        let body = frame.body::<Push>().unwrap();
        let (push, generation) = (body.push.to_native(), body.generation.to_native());
        if generation <= conn.generation_refused || !conn.open {
            return;
        }
        let (mut rest, mut added) = (frame.tail(), Vec::new());
        let mut clock = self.clock(queue);
        let mut refusal = self.refuse_next.take();
        while !rest.is_empty() {
            let (view, after) = ChangeView::parse_first(rest).unwrap();
            let known = clock.get(view.actor()).map_or(0, |&(seq, _)| seq);
            if view.seq() > known + 1 {
                refusal = Some(ErrorCode::SequenceGap);
            } else if view.seq() == known + 1 {
                clock.insert(view.actor().to_vec(), (view.seq(), view.hash()));
                added.push(Entry::of(view.bytes()));
            }
            rest = after;
        }
        if let Some(code) = refusal {
            conn.generation_refused = generation;
            self.refused += 1;
            let refused = Refused {
                push,
                generation,
                index: 0,
                code: code as u16,
                retry_after_ms: 5,
                clock_complete: true,
                clock: self.clock_entries(queue),
                message: "refused by the test".into(),
            };
            conn.send(|out| encode_into(out, HANDLE, &refused, &[]));
            return;
        }
        queue.0.push(Pending { conn: index, push, added });
    }

    /// Puts the oldest pushes on disk and acks them. Conns that are gone get nothing.
    pub fn commit(&mut self, queue: &mut Queue, pushes: usize, conns: &mut [Option<Conn>]) {
        let pushes = pushes.min(queue.0.len());
        for pending in queue.0.drain(..pushes) {
            let after_seq = self.log.len() as u64;
            self.log.extend(pending.added);
            let cursor = self.end();
            let conn = conns.get_mut(pending.conn).and_then(Option::as_mut);
            let Some(conn) = conn.filter(|conn| conn.open) else { continue };
            conn.own.extend(after_seq + 1..=cursor.seq);
            let ack = Ack { push: pending.push, after_seq, cursor, positions: vec![] };
            conn.send(|out| encode_into(out, HANDLE, &ack, &[]));
        }
    }

    /// Acks of a connection that is gone have nobody to go to.
    pub fn forget(&self, queue: &mut Queue, conn: usize) {
        for pending in &mut queue.0 {
            if pending.conn == conn {
                pending.conn = usize::MAX;
            }
        }
    }

    /// Nothing that was not on disk survives.
    pub fn crash(&self, queue: &mut Queue) {
        queue.0.clear();
    }

    /// Sends a member what lies after its cursor, up to so many positions; its own changes are left out, and
    /// a range over them carries fewer.
    pub fn relay(&self, conn: &mut Conn, positions: usize) {
        let Some(has) = conn.has.as_ref().filter(|_| conn.open) else { return };
        let start = usize::try_from(conn.sent).unwrap();
        let end = (start + positions).min(self.log.len());
        if end == start {
            return;
        }
        let lacks = |(index, entry): &(usize, &Entry)| {
            let reconciled = has.get(&entry.actor).is_some_and(|&seq| entry.seq <= seq);
            !reconciled && !conn.own.contains(&(*index as u64 + 1))
        };
        let sent = self.log.iter().enumerate().take(end).skip(start).filter(lacks);
        let changes: Vec<&[u8]> = sent.map(|(_, entry)| entry.bytes.as_slice()).collect();
        let lengths = changes.iter().map(|change| u32::try_from(change.len()).unwrap()).collect();
        let frame = Changes { after_seq: conn.sent, cursor: self.cursor(end as u64), lengths };
        conn.send(|out| encode_into(out, HANDLE, &frame, &changes));
        conn.sent = end as u64;
    }

    pub fn is_up_to_date(&self, conn: &Conn) -> bool {
        conn.open && conn.sent == self.log.len() as u64
    }
}
