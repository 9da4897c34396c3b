//! The server's end: reads the request, writes the response or the refusal.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{HandshakeError, SUBPROTOCOL, VERSION, accept_key, has_token, head_bytes, only};
use crate::limits::HANDSHAKE_HEADERS_MAX;

/// A request for a WebSocket that the standard allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgrade<'b> {
    /// Bytes of the request; WebSocket frames may follow at once.
    pub head_bytes: usize,
    /// The request's target as sent, with its query.
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
    if !STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
        return Err(HandshakeError::Key);
    }
    let host = only(headers, "host").ok().flatten().ok_or(HandshakeError::Host)?;
    let origin = only(headers, "origin").map_err(|()| HandshakeError::Origin)?;
    let path = request.path.ok_or(HandshakeError::NotHttp)?;
    let offers_subprotocol = has_token(headers, "sec-websocket-protocol", SUBPROTOCOL);
    Ok(Some(Upgrade { head_bytes, path, key, host, origin, offers_subprotocol }))
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
        E::OriginNotAllowed => {
            ("403 Forbidden", "", "The operator can add the page's origin to the server's allowed origins.")
        }
        E::NotFound => ("404 Not Found", "", "Check the URL that the client was given."),
        E::Unavailable { .. } => ("503 Service Unavailable", "", "Try again later."),
        E::NotHttp
        | E::Key
        | E::Host
        | E::Origin
        | E::Body
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
