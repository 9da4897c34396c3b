//! TLS over real sockets: documents by raw frames and by WebSocket, certificates that clients must not take, a new
//! certificate without a restart, and who does not speak TLS, or not to its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::certificates::{Certificates, server};
use common::{Member, PATIENCE, Server, Told};
use etherply_client::{Client, ClientError, Next, Tls, Transport};
use etherply_wire::kinds::{GoingAway, Hello, Ping};
use etherply_wire::{ErrorCode, Frame, Kind, MAGIC, encode};
use rustls::{ClientConnection, StreamOwned};

fn socket(server: &Server) -> TcpStream {
    let socket = TcpStream::connect(server.listen).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Why a client does not get in.
fn refused(server: &Server, tls: Tls) -> ClientError {
    match Member::connect_tls(server, true, 9, tls) {
        Ok(_) => panic!("it got in"),
        Err(error) => error,
    }
}

#[test]
fn documents_travel_by_tls_as_they_do_without() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    let tls = certificates.trusted("localhost");
    let (mut streams, mut members) = (Vec::new(), Vec::new());
    for number in 1..=8 {
        let mut member = Member::connect_tls(&server, number % 2 == 0, number, tls.clone()).unwrap();
        // Two of each document, so that with several cores some move to their document's.
        streams.push(member.open(&format!("rooms/{}", (number - 1) / 2)));
        members.push(member);
    }
    for (number, (member, stream)) in members.iter_mut().zip(&streams).enumerate() {
        // Short ones, and one that takes many records and more than a socket takes at once.
        member.put_durably(*stream, &format!("short {number}"), "x");
        member.put_durably(*stream, &format!("long {number}"), &"0123456789".repeat(60_000));
    }
    for (member, stream) in members.iter_mut().zip(&streams) {
        let contents = member.until_keys(*stream, 4);
        assert_eq!(contents.values().filter(|value| value.len() == 600_000).count(), 2);
    }
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert!(server.metric("etherply_handovers_total") > 0.0, "some have moved, with their keys");
    }
    // What is not acked and where it stood outlive a connection here as well.
    members[1].reconnect(&server);
    members[1].put_durably(streams[1], "again", "y");
    assert!(!server.has_panicked());
    server.terminate();
    members[1].until(|told| *told == Told::GoingAway);
    assert!(server.wait().success());
}

#[test]
fn a_client_takes_no_certificate_that_is_not_the_servers() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    for (tls, text) in [
        (certificates.trusted("other.test"), "not for `other.test`"),
        (Certificates::new().trusted("localhost"), "leads to no root"),
    ] {
        let error = refused(&server, tls);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.next(), Next::Stop, "{error}");
    }
    drop(server);
    certificates.issue("localhost", true);
    let server = certificates.start(data.path());
    let error = refused(&server, certificates.trusted("localhost"));
    assert!(error.to_string().contains("has expired"), "{error}");
}

#[test]
fn a_new_certificate_is_served_without_a_restart_and_open_connections_stay() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    let mut member = Member::connect_tls(&server, true, 1, certificates.trusted("localhost")).unwrap();
    let stream = member.open("rooms/1");
    let until_served = |name: &str| {
        let (begun, tls) = (Instant::now(), certificates.trusted(name));
        while let Err(error) = Member::connect_tls(&server, false, 2, tls.clone()) {
            assert!(error.to_string().contains("not for"), "{error}");
            assert!(begun.elapsed() < PATIENCE, "the new certificate is not served");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    // The files are looked at now and then.
    certificates.issue("second.test", false);
    until_served("second.test");
    // Or when the server is told to.
    certificates.issue("third.test", false);
    let pid = rustix::process::Pid::from_raw(server.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until_served("third.test");
    // One that cannot be used changes nothing.
    std::fs::write(certificates.files().0, "no certificate").unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    member.put_durably(stream, "still", "here");
    until_served("third.test");
}

#[test]
fn who_does_not_speak_tls_is_told_to() {
    let data = tempfile::tempdir().unwrap();
    let (server, _certificates) = server(data.path());
    // Raw frames.
    let (mut client, mut raw) = (Client::new(Transport::Tcp, "test", 1), socket(&server));
    client.connect(0).unwrap();
    let (mut out, mut bytes) = (Vec::new(), vec![0; 4_096]);
    client.output(&mut out, 0);
    raw.write_all(&out).unwrap();
    let error = loop {
        let read = raw.read(&mut bytes).unwrap();
        assert!(read > 0, "closed without a word");
        if let Err(error) = client.input(&mut bytes[..read], 0, &mut |_| {}) {
            break error;
        }
    };
    assert_eq!(error.code(), Some(ErrorCode::TlsRequired));
    assert!(error.to_string().contains("TLS only") && error.next() == Next::Stop, "{error}");
    // HTTP.
    let (mut http, mut answer) = (socket(&server), String::new());
    http.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    http.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("wss://"), "{answer}");
    // What is neither.
    let mut other = socket(&server);
    other.write_all(&[0x80; 100]).unwrap();
    assert_eq!(other.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert_eq!(server.metric("etherply_connections_rejected_total{reason=\"plaintext\"}"), 3.0);
}

#[test]
fn a_client_that_wants_tls_is_told_that_there_is_none() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let certificates = Certificates::new();
    let error = refused(&server, certificates.trusted("localhost"));
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}

#[test]
fn a_handshake_that_stands_still_ends() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    let mut hello = Vec::new();
    certificates.bare(&[]).write_tls(&mut hello).unwrap();
    // Nothing, one byte, half of a hello, all of it and then nothing more, and a byte of TLS on the control port.
    let mut waiting: Vec<TcpStream> = (0..4).map(|_| socket(&server)).collect();
    waiting[1].write_all(&hello[..1]).unwrap();
    waiting[2].write_all(&hello[..hello.len() / 2]).unwrap();
    waiting[3].write_all(&hello).unwrap();
    let mut control = TcpStream::connect(server.control).unwrap();
    control.set_read_timeout(Some(PATIENCE)).unwrap();
    control.write_all(&hello[..1]).unwrap();
    waiting.push(control);
    for mut socket in waiting {
        // Ends, whatever was said before; a timeout would be an error.
        match socket.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
    assert!(!server.has_panicked());
}

#[test]
fn what_was_agreed_upon_is_what_is_spoken() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    let upgrade = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".as_slice();
    let magic = &MAGIC[..];
    for (protocols, says, is_heard) in [
        (&["http/1.1"][..], upgrade, true),
        (&["http/1.1"], magic, false),
        (&["etherply/1"], upgrade, false),
        (&["h2", "http/1.1"], upgrade, true),
        (&[], upgrade, true),
    ] {
        let (mut client, mut socket) = (certificates.bare(protocols), socket(&server));
        let mut stream = rustls::Stream::new(&mut client, &mut socket);
        stream.write_all(says).unwrap();
        let mut answer = Vec::new();
        // Not an upgrade, so it is refused; what was not agreed upon is not even that.
        drop(stream.read_to_end(&mut answer));
        assert_eq!(!answer.is_empty(), is_heard, "{protocols:?}");
    }
    let (mut client, mut socket) = (certificates.bare(&["h2"]), socket(&server));
    let error = rustls::Stream::new(&mut client, &mut socket).write_all(b"x").unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

#[test]
fn the_control_plane_speaks_tls_and_on_its_own_machine_http_as_well() {
    let data = tempfile::tempdir().unwrap();
    let (server, certificates) = server(data.path());
    assert_eq!(server.get("/health"), (200, "ok\n".to_owned()));
    let mut socket = TcpStream::connect(server.control).unwrap();
    let mut client = certificates.bare(&["http/1.1"]);
    let mut stream = rustls::Stream::new(&mut client, &mut socket);
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
}

/// What a client says at first.
fn greeting() -> Vec<u8> {
    let hello = Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent: "test".to_owned() };
    [&MAGIC[..], &encode(0, &hello, &[])].concat()
}

type Secured = StreamOwned<ClientConnection, TcpStream>;

/// A client by TLS that has nothing said yet, behind a header in the clear.
fn secured(server: &Server, certificates: &Certificates, header: &[u8]) -> Secured {
    let mut socket = socket(server);
    socket.write_all(header).unwrap();
    StreamOwned::new(certificates.bare(&[]), socket)
}

/// The next frame.
fn read_frame(stream: &mut Secured) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut frame = length.to_vec();
    frame.resize(u32::from_le_bytes(length) as usize, 0);
    stream.read_exact(&mut frame[4..])?;
    Ok(frame)
}

fn kind(frame: &[u8]) -> Kind {
    Frame::parse(frame).unwrap().unwrap().kind().unwrap()
}

#[test]
fn a_load_balancer_says_in_front_of_tls_whose_a_connection_is() {
    let data = tempfile::tempdir().unwrap();
    let certificates = Certificates::of("localhost");
    let server = certificates.start_with(data.path(), &["--proxy-protocol", "--connections-per-address=1"]);
    let header = |last: u8| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        header.extend_from_slice(&[198, 51, 100, last, 192, 0, 2, 1, 0xc0, 0, 0x10, 0x54]);
        header
    };
    let greet = |header: &[u8]| {
        let mut stream = secured(&server, &certificates, header);
        stream.write_all(&greeting())?;
        Ok::<_, std::io::Error>((read_frame(&mut stream)?, stream))
    };
    let (welcome, _first) = greet(&header(1)).unwrap();
    assert_eq!(kind(&welcome), Kind::Welcome);
    assert!(greet(&header(1)).is_err(), "the address has one already");
    assert_eq!(kind(&greet(&header(2)).unwrap().0), Kind::Welcome);
    // None at all, and one behind TLS instead of in front of it.
    assert!(greet(b"").is_err());
    let rejected =
        |reason| server.metric(&format!("etherply_connections_rejected_total{{reason=\"{reason}\"}}"));
    assert_eq!((rejected("address_connections"), rejected("proxy"), rejected("tls")), (1.0, 1.0, 0.0));
    let mut late = secured(&server, &certificates, &header(3));
    late.write_all(&[header(4), greeting()].concat()).unwrap();
    let mut said = Vec::new();
    drop(late.read_to_end(&mut said));
    assert!(said.starts_with(b"HTTP/1.1 400"), "what begins so is no EtherPly");
    assert!(!server.has_panicked());
}

#[test]
fn connections_by_tls_are_held_to_what_clients_may_take() {
    let data = tempfile::tempdir().unwrap();
    let certificates = Certificates::of("localhost");
    // Of nobody on this machine; each holds four seconds of it.
    let strict = |name: &str, limits: &[&str]| {
        let strict = [&["--trusted-networks=192.0.2.0/24"], limits].concat();
        certificates.start_with(&data.path().join(name), &strict)
    };
    let held = |server: &Server| server.metric("etherply_reads_held_total{bucket=\"client\"}");
    let ask = |server: &Server, questions: u64, piece: usize| {
        let mut bytes = greeting();
        (0..questions).for_each(|nonce| bytes.extend_from_slice(&encode(0, &Ping { nonce }, &[])));
        let mut stream = secured(server, &certificates, b"");
        // Each piece is a record of its own.
        bytes.chunks(piece).for_each(|piece| stream.write_all(piece).unwrap());
        for n in 0..=questions {
            assert_eq!(
                kind(&read_frame(&mut stream).unwrap()),
                if n == 0 { Kind::Welcome } else { Kind::Pong }
            );
        }
    };
    let server = strict("bytes", &["--client-bandwidth=2000"]);
    ask(&server, 50, usize::MAX);
    assert_eq!(held(&server), 0.0);
    // What TLS adds is no gift.
    ask(&server, 50, 1);
    assert!(held(&server) >= 1.0);
    drop(server);

    let server = strict("operations", &["--client-rate=20"]);
    ask(&server, 79, usize::MAX);
    assert_eq!(held(&server), 0.0);
    ask(&server, 120, usize::MAX);
    assert!(held(&server) >= 1.0);
    drop(server);

    let server = strict("rate", &["--accept-rate=1"]);
    let _those_before: Vec<_> = (0..4).map(|_| socket(&server)).collect();
    let mut late = secured(&server, &certificates, b"");
    late.write_all(&greeting()).unwrap();
    let told = read_frame(&mut late).unwrap();
    let told = Frame::parse(&told).unwrap().unwrap();
    let told = told.body::<GoingAway>().unwrap();
    assert_eq!(told.code.to_native(), ErrorCode::Overloaded as u16);
    assert!(told.retry_after_ms.to_native() > 0 && !server.has_panicked());
}
