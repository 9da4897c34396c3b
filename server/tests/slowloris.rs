//! Clients that hold a place by a byte now and then are cut, whatever they pretend to be saying, and others do not
//! notice.
//!
//! `cargo test` takes 50 of each shape; `ETHERPLY_SLOWLORIS=1000` as many (`cargo xtask slowloris`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::certificates::Certificates;
use common::{Member, PATIENCE, Server, command};
use etherply_wire::kinds::Hello;
use etherply_wire::{MAGIC, encode};

/// How often each says one byte more. This is the attack, not a wait for anything.
const DRIP: Duration = Duration::from_millis(500);

/// A client that says some things at once and the others byte by byte, for ever.
struct Slow {
    shape: &'static str,
    socket: TcpStream,
    drips: Vec<u8>,
    at: usize,
    begun: Instant,
}

impl Slow {
    fn begin(server: &Server, shape: &'static str, at_once: &[u8], drips: &[u8]) -> Self {
        let mut socket = TcpStream::connect(server.listen).unwrap();
        socket.write_all(at_once).unwrap();
        Self::of(shape, socket, drips)
    }

    /// One that has said all that it says at once.
    fn of(shape: &'static str, socket: TcpStream, drips: &[u8]) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self { shape, socket, drips: drips.to_vec(), at: 0, begun: Instant::now() }
    }

    /// Says one byte more; whether it is still there.
    fn drip(&mut self) -> bool {
        if let Some(byte) = self.drips.get(self.at) {
            match self.socket.write(&[*byte]) {
                Ok(bytes) => self.at += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        let mut said = [0; 1024];
        loop {
            match self.socket.read(&mut said) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

/// A frame of WebSocket with a short payload, masked with zeros.
fn websocket(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126).unwrap();
    [&[opcode, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// Silence alone would not end anybody in the time of these tests, and nothing else may be what ends them.
const PATIENT: &str = "--idle-timeout=3600";

/// How many there are of each shape.
fn each() -> usize {
    std::env::var("ETHERPLY_SLOWLORIS").ok().and_then(|each| each.parse().ok()).unwrap_or(50)
}

/// As fast as they can, a hundred would keep the machine from beginning thousands of slow connections.
const HONEST_PAUSE: Duration = Duration::from_millis(50);

/// How many work meanwhile.
fn honest() -> u8 {
    if each() < 1_000 { 4 } else { 100 }
}

fn hello() -> Vec<u8> {
    encode(0, &Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent: "slow".to_owned() }, &[])
}

/// Lets slow clients have what time they are given, until none is there any more, while honest ones work.
fn besiege(connect: impl Fn(u8) -> Member + Sync, begin: impl FnOnce() -> Vec<Slow>) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let edits: Vec<_> = (1..=honest())
            .map(|number| {
                let (connect, is_over) = (&connect, &is_over);
                scope.spawn(move || {
                    let mut member = connect(number);
                    let stream = member.open("notes");
                    let mut edits = 0_u32;
                    while !is_over.load(Ordering::Relaxed) {
                        member.put_durably(stream, &format!("{number}"), &edits.to_string());
                        edits += 1;
                        std::thread::sleep(HONEST_PAUSE);
                    }
                    edits
                })
            })
            .collect();
        let mut slow = begin();
        let (begun, mut cut) = (Instant::now(), BTreeMap::<&str, (usize, Duration)>::new());
        while !slow.is_empty() {
            slow.retain_mut(|slow| {
                let is_there = slow.drip();
                if !is_there {
                    let (count, longest) = cut.entry(slow.shape).or_default();
                    *count += 1;
                    *longest = slow.begun.elapsed().max(*longest);
                }
                is_there
            });
            assert!(begun.elapsed() < PATIENCE, "{} are still there, one by {}", slow.len(), slow[0].shape);
            std::thread::sleep(DRIP);
        }
        is_over.store(true, Ordering::Relaxed);
        for (shape, (count, longest)) in cut {
            println!("{shape}: {count} cut, the last after {longest:?}");
        }
        let edits: Vec<u32> = edits.into_iter().map(|edits| edits.join().unwrap()).collect();
        let (least, sum) = (edits.iter().min().unwrap(), edits.iter().sum::<u32>());
        println!("{} honest clients made {sum} edits meanwhile, each at least {least}", edits.len());
        assert!(*least > 0);
    });
}

/// By what the server says, so many did not come to a hello, and so many not to the end of a frame.
fn assert_cut(server: &Server, no_hello: usize, no_frame: usize) {
    let ended = |code| server.metric(&format!("etherply_connections_failed_total{{code=\"{code}\"}}"));
    assert_eq!(ended("hello_timeout"), f64::from(u32::try_from(no_hello).unwrap()));
    assert_eq!(ended("idle_timeout"), f64::from(u32::try_from(no_frame).unwrap()));
    assert!(!server.has_panicked());
}

#[test]
fn whoever_holds_a_place_by_a_byte_now_and_then_is_cut() {
    let (data, each) = (tempfile::tempdir().unwrap(), each());
    let server = Server::spawn(command(data.path()).arg(PATIENT));
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        server.listen
    );
    let headers = format!("{upgrade}{}", "X-Slow: 1\r\n".repeat(500));
    let greeted = [&MAGIC[..], &hello()].concat();
    let upgraded = [upgrade.as_bytes(), b"\r\n", &websocket(0x82, &hello())].concat();
    // Each of a megabyte.
    let long_frame = [&1_000_000_u32.to_le_bytes()[..], &[1; 1_000]].concat();
    let long_message = [&[0x82, 0xff][..], &1_000_000_u64.to_be_bytes(), &[0; 1_000]].concat();
    // A part of a message, and then pings: no sign of life in its middle.
    let pings = [websocket(0x02, &[1; 4]), websocket(0x89, &[]).repeat(200)].concat();
    let shapes: [(&'static str, &[u8], Vec<u8>); 6] = [
        ("silent", b"", Vec::new()),
        ("HTTP head", b"", headers.into_bytes()),
        ("hello", &MAGIC, hello()),
        ("frame", &greeted, long_frame),
        ("WebSocket message", &upgraded, long_message),
        ("WebSocket message with pings", &upgraded, pings),
    ];
    let begin = || {
        let mut slow = Vec::new();
        for (shape, at_once, drips) in &shapes {
            slow.extend((0..each).map(|_| Slow::begin(&server, shape, at_once, drips)));
        }
        slow
    };
    besiege(|number| Member::connect(&server, number % 2 == 0, number), begin);
    assert_cut(&server, 3 * each, 3 * each);
}

#[test]
fn whoever_does_so_by_tls_is_cut_as_well() {
    let (data, each) = (tempfile::tempdir().unwrap(), each());
    let certificates = Certificates::of("localhost");
    let server = certificates.start_with(data.path(), &[PATIENT]);
    let mut client_hello = Vec::new();
    certificates.bare(&[]).write_tls(&mut client_hello).unwrap();
    // The head of a record of data that is as long as one may be.
    let long_record = [&[23, 3, 3, 0x40, 0][..], &[1; 1_000]].concat();
    let greeted = || {
        let socket = TcpStream::connect(server.listen).unwrap();
        let mut stream = rustls::StreamOwned::new(certificates.bare(&[]), socket);
        stream.write_all(&[&MAGIC[..], &hello()].concat()).unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        stream.sock
    };
    let begin = || {
        let mut slow = Vec::new();
        for _ in 0..each {
            slow.push(Slow::begin(&server, "TLS: silent", b"", b""));
            slow.push(Slow::begin(&server, "TLS: handshake", b"", &client_hello));
            slow.push(Slow::begin(&server, "TLS: handshake of which the end is missing", &client_hello, b""));
            slow.push(Slow::of("TLS: record", greeted(), &long_record));
        }
        slow
    };
    let tls = certificates.trusted("localhost");
    besiege(|number| Member::connect_tls(&server, number % 2 == 0, number, tls.clone()).unwrap(), begin);
    assert_cut(&server, 3 * each, each);
}
