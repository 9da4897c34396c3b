//! What a fault of the server's, or a bad client, may harm: itself, and nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use automerge::ActorId;
use automerge::transaction::Transactable as _;
use common::{Member, PATIENCE, Server, Told, command};
use etherply_client::{Client, Document, Event, OpenOptions, Transport};
use etherply_engine::feed::QUANTUM_BYTES;
use etherply_wire::kinds::Hello;
use etherply_wire::{MAGIC, Rights, encode};
use socket2::SockRef;

/// Panics that are forced.
const PANICS: f64 = 1_000.0;
/// Members that come to a document, about, before they go on with another one.
const ATTEMPTS_PER_DOCUMENT: u64 = 120;
/// After so many it is counted whether there were enough panics.
const ATTEMPTS_PER_LOOK: u64 = 16;

#[test]
fn a_thousand_panics_harm_nobody_else_and_lose_nothing() {
    let data = tempfile::tempdir().unwrap();
    // Panics are printed; a thousand of them say nothing new.
    let quiet = std::fs::File::create(data.path().join("stderr")).unwrap();
    let directory = data.path().join("data");
    let server = Server::spawn(
        command(&directory).env("ETHERPLY_FAULTS", "shaky/:11").env("RUST_BACKTRACE", "0").stderr(quiet),
    );
    let (is_over, numbers) = (AtomicBool::new(false), AtomicU64::new(1));
    let acked = std::thread::scope(|scope| {
        let _end = End(&is_over);
        let shaky: Vec<_> = (0..6)
            .map(|_| {
                let (server, is_over, numbers) = (&server, &is_over, &numbers);
                scope.spawn(move || {
                    let mut acked = Vec::new();
                    while !is_over.load(Ordering::Relaxed) {
                        let number = numbers.fetch_add(1, Ordering::Relaxed);
                        attempt(server.listen, number, &mut acked);
                        if number.is_multiple_of(ATTEMPTS_PER_LOOK) && panics(server) >= PANICS {
                            is_over.store(true, Ordering::Relaxed);
                        }
                    }
                    acked
                })
            })
            .collect();
        let steady: Vec<_> = (0..3)
            .map(|n| {
                let (server, is_over) = (&server, &is_over);
                scope.spawn(move || {
                    let mut member = Member::connect(server, n % 2 == 0, 200 + n);
                    let stream = member.open("steady/1");
                    let mut puts = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        // It panics if the connection ends.
                        member.put_durably(stream, &format!("{n}/{}", puts % 50), &puts.to_string());
                        puts += 1;
                    }
                    let ended = |told: &&Told| matches!(told, Told::Closed(_) | Told::Failed(..));
                    assert_eq!(member.told.iter().find(ended), None, "a neighbour was harmed");
                    puts
                })
            })
            .collect();
        let acked: Vec<_> = shaky.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let puts: u32 = steady.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(puts > 0, "the neighbours have worked all the time");
        acked
    });
    let (_, metrics) = server.get("/metrics");
    for ended in ["connection", "document", "feed"] {
        assert!(metrics.contains(&format!("etherply_panics_total{{ended=\"{ended}\"}}")), "{metrics}");
    }
    server.kill();

    let server = Server::start(&directory);
    let mut fresh = Member::connect(&server, false, 1);
    let mut documents: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    for (document, key) in &acked {
        documents.entry(document).or_default().insert(key);
    }
    assert!(documents.len() >= 3, "something was acked between the panics");
    for (document, expected) in documents {
        let stream = fresh.open(document);
        let found = fresh.until_keys(stream, expected.len());
        let missing = expected.iter().find(|key| !found.contains_key(**key));
        assert_eq!(missing, None, "an acked change is lost");
    }
}

/// Ends the others' work even if an assertion fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn panics(server: &Server) -> f64 {
    let (_, text) = server.get("/metrics");
    let lines = text.lines().filter(|line| line.starts_with("etherply_panics_total{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// One member, from its connection to the first thing that goes wrong. What was acked comes into `acked`, with its
/// document.
fn attempt(listen: SocketAddr, number: u64, acked: &mut Vec<(String, String)>) {
    // Three at a time, and others later: each attempt reads all that its document has.
    let document = format!("shaky/{}", number / ATTEMPTS_PER_DOCUMENT * 3 + number % 3);
    let mut socket = TcpStream::connect(listen).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    let mut client = Client::new(Transport::Tcp, "test", number);
    client.connect(0).unwrap();
    let rights = Rights::READ.with(Rights::WRITE);
    let options = OpenOptions { document: document.clone(), rights, token: None, cursor: None };
    let stream = client.open(options).unwrap();
    let mut copy = Document::new(stream, ActorId::from(&u128::from(number).to_be_bytes()[..]));
    let (mut puts, mut is_over, mut may_put, mut behind) = (0, false, false, 0);
    let mut bytes = vec![0; 64 * 1024];
    loop {
        if std::mem::take(&mut may_put) {
            puts += 1;
            copy.apply().unwrap();
            copy.doc().put(automerge::ROOT, format!("{number}/{puts}"), "x").unwrap();
            copy.push(&mut client, puts).unwrap();
        }
        let mut out = Vec::new();
        client.output(&mut out, 0);
        if is_over || socket.write_all(&out).is_err() {
            return;
        }
        let Ok(read @ 1..) = socket.read(&mut bytes) else { return };
        let on = &mut |event: Event<'_>| match event {
            Event::Opened { cursor, .. } => (may_put, behind) = (cursor.seq == 0, cursor.seq),
            Event::Changes { changes, .. } => {
                copy.receive(&changes).unwrap();
                // It writes on top of what there is, or the document would have a head for each attempt.
                let was_behind = behind > 0;
                behind = behind.saturating_sub(changes.len() as u64);
                may_put |= was_behind && behind == 0;
            }
            Event::Acked { push, .. } => {
                acked.push((document.clone(), format!("{number}/{}", push.tag)));
                may_put = true;
            }
            Event::Closed { .. } | Event::OpenFailed { .. } | Event::Refused { .. } => is_over = true,
            _ => {}
        };
        client.input(&mut bytes[..read], 0, on).unwrap();
    }
}

/// Members that never read.
const SLOW: usize = 100;
/// What is written while they do not read, many times what sockets hold.
const WRITTEN_BYTES: usize = 24 * 1024 * 1024;
const VALUE_BYTES: usize = 64 * 1024;

#[test]
fn members_that_never_read_cost_little_and_converge_when_they_do() {
    let data = tempfile::tempdir().unwrap();
    // Those who do not read say nothing either, however long a busy machine takes for the rest.
    // Documents in memory are another matter, and as large as Automerge makes them.
    let server = Server::spawn(command(data.path()).args(["--idle-timeout", "3600", "--materialisers", "0"]));
    let mut writer = Member::connect(&server, false, 1);
    let writes = WRITTEN_BYTES / VALUE_BYTES;
    let value = "v".repeat(VALUE_BYTES);
    // As much once before, with nobody slow: the log's own is there when it begins.
    let other = writer.open("rooms/0");
    for n in 0..writes {
        writer.put_durably(other, &format!("k{n}"), &value);
    }
    let write = writer.open("rooms/1");
    writer.put_durably(write, "first", "x");
    let mut slow: Vec<Member> = (0..SLOW)
        .map(|n| {
            let mut member = Member::connect(&server, n % 2 == 0, 2 + u8::try_from(n).unwrap());
            member.open("rooms/1");
            member
        })
        .collect();
    until_no_snapshot_is_due(&server);
    let before_kib = rss_kib(server.pid());
    for n in 0..writes {
        writer.put_durably(write, &format!("k{n}"), &value);
    }
    until_no_snapshot_is_due(&server);
    let grown_bytes = rss_kib(server.pid()).saturating_sub(before_kib) * 1_024;
    // Each holds at most a quantum and the frame that went over it, most of it shared with the others; what
    // remains is the log's own: its memtable, and the document's tail.
    let bound_bytes = SLOW * 2 * QUANTUM_BYTES + 3 * WRITTEN_BYTES;
    assert!(grown_bytes < bound_bytes, "{grown_bytes} bytes for {SLOW} members that never read");
    // Asked until it is so: the last ack does not wait for the last send to each of them.
    while server.metric("etherply_connections_blocked") != SLOW as f64 {}
    for member in slow.iter_mut().step_by(25) {
        let stream = *member.documents.keys().next().unwrap();
        assert_eq!(member.until_keys(stream, writes + 1).len(), writes + 1);
        let heads = member.documents.get_mut(&stream).unwrap().doc().get_heads();
        assert_eq!(heads, writer.documents.get_mut(&write).unwrap().doc().get_heads());
    }
    // Who reads again is not blocked any more, nor who is gone.
    while server.metric("etherply_connections_blocked") != (SLOW - SLOW.div_ceil(25)) as f64 {}
    drop(slow);
    while server.metric("etherply_connections_active") != 1.0 {}
    assert_eq!(server.metric("etherply_connections_blocked"), 0.0);
}

/// What a snapshot takes is given back when it is cut. Asked until it is so.
fn until_no_snapshot_is_due(server: &Server) {
    while server.metric("etherply_snapshots_due") != 0.0 {}
}

fn rss_kib(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn connections_that_break_off_anywhere_leave_nothing_behind() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut member = Member::connect(&server, false, 1);
    let stream = member.open("rooms/1");
    let hello = Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent: "test".to_owned() };
    let hello = [&MAGIC[..], &encode(0, &hello, &[])].concat();
    for round in 0..hello.len() {
        let mut socket = TcpStream::connect(server.listen).unwrap();
        socket.write_all(&hello[..round]).unwrap();
        if round % 2 == 0 {
            // Ends with a reset instead of a farewell.
            SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(socket);
        member.put_durably(stream, &format!("k{}", round % 10), &round.to_string());
    }
    // Asked until it is so: nothing tells when the server has noticed the last one.
    while server.metric("etherply_connections_active") != 1.0 {}
    assert_eq!(panics(&server), 0.0);
    member.put_durably(stream, "last", "x");
}

#[test]
fn without_descriptors_new_connections_are_closed_and_the_others_served() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut member = Member::connect(&server, false, 1);
    let stream = member.open("rooms/1");
    member.put_durably(stream, "before", "x");
    let pid = Pid::from_raw(server.pid());
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let highest: u64 =
        descriptors.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).max().unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum;
    let few = Rlimit { current: Some(highest + 4), maximum };
    let before = prlimit(pid, Resource::Nofile, few).unwrap();
    let hello = Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent: "test".to_owned() };
    let hello = [&MAGIC[..], &encode(0, &hello, &[])].concat();
    let (mut held, mut refused) = (Vec::new(), 0);
    while refused < 5 {
        let mut socket = TcpStream::connect(server.listen).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let sent = socket.write_all(&hello);
        match socket.read(&mut [0]) {
            Ok(1) => held.push(socket),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("left waiting, not closed"),
            _ => refused += 1,
        }
        drop(sent);
        member.put_durably(stream, "key", &format!("{} {refused}", held.len()));
    }
    prlimit(pid, Resource::Nofile, before).unwrap();
    let mut late = Member::connect(&server, true, 2);
    let read = late.open("rooms/1");
    assert_eq!(late.until_keys(read, 2).len(), 2);
    let (_, metrics) = server.get("/metrics");
    assert!(
        metrics.contains("etherply_connections_rejected_total{reason=\"no_descriptors\"} 5"),
        "{metrics}"
    );
}
