//! The HTTP upgrade, both ends of it.
//!
//! What lives here: reading and writing the two heads, and the checks that the standard asks for. What does
//! not: which paths, origins and hosts are welcome; the server decides that and answers with [`refusal`].

mod client;
mod server;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

pub use client::{parse_response, request};
pub use server::{Upgrade, parse_upgrade, refusal, response};

use crate::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADERS_MAX};

/// The subprotocol: EtherPly frames, one a binary message.
pub const SUBPROTOCOL: &str = "etherply.v1";
/// The version of RFC 6455.
const VERSION: &str = "13";
/// What the standard appends to a key before it is hashed.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why an upgrade fails. For the server, [`refusal`] makes it a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The bytes are not an HTTP head.
    #[error("this is not HTTP")]
    NotHttp,
    /// The head does not end within [`HANDSHAKE_BYTES_MAX`], or has more than [`HANDSHAKE_HEADERS_MAX`] lines.
    #[error("the HTTP head is longer than {HANDSHAKE_BYTES_MAX} bytes or {HANDSHAKE_HEADERS_MAX} headers")]
    HeadTooLarge,
    /// Another method than GET.
    #[error("a WebSocket begins with the method GET")]
    Method,
    /// Another version than HTTP/1.1.
    #[error("a WebSocket begins with HTTP/1.1")]
    HttpVersion,
    /// The request does not ask for a WebSocket.
    #[error("the request does not ask for a WebSocket")]
    NotUpgrade,
    /// Another version of the WebSocket protocol.
    #[error("only version {VERSION} of the WebSocket protocol is spoken here")]
    Version,
    /// No key, several, or one that is not 16 bytes in base64.
    #[error("the header Sec-WebSocket-Key must be there once, with 16 bytes in base64")]
    Key,
    /// No host, several, or one that is not text.
    #[error("the header Host must be there once")]
    Host,
    /// Several origins, or one that is not text.
    #[error("the header Origin must be there once at most")]
    Origin,
    /// The request announces a body, which an upgrade cannot have.
    #[error("a request for a WebSocket has no body")]
    Body,
    /// The request's target is neither a path nor a URL of the request's host.
    #[error("the request's target must be a path, or a URL of the host that the header Host names")]
    Target,
    /// The server's list of hosts does not have the one of this request.
    #[error("this server is not known by the name that the header Host gives it")]
    HostNotAllowed,
    /// The server's list of origins does not have this one.
    #[error("pages from this origin may not connect")]
    OriginNotAllowed,
    /// The server has no such path.
    #[error("there is nothing at this path")]
    NotFound,
    /// The server takes no more connections now.
    #[error("the server takes no more connections now")]
    Unavailable {
        /// Earliest time for another try, in seconds from now.
        retry_after_s: u32,
    },
    /// For the client: its own request would not be one, because of characters in host or path.
    #[error("the host or the path has characters that an HTTP request cannot carry")]
    Request,
    /// For the client: the server answered with another status.
    #[error("the server refused the WebSocket with HTTP status {status}")]
    Refused {
        /// The status.
        status: u16,
    },
    /// For the client: the server's answer is not the one to this request.
    #[error("the server's answer does not complete the WebSocket handshake")]
    Response,
}

/// What a server must answer to a key (RFC 6455, 4.2.2).
pub fn accept_key(key: &str) -> String {
    let hash = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize();
    STANDARD.encode(hash)
}

/// The values of one header, trimmed, in order.
fn values<'h, 'b>(
    headers: &'h [httparse::Header<'b>],
    name: &'h str,
) -> impl Iterator<Item = &'b [u8]> + use<'h, 'b> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value.trim_ascii())
}

/// The only value of a header, `None` if it is not there; an error if it is there twice or not visible ASCII.
fn only<'b>(headers: &[httparse::Header<'b>], name: &str) -> Result<Option<&'b str>, ()> {
    let mut found = values(headers, name);
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.iter().all(u8::is_ascii_graphic) => {
            std::str::from_utf8(value).map(Some).map_err(|_| ())
        }
        _ => Err(()),
    }
}

/// Whether a header that is a list of tokens has this one. Case counts for nothing.
fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    values(headers, name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// What `httparse` says in terms of this module. `Ok(None)`: more bytes are needed and may come.
fn head_bytes(parsed: httparse::Result<usize>, given_bytes: usize) -> Result<Option<usize>, HandshakeError> {
    match parsed {
        Ok(httparse::Status::Complete(bytes)) if bytes <= HANDSHAKE_BYTES_MAX => Ok(Some(bytes)),
        Ok(httparse::Status::Partial) if given_bytes < HANDSHAKE_BYTES_MAX => Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Err(HandshakeError::HeadTooLarge),
        Err(httparse::Error::Version) => Err(HandshakeError::HttpVersion),
        Err(_) => Err(HandshakeError::NotHttp),
    }
}

#[cfg(test)]
mod tests;
