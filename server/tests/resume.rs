//! How members come back, over real sockets: by cursor, by snapshot, by comparing clocks, and what of it a
//! member cannot abuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use automerge::AutoCommit;
use automerge::transaction::Transactable as _;
use common::{Member, Server, Told};
use etherply_client::StreamId;
use etherply_engine::chain::{chain_next, chain_start};
use etherply_engine::change::ChangeHash;
use etherply_engine::ids::DocumentId;
use etherply_engine::snapshot::SNAPSHOT_AFTER_BYTES_MIN;
use etherply_wire::kinds::{ClockEntry, Cursor, Kind, Opened, Reconcile, resume};
use etherply_wire::limits::CLOCK_ENTRIES_MAX;
use etherply_wire::{ErrorCode, Frame, encode};

const NAME: &str = "notes";

fn opens(server: &Server, how: &str) -> f64 {
    server.metric(&format!("etherply_opens_total{{resume=\"{how}\"}}"))
}

/// Writes at least so many bytes of changes, and waits until they are durable.
fn write_bytes(member: &mut Member, stream: StreamId, bytes: u64) -> usize {
    let value = "x".repeat(4_000);
    let count = usize::try_from(bytes / 4_000).unwrap() + 1;
    // Keys that differ between calls, in noise that Automerge does not shorten.
    let before = member.contents(stream).len();
    for n in 0..count {
        member.put(stream, &format!("{}/{n}", before), &value);
    }
    for _ in 0..count {
        member.until(|told| matches!(told, Told::Acked { .. }));
    }
    count
}

/// Waits until so many snapshots were cut. The metrics page is asked again as long as it takes.
fn until_cut(server: &Server, count: f64) {
    while server.metric("etherply_snapshots_total{outcome=\"cut\"}") < count {
        std::thread::yield_now();
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_new_member_of_a_long_document_gets_its_snapshot_and_goes_on_from_there() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut writer = Member::connect(&server, false, 1);
    let stream = writer.open(NAME);
    let mut keys = write_bytes(&mut writer, stream, SNAPSHOT_AFTER_BYTES_MIN + 1_000);
    until_cut(&server, 1.0);
    for n in 0..10 {
        writer.put_durably(stream, &format!("tail {n}"), "v");
    }
    keys += 10;
    for websocket in [false, true] {
        let mut late = Member::connect(&server, websocket, 2 + u8::from(websocket));
        let (copy, how) = late.open_at(NAME, None, AutoCommit::new());
        assert_eq!(how, resume::SNAPSHOT);
        // Its own edit goes out while the snapshot is on its way.
        late.put(copy, &format!("own {websocket}"), "v");
        keys += 1;
        assert_eq!(late.until_keys(copy, keys).len(), keys);
        late.until(|told| matches!(told, Told::Acked { added: 1, .. }));
        let bytes = late.told.iter().find_map(|told| match told {
            Told::Snapshot { bytes } => Some(*bytes as u64),
            _ => None,
        });
        // As Automerge saves it: shorter than the changes.
        assert!(bytes.is_some_and(|bytes| bytes > 0 && bytes < SNAPSHOT_AFTER_BYTES_MIN), "{bytes:?}");
        assert_eq!(late.resume(&server), resume::CURSOR);
        writer.put_durably(stream, &format!("live {websocket}"), "v");
        keys += 1;
        assert_eq!(late.until_keys(copy, keys).len(), keys);
        writer.until_keys(stream, keys);
        let heads = writer.documents.get_mut(&stream).unwrap().doc().get_heads();
        assert_eq!(late.documents.get_mut(&copy).unwrap().doc().get_heads(), heads);
    }
    assert_eq!(
        (opens(&server, "start"), opens(&server, "snapshot"), opens(&server, "cursor")),
        (1.0, 2.0, 2.0)
    );
    // It is there after a crash as well, and it belongs to this directory's history alone.
    server.kill();
    let server = Server::start(data.path());
    let mut fresh = Member::connect(&server, false, 9);
    let (copy, how) = fresh.open_at(NAME, None, AutoCommit::new());
    assert_eq!(how, resume::SNAPSHOT);
    assert_eq!(fresh.until_keys(copy, keys).len(), keys);
}

/// The files of snapshots in a data directory.
fn snapshot_files(data: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(data.join("snapshots")).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

#[test]
fn a_damaged_snapshot_is_damage_of_its_document_and_of_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut writer = Member::connect(&server, false, 1);
    let stream = writer.open(NAME);
    let keys = write_bytes(&mut writer, stream, SNAPSHOT_AFTER_BYTES_MIN + 1_000);
    let other = writer.open("another");
    writer.put_durably(other, "key", "v");
    until_cut(&server, 1.0);
    let path = snapshot_files(data.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let mut late = Member::connect(&server, false, 2);
    let (_, how) = late.open_at(NAME, None, AutoCommit::new());
    assert_eq!(how, resume::SNAPSHOT, "nobody knows yet");
    late.until(|told| matches!(told, Told::Closed(code) if *code == ErrorCode::DocumentDamaged as u16));
    assert!(!late.told.iter().any(|told| matches!(told, Told::Snapshot { .. })));
    assert!(server.metric("etherply_snapshots_total{outcome=\"lost\"}") >= 1.0);
    // Whoever has it goes on, and so does everybody else.
    writer.put_durably(stream, "still", "v");
    writer.put_durably(other, "still", "v");
    // A start notices what is missing when the document is opened, and names it.
    server.terminate();
    assert!(server.wait().success());
    fs::remove_file(&path).unwrap();
    let server = Server::start(data.path());
    let mut fresh = Member::connect(&server, true, 3);
    let (copy, _) = fresh.open_at("another", None, AutoCommit::new());
    assert_eq!(fresh.until_keys(copy, 2).len(), 2);
    let refused = fresh.open_failed(NAME);
    assert_eq!(refused.0, ErrorCode::DocumentDamaged as u16);
    assert!(refused.1.contains("document notes") && refused.1.contains("it is missing"), "{}", refused.1);
    // Put back as it was, it is whole.
    fs::write(&path, &whole).unwrap();
    let (copy, how) = fresh.open_at(NAME, None, AutoCommit::new());
    assert_eq!(how, resume::SNAPSHOT);
    assert_eq!(fresh.until_keys(copy, keys + 1).len(), keys + 1);
}

#[test]
fn a_rolled_back_directory_gets_back_what_its_members_have_and_gives_what_they_lack() {
    let (data, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let mut ada = Member::connect(&server, false, 1);
    let a = ada.open(NAME);
    ada.put_durably(a, "before", "1");
    server.terminate();
    assert!(server.wait().success());
    copy_directory(data.path(), backup.path());

    // Ada goes on with the original, and then comes to the copy, in which Ben has written meanwhile.
    let server = Server::start(data.path());
    assert_eq!(ada.resume(&server), resume::CURSOR);
    ada.put_durably(a, "original", "2");
    ada.put_durably(a, "original too", "3");
    server.kill();
    let server = Server::start(backup.path());
    let mut ben = Member::connect(&server, true, 2);
    let b = ben.open(NAME);
    ben.put_durably(b, "copy", "4");
    // One more than Ada's position, so that it is not ahead but another history.
    ben.put_durably(b, "copy too", "5");
    ben.put_durably(b, "copy three", "6");
    assert_eq!(ada.resume(&server), resume::RECONCILE);
    // Changes stream in while the two compare.
    for n in 0..20 {
        ben.put(b, &format!("live {n}"), "v");
    }
    let expected = 6 + 20;
    assert_eq!(ada.until_keys(a, expected).len(), expected);
    assert_eq!(ben.until_keys(b, expected).len(), expected);
    let mut fresh = Member::connect(&server, false, 3);
    let stream = fresh.open(NAME);
    assert_eq!(fresh.until_keys(stream, expected).len(), expected);
    let heads =
        |member: &mut Member, stream: StreamId| member.documents.get_mut(&stream).unwrap().doc().get_heads();
    assert_eq!(heads(&mut ada, a), heads(&mut ben, b));
    assert_eq!(heads(&mut ada, a), heads(&mut fresh, stream));
    assert_eq!(opens(&server, "reconcile"), 1.0);
    // From now on its cursor is one of this history.
    assert_eq!(ada.resume(&server), resume::CURSOR);
}

/// The cursor behind each of a copy's changes, as if its log had them in this order.
fn cursors(copy: &mut AutoCommit) -> Vec<Cursor> {
    let document = DocumentId::new(NAME).unwrap();
    let mut chain = chain_start(&document, 1);
    let hashes: Vec<_> = copy.get_changes(&[]).iter().map(|change| change.hash()).collect();
    let at = |(seq, hash): (u64, &automerge::ChangeHash)| {
        chain = chain_next(&chain, seq, &ChangeHash(hash.0));
        Cursor { epoch: 1, seq, chain: chain.0 }
    };
    (1..).zip(&hashes).map(at).collect()
}

#[test]
fn every_cursor_leads_to_the_whole_document() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut writer = Member::connect(&server, false, 1);
    let stream = writer.open(NAME);
    // One push of several changes, and one of one.
    for n in 0..4 {
        let doc = writer.documents.get_mut(&stream).unwrap().doc();
        doc.put(automerge::ROOT, format!("k{n}"), "v").unwrap();
        doc.commit();
    }
    writer.documents.get_mut(&stream).unwrap().push(&mut writer.client, 7).unwrap();
    writer.until(|told| matches!(told, Told::Acked { added: 4, .. }));
    writer.put_durably(stream, "k4", "v");
    let mut whole = writer.documents.get_mut(&stream).unwrap().doc().clone();
    let at = cursors(&mut whole);
    let prefix = |count: usize| {
        let changes = whole.clone().get_changes(&[]);
        let mut copy = AutoCommit::new();
        copy.apply_changes(changes.into_iter().take(count)).unwrap();
        copy
    };
    let ahead = Cursor { seq: 1_000, ..at[4] };
    let other_epoch = Cursor { epoch: 2, ..at[2] };
    let other_chain = Cursor { chain: [7; 32], ..at[2] };
    let cases = [
        (at[1], 2, resume::CURSOR),
        (at[3], 4, resume::CURSOR),
        (at[4], 5, resume::CURSOR),
        (ahead, 5, resume::RECONCILE),
        (other_epoch, 3, resume::RECONCILE),
        (other_chain, 3, resume::RECONCILE),
    ];
    let mut server = server;
    // Within a segment of the tail and, after a restart, of the log alone.
    for round in [10_u8, 20] {
        if round == 20 {
            server.kill();
            server = Server::start(data.path());
        }
        for (n, (cursor, count, how)) in (round..).zip(cases) {
            let mut member = Member::connect(&server, n % 2 == 0, n);
            let (stream, said) = member.open_at(NAME, Some(cursor), prefix(count));
            assert_eq!(said, how, "{cursor:?}");
            assert_eq!(member.until_keys(stream, 5).len(), 5);
            member.put_durably(stream, "k0", &format!("again {n}"));
        }
        assert_eq!((opens(&server, "cursor"), opens(&server, "reconcile")), (3.0, 3.0));
    }
}

/// Sends a frame that the client would never send.
fn send_raw(member: &mut Member, frame: &[u8]) {
    use std::io::Write as _;
    member.socket().write_all(frame).unwrap();
}

/// Opens a document by hand, with a cursor that fits nothing or without one, and returns its handle.
fn open_raw(member: &mut Member, cursor: Option<Cursor>) -> u32 {
    use etherply_wire::kinds::Open;
    let open = Open { request: 77, rights: 1, document: NAME.to_owned(), token: None, cursor };
    send_raw(member, &encode(0, &open, &[]));
    let frame = read_raw(member, Kind::Opened);
    let frame = Frame::parse(&frame).unwrap().unwrap();
    assert_eq!(frame.body::<Opened>().unwrap().request.to_native(), 77);
    frame.stream()
}

/// The next frame of a kind.
fn read_raw(member: &mut Member, kind: Kind) -> Vec<u8> {
    use std::io::Read as _;
    loop {
        let mut length = [0; 4];
        member.socket().read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_le_bytes(length) as usize];
        frame[..4].copy_from_slice(&length);
        member.socket().read_exact(&mut frame[4..]).unwrap();
        if Frame::parse(&frame).unwrap().unwrap().kind() == Some(kind) {
            return frame;
        }
    }
}

fn closed_with(member: &mut Member) -> Option<ErrorCode> {
    use etherply_wire::kinds::Close;
    let frame = read_raw(member, Kind::Close);
    let code = Frame::parse(&frame).unwrap().unwrap().body::<Close>().unwrap().code.to_native();
    ErrorCode::from_number(code)
}

#[test]
fn clocks_that_nobody_asked_for_are_refused_and_those_that_are_asked_for_are_bounded() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut writer = Member::connect(&server, false, 1);
    let stream = writer.open(NAME);
    writer.put_durably(stream, "k", "v");
    let mut raw = Member::connect(&server, false, 2);
    let foreign = Cursor { epoch: 9, seq: 9, chain: [9; 32] };
    let entry = |n: u64| ClockEntry { actor: n.to_le_bytes().to_vec(), seq: 1, hash: [0; 32] };
    let reconcile = |more: bool, clock: Vec<ClockEntry>| Reconcile { cursor: foreign, more, clock };

    let handle = open_raw(&mut raw, None);
    send_raw(&mut raw, &encode(handle, &reconcile(false, vec![entry(1)]), &[]));
    assert_eq!(closed_with(&mut raw), Some(ErrorCode::ProtocolViolation));

    let handle = open_raw(&mut raw, Some(foreign));
    send_raw(&mut raw, &encode(handle, &reconcile(false, vec![entry(1), entry(1)]), &[]));
    assert_eq!(closed_with(&mut raw), Some(ErrorCode::ProtocolViolation));

    // As many entries as there may be, in frames of as many as one may have; then one more.
    for extra in [0, 1] {
        let handle = open_raw(&mut raw, Some(foreign));
        let entries: Vec<ClockEntry> = (0..CLOCK_ENTRIES_MAX as u64 + extra).map(entry).collect();
        let mut parts = entries.chunks(4_096).peekable();
        while let Some(part) = parts.next() {
            let part = reconcile(parts.peek().is_some(), part.to_vec());
            send_raw(&mut raw, &encode(handle, &part, &[]));
        }
        if extra == 0 {
            read_raw(&mut raw, Kind::Changes);
            let close = etherply_wire::kinds::Close { code: 0, message: String::new() };
            send_raw(&mut raw, &encode(handle, &close, &[]));
            assert_eq!(closed_with(&mut raw), None);
        } else {
            assert_eq!(closed_with(&mut raw), Some(ErrorCode::ProtocolViolation));
        }
    }
    writer.put_durably(stream, "k", "the others do not notice");
}
