//! The header of the PROXY protocol, version 2, in which a load balancer says in front of a connection whose it is
//! (HAProxy's proxy-protocol.txt, 2.2). Whom to believe is the server's to know.

// Addresses as values; the sockets of `std` are no concern of the wire.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest header, in which load balancers add what they know to two addresses.
pub const PROXY_HEADER_BYTES_MAX: usize = 1_024;
/// What every header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length of the rest.
const FIXED_BYTES: usize = 16;

/// Whose a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The load balancer's own: a check of health, say. Or it does not say.
    Itself,
    /// Somebody's who connected to it.
    Address(IpAddr),
}

/// What a header of which these bytes are there says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// It has so many bytes in all, or more, and they are not there yet.
    Needs(usize),
    /// It is whole.
    Whole(Source),
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Its first bytes are others.
    #[error("it does not begin as a header of the PROXY protocol, version 2")]
    Signature,
    /// Of version 1 or of a later one, or it asks for something that is not known.
    #[error("its version and command {0:#04x} are not known")]
    Command(u8),
    /// No family, or not of connections.
    #[error("its family {0:#04x} is not known, or is not of connections")]
    Family(u8),
    /// Too few bytes for its addresses, or too many.
    #[error("{0} bytes are said to follow: fewer than its addresses have, or more than {max}", max = PROXY_HEADER_BYTES_MAX)]
    Length(usize),
}

/// Reads a header from the beginning of a connection. It ends with the bytes that [`Parsed::Needs`] asked for last.
///
/// # Errors
/// These bytes begin no header; told at the first that shows it.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if bytes.iter().zip(&SIGNATURE).any(|(byte, expected)| byte != expected) {
        return Err(Malformed::Signature);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else {
        return Ok(Parsed::Needs(FIXED_BYTES));
    };
    let &[.., command, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        other => return Err(Malformed::Command(other)),
    };
    let addresses_bytes = match family {
        _ if is_local => 0,
        // Unspecified: the addresses are to be passed over.
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        other => return Err(Malformed::Family(other)),
    };
    if length < addresses_bytes || FIXED_BYTES + length > PROXY_HEADER_BYTES_MAX {
        return Err(Malformed::Length(length));
    }
    if rest.len() < length {
        return Ok(Parsed::Needs(FIXED_BYTES + length));
    }
    let source = match family {
        _ if is_local => None,
        0x11 => rest.first_chunk::<4>().map(|bytes| IpAddr::V4(Ipv4Addr::from(*bytes))),
        0x21 => rest.first_chunk::<16>().map(|bytes| IpAddr::V6(Ipv6Addr::from(*bytes))),
        _ => None,
    };
    Ok(Parsed::Whole(source.map_or(Source::Itself, Source::Address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend_from_slice(&[command, family]);
        header.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
        header.extend_from_slice(rest);
        header
    }

    fn whole(address: &str) -> Result<Parsed, Malformed> {
        Ok(Parsed::Whole(Source::Address(address.parse().unwrap())))
    }

    #[test]
    fn it_says_whose_a_connection_is() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x10, 0x54, 0x10, 0x54];
        assert_eq!(parse(&header(0x21, 0x11, &v4)), whole("192.0.2.7"));
        let more = [&v4[..], &[4, 0, 1, 42]].concat();
        assert_eq!(parse(&header(0x21, 0x11, &more)), whole("192.0.2.7"));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 9;
        assert_eq!(parse(&header(0x21, 0x21, &v6)), whole("2001:db8::9"));
        for itself in [
            header(0x20, 0, &[]),
            header(0x20, 0x11, &v4),
            header(0x21, 0, &v4),
            header(0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(parse(&itself), Ok(Parsed::Whole(Source::Itself)));
        }
    }

    #[test]
    fn what_is_not_one_is_told_at_its_first_wrong_byte() {
        let good = header(0x21, 0x11, &[1; 12]);
        for at in 0..14 {
            let mut wrong = good.clone();
            wrong[at] ^= 0x80;
            assert!(parse(&wrong).is_err(), "byte {at}");
            assert_eq!(parse(&wrong[..=at]).is_err(), at < 12, "byte {at}");
        }
        assert_eq!(parse(b"GET / HTTP/1.1"), Err(Malformed::Signature));
        assert_eq!(parse(b"PROXY TCP4 192.0.2.1"), Err(Malformed::Signature));
        assert_eq!(parse(&header(0x11, 0x11, &[1; 12])), Err(Malformed::Command(0x11)));
        assert_eq!(parse(&header(0x22, 0x11, &[1; 12])), Err(Malformed::Command(0x22)));
        assert_eq!(parse(&header(0x21, 0x12, &[1; 12])), Err(Malformed::Family(0x12)));
        for (family, bytes) in [(0x11, 12), (0x21, 36), (0x31, 216)] {
            assert_eq!(parse(&header(0x21, family, &vec![1; bytes - 1])), Err(Malformed::Length(bytes - 1)));
            assert!(matches!(parse(&header(0x21, family, &vec![1; bytes])), Ok(Parsed::Whole(_))));
        }
    }

    #[test]
    fn its_length_is_bounded() {
        for (bytes, is_fine) in [
            (PROXY_HEADER_BYTES_MAX - 1, true),
            (PROXY_HEADER_BYTES_MAX, true),
            (PROXY_HEADER_BYTES_MAX + 1, false),
        ] {
            let long = header(0x21, 0x11, &vec![1; bytes - FIXED_BYTES]);
            assert_eq!(long.len(), bytes);
            assert_eq!(parse(&long).is_ok(), is_fine, "{bytes}");
            // Told before the rest is there.
            assert_eq!(parse(&long[..FIXED_BYTES]).is_ok(), is_fine);
        }
        assert_eq!(parse(&header(0x20, 0, &vec![0; 65_535])), Err(Malformed::Length(65_535)));
    }

    #[test]
    fn every_beginning_asks_for_what_is_missing_and_no_more() {
        let good = header(0x21, 0x11, &[7; 20]);
        for end in 0..good.len() {
            let needs = if end < FIXED_BYTES { FIXED_BYTES } else { good.len() };
            assert_eq!(parse(&good[..end]), Ok(Parsed::Needs(needs)), "{end}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(command: u8, family: u8, mut rest in proptest::collection::vec(0..=255_u8, 0..2_000), cut: u16) {
            let mut bytes = header(command, family, &rest);
            bytes.truncate(usize::from(cut));
            let _ = parse(&bytes);
            let _ = parse(&rest);
            rest.splice(0..0, SIGNATURE);
            let _ = parse(&rest);
        }
    }
}
