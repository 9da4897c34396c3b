//! Who may do what with which document: every role with every kind of frame, on a document of its own, on
//! another's, and on one that is not there; expiry, renewal, revocation; whose an actor is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod common;

use std::sync::Arc;

use common::{Host, MEMBER, Told, Writer, clock, document, peer};
use etherply_engine::access::{FORBIDDEN, Grant, Identity, Pattern, Revocation, Revoked};
use etherply_engine::ids::DocumentId;
use etherply_engine::log::MemoryLog;
use etherply_engine::peer::Peer;
use etherply_engine::shard::{Budget, Input, PushRequest};
use etherply_wire::kinds::{Cursor, resume};
use etherply_wire::{Direction, ErrorCode, Kind, Rights};

const MS: u64 = 1_700_000_000_000;
const READ: Rights = Rights::READ;
const WRITES: Rights = Rights::READ.with(Rights::WRITE);
/// Its session leaves these bytes wherever its presence or broadcasts are.
const STATE: &[u8] = b"state of a member";
/// Every handle but those that are in use.
const GUESSED: u32 = 4_000;

fn grant(subject: &str, rights: Rights, expires_ms: u64) -> Grant {
    let identity = Identity { subject: subject.into(), token: format!("{subject}-1").into(), issued_s: 100 };
    Grant { rights, expires_ms, identity: Arc::new(identity) }
}

fn other() -> DocumentId {
    DocumentId::new("rooms/2").unwrap()
}

fn absent() -> DocumentId {
    DocumentId::new("rooms/3").unwrap()
}

/// A document with history in a snapshot and behind it, and another one; each with a member who writes and is
/// present. Peer 1 is in the first, peer 2 in the second.
fn world() -> (Host, Writer) {
    let budget = Budget { snapshot_after_bytes: 700, ..Budget::default() };
    let mut host = Host::default().with_budget(budget);
    let mut first = Writer::new(1);
    host.open_in(document(), peer(1), MEMBER, None);
    for change in first.puts(12) {
        host.push(peer(1), 1, 1, &[change]);
    }
    host.open_in(other(), peer(2), MEMBER, None);
    host.push(peer(2), 1, 1, &Writer::new(2).puts(3));
    for id in [1, 2] {
        let handle = host.handle(peer(id));
        host.turn(Input::PresenceSet { peer: peer(id), handle, ttl_ms: 60_000, state: b"somebody" });
        host.gather(peer(id));
        host.take(peer(id));
    }
    assert!(!host.snapshots.is_empty(), "a snapshot was cut");
    (host, first)
}

/// What a member was sent of what.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    document: bool,
    presence: bool,
    broadcast: bool,
}

fn got(told: &[Told]) -> Got {
    let mut got = Got::default();
    for told in told {
        match told {
            Told::Changes(_, changes) => got.document |= !changes.is_empty(),
            Told::Snapshot(..) | Told::Reconcile(_) => got.document = true,
            Told::Refused(refused, genesis) => {
                got.document |= !refused.clock.is_empty() || !genesis.is_empty()
            }
            Told::Opened(opened) => got.document |= opened.cursor.seq > 0 || opened.cursor.chain != [0; 32],
            Told::Ack(_) => got.document = true,
            Told::PresenceUpdate(update) => got.presence |= !update.entries.is_empty(),
            Told::PresenceLeave(_) => got.presence = true,
            Told::Broadcast(_) | Told::BroadcastGap(_) => got.broadcast = true,
            Told::Close(_) | Told::Error(_) | Told::RightsChanged(_) => {}
        }
    }
    got
}

/// What a role may have; `None` for no grant at all.
const ROLES: &[(&str, Rights)] = &[
    ("nobody", Rights::NONE),
    ("reader", READ),
    ("writer", WRITES),
    ("present", Rights::PRESENCE),
    ("present reader", Rights(0b101)),
    ("present writer", MEMBER),
    ("importer", Rights(0b1011)),
    ("administrator", Rights::ADMIN),
    ("everything", Rights::ALL),
];

/// How a role's grant has ended before the frame comes, if it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    Expired,
    Revoked,
}

/// Cursors that somebody may come with.
fn cursors(host: &Host) -> [Option<Cursor>; 4] {
    let end = host.end();
    [None, Some(end), Some(Cursor { chain: [9; 32], ..end }), Some(Cursor { seq: end.seq - 1, ..end })]
}

/// One frame of a kind from a peer for a handle. `false` if the kind is none that reaches a document.
fn send(host: &mut Host, kind: Kind, peer: Peer, handle: u32, change: &[u8], grant: &Grant) -> bool {
    match kind {
        Kind::Push => {
            *host.in_flight.entry(peer).or_default() += change.len();
            let lengths = [change.len() as u32];
            host.turn(Input::Push(PushRequest {
                peer,
                handle,
                push: 1,
                generation: 1,
                lengths: &lengths,
                changes: change,
            }));
        }
        Kind::Reconcile => host.turn(Input::Reconcile { peer, handle, more: false, clock: Vec::new() }),
        Kind::PresenceSet => host.turn(Input::PresenceSet { peer, handle, ttl_ms: 60_000, state: STATE }),
        Kind::PresenceLeave => host.turn(Input::PresenceLeave { peer, handle }),
        Kind::BroadcastSend => {
            host.turn(Input::Broadcast { peer, handle, topic: "t", payload: STATE });
        }
        Kind::Renew => host.turn(Input::Renew { peer, handle, request: 7, grant: grant.clone() }),
        Kind::Close => host.turn(Input::Close { peer, handle }),
        // Of the connection, or sent by servers only. A new kind has to be put into one place or the other.
        Kind::Hello | Kind::Open | Kind::Ping | Kind::Pong => return false,
        kind => assert_eq!(kind.direction(), Direction::ToClient, "{kind:?} is in no matrix"),
    }
    true
}

/// What the document and the others in it show of a member's doings.
fn traces(host: &mut Host, witness: u64, of: &DocumentId) -> (usize, Got) {
    (host.log.records(of).len(), got(&host.gather(peer(witness))))
}

#[test]
fn every_role_with_every_frame_on_every_document_does_what_its_rights_say() {
    let mut cells = 0;
    for &(role, rights) in ROLES {
        for ended in [Ended::No, Ended::Expired, Ended::Revoked] {
            for &kind in Kind::ALL.iter().filter(|kind| kind.direction() != Direction::ToClient) {
                for way in 0..4 {
                    cells += usize::from(own_document(role, rights, ended, kind, way));
                }
                cells += usize::from(foreign_handles(rights, ended, kind));
            }
        }
        for at in 0..4 {
            documents_without_a_grant_look_absent(role, rights, at);
        }
    }
    assert!(cells > 600, "{cells}");
}

/// A role opens a document that its grant names, in one of four ways, and sends a frame of a kind.
fn own_document(role: &str, rights: Rights, ended: Ended, kind: Kind, way: usize) -> bool {
    let cell = format!("{role} {ended:?} {kind:?} {way}");
    let (mut host, mut writer) = world();
    let (member, before) = (peer(9), host.log.records(&document()).len());
    let given = grant("ada", rights, MS + 1_000);
    let cursor = cursors(&host)[way];
    host.open_as(given.clone(), document(), member, Rights::ALL, cursor);
    let mut told = host.take(member);
    if rights.is_empty() {
        let error = told.remove(0).error();
        assert_eq!((error.code, error.message.as_str()), (ErrorCode::Forbidden as u16, FORBIDDEN), "{cell}");
        assert!(told.is_empty() && !host.has_stream(member), "{cell}");
        return true;
    }
    let Told::Opened(opened) = &told[0] else { panic!("{cell}: {told:?}") };
    assert_eq!((Rights(opened.rights), opened.expires_at_ms), (rights, MS + 1_000), "{cell}");
    let must_reconcile = opened.resume == resume::RECONCILE;
    told.extend(host.gather(member));
    let seen = got(&told);
    assert_eq!(seen.document, rights.has(READ), "{cell}: {told:?}");
    assert_eq!(seen.presence, rights.has(Rights::PRESENCE), "{cell}");
    host.gather(peer(1));
    let now = match ended {
        Ended::No => rights,
        Ended::Expired => {
            host.now.wall_ms = MS + 1_000;
            Rights::NONE
        }
        Ended::Revoked => {
            host.turn(Input::Revoke(&Revocation { what: Revoked::Subject("ada".into()), at_s: 100 }));
            Rights::NONE
        }
    };
    let change = writer.put("new", 1);
    let handle = host.handle(member);
    if !send(&mut host, kind, member, handle, &change, &given) {
        return false;
    }
    let told = host.take(member);
    let renewed = kind == Kind::Renew && ended != Ended::Expired;
    let (after, witnessed) = traces(&mut host, 1, &document());
    // Its actor belongs to nobody: it was first used without a token.
    let writes = kind == Kind::Push && now.has(WRITES);
    assert_eq!(after, before + usize::from(writes), "{cell}: {told:?}");
    assert_eq!(witnessed.broadcast, kind == Kind::BroadcastSend && now.has(Rights::PRESENCE), "{cell}");
    let shows = kind == Kind::PresenceSet && now.has(Rights::PRESENCE);
    assert_eq!(witnessed.presence, shows, "{cell}");
    if kind == Kind::Push && !now.has(WRITES) {
        let refused = told.iter().find_map(|told| match told {
            Told::Refused(refused, genesis) => Some((refused.clone(), genesis.clone())),
            _ => None,
        });
        let (refused, genesis) = refused.unwrap_or_else(|| panic!("{cell}: {told:?}"));
        let code = match ended {
            Ended::No => ErrorCode::ReadOnly,
            Ended::Expired => ErrorCode::TokenExpired,
            Ended::Revoked => ErrorCode::TokenRevoked,
        };
        assert_eq!(refused.code, code as u16, "{cell}");
        assert_eq!(refused.clock.is_empty(), !now.has(READ), "{cell}: the clock is for readers");
        assert!(genesis.is_empty(), "{cell}");
    }
    if now.is_empty() && !renewed {
        // Whatever happens from here on, it is told nothing of the document.
        host.take(member);
        let end = host.end().seq;
        host.push(peer(1), 2, 1, &[change, writer.put("later", 2)]);
        assert!(host.end().seq > end, "{cell}");
        let witness = host.handle(peer(1));
        host.turn(Input::Broadcast { peer: peer(1), handle: witness, topic: "t", payload: b"secret" });
        if host.has_stream(member) {
            assert_eq!(host.gather(member), [], "{cell}");
        }
        assert_eq!(host.take(member), [], "{cell}");
    } else if !must_reconcile && kind != Kind::Close && kind != Kind::Reconcile {
        host.push(peer(1), 2, 1, &[change, writer.put("later", 2)]);
        assert_eq!(got(&host.gather(member)).document, rights.has(READ), "{cell}");
    }
    assert_eq!(host.in_flight.get(&member).copied().unwrap_or_default(), 0, "{cell}: everything is settled");
    true
}

/// A member of one document sends a frame for another's handle, and for a handle that nobody has: nothing comes
/// of it, and nothing tells the two apart.
fn foreign_handles(rights: Rights, ended: Ended, kind: Kind) -> bool {
    let mut answers = Vec::new();
    for target in ["other", "guessed"] {
        let (mut host, mut writer) = world();
        let (member, given) = (peer(9), grant("ada", rights, MS + 1_000));
        host.open_as(given.clone(), document(), member, Rights::ALL, None);
        host.take(member);
        if ended == Ended::Expired {
            host.now.wall_ms = MS + 1_000;
            host.turn(Input::Tick);
            host.take(member);
        }
        let handle = if target == "other" { host.handle(peer(2)) } else { GUESSED };
        let before = host.log.records(&other()).len();
        host.gather(peer(2));
        let change = writer.put("new", 1);
        if !send(&mut host, kind, member, handle, &change, &given) {
            return false;
        }
        assert_eq!(traces(&mut host, 2, &other()), (before, Got::default()), "{kind:?} {target}");
        answers.push(host.take(member));
        assert_eq!(host.in_flight.get(&member).copied().unwrap_or_default(), 0);
    }
    assert_eq!(answers[0], answers[1], "{kind:?}");
    assert_eq!(answers[0], [], "{kind:?}");
    true
}

/// Without a grant, a document that is there, one that is not, and one that was deleted are answered alike, with
/// and without a cursor, and nothing is read for any of them.
fn documents_without_a_grant_look_absent(role: &str, wanted: Rights, way: usize) {
    let (mut host, _) = world();
    let cursor = cursors(&host)[way];
    let gone = DocumentId::new("rooms/4").unwrap();
    host.open_in(gone.clone(), peer(3), MEMBER, None);
    host.push(peer(3), 1, 1, &Writer::new(3).puts(1));
    host.turn(Input::Delete { document: gone.clone(), token: 1 });
    host.hold_questions = true;
    let wanted = if wanted.is_empty() { READ } else { wanted };
    let mut answers = Vec::new();
    for id in [document(), other(), absent(), gone] {
        let documents = host.shard.documents();
        host.open_as(grant("eve", Rights::NONE, 0), id, peer(9), wanted, cursor);
        answers.push(host.take(peer(9)));
        assert!(host.questions.is_empty(), "{role}: the log was asked");
        assert_eq!(host.shard.documents(), documents, "{role}: nothing is kept of it");
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{role}: {answers:?}");
    assert_eq!(answers[0].len(), 1);
}

#[test]
fn a_read_only_member_receives_everything_and_changes_nothing() {
    let mut host = Host::default();
    host.join(1);
    host.open_as(grant("eve", READ, 0), document(), peer(2), MEMBER, None);
    assert_eq!(host.take(peer(2)).remove(0).opened().rights, READ.0);
    let mut writer = Writer::new(1);
    let changes = writer.puts(3);
    host.acked(peer(1), 1, &changes);
    assert_eq!(host.gather_changes(peer(2)), changes);
    let before = host.end();
    let (code, refused, _) = host.refusal(peer(2), 1, &[Writer::new(2).put("k", 1)]);
    assert_eq!((code, refused.generation), (ErrorCode::ReadOnly, 1));
    assert_eq!(host.end(), before);
    // The rest of the generation is passed over, as after any refusal.
    host.push(peer(2), 2, 1, &[Writer::new(2).put("k", 2)]);
    assert_eq!(host.take(peer(2)), []);
}

#[test]
fn rights_end_at_their_time_at_home_and_where_members_are() {
    let mut host = Host::default();
    host.join(1);
    host.open_as(grant("ada", MEMBER, MS + 1_000), document(), peer(2), MEMBER, None);
    host.take(peer(2));
    let mut writer = Writer::new(1);
    host.now.wall_ms = MS + 999;
    let first = writer.put("a", 1);
    host.acked(peer(1), 1, std::slice::from_ref(&first));
    assert_eq!(host.gather_changes(peer(2)), [first]);
    let second = writer.put("a", 2);
    host.acked(peer(1), 1, std::slice::from_ref(&second));
    // The home has not been asked anything since: the feed knows by itself.
    host.now.wall_ms = MS + 1_000;
    assert_eq!(host.gather(peer(2)), []);
    assert_eq!(host.take(peer(2)), []);
    host.turn(Input::Tick);
    let [Told::RightsChanged(changed)] = &host.take(peer(2))[..] else { panic!("not told") };
    assert_eq!((changed.rights, changed.code, changed.request), (0, ErrorCode::TokenExpired as u16, 0));
    host.turn(Input::Tick);
    assert_eq!(host.take(peer(2)), [], "it is told once");
    // A new token goes on where it was.
    let handle = host.handle(peer(2));
    let fresh = grant("ada", MEMBER, MS + 9_000);
    host.turn(Input::Renew { peer: peer(2), handle, request: 5, grant: fresh });
    let [Told::RightsChanged(changed)] = &host.take(peer(2))[..] else { panic!("not told") };
    assert_eq!((changed.rights, changed.code, changed.request), (MEMBER.0, 0, 5));
    assert_eq!(changed.expires_at_ms, MS + 9_000);
    assert_eq!(host.gather_changes(peer(2)), [second]);
}

#[test]
fn a_renewal_in_time_ends_nothing_and_the_old_end_is_forgotten() {
    let mut host = Host::default();
    host.open_as(grant("ada", MEMBER, MS + 1_000), document(), peer(1), MEMBER, None);
    host.take(peer(1));
    let handle = host.handle(peer(1));
    host.turn(Input::PresenceSet { peer: peer(1), handle, ttl_ms: 60_000, state: STATE });
    host.turn(Input::Renew { peer: peer(1), handle, request: 1, grant: grant("ada", MEMBER, MS + 2_000) });
    host.take(peer(1));
    host.now.wall_ms = MS + 1_999;
    host.turn(Input::Tick);
    assert_eq!(host.take(peer(1)), []);
    host.acked(peer(1), 1, &[Writer::new(1).put("k", 1)]);
    host.join(2);
    assert!(got(&host.gather(peer(2))).presence, "it is still present");
    host.now.wall_ms = MS + 2_000;
    host.turn(Input::Tick);
    assert!(matches!(host.take(peer(1))[..], [Told::RightsChanged(_)]));
    assert!(matches!(
        host.gather(peer(2))[..],
        [Told::PresenceLeave(_)]
            | [Told::Changes(..), Told::PresenceLeave(_)]
            | [Told::PresenceLeave(_), Told::Changes(..)]
    ));
}

/// A client forgets who is present when its rights end, so it has to be told again of those who never moved.
#[test]
fn a_renewal_after_the_end_shows_again_who_is_present() {
    let mut host = Host::default();
    host.join(1);
    let handle = host.handle(peer(1));
    host.turn(Input::PresenceSet { peer: peer(1), handle, ttl_ms: 60_000, state: STATE });
    host.open_as(grant("ada", MEMBER, MS + 1_000), document(), peer(2), MEMBER, None);
    host.take(peer(2));
    assert!(got(&host.gather(peer(2))).presence);
    host.now.wall_ms = MS + 1_000;
    host.turn(Input::Tick);
    assert!(!got(&host.gather(peer(2))).presence, "its rights have ended");
    let renewal = grant("ada", MEMBER, MS + 9_000);
    host.turn(Input::Renew { peer: peer(2), handle, request: 1, grant: renewal });
    let told = host.gather(peer(2));
    assert!(matches!(&told[..], [Told::PresenceUpdate(update)] if update.full), "{told:?}");
    assert!(got(&told).presence);
    host.turn(Input::Renew { peer: peer(2), handle, request: 2, grant: grant("ada", MEMBER, MS + 9_999) });
    assert!(!got(&host.gather(peer(2))).presence, "a renewal in time has nothing to tell");
}

#[test]
fn a_renewal_never_gives_more_than_was_wanted_and_may_give_less() {
    let mut host = Host::default();
    host.open_as(grant("ada", Rights::ALL, 0), document(), peer(1), WRITES, None);
    host.take(peer(1));
    let handle = host.handle(peer(1));
    for (rights, left) in [(Rights::ALL, WRITES), (READ, READ), (WRITES, WRITES)] {
        host.turn(Input::Renew { peer: peer(1), handle, request: 1, grant: grant("ada", rights, 0) });
        let [Told::RightsChanged(changed)] = &host.take(peer(1))[..] else { panic!("{rights:?}") };
        assert_eq!(Rights(changed.rights), left);
    }
    // One that grants nothing here is refused, and what there was stays.
    for (bad, code) in [
        (grant("ada", Rights::NONE, 0), ErrorCode::Forbidden),
        (grant("ada", Rights::PRESENCE, 0), ErrorCode::Forbidden),
        (grant("ada", WRITES, MS), ErrorCode::TokenExpired),
    ] {
        host.now.wall_ms = MS;
        host.turn(Input::Renew { peer: peer(1), handle, request: 3, grant: bad });
        let error = host.take(peer(1)).remove(0).error();
        assert_eq!((error.code, error.request), (code as u16, 3));
    }
    host.acked(peer(1), 1, &[Writer::new(1).put("k", 1)]);
}

#[test]
fn a_revocation_ends_what_it_names_and_nothing_else() {
    let mut host = Host::default();
    for (id, subject) in [(1, "ada"), (2, "ben"), (3, "")] {
        let given = if subject.is_empty() { Grant::anonymous() } else { grant(subject, MEMBER, 0) };
        host.open_as(given, document(), peer(id), MEMBER, None);
        host.take(peer(id));
    }
    let ends = |host: &mut Host, what: Revoked, at_s: u64| -> Vec<u64> {
        host.turn(Input::Revoke(&Revocation { what, at_s }));
        let is_told = |id: &u64| {
            host.told.get(&peer(*id)).is_some_and(|told| {
                told.iter().any(|told| matches!(told, Told::RightsChanged(changed) if changed.code == ErrorCode::TokenRevoked as u16))
            })
        };
        let ended: Vec<u64> = [1, 2, 3].into_iter().filter(is_told).collect();
        host.told.clear();
        ended
    };
    assert_eq!(ends(&mut host, Revoked::Token("cleo-1".into()), 200), [0_u64; 0]);
    assert_eq!(ends(&mut host, Revoked::Subject("ada".into()), 99), [0_u64; 0], "it is newer");
    assert_eq!(ends(&mut host, Revoked::Documents(Pattern::new("notes/*").unwrap()), 200), [0_u64; 0]);
    assert_eq!(ends(&mut host, Revoked::Token("ada-1".into()), 1), [1]);
    assert_eq!(ends(&mut host, Revoked::Token("ada-1".into()), 1), [0_u64; 0], "it has ended");
    assert_eq!(ends(&mut host, Revoked::Documents(Pattern::new("rooms/*").unwrap()), 100), [2]);
}

#[test]
fn an_open_that_waits_is_refused_when_it_is_revoked_or_its_time_is_over() {
    for expires in [false, true] {
        let mut host = Host::default();
        host.hold_questions = true;
        host.open_as(grant("ada", MEMBER, MS + 1_000), document(), peer(1), MEMBER, None);
        host.open_in(document(), peer(2), MEMBER, None);
        if expires {
            host.now.wall_ms = MS + 1_000;
        } else {
            host.turn(Input::Revoke(&Revocation { what: Revoked::Subject("ada".into()), at_s: 100 }));
        }
        host.answer();
        let code = if expires { ErrorCode::TokenExpired } else { ErrorCode::TokenRevoked };
        assert_eq!(host.take(peer(1)).remove(0).error().code, code as u16);
        assert!(!host.has_stream(peer(1)));
        host.take(peer(2)).remove(0).opened();
    }
    // If nobody else wants it, the document does not stay in memory for good.
    let mut host = Host::default();
    host.hold_questions = true;
    host.open_as(grant("ada", MEMBER, MS + 1_000), document(), peer(1), MEMBER, None);
    host.now.wall_ms = MS + 1_000;
    host.answer();
    host.wait_us(etherply_engine::shard::IDLE_DOCUMENT_US + 1);
    assert_eq!(host.shard.documents(), 0);
}

#[test]
fn a_member_that_has_to_reconcile_and_may_not_read_any_more_is_closed() {
    let (mut host, mut writer) = world();
    let foreign = Cursor { chain: [9; 32], ..host.end() };
    host.open_as(grant("ada", MEMBER, MS + 1_000), document(), peer(9), MEMBER, Some(foreign));
    assert_eq!(host.take(peer(9)).remove(0).opened().resume, resume::RECONCILE);
    host.now.wall_ms = MS + 1_000;
    host.reconcile(peer(9), clock(&mut writer.doc));
    let told = host.take(peer(9));
    let closed = told.into_iter().find_map(|told| match told {
        Told::Close(close) => Some(close.code),
        _ => None,
    });
    assert_eq!(closed, Some(ErrorCode::TokenExpired as u16));
}

/// Whatever a stream may do or may do no longer: a clock that nobody asked for is a violation of the protocol, and
/// not a question of rights. (The simulator found it answered as one, with a member that is only present.)
#[test]
fn a_clock_that_nobody_asked_for_is_a_violation_whatever_the_rights() {
    for rights in [Rights::PRESENCE, READ, Rights::WRITE, MEMBER] {
        for ended in [false, true] {
            let (mut host, mut writer) = world();
            host.open_as(grant("ada", rights, MS + 1_000), document(), peer(9), rights, None);
            host.take(peer(9));
            if ended {
                host.now.wall_ms = MS + 1_000;
            }
            host.reconcile(peer(9), clock(&mut writer.doc));
            let closed = host.take(peer(9)).into_iter().find_map(|told| match told {
                Told::Close(close) => Some(close.code),
                _ => None,
            });
            assert_eq!(closed, Some(ErrorCode::ProtocolViolation as u16), "{rights:?}, ended: {ended}");
        }
    }
}

#[test]
fn a_push_that_waits_when_rights_end_is_refused() {
    let mut host = Host::default();
    host.open_as(grant("ada", MEMBER, MS + 1_000), document(), peer(1), MEMBER, None);
    host.take(peer(1));
    host.hold_commits = true;
    let mut writer = Writer::new(1);
    host.push(peer(1), 1, 1, &[writer.put("k", 1)]);
    host.now.wall_ms = MS + 1_000;
    host.push(peer(1), 2, 1, &[writer.put("k", 2)]);
    host.commit();
    let told = host.take(peer(1));
    let acks = told.iter().filter(|told| matches!(told, Told::Ack(_))).count();
    let refused: Vec<u16> = told
        .iter()
        .filter_map(|told| match told {
            Told::Refused(refused, _) => Some(refused.code),
            _ => None,
        })
        .collect();
    // What was taken before is stored and acked; what came after is not.
    assert_eq!((acks, refused), (1, vec![ErrorCode::TokenExpired as u16]));
    assert_eq!(host.log.records(&document()).len(), 1);
}

/// Rows of the actor policy: a change in another's actor name.
#[test]
fn an_actor_belongs_to_the_subject_that_first_used_it() {
    let mut host = Host::default();
    host.open_as(grant("ada", MEMBER, 0), document(), peer(1), MEMBER, None);
    host.open_as(grant("eve", MEMBER, 0), document(), peer(2), MEMBER, None);
    host.open_as(grant("ops", Rights::ALL, 0), document(), peer(3), Rights::ALL, None);
    // Another device of the same subject.
    host.open_as(grant("ada", MEMBER, 0), document(), peer(4), MEMBER, None);
    for id in 1..=4 {
        host.take(peer(id));
    }
    let mut ada = Writer::new(1);
    let first = ada.put("k", 1);
    host.acked(peer(1), 1, std::slice::from_ref(&first));
    assert_eq!(&*host.log.records(&document())[0].pusher, "ada");
    let second = ada.put("k", 2);
    let (code, ..) = host.refusal(peer(2), 1, std::slice::from_ref(&second));
    assert_eq!(code, ErrorCode::ActorNotYours);
    // What is there already changes nothing, whoever brings it.
    host.acked(peer(2), 2, std::slice::from_ref(&first));
    host.acked(peer(4), 1, std::slice::from_ref(&second));
    let third = ada.put("k", 3);
    host.acked(peer(3), 1, std::slice::from_ref(&third));
    assert_eq!(&*host.log.records(&document())[2].pusher, "ops");
    host.acked(peer(1), 2, &[ada.put("k", 4)]);
}

#[test]
fn who_an_actor_belongs_to_outlives_a_restart_a_snapshot_and_a_failed_commit() {
    let budget = Budget { snapshot_after_bytes: 1_000, ..Budget::default() };
    let mut host = Host::default().with_budget(budget);
    host.open_as(grant("ada", MEMBER, 0), document(), peer(1), MEMBER, None);
    host.take(peer(1));
    let mut ada = Writer::new(1);
    for change in ada.puts(30) {
        host.acked(peer(1), 1, &[change]);
    }
    assert!(!host.snapshots.is_empty());
    // From the snapshot's summary, and the log behind it.
    let mut host = Host::new(std::mem::replace(&mut host.log, MemoryLog::new()));
    host.open_as(grant("eve", MEMBER, 0), document(), peer(2), MEMBER, None);
    host.open_as(grant("ada", MEMBER, 0), document(), peer(1), MEMBER, None);
    host.take(peer(2));
    host.take(peer(1));
    let next = ada.put("k", 1);
    assert_eq!(host.refusal(peer(2), 1, std::slice::from_ref(&next)).0, ErrorCode::ActorNotYours);
    host.acked(peer(1), 1, &[next]);
    // A first use that was never stored gives nobody anything.
    let mut fresh = Writer::new(8);
    fresh.apply(&[]);
    let change = fresh.put("k", 1);
    host.hold_commits = true;
    host.push(peer(2), 1, 2, std::slice::from_ref(&change));
    host.fail_commit();
    host.take(peer(2));
    host.hold_commits = false;
    host.turn(Input::StorageRecovered { documents: &[] });
    host.acked(peer(1), 2, std::slice::from_ref(&change));
    assert_eq!(&*host.log.records(&document()).last().unwrap().pusher, "ada");
}

#[test]
fn actors_of_nobody_are_everybodys() {
    let mut host = Host::default();
    host.join(1);
    let mut writer = Writer::new(1);
    host.acked(peer(1), 1, &[writer.put("k", 1)]);
    // From before there were tokens.
    host.open_as(grant("ada", MEMBER, 0), document(), peer(2), MEMBER, None);
    host.take(peer(2));
    host.acked(peer(2), 1, &[writer.put("k", 2)]);
}
