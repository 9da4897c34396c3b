//! The HTTP upgrade, both ends of it: what was said of a head's beginning is said of the whole, and every
//! answer is one HTTP response.

// A panic is how this code reports.
#![allow(clippy::expect_used)]

use etherply_wire::limits::HANDSHAKE_BYTES_MAX;
use etherply_wire::websocket::handshake::{self, HandshakeError, parse_response, parse_upgrade};

/// What the client's end asked with.
const KEY: [u8; 16] = [7; 16];

/// Checks the bytes behind the first, which says how many arrive at a time, as a request and as a response.
pub fn check(data: &[u8]) {
    let Some((&piece_bytes, head)) = data.split_first() else { return };
    let piece_bytes = usize::from(piece_bytes).max(1);
    let request = in_pieces(head, piece_bytes, |bytes| parse_upgrade(bytes).transpose());
    assert_eq!(request, parse_upgrade(head).transpose(), "the pieces of a request matter");
    let response = in_pieces(head, piece_bytes, |bytes| parse_response(bytes, &KEY).transpose());
    assert_eq!(response, parse_response(head, &KEY).transpose(), "the pieces of a response matter");
    if let Some(Ok(head_bytes)) = response {
        assert!(head_bytes <= head.len().min(HANDSHAKE_BYTES_MAX), "a head of bytes that are not there");
    }
    match request {
        None => {}
        Some(Ok(upgrade)) => {
            assert!(upgrade.head_bytes <= head.len().min(HANDSHAKE_BYTES_MAX), "bytes that are not there");
            assert!(upgrade.path.starts_with(['/', '?']), "no resource");
            check_answer(&handshake::response(&upgrade), false);
        }
        Some(Err(error)) => check_answer(&handshake::refusal(&error), true),
    }
}

/// The first word on a head that arrives in pieces; `None` while it is not whole.
fn in_pieces<'b, T>(
    head: &'b [u8],
    piece_bytes: usize,
    parse: impl Fn(&'b [u8]) -> Option<Result<T, HandshakeError>>,
) -> Option<Result<T, HandshakeError>> {
    let mut arrived = 0;
    while arrived < head.len() {
        arrived = (arrived + piece_bytes).min(head.len());
        let word = parse(head.get(..arrived).unwrap_or_default());
        if word.is_some() {
            return word;
        }
    }
    None
}

/// One head, without anything of the request that would end it early; then a body as long as it says.
fn check_answer(answer: &[u8], has_body: bool) {
    let text = std::str::from_utf8(answer).expect("an answer that is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    assert!(head.starts_with("HTTP/1.1 "), "no status line");
    assert!(head.lines().skip(1).all(|line| line.contains(": ")), "a line that is no header");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    assert_eq!(length.is_some(), has_body, "a body where there is none");
    assert_eq!(length.map_or(Ok(0), str::parse), Ok(body.len()), "a body of another length");
}
