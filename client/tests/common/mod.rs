//! What a server says first, for tests that are the server.

use etherply_client::Rights;
use etherply_wire::kinds::{Cursor, Opened, Welcome};
use etherply_wire::{PROTOCOL, encode};

/// The document's.
pub const HANDLE: u32 = 5;

/// Welcomes a member, and opens its document for reading and writing, in this way, at this place.
pub fn opens(request: u32, how: u8, cursor: Cursor) -> Vec<u8> {
    let welcome = Welcome {
        protocol: PROTOCOL,
        capabilities: 0,
        session: [1; 16],
        server_time_ms: 0,
        agent: String::new(),
        limits: Vec::new(),
    };
    let rights = Rights::READ.with(Rights::WRITE).0;
    let opened = Opened { request, rights, resume: how, expires_at_ms: 0, cursor };
    [encode(0, &welcome, &[]), encode(HANDLE, &opened, &[])].concat()
}
