use super::*;
use proptest::prelude::*;

const REQUEST: &str = "GET /sync?v=1 HTTP/1.1\r\nHost: server.example.com:7400\r\nupgrade: WebSocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Origin: https://example.com\r\nSec-WebSocket-Protocol: chat, etherply.v1\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// [`REQUEST`] with one line's value replaced, or the line left out.
fn with(name: &str, value: Option<&str>) -> String {
    let lines = REQUEST.trim_end().split("\r\n").filter_map(|line| match (line.split_once(':'), value) {
        (Some((n, _)), Some(value)) if n.eq_ignore_ascii_case(name) => Some(format!("{n}: {value}\r\n")),
        (Some((n, _)), None) if n.eq_ignore_ascii_case(name) => None,
        _ => Some(format!("{line}\r\n")),
    });
    lines.collect::<String>() + "\r\n"
}

fn and(line: &str) -> String {
    REQUEST.trim_end().to_owned() + "\r\n" + line + "\r\n\r\n"
}

fn error(request: &str) -> HandshakeError {
    parse_upgrade(request.as_bytes()).expect_err(request)
}

fn text(response: Vec<u8>) -> String {
    String::from_utf8(response).unwrap()
}

#[test]
fn the_accept_key_is_the_standards() {
    // RFC 6455, 1.3.
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn an_upgrade_is_read_and_answered() {
    let bytes = [REQUEST.as_bytes(), b"frames"].concat();
    let upgrade = parse_upgrade(&bytes).unwrap().unwrap();
    assert_eq!(upgrade.head_bytes, REQUEST.len());
    assert_eq!(upgrade.path, "/sync?v=1");
    assert_eq!(upgrade.host, "server.example.com:7400");
    assert_eq!(upgrade.origin, Some("https://example.com"));
    let head = text(response(&upgrade));
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    assert!(head.contains("\r\nSec-WebSocket-Protocol: etherply.v1\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn the_subprotocol_is_named_only_if_it_was_offered() {
    for value in [None, Some("chat"), Some("etherply.v2, xetherply.v1")] {
        let request = with("sec-websocket-protocol", value);
        let upgrade = parse_upgrade(request.as_bytes()).unwrap().unwrap();
        assert!(!text(response(&upgrade)).contains("Sec-WebSocket-Protocol"));
    }
    let request = with("sec-websocket-protocol", Some("chat"));
    let request = request.replacen("\r\n\r\n", "\r\nSec-WebSocket-Protocol: etherply.v1\r\n\r\n", 1);
    assert!(parse_upgrade(request.as_bytes()).unwrap().unwrap().offers_subprotocol);
}

#[test]
fn a_cut_request_is_waited_for() {
    for cut in 0..REQUEST.len() {
        assert_eq!(parse_upgrade(&REQUEST.as_bytes()[..cut]), Ok(None), "cut at {cut}");
    }
}

#[test]
fn what_is_no_upgrade_is_refused_by_name() {
    use HandshakeError as E;
    assert_eq!(error("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n"), E::NotUpgrade);
    assert_eq!(error(&with("upgrade", Some("h2c"))), E::NotUpgrade);
    assert_eq!(error(&with("connection", Some("keep-alive"))), E::NotUpgrade);
    assert_eq!(error(&REQUEST.replacen("GET", "POST", 1)), E::Method);
    assert_eq!(error(&REQUEST.replacen("HTTP/1.1", "HTTP/1.0", 1)), E::HttpVersion);
    assert_eq!(error("GET / HTTP/2.0\r\n\r\n"), E::HttpVersion);
    assert_eq!(error("\u{1}\u{2}\u{3}"), E::NotHttp);
    for version in [None, Some("8"), Some("13, 8"), Some("")] {
        assert_eq!(error(&with("sec-websocket-version", version)), E::Version);
    }
    for key in
        [None, Some(""), Some("AAAA"), Some("dGhlIHNhbXBsZSBub25jZQ"), Some("dGhlIHNhbXBsZSBub25jZQ= =")]
    {
        assert_eq!(error(&with("sec-websocket-key", key)), E::Key);
    }
    assert_eq!(error(&with("host", None)), E::Host);
    for (twice, expected) in [
        ("Host: b", E::Host),
        ("Origin: b", E::Origin),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", E::Key),
        ("Sec-WebSocket-Version: 13", E::Version),
        ("Content-Length: 5", E::Body),
        ("Content-Length: 0\r\nContent-Length: 5", E::Body),
        ("Transfer-Encoding: chunked", E::Body),
    ] {
        assert_eq!(error(&and(twice)), expected, "{twice}");
    }
    assert!(parse_upgrade(and("Content-Length: 0").as_bytes()).is_ok());
    assert_eq!(error(&with("origin", Some("https://\u{e4}"))), E::Origin);
}

#[test]
fn the_standards_own_example_of_a_key_is_taken() {
    // RFC 6455, 4.1: the bytes 1 to 16, and two bits more than they have.
    let request = with("sec-websocket-key", Some("AQIDBAUGBwgJCgsMDQ4PEC=="));
    let upgrade = parse_upgrade(request.as_bytes()).unwrap().unwrap();
    assert_eq!(upgrade.key, "AQIDBAUGBwgJCgsMDQ4PEC==");
}

#[test]
fn a_target_is_a_path_or_a_url_of_the_same_host() {
    // RFC 6455, 4.1 and 4.2.1; RFC 9112, 3.2.2.
    let target = |target: &str| REQUEST.replacen("/sync?v=1", target, 1);
    for (given, path) in [
        ("/", "/"),
        ("/a//b?c=://d", "/a//b?c=://d"),
        ("http://server.example.com:7400/sync", "/sync"),
        ("HTTPS://Server.Example.com:7400/?q", "/?q"),
        ("wss://server.example.com:7400?q", "?q"),
        ("ws://server.example.com:7400", "/"),
    ] {
        let request = target(given);
        assert_eq!(parse_upgrade(request.as_bytes()).unwrap().unwrap().path, path, "{given}");
    }
    for given in [
        "*",
        "sync",
        "server.example.com:7400",
        "http://server.example.com/sync",
        "http://other.example.com:7400/sync",
        "http://x@server.example.com:7400/sync",
        "ftp://server.example.com:7400/sync",
    ] {
        assert_eq!(error(&target(given)), HandshakeError::Target, "{given}");
    }
}

#[test]
fn extensions_are_declined_by_silence() {
    // RFC 6455, 9.1: the server takes an extension by naming it.
    let request = and("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits");
    let upgrade = parse_upgrade(request.as_bytes()).unwrap().unwrap();
    assert!(!text(response(&upgrade)).to_ascii_lowercase().contains("extensions"));
}

#[test]
fn the_head_is_bounded() {
    let padded = |bytes: usize| {
        let bare = and("X-Pad: ");
        and(&format!("X-Pad: {}", "x".repeat(bytes - bare.len())))
    };
    for (bytes, fits) in
        [(HANDSHAKE_BYTES_MAX - 1, true), (HANDSHAKE_BYTES_MAX, true), (HANDSHAKE_BYTES_MAX + 1, false)]
    {
        let request = padded(bytes);
        assert_eq!(request.len(), bytes);
        let parsed = parse_upgrade(request.as_bytes());
        assert_eq!(parsed.is_ok(), fits, "{bytes}");
        if !fits {
            assert_eq!(parsed, Err(HandshakeError::HeadTooLarge));
            // Without its end, so that a peer cannot go on for ever.
            let unfinished = &request.as_bytes()[..HANDSHAKE_BYTES_MAX];
            assert_eq!(parse_upgrade(unfinished), Err(HandshakeError::HeadTooLarge));
            assert_eq!(parse_upgrade(&unfinished[..HANDSHAKE_BYTES_MAX - 1]), Ok(None));
        }
    }
    let headers = REQUEST.lines().filter(|line| line.contains(": ")).count();
    for (count, fits) in
        [(HANDSHAKE_HEADERS_MAX - 1, true), (HANDSHAKE_HEADERS_MAX, true), (HANDSHAKE_HEADERS_MAX + 1, false)]
    {
        let more = vec!["X-More: 1"; count - headers].join("\r\n");
        let parsed = parse_upgrade(and(&more).as_bytes()).map(|upgrade| upgrade.is_some());
        assert_eq!(parsed, if fits { Ok(true) } else { Err(HandshakeError::HeadTooLarge) }, "{count}");
    }
}

#[test]
fn refusals_are_whole_http_responses() {
    use HandshakeError as E;
    for (error, status) in [
        (E::NotHttp, 400),
        (E::HeadTooLarge, 431),
        (E::Method, 405),
        (E::HttpVersion, 505),
        (E::NotUpgrade, 426),
        (E::Version, 426),
        (E::Key, 400),
        (E::Host, 400),
        (E::Origin, 400),
        (E::Body, 400),
        (E::Target, 400),
        (E::OriginNotAllowed, 403),
        (E::HostNotAllowed, 403),
        (E::NotFound, 404),
        (E::Unavailable { retry_after_s: 7 }, 503),
    ] {
        let bytes = refusal(&error);
        let mut space = [httparse::EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
        let mut response = httparse::Response::new(&mut space);
        let httparse::Status::Complete(head) = response.parse(&bytes).unwrap() else { panic!("{error}") };
        assert_eq!(response.code, Some(status), "{error}");
        let headers = &*response.headers;
        let body_bytes = (bytes.len() - head).to_string();
        assert_eq!(only(headers, "content-length"), Ok(Some(body_bytes.as_str())));
        assert_eq!(only(headers, "connection"), Ok(Some("close")));
        assert_eq!(has_token(headers, "upgrade", "websocket"), status == 426, "{error}");
        let version = if error == E::Version { Some("13") } else { None };
        assert_eq!(only(headers, "sec-websocket-version"), Ok(version));
        assert!(text(bytes[head..].to_vec()).contains(&error.to_string()));
    }
    assert!(text(refusal(&E::Unavailable { retry_after_s: 7 })).contains("\r\nRetry-After: 7\r\n"));
}

#[test]
fn the_client_takes_only_the_answer_to_its_request() {
    let key = *b"sixteen bytes ok";
    let sent = request("server.example.com", "/", &key).unwrap();
    let upgrade = parse_upgrade(&sent).unwrap().unwrap();
    assert!(upgrade.offers_subprotocol && upgrade.origin.is_none());
    let answer = text(response(&upgrade));
    for cut in 0..answer.len() {
        assert_eq!(parse_response(&answer.as_bytes()[..cut], &key), Ok(None));
    }
    let with_frames = answer.clone() + "\u{2}";
    assert_eq!(parse_response(with_frames.as_bytes(), &key), Ok(Some(answer.len())));
    assert_eq!(parse_response(answer.as_bytes(), b"a different key!"), Err(HandshakeError::Response));
    for (from, to) in [
        ("Upgrade: websocket", "Upgrade: other"),
        ("Connection: Upgrade", "Connection: close"),
        ("etherply.v1", "other"),
        ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
        ("HTTP/1.1", "HTTP/1.0"),
    ] {
        let changed = answer.replacen(from, to, 1);
        assert_ne!(changed, answer);
        assert_eq!(parse_response(changed.as_bytes(), &key), Err(HandshakeError::Response), "{to}");
    }
    let refused = refusal(&HandshakeError::OriginNotAllowed);
    assert_eq!(parse_response(&refused, &key), Err(HandshakeError::Refused { status: 403 }));
    let endless = vec![b'x'; HANDSHAKE_BYTES_MAX];
    let endless = [&answer.as_bytes()[..answer.len() - 2], b"X: ", &endless].concat();
    assert_eq!(parse_response(&endless, &key), Err(HandshakeError::HeadTooLarge));
}

#[test]
fn the_client_sends_nothing_that_breaks_out_of_its_line() {
    for (host, path) in [
        ("", "/"),
        ("a b", "/"),
        ("a\r\nX: y", "/"),
        ("a", ""),
        ("a", "x"),
        ("a", "/ HTTP/1.1\r\n"),
        ("a", "/\u{e4}"),
    ] {
        assert_eq!(request(host, path, &[0; 16]), Err(HandshakeError::Request), "{host:?} {path:?}");
    }
}

proptest! {
    #[test]
    fn mutated_heads_are_answered(at in any::<prop::sample::Index>(), with in any::<Vec<u8>>()) {
        let mut bytes = REQUEST.as_bytes().to_vec();
        let at = at.index(bytes.len());
        let end = (at + with.len()).min(bytes.len());
        bytes.splice(at..end, with);
        if let Ok(Some(upgrade)) = parse_upgrade(&bytes) {
            prop_assert!(upgrade.head_bytes <= bytes.len());
            // What is answered stays one head, whatever was asked.
            let answer = text(response(&upgrade));
            prop_assert_eq!(answer.find("\r\n\r\n"), Some(answer.len() - 4));
        }
        let _answer = parse_response(&bytes, &[0; 16]);
    }
}
