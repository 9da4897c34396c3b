//! The HTTP request before a WebSocket: what is refused how, whose pages may connect, and by which names.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::common::{PATIENCE, Server, command};

/// Sends one request; the whole answer, up to the end of the connection or of an upgrade's head.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while socket.read(&mut byte).unwrap() == 1 {
        answer.push(byte[0]);
        if answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    String::from_utf8(answer).unwrap()
}

/// An upgrade request with one line more.
fn upgrade(host: &str, line: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{line}\r\n"
    )
}

fn from_origin(host: &str, origin: &str) -> String {
    upgrade(host, &format!("Origin: {origin}\r\n"))
}

#[test]
fn what_is_no_upgrade_is_answered_with_status_and_advice() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let host = server.listen.to_string();
    let good = upgrade(&host, "");
    let without =
        |line: &str| good.split_inclusive("\r\n").filter(|sent| !sent.starts_with(line)).collect::<String>();
    let long = format!("Cookie: {}\r\n", "x".repeat(9_000));
    // RFC 6455, 4.2.1, 4.2.2 and 4.4.
    let refused = [
        (format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), "426 ", "etherply.v1"),
        (without("Upgrade"), "426 ", "Upgrade: websocket"),
        (without("Connection"), "426 ", "WebSocket"),
        (good.replacen(": 13", ": 8", 1), "426 ", "Sec-WebSocket-Version: 13"),
        (without("Sec-WebSocket-Version"), "426 ", "Sec-WebSocket-Version: 13"),
        (without("Sec-WebSocket-Key"), "400 ", "Sec-WebSocket-Key"),
        (good.replacen("ZQ==", "Z", 1), "400 ", "16 bytes"),
        (good.replacen("GET", "POST", 1), "405 ", "Allow: GET"),
        (good.replacen("HTTP/1.1", "HTTP/1.0", 1), "505 ", "HTTP/1.1"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "505 ", "HTTP/1.1"),
        (without("Host"), "400 ", "Host must be there once"),
        (upgrade(&host, &format!("Host: {host}\r\n")), "400 ", "Host must be there once"),
        (upgrade(&host, "Origin: http://localhost\r\nOrigin: http://localhost\r\n"), "400 ", "Origin"),
        (upgrade(&host, "Content-Length: 5\r\n"), "400 ", "no body"),
        (upgrade(&host, &long), "431 ", "8192 bytes"),
        (good.replacen("GET /", "GET http://other.test/", 1), "400 ", "target"),
        ("\u{16}\u{3}\u{1} a TLS client\r\n\r\n".to_owned(), "400 ", "not HTTP"),
    ];
    for (request, status, advice) in &refused {
        let answer = ask(server.listen, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
        assert!(head.contains("Connection: close") && body.starts_with("EtherPly: "), "{answer}");
        assert!(answer.contains(advice), "{advice} is missing in\n{answer}");
    }
    let counted = server.metric("etherply_connections_rejected_total{reason=\"handshake\"}");
    assert_eq!(counted, refused.len() as f64);
}

#[test]
fn offers_of_extensions_are_declined() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let host = server.listen.to_string();
    // Autobahn's groups 12 and 13 offer these (RFC 7692); without an answer there is no compression.
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_max_window_bits; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=9, permessage-deflate",
        "x-webkit-deflate-frame, permessage-bzip2",
        "not a = valid ; ; list",
    ] {
        let answer = ask(server.listen, &upgrade(&host, &format!("Sec-WebSocket-Extensions: {offer}\r\n")));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("extensions"), "{answer}");
    }
    // RFC 6455, 4.2.2: a subprotocol only if it was offered.
    for (offer, is_taken) in
        [("etherply.v1", true), ("chat, etherply.v1", true), ("chat", false), ("", false)]
    {
        let answer = ask(server.listen, &upgrade(&host, &format!("Sec-WebSocket-Protocol: {offer}\r\n")));
        assert_eq!(answer.contains("Sec-WebSocket-Protocol: etherply.v1\r\n"), is_taken, "{answer}");
        assert_eq!(answer.contains("Sec-WebSocket-Protocol"), is_taken, "{answer}");
    }
}

/// Which setting an answer says to change; `None` for an upgrade.
fn advice(answer: &str) -> Option<&str> {
    if answer.starts_with("HTTP/1.1 101 ") {
        return None;
    }
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    let setting = ["--allow-origin", "--allow-host"].into_iter().find(|setting| answer.contains(setting));
    Some(setting.unwrap_or_else(|| panic!("no setting in {answer}")))
}

const ORIGIN: Option<&str> = Some("--allow-origin");
const HOST: Option<&str> = Some("--allow-host");

#[test]
fn pages_of_other_sites_and_names_of_others_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let listen = server.listen.to_string();
    for (host, origin, refused) in [
        (listen.as_str(), "http://localhost:5173", None),
        (&listen, "http://127.0.0.1", None),
        (&listen, "http://[::1]:80", None),
        (&listen, "HTTP://LOCALHOST.", None),
        ("LocalHost.:1", "http://localhost", None),
        ("[::1]:4180", "http://localhost", None),
        ("192.168.1.7", "http://192.168.1.7:3000", None),
        (&listen, "https://example.com", ORIGIN),
        (&listen, "http://localhost.example.com", ORIGIN),
        (&listen, "http://localhost@example.com", ORIGIN),
        (&listen, "null", ORIGIN),
        (&listen, "file://", ORIGIN),
        ("192.168.1.7", "http://192.168.1.8", ORIGIN),
        // A name of the page's own that was given this server's address.
        ("evil.test", "http://evil.test", HOST),
        ("evil.test:4180", "http://localhost", HOST),
        ("localhost.evil.test", "http://localhost", HOST),
        ("127.0.0.1.nip.io", "http://127.0.0.1.nip.io", HOST),
        ("localhost@evil.test", "http://localhost", HOST),
    ] {
        let answer = ask(server.listen, &from_origin(host, origin));
        assert_eq!(advice(&answer), refused, "{host} {origin}");
    }
    assert_eq!(advice(&ask(server.listen, &upgrade(&listen, ""))), None, "programs send no origin");
    assert_eq!(advice(&ask(server.listen, &upgrade("evil.test", ""))), HOST);
    assert_eq!(server.metric("etherply_connections_rejected_total{reason=\"origin\"}"), 6.0);
    assert_eq!(server.metric("etherply_connections_rejected_total{reason=\"host\"}"), 6.0);
}

#[test]
fn operators_list_origins_and_hosts() {
    let data = tempfile::tempdir().unwrap();
    let mut listed = command(data.path());
    listed.args(["--allow-origin", "https://app.example.com,http://a.test:8080"]);
    listed.env("ETHERPLY_ALLOW_HOST", "sync.example.com");
    let server = Server::spawn(&mut listed);
    for (host, origin, refused) in [
        ("sync.example.com", "https://app.example.com", None),
        ("SYNC.example.com.:4180", "https://App.Example.com:443", None),
        ("sync.example.com:4180", "https://sync.example.com", None),
        ("127.0.0.1", "http://a.test:8080", None),
        ("127.0.0.1", "http://a.test", ORIGIN),
        ("127.0.0.1", "http://app.example.com", ORIGIN),
        ("127.0.0.1", "https://sync.example.com", ORIGIN),
        ("app.example.com", "https://app.example.com", HOST),
    ] {
        let answer = ask(server.listen, &from_origin(host, origin));
        assert_eq!(advice(&answer), refused, "{host} {origin}");
    }
    let control = |host: &str| {
        ask(server.control, &format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    assert!(control("sync.example.com").starts_with("HTTP/1.1 200 "));
    assert!(control("app.example.com").starts_with("HTTP/1.1 403 "));
    drop(server);
    let everybody = Server::spawn(command(data.path()).args(["--allow-origin", "*", "--allow-host", "*"]));
    assert_eq!(advice(&ask(everybody.listen, &from_origin("evil.test", "null"))), None);
}

#[test]
fn the_control_plane_answers_to_its_own_names_only() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let listen = server.control.to_string();
    let get = |target: &str, version: &str, hosts: &[&str]| {
        let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
        let answer =
            ask(server.control, &format!("GET {target} HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n"));
        answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    for (target, version, hosts, status) in [
        ("/health", "1.1", &[listen.as_str()][..], 200),
        ("/health", "1.1", &["localhost"], 200),
        ("/health", "1.1", &["LOCALHOST.:4181"], 200),
        ("/health", "1.1", &["[::1]:4181"], 200),
        ("/metrics", "1.1", &["evil.test"], 403),
        ("/metrics", "1.1", &["evil.test:4181"], 403),
        ("/ready", "1.1", &["localhost.evil.test"], 403),
        ("/nothing", "1.1", &["evil.test"], 403),
        ("/metrics", "1.1", &["localhost@evil.test"], 403),
        ("/metrics", "1.1", &[""], 403),
        ("/metrics", "1.1", &["localhost", "localhost"], 400),
        ("/metrics", "1.1", &[], 400),
        // A check of health by a load balancer; browsers always name a host.
        ("/health", "1.0", &[], 200),
        ("/health", "1.0", &["evil.test"], 403),
        ("http://localhost/health", "1.1", &["localhost"], 200),
        ("http://evil.test/health", "1.1", &["localhost"], 403),
    ] {
        assert_eq!(get(target, version, hosts), status, "{target} {version} {hosts:?}");
    }
    let answer = ask(server.control, "GET /metrics HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n");
    assert!(answer.contains("--allow-host"), "{answer}");
    assert_eq!(server.metric("etherply_connections_rejected_total{reason=\"control_host\"}"), 11.0);
}
