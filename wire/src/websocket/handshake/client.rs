//! The client's end: writes the request, reads the response.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{HandshakeError, SUBPROTOCOL, VERSION, accept_key, has_token, head_bytes, only, values};
use crate::limits::HANDSHAKE_HEADERS_MAX;

/// The request for a WebSocket. `key` is 16 fresh random bytes; `host` is a name with a port where it is not
/// the default one.
///
/// # Errors
/// [`HandshakeError::Request`] if the host or the path would break out of its line.
pub fn request(host: &str, path: &str, key: &[u8; 16]) -> Result<Vec<u8>, HandshakeError> {
    let fits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits(host) || !fits(path) || !path.starts_with('/') {
        return Err(HandshakeError::Request);
    }
    let key = STANDARD.encode(key);
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: {VERSION}\r\nSec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    Ok(head.into_bytes())
}

/// Reads the response to [`request`] with the same key: how many bytes it has, `None` while it is not whole.
/// WebSocket frames may follow at once.
///
/// # Errors
/// [`HandshakeError::Refused`] for another status than 101, and what is wrong with a response otherwise.
pub fn parse_response(bytes: &[u8], key: &[u8; 16]) -> Result<Option<usize>, HandshakeError> {
    let mut space = [httparse::EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut space);
    let Some(head_bytes) = head_bytes(response.parse(bytes), bytes.len())? else { return Ok(None) };
    match response.code {
        Some(101) => {}
        Some(status) => return Err(HandshakeError::Refused { status }),
        None => return Err(HandshakeError::NotHttp),
    }
    let headers = &*response.headers;
    let accept = accept_key(&STANDARD.encode(key));
    let subprotocol = only(headers, "sec-websocket-protocol");
    let complete = response.version == Some(1)
        && has_token(headers, "upgrade", "websocket")
        && has_token(headers, "connection", "upgrade")
        && only(headers, "sec-websocket-accept") == Ok(Some(&accept))
        && matches!(subprotocol, Ok(None | Some(SUBPROTOCOL)))
        && values(headers, "sec-websocket-extensions").next().is_none();
    if complete { Ok(Some(head_bytes)) } else { Err(HandshakeError::Response) }
}
