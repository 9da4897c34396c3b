//! The access matrix: every role, with every kind of frame, at a document of its own, at somebody else's and at one
//! that it guessed, generated from what there is. Nobody gets more than was granted, and what is there and what is
//! not look alike to those who may not know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
mod forged;
mod line;
mod roles;

use automerge::transaction::Transactable as _;
use automerge::{ActorId, AutoCommit};
use common::place::Place;
use common::{Server, command};
use etherply_wire::kinds::{
    BroadcastSend, Close, Cursor, Hello, Pong, PresenceLeave, PresenceSet, Push, Reconcile, Renew, resume,
};
use etherply_wire::{Direction, ErrorCode, Kind, Rights, encode};
use line::{Answer, Heard, Line, code, of_kind};
use roles::Role;

const OWN: &str = "own/doc";
const OTHER: &str = "other/doc";
/// A document that is not there.
const GUESSED: &str = "other/nothing";
/// A stream that nobody has.
const GUESSED_STREAM: u32 = 0x00ff_ffff;
/// What stands in the documents, and what their members tell one another.
const CONTENT: [&str; 2] = ["content of own", "content of other"];
const STATE: [&str; 2] = ["presence in own", "presence in other"];
const LIVE: [&str; 2] = ["an edit in own", "an edit in other"];
const TOLD: [&str; 2] = ["a broadcast in own", "a broadcast in other"];
/// What an intruder would leave behind.
const MARK: &str = "mark of an intruder";

/// A document and who is at home in it.
struct Home {
    line: Line,
    stream: u32,
    doc: AutoCommit,
    actor: [u8; 16],
    pushes: u64,
    /// Behind its first change.
    cursor: Cursor,
    /// That change.
    first: Vec<u8>,
}

impl Home {
    fn new(server: &Server, token: &str, place: usize) -> Self {
        let mut line = Line::new(server.listen);
        let name = [OWN, OTHER][place];
        let (stream, answer) = line.open(name, Rights::ALL.0, Some(token), None);
        assert!(matches!(answer, Answer::Opened { .. }), "{answer:?}");
        let actor = [0xa0 + u8::try_from(place).unwrap(); 16];
        let doc = AutoCommit::new().with_actor(ActorId::from(actor));
        let cursor = Cursor { epoch: 0, seq: 0, chain: [0; 32] };
        let mut home = Self { line, stream, doc, actor, pushes: 0, cursor, first: Vec::new() };
        home.first = home.write(CONTENT[place]);
        home.line.say(&encode(stream, &PresenceSet { ttl_ms: 3_600_000 }, &[STATE[place].as_bytes()]));
        let answer = Line::new(server.listen).open(name, Rights::ALL.0, Some(token), None).1;
        let Answer::Opened { cursor, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(cursor.seq, 1);
        home.cursor = cursor;
        home
    }

    /// Writes a change, and waits until it is stored.
    fn write(&mut self, value: &str) -> Vec<u8> {
        self.doc.put(automerge::ROOT, "title", value).unwrap();
        self.doc.commit();
        let change = self.doc.get_last_local_change().unwrap().raw_bytes().to_vec();
        self.pushes += 1;
        self.line.say(&push(self.stream, self.pushes, &change));
        assert_eq!(self.line.answer().1, Answer::Acked);
        change
    }

    fn tell(&mut self, what: &str) {
        self.line.say(&encode(self.stream, &BroadcastSend { topic: "t".to_owned() }, &[what.as_bytes()]));
        self.line.until_pong();
    }

    /// A change that this document's author would make next, and the copy that has it.
    fn next(&self) -> (AutoCommit, Vec<u8>) {
        let mut doc = self.doc.clone();
        let length = i64::try_from(doc.get_changes(&[]).len()).unwrap();
        doc.put(automerge::ROOT, "length", length).unwrap();
        doc.commit();
        let change = doc.get_last_local_change().unwrap().raw_bytes().to_vec();
        (doc, change)
    }
}

fn push(stream: u32, number: u64, change: &[u8]) -> Vec<u8> {
    let lengths = vec![u32::try_from(change.len()).unwrap()];
    encode(stream, &Push { push: number, generation: 1, lengths }, &[change])
}

/// A change of somebody whom nobody knows.
fn fresh_change(number: u32) -> Vec<u8> {
    let mut actor = [0xee; 16];
    actor[..4].copy_from_slice(&number.to_le_bytes());
    let mut doc = AutoCommit::new().with_actor(ActorId::from(actor));
    doc.put(automerge::ROOT, format!("by {number}"), i64::from(number)).unwrap();
    doc.commit();
    doc.get_last_local_change().unwrap().raw_bytes().to_vec()
}

/// What somebody does in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// A frame of this kind, as a client would send it.
    Usual(Kind),
    /// A push of a change in another author's name.
    PushOfAnother,
    /// A push of a change that is there.
    PushOfKnown,
    /// A renewal by no token.
    RenewByNone,
}

/// Every kind of frame that there is, but for `Open`, which has a matrix of its own; and what else a push and a
/// renewal can be.
fn deeds() -> impl Iterator<Item = Deed> {
    let usual = Kind::ALL.iter().filter(|kind| **kind != Kind::Open).map(|kind| Deed::Usual(*kind));
    usual.chain([Deed::PushOfAnother, Deed::PushOfKnown, Deed::RenewByNone])
}

/// What a deed is answered with.
enum Expected {
    Answer(Answer),
    /// Nothing; and whether somebody else is told.
    Silence {
        is_told: bool,
    },
    /// The connection ends with this error.
    End(ErrorCode),
}

impl Deed {
    fn kind(self) -> Kind {
        match self {
            Self::Usual(kind) => kind,
            Self::PushOfAnother | Self::PushOfKnown => Kind::Push,
            Self::RenewByNone => Kind::Renew,
        }
    }

    /// The frame. `home` is the document that it is about, or that the intruder knows of.
    fn frame(self, stream: u32, role: &Role, home: &Home, number: u32) -> Vec<u8> {
        let renew = |token: &str| encode(stream, &Renew { request: 2, token: token.to_owned() }, &[]);
        match self {
            Self::PushOfAnother => push(stream, 1, &home.next().1),
            Self::PushOfKnown => push(stream, 1, &home.first),
            Self::RenewByNone => renew("x"),
            Self::Usual(kind) => match kind {
                Kind::Hello => {
                    let agent = "again".to_owned();
                    encode(0, &Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent }, &[])
                }
                Kind::Close => encode(stream, &Close { code: 0, message: String::new() }, &[]),
                Kind::Renew => renew(role.token.as_deref().unwrap_or_default()),
                Kind::Push => push(stream, 1, &fresh_change(number)),
                Kind::Reconcile => {
                    encode(stream, &Reconcile { cursor: home.cursor, more: false, clock: Vec::new() }, &[])
                }
                Kind::PresenceSet => encode(stream, &PresenceSet { ttl_ms: 60_000 }, &[MARK.as_bytes()]),
                Kind::PresenceLeave => {
                    encode(stream, &PresenceLeave { version: 0, members: Vec::new() }, &[])
                }
                Kind::BroadcastSend => {
                    encode(stream, &BroadcastSend { topic: "t".to_owned() }, &[MARK.as_bytes()])
                }
                Kind::Pong => encode(stream, &Pong { nonce: 7 }, &[]),
                kind => of_kind(kind, stream),
            },
        }
    }

    /// In an open stream with these rights, or in one that is not open.
    fn expected(self, open: Option<Rights>, role: &Role) -> Expected {
        let kind = self.kind();
        if kind.direction() == Direction::ToClient || kind == Kind::Hello {
            return Expected::End(ErrorCode::UnexpectedKind);
        }
        let error = |error| Expected::Answer(Answer::Error { code: code(error), kind: kind as u16 });
        match kind {
            Kind::Ping => return Expected::Answer(Answer::Pong),
            Kind::Pong => return Expected::Silence { is_told: false },
            _ => {}
        }
        let Some(rights) = open else { return error(ErrorCode::StreamNotOpen) };
        let refused = |error| Expected::Answer(Answer::Refused(code(error)));
        let (writes, takes_part) = (rights.has(Rights::WRITE), rights.has(Rights::PRESENCE));
        match self {
            Self::RenewByNone => error(ErrorCode::TokenInvalid),
            _ if kind == Kind::Push && !writes => refused(ErrorCode::ReadOnly),
            Self::PushOfAnother if !rights.has(Rights::IMPORT) => refused(ErrorCode::ActorNotYours),
            _ if kind == Kind::Push => Expected::Answer(Answer::Acked),
            _ if kind == Kind::Renew => {
                Expected::Answer(Answer::RightsChanged { rights: role.rights, code: 0 })
            }
            _ if kind == Kind::Close => Expected::Answer(Answer::Closed(0)),
            _ if kind == Kind::Reconcile => {
                Expected::Answer(Answer::Closed(code(ErrorCode::ProtocolViolation)))
            }
            _ if kind == Kind::PresenceLeave => Expected::Silence { is_told: false },
            _ if takes_part => Expected::Silence { is_told: true },
            _ => error(ErrorCode::PresenceForbidden),
        }
    }
}

/// What the two documents hold that is only for those who may know.
struct Secrets {
    /// By document: what a reader may know.
    read: [Vec<Vec<u8>>; 2],
    /// By document: what a reader and a writer may know: where it stands, and by whom.
    log: [Vec<Vec<u8>>; 2],
    /// By document: what those who take part in presence may know.
    social: [Vec<Vec<u8>>; 2],
}

impl Secrets {
    fn new(homes: &[Home; 2]) -> Self {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let read = |place: usize| vec![bytes(CONTENT[place]), bytes(LIVE[place])];
        let log = |place: usize| vec![homes[place].actor.to_vec(), homes[place].cursor.chain.to_vec()];
        let social =
            |place: usize| vec![bytes(STATE[place]), bytes(TOLD[place]), homes[place].line.session.to_vec()];
        Self { read: [read(0), read(1)], log: [log(0), log(1)], social: [social(0), social(1)] }
    }

    /// Somebody with these rights on the own document, and none on the other, heard nothing else.
    fn assert_kept(&self, heard: &[Heard], rights: Rights, said: &dyn Fn() -> String) {
        let holds = |what: &[u8]| heard.iter().any(|heard| heard.0.windows(what.len()).any(|it| it == what));
        let (own, other) = (0, 1);
        let of_other = [&self.read[other], &self.log[other], &self.social[other]];
        let mut kept: Vec<&Vec<u8>> = of_other.into_iter().flatten().collect();
        if !rights.has(Rights::READ) {
            kept.extend(&self.read[own]);
        }
        if rights.and(Rights::READ.with(Rights::WRITE)).is_empty() {
            kept.extend(&self.log[own]);
        }
        if !rights.has(Rights::PRESENCE) {
            kept.extend(&self.social[own]);
        }
        for what in kept {
            assert!(!holds(what), "{}: heard {}: {heard:?}", said(), String::from_utf8_lossy(what));
        }
    }
}

/// A server with one core, so that what one connection does is done when a later question of another is answered,
/// and two documents with members.
struct World {
    server: Server,
    roles: Vec<Role>,
    homes: [Home; 2],
    secrets: Secrets,
    owner: String,
    place: Place,
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        let server = Server::spawn(command(&place.data()).args(["--cores", "1", "--keys"]).arg(place.keys()));
        let everything = ["--import", "**", "--presence", "**"];
        let owner = place.token("ada", "1h", &everything);
        let homes = [0, 1].map(|place| Home::new(&server, &owner, place));
        let roles = roles::all(&place, &server);
        let secrets = Secrets::new(&homes);
        Self { server, roles, homes, secrets, owner, place }
    }

    /// Everything that a reader asked for before is read: the log's readers take their turns.
    fn let_readers_end(&self) {
        for place in [0, 1] {
            let mut line = Line::new(self.server.listen);
            let answer = line.open([OWN, OTHER][place], Rights::READ.0, Some(&self.owner), None).1;
            assert!(matches!(answer, Answer::Opened { .. }));
            line.until_heard(CONTENT[place].as_bytes());
        }
    }

    /// The other document is as it was, and the guessed one is not there.
    fn assert_untouched(mut self, other_pushes: u64) {
        let other = &mut self.homes[1];
        other.line.until_pong();
        assert!(!other.line.has_heard(MARK.as_bytes()), "somebody reached the other document");
        let others: Vec<_> =
            other.line.heard.iter().filter(|heard| heard.answer().is_none()).map(Heard::kind).collect();
        assert!(others.iter().all(|kind| *kind == Kind::PresenceUpdate), "{others:?}");
        for (name, seq) in [(OTHER, other_pushes), (GUESSED, 0)] {
            let answer = Line::new(self.server.listen).open(name, Rights::ALL.0, Some(&self.owner), None).1;
            assert!(matches!(&answer, Answer::Opened { cursor, .. } if cursor.seq == seq), "{answer:?}");
        }
        assert!(!self.server.has_panicked());
        drop(self.place);
    }
}

/// What there is of a line's transcript for comparing it with another's.
fn comparable(heard: Vec<Heard>) -> Vec<Heard> {
    heard.into_iter().map(Heard::without_stream).collect()
}

#[test]
fn every_role_opens_what_it_may_and_learns_nothing_else() {
    let world = World::new();
    let foreign = Cursor { epoch: 1, seq: 1, chain: [7; 32] };
    let single = [Rights::READ, Rights::WRITE, Rights::PRESENCE, Rights::IMPORT, Rights::ADMIN];
    let asked = single.map(|right| right.0).into_iter().chain([0, Rights::ALL.0, 1 << 5]);
    let asked: Vec<u16> = asked.collect();
    let mut opens = 0;
    for role in &world.roles {
        let token = role.token.as_deref();
        for &asked in &asked {
            for (cursor, of_place) in [(None, None), (Some(foreign), None), (None, Some(0)), (None, Some(1))]
            {
                let cursor = cursor.or(of_place.map(|place: usize| world.homes[place].cursor));
                let said = || format!("{} asks for {asked:#b} at {cursor:?}", role.name);
                let is_valid = asked != 0 && Rights(asked).is_known();
                let mut without = Vec::new();
                // What may not be known, whether it is there or not.
                let nowhere = match role.rights.and(Rights::ALL).is_empty() {
                    true => vec![OTHER, GUESSED, OWN, "own/nothing"],
                    false => vec![OTHER, GUESSED],
                };
                for name in nowhere {
                    let mut line = Line::new(world.server.listen);
                    let refusal = if is_valid { role.refusal() } else { ErrorCode::RightsInvalid };
                    let expected = Answer::Error { code: code(refusal), kind: Kind::Open as u16 };
                    assert_eq!(line.open(name, asked, token, cursor), (0, expected), "{}: {name}", said());
                    let heard = line.finish();
                    world.secrets.assert_kept(&heard, Rights::NONE, &said);
                    without.push(heard);
                    opens += 1;
                }
                assert!(without.windows(2).all(|pair| pair[0] == pair[1]), "{}: {without:?}", said());
                if role.rights.is_empty() {
                    continue;
                }
                let rights = if is_valid { role.rights.and(Rights(asked)) } else { Rights::NONE };
                for name in [OWN, "own/nothing"] {
                    let mut line = Line::new(world.server.listen);
                    let (_, answer) = line.open(name, asked, token, cursor);
                    opens += 1;
                    let said = || format!("{}: {name}", said());
                    if rights.is_empty() {
                        let refusal = if is_valid { ErrorCode::Forbidden } else { ErrorCode::RightsInvalid };
                        let expected = Answer::Error { code: code(refusal), kind: Kind::Open as u16 };
                        assert_eq!(answer, expected, "{}", said());
                    } else {
                        assert_opened(&answer, rights, cursor, (name == OWN, of_place), &said);
                    }
                    let (reads, takes_part) = (rights.has(Rights::READ), rights.has(Rights::PRESENCE));
                    if name == OWN && reads && cursor.is_none() {
                        line.until_heard(CONTENT[0].as_bytes());
                    }
                    if name == OWN && takes_part {
                        line.until_heard(STATE[0].as_bytes());
                    }
                    if name == OWN && !rights.is_empty() && !reads {
                        world.let_readers_end();
                    }
                    line.until_pong();
                    world.secrets.assert_kept(&line.finish(), rights, &said);
                }
            }
        }
    }
    println!("{opens} opens by {} roles", world.roles.len());
    world.assert_untouched(1);
}

/// It says what was granted, and where the log stands only to those who read or write it.
fn assert_opened(
    answer: &Answer,
    granted: Rights,
    cursor: Option<Cursor>,
    (is_there, of_place): (bool, Option<usize>),
    said: &dyn Fn() -> String,
) {
    let Answer::Opened { rights, resume: how, cursor: at } = answer else { panic!("{}: {answer:?}", said()) };
    assert_eq!(*rights, granted, "{}", said());
    let knows = !granted.and(Rights::READ.with(Rights::WRITE)).is_empty();
    let fits = is_there && of_place == Some(0);
    let expected = match cursor {
        Some(_) if knows && fits => resume::CURSOR,
        Some(_) if knows => resume::RECONCILE,
        _ => resume::START,
    };
    assert_eq!(*how, expected, "{}", said());
    let is_told = at.seq > 0;
    assert_eq!(is_told, knows && is_there, "{}: {at:?}", said());
}

#[test]
fn every_kind_of_frame_does_what_the_role_may_and_nothing_else() {
    let mut world = World::new();
    let (mut number, mut frames) = (0, 0);
    for role in &world.roles {
        for deed in deeds() {
            let mut without = Vec::new();
            // The other document's own stream, by its number, and one that there is not; not opened, or refused.
            let nowhere = [(OTHER, world.homes[1].stream), (GUESSED, GUESSED_STREAM)];
            for (tries_to_open, (name, stream)) in
                [false, true].into_iter().flat_map(|tries| nowhere.map(|it| (tries, it)))
            {
                let said = || format!("{}: {deed:?} at {name}", role.name);
                let mut line = Line::new(world.server.listen);
                if tries_to_open {
                    let answer = line.open(name, Rights::ALL.0, role.token.as_deref(), None).1;
                    assert!(matches!(answer, Answer::Error { .. }), "{}: {answer:?}", said());
                }
                let frame = deed.frame(stream, role, &world.homes[1], number);
                let expected = deed.expected(None, role);
                let heard = act(line, &frame, expected, &mut world.homes[1], &said);
                world.secrets.assert_kept(&heard, Rights::NONE, &said);
                without.push((tries_to_open, comparable(heard)));
                frames += 1;
            }
            for pair in without.chunks(2) {
                assert_eq!(pair[0], pair[1], "{}: {deed:?}: what is there and what is not differ", role.name);
            }
            // One's own: opened, where that can be done.
            number += 1;
            let said = || format!("{}: {deed:?} at {OWN}", role.name);
            let mut line = Line::new(world.server.listen);
            let (stream, answer) = line.open(OWN, Rights::ALL.0, role.token.as_deref(), None);
            let open = matches!(answer, Answer::Opened { .. }).then_some(role.rights);
            assert_eq!(open.is_some(), !role.rights.is_empty(), "{}", said());
            let stream = if open.is_some() { stream } else { world.homes[0].stream };
            let frame = deed.frame(stream, role, &world.homes[0], number);
            let heard = act(line, &frame, deed.expected(open, role), &mut world.homes[0], &said);
            world.secrets.assert_kept(&heard, role.rights, &said);
            if deed == Deed::PushOfAnother && role.rights.has(Rights::IMPORT) {
                // It was taken: its author goes on behind it.
                world.homes[0].doc = world.homes[0].next().0;
            }
            frames += 1;
        }
    }
    println!("{frames} frames by {} roles", world.roles.len());
    world.assert_untouched(1);
}

/// Sends a frame and holds the answer against what is expected. Everything that was heard.
fn act(
    mut line: Line,
    frame: &[u8],
    expected: Expected,
    home: &mut Home,
    said: &dyn Fn() -> String,
) -> Vec<Heard> {
    home.line.until_pong();
    home.line.heard.clear();
    let before = line.heard.len();
    line.say(frame);
    match expected {
        Expected::Answer(answer) => assert_eq!(line.answer().1, answer, "{}", said()),
        Expected::End(error) => {
            let (_, answer) = line.answer();
            let is_it = matches!(&answer, Answer::Error { code: found, .. } if *found == code(error));
            assert!(is_it, "{}: {answer:?}", said());
            let heard = line.finish();
            assert_untold(home, said);
            return heard;
        }
        Expected::Silence { is_told } => {
            line.until_pong();
            let answers = line.heard[before..].iter().filter_map(Heard::answer);
            assert!(answers.eq([Answer::Pong]), "{}: {:?}", said(), line.heard);
            if is_told {
                home.line.until_heard(MARK.as_bytes());
                home.line.heard.clear();
                return line.finish();
            }
        }
    }
    assert_untold(home, said);
    line.finish()
}

/// Nobody in the document was told anything by an intruder.
fn assert_untold(home: &mut Home, said: &dyn Fn() -> String) {
    home.line.until_pong();
    let told: Vec<Kind> = home.line.heard.iter().map(Heard::kind).collect();
    let is_social = |kind: &Kind| matches!(kind, Kind::Broadcast | Kind::PresenceUpdate);
    assert!(!told.iter().any(is_social), "{}: {told:?}", said());
}

#[test]
fn what_happens_in_a_document_is_told_to_those_who_may_know() {
    let mut world = World::new();
    for role in &world.roles {
        let said = || format!("{} listens", role.name);
        let mut line = Line::new(world.server.listen);
        for name in [OWN, OTHER, GUESSED] {
            line.open(name, Rights::ALL.0, role.token.as_deref(), None);
        }
        for place in [0, 1] {
            let home = &mut world.homes[place];
            home.write(&format!("{} by {}", LIVE[place], role.name));
            home.tell(TOLD[place]);
        }
        if role.rights.has(Rights::READ) {
            line.until_heard(LIVE[0].as_bytes());
        }
        if role.rights.has(Rights::PRESENCE) {
            line.until_heard(TOLD[0].as_bytes());
        }
        world.let_readers_end();
        line.until_pong();
        world.secrets.assert_kept(&line.finish(), role.rights, &said);
    }
    let pushes = world.homes[1].pushes;
    world.assert_untouched(pushes);
}
