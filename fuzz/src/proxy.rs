//! Headers of the PROXY protocol: what is said of a beginning holds for the whole, whatever the pieces are that it comes
//! in, and nothing is said of bytes behind it.

// A panic is how this code reports.
#![allow(clippy::indexing_slicing, clippy::panic)]

use etherply_wire::proxy::{PROXY_HEADER_BYTES_MAX, Parsed, parse};

/// The bytes that a connection begins with.
pub fn check(data: &[u8]) {
    let whole = parse(data);
    // As a server reads: never more than is asked for.
    let mut there = 0;
    let read = loop {
        match parse(&data[..there]) {
            Ok(Parsed::Needs(bytes)) => {
                assert!(bytes > there, "it asks for what is there");
                assert!(bytes <= PROXY_HEADER_BYTES_MAX, "it asks for more than a header may have");
                if bytes > data.len() {
                    break whole;
                }
                there = bytes;
            }
            known => break known,
        }
    };
    assert_eq!(read, whole, "what stands behind a header matters");
    for end in 0..data.len().min(there) {
        match parse(&data[..end]) {
            Ok(Parsed::Needs(bytes)) => assert!(bytes > end, "it asks for what is there"),
            Ok(Parsed::Whole(_)) => panic!("a beginning passes for a whole header"),
            Err(error) => assert_eq!(Err(error), whole, "the whole is refused for something else"),
        }
    }
}
