//! The server's end: reads the request, writes the response or the refusal.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

use super::{HandshakeError, SUBPROTOCOL, VERSION, accept_key, has_token, head_bytes, only};
use crate::limits::HANDSHAKE_HEADERS_MAX;

/// How keys are read: bits behind the last byte do not matter, because the standard's own example has some
/// (RFC 6455, 4.1).
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// A request for a WebSocket that the standard allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgrade<'b> {
    /// Bytes of the request; WebSocket frames may follow at once.
    pub head_bytes: usize,
    /// The resource's name: path and query of the request's target.
    pub path: &'b str,
    /// The key to answer.
    pub key: &'b str,
    /// The host that the client meant.
    pub host: &'b str,
    /// The origin of the page, which browsers send.
    pub origin: Option<&'b str>,
    /// Whether [`SUBPROTOCOL`] was offered; the response then names it.
    pub offers_subprotocol: bool,
}

/// Reads an upgrade request from a connection's first bytes, `None` while it is not whole.
///
/// # Errors
/// A request that is no upgrade, in the form that [`refusal`] answers.
pub fn parse_upgrade(bytes: &[u8]) -> Result<Option<Upgrade<'_>>, HandshakeError> {
    let mut space = [httparse::EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut space);
    let Some(head_bytes) = head_bytes(request.parse(bytes), bytes.len())? else { return Ok(None) };
    if request.method != Some("GET") {
        return Err(HandshakeError::Method);
    }
    if request.version != Some(1) {
        return Err(HandshakeError::HttpVersion);
    }
    let headers = &*request.headers;
    if !has_token(headers, "upgrade", "websocket") || !has_token(headers, "connection", "upgrade") {
        return Err(HandshakeError::NotUpgrade);
    }
    if only(headers, "sec-websocket-version") != Ok(Some(VERSION)) {
        return Err(HandshakeError::Version);
    }
    // A proxy that forwards a body would have it read as frames here: request smuggling.
    let length = only(headers, "content-length");
    if !matches!(length, Ok(None | Some("0"))) || only(headers, "transfer-encoding") != Ok(None) {
        return Err(HandshakeError::Body);
    }
    let key = only(headers, "sec-websocket-key").ok().flatten().ok_or(HandshakeError::Key)?;
    if !LENIENT.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
        return Err(HandshakeError::Key);
    }
    let host = only(headers, "host").ok().flatten().ok_or(HandshakeError::Host)?;
    let origin = only(headers, "origin").map_err(|()| HandshakeError::Origin)?;
    let path = resource_name(request.path.ok_or(HandshakeError::NotHttp)?, host)?;
    let offers_subprotocol = has_token(headers, "sec-websocket-protocol", SUBPROTOCOL);
    Ok(Some(Upgrade { head_bytes, path, key, host, origin, offers_subprotocol }))
}

/// The path and query of a request's target, which may be a URL of the host that the request names (RFC 6455,
/// 4.1; RFC 9112, 3.2.2). A URL of another host would say otherwise than what the server judges by.
fn resource_name<'b>(target: &'b str, host: &str) -> Result<&'b str, HandshakeError> {
    if target.starts_with('/') {
        return Ok(target);
    }
    let (scheme, rest) = target.split_once("://").ok_or(HandshakeError::Target)?;
    let is_known = ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at_checked(at).ok_or(HandshakeError::Target)?,
        None => (rest, "/"),
    };
    if is_known && authority.eq_ignore_ascii_case(host) { Ok(path) } else { Err(HandshakeError::Target) }
}

/// The response that makes the connection a WebSocket.
pub fn response(upgrade: &Upgrade<'_>) -> Vec<u8> {
    let accept = accept_key(upgrade.key);
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n"
    );
    if upgrade.offers_subprotocol {
        head.push_str("Sec-WebSocket-Protocol: ");
        head.push_str(SUBPROTOCOL);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// The HTTP response to a request that is not taken; the connection is closed behind it. Its body is for the
/// person who opened this port in a browser or reads a proxy's log.
pub fn refusal(error: &HandshakeError) -> Vec<u8> {
    use HandshakeError as E;
    let (status, extra, advice) = match error {
        E::NotUpgrade => (
            "426 Upgrade Required",
            "Upgrade: websocket\r\n",
            "This is the sync port of an EtherPly server. It speaks WebSocket (subprotocol etherply.v1) \
             and raw TCP, and has no pages.\nConnect to it with an EtherPly client; the console, REST, \
             metrics and health are on the server's control port.",
        ),
        E::Version => (
            "426 Upgrade Required",
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            "Use a client that speaks RFC 6455.",
        ),
        E::Method => ("405 Method Not Allowed", "Allow: GET\r\n", "Connect with a WebSocket client."),
        E::HttpVersion => (
            "505 HTTP Version Not Supported",
            "",
            "If a proxy stands before this server, let it forward WebSockets over HTTP/1.1.",
        ),
        E::HeadTooLarge => {
            ("431 Request Header Fields Too Large", "", "Send fewer or smaller cookies and headers.")
        }
        E::OriginNotAllowed => (
            "403 Forbidden",
            "",
            "Pages from this machine and from the server's own host may. For others, start the server with \
             --allow-origin ORIGIN (or ETHERPLY_ALLOW_ORIGIN), for example --allow-origin https://example.com.",
        ),
        E::HostNotAllowed => (
            "403 Forbidden",
            "",
            "Addresses and localhost always are: any page could give a name of its own this server's address. \
             For a name, start the server with --allow-host NAME (or ETHERPLY_ALLOW_HOST).",
        ),
        E::NotFound => ("404 Not Found", "", "Check the URL that the client was given."),
        E::Unavailable { .. } => ("503 Service Unavailable", "", "Try again later."),
        E::NotHttp
        | E::Key
        | E::Host
        | E::Origin
        | E::Body
        | E::Target
        | E::Request
        | E::Refused { .. }
        | E::Response => ("400 Bad Request", "", "Connect with a WebSocket client that follows RFC 6455."),
    };
    let retry = match error {
        E::Unavailable { retry_after_s } => format!("Retry-After: {retry_after_s}\r\n"),
        _ => String::new(),
    };
    let body = format!("EtherPly: {error}.\n{advice}\n");
    format!(
        "HTTP/1.1 {status}\r\n{extra}{retry}Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
